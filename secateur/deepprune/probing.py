"""Rules of forced answers ("probes"): every so many tokens a running trace is asked what it would answer now.

A probe is a short greedy trace (secateur/engines/sampling.py) that runs beside its own one. That is not parked: on
vLLM and on servers a parked trace is read again and draws anew when it goes on. All traces of a problem start at once
and come to a mark in the same step; the policy is told when all that run have answered. What probes cost is counted,
see `Usage`.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from secateur.deepprune.policy import Decision, Finished, Forced, Move, Policy, Progress
from secateur.deepprune.vote import weighted_vote
from secateur.engines.base import Event, SamplingSpec
from secateur.engines.sampling import Probe, Prober
from secateur.runtime.errors import InputError
from secateur.runtime.records import read_record, write_record
from secateur.tasks.prompts import FORCING, Forcing


@dataclass(frozen=True, kw_only=True)
class ProbeRule(ABC):
    """What answers are forced, and what is made of them.

    `every`: tokens between two marks; `tokens`: a probe reads so many at most, and ends with the box; `forcing`: what
    is put behind the trace.
    """

    every: int = 500
    tokens: int = 32
    forcing: Forcing = FORCING["boxed"]

    def __post_init__(self) -> None:
        if not 0 < self.tokens < self.every:
            raise InputError(
                f"probe_tokens = {self.tokens}, probe_every = {self.every}: an answer is read before the next mark; "
                "write 1 or more tokens, fewer than between two marks"
            )

    def first(self, n: int) -> int:
        """Places in an engine that n traces take at once: each may have a probe beside it."""
        return 2 * n

    @abstractmethod
    def policy(self, n: int) -> "ProbePolicy":
        """The rule at work on a problem of n traces."""


class ProbePolicy(Policy):
    """All n traces start at once; nothing is decided but when forced answers have come. Those that run when all stop
    vote with theirs."""

    parks = False
    cuts = False

    def __init__(self) -> None:
        self._stopped: dict[int, Hashable | None] = {}

    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        return Move() if progress.started else Move(start=progress.n)

    @abstractmethod
    def told(self, progress: Progress, forced: Forced) -> Move: ...

    def _stop(self, forced: Forced, without: Sequence[int] = ()) -> Move:
        """All stop and vote, but for those `without` a vote."""
        self._stopped = {trace: key for trace, key in forced.items() if trace not in without}
        return Move(prune=tuple(forced))

    def _voters(self, finished: Finished) -> dict[int, Hashable | None]:
        return {**self._stopped, **finished}

    def vote(self, finished: Finished) -> Hashable | None:
        voters = self._voters(finished)
        return weighted_vote(voters, dict.fromkeys(voters, 1.0))

    def decision(self, finished: Finished) -> Decision:
        voters = sorted(self._voters(finished))
        return Decision(None, voters, [1.0] * len(voters), voters)


class Unfinished(Protocol):
    """A running trace: its tokens and text so far."""

    token_ids: Sequence[int]

    @property
    def text(self) -> str: ...


class LiveMarks:
    """The marks that the running traces of one problem come to: probes start there, answers are gathered.

    `keys`: trace → what it answered, mark by mark; `read`: trace → tokens of each of its probes. Where a probe would
    go beyond the cap of its trace there is none, and the last answer stands.
    """

    def __init__(
        self,
        prober: Prober,
        rule: ProbeRule,
        prompt_ids: Sequence[int],
        seeds: Sequence[int],
        spec: SamplingSpec,
        key_of: Callable[[int, str], Hashable | None],
    ) -> None:
        """`key_of` takes a number of its own for every answer, above those of the traces, and the forced text."""
        self.prober, self._rule, self._spec, self._key_of = prober, rule, spec, key_of
        self._prompt_ids, self._seeds = prompt_ids, seeds
        self.keys: list[list[Hashable | None]] = [[] for _ in seeds]
        self.read: list[list[int]] = [[] for _ in seeds]
        self._waiting: dict[int, tuple[Probe, str]] = {}
        self._told = 0

    def take(self, events: Iterable[Event]) -> None:
        """The probes' events of an engine step."""
        self.prober.take(events)
        for trace, (probe, text) in list(self._waiting.items()):
            if probe.done:
                del self._waiting[trace]
                number = len(self.keys) * (len(self.keys[trace]) + 1) + trace
                self.keys[trace].append(self._key_of(number, text + probe.forced))
                self.read[trace].append(probe.n_tokens)

    def leave(self, traces: Iterable[int]) -> None:
        """Traces that have ended or were pruned: nobody waits for their answers."""
        self.prober.drop(self._waiting.pop(trace)[0] for trace in traces if trace in self._waiting)

    def reach(self, running: Mapping[int, Unfinished]) -> None:
        """Probe those that have come to their next mark."""
        for trace, found in running.items():
            while trace not in self._waiting and len(found.token_ids) >= (length := self._next_mark(trace)):
                if not self.prober.fits(length, self._spec):
                    self.keys[trace].append(self.keys[trace][-1] if self.keys[trace] else None)
                    continue
                ids, text = found.token_ids[:length], found.text
                self._waiting[trace] = self.prober.start(self._prompt_ids, ids, text, self._seeds[trace]), text

    def _next_mark(self, trace: int) -> int:
        """In tokens."""
        return self._rule.every * (len(self.keys[trace]) + 1)

    def told(self, trace: int) -> Hashable | None:
        """What a trace answered at the last mark that the policy was told of."""
        return self.keys[trace][self._told - 1]

    def due(self, running: Iterable[int]) -> dict[int, Hashable | None]:
        """The answers of all `running` traces at the next mark, once; {} while one of them is missing."""
        traces = sorted(running)
        if any(len(self.keys[trace]) <= self._told for trace in traces):
            return {}
        self._told += bool(traces)
        return {trace: self.keys[trace][self._told - 1] for trace in traces}


def _leader(finished: Finished, forced: Forced) -> Hashable | None:
    """The most frequent answer, of equals that of the earliest trace; None where nobody gives one."""
    merged = {**finished, **forced}
    counts = Counter(merged[trace] for trace in sorted(merged))
    del counts[None]
    return counts.most_common(1)[0][0] if counts else None


@dataclass(frozen=True, kw_only=True)
class ParallelProbe(ProbeRule):
    """Parallel-Probe (arXiv 2602.03845, its code: ParallelESTPruningBurstMajorityOnActiveBranches, whose figures its
    table shows).

    All stop when the most frequent answer has been the same for `stable` marks more. From the mark `warm_up` on, a
    trace whose answer was another at `patience` marks in a row is pruned and votes no more. As in the code the first
    mark does not count; it takes a missing answer for one that all who lack it share, which here is no vote.
    """

    stable: int = 40
    patience: int = 7
    warm_up: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.stable, self.patience) < 1 or self.warm_up < 0:
            raise InputError(
                f"stable = {self.stable}, patience = {self.patience}, warm_up = {self.warm_up}: these count marks; "
                "write 1 or more, a warm-up of 0 or more"
            )

    def policy(self, n: int) -> "ProbePolicy":
        return _ParallelProbePolicy(self)


class _ParallelProbePolicy(ProbePolicy):
    def __init__(self, rule: ParallelProbe) -> None:
        super().__init__()
        self._rule = rule
        self._marks = 0
        self._same = 0
        self._leader: Hashable | None = None
        self._astray: dict[int, int] = {}

    def told(self, progress: Progress, forced: Forced) -> Move:
        self._marks += 1
        if self._marks == 1:
            return Move()
        leader = _leader(progress.finished, forced)
        deviants = self._deviants(leader, forced, len(progress.finished))
        if deviants:
            leader = _leader(progress.finished, {t: key for t, key in forced.items() if t not in deviants})
        self._same = self._same + 1 if leader == self._leader and self._marks > 2 else 0
        self._leader = leader
        return self._stop(forced, deviants) if self._same >= self._rule.stable else Move(prune=deviants)

    def _deviants(self, leader: Hashable | None, forced: Forced, ended: int) -> tuple[int, ...]:
        if self._marks < self._rule.warm_up + 2 or len(forced) + ended < 2:
            return ()
        astray = {trace: self._astray.get(trace, 0) + 1 for trace, key in forced.items() if key != leader}
        self._astray = astray
        return tuple(trace for trace, marks in astray.items() if marks >= self._rule.patience)


STREAKS = (1, 2, 4, 10)
"""How many marks a trace has given its present answer for, at least: the columns of `SwitchRates`."""
Rates = tuple[float, float, float, float]
_EVEN: Rates = (0.5, 0.5, 0.5, 0.5)


@dataclass(frozen=True)
class SwitchRates:
    """Probability (0-1) that a running trace ends with another answer than the one forced out of it now.

    By what the traces that have ended say to that answer: none has answered (`early`), most of them say the same
    (`leading`), some do (`said`), none does (`unsaid`); `silent` has no answer yet. In each by `STREAKS`. The default
    is a coin toss, fitted to nothing; `learn_switch_rates` fits them to development problems.
    """

    early: Rates = _EVEN
    leading: Rates = _EVEN
    said: Rates = _EVEN
    unsaid: Rates = _EVEN
    silent: Rates = _EVEN

    def __post_init__(self) -> None:
        for name, rates in vars(self).items():
            if len(rates) != len(STREAKS) or not all(0 <= rate <= 1 for rate in rates):
                raise InputError(f"switch rates '{name}' are {rates}: write {len(STREAKS)} numbers from 0 to 1")


_FORMAT = 1


def write_switch_rates(path: str | Path, rates: SwitchRates) -> None:
    write_record(path, rates, _FORMAT)


def read_switch_rates(path: str | Path) -> SwitchRates:
    """Raises `InputError` for a file that is missing or something else."""
    return read_record(path, SwitchRates, _FORMAT, "learn them anew")


def _standing(key: Hashable | None, ended: Mapping[Hashable, int], most: int) -> str:
    if key is None:
        return "silent"
    if not most:
        return "early"
    same = ended.get(key, 0)
    return "leading" if same == most else "said" if same else "unsaid"


def _column(streak: int) -> int:
    return sum(streak >= least for least in STREAKS[1:])


class _Histories:
    """What is known of the running traces of a problem: where each stands among `SwitchRates`."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[Hashable | None, int]] = {}  # answer, and for how many marks

    def standings(self, finished: Finished, forced: Forced) -> dict[int, tuple[str, int]]:
        """Trace → (field, column); to be asked once at every mark."""
        ended = Counter(key for key in finished.values() if key is not None)
        most, last, found = max(ended.values(), default=0), self._last, {}
        for trace, key in forced.items():
            before, streak = last.get(trace, (key, 0))
            last[trace] = key, streak = (key, streak + 1 if before == key else 1)
            found[trace] = (_standing(key, ended, most), _column(streak))
        return found


@dataclass(frozen=True)
class ProbedTraces:
    """The traces of one problem: their answers' `keys`, `lengths` [tokens], and the keys of the answers `forced` out
    of each at its marks, `every` so many tokens; behind the last one the answer stays what it was. `read` [tokens] is
    what each took, None where that is not known."""

    keys: Sequence[Hashable | None]
    lengths: Sequence[int]
    forced: Sequence[Sequence[Hashable | None]]
    every: int
    read: Sequence[Sequence[int]] | None = None

    def at(self, mark: int, traces: Iterable[int]) -> dict[int, Hashable | None]:
        """What `traces` answer at a mark, the first of which is 1."""
        forced = self.forced
        return {t: forced[t][min(mark, len(forced[t])) - 1] if forced[t] else None for t in traces}


def learn_switch_rates(problems: Iterable[ProbedTraces]) -> SwitchRates:
    """The rates of development problems, every trace at every mark counted once; (switches + 1) ÷ (seen + 2)."""
    switched: Counter[tuple[str, int]] = Counter()
    seen: Counter[tuple[str, int]] = Counter()
    for problem in problems:
        histories = _Histories()
        for mark in range(1, -(-max(problem.lengths) // problem.every)):
            ended = {t: key for t, key in enumerate(problem.keys) if problem.lengths[t] <= mark * problem.every}
            forced = problem.at(mark, (t for t in range(len(problem.keys)) if t not in ended))
            for trace, place in histories.standings(ended, forced).items():
                seen[place] += 1
                switched[place] += forced[trace] != problem.keys[trace]
    columns = range(len(STREAKS))
    names = vars(SwitchRates())
    return SwitchRates(
        **{name: tuple((switched[name, c] + 1) / (seen[name, c] + 2) for c in columns) for name in names}
    )


@dataclass(frozen=True, kw_only=True)
class Mars(ProbeRule):
    """A stop after MARS (arXiv 2606.12935; its code: mars/voting.py).

    From there: the leader L is safe from a challenger k if V_L − V_k > Σ q_j c_j over the running traces, where q_j
    is the probability that j switches and c_j what that costs in the worst case: 2γ if j votes for L, −1 if for k, γ
    otherwise. All stop once L is safe from everybody, one whom nobody has named yet included. γ from ½ to 1 (`gamma`)
    relaxes where switching traces land; their reported runs leave out the term with `delta`, which by Hoeffding's
    inequality bounds the error at that level: + √(½ Σ (range of c_j)² ln(challengers ÷ delta)).

    Ours: q_j is a table learned on development problems (`rates`), where theirs is a logistic model, with token
    confidences, fitted to 16 traces of the same problem that have run to their ends before, and γ is no fit either.
    Traces that ended count as settled; one without an answer may land anywhere.
    """

    gamma: float = 1.0
    delta: float | None = None
    rates: SwitchRates = field(default_factory=SwitchRates)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.5 <= self.gamma <= 1:
            raise InputError(f"mars_gamma = {self.gamma}: write a number from 0.5 to 1, the worst case")
        if self.delta is not None and not 0 < self.delta < 1:
            raise InputError(f"mars_delta = {self.delta}: write a probability above 0, below 1, or null")

    def policy(self, n: int) -> "ProbePolicy":
        return _MarsPolicy(self)

    def is_safe(self, votes: Mapping[Hashable, int], running: Counter, switching: Mapping[Hashable, float]) -> bool:
        """`votes`: answer → all its votes; `running`: answer, or None, → those of them that still run; `switching`:
        the same → the sum of their q."""
        if not votes:
            return False
        leader = max(votes, key=votes.__getitem__)
        challengers = [*(key for key in votes if key != leader), _NOBODY]
        lost = self.gamma * (sum(switching.values()) + switching.get(leader, 0.0))
        bar = lost + self._slack(running[leader], running.total(), len(challengers))
        gain = 1 + self.gamma  # who leaves the challenger does not come to it
        return all(votes[leader] - votes.get(key, 0) + gain * switching.get(key, 0.0) > bar for key in challengers)

    def _slack(self, leading: int, running: int, challengers: int) -> float:
        if self.delta is None:
            return 0.0
        ranges = 4 * self.gamma**2 * leading + (running - leading)
        return math.sqrt(0.5 * ranges * math.log(challengers / self.delta))


_NOBODY = object()
"""The challenger whom no trace has named yet."""


class _MarsPolicy(ProbePolicy):
    def __init__(self, rule: Mars) -> None:
        super().__init__()
        self._rule, self._histories = rule, _Histories()

    def told(self, progress: Progress, forced: Forced) -> Move:
        rates, switching = vars(self._rule.rates), dict[Hashable | None, float]()
        for trace, (name, column) in self._histories.standings(progress.finished, forced).items():
            key = forced[trace]
            switching[key] = switching.get(key, 0.0) + rates[name][column]
        running = Counter(forced.values())
        votes = running + Counter(progress.finished.values())
        del votes[None]
        return self._stop(forced) if self._rule.is_safe(votes, running, switching) else Move()
