"""Greedy clustering of parallel traces by a judge's scores (DeepPrune, arXiv 2510.08483, its online algorithm).

Traces are taken in their fixed order. Each is compared with up to `compared` members of every cluster and joins the
most similar one, or opens a new one. Where the sources are silent: the members are drawn by seed, trace and cluster
alone; equal similarities go to the earlier cluster; what follows once all clusters are open is `overflow`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtime.errors import InputError

Similarity = np.ndarray | Callable[[int, Sequence[int]], Sequence[float]]
"""Judge probabilities 0-1: a matrix [n, n], or a function of a trace and earlier traces that scores those pairs."""


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
    """`clusters` in the order they were opened, members in the order they joined; `comparisons` counts pairs."""

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


def cluster_traces(n: int, similarity: Similarity, rule: ClusterRule, seed: int) -> Clustering:
    """Cluster traces 0 … n-1. A matrix and a function that returns its entries give the same result."""
    if n < 2:
        raise InputError(f"n = {n}: clustering compares traces of one problem; sample at least 2 of each")
    score = (lambda trace, members: similarity[trace, members]) if isinstance(similarity, np.ndarray) else similarity
    clusters: list[list[int]] = []
    comparisons = 0
    for trace in range(n):
        full = len(clusters) == rule.max_clusters
        if full and rule.overflow == "stop":
            return Clustering(clusters, list(range(trace, n)), comparisons)
        drawn = _draw(trace, clusters, rule.compared, seed)
        comparisons += sum(map(len, drawn))
        means = _mean_scores(trace, drawn, score)
        best = int(np.argmax(means)) if clusters else None
        if best is not None and (full or means[best] > rule.tau):
            clusters[best].append(trace)
        else:
            clusters.append([trace])
    return Clustering(clusters, [], comparisons)


def _draw(trace: int, clusters: list[list[int]], compared: int, seed: int) -> list[list[int]]:
    """Up to `compared` members of each cluster, at random without replacement.

    Each earlier trace has one priority for this trace, and a cluster sends its first few: the draw depends on seed,
    trace and cluster only, so it is the same in whatever order or batch pairs are scored.
    """
    if all(len(members) <= compared for members in clusters):
        return clusters
    priority = np.random.default_rng([seed, trace]).random(trace).tolist()
    return [sorted(members, key=priority.__getitem__)[:compared] for members in clusters]


def _mean_scores(
    trace: int, drawn: list[list[int]], score: Callable[[int, Sequence[int]], Sequence[float]]
) -> np.ndarray:
    """Mean score of `trace` with each cluster's drawn members, [clusters]; one call, so that a judge can batch."""
    if not drawn:
        return np.empty(0)
    sizes = [len(members) for members in drawn]
    scores = np.asarray(score(trace, [member for members in drawn for member in members]), dtype=np.float64)
    return np.add.reduceat(scores, np.cumsum([0, *sizes[:-1]])) / sizes
