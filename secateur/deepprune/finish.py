"""Which traces are run to their end once the clusters are known, and how much each of their votes weighs.

Traces that ended before their cut are *whole*: they cost nothing more. Where traces are drawn for finishing, whole
ones therefore come first, and all of those in the drawn group vote; the paper's counts K2 and K3 bound what still has
to be generated. How the paper ranks its "top" traces is published nowhere: ours is a seeded random draw.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from secateur.deepprune.clustering import Clustering
from secateur.runtime.errors import InputError

if TYPE_CHECKING:
    from secateur.deepprune.scores import PairScores


@dataclass(frozen=True)
class FinishRule:
    """Who runs to its end, and how votes weigh.

    largest: traces of the largest cluster that go on, the paper's K2.
    singletons: traces of all n that go on where every cluster has one member, so that the clustering says nothing;
      the paper's K3. For `largest` and `representatives`.
    policy: `largest`: up to K2 traces of the largest cluster, the earlier of equals, go on. `representatives`: one
      trace of every cluster goes on and votes with the cluster's size. `soft`, ours: K2 traces in all go on, allotted
      to the clusters by size; every other trace gives its one vote to the finished ones, in proportion to the cube
      of its judge scores with them.
    stop_when_decided: survivors stop as soon as those that still run cannot change the vote; the answer stays.
    lead: ours, for `largest`, 0 is off: survivors go on a few at a time, just as many as one answer still needs to
      be so many votes ahead of the next, and no more once it is (Wald's sequential test between two answers).
      Members of one cluster mostly agree, so two or three of them finish where the paper's rule finishes all K2.
    """

    largest: int = 10
    singletons: int = 64
    policy: Literal["largest", "representatives", "soft"] = "largest"
    stop_when_decided: bool = False
    lead: int = 0

    def __post_init__(self) -> None:
        for key in ("largest", "singletons"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} = {getattr(self, key)}: somebody must be left to vote; write 1 or more")
        if self.policy not in ("largest", "representatives", "soft"):
            raise InputError(f"policy = {self.policy!r}: unknown; write 'largest', 'representatives' or 'soft'")
        if self.lead < 0 or (self.lead and self.policy != "largest"):
            raise InputError(f"lead = {self.lead}: expected votes, 0 (off) or more, and policy 'largest' with it")


def choose_survivors(
    clustering: Clustering,
    rule: FinishRule,
    scores: "PairScores",
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


def _soft_weights(survivors: Sequence[int], scores: "PairScores") -> list[float]:
    """One vote of its own for each survivor, and its part of those of all others; who resembles nobody abstains."""
    others = np.setdiff1d(np.arange(scores.n), survivors)
    likeness = scores.between(others, survivors).astype(np.float64) ** 3
    totals = likeness.sum(axis=1, keepdims=True)
    shares = np.divide(likeness, totals, out=np.zeros_like(likeness), where=totals > 0)
    return (1.0 + shares.sum(axis=0)).tolist()
