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
    """How traces are put into clusters.

    tau: similarity (0-1) that a trace must exceed to join a cluster.
    max_clusters: clusters that can be opened, the paper's K.
    compared: members of a cluster that a trace is compared with, the paper's K1.
    overflow: once all clusters are open, `stop` leaves all later traces unassigned, `join_best` puts each into its
      most similar cluster whatever the similarity.
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
    units, bar = np.rint(np.ascontiguousarray(scores.T) * UNITS), np.rint(rule.tau * UNITS)
    slots = min(n, rule.max_clusters)
    sums, asked = np.zeros((slots, n)), np.zeros(slots)  # of each cluster with all later traces; members that count
    clusters: list[list[int]] = []
    large: dict[int, np.ndarray] = {}  # clusters with more members than are asked; room for all of them
    comparisons = pairs = 0
    for trace in range(n):
        best = opened = len(clusters)
        full = opened == rule.max_clusters
        if full and rule.overflow == "stop":
            return Clustering(clusters, list(range(trace, n)), comparisons)
        if opened:
            for index, members in large.items():
                members = members[: len(clusters[index])]
                drawn = members[_priorities_of(seed, trace, n)[members].argpartition(most)[:most]]
                sums[index, trace] = units[drawn, trace].sum()
            comparisons += pairs
            means = sums[:opened, trace] / asked[:opened]
            likest = int(means.argmax())  # the first of equals
            best = likest if full or means[likest] > bar else best
        if best == opened:
            clusters.append([])
        size = len(clusters[best])
        clusters[best].append(trace)
        if size < most:
            asked[best] += 1
            pairs += 1
            sums[best, trace + 1 :] += units[trace, trace + 1 :]
        elif size == most:
            large[best] = np.empty(n, dtype=np.int64)
            large[best][: most + 1] = clusters[best]
        else:
            large[best][size] = trace
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
