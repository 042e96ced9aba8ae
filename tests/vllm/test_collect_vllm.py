"""Traces of two models and the validation of two checkpoints, sampled by vLLM: one engine after the other, each in a
process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from schedules.config import ScheduleConfig
from schedules.launch import Launcher
from schedules.validation.sampling import RoundValidation
from secateur.engines.trace_folder import read_trace_folder
from tests.combined_runs import write_problems


@pytest.mark.slow
def test_two_models_are_sampled_one_after_the_other(embedded_model: Path, repository: Path, tmp_path: Path) -> None:
    problems, output = write_problems(tmp_path / "problems.jsonl", 2), tmp_path / "out"
    keys = {
        "models": f"{{one: {embedded_model}, two: {embedded_model}}}",
        "problems": f"{{train: {problems}}}",
        "engine": "vllm",
        "engine_options": "{kv_cache_gib: 0.5, enforce_eager: true}",
        "samples": 2,
        "max_tokens": 24,
        "cut_kind": "tokens",
        "cut_k": 5,
        "dtype": "float32",
        "prompt_family": "plain",
        "output_dir": output,
    }
    arguments = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "eval/collect_traces.py", *arguments]
    subprocess.run(command, cwd=repository, env=os.environ | {"PYTHONPATH": str(repository)}, check=True)
    stored = {name: read_trace_folder(output / name / "train") for name in ("one", "two")}
    for entries in stored.values():
        assert [len(entry.traces) for entry in entries] == [2, 2]
        for trace in (trace for entry in entries for trace in entry.traces):
            assert trace.load_states().shape[0] == (trace.cut_tokens or trace.trace.n_tokens) - 1
    tokens = [[t.trace.token_ids for entry in entries for t in entry.traces] for entries in stored.values()]
    assert tokens[0] == tokens[1], "one model, sampled twice with the same seeds"


@pytest.mark.slow
def test_a_round_is_validated_in_one_launch_with_an_engine_for_each_checkpoint(
    embedded_model: Path, repository: Path, tmp_path: Path, monkeypatch
) -> None:
    """As schedules/run.py validates with `validation_engine: vllm`."""
    monkeypatch.setenv("PYTHONPATH", str(repository))
    keys = {
        **{"model": str(embedded_model), "output_dir": str(tmp_path), "limits": [100], "steps_per_round": 4},
        **{"problems": "arithmetic:train", "prompt_family": "plain", "validation_problems": "arithmetic:validation"},
        **{"validation_count": 3, "validation_samples": 2, "validation_max_tokens": 24, "validation_top_p": 1.0},
        **{"validation_temperature": 1.0, "validation_dtype": "float32", "validation_engine": "vllm"},
        **{"validation_engine_options": {"kv_cache_gib": 0.5, "enforce_eager": True}},
    }
    launcher = Launcher(str(repository / "configs/accelerate/cpu.yaml"), processes=1)
    (tmp_path / "round").mkdir()
    models = {0: str(embedded_model), 4: str(embedded_model)}
    start, other = RoundValidation(ScheduleConfig(**keys), tmp_path / "round", models).run(launcher)
    assert (start.step, start.samples, start.problems) == (0, 2, 3)
    assert other.step == 4 and other.per_problem == start.per_problem, "one model, sampled twice with the same seeds"
