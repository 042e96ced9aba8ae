"""How many traces of a problem are started: all at once, or in batches until the cuts have said enough.

Not in the paper, which starts all n. A cut costs a small part of a trace, and on an easy problem a few of them show
already which cluster is the largest. So Adaptive-Consistency's question (arXiv 2305.11860) is put to the cuts instead
of to finished answers: traces are started in batches, each is judged and clustered at its cuts, and no more are
started once the largest cluster is ahead of the second with enough certainty.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from secateur.deepprune.clustering import Clustering
from secateur.deepprune.vote import majority_stays
from secateur.runtime.errors import InputError


@dataclass(frozen=True)
class StartRule:
    """How many traces are started.

    start_batch: traces started at a time; 0 starts all n at once, as the paper does.
    start_confidence: probability (0-1) that the largest cluster is more frequent than the second, from which on no
      more are started.
    """

    start_batch: int = 0
    start_confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.start_batch < 0 or self.start_batch == 1:
            raise InputError(
                f"start_batch = {self.start_batch}: traces are compared; write 2 or more, or 0 to start all at once"
            )
        if not 0.5 <= self.start_confidence < 1:
            raise InputError(
                f"start_confidence = {self.start_confidence}: expected a probability from 0.5 to below 1"
            )

    def batches(self, n: int) -> list[range]:
        """The traces 0 … n-1 as they are started; a last batch of one trace joins the one before."""
        size = self.start_batch or n
        firsts = [first for first in range(0, n, size) if first == 0 or n - first > 1]
        return [range(first, last) for first, last in zip(firsts, [*firsts[1:], n], strict=True)]

    def enough(self, sizes: Sequence[int]) -> bool:
        """Whether clusters of these sizes [traces] say which one is the largest."""
        first, second = (*sorted(sizes, reverse=True)[:2], 0, 0)[:2]
        return majority_stays(first, second) >= self.start_confidence


def started_part(clustering: Clustering, n: int, compared: int, rule: StartRule) -> tuple[int, Clustering]:
    """How many of n clustered traces would have been started, and their clusters.

    The clusters of the first traces do not depend on later ones, so one clustering of all tells every batch's.
    `compared` is the paper's K1, for counting the comparisons.
    """
    batches = rule.batches(n)
    if len(batches) == 1:
        return n, clustering
    labels, sizes = clustering.labels(n), [0] * len(clustering.clusters)
    comparisons = asked = 0  # `asked`: members that the next trace is compared with
    for batch in batches:
        for label in labels[batch.start : batch.stop]:
            if label is None:
                continue
            comparisons += asked
            asked += sizes[label] < compared
            sizes[label] += 1
        if rule.enough(sizes):
            break
    count = batch.stop
    return count, _first(clustering, count, comparisons)


def _first(clustering: Clustering, count: int, comparisons: int) -> Clustering:
    def before(traces: Collection[int]) -> list[int]:
        return [trace for trace in traces if trace < count]

    clusters = [members for members in map(before, clustering.clusters) if members]
    return Clustering(clusters, before(clustering.unassigned), comparisons)
