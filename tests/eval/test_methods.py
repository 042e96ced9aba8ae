"""What every method must obey, on random records."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.table.assemble import keys_and_right_ones
from eval.table.method import Parameters, ReplayProblem, ReplayTrace, rng_for
from eval.table.pruning import deepprune, prune_in_orders, prune_once, random_traces
from eval.table.votes import consensus, consensus_equal_tokens, oracle, single, vote_of_some
from secateur.deepprune.rule import ClusterRule, FinishRule, PruneRule
from secateur.deepprune.vote import majority
from secateur.engines.accounting import JudgeUsage, Usage, net_cost

RULE = PruneRule(ClusterRule(max_clusters=8), FinishRule(largest=4, singletons=6))
GOLD = 0
RIGHT = frozenset({GOLD})


@st.composite
def records(draw: st.DrawFn) -> ReplayProblem:
    n = draw(st.integers(2, 16))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    lengths = rng.integers(5, 200, n)
    traces = []
    for length in lengths:
        key = None if rng.random() < 0.1 else int(rng.integers(0, 4))
        cut = None if rng.random() < 0.1 else int(rng.integers(1, length + 1))
        traces.append(ReplayTrace(key, int(length), cut))
    upper = np.triu(rng.random((n, n)), 1)
    cost = Usage(judge_prefill=int(rng.integers(0, 500)), judge_head=int(rng.integers(0, 5000)))
    return ReplayProblem(f"p{n}", RIGHT, tuple(traces), int(rng.integers(0, 1000)), upper + upper.T, JudgeUsage(cost))


def total(record: ReplayProblem) -> int:
    return sum(trace.n_tokens for trace in record.traces)


@given(records())
def test_single_is_the_share_of_right_traces_and_oracle_bounds_everything(record: ReplayProblem) -> None:
    share = np.mean([trace.key == GOLD for trace in record.traces])
    assert single(record).accuracy == pytest.approx(share)
    assert single(record).usage.generated == pytest.approx(total(record) / len(record.traces))
    runs = prune_in_orders(record, RULE, 3)
    best = oracle(record).accuracy
    for outcome in (single(record), consensus(record), deepprune(record, runs), random_traces(record, runs, 20)):
        assert 0 <= outcome.accuracy <= best


@given(records(), st.integers(0, 3))
def test_identical_answers_make_every_vote_the_same(record: ReplayProblem, key: int) -> None:
    alike = replace(record, traces=tuple(replace(trace, key=key) for trace in record.traces))
    runs = prune_in_orders(alike, RULE, 3)
    right = float(key == GOLD)
    outcomes = [single(alike), consensus(alike), deepprune(alike, runs), random_traces(alike, runs, 5)]
    assert [outcome.accuracy for outcome in outcomes] == pytest.approx([right] * 4)


@given(records())
def test_deepprune_spends_cuts_on_the_pruned_and_whole_lengths_on_survivors(record: ReplayProblem) -> None:
    run = prune_once(record, RULE)
    for index, (trace, kept) in enumerate(zip(record.traces, run.kept_tokens, strict=True)):
        whole = trace.cut_tokens is None or trace.cut_tokens >= trace.n_tokens
        assert kept == (trace.n_tokens if whole or index in run.survivors else trace.cut_tokens)
    assert run.usage.generated == sum(run.kept_tokens) <= total(record)
    assert run.usage.judge_prefill == record.judge_usage.everything.judge_prefill


@given(records())
def test_orders_are_reproducible_and_the_first_is_the_stored_one(record: ReplayProblem) -> None:
    runs = prune_in_orders(record, RULE, 4)
    assert runs[0] == prune_once(record, RULE)
    assert runs == prune_in_orders(record, RULE, 4)


def test_an_order_only_renames_traces() -> None:
    """Blocks of clear judge scores: whatever the order, the largest block is found and its members survive."""
    groups = [0] * 6 + [1] * 3
    scores = np.where(np.equal.outer(groups, groups), 0.9, 0.1)
    traces = tuple(ReplayTrace(group, 50 + index, 10) for index, group in enumerate(groups))
    record = ReplayProblem("p", frozenset({0}), traces, 7, scores)
    for run in prune_in_orders(record, PruneRule(finish=FinishRule(largest=6)), 10):
        assert run.survivors == [0, 1, 2, 3, 4, 5]
        assert run.labels[6] == run.labels[7] == run.labels[8] != run.labels[0]
        assert run.key == 0


@given(records())
def test_random_traces_finish_as_many_as_deepprune(record: ReplayProblem) -> None:
    runs = prune_in_orders(record, RULE, 5)
    outcome = random_traces(record, runs, 3)
    assert outcome.finished == pytest.approx(np.mean([len(run.survivors) for run in runs]))
    assert outcome.usage.generated == pytest.approx(outcome.finished * total(record) / len(record.traces))


@given(records(), st.integers(1, 10**6), st.integers(0, 10**6))
def test_equal_tokens_spend_what_deepprune_spent_and_never_more(
    record: ReplayProblem, generator: int, judge: int
) -> None:
    pruned = deepprune(record, prune_in_orders(record, RULE, 2))
    outcome = consensus_equal_tokens(record, pruned, Parameters(generator, judge), 3)
    budget = net_cost(pruned.usage, generator, judge) / generator
    assert outcome.usage.generated == pytest.approx(min(budget, total(record)))
    assert outcome.finished <= len(record.traces)


@settings(max_examples=20)
@given(records(), st.floats(0, 1))
def test_a_fractional_count_lies_between_its_neighbours(record: ReplayProblem, share: float) -> None:
    """With the same draws, expectation is linear between two whole numbers of traces."""
    low, high, between = (
        vote_of_some(record, count, 50, np.random.default_rng(3)).accuracy for count in (1.0, 2.0, 1.0 + share)
    )
    assert between == pytest.approx((1 - share) * low + share * high, abs=1e-9)


@given(records())
def test_a_vote_of_all_traces_is_consensus_up_to_ties(record: ReplayProblem) -> None:
    keys = [trace.key for trace in record.traces if trace.key is not None]
    counts = sorted((keys.count(key) for key in set(keys)), reverse=True)
    if len(counts) < 2 or counts[0] > counts[1]:
        vote = vote_of_some(record, len(record.traces), 5, np.random.default_rng(0))
        assert vote.accuracy == consensus(record).accuracy


@given(records(), st.integers(0, 99))
def test_many_votes_at_once_are_each_the_majority(record: ReplayProblem, seed: int) -> None:
    rng, n = np.random.default_rng(seed), len(record.traces)
    size = int(rng.integers(1, n + 1))
    orders = np.random.default_rng(seed + 1)
    votes = [majority([record.keys[i] for i in orders.permutation(n)[:size]]) == GOLD for _ in range(9)]
    outcome = vote_of_some(record, size, 9, np.random.default_rng(seed + 1))
    assert outcome.accuracy == pytest.approx(np.mean(votes))


def test_expected_accuracy_of_random_votes_equals_enumeration() -> None:
    """Two of four traces, drawn without replacement; of two different answers the first drawn wins."""
    traces = tuple(ReplayTrace(key, 10, 5) for key in (0, 0, 1, 2))
    record = ReplayProblem("p", RIGHT, traces)
    # Ordered pairs of traces: 12. Right: (0, 0) twice, and the four that begin with a right trace and end in another.
    outcome = vote_of_some(record, 2, 20000, np.random.default_rng(1))
    assert outcome.accuracy == pytest.approx(6 / 12, abs=0.015)


def test_no_trace_no_answer_and_no_tokens() -> None:
    record = ReplayProblem("p", RIGHT, (ReplayTrace(GOLD, 10, 5), ReplayTrace(GOLD, 10, 5)))
    outcome = vote_of_some(record, 0.0, 5, np.random.default_rng(0))
    assert (outcome.accuracy, outcome.usage.generated, outcome.finished) == (0.0, 0.0, 0.0)


def test_a_failed_judge_prunes_nobody() -> None:
    traces = tuple(ReplayTrace(key, 10, 5) for key in (1, 0, 0))
    run = prune_once(ReplayProblem("p", RIGHT, traces, 0, np.full((3, 3), np.nan)), RULE)
    assert run.survivors == [0, 1, 2] and run.key == GOLD and run.judge_failure
    assert run.usage.generated == 30


def test_a_problem_may_have_several_right_answers() -> None:
    """50 % and 0.5 are not equal, so they are voted on apart, yet both are right where 0.5 is asked for."""
    keys, right = keys_and_right_ones(["0.5", "50\\%", "50\\%", "7", None], "0.5")
    assert keys == [0, 1, 1, 3, None] and right == {0, 1}
    record = ReplayProblem("p", right, tuple(ReplayTrace(key, 10, 5) for key in keys))
    assert (single(record).accuracy, consensus(record).accuracy) == (0.6, 1.0)
    assert vote_of_some(record, 5, 3, np.random.default_rng(0)).accuracy == 1.0
    nobody = ReplayProblem("p", frozenset(), record.traces)
    some = vote_of_some(nobody, 5, 3, rng_for(record, "some"))
    assert single(nobody).accuracy == oracle(nobody).accuracy == some.accuracy == 0
