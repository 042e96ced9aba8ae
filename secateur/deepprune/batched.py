"""Traces that are started in batches until their clusters have said enough (start.py), for the live controller.

The replay has all scores at hand and needs no more than `start.started_part`.
"""

from collections.abc import Callable, Collection

from secateur.deepprune.clustering import AskPairs, GrowingClusters
from secateur.deepprune.decide import JudgeFailure, PruneRule
from secateur.deepprune.plan import FinishPlan, Judged, consensus_plan, finish_plan
from secateur.deepprune.scores import PairScores


class BatchedStart:
    """Up to n traces of one problem. `clustered` were started and shown to the judge so far."""

    def __init__(self, n: int, ask: AskPairs, rule: PruneRule, seed: int) -> None:
        self._rule, self._seed = rule, seed
        self._scores = PairScores(n, ask)
        self._growing = GrowingClusters(rule.cluster, seed, self._scores.ask)
        self.clustered = 0
        self._judge_failure: str | None = None

    def come(self, count: int, introduce: Callable[[], None]) -> bool:
        """`count` traces stand at their cuts by now; True if no more have to be started.

        `introduce` shows the new cuts to the judge. One that failed is left alone: all n are started then.
        """
        if self._judge_failure is not None:
            self.clustered = count
            return False
        try:
            introduce()
            self._growing.extend(count - self.clustered)
        except JudgeFailure as failure:
            self._judge_failure = str(failure)
        self.clustered = count
        sizes = [len(members) for members in self._growing.clustering.clusters]
        return self._judge_failure is None and self._rule.start.enough(sizes)

    def plan(self, ended: Collection[int]) -> FinishPlan:
        """Who goes on, once no more are started."""
        started = range(self.clustered)
        if self._judge_failure is not None:
            return consensus_plan(started, self._judge_failure)
        judged = Judged(len(started), self._growing.clustering, self._scores, self._seed, frozenset(ended))
        return finish_plan(judged, self._rule.finish)
