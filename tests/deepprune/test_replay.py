import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.deepprune.cut import ended_before_cut
from secateur.deepprune.replay import replay
from secateur.deepprune.rule import POLR_RULE, ClusterRule, FinishRule, PruneRule, StartRule
from secateur.engines.accounting import JudgeUsage, Usage

TRACES = st.lists(
    st.tuples(st.integers(1, 50), st.one_of(st.none(), st.integers(1, 60)), st.sampled_from(["1", "2", None])),
    min_size=2,
    max_size=20,
)
RULES = st.builds(
    PruneRule,
    finish=st.builds(
        FinishRule,
        largest=st.integers(1, 6),
        policy=st.sampled_from(["largest", "representatives", "soft"]),
        stop_when_decided=st.booleans(),
    ),
    mode=st.sampled_from(["barrier", "overlap"]),
)


def random_scores(n: int, seed: int) -> np.ndarray:
    raw = np.random.default_rng(seed).random((n, n))
    return (raw + raw.T) / 2


def bill_of(n: int) -> JudgeUsage:
    """One token for reading each cut, nothing for comparing."""
    return JudgeUsage(Usage(judge_prefill=n), (Usage(judge_prefill=1),) * n)


@settings(deadline=None)
@given(TRACES, RULES, st.integers(0, 1000))
def test_every_token_is_counted_once(traces: list[tuple], rule: PruneRule, seed: int) -> None:
    lengths, cuts, keys = zip(*traces, strict=True)
    n = len(traces)
    replayed = replay(lengths, cuts, keys, random_scores(n, seed), rule, seed, bill_of(n))
    whole = {index for index, pair in enumerate(zip(lengths, cuts, strict=True)) if ended_before_cut(*pair)}
    for index, kept in enumerate(replayed.kept_tokens):
        at_least = lengths[index] if index in whole else cuts[index]
        assert at_least <= kept <= lengths[index]
        if index in replayed.decision.survivors:
            assert kept == lengths[index]
        elif rule.mode == "barrier" and not rule.finish.stop_when_decided:
            assert kept == at_least
    assert replayed.usage.generated == sum(replayed.kept_tokens) <= sum(lengths)
    assert max(replayed.kept_tokens) <= replayed.usage.longest_path <= 2 * max(lengths)
    assert replayed.usage.judge_prefill == n
    assert sorted(replayed.decision.order) == list(range(n))
    assert replayed.key in {keys[survivor] for survivor in replayed.decision.survivors} | {None}


@settings(deadline=None)
@given(TRACES, RULES, st.integers(0, 1000))
def test_stopping_when_the_vote_is_decided_keeps_the_answer(traces: list[tuple], rule: PruneRule, seed: int) -> None:
    lengths, cuts, keys = zip(*traces, strict=True)
    scores = random_scores(len(traces), seed)

    def run(stops: bool):
        finish = FinishRule(rule.finish.largest, rule.finish.singletons, rule.finish.policy, stops)
        return replay(lengths, cuts, keys, scores, PruneRule(finish=finish, mode=rule.mode), seed)

    stopping, patient = run(True), run(False)
    assert stopping.key == patient.key
    assert all(a <= b for a, b in zip(stopping.kept_tokens, patient.kept_tokens, strict=True))
    assert stopping.decision.clustering == patient.decision.clustering


def test_stopping_counts_what_was_generated_until_then() -> None:
    """All alike, cut at 2; the second vote for "1" comes at the trace's token 6, 4 steps after the cuts."""
    lengths, cuts = [4, 6, 9, 3], [2, 2, 2, 2]
    rule = PruneRule(finish=FinishRule(stop_when_decided=True))
    replayed = replay(lengths, cuts, ["1", "1", "2", "1"], np.ones((4, 4)), rule, 0)
    assert replayed.kept_tokens == [4, 4, 4, 3]  # 3 votes were to be had, traces 3 and 0 gave two: a tie at most
    assert replayed.decision.survivors == [0, 3]
    assert replayed.key == "1"


def test_overlap_runs_on_while_it_waits_and_prunes_those_it_has_enough_of() -> None:
    lengths, cuts = [20, 20, 20, 20], [2, 3, 4, 10]
    scores = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=float)
    rule = PruneRule(finish=FinishRule(largest=2), mode="overlap")
    replayed = replay(lengths, cuts, ["1"] * 4, scores, rule, 0)
    # trace 2 is third in its cluster and ends on arrival; trace 3 comes last and loses; the others never stopped
    assert replayed.kept_tokens == [20, 20, 4, 10]
    assert replayed.decision.clustering.clusters == [[0, 1, 2], [3]]


def test_overlap_takes_traces_as_they_come() -> None:
    lengths, cuts = [30, 30, 30], [9, 5, 7]
    replayed = replay(lengths, cuts, ["1"] * 3, np.eye(3), PruneRule(mode="overlap"), 0)
    assert replayed.decision.order == [1, 2, 0]
    assert replayed.decision.clustering.clusters == [[1], [2], [0]]


def test_whole_means_ended_no_later_than_the_cut() -> None:
    assert [ended_before_cut(5, cut) for cut in (None, 4, 5, 6)] == [True, False, True, True]


@pytest.mark.parametrize("mode", ["barrier", "overlap"])
def test_scores_that_are_no_probabilities_prune_nobody(mode: str) -> None:
    scores = np.full((3, 3), np.nan)
    replayed = replay([9, 8, 7], [2, 2, 2], ["1", "2", "2"], scores, PruneRule(mode=mode), 0)
    assert replayed.kept_tokens == [9, 8, 7]
    assert replayed.decision.judge_failure == "3 of 3 judge scores are not between 0 and 1"
    assert replayed.key == "2"


def test_scores_must_be_square() -> None:
    with pytest.raises(ValueError, match="shape"):
        replay([3, 3], [1, 1], ["1", "1"], np.ones((2, 3)), PruneRule(), 0)


BATCHED = st.builds(
    PruneRule,
    finish=st.builds(FinishRule, largest=st.integers(1, 6), lead=st.integers(0, 3)),
    start=st.builds(StartRule, start_batch=st.integers(2, 6), start_confidence=st.floats(0.5, 0.95)),
)


@settings(deadline=None)
@given(TRACES, BATCHED, st.integers(0, 1000))
def test_what_is_not_started_costs_nothing(traces: list[tuple], rule: PruneRule, seed: int) -> None:
    lengths, cuts, keys = zip(*traces, strict=True)
    n = len(traces)
    replayed = replay(lengths, cuts, keys, random_scores(n, seed), rule, seed, bill_of(n))
    started = len(replayed.decision.order)
    assert started in {batch.stop for batch in rule.start.batches(n)}
    assert not any(replayed.kept_tokens[started:]) and all(replayed.kept_tokens[:started])
    assert replayed.usage.judge_prefill == started
    if started < n:
        assert rule.start.enough([len(members) for members in replayed.decision.clustering.clusters])
    # what happens to the started ones does not depend on those that never were
    alone = replay(
        lengths[:started], cuts[:started], keys[:started], random_scores(n, seed)[:started, :started], rule, seed
    )
    assert alone.kept_tokens == replayed.kept_tokens[:started]
    assert (alone.key, alone.decision) == (replayed.key, replayed.decision)


def test_a_clear_cluster_ends_the_starting_and_its_lead_the_finishing() -> None:
    rule = PruneRule(finish=FinishRule(lead=2), start=StartRule(start_batch=4, start_confidence=0.95))
    replayed = replay([10] * 12, [2] * 12, ["1"] * 12, np.ones((12, 12)), rule, 0, bill_of(12))
    assert replayed.decision.order == list(range(4))  # 1 - 2 ** -5 = .97 after four of one cluster
    assert sorted(replayed.kept_tokens) == [0] * 8 + [2, 2, 10, 10]
    assert replayed.usage == Usage(generated=24, judge_prefill=4, longest_path=10)
    assert replayed.key == "1"


def test_survivors_of_a_cluster_go_on_by_a_rule_of_answers() -> None:
    """PoLR before Adaptive-Consistency: four equal answers are enough for it, one after the other. Before early
    stopping: the first five side by side. Alone: all of the largest cluster, and the last trace is in another."""
    scores = np.ones((7, 7))
    scores[6, :6] = scores[:6, 6] = 0.0

    def kept(until: str) -> tuple[list[int], float]:
        rule = PruneRule(ClusterRule(tau=0.8, linkage="average"), FinishRule(largest=9, singletons=1, until=until))
        found = replay([20] * 7, [5] * 7, ["a"] * 7, scores, rule, 0)
        return found.kept_tokens, found.usage.longest_path

    assert kept("beta") == ([20] * 4 + [5] * 3, 5 + 4 * 15)
    assert kept("window") == ([20] * 5 + [5] * 2, 20)
    assert kept("all") == ([20] * 6 + [5], 20)
    assert replay([20] * 7, [5] * 7, ["a"] * 7, scores, POLR_RULE, 0).kept_tokens == [20] * 6 + [5]
