"""Which traces are run to their end once the clusters are known, and how much each of their votes weighs.

Traces that ended before their cut are *whole*: they cost nothing more. Where traces are drawn for finishing, whole
ones therefore come first, and all of those in the drawn group vote; the paper's counts K2 and K3 bound what still has
to be generated. How the paper ranks its "top" traces is published nowhere: ours is a seeded random draw.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np

from secateur.deepprune.answers import AnswerRule
from secateur.deepprune.clustering import Clustering
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.policy import Finished, Move
from secateur.deepprune.rule import FinishRule
from secateur.deepprune.starting import Waves
from secateur.deepprune.stopping import BetaPosterior, WindowAgrees
from secateur.deepprune.vote import Tally, is_decided, weighted_vote


class FinishPolicy(ABC):
    """Who goes on behind the cut. Subclasses define `next` and `weights`; they must not depend on anything but what
    they get."""

    @abstractmethod
    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        """Asked once after judging, when `finished` holds the traces that had ended by then, and again at every step
        at which traces of the problem ended."""

    @abstractmethod
    def weights(self, finished: Finished) -> Mapping[int, float]:
        """The positive weight of every trace that has a vote or may still get one; others do not vote."""

    def disagree(self, finished: Finished) -> bool:
        """Whether voters that have finished say that the clusters were trusted too early. Never where the published
        rule decides."""
        return False

    def vote(self, finished: Finished) -> Hashable | None:
        """The answer; None if no voter gave one."""
        return weighted_vote(finished, self.weights(finished))


class FinishAll(FinishPolicy):
    """All survivors go on at once and vote with fixed weights: the paper's finishing, and its simple variants.

    With `stop_when_decided` they end as soon as those that still run cannot change the vote.
    """

    def __init__(
        self,
        survivors: Mapping[int, float],
        stop_when_decided: bool = False,
    ) -> None:
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


class FinishUntilLead(FinishPolicy):
    """Of `survivors`, as many go on as one answer needs to be `lead` votes ahead of the next, in order."""

    def __init__(self, survivors: Sequence[int], lead: int, stop_when_decided: bool = False) -> None:
        self._survivors, self._lead = list(survivors), lead
        self._stops = stop_when_decided

    def weights(self, finished: Finished) -> Mapping[int, float]:
        return dict.fromkeys(self._survivors, 1.0)

    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        held = {*running, *parked}
        first, second = self._top_two(finished)
        missing = self._lead - (first - second)
        if missing <= 0 or (self._stops and is_decided(finished, self.weights(finished))):
            return Move(prune=tuple(sorted(held)))
        waiting = [trace for trace in self._survivors if trace in parked]
        going = [trace for trace in self._survivors if trace in running]
        return Move(
            resume=tuple(waiting[: max(0, missing - len(going))]),
            prune=tuple(sorted(held.difference(self._survivors))),
        )

    def disagree(self, finished: Finished) -> bool:
        first, second = self._top_two(finished)
        return second > 0 and first - second < self._lead

    def _top_two(self, finished: Finished) -> tuple[int, int]:
        votes = Counter(finished[trace] for trace in self._survivors if finished.get(trace) is not None)
        first, second = (*sorted(votes.values(), reverse=True)[:2], 0, 0)[:2]
        return first, second


_UNTIL = {
    "beta": AnswerRule(BetaPosterior(), Waves(1)),
    "window": AnswerRule(WindowAgrees(), Waves(WindowAgrees().size, only_full=True)),
}
"""`FinishRule.until` → Adaptive-Consistency, and early stopping."""


class FinishByAnswers(FinishPolicy):
    """Of `survivors` as many go on at a time, in order, as a rule of finished answers wants, until it has enough."""

    def __init__(self, survivors: Sequence[int], rule: AnswerRule) -> None:
        self._survivors, self._rule = list(survivors), rule

    def weights(self, finished: Finished) -> Mapping[int, float]:
        return dict.fromkeys(self._survivors, 1.0)

    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        waiting = [trace for trace in self._survivors if trace in parked]
        tally = Tally(len(self._survivors), sum(trace in running for trace in self._survivors), len(waiting))
        for trace, key in finished.items():
            if trace in self._survivors:
                tally.add(key)
        held = {*running, *parked}
        if self._rule.stop.enough(tally):
            return Move(prune=tuple(sorted(held)))
        wanted = max(0, self._rule.start.running(tally, self._rule.stop) - tally.running)
        return Move(resume=tuple(waiting[:wanted]), prune=tuple(sorted(held.difference(self._survivors))))


def finish_policy(
    clustering: Clustering,
    scores: PairScores,
    rule: FinishRule,
    seed: int,
    whole: Collection[int] = (),
    gone: Collection[int] = (),
) -> FinishPolicy:
    """The policy of `rule` for traces that are clustered; `whole` and `gone` as in `choose_survivors`. Raises
    `JudgeFailure` if a score cannot be had."""
    survivors, weights = choose_survivors(clustering, rule, scores, seed, whole, gone)
    if rule.lead:
        return FinishUntilLead(survivors, rule.lead, rule.stop_when_decided)
    if rule.until != "all":
        return FinishByAnswers(survivors, _UNTIL[rule.until])
    return FinishAll(dict(zip(survivors, weights, strict=True)), rule.stop_when_decided)


def consensus_of(traces: Collection[int]) -> FinishPolicy:
    """All `traces` go on to their very ends and vote alike."""
    return FinishAll(dict.fromkeys(sorted(traces), 1.0))


def choose_survivors(
    clustering: Clustering,
    rule: FinishRule,
    scores: PairScores,
    seed: int,
    whole: Collection[int] = (),
    gone: Collection[int] = (),
) -> tuple[list[int], list[float]]:
    """Survivors in ascending order, whole ones included, and the weight of each one's vote.

    `scores` are the judge's, 0-1; only "soft" reads them. `gone` are traces that were pruned before (overlap): they
    count as members of their clusters but cannot be chosen.
    """
    clusters = clustering.clusters
    left = [[trace for trace in members if trace not in gone] for members in clusters] if gone else clusters
    if rule.policy == "soft":
        survivors = _allotted(clusters, left, rule.largest, seed, whole)
        return survivors, _soft_weights(survivors, scores)
    if all(len(members) == 1 for members in clusters):
        unassigned = [trace for trace in clustering.unassigned if trace not in gone]
        everybody = sorted([*(members[0] for members in clusters), *unassigned])
        return _unweighted(_draw(everybody, rule.singletons, seed, whole))
    if rule.policy == "largest":
        largest = max(range(len(clusters)), key=lambda index: len(clusters[index]))  # max keeps the first of equals
        return _unweighted(_draw(left[largest], rule.largest, seed, whole))
    sizes = map(len, clusters)
    chosen = sorted((_representative(members, whole), size) for members, size in zip(left, sizes, strict=True))
    return [trace for trace, _ in chosen], [float(size) for _, size in chosen]


def never_needed(trace: int, clustering: Clustering, rule: FinishRule, gone: Collection[int]) -> bool:
    """Whether `choose_survivors` can do without a trace that has just been clustered, whatever arrives after it.

    So it is where its cluster already holds as many others as could ever be chosen from it, and where it found all
    clusters closed and would not be drawn.
    """
    clusters, unassigned = clustering.clusters, clustering.unassigned
    if trace not in unassigned:
        members = next(members for members in clusters if trace in members)
        enough = 1 if rule.policy == "representatives" else rule.largest
        return sum(member not in gone for member in members[: members.index(trace)]) >= enough
    if rule.policy == "soft" or any(len(members) > 1 for members in clusters):
        return True
    alive = [*(members[0] for members in clusters), *unassigned[: unassigned.index(trace)]]
    return sum(other not in gone for other in alive) >= rule.singletons


def _unweighted(survivors: list[int]) -> tuple[list[int], list[float]]:
    return survivors, [1.0] * len(survivors)


def _draw(traces: Sequence[int], count: int, seed: int, whole: Collection[int]) -> list[int]:
    """All whole traces, and as many of the others, drawn at random, as bring them up to `count`."""
    free = [trace for trace in traces if trace in whole]
    others = [trace for trace in traces if trace not in whole]
    needed = min(max(count - len(free), 0), len(others))
    drawn = np.random.default_rng([seed]).permutation(len(others))[:needed]
    return sorted(free + [others[index] for index in drawn])


def _representative(members: Sequence[int], whole: Collection[int]) -> int:
    return next((trace for trace in members if trace in whole), members[0])


def _allotted(
    clusters: Sequence[list[int]], left: Sequence[list[int]], count: int, seed: int, whole: Collection[int]
) -> list[int]:
    """`count` traces, each next one from the cluster with the most members for each it has sent (D'Hondt's rule).

    `left` are the members of the clusters that can be sent. Traces without a cluster send nobody.
    """
    sent = [0] * len(clusters)
    for _ in range(min(count, sum(map(len, left)))):
        sent[max(range(len(clusters)), key=lambda index: len(clusters[index]) / (sent[index] + 1))] += 1
    return sorted(
        trace for members, seats in zip(left, sent, strict=True) for trace in _draw(members, seats, seed, whole)
    )


def _soft_weights(survivors: Sequence[int], scores: PairScores) -> list[float]:
    """One vote of its own for each survivor, and its part of those of all others; who resembles nobody abstains."""
    others = np.setdiff1d(np.arange(scores.n), survivors)
    likeness = scores.between(others, survivors).astype(np.float64) ** 3
    totals = likeness.sum(axis=1, keepdims=True)
    shares = np.divide(likeness, totals, out=np.zeros_like(likeness), where=totals > 0)
    return (1.0 + shares.sum(axis=0)).tolist()
