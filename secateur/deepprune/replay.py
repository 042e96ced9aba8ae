"""A live run, taken afterwards on traces that were sampled to their ends. Pure, no model.

The policy is the live controller's own, and time is simulated in decode steps: every running trace grows by one token
in each. So a replay tells what the live run would have kept and spent, token for token where the engine is exact, and
one set of stored traces serves every rule and every n. What the judge costs is given: beyond `ALL_PAIRS` traces and
under overlap a live run asks it for fewer pairs than a stored matrix holds.
"""

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from secateur.deepprune.answers import AnswerPolicy, AnswerRule
from secateur.deepprune.best_first import BestFirstPolicy, ScoreRule
from secateur.deepprune.cut import ended_before_cut
from secateur.deepprune.evidence import EvidenceRule, judged_policy
from secateur.deepprune.gathering import ALL_PAIRS
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.policy import Decision, Move, Policy, Progress
from secateur.deepprune.probing import ProbedTraces, ProbeRule
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import NO_JUDGE, JudgeUsage, Usage


@dataclass(frozen=True)
class Replay:
    """`key` is the answer; `kept_tokens` [n] is how far each trace would have run, 0 where it would not have been
    started; `usage` all that was spent."""

    decision: Decision
    key: Hashable | None
    kept_tokens: list[int]
    usage: Usage


def replay(
    lengths: Sequence[int],
    cuts: Sequence[int | None],
    keys: Sequence[Hashable | None],
    scores: np.ndarray | PairScores,
    rule: PruneRule | EvidenceRule,
    seed: int,
    judge: JudgeUsage = NO_JUDGE,
) -> Replay:
    """Replay one problem by a rule that asks a judge; an `EvidenceRule` has its weight.

    `lengths` [tokens] of the n complete traces, end token included; `cuts` [tokens] up to and including the one that
    showed the cut, None if never reached (`cut_length`); `keys` name the answers, equal ones alike, None for none;
    `scores` [n, n] of the judge on those cuts; `seed` from `decision_seed`; `judge` what they cost. Where a
    live judge asks for pairs one by one, those that the rule looks at are paid for; clustering finds some of them
    needless, so the live judge may cost less.
    """
    reach = _reach(lengths, cuts)
    found = _follow(judged_policy(rule, _numbered_by_arrival(scores, rule), seed), lengths, reach, keys)
    decision = found.decision
    less = _asks_less(decision, rule)
    judged = judge.of(decision.order, decision.clustering.comparisons) if less else judge.everything
    return replace(found, usage=found.usage + judged)


def replay_answers(lengths: Sequence[int], keys: Sequence[Hashable | None], rule: AnswerRule) -> Replay:
    """Replay one problem by a rule that asks no judge; `lengths` and `keys` as in `replay`."""
    return _follow(AnswerPolicy(rule, len(lengths)), lengths, lengths, keys)


READ, FORCED = 10, 12
"""Tokens that a forced answer is taken to be read with, and the string before it to have, where nothing says."""


def replay_probes(traces: ProbedTraces, rule: ProbeRule, injected: int = FORCED) -> Replay:
    """Replay one problem by a rule of forced answers, which were stored every `rule.every` tokens.

    `injected` [tokens]: the string that forces them. Their cost is that of an engine with a prefix cache: the string
    and the answer are computed, the trace's tokens come from the cache; the problem's prompt is left out, as
    everywhere. Raises `ValueError` for traces that were probed at other marks.
    """
    if traces.every != rule.every:
        raise ValueError(f"answers forced every {traces.every} tokens and a rule of every {rule.every}")
    clock = _ProbeClock(traces, rule, injected)
    clock.run()
    finished = clock.progress.finished
    return Replay(clock.policy.decision(finished), clock.policy.vote(finished), clock.kept, clock.usage)


class _ProbeClock:
    """Traces that all start at once and are probed at the same steps, from mark to mark (`now`, in decode steps)."""

    def __init__(self, traces: ProbedTraces, rule: ProbeRule, injected: int) -> None:
        self._traces, self._injected, self._most = traces, injected, rule.tokens
        self.policy, self.progress = rule.policy(len(traces.keys)), Progress(len(traces.keys))
        self.kept = [0] * len(traces.keys)
        self.usage = Usage()
        self._to_end = sorted(range(len(traces.keys)), key=lambda t: (traces.lengths[t], t), reverse=True)
        """Those that have not ended, the next to end last."""

    def run(self) -> None:
        progress, every = self.progress, self._traces.every
        progress.start(self.policy.next(progress, ()).start, to_cut=False)
        now = 0
        while progress.running:
            now += every
            self._end(now)
            forced_by = self._probe(now)
            self._end(forced_by)
            if progress.running:
                self._tell(now // every, forced_by)
        spent = Usage(generated=sum(self.kept), longest_path=max(self.kept, default=0))
        self.usage = spent + self.usage

    def _end(self, now: int) -> None:
        """Those that have ended by now."""
        lengths, waiting = self._traces.lengths, self._to_end
        while waiting and lengths[waiting[-1]] <= now:
            trace = waiting.pop()
            if trace in self.progress.running:
                self.kept[trace] = lengths[trace]
                self.progress.end(trace, self._traces.keys[trace])

    def _probe(self, now: int) -> int:
        """The step at which all that run and have a probe here have answered, or have ended before."""
        lengths, place = self._traces.lengths, now // self._traces.every - 1
        probed = [t for t in self.progress.running if place < len(self._traces.forced[t])]
        read = [min(self._read(t, place), lengths[t] - now) for t in probed]
        self.usage += Usage(
            probe_prefill=self._injected * len(probed), probe_cached=now * len(probed), probe_generated=sum(read)
        )
        return now + max(read, default=0)

    def _read(self, trace: int, place: int) -> int:
        read = self._traces.read
        return min(READ, self._most) if read is None else read[trace][place]

    def _tell(self, mark: int, now: int) -> None:
        forced = self._traces.at(mark, sorted(self.progress.running))
        for trace in self.policy.told(self.progress, forced).prune:
            self.kept[trace] = now
            self.progress.prune((trace,))


def replay_scored(
    lengths: Sequence[int],
    cuts: Sequence[int | None],
    keys: Sequence[Hashable | None],
    scores: Sequence[float],
    rule: ScoreRule,
) -> Replay:
    """Replay one problem by a rule that asks a scorer; `scores` [n] are P(right) at the cuts, the rest is as in
    `replay`. What the scorer computes is not in the usage."""
    policy = BestFirstPolicy(rule, len(lengths), lambda: scores)
    return _follow(policy, lengths, _reach(lengths, cuts), keys)


def _reach(lengths: Sequence[int], cuts: Sequence[int | None]) -> list[int]:
    """How far each trace runs until it is looked at [tokens]."""
    return [length if ended_before_cut(length, cut) else cut for length, cut in zip(lengths, cuts, strict=True)]


def _follow(policy: Policy, lengths: Sequence[int], reach: Sequence[int], keys: Sequence[Hashable | None]) -> Replay:
    clock = _Clock(lengths, reach, keys, policy)
    clock.run()
    finished = clock.progress.finished
    usage = Usage(generated=sum(clock.kept), longest_path=clock.now)
    return Replay(policy.decision(finished), policy.vote(finished), clock.kept, usage)


def _numbered_by_arrival(scores: np.ndarray | PairScores, rule: PruneRule | EvidenceRule) -> PairScores:
    """Scores whose traces have the numbers under which a live judge would know them."""
    if isinstance(rule, PruneRule) and rule.mode == "barrier":
        return PairScores.of_matrix(scores) if isinstance(scores, np.ndarray) else scores
    table = PairScores.of_table(scores) if isinstance(scores, np.ndarray) else scores
    order: list[int] = []
    return PairScores(table.n, lambda pairs: table.ask(-np.sort(-np.array(order)[pairs], axis=1)), order.extend)


def _asks_less(decision: Decision, rule: PruneRule | EvidenceRule) -> bool:
    """Whether a live judge reads fewer cuts or compares fewer pairs than there are."""
    if decision.clustering is None or rule.cluster.linkage == "average":
        return False
    if isinstance(rule, EvidenceRule):
        return True
    return bool(rule.start.start_batch) or rule.mode == "overlap" or len(decision.order) > ALL_PAIRS


class _Clock:
    """An engine whose traces are known to their ends, in simulated decode steps (`now`)."""

    def __init__(
        self, lengths: Sequence[int], reach: Sequence[int], keys: Sequence[Hashable | None], policy: Policy
    ) -> None:
        self._lengths, self._reach, self._keys, self._policy = lengths, reach, keys, policy
        self.progress = Progress(len(lengths))
        self.kept = [0] * len(lengths)
        """Tokens of each trace, true where it does not run."""
        self.now = 0
        self._began = [0] * len(lengths)  # running trace → the step at which it would have had no token
        self._due: list[tuple[int, int]] = []  # heap of (step, trace): cuts and ends to come

    def run(self) -> None:
        """Follow the policy until nothing runs any more."""
        self._move(self._policy.next(self.progress, ()))
        while not self.progress.stands_still:
            arrived = self._step_to_next_event()
            self._move(self._policy.next(self.progress, arrived))

    def _move(self, move: Move) -> None:
        progress = self.progress
        for trace in move.prune:
            if progress.status(trace) != "parked":
                self.kept[trace] = self.now - self._began[trace]
        progress.prune(move.prune)
        for trace in move.resume:
            self._began[trace] = self.now - self.kept[trace]
            self._expect(trace, self._lengths[trace])
        progress.run(move.resume)
        if move.start:
            for trace in progress.start(move.start, self._policy.cuts):
                self._began[trace] = self.now
                self._expect(trace, (self._reach if self._policy.cuts else self._lengths)[trace])
        if progress.stands_still:
            progress.prune(sorted(progress.parked))

    def _expect(self, trace: int, tokens: int) -> None:
        heapq.heappush(self._due, (self._began[trace] + tokens, trace))

    def _step_to_next_event(self) -> list[int]:
        """Move on to the next step at which traces come to their cuts or end; those that come to their cuts, or to
        their ends before that."""
        arrived: list[int] = []
        happened = False
        while self._due and not (happened and self._due[0][0] > self.now):
            step, trace = heapq.heappop(self._due)
            status = self.progress.status(trace)
            if status == "pruned":
                continue
            self.now, happened = step, True
            if status == "to_cut":
                arrived.append(trace)
            self._come(trace, status == "to_cut")
        return arrived

    def _come(self, trace: int, to_cut: bool) -> None:
        length = self._lengths[trace]
        if not to_cut or self._reach[trace] == length:
            self.kept[trace] = length
            self.progress.end(trace, self._keys[trace])
        elif self._policy.parks:
            self.kept[trace] = self._reach[trace]
            self.progress.park((trace,))
        else:
            self._expect(trace, length)
            self.progress.run((trace,))
