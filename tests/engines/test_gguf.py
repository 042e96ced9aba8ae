"""A GGUF file becomes a plain model folder once: same weights, right ends, and a clear no to what cannot be read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from transformers.convert_slow_tokenizer import bytes_to_unicode

from secateur.engines.gguf import RECORD, plain_model
from secateur.engines.model_files import end_token_ids, load_tokenizer
from secateur.engines.models import load_model
from secateur.runtime.errors import InputError
from secateur.runtime.records import without_checksum
from secateur.tasks.prompts import encode_prompt

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH, HEADS, LAYERS, FEED = 32, 4, 2, 64


def write_gguf(
    path: Path, *, tied: bool = True, architecture: str = "llama", end: int | None = 2, pad: int = 2
) -> Path:
    """A model of random weights with a byte-level tokenizer, whose pad token ends turns too, as SmolLM2's does."""
    tokens = [*CONTROLS, *bytes_to_unicode().values(), "he", "hel"]
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(CONTROLS) + [TokenType.NORMAL] * (len(tokens) - len(CONTROLS)))
    writer.add_token_merges(["h e", "he l"])
    writer.add_bos_token_id(1)
    if end is not None:
        writer.add_eos_token_id(end)
    writer.add_pad_token_id(pad)
    writer.add_chat_template(TEMPLATE)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(f"{name}.weight", (rng.standard_normal(shape) * 0.05).astype(np.float32))

    add("token_embd", len(tokens), WIDTH)
    add("output_norm", WIDTH)
    if not tied:
        add("output", len(tokens), WIDTH)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}", WIDTH, WIDTH)
        for name, shape in {"ffn_gate": (FEED, WIDTH), "ffn_up": (FEED, WIDTH), "ffn_down": (WIDTH, FEED)}.items():
            add(f"blk.{layer}.{name}", *shape)
        add(f"blk.{layer}.attn_norm", WIDTH)
        add(f"blk.{layer}.ffn_norm", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_is_the_model_of_the_file(tmp_path: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    path = write_gguf(tmp_path / "tiny.gguf", tied=tied)
    folder = plain_model(str(path))
    assert folder == str(tmp_path / "tiny")
    model = load_model(folder, "float32", torch.device("cpu"))
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        expected, found = read.to(torch.bfloat16).to(torch.float32)(ids).logits, model(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert model.config.tie_word_embeddings is tied


def test_ends_and_pad_come_from_the_file(tmp_path: Path) -> None:
    """The reader of transformers takes the wrong ends; and a pad token that ends turns would hide the end of each."""
    folder = plain_model(str(write_gguf(tmp_path / "tiny.gguf")))
    tokenizer, model = load_tokenizer(folder), load_model(folder, "float32", torch.device("cpu"))
    assert tokenizer.eos_token == "<|im_end|>" and end_token_ids(model, tokenizer) == {2}
    assert tokenizer.pad_token == "<|endoftext|>" and model.generation_config.pad_token_id == 0
    assert encode_prompt(tokenizer, [{"role": "user", "content": "he"}])[:1] == [1]
    assert tokenizer.decode(tokenizer("a , b  c")["input_ids"]) == "a , b  c"


def test_what_closes_a_turn_ends_a_completion_too(tmp_path: Path) -> None:
    folder = plain_model(str(write_gguf(tmp_path / "tiny.gguf", end=0)))
    tokenizer, model = load_tokenizer(folder), load_model(folder, "float32", torch.device("cpu"))
    assert end_token_ids(model, tokenizer) == {0, 2}


def test_a_second_call_converts_nothing_and_another_file_does(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    weights = Path(plain_model(str(path))) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert plain_model(str(tmp_path)) == str(tmp_path / "tiny")  # the folder that holds it
    assert weights.stat().st_mtime_ns == before
    write_gguf(path, tied=False)
    plain_model(str(path))
    assert weights.stat().st_mtime_ns != before


def test_an_interrupted_conversion_is_made_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    folder = Path(plain_model(str(path)))
    record = without_checksum(json.loads((folder / RECORD).read_text()), "", "")
    (folder / RECORD).write_text(json.dumps(record | {"complete": False}))
    (folder / "model.safetensors").unlink()
    plain_model(str(path))
    assert (folder / "model.safetensors").is_file()


def test_other_names_are_left_alone(tmp_path: Path, repository: Path) -> None:
    embedded = str(repository / "trainers" / "embedded_model")
    assert plain_model(embedded) == embedded
    assert plain_model("owner/name") == "owner/name"
    assert plain_model(str(tmp_path)) == str(tmp_path)


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    cut = write_gguf(tmp_path / "cut.gguf")
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(InputError, match="not a whole GGUF file"):
        plain_model(str(cut))
    with pytest.raises(InputError, match="cannot read this kind"):
        plain_model(str(write_gguf(tmp_path / "odd.gguf", architecture="oddity")))
    with pytest.raises(InputError, match="names no end token"):
        plain_model(str(write_gguf(tmp_path / "endless.gguf", end=None)))
    with pytest.raises(InputError, match="no such GGUF file"):
        plain_model(str(tmp_path / "missing.gguf"))
    with pytest.raises(InputError, match="3 GGUF files; name one"):
        plain_model(str(tmp_path))


def test_a_model_folder_of_the_same_name_is_not_overwritten(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not made of"):
        plain_model(str(path))
    assert (tmp_path / "tiny" / "config.json").read_text() == "{}"


def test_two_processes_convert_once_and_both_go_on(tmp_path: Path, repository: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    code = f"from secateur.engines.gguf import plain_model; print(plain_model({str(path)!r}))"
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(words.rstrip().endswith(str(tmp_path / "tiny")) for words in said)
    assert sum("converting" in words for words in said) == 1


def test_a_command_takes_the_file_as_its_model(tmp_path: Path, repository: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    command = [
        sys.executable,
        "eval/single.py",
        "--models",
        f"{{tiny: {path}}}",
        "--problems",
        "{a: 'arithmetic:test'}",
    ]
    command += ["--problem_count", "2", "--samples", "2", "--max_tokens", "8", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "summary.json").is_file() and (tmp_path / "tiny" / RECORD).is_file()
