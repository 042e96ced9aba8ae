"""bench/replay.py measures what the table's rows are made of; bench/which_method.py prints those rows."""

from dataclasses import replace

import numpy as np
import pytest

from bench.replay import config_of, rates, works
from bench.which_method import against_equal_tokens, scaling_table
from eval.table.config import CombinedConfig
from eval.table.grid import results_of_model
from eval.table.method import ReplayModel, ReplayProblem, ReplayTrace, confidence_profile
from eval.table.registry import METHODS
from secateur.engines.accounting import JudgeUsage, Usage
from secateur.results import Control
from secateur.runtime.errors import InputError
from tests.report_runs import make_row

N = 12


def config() -> CombinedConfig:
    return CombinedConfig(
        models={"base": "trainers/embedded_model"},
        judges={"base": ["values"]},
        problems="arithmetic:combined",
        output_dir="unused",
        methods=[name for name, method in METHODS.items() if not method.reads_scorer],
        answers={"pool": {"stop": "lead", "start": "pool", "size": 2}},
        variants={"adaptive": {"start_batch": 4, "lead": 2}},
        n=N,
        orders=3,
        draws=7,
        probe_every=10,
        probe_tokens=4,
        deepconf_warmup=4,
        deepconf_window=3,
        top_logprobs=20,
    )


@pytest.fixture(scope="module")
def records() -> ReplayModel:
    rng, plain = np.random.default_rng(0), []
    for index in range(3):
        forced = [tuple(map(str, rng.integers(0, 3, 2))) for _ in range(N)]
        traces = tuple(ReplayTrace(str(rng.integers(3)), int(rng.integers(20, 60)), 8, mine) for mine in forced)
        plain.append(ReplayProblem(f"p{index}", frozenset("1"), traces, index, probe_every=10))
    half = [np.tril(rng.random((N, N)), -1) for _ in plain]
    judged = [
        replace(r, scores=s + s.T + np.eye(N), judge_usage=JudgeUsage()) for r, s in zip(plain, half, strict=True)
    ]
    profiles = [[confidence_profile(rng.random(trace.n_tokens), 3) for trace in r.traces] for r in plain]
    return ReplayModel(
        "base",
        1000,
        plain,
        {"values": judged, "tfidf": judged},
        {"values": 0, "tfidf": 0},
        {"values": "values", "tfidf": "tfidf"},
        ["values"],
        "tfidf",
        profiles,
    )


def test_what_is_timed_is_what_the_table_shows(records: ReplayModel) -> None:
    asked, timed = config(), works(records, config())
    assert set(timed) == {*asked.methods, "deepprune_adaptive", "answers_pool"} - {"answers"}
    for result in results_of_model(records, asked):
        outcomes = timed[result.method](asked.orders, asked.draws)
        assert [o.accuracy for o in outcomes] == [o.accuracy for o in result.outcomes], result.method
        assert [o.usage for o in outcomes] == [o.usage for o in result.outcomes], result.method


def test_rates_are_of_stored_traces(records: ReplayModel) -> None:
    for row in rates(records, config(), 1):
        assert row.once > 0 and row.mean == pytest.approx(3 * N / row.seconds)


def test_a_run_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="--run"):
        config_of(tmp_path)


def test_the_scaling_table_has_a_line_per_method_and_a_column_per_n() -> None:
    control = {"consensus_equal_tokens": Control(0.8, 900.0, -0.01, (-0.03, 0.01))}
    usage = Usage(longest_path=311.4)
    rows = [make_row("base", "deepprune", "values", 0.9, -0.5, n, tokens=usage, controls=control) for n in (8, 64)]
    lines = scaling_table(rows, "base").splitlines()
    assert len(lines) == 3 and lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 6
    assert lines[-1] == ("| DeepPrune (values) | 90.0 (80–100) · −50 % · 311 | – | – | 90.0 (80–100) · −50 % · 311 |")
    head, rule, line = against_equal_tokens(rows).splitlines()
    assert head.count("|") == rule.count("|") == line.count("|") == 7
    assert line.startswith("| base | DeepPrune (values) | −1.0 (−3.0 … +1.0) | – |")
    controls = [make_row("base", "random_traces", "values", 0.9, 0.5, 8)]
    assert "random" not in scaling_table(controls, "base"), "a control is no method of its own"
