"""Which traces are run to their end once the clusters are known, and how much each of their votes weighs.

Traces that ended before their cut are *whole*: they cost nothing more. Where traces are drawn for finishing, whole
ones therefore come first, and all of those in the drawn group vote; the paper's counts K2 and K3 bound what still has
to be generated. How the paper ranks its "top" traces is published nowhere: ours is a seeded random draw.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepprune.cluster import Clustering
from runtime.errors import InputError


@dataclass(frozen=True)
class FinishRule:
    """`largest` is the paper's K2, `singletons` its K3 [traces].

    `policy` "largest": up to K2 traces of the largest cluster, the earlier of equals, go on. "representatives": one
    trace of every cluster goes on and votes with the cluster's size. If every cluster is a singleton, the clustering
    says nothing and K3 traces of all n go on under either of these.

    "soft", ours: K2 traces in all go on, allotted to the clusters by size; every other trace gives its one vote to
    the finished ones, in proportion to the cube of its judge scores with them. It needs no rule for singletons.
    """

    largest: int = 10
    singletons: int = 64
    policy: Literal["largest", "representatives", "soft"] = "largest"

    def __post_init__(self) -> None:
        for key in ("largest", "singletons"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} = {getattr(self, key)}: somebody must be left to vote; write 1 or more")
        if self.policy not in ("largest", "representatives", "soft"):
            raise InputError(f"policy = {self.policy!r}: unknown; write 'largest', 'representatives' or 'soft'")


def choose_survivors(
    clustering: Clustering, rule: FinishRule, scores: np.ndarray, seed: int, whole: Collection[int] = ()
) -> tuple[list[int], list[float]]:
    """Survivors in ascending order, whole ones included, and the weight of each one's vote.

    `scores` [n, n] are the judge's, 0-1; only "soft" reads them.
    """
    if rule.policy == "soft":
        survivors = _allotted(clustering, rule.largest, seed, whole)
        return survivors, _soft_weights(survivors, scores)
    if all(len(members) == 1 for members in clustering.clusters):
        everybody = sorted([*(members[0] for members in clustering.clusters), *clustering.unassigned])
        return _unweighted(_draw(everybody, rule.singletons, seed, whole))
    if rule.policy == "largest":
        largest = max(clustering.clusters, key=len)  # max keeps the first of equals
        return _unweighted(_draw(largest, rule.largest, seed, whole))
    chosen = sorted((_representative(members, whole), len(members)) for members in clustering.clusters)
    return [trace for trace, _ in chosen], [float(size) for _, size in chosen]


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


def _allotted(clustering: Clustering, count: int, seed: int, whole: Collection[int]) -> list[int]:
    """`count` traces, each next one from the cluster with the most members for each it has sent (D'Hondt's rule).

    Traces without a cluster send nobody.
    """
    clusters = clustering.clusters
    sent = [0] * len(clusters)
    for _ in range(min(count, sum(map(len, clusters)))):
        sent[max(range(len(clusters)), key=lambda index: len(clusters[index]) / (sent[index] + 1))] += 1
    return sorted(
        trace for members, seats in zip(clusters, sent, strict=True) for trace in _draw(members, seats, seed, whole)
    )


def _soft_weights(survivors: Sequence[int], scores: np.ndarray) -> list[float]:
    """One vote of its own for each survivor, and its part of those of all others; who resembles nobody abstains."""
    others = np.setdiff1d(np.arange(len(scores)), survivors)
    likeness = scores[np.ix_(others, survivors)].astype(np.float64) ** 3
    totals = likeness.sum(axis=1, keepdims=True)
    shares = np.divide(likeness, totals, out=np.zeros_like(likeness), where=totals > 0)
    return (1.0 + shares.sum(axis=0)).tolist()
