"""Traces that are judged as they come to their cuts, while the others run on (overlap).

Pure: the live controller and the replay feed it the same arrivals. Inside, traces are numbered in the order of their
arrival, which takes the place of the fixed order of the barrier; outside, by their places in the problem.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from secateur.deepprune.clustering import AskPairs, Clustering, GrowingClusters
from secateur.deepprune.decide import JudgeFailure, PruneRule
from secateur.deepprune.finish import never_needed
from secateur.deepprune.plan import Finished, FinishPlan, Judged, Move, consensus_plan, finish_plan
from secateur.deepprune.scores import PairScores


class Arrivals:
    """The n traces of one problem on their way to the judge. `ask` numbers traces by arrival."""

    def __init__(self, n: int, ask: AskPairs, rule: PruneRule, seed: int) -> None:
        self._n, self._rule, self._seed = n, rule, seed
        self._scores = PairScores(n, ask)
        self._growing = GrowingClusters(rule.cluster, seed, self._scores.ask)
        self.order: list[int] = []
        self.gone: set[int] = set()
        """Pruned when they came."""
        self.judge_failure: str | None = None

    def come(self, traces: Sequence[int], ended: Collection[int], introduce: Callable[[], None]) -> list[int]:
        """Cluster traces that came at one decode step; returns those that are never needed and end here.

        `ended` are the traces that have ended so far. `introduce` shows the new cuts to the judge, who is left alone
        once he has failed: from then on everybody is kept.
        """
        self.order.extend(traces)
        if self.judge_failure is not None:
            return []
        try:
            introduce()
            self._growing.extend(len(traces))
        except JudgeFailure as failure:
            self.judge_failure = str(failure)
            return []
        pruned = [trace for trace in traces if trace not in ended and self._surplus(trace)]
        return pruned

    def _surplus(self, trace: int) -> bool:
        place = self.order.index(trace)
        gone = {index for index, other in enumerate(self.order) if other in self.gone}
        if not never_needed(place, self._growing.clustering, self._rule.finish, gone):
            return False
        self.gone.add(trace)
        return True

    def plan(self, ended: Collection[int]) -> FinishPlan:
        """Who goes on, once all have come. Where the judge failed: everybody who was not pruned before that."""
        left = [trace for trace in range(self._n) if trace not in self.gone]
        if self.judge_failure is not None:
            return consensus_plan(left, self.judge_failure)
        places = {trace: place for place, trace in enumerate(self.order)}
        judged = Judged(
            self._n,
            self._growing.clustering,
            self._scores,
            self._seed,
            frozenset(places[trace] for trace in ended),
            frozenset(places[trace] for trace in self.gone),
        )
        try:
            return _Renumbered(finish_plan(judged, self._rule.finish), self.order)
        except JudgeFailure as failure:
            self.judge_failure = str(failure)
            return consensus_plan(left, self.judge_failure)


class _Renumbered(FinishPlan):
    """A plan for traces numbered by arrival, to be asked with their places in the problem."""

    def __init__(self, plan: FinishPlan, order: Sequence[int]) -> None:
        self._plan, self._order = plan, list(order)
        self._places = {trace: place for place, trace in enumerate(order)}
        inner = plan.clustering
        clusters = [[order[place] for place in members] for members in inner.clusters]
        self.clustering = Clustering(clusters, [order[place] for place in inner.unassigned], inner.comparisons)

    def _inner(self, finished: Finished) -> Finished:
        return {self._places[trace]: key for trace, key in finished.items()}

    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        move = self._plan.next(
            self._inner(finished),
            {self._places[trace] for trace in running},
            {self._places[trace] for trace in parked},
        )
        return Move(
            tuple(self._order[place] for place in move.resume), tuple(self._order[place] for place in move.prune)
        )

    def weights(self, finished: Finished) -> Mapping[int, float]:
        inner = self._plan.weights(self._inner(finished))
        return {self._order[place]: weight for place, weight in inner.items()}

    def vote(self, finished: Finished):
        return self._plan.vote(self._inner(finished))
