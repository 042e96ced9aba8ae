"""`make real` in its smoke version: a public pretrained language model through every stage, in minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.fetch_smollm2 import GGUF
from eval.run_summary import read_run_summary
from secateur.deepprune.judges.record import read_metrics
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import read_trace_folder


def run(repository: Path, output: Path) -> str:
    command = [sys.executable, "eval/real.py", "--smoke", "true", "--output_dir", str(output)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=repository, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_every_stage_runs_on_a_pretrained_model_and_a_second_start_passes_them_over(
    tmp_path: Path, repository: Path
) -> None:
    output = tmp_path / "real"
    said = run(repository, output)
    assert f"open: {output / 'report.html'}" in said and (output / "report.html").stat().st_size > 10_000
    assert load_tokenizer(output / "model" / Path(GGUF).stem).eos_token == "<|im_end|>"
    summary = read_run_summary(output)
    assert summary.rounds[0].limit == 80  # the next round is for a model that solves some validation problem
    assert summary.peak_memory_gib <= 8
    for model in ("base", "pruned"):
        judge = output / "judges" / "linear_own_states" / model / "seed-0"
        assert read_metrics(judge).config["seed"] == 0
        traces = read_trace_folder(output / "combined" / "linear_own_states" / model / "traces")
        assert {len(entry.traces) for entry in traces} == {4}
    methods = {row.method for row in summary.combined.rows if row.model == "pruned"}
    assert {"consensus", "ahead", "evidence", "deepprune", "adaptive_consistency", "random_traces"} <= methods
    stamps = {path: path.stat().st_mtime_ns for path in (output / "stages").glob("*.json")}
    assert "all is done" in run(repository, output)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
