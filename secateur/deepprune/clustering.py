"""Greedy clustering of parallel traces by a judge's scores (DeepPrune, arXiv 2510.08483, its online algorithm).

Traces are taken in their fixed order. Each is compared with up to `compared` members of every cluster and joins the
most similar one, or opens a new one. Where the sources are silent: the members are drawn by seed and trace alone;
equal similarities go to the earlier cluster; what follows once all clusters are open is `overflow`.

Two ways to the same clusters: `KnownClusters` has all scores at hand, `AskingClusters` asks a judge for those that
matter. So that both agree, scores are rounded to multiples of 2⁻³²: sums of them are exact in any order.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.deepprune.rule import ClusterRule
from secateur.runtime.errors import InputError

AskPairs = Callable[[np.ndarray], Sequence[float]]
"""Judge probabilities 0-1 of pairs [pairs, 2] (later, earlier) of traces, in the order asked."""
BLOCK = 32  # traces
_MORE = 2  # members of a cluster that are asked next, as long as its missing scores could matter
_NOBODY = np.uint64(2**64 - 1)  # the priority of a free seat
UNITS = 2.0**32  # a score is counted in so many parts
_SMALL = 256  # traces up to which all priorities of a seed are kept


@dataclass(frozen=True)
class Clustering:
    """`clusters` in the order they were opened, members in the order they joined.

    `comparisons` counts the pairs that the rule looks at; what a judge was asked is in its usage.
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
    if len(scores) < 2:
        raise _too_few(len(scores))
    clusters = KnownClusters(scores, rule, seed)
    clusters.extend(len(scores))
    return clusters.clustering


class KnownClusters:
    """Clusters of traces of which all scores [n, n] are at hand; `clustering` holds the traces placed so far, in
    whatever portions they came."""

    def __init__(self, scores: np.ndarray, rule: ClusterRule, seed: int) -> None:
        self._scores, self._rule, self._seed = scores, rule, seed
        self._bar = np.rint(rule.tau * UNITS)
        self._n = 0
        self._large: dict[int, np.ndarray] = {}  # clusters with more members than are asked; room for all of them
        self.clustering = Clustering([], [], 0)

    def extend(self, count: int) -> None:
        """Place the next `count` traces."""
        clusters, unassigned = self.clustering.clusters, self.clustering.unassigned
        first, self._n = self._n, self._n + count
        table = _Table(self._scores, range(first, self._n), clusters, self._rule)
        comparisons = self.clustering.comparisons
        for trace in range(first, self._n):
            opened = len(clusters)
            full = opened == self._rule.max_clusters
            if full and self._rule.overflow == "stop":
                unassigned.extend(range(trace, self._n))
                break
            place = opened
            if opened:
                self._ask_large(trace, clusters, table)
                comparisons += table.pairs
                means = table.means(trace)
                likest = int(means.argmax())  # the first of equals
                place = likest if full or means[likest] > self._bar else opened
            if place == opened:
                clusters.append([])
            self._join(trace, place, clusters[place], table)
        self.clustering = Clustering(clusters, unassigned, comparisons)

    def _ask_large(self, trace: int, clusters: Sequence[list[int]], table: "_Table") -> None:
        """Of each large cluster only the members with the lowest priorities are asked."""
        if not self._large:
            return
        most, priority = self._rule.compared, _priorities_of(self._seed, trace, len(self._scores))
        for index, room in self._large.items():
            members = room[: len(clusters[index])]
            table.set_sum(index, trace, members[priority[members].argpartition(most)[:most]])

    def _join(self, trace: int, place: int, members: list[int], table: "_Table") -> None:
        size, most = len(members), self._rule.compared
        members.append(trace)
        if size < most:
            table.add(place, trace)
        elif size == most:
            self._large[place] = np.empty(len(self._scores), dtype=np.int64)
            self._large[place][: most + 1] = members
        else:
            self._large[place][size] = trace


class LinkedClusters:
    """Clusters of all traces at once by average linkage on their scores [n, n]; those that hold the earliest trace
    come first, members ascend."""

    def __init__(self, scores: np.ndarray, rule: ClusterRule) -> None:
        self._scores, self._rule = scores, rule
        self.clustering = Clustering([], [], 0)

    def extend(self, count: int) -> None:
        """Place all of them."""
        from scipy.cluster.hierarchy import fcluster, linkage

        n = len(self._scores)
        assert count == n >= 2, "average linkage sees all traces together"
        earlier, later = np.triu_indices(n, 1)
        tree = linkage(1.0 - self._scores[later, earlier], "average")
        labels = fcluster(tree, 1.0 - self._rule.tau, "distance").tolist()
        clusters: dict[int, list[int]] = {}
        for trace, label in enumerate(labels):
            clusters.setdefault(label, []).append(trace)
        self.clustering = Clustering(list(clusters.values()), [], n * (n - 1) // 2)


class _Table:
    """Sums of the scores of a portion of traces with the members of each cluster that they are compared with."""

    def __init__(self, scores: np.ndarray, traces: range, clusters: Sequence[list[int]], rule: ClusterRule) -> None:
        slots = min(traces.stop, rule.max_clusters)
        part = scores[traces.start : traces.stop, : traces.stop]
        self._units = np.rint(np.ascontiguousarray(part.T) * UNITS)  # [earlier trace, trace of the portion]
        self._first = traces.start
        self._sums, self._asked = np.zeros((slots, len(traces))), np.zeros(slots)
        self._opened = len(clusters)
        for index, members in enumerate(clusters):
            self._asked[index] = min(len(members), rule.compared)
            if len(members) <= rule.compared:  # of larger ones each trace asks others
                self._sums[index] = self._units[members].sum(axis=0)
        self.pairs = int(self._asked.sum())

    def means(self, trace: int) -> np.ndarray:
        return self._sums[: self._opened, trace - self._first] / self._asked[: self._opened]

    def set_sum(self, cluster: int, trace: int, members: np.ndarray) -> None:
        self._sums[cluster, trace - self._first] = self._units[members, trace - self._first].sum()

    def add(self, cluster: int, trace: int) -> None:
        """A trace of the portion is compared with all later ones from now on, as a member of `cluster`."""
        self._opened = max(self._opened, cluster + 1)
        self._asked[cluster] += 1
        self.pairs += 1
        later = trace - self._first + 1
        self._sums[cluster, later:] += self._units[trace, later:]


def _too_few(n: int) -> InputError:
    return InputError(f"n = {n}: clustering compares traces of one problem; sample at least 2 of each")


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


def cluster_asking(n: int, ask: AskPairs, rule: ClusterRule, seed: int, block: int = BLOCK) -> Clustering:
    """Cluster traces 0 … n-1 as `cluster_traces` does on the matrix of all scores. No pair is asked twice."""
    if n < 2:
        raise _too_few(n)
    clusters = AskingClusters(rule, seed, ask)
    for first in range(0, n, block):
        clusters.extend(min(block, n - first))
    return clusters.clustering


class AskingClusters:
    """Clusters that ask the judge as they grow: few calls, few pairs. `clustering` holds the traces placed so far; in
    what portions they came makes no difference to it.

    Traces come in blocks. A block is scored against itself and a few drawn members of every cluster, in one call;
    then its traces are placed one after the other. Where scores that are still missing could change a trace's place
    (each may turn out as 0 or 1), those of the clusters in question are asked for, in one call with the same of all
    later traces of the block. A pair is left out only if no score it could have would change where a trace goes."""

    def __init__(self, rule: ClusterRule, seed: int, ask: AskPairs) -> None:
        self._rule, self._seed, self._ask, self._n = rule, seed, ask, 0
        self.clustering = Clustering([], [], 0)

    def extend(self, count: int) -> None:
        """Place the next `count` traces."""
        for first in range(0, count, BLOCK):
            self._place_block(min(BLOCK, count - first))

    def _place_block(self, count: int) -> None:
        clusters, unassigned = self.clustering.clusters, self.clustering.unassigned
        comparisons, first = self.clustering.comparisons, self._n
        self._n += count
        block = _Block(range(first, self._n), clusters, self._rule, self._seed)
        for trace in range(first, self._n):
            if block.closed:
                unassigned.extend(range(trace, self._n))
                break
            comparisons += block.comparisons
            place = block.place_next(self._ask)
            if place == len(clusters):
                clusters.append([])
            clusters[place].append(trace)
        self.clustering = Clustering(clusters, unassigned, comparisons)


class _Block:
    """The traces of a block and whom they would ask: tables [trace of the block, cluster, seat].

    Of a large cluster those members sit there that have the lowest priorities for the trace. `_members` is -1 on free
    seats; `_units` are scores in 1 / UNITS, NaN where unknown, 0 on free seats.
    """

    def __init__(self, traces: range, clusters: Sequence[list[int]], rule: ClusterRule, seed: int) -> None:
        self._traces, self._rule, self._seed = traces, rule, seed
        self._next, self._asked = 0, 0  # the row to be placed; seats of each cluster that have been asked
        self._sizes = [len(members) for members in clusters]
        self._compared = np.minimum(self._sizes, rule.compared)
        room = min(rule.max_clusters, len(clusters) + len(traces))
        shape = (len(traces), room, min(rule.compared, traces.stop))
        self._members = np.full(shape, -1, dtype=np.int64)
        self._priority = np.full(shape, _NOBODY)
        self._units = np.zeros(shape)
        self._inside = np.full((len(traces), len(traces)), np.nan)
        block = np.array(traces)
        self._inside_priority = priorities(seed, block, block)
        if not self.closed:
            self._seat(clusters)

    @property
    def _full(self) -> bool:
        return len(self._sizes) == self._rule.max_clusters

    @property
    def closed(self) -> bool:
        """Whether traces find no place any more."""
        return self._full and self._rule.overflow == "stop"

    @property
    def comparisons(self) -> int:
        """Pairs that the rule looks at for the next trace."""
        return int(self._compared.sum())

    def _seat(self, clusters: Sequence[list[int]]) -> None:
        """Draw from the clusters as they stand before the block."""
        if not clusters:
            return
        everybody = np.concatenate([np.array(members) for members in clusters])
        drawn = priorities(self._seed, np.array(self._traces), everybody)
        first = 0
        for index, size in enumerate(self._sizes):
            mine, seats = drawn[:, first : first + size], min(size, self._members.shape[2])
            if size > seats:
                best = np.argpartition(mine, seats - 1, axis=1)[:, :seats]
                self._members[:, index, :seats] = everybody[first + best]
                self._priority[:, index, :seats] = np.take_along_axis(mine, best, axis=1)
            else:
                self._members[:, index, :seats] = everybody[first : first + size]
                self._priority[:, index, :seats] = mine
            self._units[:, index, :seats] = np.nan
            first += size

    def place_next(self, ask: AskPairs) -> int:
        """The cluster of the next trace, the number of all clusters if it opens one; it is a member from then on."""
        row = self._next
        place = self._settled(row, ask) if self._sizes else 0
        if place == len(self._sizes):
            self._sizes.append(0)
        self._sizes[place] += 1
        self._compared = np.minimum(self._sizes, self._rule.compared)
        self._next += 1
        self._join(row, place)
        return place

    def _settled(self, row: int, ask: AskPairs) -> int:
        while True:
            place = int(self._standing(row)[0])
            if place >= 0:
                return place
            later = slice(row, len(self._traces))
            unknown = np.isnan(self._units[later, : len(self._sizes)])
            if self._asked:
                unknown &= self._standing(later)[1][..., None]
            # fewer seats could not close a cluster even if all their scores were 0
            seats = self._asked + _MORE if self._asked else int((1 - self._rule.tau) * unknown.shape[2]) + 1
            unknown[:, :, seats:] = False
            self._ask(row, unknown, ask)
            self._asked = seats

    def _standing(self, rows: slice | int) -> tuple[np.ndarray, np.ndarray]:
        """For each trace in `rows` where it goes by what is known, -1 if that is open, and [rows, clusters] whether
        the cluster's missing scores could matter; for one row both without the axis [rows]."""
        k = len(self._sizes)
        units = self._units[rows, :k]
        unknown = np.isnan(units)
        sums = np.where(unknown, 0.0, units).sum(axis=-1)
        low, high = sums / self._compared, (sums + unknown.sum(axis=-1) * UNITS) / self._compared
        bar = -1.0 if self._full else np.rint(self._rule.tau * UNITS)
        best = low.argmax(axis=-1)[..., None]  # the first of equals
        top = low.max(axis=-1)[..., None]
        open_to = (high > bar) & ((high > top) | ((high == top) & (np.arange(k) <= best)))
        choices = open_to.sum(axis=-1)
        joins = (choices == 1) & (top[..., 0] > bar)  # whoever is left alone is the best
        place = np.where(choices == 0, k, np.where(joins, best[..., 0], -1))
        return place, open_to & (place < 0)[..., None]

    def _ask(self, row: int, unknown: np.ndarray, ask: AskPairs) -> None:
        """Learn the `unknown` scores [rows from `row`, clusters, seats], and at first all pairs inside the block."""
        inside = self._members[row:, : len(self._sizes)] >= self._traces.start
        rows, places, seats = np.nonzero(unknown & ~inside)
        rows += row
        later, earlier = np.tril_indices(len(self._traces), -1) if not self._asked else np.zeros((2, 0), dtype=int)
        new = np.concatenate([rows, later])
        old = np.concatenate([self._members[rows, places, seats], earlier + self._traces.start])
        order = np.argsort(new, kind="stable")  # all pairs of a trace together
        pairs = np.stack([new + self._traces.start, old], axis=1)[order]
        scores = np.empty(len(pairs))
        scores[order] = np.rint(np.asarray(ask(pairs), dtype=np.float64) * UNITS)
        self._units[rows, places, seats] = scores[: len(rows)]
        if not self._asked:
            self._inside[later, earlier] = scores[len(rows) :]
            rows, places, seats = np.nonzero(inside)
            self._units[row + rows, places, seats] = self._inside[
                row + rows, self._members[row + rows, places, seats] - self._traces.start
            ]

    def _join(self, member: int, place: int) -> None:
        """The block's trace `member` takes the worst seat of its cluster before each later trace that prefers it."""
        rows = np.arange(member + 1, len(self._traces))
        if not len(rows):
            return
        priority = self._inside_priority[rows, member]
        seats = self._priority[rows, place].argmax(axis=1)
        better = priority < self._priority[rows, place, seats]
        rows, seats = rows[better], seats[better]
        self._members[rows, place, seats] = self._traces[member]
        self._priority[rows, place, seats] = priority[better]
        self._units[rows, place, seats] = self._inside[rows, member]
