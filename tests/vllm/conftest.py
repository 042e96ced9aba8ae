"""These tests need vLLM, in an environment of its own (`make test-vllm`). One engine serves all of them: opening one
costs most of a minute."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.engines.contract import LAYERS

if TYPE_CHECKING:
    from secateur.engines.local.engine import TransformersEngine
    from secateur.engines.vllm.engine import VLLMEngine

if importlib.util.find_spec("vllm") is not None:
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # vLLM compiles helpers for a minute; two cores gain nothing


@pytest.fixture(scope="session", autouse=True)
def _needs_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here; `make test-vllm` builds an environment with its CPU build")


@pytest.fixture(scope="session")
def vllm_engine(_needs_vllm: None, embedded_model: Path) -> "Iterator[VLLMEngine]":
    from secateur.engines.vllm.engine import VLLMEngine

    engine = VLLMEngine(
        embedded_model,
        dtype="float32",
        capture_layers=LAYERS,
        max_num_seqs=64,
        kv_cache_gib=0.5,
        enforce_eager=True,
    )
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def reference(embedded_model: Path) -> "TransformersEngine":
    from secateur.engines.local.engine import TransformersEngine

    return TransformersEngine(embedded_model, dtype="float64", capture_layers=LAYERS)
