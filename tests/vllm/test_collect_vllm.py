"""Traces of two models, sampled by vLLM: one engine after the other, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
