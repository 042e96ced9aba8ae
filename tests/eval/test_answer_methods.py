"""The published baselines on examples worked out by hand, and what they must obey on any record."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.table.answers import adaptive_consistency, answer_in_orders, early_stopping
from eval.table.method import ReplayProblem, ReplayTrace, average, trace_orders
from eval.table.similarity import similar_dropped
from secateur.deepprune.answers import AnswerRule
from secateur.deepprune.vote import majority_stays
from secateur.engines.accounting import JudgeUsage, Usage

GOLD = "g"
RIGHT = frozenset({GOLD})


def make_record(keys: str, lengths: list[int] | None = None, cuts: list[int | None] | None = None) -> ReplayProblem:
    """One trace per character; "-" gave no answer."""
    lengths = lengths or [10] * len(keys)
    cuts = cuts or [5] * len(keys)
    rows = zip(keys, lengths, cuts, strict=True)
    return ReplayProblem("p", RIGHT, tuple(ReplayTrace(None if k == "-" else k, n, c) for k, n, c in rows), 3)


records = st.builds(
    lambda keys, seed: replace(
        make_record(keys, np.random.default_rng(seed).integers(1, 99, len(keys)).tolist()), decision_seed=seed
    ),
    st.text("gab-", min_size=2, max_size=20),
    st.integers(0, 999),
)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (4, 0), (3, 3), (9, 2), (40, 17)])
def test_the_stability_is_the_beta_integral(first: int, second: int) -> None:
    grid = (np.arange(200_000) + 0.5) / 400_000 + 0.5
    density = grid**first * (1 - grid) ** second
    constant = math.factorial(first) * math.factorial(second) / math.factorial(first + second + 1)
    assert majority_stays(first, second) == pytest.approx(density.mean() * 0.5 / constant, abs=1e-6)


def drawn(keys: str, rule: AnswerRule) -> int:
    """How many traces are run before the rule has had enough."""
    (run,) = answer_in_orders(make_record(keys), rule, orders=1)
    return len(run.survivors)


def test_adaptive_consistency_by_hand() -> None:
    """k equal answers give 1 − 2^−(k+1): 0.9375 after three, 0.96875 after four. Beside one other answer, five of six
    give 0.9375 and six of seven 0.965. Traces without an answer change nothing."""
    assert drawn("ggggg", adaptive_consistency(0.95)) == 4
    assert drawn("ggggg", adaptive_consistency(0.9)) == 3
    assert drawn("agggggggg", adaptive_consistency(0.95)) == 7
    assert drawn("g-g-ggg", adaptive_consistency(0.95)) == 6
    assert drawn("gaga", adaptive_consistency(0.95)) == 4, "never sure: all are drawn"


def test_early_stopping_by_hand() -> None:
    assert drawn("gagggggg", early_stopping(3)) == 6, "a window that straddles does not count"
    assert drawn("ggg", early_stopping(3)) == 3
    assert drawn("gaagg", early_stopping(2)) == 4, "the last window is not full, so it is not drawn"
    assert drawn("--gga", early_stopping(2)) == 4, "no answer is no agreement"
    assert drawn("ga", early_stopping(3)) == 2, "fewer traces than a window are one"


def test_sequential_methods_wait_for_one_trace_after_another() -> None:
    record = make_record("gggggg", [10, 20, 30, 40, 50, 60])
    (one_by_one,) = answer_in_orders(record, adaptive_consistency(), orders=1)
    assert one_by_one.survivors == [0, 1, 2, 3]
    assert one_by_one.usage == Usage(generated=100, longest_path=100)
    (in_windows,) = answer_in_orders(make_record("gagggg", [10, 20, 30, 40, 50, 60]), early_stopping(2), orders=1)
    assert in_windows.survivors == [0, 1, 2, 3]
    assert in_windows.usage == Usage(generated=100, longest_path=20 + 40)
    assert in_windows.key == GOLD


def test_similar_traces_are_dropped_at_their_cut() -> None:
    """1 is like 0 and goes; 2 is like 1 only, which runs no more, and stays; 3 is like 0 but whole, and 4 like 3."""
    like = np.eye(5)
    for a, b in ((0, 1), (1, 2), (0, 3), (3, 4)):
        like[a, b] = like[b, a] = 0.97
    record = make_record("ggaga", [20, 30, 40, 4, 60], [5, 6, 7, None, 8])
    record = replace(record, scores=like, judge_usage=JudgeUsage(Usage(judge_prefill=9)))
    (run,) = similar_dropped(record, orders=1, threshold=0.95)
    assert run.survivors == [0, 2, 3, 4]
    assert run.usage == Usage(generated=20 + 6 + 40 + 4 + 60, judge_prefill=9, longest_path=60)
    (all_stay,) = similar_dropped(record, orders=1, threshold=0.97)
    assert all_stay.survivors == [0, 1, 2, 3, 4], "more similar than the threshold, not as similar"


def test_a_failed_similarity_drops_nobody() -> None:
    record = replace(make_record("gga"), scores=np.full((3, 3), np.nan))
    assert similar_dropped(record, orders=1)[0].survivors == [0, 1, 2]


@given(records)
def test_nothing_costs_more_than_all_traces_one_by_one(record: ReplayProblem) -> None:
    total = sum(trace.n_tokens for trace in record.traces)
    for rule in (adaptive_consistency(), early_stopping(4)):
        runs = answer_in_orders(record, rule, orders=3)
        for run in runs:
            lengths = [record.traces[index].n_tokens for index in run.survivors]
            assert run.usage.generated == sum(lengths) <= total
            assert max(lengths, default=0) <= run.usage.longest_path <= run.usage.generated
        outcome = average(record, runs)
        assert 0 <= outcome.accuracy <= outcome.oracle <= 1
        assert outcome.finished == pytest.approx(np.mean([len(run.survivors) for run in runs]))


@given(records)
def test_orders_begin_with_the_stored_one_and_are_reproducible(record: ReplayProblem) -> None:
    orders = trace_orders(record, 3)
    assert orders == trace_orders(record, 3)
    assert orders[0] == list(range(len(record.traces)))
    assert all(sorted(order) == orders[0] for order in orders)
