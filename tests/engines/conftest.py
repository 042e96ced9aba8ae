"""A random model whose next token depends strongly on everything before it: at the usual initialisation the logits
hardly notice the cache, and a broken cache would go unnoticed too."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.engines.local.engine import TransformersEngine


@pytest.fixture(scope="session")
def lively_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lively-model")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exact_engine(lively_model: Path) -> TransformersEngine:
    return TransformersEngine(lively_model, dtype="float64", capture_layers=(0, 1, 2))
