"""Rules that need no judge and no cut: finished answers alone say who starts and when all stop.

`ahead`, the default of `prune` without a judge, is one of them: it stops as soon as one answer is ahead, and starts
more traces as far as answers differ. It comes in two settings, `FEWEST_TOKENS` and `SHORTEST_WAIT`. How their values
were chosen, and what they come to on problems that they were not chosen on: bench/ahead.py.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TypeVar

from secateur.deepprune.policy import Decision, Finished, Move, Policy, Progress
from secateur.deepprune.starting import AllAtOnce, MissingWaves, OnDemand, Pool, StartingPolicy, Waves
from secateur.deepprune.stopping import (
    BetaPosterior,
    CannotChange,
    FirstEnded,
    Lead,
    MajorityCertificate,
    MixtureSprt,
    Never,
    Sprt,
    StoppingRule,
    TopThreePosterior,
    WindowAgrees,
)
from secateur.deepprune.vote import Tally, weighted_vote
from secateur.runtime.config import check_types, reject_unknown
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON

P = TypeVar("P")


@dataclass(frozen=True)
class AnswerRule:
    """When to stop, and how many traces run until then: two choices, free of each other."""

    stop: StoppingRule = field(default_factory=Lead)
    start: StartingPolicy = field(default_factory=OnDemand)

    def first(self, n: int) -> int:
        """How many of n traces are started at once."""
        return min(n, self.start.running(Tally(n, unstarted=n), self.stop))


FEWEST_TOKENS = AnswerRule(Lead(), OnDemand(growth=1.0, contest=0.5))
"""`ahead`: a trace runs for every vote that the leader misses, and one more for every two votes against it."""
SHORTEST_WAIT = AnswerRule(Lead(), OnDemand(growth=2.0, contest=0.75))
"""`ahead` with a critical path no longer than the consensus' own: two traces run for every vote that is missing."""
AHEAD = FEWEST_TOKENS


_STOPS: Mapping[str, type[StoppingRule]] = {
    "lead": Lead,
    "beta": BetaPosterior,
    "window": WindowAgrees,
    "sprt": Sprt,
    "mixture_sprt": MixtureSprt,
    "top_three": TopThreePosterior,
    "certificate": MajorityCertificate,
    "first_ended": FirstEnded,
    "cannot_change": CannotChange,
    "never": Never,
}
_STARTS: Mapping[str, type[StartingPolicy]] = {
    "on_demand": OnDemand,
    "at_once": AllAtOnce,
    "waves": Waves,
    "missing": MissingWaves,
    "pool": Pool,
}


def answer_rule(values: Mapping[str, JSON], source: str) -> AnswerRule:
    """The rule that `stop` and `start` name, with the options of both beside them: {stop: lead, lead: 3, start: pool,
    size: 8}. Raises `InputError`, naming `source`, for a name or an option that is not there."""
    stop, start = (_named(values, key, names, source) for key, names in (("stop", _STOPS), ("start", _STARTS)))
    options = {key: value for key, value in values.items() if key not in ("stop", "start")}
    reject_unknown(list(options), [field.name for part in (stop, start) for field in fields(part)], source)
    made = (part(**check_types(part, _options_of(part, options), source)) for part in (stop, start))
    return AnswerRule(*made)


def _named(values: Mapping[str, JSON], key: str, names: Mapping[str, type[P]], source: str) -> type[P]:
    name = values.get(key, next(iter(names)))
    if name not in names:
        raise InputError(f"{source}: '{key}' is {name!r}; choose one of {', '.join(names)}")
    return names[name]


def _options_of(part: type, options: Mapping[str, JSON]) -> dict[str, JSON]:
    return {field.name: options[field.name] for field in fields(part) if field.name in options}


def answer_values(rule: AnswerRule) -> dict[str, JSON] | None:
    """What `answer_rule` makes the rule of; None where no values do, such as for stops of a user's own."""
    stops, starts = ({kind: name for name, kind in names.items()} for names in (_STOPS, _STARTS))
    if type(rule.stop) not in stops or type(rule.start) not in starts:
        return None
    values: dict[str, JSON] = {"stop": stops[type(rule.stop)], "start": starts[type(rule.start)]}
    for part in (rule.stop, rule.start):
        values |= {key.name: found for key in fields(part) if (found := getattr(part, key.name)) != key.default}
    return values if answer_rule(values, "the rule") == rule else None


class AnswerPolicy(Policy):
    """A rule of answers at work on one problem."""

    parks = False
    cuts = False

    def __init__(self, rule: AnswerRule, n: int) -> None:
        self._rule = rule
        self._tally = Tally(n, unstarted=n)

    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        tally, rule = self._tally, self._rule
        for trace in progress.ended[len(tally.answers) :]:
            tally.add(progress.finished[trace])
        tally.running, tally.unstarted = progress.held, progress.n - progress.started
        if rule.stop.enough(tally):
            return Move(prune=tuple(progress.held_traces))
        wanted = rule.start.running(tally, rule.stop) - tally.running
        return Move(start=min(max(0, wanted), tally.unstarted))

    def vote(self, finished: Finished) -> Hashable | None:
        return weighted_vote(finished, dict.fromkeys(finished, 1.0))

    def decision(self, finished: Finished) -> Decision:
        voters = sorted(finished)
        return Decision(None, voters, [1.0] * len(voters), voters)
