from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutRule
from secateur.deepprune.finishing import FinishAll, FinishPolicy, FinishUntilLead
from secateur.deepprune.gathering import ALL_PAIRS, JudgedPolicy
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.policy import Finished, JudgeFailure, Move, Progress
from secateur.deepprune.rule import ClusterRule, FinishRule, PruneRule
from secateur.runtime.errors import InputError
from tests.deepprune.test_controller import CUTS, RULE, SPEC, LastLetterJudge, by_id, jobs_of, problems, replay_of
from tests.scripted_engine import ScriptedEngine

TRIPLE = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=float)


def gathered(
    scores: np.ndarray | PairScores, rule: PruneRule, seed: int = 0, whole: dict[int, str | None] | None = None
) -> tuple[JudgedPolicy, Progress, Move]:
    """A policy whose traces have all come to their cuts, or to their ends before that (`whole`, with answers), and
    what it says then."""
    known = PairScores.of_matrix(scores) if isinstance(scores, np.ndarray) else scores
    policy, progress = JudgedPolicy(known, rule, seed), Progress(known.n)
    progress.start(policy.next(progress, ()).start)
    for trace, key in (whole or {}).items():
        progress.end(trace, key)
    left = sorted(progress.to_cut)
    (progress.park if policy.parks else progress.run)(left)
    return policy, progress, policy.next(progress, range(known.n))


def follow(progress: Progress, move: Move, **ends: str | None) -> None:
    """Do what a move says; then traces end, written t<number>=answer."""
    progress.prune(move.prune)
    progress.run(move.resume)
    for name, key in ends.items():
        progress.end(int(name[1:]), key)


def same_group(groups: np.ndarray) -> np.ndarray:
    return np.where(groups[:, None] == groups[None, :], 0.9, 0.1)


def test_losers_are_pruned_and_the_others_go_on() -> None:
    policy, progress, move = gathered(TRIPLE, PruneRule())
    assert move == Move(resume=(0, 2), prune=(1,))
    follow(progress, move, t2="7")
    assert policy.next(progress, ()) == Move()
    progress.end(0, None)
    assert policy.vote(progress.finished) == "7"
    decision = policy.decision(progress.finished)
    assert (decision.survivors, decision.weights, decision.order) == ([0, 2], [1.0, 1.0], [0, 1, 2])


def test_whole_traces_of_losers_do_not_vote() -> None:
    policy, progress, move = gathered(TRIPLE, PruneRule(), whole={1: "3"})
    assert move == Move(resume=(0, 2))
    follow(progress, move, t0="7", t2=None)
    assert policy.vote(progress.finished) == "7"
    assert policy.decision(progress.finished).survivors == [0, 2]


def test_running_losers_are_pruned_and_running_survivors_left_alone() -> None:
    _, _, move = gathered(TRIPLE, PruneRule(mode="overlap"))
    assert move == Move(prune=(1,))


def test_a_trace_has_one_status() -> None:
    progress = Progress(4)
    assert [progress.status(trace) for trace in range(4)] == ["unstarted"] * 4
    assert progress.start(3) == range(3) and progress.to_cut == {0, 1, 2} and progress.held == 3
    progress.end(1, "7")
    progress.park([0])
    progress.run([2])
    assert [progress.status(trace) for trace in range(4)] == ["parked", "whole", "running", "unstarted"]
    progress.prune([0])
    progress.end(2, None)
    assert [progress.status(trace) for trace in range(4)] == ["pruned", "whole", "finished", "unstarted"]
    assert progress.held == 0 and progress.stands_still and progress.finished == {1: "7", 2: None}


def test_a_decided_vote_ends_everybody() -> None:
    policy = FinishAll({0: 1.0, 1: 1.0, 2: 1.0, 5: 1.0}, stop_when_decided=True)
    assert policy.next({}, (), {0, 1, 2, 5}) == Move(resume=(0, 1, 2, 5))
    assert policy.next({1: "7"}, {0, 2, 5}, ()) == Move()
    assert policy.next({1: "7", 2: "7"}, {0, 5}, ()) == Move()  # 0 and 5 could agree, and 0 speaks first
    assert policy.next({1: "7", 2: "7", 0: "3"}, {5}, ()) == Move()
    policy = FinishAll({0: 1.0, 1: 1.0, 2: 1.0}, stop_when_decided=True)
    assert policy.next({1: "7", 2: "7"}, {0}, ()) == Move(prune=(0,))


@settings(deadline=None)
@given(st.integers(2, ALL_PAIRS), st.integers(0, 1000))
def test_few_traces_are_scored_in_one_batch(n: int, seed: int) -> None:
    scores = same_group(np.random.default_rng(seed).integers(0, 4, n))
    calls = []

    def ask(pairs: np.ndarray) -> np.ndarray:
        calls.append(len(pairs))
        return scores[pairs[:, 0], pairs[:, 1]]

    rule = PruneRule(finish=FinishRule(policy="soft"))
    asked, _, move = gathered(PairScores(n, ask), rule, seed)
    assert calls == [n * (n - 1) // 2]
    stored, _, same_move = gathered(scores, rule, seed)
    everybody = dict.fromkeys(move.resume, "1")
    assert move == same_move and asked.decision(everybody) == stored.decision(everybody)


@pytest.mark.parametrize("policy", ["largest", "representatives", "soft"])
def test_many_traces_are_asked_for_what_matters_and_no_pair_twice(policy: str) -> None:
    n = 300
    scores = same_group(np.random.default_rng(1).integers(0, 12, n))
    asked = []

    def ask(pairs: np.ndarray) -> np.ndarray:
        asked.extend(map(tuple, pairs.tolist()))
        return scores[pairs[:, 0], pairs[:, 1]]

    rule = PruneRule(ClusterRule(compared=4), FinishRule(policy=policy))
    (lazy, _, move), (stored, _, same_move) = gathered(PairScores(n, ask), rule, 3), gathered(scores, rule, 3)
    everybody = dict.fromkeys(move.resume, "1")
    assert move == same_move and lazy.decision(everybody) == stored.decision(everybody)
    assert len(asked) == len(set(asked)) < n * (n - 1) // 3
    assert all(earlier < later for later, earlier in asked)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.full(3, np.nan), "3 of 3 judge scores are not between 0 and 1"),
        (np.array([0.5, 1.5, 0.1]), "1 of 3 judge scores are not between 0 and 1"),
        (np.ones((3, 1)), r"it gave scores of shape [3, 1] for 3 pairs"),
        (np.ones(2), r"it gave scores of shape [2] for 3 pairs"),
        (JudgeFailure("the server is gone"), "the server is gone"),
    ],
)
def test_a_failing_judge_leaves_the_consensus_of_all(answer: np.ndarray | Exception, told: str) -> None:
    def ask(pairs: np.ndarray) -> np.ndarray:
        if isinstance(answer, Exception):
            raise answer
        return answer

    rule = PruneRule(finish=FinishRule(stop_when_decided=True))
    policy, progress, move = gathered(PairScores(3, ask), rule, whole={0: "1"})
    assert policy.judge_failure == told and move == Move(resume=(1, 2))
    follow(progress, move, t2="2")
    assert policy.next(progress, ()) == Move()  # to the very end
    progress.end(1, "2")
    assert policy.vote(progress.finished) == "2"
    assert policy.decision(progress.finished).clustering is None


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(InputError, match="mode = 'now'"):
        PruneRule(mode="now")


@settings(deadline=None)
@given(st.integers(2, 12), st.data())
def test_scores_between_some_are_asked_once(n: int, data: st.DataObject) -> None:
    table = np.eye(n)
    lower = np.tril_indices(n, -1)
    table[lower] = np.random.default_rng(n).random(len(lower[0]))
    table = np.maximum(table, table.T)
    asked: list[tuple[int, int]] = []

    def ask(pairs: np.ndarray) -> np.ndarray:
        asked.extend(map(tuple, pairs.tolist()))
        return table[pairs[:, 0], pairs[:, 1]]

    scores = PairScores(n, ask)
    for _ in range(3):
        rows, columns = (data.draw(st.lists(st.integers(0, n - 1), unique=True)) for _ in range(2))
        assert np.array_equal(scores.between(rows, columns), table[np.ix_(rows, columns)])
    assert len(asked) == len(set(asked))
    assert all(later > earlier for later, earlier in asked)


class UntilTwoAgree(FinishPolicy):
    """Waves: one trace at a time goes on, those that ended first being asked first, until two answers agree."""

    def weights(self, finished: Finished) -> dict[int, float]:
        return dict.fromkeys(finished, 1.0)

    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        given = [key for key in finished.values() if key is not None]
        if len(given) > len(set(given)):
            return Move(prune=tuple(sorted(running)))
        return Move(resume=tuple(sorted(parked)[:1]))


@settings(max_examples=60, deadline=None)
@given(problems(), CUTS, st.integers(1, 40))
def test_policies_of_many_waves_live_as_they_replay(
    scripts: dict[int, list[str]], cut: CutRule, max_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secateur.deepprune.gathering.finish_policy", lambda *arguments: UntilTwoAgree())
        jobs = jobs_of(scripts)
        shared = by_id(list(run_live(ScriptedEngine(scripts), jobs, SPEC, LastLetterJudge(cut), RULE, max_rows)))
        for job in jobs:
            replayed, answer = replay_of(job, scripts, cut, RULE)
            live = shared[job.problem_id]
            assert (live.decision, live.usage, live.answer) == (replayed.decision, replayed.usage, answer)
            assert replayed.kept_tokens == [len(trace.token_ids) for trace in live.traces]


def test_a_lead_lets_only_as_many_go_on_as_it_needs() -> None:
    policy = FinishUntilLead([1, 2, 4, 5], lead=2)
    assert policy.next({}, (), {0, 1, 2, 3, 4, 5}) == Move(resume=(1, 2), prune=(0, 3))
    assert policy.next({1: "7"}, {2}, {4, 5}) == Move()
    assert policy.next({1: "7", 2: "3"}, (), {4, 5}) == Move(resume=(4, 5))
    assert policy.next({1: "7", 2: None}, (), {4, 5}) == Move(resume=(4,))
    assert policy.next({1: "7", 2: "7"}, (), {4, 5}) == Move(prune=(4, 5))
    assert policy.vote({1: "7", 2: "7"}) == "7"


def test_a_lead_that_cannot_be_lost_any_more_is_enough_where_asked_for() -> None:
    for stops, move in ((False, Move(resume=(2,))), (True, Move(prune=(2,)))):
        policy = FinishUntilLead([0, 1, 2], lead=3, stop_when_decided=stops)
        assert policy.next({0: "7", 1: "7"}, (), {2}) == move


def test_whole_traces_of_the_cluster_count_towards_the_lead() -> None:
    _, _, move = gathered(np.ones((4, 4)), PruneRule(finish=FinishRule(lead=2)), whole={0: "7", 3: "7"})
    assert move == Move(prune=(1, 2))


@pytest.mark.parametrize("values", [{"lead": -1}, {"lead": 2, "policy": "soft"}])
def test_impossible_leads_are_refused(values: dict) -> None:
    with pytest.raises(InputError, match="lead"):
        FinishRule(**values)
