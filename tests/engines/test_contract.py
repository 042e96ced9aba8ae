"""The contract suite against the transformers engine."""

from pathlib import Path

import pytest

from secateur.engines.local.engine import TransformersEngine
from tests.engines.contract import LAYERS, EngineContract


@pytest.fixture(scope="module")
def engine(embedded_model: Path) -> TransformersEngine:
    return TransformersEngine(embedded_model, capture_layers=LAYERS)


@pytest.fixture(scope="module")
def reference(embedded_model: Path) -> TransformersEngine:
    return TransformersEngine(embedded_model, dtype="float64", capture_layers=LAYERS)


class TestTransformersEngine(EngineContract):
    has_states = True
