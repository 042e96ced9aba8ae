"""Unusable models are refused before anything is sampled, in words that say what to do; usable ones become fast."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

from schedules.export import export_model
from secateur.engines.base import SamplingSpec
from secateur.engines.detokenize import Detokenizer
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.model_files import (
    check_cache_layers,
    check_context,
    context_tokens,
    load_tokenizer,
    read_model_config,
    stored_end_ids,
    unstopped_turn,
)
from secateur.engines.models import choose_threads, keep_special_tokens_only, load_model, pack_linear_layers
from secateur.runtime.errors import InputError
from secateur.runtime.files import model_fingerprint, write_json, write_text
from tests.conftest import REPOSITORY


def test_a_folder_must_hold_a_model_and_a_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        TransformersEngine(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(InputError, match="no tokenizer there"):
        TransformersEngine(tmp_path / "bare")
    shutil.copytree(tiny_model, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(InputError, match="cannot be loaded"):
        TransformersEngine(tmp_path / "weightless")


class _Code:
    """What a pickle may hold beside tensors: unpickled, it would run."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("was_run"),)


def test_weights_that_would_run_code_are_refused_and_plain_ones_of_torch_are_read(
    tiny_model: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = load_model(tiny_model, "float32", torch.device("cpu")).state_dict()
    shutil.copytree(tiny_model, tmp_path / "old", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(weights, tmp_path / "old" / "pytorch_model.bin")
    assert load_model(tmp_path / "old", "float32", torch.device("cpu")).num_parameters()
    torch.save({**weights, "more": _Code()}, tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(InputError, match="hold more than tensors"):
        load_model(tmp_path / "old", "float32", torch.device("cpu"))
    assert not (tmp_path / "was_run").exists()


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
    ("marks", "text"),
    [
        (("[THINK]", "[/THINK]"), "[THINK]it is \\boxed{3}[/THINK]so \\boxed{4}"),
        (("<|channel|>", "<|message|>"), "<|channel|>analysis<|message|>it is \\boxed{3}"),
    ],
)
def test_marks_of_thinking_stay_in_the_text(tiny_model: Path, tmp_path: Path, marks, text: str) -> None:
    """As in the tokenizers of Magistral and gpt-oss, where they are special tokens, which decoding leaves out."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer(text)["input_ids"]
    assert marks[0] not in tokenizer.decode(ids, skip_special_tokens=True)
    loaded = load_tokenizer(tmp_path)
    assert loaded(text)["input_ids"] == ids
    assert loaded.decode([*ids, loaded.eos_token_id], skip_special_tokens=True) == text
    stream = Detokenizer(loaded).stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == text


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


PUBLISHED = {
    "greedy and a temperature": {"do_sample": False, "temperature": 0.6, "top_p": 0.95},
    "a temperature alone, as Llama 2": {"temperature": 0.9, "top_p": 0.6, "max_length": 4096},
    "R1": {"do_sample": True, "temperature": 0.6, "top_p": 0.95},
    "Qwen2.5": {
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 0.7,
        "top_k": 20,
        "eos_token_id": [2, 0],
    },
    "a shortest length": {"min_new_tokens": 30, "eos_token_id": 2},
    "beams": {"num_beams": 1, "early_stopping": True, "length_penalty": 0.5},
    "Gemma": {"cache_implementation": "hybrid", "top_k": 64, "do_sample": True, "eos_token_id": [1, 2]},
    "Mistral": {"_from_model_config": True, "max_length": 20, "do_sample": False, "top_k": 0},
    "nulls": {"do_sample": False, "temperature": None, "top_p": None, "top_k": None},
    "a temperature of 0": {"do_sample": True, "temperature": 0.0},
    "Qwen 1, with keys of its own": {"chat_format": "chatml", "max_window_size": 6144, "min_length": 30},
    "a cap of its own": {"max_new_tokens": 32768},
    "many ways to end": {"forced_eos_token_id": 2, "suppress_tokens": [5], "stop_strings": ["\n"], "max_time": 0.001},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_generation_settings_can_be_loaded_saved_resumed_and_exported(tmp_path, tiny_model, name) -> None:
    original, checkpoint = tmp_path / "original", tmp_path / "checkpoint-4"
    shutil.copytree(tiny_model, original)
    write_json(original / "generation_config.json", {"eos_token_id": 2} | PUBLISHED[name])
    model = load_model(original, "float32", torch.device("cpu"))
    ends = model.generation_config.eos_token_id
    keep_special_tokens_only(model)
    model.save_pretrained(checkpoint)
    again = load_model(checkpoint, "float32", torch.device("cpu"))
    assert again.generation_config.eos_token_id == ends
    assert len(again.generate(torch.tensor([[5]]), max_new_tokens=3, do_sample=False)[0]) <= 4
    assert again.generation_config.min_new_tokens is None and not again.generation_config.do_sample
    export_model(str(checkpoint), tmp_path / "final", str(original))
    settings = [(folder / "generation_config.json").read_bytes() for folder in (original, tmp_path / "final")]
    assert settings[0] == settings[1]
    load_model(tmp_path / "final", "float32", torch.device("cpu"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"eos_token_id": [2, 0', "not readable as JSON"),  # transformers would go on without, and with one end less
        ("[2]", "no JSON object"),
        ('{"eos_token_id": "2"}', "'eos_token_id' holds '2'"),
        ('{"eos_token_id": [[2]]}', r"'eos_token_id' holds \[2\]"),
        ('{"num_return_sequences": 4}', "generation_config.json: .*num_return_sequences"),
        ('{"cache_implementation": "mine"}', "generation_config.json: .*cache_implementation"),
    ],
)
def test_generation_settings_that_cannot_be_used_are_named(tmp_path, tiny_model, content: str, message: str) -> None:
    original = shutil.copytree(tiny_model, tmp_path / "original")
    write_text(original / "generation_config.json", content)
    tokenizer = load_tokenizer(original)
    with pytest.raises(InputError, match=message):
        stored_end_ids(original, read_model_config(original), tokenizer)
    with pytest.raises(InputError, match=message.removeprefix("generation_config.json: ")):
        TransformersEngine(original, tokenizer)


@pytest.mark.parametrize("name", ["trainers/embedded_modle", "./embedded_model", "/models/mine", "a/b/c", "mine"])
def test_a_model_that_is_not_there_ends_at_once_without_a_network(name: str, tmp_path: Path) -> None:
    """A relative path from another folder reads as a Hub id, and the Hub's client tries it again for a minute."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_hang_up, args=(server, asked), daemon=True).start()
        variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HUB_OFFLINE": "0"}
        paths = {"PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", LOADS, name]
        ended = subprocess.run(
            command, cwd=tmp_path, env=os.environ | variables | paths, capture_output=True, text=True
        )
    assert ended.returncode == 2, ended.stderr
    path_like = name != "trainers/embedded_modle"
    assert (
        ended.stderr.count("\n") == 1 and ("no such folder; train" if path_like else "out of reach") in ended.stderr
    )
    assert len(asked) == (0 if path_like else 1)


LOADS = """
import sys
from secateur.engines.model_files import load_tokenizer
from secateur.runtime.hub import require_model_folder
from secateur.runtime.process import entry_point

@entry_point
def main():
    require_model_folder("model", sys.argv[1])
    load_tokenizer(sys.argv[1])

main()
"""


def _hang_up(server: socket.socket, asked: list[int]) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()
            asked.append(1)


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        (None, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 16384),  # vicuna-16k
        ({"type": "dynamic", "factor": 2.0}, 8192),  # the older name of the key
        ({"rope_type": "yarn", "factor": 4.0}, 16384),  # Qwen2.5's instructions
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),  # already stretched
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 512}, 4096),
    ],
)  # fmt: skip
def test_the_context_knows_how_far_rope_is_stretched(rope, positions) -> None:
    config = LlamaConfig(max_position_embeddings=4096, rope_scaling=rope, name_or_path="models/mine")
    assert context_tokens(config) == positions
    check_context(config, 96, "limits", positions - 96)
    message = rf"'limits' has the value {positions - 95}.*96 tokens.*{positions} positions of models/mine.* "
    message += f"{positions - 96},"
    with pytest.raises(InputError, match=message):
        check_context(config, 96, "limits", positions - 95)


def test_an_end_token_that_is_not_the_templates_is_warned_of(tiny_model: Path, tmp_path: Path) -> None:
    """A base model with its instruct version's template: it stops at <|endoftext|>, its turns end with <|im_end|>."""
    tokenizer, config = load_tokenizer(tiny_model), AutoConfig.from_pretrained(tiny_model)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert (
        stored_end_ids(tiny_model, config, tokenizer) == {end} and unstopped_turn(tokenizer, frozenset({end})) is None
    )
    shutil.copytree(tiny_model, tmp_path / "base")
    write_json(tmp_path / "base" / "generation_config.json", {"eos_token_id": [pad]})
    tokenizer = load_tokenizer(tmp_path / "base")
    tokenizer.eos_token = "<|pad|>"
    assert stored_end_ids(tmp_path / "base", config, tokenizer) == {end, pad}
    ids = stored_end_ids(tmp_path / "base", config, tokenizer, of_trainer=True)
    assert ids == {pad}  # GRPOTrainer.eos_token_ids: generation settings and tokenizer
    warning = unstopped_turn(tokenizer, ids)
    assert f'"eos_token_id": [{end}, {pad}]' in warning
    assert "ends a turn with <|im_end|>" in warning and "stop at <|pad|> only" in warning


def test_a_model_that_has_diverged_is_measured_and_told_once(tiny_model: Path) -> None:
    model = load_model(tiny_model, "float32", torch.device("cpu"))
    engine = TransformersEngine(model, load_tokenizer(tiny_model))
    engine.start((5, 6), [0], SamplingSpec(max_tokens=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.step()
        model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("inf")
    with pytest.warns(RuntimeWarning, match=r"logits are not finite in torch\.float32") as told:
        for seed in (1, 2):
            engine.start((5, 6), [seed], SamplingSpec(max_tokens=2))
            assert all(event.token_ids for event in engine.step())
    assert len(told) == 1


def test_packed_layers_give_the_bits_of_plain_ones(tiny_model: Path) -> None:
    """At one row and at many, with a bias and without; what the model counts as its parameters stays."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16")
    torch.manual_seed(0)
    plain = load_model(tiny_model, "bfloat16", torch.device("cpu"))
    packed = load_model(tiny_model, "bfloat16", torch.device("cpu"))
    layer = plain.model.layers[0].mlp.up_proj
    layer.bias = torch.nn.Parameter(torch.randn(len(layer.weight), dtype=torch.bfloat16))
    packed.model.layers[0].mlp.up_proj.bias = layer.bias
    assert pack_linear_layers(packed)
    assert not any(type(module) is torch.nn.Linear for module in packed.modules())
    for rows, tokens in ((1, 1), (1, 40), (33, 1), (5, 7)):
        ids = torch.randint(0, 200, (rows, tokens))
        with torch.inference_mode():
            assert torch.equal(packed(ids).logits, plain(ids).logits)
    counted = load_model(tiny_model, "bfloat16", torch.device("cpu")).num_parameters()
    assert TransformersEngine(tiny_model, dtype="bfloat16").parameters == counted


def test_layers_of_other_types_stay_plain(tiny_model: Path) -> None:
    model = load_model(tiny_model, "float32", torch.device("cpu"))
    assert not pack_linear_layers(model) and type(model.lm_head) is torch.nn.Linear


@pytest.fixture
def free_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


def test_threads_are_chosen_by_measured_steps_and_said(
    tiny_model: Path, free_threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cores = len(os.sched_getaffinity(0))
    TransformersEngine(tiny_model)
    said = capsys.readouterr().out
    if cores == 1:
        assert not said
        return
    pattern = r"engine: a step of 16 rows takes \S+ ms with 1 thread and \S+ ms with (\d+), so it uses (\d+) \(.*\)\n"
    found = re.fullmatch(pattern, said)
    assert found is not None and int(found[1]) == cores and int(found[2]) == torch.get_num_threads()
    assert torch.get_num_threads() in (1, cores)


@pytest.mark.parametrize(
    "variables", [{"OMP_NUM_THREADS": "1"}, {"WORLD_SIZE": "2"}], ids=["the user decides", "several processes"]
)
def test_threads_that_others_decide_stay(
    tiny_model: Path, free_threads: None, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(1)
    assert choose_threads(load_model(tiny_model, "float32", torch.device("cpu"))) is None
    assert torch.get_num_threads() == 1


def test_the_key_threads_decides(tiny_model: Path, free_threads: None, capsys: pytest.CaptureFixture[str]) -> None:
    TransformersEngine(tiny_model, threads=2)
    assert torch.get_num_threads() == 2 and not capsys.readouterr().out
    with pytest.raises(InputError, match="key 'threads' has the value 0"):
        TransformersEngine(tiny_model, threads=0)
