"""A live run, taken afterwards on traces that were sampled to their ends. Pure, no model.

The plan is the live controller's own, and time is simulated in decode steps: every running trace grows by one token
in each. So a replay tells what the live run would have kept and spent, token for token where the engine is exact, and
one set of stored traces serves every rule and every n. What the judge costs is given: beyond `plan.ALL_PAIRS` traces
and under overlap a live run asks it for fewer pairs than a stored matrix holds.
"""

import heapq
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.deepprune.arrivals import Arrivals
from secateur.deepprune.clustering import Clustering, cluster_traces
from secateur.deepprune.decide import Decision, JudgeFailure, PruneRule
from secateur.deepprune.plan import ALL_PAIRS, FinishPlan, Judged, consensus_plan, finish_plan, make_plan
from secateur.deepprune.scores import PairScores
from secateur.deepprune.start import started_part
from secateur.engines.accounting import NO_JUDGE, JudgeUsage, Usage


@dataclass(frozen=True)
class Replay:
    """`key` is the answer; `kept_tokens` [n] is how far each trace would have run, 0 where it would not have been
    started; `usage` all that was spent."""

    decision: Decision
    key: Hashable | None
    kept_tokens: list[int]
    usage: Usage


def whole_traces(lengths: Sequence[int], cuts: Sequence[int | None]) -> set[int]:
    """Traces that ended before their cut, or with the very token that shows it."""
    pairs = zip(lengths, cuts, strict=True)
    return {index for index, (length, cut) in enumerate(pairs) if cut is None or cut >= length}


def replay(
    lengths: Sequence[int],
    cuts: Sequence[int | None],
    keys: Sequence[Hashable | None],
    scores: np.ndarray | PairScores,
    rule: PruneRule,
    seed: int,
    judge: JudgeUsage = NO_JUDGE,
) -> Replay:
    """Replay one problem.

    `lengths` [tokens] of the n complete traces, end token included; `cuts` [tokens] up to and including the one that
    showed the cut, None if never reached (`cut_length`); `keys` name the answers, equal ones alike, None for none;
    `scores` [n, n] of the judge on those cuts; `seed` from `decision_seed`; `judge` what they cost. Where a
    live judge asks for pairs one by one, those that the rule looks at are paid for; grow.py finds some of them
    needless, so the live judge may cost less.
    """
    whole = whole_traces(lengths, cuts)
    reach = [length if index in whole else cuts[index] for index, length in enumerate(lengths)]
    clock = _Clock(lengths, keys)
    if rule.mode == "barrier":
        plan, started = _barrier_plan(scores, rule, seed, whole)
        order: Sequence[int] = range(started)
        for batch in rule.start.batches(len(lengths)):
            if batch.start < started:
                clock.barrier(batch, reach, whole)
    else:
        arrivals = _arrive(reach, whole, scores, rule, seed)
        order = arrivals.order
        clock.overlap(reach, arrivals.gone)
        plan = arrivals.plan(clock.finished)
    clock.run(plan)
    decision = plan.decision(clock.finished, order)
    judged = judge.of(order, decision.clustering.comparisons) if _asks_less(decision, rule) else judge.everything
    usage = Usage(generated=sum(clock.kept), longest_path=clock.now) + judged
    return Replay(decision, plan.vote(clock.finished), clock.kept, usage)


def _barrier_plan(
    scores: np.ndarray | PairScores, rule: PruneRule, seed: int, whole: Collection[int]
) -> tuple[FinishPlan, int]:
    """The plan, and how many traces are started for it."""
    n = len(scores) if isinstance(scores, np.ndarray) else scores.n
    if not rule.start.start_batch:
        return make_plan(scores, rule, seed, whole), n
    try:
        known = PairScores.of_matrix(scores) if isinstance(scores, np.ndarray) else scores
        started, part = clustered_start(known.ask_all(), rule, seed)
        ended = frozenset(trace for trace in whole if trace < started)
        return finish_plan(Judged(started, part, known, seed, ended), rule.finish), started
    except JudgeFailure as failure:
        return consensus_plan(range(n), str(failure)), n


def clustered_start(scores: np.ndarray, rule: PruneRule, seed: int) -> tuple[int, Clustering]:
    """`started_part` of the traces of a matrix [n, n], of which no more are clustered than about twice those that it
    takes."""
    stops, count = [batch.stop for batch in rule.start.batches(len(scores))], 2
    while True:
        stop = stops[min(count, len(stops)) - 1]
        clustering = cluster_traces(scores[:stop, :stop], rule.cluster, seed)
        started, part = started_part(clustering, stop, rule.cluster.compared, rule.start)
        if started < stop or stop == len(scores):
            return started, part
        count *= 2


def _asks_less(decision: Decision, rule: PruneRule) -> bool:
    """Whether a live judge reads fewer cuts or compares fewer pairs than there are."""
    if decision.clustering is None:
        return False
    return bool(rule.start.start_batch) or rule.mode == "overlap" or len(decision.order) > ALL_PAIRS


def _arrive(
    reach: Sequence[int], whole: Collection[int], scores: np.ndarray | PairScores, rule: PruneRule, seed: int
) -> Arrivals:
    """All traces at the judge, step by step; those that come at one step in their order."""
    order = np.array(sorted(range(len(reach)), key=lambda trace: (reach[trace], trace)))
    table = PairScores.of_table(scores) if isinstance(scores, np.ndarray) else scores
    arrivals = Arrivals(len(reach), lambda pairs: table.ask(-np.sort(-order[pairs], axis=1)), rule, seed)
    for step in sorted(set(reach)):
        arrivals.come([trace for trace in order.tolist() if reach[trace] == step], whole, lambda: None)
    return arrivals


class _Clock:
    """The traces of one problem from the judge on. `finished` is in the order of the ends."""

    def __init__(self, lengths: Sequence[int], keys: Sequence[Hashable | None]) -> None:
        self._lengths, self._keys = lengths, keys
        self.finished: dict[int, Hashable | None] = {}
        self.kept = [0] * len(lengths)
        self.now = 0  # decode steps
        self._ends: dict[int, int] = {}  # running trace → the step at which it will end
        self._parked: set[int] = set()

    def barrier(self, batch: Sequence[int], reach: Sequence[int], whole: Collection[int]) -> None:
        """The traces of `batch` are started and run to their cuts or ends, the others stand still."""
        for trace in batch:
            self.kept[trace] = reach[trace]
        self.now += max(reach[trace] for trace in batch)
        self._end([trace for trace in batch if trace in whole])
        self._parked.update(trace for trace in batch if trace not in whole)

    def overlap(self, reach: Sequence[int], gone: Collection[int]) -> None:
        """The last trace has just come to its cut; those that were not pruned when they came have run on."""
        self.now = max(reach)
        left = [trace for trace in range(len(reach)) if trace not in gone]
        self.kept = [min(length, self.now) for length in self._lengths]
        for trace in gone:
            self.kept[trace] = reach[trace]
        self._end([trace for trace in left if self._lengths[trace] <= self.now])
        self._ends = {trace: self._lengths[trace] for trace in left if trace not in self.finished}

    def run(self, plan: FinishPlan) -> None:
        """Follow the plan until nothing runs any more."""
        queue = [(end, trace) for trace, end in self._ends.items()]
        heapq.heapify(queue)
        while True:
            move = plan.next(self.finished, self._ends.keys(), self._parked)
            for trace in move.prune:
                if trace in self._ends:
                    self.kept[trace] = self._lengths[trace] - (self._ends.pop(trace) - self.now)
                else:
                    self._parked.remove(trace)
            for trace in move.resume:
                self._parked.remove(trace)
                self._ends[trace] = self.now + self._lengths[trace] - self.kept[trace]
                heapq.heappush(queue, (self._ends[trace], trace))
            if not self._ends:
                return
            self._step_to_next_end(queue)

    def _step_to_next_end(self, queue: list[tuple[int, int]]) -> None:
        ended: list[int] = []
        while queue and (not ended or queue[0][0] == self.now):
            end, trace = heapq.heappop(queue)
            if trace in self._ends:  # else it was pruned
                self.now = end
                ended.append(trace)
        for trace in ended:
            del self._ends[trace]
            self.kept[trace] = self._lengths[trace]
            self.finished[trace] = self._keys[trace]

    def _end(self, traces: Collection[int]) -> None:
        for trace in sorted(traces, key=lambda trace: (self._lengths[trace], trace)):
            self.finished[trace] = self._keys[trace]
