"""Who runs on after the judge has scored the cuts: a plan that may look at the answers of traces as they end.

The live controller (online.py) and the replay (replay.py) ask the same plan at the same decode steps, so a replay
keeps and spends what the live run does, also where the plan reacts to answers.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.deepprune.clustering import Clustering, cluster_asking, cluster_traces
from secateur.deepprune.decide import Decision, JudgeFailure, PruneRule
from secateur.deepprune.finish import FinishRule, choose_survivors
from secateur.deepprune.scores import PairScores
from secateur.deepprune.vote import is_decided, weighted_vote

Finished = Mapping[int, Hashable | None]
"""Ended traces in the order of their ends → answer key: equal answers have equal keys, None is no answer."""

ALL_PAIRS = 64  # traces up to which all pairs are scored in one batch, whoever of them is compared


@dataclass(frozen=True)
class Move:
    """Parked traces that go on, and parked or running ones that end here."""

    resume: tuple[int, ...] = ()
    prune: tuple[int, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What a plan is made from: one problem whose n traces all stand at, or ran past, their cuts.

    `ended` are the traces that have ended and cost nothing more, `gone` those that were pruned when they came
    (overlap).
    """

    n: int
    clustering: Clustering
    scores: PairScores
    seed: int
    ended: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()


class FinishPlan(ABC):
    """A plan for one problem. Plans define `next` and `weights`; they must not depend on anything but what they get.

    `clustering` is None where the judge failed, and `judge_failure` then says why.
    """

    clustering: Clustering | None = None
    judge_failure: str | None = None

    @abstractmethod
    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        """Called once after judging, when `finished` holds the traces that had ended by then, and again at every step
        at which traces of the problem ended. When nothing runs after a move, the problem is done and every parked
        trace is pruned. What is surely needed no more should be pruned at once: it holds memory."""

    @abstractmethod
    def weights(self, finished: Finished) -> Mapping[int, float]:
        """The positive weight of every trace that has a vote or may still get one; others do not vote."""

    def vote(self, finished: Finished) -> Hashable | None:
        """The answer; None if no voter gave one."""
        return weighted_vote(finished, self.weights(finished))

    def decision(self, finished: Finished, order: Sequence[int]) -> Decision:
        """The record of a problem that is done."""
        weights = self.weights(finished)
        voters = sorted(trace for trace in weights if trace in finished)
        return Decision(
            self.clustering, voters, [weights[trace] for trace in voters], list(order), self.judge_failure
        )


class OneWave(FinishPlan):
    """All survivors go on at once and vote with fixed weights: the paper's finishing, and its simple variants.

    With `stop_when_decided` they end as soon as those that still run cannot change the vote.
    """

    def __init__(
        self,
        survivors: Mapping[int, float],
        clustering: Clustering | None,
        stop_when_decided: bool = False,
        judge_failure: str | None = None,
    ) -> None:
        self.clustering, self.judge_failure = clustering, judge_failure
        self._weights, self._stops = dict(survivors), stop_when_decided

    def weights(self, finished: Finished) -> Mapping[int, float]:
        return self._weights

    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        held = sorted([*running, *parked])
        if self._stops and is_decided(finished, self._weights):
            return Move(prune=tuple(held))
        return Move(
            resume=tuple(trace for trace in sorted(parked) if trace in self._weights),
            prune=tuple(trace for trace in held if trace not in self._weights),
        )


class UntilLead(FinishPlan):
    """Of `survivors`, as many go on as one answer needs to be `lead` votes ahead of the next, in order."""

    def __init__(
        self, survivors: Sequence[int], clustering: Clustering, lead: int, stop_when_decided: bool = False
    ) -> None:
        self.clustering, self._survivors, self._lead = clustering, list(survivors), lead
        self._stops = stop_when_decided

    def weights(self, finished: Finished) -> Mapping[int, float]:
        return dict.fromkeys(self._survivors, 1.0)

    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        held = {*running, *parked}
        votes = Counter(finished[trace] for trace in self._survivors if finished.get(trace) is not None)
        first, second = (*sorted(votes.values(), reverse=True)[:2], 0, 0)[:2]
        missing = self._lead - (first - second)
        if missing <= 0 or (self._stops and is_decided(finished, self.weights(finished))):
            return Move(prune=tuple(sorted(held)))
        waiting = [trace for trace in self._survivors if trace in parked]
        going = [trace for trace in self._survivors if trace in running]
        return Move(
            resume=tuple(waiting[: max(0, missing - len(going))]),
            prune=tuple(sorted(held.difference(self._survivors))),
        )


def make_plan(scores: np.ndarray | PairScores, rule: PruneRule, seed: int, whole: Collection[int] = ()) -> FinishPlan:
    """Cluster the traces of one problem in their order and plan who goes on; the same arguments give the same plan.

    `scores` [n, n] are P(same answer), 0-1; where they are none, or cannot be had, it is the consensus of all traces.
    `seed` is the problem's `decision_seed`; `whole` are the traces that ended before their cut.
    """
    n = len(scores) if isinstance(scores, np.ndarray) else scores.n
    try:
        known = PairScores.of_matrix(scores) if isinstance(scores, np.ndarray) else scores
        if n <= ALL_PAIRS or known.matrix is not None:
            clustering = cluster_traces(known.ask_all(), rule.cluster, seed)
        else:
            clustering = cluster_asking(n, known.ask, rule.cluster, seed)
        return finish_plan(Judged(n, clustering, known, seed, frozenset(whole)), rule.finish)
    except JudgeFailure as failure:
        return consensus_plan(range(n), str(failure))


def finish_plan(judged: Judged, rule: FinishRule) -> FinishPlan:
    """The plan of `rule.policy` for traces that are clustered. Raises `JudgeFailure` if a score cannot be had."""
    survivors, weights = choose_survivors(
        judged.clustering, rule, judged.scores, judged.seed, judged.ended, judged.gone
    )
    if rule.lead:
        return UntilLead(survivors, judged.clustering, rule.lead, rule.stop_when_decided)
    return OneWave(dict(zip(survivors, weights, strict=True)), judged.clustering, rule.stop_when_decided)


def consensus_plan(traces: Collection[int], judge_failure: str) -> FinishPlan:
    """The consensus of all `traces`, to their very ends, because the judge failed."""
    return OneWave(dict.fromkeys(sorted(traces), 1.0), None, judge_failure=judge_failure)
