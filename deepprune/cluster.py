"""Greedy clustering of parallel traces by a judge's scores (DeepPrune, arXiv 2510.08483, its online algorithm).

Traces are taken in their fixed order. Each is compared with up to `compared` members of every cluster and joins the
most similar one, or opens a new one. Where the sources are silent: the members are drawn by seed and trace alone;
equal similarities go to the earlier cluster; what follows once all clusters are open is `overflow`.

Here all scores are at hand; grow.py asks for those that matter and comes to the same clusters. For that, scores are
rounded to multiples of 2⁻³²: sums of them are exact in any order.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtime.errors import InputError

UNITS = 2.0**32  # a score is counted in so many parts
_SMALL = 256  # traces up to which all priorities of a seed are kept


@dataclass(frozen=True)
class ClusterRule:
    """`tau` is the similarity (0-1) to exceed for joining, `max_clusters` the paper's K, `compared` its K1.

    `overflow`: once K clusters exist, "stop" leaves all later traces unassigned, "join_best" puts each into its most
    similar cluster whatever the similarity.
    """

    tau: float = 0.5
    max_clusters: int = 32
    compared: int = 10
    overflow: Literal["stop", "join_best"] = "stop"

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise InputError(f"tau = {self.tau}: judge scores lie between 0 and 1; choose a threshold there (0.5)")
        if self.max_clusters < 1:
            raise InputError(f"max_clusters = {self.max_clusters}: there must be a cluster to join; write 1 or more")
        if self.compared < 1:
            raise InputError(f"compared = {self.compared}: each cluster must be asked at least once; write 1 or more")
        if self.overflow not in ("stop", "join_best"):
            raise InputError(f"overflow = {self.overflow!r}: unknown; write 'stop' or 'join_best'")


@dataclass(frozen=True)
class Clustering:
    """`clusters` in the order they were opened, members in the order they joined.

    `comparisons` counts the pairs that the rule looks at; what a judge was asked is in its ledger.
    """

    clusters: list[list[int]]
    unassigned: list[int]
    comparisons: int

    def labels(self, n: int) -> list[int | None]:
        """Cluster index of each of the n traces, None where unassigned."""
        labels: list[int | None] = [None] * n
        for index, members in enumerate(self.clusters):
            for trace in members:
                labels[trace] = index
        return labels


def cluster_traces(scores: np.ndarray, rule: ClusterRule, seed: int) -> Clustering:
    """Cluster the n traces of a matrix [n, n] of judge probabilities 0-1; the part below its diagonal is read."""
    n, most = len(scores), rule.compared
    if n < 2:
        raise InputError(f"n = {n}: clustering compares traces of one problem; sample at least 2 of each")
    units, bar = np.rint(scores * UNITS), np.rint(rule.tau * UNITS)
    labels, sizes = np.zeros(n, dtype=np.int64), np.zeros(min(n, rule.max_clusters), dtype=np.int64)
    clusters: list[list[int]] = []
    large: list[int] = []  # clusters with more members than are asked
    comparisons = 0
    for trace in range(n):
        full = len(clusters) == rule.max_clusters
        if full and rule.overflow == "stop":
            return Clustering(clusters, list(range(trace, n)), comparisons)
        best = len(clusters)
        if clusters:
            before, row = labels[:trace], units[trace]
            sums = np.bincount(before, row[:trace])
            priority = _priorities_of(seed, trace, n) if large else None
            for index in large:
                members = np.flatnonzero(before == index)
                sums[index] = row[members[np.argpartition(priority[members], most)[:most]]].sum()
            asked = np.minimum(sizes[: len(clusters)], most)
            comparisons += int(asked.sum())
            means = sums / asked
            likest = int(means.argmax())  # the first of equals
            best = likest if full or means[likest] > bar else best
        if best == len(clusters):
            clusters.append([])
        clusters[best].append(trace)
        labels[trace] = best
        sizes[best] += 1
        if sizes[best] == most + 1:
            large.append(best)
    return Clustering(clusters, [], comparisons)


def priorities(seed: int, traces: np.ndarray, members: np.ndarray) -> np.ndarray:
    """[traces, members] uint64: of a large cluster the members with the lowest priorities for a trace are asked.

    Pseudo-random and without equals in a row. A priority depends on seed, trace and member only, so the draw is the
    same in whatever order or batch pairs are scored (the mixing function is SplitMix64's).
    """
    key = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    rows = _mix(np.asarray(traces).astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + key)
    return _mix(rows[:, None] + np.asarray(members).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mix(x: np.ndarray) -> np.ndarray:
    """In place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    return x


def _priorities_of(seed: int, trace: int, n: int) -> np.ndarray:
    """[members] at least all earlier ones."""
    if n > _SMALL:
        return priorities(seed, np.array([trace]), np.arange(trace))[0]
    return _all_priorities(seed)[trace]


@functools.lru_cache(maxsize=4)
def _all_priorities(seed: int) -> np.ndarray:
    """[_SMALL, _SMALL]: a replay of many orders comes back with the same seed."""
    return priorities(seed, np.arange(_SMALL), np.arange(_SMALL))
