"""Rules that ask a scorer (scorer.py): who goes on from the cut, in what order; who is dropped for want of memory.

`ScoreRule` under the barrier, live and in replay by one policy: all n traces run to their cuts, then the best go on.
`keep` of them and all at once is STOP's rule (arXiv 2604.16029); all of them, the best first, until one answer is
ahead, is an order of finishing. `worst_dropped` is STEP's (arXiv 2601.09093): all run, and whenever their tokens
exceed the memory the one with the lowest score is dropped.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from secateur.deepprune.answers import AnswerRule
from secateur.deepprune.policy import Decision, Finished, Move, Policy, Progress
from secateur.deepprune.starting import AllAtOnce
from secateur.deepprune.stopping import Lead, Never
from secateur.deepprune.vote import Tally, majority
from secateur.runtime.errors import InputError

AskScores = Callable[[], Sequence[float]]
"""P(right) (0-1) of all n traces at their cuts; asked once, when the last has come."""


@dataclass(frozen=True)
class ScoreRule:
    """`keep`: so many traces at most reach their ends, those that ended before their cuts included; None: all may.
    `answers`: how many of them run at once, and when all stop."""

    keep: int | None = None
    answers: AnswerRule = field(default_factory=lambda: AnswerRule(Never(), AllAtOnce()))

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise InputError(f"keep = {self.keep}: somebody must reach an end; write 1 or more")

    def first(self, n: int) -> int:
        """How many of n traces are started at once."""
        return n


def best_of_cuts(keep: int) -> ScoreRule:
    """STOP: the best `keep` go on together and vote."""
    return ScoreRule(keep)


BEST_UNTIL_AHEAD = ScoreRule(None, AnswerRule(Lead(2)))
"""The best go on, a few at a time, until one answer leads by 2."""


class BestFirstPolicy(Policy):
    """A `ScoreRule` at work on one problem of n traces."""

    parks = True

    def __init__(self, rule: ScoreRule, n: int, ask: AskScores) -> None:
        self._rule, self._ask, self._n = rule, ask, n
        self._queue: list[int] | None = None  # parked traces that may go on, the best first
        self._order: list[int] = []
        self._tally = Tally(n)

    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        if not progress.started:
            return Move(start=self._n)
        if progress.to_cut:
            return Move()
        dropped = self._rank(progress) if self._queue is None else ()
        tally, rule = self._tally, self._rule.answers
        for trace in progress.ended[len(tally.answers) :]:
            tally.add(progress.finished[trace])
        tally.running, tally.unstarted = len(progress.running), len(self._queue)
        if rule.stop.enough(tally):
            return Move(prune=tuple(progress.held_traces))
        count = max(0, rule.start.running(tally, rule.stop) - tally.running)
        chosen, self._queue = self._queue[:count], self._queue[count:]
        return Move(resume=tuple(chosen), prune=dropped)

    def _rank(self, progress: Progress) -> tuple[int, ...]:
        """Queue those that may go on; the others. Of equal scores the earlier trace comes first."""
        scores = self._ask()
        self._order = sorted(range(self._n), key=lambda trace: (-scores[trace], trace))
        waiting = [trace for trace in self._order if trace in progress.parked]
        keep = len(waiting) if self._rule.keep is None else max(0, self._rule.keep - len(progress.finished))
        self._queue = waiting[:keep]
        self._tally.n = len(progress.finished) + len(self._queue)
        return tuple(sorted(waiting[keep:]))

    def vote(self, finished: Finished) -> Hashable | None:
        return majority([finished[trace] for trace in sorted(finished)])

    def decision(self, finished: Finished) -> Decision:
        voters = sorted(finished)
        return Decision(None, voters, [1.0] * len(voters), self._order)


def peak_tokens(lengths: Sequence[int]) -> int:
    """The most tokens that traces hold at once which start together and free theirs when they end.

    >>> peak_tokens([1, 4, 5])
    8
    """
    ascending = sorted(lengths)
    return max((length * (len(ascending) - place) for place, length in enumerate(ascending)), default=0)


def worst_dropped(
    lengths: Sequence[int], readings: Sequence[Sequence[float]], every: int, memory: int
) -> tuple[list[int], list[float | None]]:
    """How far each of n traces runs that start together with room for `memory` [tokens], and its score there: the
    mean of its `readings`, P(right) every so many tokens; None before the first.

    Where the running ones, all of one length, would exceed the memory, the lowest score is dropped; a trace without
    one stays as long as others have one, of equals the later is dropped. The last trace is never dropped.
    """
    kept, running = list(lengths), set(range(len(lengths)))
    while len(running) > 1:
        now = memory // len(running)
        ended = {trace for trace in running if lengths[trace] <= now}
        if ended:
            running -= ended
            continue
        worst = min(running, key=lambda trace: (_score(readings[trace], now // every, np.inf), -trace))
        kept[worst] = now
        running.remove(worst)
    return kept, [_score(own, tokens // every, None) for own, tokens in zip(readings, kept, strict=True)]


def _score(readings: Sequence[float], count: int, none: float | None) -> float | None:
    return float(np.mean(readings[:count])) if count and readings else none
