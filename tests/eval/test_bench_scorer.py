"""bench/scorer.py: what the order of ending tells, learned on other benchmarks."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.ahead import read_answers
from bench.scorer import held_out
from eval.table.method import ReplayProblem, ReplayTrace, TraceReadings
from eval.table.scored import score_vote
from eval.table.votes import consensus
from secateur.deepprune.cut import CutRule
from secateur.deepprune.scorer import END, Observed, PointRecord, ScoreFit, Scorer, ScorerRecord, score_figures
from secateur.runtime.files import append_jsonl

FIGURES = score_figures(np.array([0, 1]), np.array([0.1, 0.9]), np.array([0, 0]))


def scorer(*weights: float) -> Scorer:
    point = PointRecord(ScoreFit(weights, 0.0), FIGURES)
    return Scorer(ScorerRecord(reads=("order",), points={END: point}, cut=CutRule()), {})


def problem(keys: str, lengths: list[int]) -> ReplayProblem:
    traces = tuple(ReplayTrace(key, length, None) for key, length in zip(keys, lengths, strict=True))
    return ReplayProblem("p", frozenset("g"), traces)


def readings(one: ReplayProblem) -> list[TraceReadings]:
    return [TraceReadings(Observed(trace.n_tokens), Observed(trace.n_tokens)) for trace in one.traces]


def test_a_weighted_vote_by_hand() -> None:
    """Two short traces against three long ones: short is right, by a scorer that has learned so."""
    one = problem("ggbbb", [10, 11, 90, 95, 99])
    assert consensus(one).accuracy == 0.0
    assert score_vote(one, readings(one), scorer(-8.0, 0.0)).accuracy == 1.0
    assert score_vote(one, readings(one), scorer(8.0, 0.0)).accuracy == 0.0


def test_a_scorer_that_says_nothing_leaves_the_consensus() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        one = problem("".join(rng.choice(list("gab"), 9)), rng.integers(1, 99, 9).tolist())
        found = score_vote(one, readings(one), scorer(0.0, 0.0))
        assert (found.accuracy, found.usage) == (consensus(one).accuracy, consensus(one).usage)


def write_answers(path: Path) -> Path:
    """Three benchmarks in which short is right."""
    rng = np.random.default_rng(0)
    for benchmark in ("x", "y", "z"):
        for number in range(6):
            lengths = rng.integers(10, 1000, 16)
            right = rng.random(16) < np.where(lengths < np.median(lengths), 0.9, 0.4)
            traces = [
                {"n_tokens": int(n), "answer": "7" if own else "ERR" if n % 5 == 0 else "3"}
                for n, own in zip(lengths, right, strict=True)
            ]
            line = {"problem_id": f"{benchmark}{number}", "benchmark": benchmark, "gold": "7", "traces": traces}
            append_jsonl(path, [line])
    return path


def test_the_sign_is_learned_on_others_and_refused_where_it_is_wrong(tmp_path, repository) -> None:
    path = write_answers(tmp_path / "answers.jsonl")
    table = read_answers(path)
    found, turned = held_out(table, "x", 8), held_out(table, "x", 8, turned=True)
    assert found.weights == turned.weights and found.weights[0] + found.weights[1] < 0
    assert found.figures.has_signal and not turned.figures.has_signal
    assert found.answered.traces < found.figures.traces == 6 * 16
    command = [sys.executable, "-m", "bench.scorer", "--answers", str(path), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([*command, "--sizes", "8"], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 8 |") == 6 and (tmp_path / "out" / "scorer.json").is_file()


def test_real_traces_end_early_where_they_are_right(shared_data) -> None:
    table = read_answers(shared_data / "answers" / "qwen3_8b_aime24_aime25_hmmt25_n128.jsonl.gz")
    found = held_out(table, "aime24", 16)
    assert found.figures.has_signal and found.weights[1] < 0
    assert abs(float(np.mean(found.differences))) < 0.05
