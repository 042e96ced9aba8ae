"""Every command × what befalls it from outside: a second process in its folder; parts of bench/faults.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.fault_commands import differences, kind_of
from bench.faults import refusal
from secateur.runtime.files import append_jsonl, hold_folder, write_json

MODEL = "trainers/embedded_model"
MODELS = ("--models", f"{{base: {MODEL}}}")
TRACES = ("--train", "{0}/train", "--dev", "{0}/dev", "--test", "{0}/test")  # with a file each that is not read
STORED = ("--traces", "{base: tests}")
COMMANDS = {
    "eval/single.py": ("configs/demo/single.yaml", *MODELS),
    "eval/budget_forcing.py": ("configs/demo/budget_forcing.yaml", *MODELS),
    "eval/collect_traces.py": ("configs/demo/collect_judge_traces.yaml", *MODELS),
    "eval/combined.py": ("configs/demo/combined.yaml", *MODELS, "--judges", "{base: [values, random]}"),
    "trainers/judge.py": ("configs/demo/judge_own_states.yaml", "--model", MODEL, *TRACES),
    "trainers/judge_sweep.py": ("configs/demo/judge_sweep.yaml", "--model", MODEL, *TRACES),
    "trainers/scorer.py": ("configs/demo/scorer.yaml", *TRACES),
    "eval/demo.py": (),
    "eval/prune.py": (None, "--model", MODEL, "--problem", "1+1"),
    "eval/phases.py": (None, *("--tokenizer", MODEL, "--base_url", "http://127.0.0.1:9/v1", "--model", "m"), *STORED),
    "eval/perplexity.py": (None, "--model", MODEL, *STORED),
    "eval/rule_sweep.py": (None, "--run", "tests", "--sweep", "{tau: [0.4]}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", COMMANDS)
def test_a_second_process_is_refused_by_name_and_changes_nothing(script, tmp_path, repository) -> None:
    config, *arguments = COMMANDS[script] or (None,)
    for name in ("train", "dev", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "traces.jsonl").touch()
    command = [sys.executable, script, *(["--config", config] if config else [])]
    command += [word.format(tmp_path) if word in TRACES else word for word in arguments]
    run = tmp_path / "run"
    with hold_folder(run):
        before = {path: path.read_bytes() for path in run.iterdir()}
        second = subprocess.run([*command, "--output_dir", str(run)], cwd=repository, capture_output=True, text=True)
        assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert second.returncode == 2, second.stderr
    assert f"{run}: process" in second.stderr and "is working in it" in second.stderr
    assert "Traceback" not in second.stderr


SCHEDULE = ("trainers/grpo_len.py", "configs/demo/thinkprune.yaml", "--check_for_processes", "1")
SINGLE = ("eval/single.py", "configs/demo/single.yaml", *MODELS)
MISTAKES = {
    "a limit beyond the model's context": (*SCHEDULE, "--limits", "1000", "900", "800"),
    "an 8-GPU launch without GPUs": (
        *("trainers/grpo_len.py", "configs/demo/thinkprune.yaml", "--check_for_processes", "8", "--use_cpu", "false"),
        *("--accelerate_config", "configs/accelerate/zero2.yaml", "--per_device_train_batch_size", "1"),
        *("--gradient_accumulation_steps", "1", "--save_steps", "1"),
    ),
    "the same problems twice": (*SCHEDULE, "--validation_problems", "arithmetic:train"),
    "a device that is not here": (*SINGLE, "--device", "cuda:99"),
    "no device at all": (*SINGLE, "--device", "gpu"),
}
ANSWERS = {
    "a limit beyond the model's context": "'limits' has the value 1000: with the longest prompt, ",
    "an 8-GPU launch without GPUs": "8 processes are to train on this machine, which has ",
    "the same problems twice": "'validation_problems' has the value 'arithmetic:train': all ",
    "a device that is not here": "'device' has the value 'cuda:99', but GPUs that can be used here: ",
    "no device at all": "'device' has the value 'gpu'; give auto, cpu",
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_work_starts(mistake, tmp_path, repository) -> None:
    script, config, *arguments = MISTAKES[mistake]
    run = tmp_path / "run"
    command = [sys.executable, script, "--config", config, *arguments, "--output_dir", str(run)]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: ") and ANSWERS[mistake] in ended.stderr
    assert "Traceback" not in ended.stderr and not run.exists()


def faults(repository: Path, output: Path, *arguments: str) -> str:
    command = [sys.executable, "bench/faults.py", "--output_dir", str(output), *arguments]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_ten_kills_are_no_loss_to_a_combined_run(tmp_path, repository) -> None:
    """Two models, two judges, two benchmarks, two n, live runs."""
    words = ("--commands", "eval/combined.py", "--faults", "SIGKILL")
    assert "| `eval/combined.py` | equal 10 |" in faults(repository, tmp_path, *words)


@pytest.mark.slow
def test_what_befalls_traces_is_no_loss_or_a_named_refusal_and_the_matrix_goes_on_where_it_was(
    tmp_path, repository
) -> None:
    words = ("--commands", "eval/single.py", "--kills", "2", "--flips", "1")
    first = faults(repository, tmp_path, *words, "--faults", "SIGKILL", "flipped")
    cells = (tmp_path / "cells.jsonl").read_bytes()
    again = faults(repository, tmp_path, *words)
    assert (tmp_path / "cells.jsonl").read_bytes().startswith(cells)
    assert "FAULT" not in first + again and "equal 2" in again.splitlines()[-1]


def test_files_of_one_kind_have_one_name() -> None:
    assert kind_of("base/train/states/arith-judge_train-00002-5.safetensors") == "*/*/states/*.safetensors"
    assert (
        kind_of("rounds/1-limit-200/checkpoint-4/rng_state_1.pth") == "rounds/#-limit-#/checkpoint-#/rng_state_#.pth"
    )
    assert kind_of("one/twin/live/ahead/arith-combined-00003.json") == "*/*/live/*/*.json"


def test_runs_are_compared_by_what_they_stored_times_and_order_apart(tmp_path) -> None:
    traces = [{"problem_id": "a", "sample": sample, "states": f"states/a-{sample}.safetensors"} for sample in (0, 1)]
    for name, lines in (("alone", traces), ("killed", traces[::-1])):
        append_jsonl(tmp_path / name / "traces-rank0.jsonl", lines)
        write_json(tmp_path / name / "summary.json", {"pass_at_1": 0.5, "wall_s": len(name)})
    assert differences(tmp_path / "alone", tmp_path / "killed") == []
    write_json(tmp_path / "killed" / "summary.json", {"pass_at_1": 0.6, "wall_s": 6})
    append_jsonl(tmp_path / "killed" / "traces-rank0.jsonl", traces[:1])
    assert differences(tmp_path / "alone", tmp_path / "killed") == [
        "summary.json differs",
        "traces-rank0.jsonl differs",
    ]


def test_states_may_differ_by_their_last_place_and_no_further(tmp_path) -> None:
    ours = torch.tensor([1.0, -1.0, 0.0, 60000.0, -2.5], dtype=torch.float16)
    nearby = torch.nextafter(ours, torch.tensor(float("inf"), dtype=torch.float16))
    for name, lot, states in (("alone", 5, ours), ("killed", 9, nearby), ("wrong", 9, ours * 1.003)):
        (tmp_path / name / "states").mkdir(parents=True)
        save_file({"0": states}, tmp_path / name / "states" / f"a-{lot}.safetensors")
    assert differences(tmp_path / "alone", tmp_path / "killed") == []
    assert differences(tmp_path / "alone", tmp_path / "wrong") == ["states/a: 0 differs"]


def test_an_outcome_needs_one_named_line(tmp_path) -> None:
    assert refusal("plan\nerror: a.json: cut\n") == "error: a.json: cut"
    assert refusal("error: a\nerror: b\n") == refusal("Traceback") == ""
