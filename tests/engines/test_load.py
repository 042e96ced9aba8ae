"""Unusable models are refused before anything is sampled, in words that say what to do."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig

from secateur.engines.local.engine import TransformersEngine
from secateur.engines.models import check_cache_layers, load_tokenizer, model_fingerprint
from secateur.runtime.errors import InputError


def test_a_folder_must_hold_a_model_and_a_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        TransformersEngine(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(InputError, match="no tokenizer there"):
        TransformersEngine(tmp_path / "bare")
    shutil.copytree(tiny_model, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(InputError, match="cannot be loaded"):
        TransformersEngine(tmp_path / "weightless")


def test_a_tokenizer_that_glues_words_is_refused_and_the_remedy_mends_it(tiny_model: Path, tmp_path: Path) -> None:
    """As in a local copy of R1-Distill-Llama: a class that splits in its own way over a byte-level tokenizer.json."""
    folder = tmp_path / "r1-distill-llama"
    shutil.copytree(tiny_model, folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"LlamaTokenizer.*'helloworldsowait12'.*PreTrainedTokenizerFast"):
        load_tokenizer(folder)
    file.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    text = "hello world,\n\tand \u20ac 12"
    assert load_tokenizer(folder).decode(load_tokenizer(tiny_model)(text)["input_ids"]) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "expected one of float32"),
        ({"capture_layers": (0, 3)}, "states 0 to 2"),
        ({"capture_layers": (1, 1)}, "named twice"),
    ],
)
def test_wrong_options_are_named(tiny_model: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TransformersEngine(tiny_model, **options)


def test_models_that_forget_are_refused(tiny_model: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model)
    check_cache_layers(config, "full attention")
    config.layer_types = ["full_attention", "sliding_attention"]
    config.sliding_window = 8
    with pytest.raises(InputError, match="layer 1 keeps its past in a DynamicSlidingWindowLayer"):
        check_cache_layers(config, "sliding")


def test_a_fingerprint_follows_the_content(tiny_model: Path, tmp_path: Path) -> None:
    twin = shutil.copytree(tiny_model, tmp_path / "twin")
    assert model_fingerprint(twin) == model_fingerprint(tiny_model)
    config = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    assert model_fingerprint(twin) != model_fingerprint(tiny_model)
    with pytest.raises(InputError, match="no weights"):
        model_fingerprint(tmp_path)
