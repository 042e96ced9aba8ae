"""Opening vLLM in this process, and refusing early what it cannot do. Imports vLLM only when an engine is opened."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

from secateur.engines.model_files import read_model_config
from secateur.engines.registry import check_dtype, check_library
from secateur.runtime.errors import InputError

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine

LAYERS_KEY = "secateur_capture_layers"
"""Key of vLLM's `additional_config`, which its compile cache looks at: captured layers change the graph."""
STATES_FROM = "secateur_states_from"
"""Key of a request's `extra_args`: the first position whose hidden states are kept."""
_SERIES = "0.31."
_CPU_BLOCK = 32  # the smallest on CPUs; vLLM's own choice, 128, leaves most of a cut out of the prefix cache


def check_vllm() -> None:
    """Raises `InputError` where vLLM is missing or of another series: the engine reads its scheduler's requests."""
    check_library("vllm")
    from vllm import __version__

    if not __version__.startswith(_SERIES):
        raise InputError(f"engine 'vllm': vLLM {__version__} is installed; this engine is written for {_SERIES}x")


def read_config(model: str | Path, dtype: str) -> PreTrainedConfig:
    check_dtype("vllm", dtype)
    return read_model_config(model)


def open_llm(
    model: str | Path,
    *,
    dtype: str,
    capture_layers: Sequence[int],
    max_num_seqs: int,
    gpu_memory_utilization: float | None,
    kv_cache_gib: float | None,
    tensor_parallel_size: int,
    max_model_len: int | None,
    enforce_eager: bool,
    async_scheduling: bool,
    max_logprobs: int,
    seed: int,
) -> "LLMEngine":
    """vLLM's engine, its core in this process: it moves only when `step` is called, so an abort is exact."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    options: dict = {}
    if capture_layers:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        options |= {
            "worker_cls": "secateur.engines.vllm.states.StatesWorker",
            "additional_config": {LAYERS_KEY: list(capture_layers)},
        }
    if gpu_memory_utilization is not None:
        options["gpu_memory_utilization"] = gpu_memory_utilization
    if kv_cache_gib is not None:
        options["kv_cache_memory_bytes"] = int(kv_cache_gib * 2**30)
    from vllm import LLM
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        options["block_size"] = _CPU_BLOCK
    try:
        return LLM(
            model=str(model),
            dtype=dtype,
            skip_tokenizer_init=True,
            generation_config="vllm",
            enable_prefix_caching=True,
            disable_log_stats=True,
            max_num_seqs=max_num_seqs,
            tensor_parallel_size=tensor_parallel_size,
            max_model_len=max_model_len,
            enforce_eager=enforce_eager,
            async_scheduling=async_scheduling,
            max_logprobs=max_logprobs,
            seed=seed,
            **options,
        ).llm_engine
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"{model}: vLLM cannot open it ({error})") from error
