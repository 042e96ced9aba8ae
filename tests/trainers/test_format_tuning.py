"""The short supervised tuning, as the user starts it: the loss falls, a kill costs little, a bad file is named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eval.one_model.sampling import SingleConfig
from schedules.integrity import MARKER
from secateur.engines.model_files import load_tokenizer
from secateur.engines.models import load_model
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, read_jsonl
from tests.next_words import next_words
from trainers.format_tuning import FormatTuningConfig, read_solutions

KEYS = ["--model", "trainers/embedded_model", "--count", "32", "--batch", "4", "--rows", "2", "--bf16", "false"]
KEYS += ["--learning_rate", "0.003"]


def command(output: Path, *more: str) -> list[str]:
    return [sys.executable, "trainers/format_tuning.py", *KEYS, "--output_dir", str(output), *more]


def losses(output: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for _, line in read_jsonl(output / "train.jsonl")}


def tokens(output: Path) -> list[float]:
    return [line["num_tokens"] for _, line in read_jsonl(output / "train.jsonl")]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    output = tmp_path_factory.mktemp("tuning") / "whole"
    done = subprocess.run(command(output), cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = parse_config(SingleConfig, next_words(done.stdout, "single"))
    assert measured.models == {"start": KEYS[1], "tuned": str(output)} and measured.prompt_family == "plain"
    assert measured.problems == "words:test" and f"open: {output}\n" in done.stdout
    return output


def test_the_loss_falls_and_the_result_is_a_model_folder(tuned: Path) -> None:
    found = losses(tuned)
    assert list(found) == list(range(1, 17))  # 32 solutions twice, 4 per step
    assert sum(found[step] for step in range(13, 17)) < 0.8 * sum(found[step] for step in range(1, 5))
    model = load_model(tuned, "float32", torch.device("cpu"))
    assert model.config.use_cache and load_tokenizer(tuned).chat_template


def test_a_kill_goes_on_from_the_last_checkpoint_and_ends_the_same(
    tuned: Path, tmp_path: Path, repository: Path
) -> None:
    output = tmp_path / "killed"
    child = subprocess.Popen(command(output), cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not (output / "checkpoint-10" / MARKER).is_file():
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = subprocess.run(command(output), cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["step"] for _, line in read_jsonl(output / "train.jsonl")] == list(range(1, 17))
    assert losses(output)[16] == pytest.approx(losses(tuned)[16], rel=1e-4)
    assert tokens(output) == tokens(tuned)
    one, other = (load_model(folder, "float32", torch.device("cpu")).state_dict() for folder in (tuned, output))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_finished_folder_is_left_alone_and_other_keys_are_refused(tuned: Path, repository: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tuned.iterdir() if not path.name.startswith(".")}
    assert not any(path.name.startswith("checkpoint-") for path in before)
    again = subprocess.run(command(tuned), cwd=repository, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "next: secateur single" in again.stdout
    other = command(tuned, "--epochs", "3")
    refused = subprocess.run(other, cwd=repository, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "was begun with another 'epochs'" in refused.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_finished_model_that_was_damaged_is_refused_by_name(
    name: str, tuned: Path, tmp_path: Path, repository: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tuned, damaged, ignore=shutil.ignore_patterns(".*"))
    content = bytearray((damaged / name).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / name).write_bytes(content)
    again = subprocess.run(command(damaged), cwd=repository, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and again.stderr.startswith(f"error: {damaged}: {name} has another content than was")


def test_solutions_of_ones_own(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "mine.jsonl"
    append_jsonl(path, ({"problem": f"Add {i} and 1.", "solution": f"So \\boxed{{{i + 1}}}."} for i in range(8)))
    output = tmp_path / "out"
    done = subprocess.run(
        command(output, "--solutions", str(path), "--count", "8", "--epochs", "1"),
        cwd=repository, capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(losses(output)) == [1, 2]


def test_bad_input_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"problem": "x", "solution": "y"}) + "\n" + json.dumps({"problem": "x"}) + "\n")
    with pytest.raises(InputError, match=r"bad\.jsonl, line 2: key 'solution'"):
        read_solutions(str(path), 2)
    path.write_text(json.dumps({"problem": "x", "solution": "y"}) + "\n")
    with pytest.raises(InputError, match="holds 1 solutions, but 2"):
        read_solutions(str(path), 2)
    for key, value in {"solutions": "no.jsonl", "learning_rate": 0.0, "rows": 0, "prompt_family": "odd"}.items():
        with pytest.raises(InputError):
            FormatTuningConfig(model="trainers/embedded_model", output_dir=str(tmp_path), **{key: value})
