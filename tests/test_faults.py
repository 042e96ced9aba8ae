"""Every command × what befalls it from outside: a second process in its folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from secateur.runtime.files import hold_folder

MODEL = "trainers/embedded_model"
MODELS = ("--models", f"{{base: {MODEL}}}")
COMMANDS = {
    "eval/single.py": ("configs/demo/single.yaml", *MODELS),
    "eval/budget_forcing.py": ("configs/demo/budget_forcing.yaml", *MODELS),
    "eval/collect_traces.py": ("configs/demo/collect_judge_traces.yaml", *MODELS),
    "eval/combined.py": ("configs/demo/combined.yaml", *MODELS, "--judges", "{base: [values, random]}"),
    "trainers/judge.py": ("configs/demo/judge_own_states.yaml", "--model", MODEL),
    "trainers/judge_sweep.py": ("configs/demo/judge_sweep.yaml", "--model", MODEL),
    "trainers/scorer.py": ("configs/demo/scorer.yaml",),
    "eval/demo.py": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", COMMANDS)
def test_a_second_process_is_refused_by_name_and_changes_nothing(script, tmp_path, repository) -> None:
    config, *arguments = COMMANDS[script] or (None,)
    command = [sys.executable, script, *(["--config", config] if config else []), *arguments]
    with hold_folder(tmp_path):
        before = {path: path.read_bytes() for path in Path(tmp_path).iterdir()}
        second = subprocess.run(
            [*command, "--output_dir", str(tmp_path)], cwd=repository, capture_output=True, text=True
        )
        assert {path: path.read_bytes() for path in Path(tmp_path).iterdir()} == before
    assert second.returncode == 2, second.stderr
    assert f"{tmp_path}: process" in second.stderr and "is working in it" in second.stderr
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
    "no device at all": "'device' has the value 'gpu', which torch knows no device by; give auto, cpu",
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
