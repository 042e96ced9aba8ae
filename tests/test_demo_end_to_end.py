"""The user's own `make demo` to its end: both methods on the embedded model must keep what the README promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.run_summary import read_run_summary
from secateur.results import Row

TOLERANCE = 0.03  # points of accuracy that DeepPrune may lose


def run_demo(repository: Path, output: Path) -> str:
    command = [sys.executable, "eval/demo.py", "--output_dir", str(output)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=repository, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    output = tmp_path_factory.mktemp("outputs") / "demo"
    run_demo(repository, output)
    return output


def rows_of(demo: Path, model: str) -> dict[tuple[str, str | None], Row]:
    rows = read_run_summary(demo).combined.rows
    return {(row.method, row.judge): row for row in rows if row.model == model}


@pytest.mark.slow
def test_length_pruning_halves_the_traces_and_keeps_the_accuracy(demo: Path) -> None:
    summary = read_run_summary(demo)
    assert summary.base.problems >= 200
    assert summary.pruned.mean_tokens <= 0.5 * summary.base.mean_tokens
    assert summary.pruned.pass_at_1 >= summary.base.pass_at_1
    assert [round_.limit for round_ in summary.rounds] == [220, 160, 125]


@pytest.mark.slow
def test_the_judge_beats_its_baselines_also_on_unseen_rules(demo: Path) -> None:
    judge = read_run_summary(demo).judge
    assert judge.problems >= 48
    assert judge.auroc >= 0.90 and judge.auroc_unseen_groups >= 0.90
    assert judge.auroc > judge.baselines["ngram"] > judge.baselines["tfidf"]


@pytest.mark.slow
def test_both_together_save_what_they_promise(demo: Path) -> None:
    own = "linear_own_states"
    base, pruned = rows_of(demo, "base"), rows_of(demo, "pruned")
    consensus = base["consensus", None].accuracy
    assert base["deepprune", own].problems >= 96 and base["deepprune", own].n == 64
    assert base["deepprune", own].accuracy >= consensus - TOLERANCE
    assert base["deepprune", own].saving_net >= 0.6
    assert pruned["deepprune", own].accuracy >= consensus - TOLERANCE
    assert pruned["deepprune", own].saving_net >= 0.7
    assert base["deepprune", own].accuracy > base["random_traces", own].accuracy
    for rows, saved in ((base, 0.8), (pruned, 0.9)):
        adaptive = rows["deepprune_adaptive", own]
        assert adaptive.accuracy >= consensus - TOLERANCE and adaptive.saving_net >= saved
    equal = base["deepprune_adaptive", own].controls["consensus_equal_tokens"]
    assert equal.ci95[0] > 0, "above consensus over the full traces that the same net tokens buy"
    assert base["deepprune", own].accuracy > base["deepprune", "random"].accuracy


@pytest.mark.slow
def test_the_live_run_is_its_replay(demo: Path) -> None:
    live = read_run_summary(demo).combined.live_equals_replay
    assert live.problems >= 20 and live.equal == live.problems, live


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(demo: Path, repository: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (demo / "thinkprune").rglob("*") if path.is_file()}
    assert "all is done" in run_demo(repository, demo)
    assert before == {path: path.stat().st_mtime_ns for path in (demo / "thinkprune").rglob("*") if path.is_file()}
    assert (demo / "report.html").stat().st_size > 100_000
