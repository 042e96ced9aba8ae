"""bench/gpu.sh: all its parts at tiny sizes on a CPU, and what it says where there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(REPOSITORY / "bench" / "gpu.sh"), *arguments]
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_it_says_at_once_what_is_missing(tmp_path: Path) -> None:
    done = run("--output", str(tmp_path / "out"))
    assert done.returncode == 2 and "missing: a GPU that torch sees" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_part_runs_and_is_written_down(tmp_path: Path) -> None:
    done = run("--scale", "tiny", "--output", str(tmp_path))
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 0, [part["failure"] for part in report["parts"]]
    found = {part["name"]: part["rows"] for part in report["parts"]}
    assert report["format"] == 1 and list(found) == ["training", "engine", "live", "large", "judge"]
    ours, bare = found["training"]
    assert ours["tokens/s"] > 0 and bare["tokens/s"] > 0 and ours["planned"] == bare["planned"] > 0
    assert [(row["rows"], row["layers captured"]) for row in found["engine"]] == [(4, 0), (4, 3), (8, 0), (8, 3)]
    full, pruned = found["live"]
    assert full["tokens"] == 2 * 2 * 12 * 24, "no trace ends by itself"
    assert pruned["tokens"] == 2 * 2 * (10 * 24 + 2 * 6), "10 of 12 finish, the others stop at their cut"
    assert found["judge"][0]["AUROC, held out"] > 0.6
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name} (" in table for name in found) and "failed" not in table


def test_a_part_that_fails_or_is_late_says_so() -> None:
    program = (
        "from bench.gpu import run_part; "
        "print(run_part('judge', 'none', 60).failure); print(run_part('judge', 'tiny', 0.01).failure); "
        "print(run_part('judge', 'tiny', 0).failure)"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY, check=True)
    assert "exit code 1" in done.stdout and "KeyError: 'none'" in done.stdout
    assert "not done after 0 s; exit code -9" in done.stdout and "no time was left for it" in done.stdout
