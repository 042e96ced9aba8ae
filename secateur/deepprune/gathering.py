"""How the traces of a problem come before the judge: one small family, used live and in replay.

`Barrier`: every trace waits at its cut until the last of its batch has come; with a start rule the traces are started
in batches, and no more once the clusters have said enough, unless finished answers disagree. `Overlap`: each trace is
judged as it comes and runs on meanwhile; it is pruned at once if it can never be needed. `JudgedPolicy` is an entire
rule: gathering, then finishing.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace

from secateur.deepprune.clustering import AskingClusters, Clustering, KnownClusters, LinkedClusters
from secateur.deepprune.finishing import FinishPolicy, consensus_of, finish_policy, never_needed
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.policy import Decision, Finished, JudgeFailure, Move, Policy, Progress
from secateur.deepprune.rule import PruneRule

ALL_PAIRS = 64  # traces up to which all pairs are scored in one batch, whoever of them is compared


class Gathering(ABC):
    """Traces on their way to the judge. `order` holds those that have come, in the order in which they are clustered;
    `scores` numbers them by their places in it. `judge_failure` says why the judge is asked no more."""

    parks: bool

    def __init__(self, scores: PairScores, rule: PruneRule, seed: int) -> None:
        self._scores, self._rule, self._seed = scores, rule, seed
        self._clusters: KnownClusters | AskingClusters | LinkedClusters | None = None
        self.order: list[int] = []
        self.gone: set[int] = set()
        """Pruned before the finishing is planned."""
        self.judge_failure: str | None = None

    @property
    def clustering(self) -> Clustering | None:
        """Of places in `order`; None where the judge failed."""
        return None if self.judge_failure is not None or self._clusters is None else self._clusters.clustering

    @abstractmethod
    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        """See `Policy.next`. The gathering is over once nothing more is started and nobody is on the way to a cut."""

    def finishing(self, finished: Finished) -> FinishPolicy:
        """Who goes on, once all have come. Where the judge failed: everybody who was not pruned before that."""
        if self.judge_failure is None:
            try:
                return self._by_rule(finished)
            except JudgeFailure as failure:
                self.judge_failure = str(failure)
        return consensus_of([trace for trace in self.order if trace not in self.gone])

    def reopen(self, progress: Progress) -> Move | None:
        """Start more traces after all, because finished answers disagree; None where no more can be had."""
        return None

    @abstractmethod
    def _by_rule(self, finished: Finished) -> FinishPolicy:
        """The finishing rule's policy; raises `JudgeFailure` if a score cannot be had."""

    def _judge(self, traces: Sequence[int]) -> None:
        """Show `traces` to the judge and cluster them. A judge that fails is left alone from then on."""
        self.order.extend(traces)
        if self.judge_failure is not None:
            return
        try:
            self._scores.introduce(traces)
            self._extend(len(traces))
        except JudgeFailure as failure:
            self.judge_failure = str(failure)

    def _extend(self, count: int) -> None:
        if self._clusters is None:
            self._clusters = self._scores.clusters(self._rule.cluster, self._seed)
        self._clusters.extend(count)


class Barrier(Gathering):
    """Batch by batch, see `StartRule`; one batch of all n where nothing else is asked."""

    parks = True

    def __init__(self, scores: PairScores, rule: PruneRule, seed: int) -> None:
        super().__init__(scores, rule, seed)
        self._batches = deque(rule.start.batches(scores.n))
        self._in_one_call = len(self._batches) == 1 and scores.n <= ALL_PAIRS

    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        if progress.to_cut:
            return Move()
        if progress.started:
            self._judge(range(len(self.order), progress.started))
            if not self._batches or self._is_enough():
                return Move()
        return Move(start=len(self._batches.popleft()))

    def _is_enough(self) -> bool:
        """Whether the clusters say which one is the largest; a judge that failed never says so."""
        if self.judge_failure is not None:
            return False
        return self._rule.start.enough([len(members) for members in self._clusters.clustering.clusters])

    def _extend(self, count: int) -> None:
        if self._in_one_call:
            self._scores.ask_all()
        super()._extend(count)

    def reopen(self, progress: Progress) -> Move | None:
        if not self._batches or self.judge_failure is not None:
            return None
        self.gone.update(trace for trace in self.order if progress.status(trace) == "pruned")
        return Move(start=len(self._batches.popleft()))

    def _by_rule(self, finished: Finished) -> FinishPolicy:
        return finish_policy(self.clustering, self._scores, self._rule.finish, self._seed, finished, self.gone)


class Overlap(Gathering):
    """Traces are clustered in the order in which they come, which takes the place of the barrier's fixed order."""

    parks = False

    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        if not progress.started:
            return Move(start=progress.n)
        self._judge(arrived)
        if self.judge_failure is not None:
            return Move()
        return Move(prune=tuple(t for t in arrived if t not in progress.finished and self._is_surplus(t)))

    def _is_surplus(self, trace: int) -> bool:
        place = self.order.index(trace)
        gone = {index for index, other in enumerate(self.order) if other in self.gone}
        if not never_needed(place, self._clusters.clustering, self._rule.finish, gone):
            return False
        self.gone.add(trace)
        return True

    @property
    def _places(self) -> dict[int, int]:
        return {trace: place for place, trace in enumerate(self.order)}

    def _by_rule(self, finished: Finished) -> FinishPolicy:
        places = self._places
        whole, gone = ({places[trace] for trace in traces} for traces in (finished, self.gone))
        policy = finish_policy(self._clusters.clustering, self._scores, self._rule.finish, self._seed, whole, gone)
        return _Renumbered(policy, self.order)


class _Renumbered(FinishPolicy):
    """A policy for traces numbered by their arrival, to be asked with the problem's own numbers."""

    def __init__(self, policy: FinishPolicy, order: Sequence[int]) -> None:
        self._policy, self._order = policy, list(order)
        self._places = {trace: place for place, trace in enumerate(order)}

    def _inner(self, finished: Finished) -> Finished:
        return {self._places[trace]: key for trace, key in finished.items()}

    def next(self, finished: Finished, running: Collection[int], parked: Collection[int]) -> Move:
        inside = ({self._places[trace] for trace in traces} for traces in (running, parked))
        move = self._policy.next(self._inner(finished), *inside)
        resume, prune = (tuple(self._order[place] for place in places) for places in (move.resume, move.prune))
        return Move(resume=resume, prune=prune)

    def weights(self, finished: Finished) -> Mapping[int, float]:
        inner = self._policy.weights(self._inner(finished))
        return {self._order[place]: weight for place, weight in inner.items()}

    def vote(self, finished: Finished) -> Hashable | None:
        return self._policy.vote(self._inner(finished))


class JudgedPolicy(Policy):
    """A rule of redundancy pruning: gathering, then finishing. The same scores, rule and seed decide the same."""

    def __init__(self, scores: PairScores, rule: PruneRule, seed: int) -> None:
        """`scores` numbers traces in the order in which they come to the judge; `seed` is the problem's
        `decision_seed`."""
        self._gathering = (Barrier if rule.mode == "barrier" else Overlap)(scores, rule, seed)
        self._finishing: FinishPolicy | None = None
        self.parks = self._gathering.parks

    @property
    def judge_failure(self) -> str | None:
        return self._gathering.judge_failure

    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        pruned: tuple[int, ...] = ()
        if self._finishing is None:
            move = self._gathering.next(progress, arrived)
            if move.start or progress.to_cut:
                return move
            pruned = move.prune
            self._finishing = self._gathering.finishing(progress.finished)
        if self._finishing.disagree(progress.finished):
            again = self._gathering.reopen(progress)
            if again is not None:
                self._finishing = None
                return again
        move = self._finishing.next(progress.finished, progress.running.difference(pruned), progress.parked)
        return replace(move, prune=pruned + move.prune) if pruned else move

    def failure_words(self, progress: Progress) -> str | None:
        if self.judge_failure is None or progress.to_cut or progress.started < progress.n:
            return None
        pruned = sum(progress.status(trace) == "pruned" for trace in range(progress.n))
        rest = f"the other {progress.n - pruned} run to their ends" if pruned else "no trace is pruned"
        before = f"{pruned} traces had been pruned before, " if pruned else ""
        return f"the judge failed ({self.judge_failure}); {before}{rest}"

    def vote(self, finished: Finished) -> Hashable | None:
        return self._finishing.vote(finished)

    def decision(self, finished: Finished) -> Decision:
        gathering, weights = self._gathering, self._finishing.weights(finished)
        voters = sorted(trace for trace in weights if trace in finished)
        clustering = gathering.clustering
        return Decision(
            None if clustering is None else of_traces(clustering, gathering.order),
            voters,
            [weights[trace] for trace in voters],
            gathering.order,
            gathering.judge_failure,
        )


def of_traces(clustering: Clustering, order: Sequence[int]) -> Clustering:
    """A clustering of places as one of traces."""
    clusters = [[order[place] for place in members] for members in clustering.clusters]
    return Clustering(clusters, [order[place] for place in clustering.unassigned], clustering.comparisons)
