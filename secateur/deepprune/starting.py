"""How many traces of a problem run at once, and when more are started. Pure functions of a `Tally`.

The other half of a rule of answers; the first is when to stop (stopping.py). Few at once save tokens and make people
wait; many at once do the opposite.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from secateur.deepprune.stopping import StoppingRule
from secateur.deepprune.vote import Tally
from secateur.runtime.errors import InputError


class StartingPolicy(ABC):
    """Subclasses are frozen dataclasses; they must not depend on anything but what they are told."""

    @abstractmethod
    def running(self, tally: Tally, stop: StoppingRule) -> int:
        """How many traces should run now, while `stop` has not had enough; more of them are started, never fewer.
        Where nothing runs and this wants nothing, all that were started have to do."""


@dataclass(frozen=True)
class AllAtOnce(StartingPolicy):
    """All n run side by side."""

    def running(self, tally: Tally, stop: StoppingRule) -> int:
        return tally.n


@dataclass(frozen=True)
class Waves(StartingPolicy):
    """`size` traces at a time; the next wave starts when the last trace of the one before has ended. One by one where
    `size` is 1. With `only_full` a last wave that would be smaller is not started (early stopping), unless it is the
    only one."""

    size: int = 1
    only_full: bool = False

    def __post_init__(self) -> None:
        _check_size(self.size)

    def running(self, tally: Tally, stop: StoppingRule) -> int:
        if tally.running:
            return tally.running
        is_rest = tally.unstarted < min(self.size, tally.n)
        return 0 if self.only_full and is_rest else self.size


@dataclass(frozen=True)
class MissingWaves(StartingPolicy):
    """As many at a time as the leader misses to be enough; `first` to begin with, None: as many as would do if all of
    them agreed. ConSol's way of sampling."""

    first: int | None = None

    def running(self, tally: Tally, stop: StoppingRule) -> int:
        if tally.running:
            return tally.running
        if not tally.answers and self.first is not None:
            return self.first
        return max(1, stop.missing(tally))


@dataclass(frozen=True)
class Pool(StartingPolicy):
    """`size` traces run at any time: as one ends, the next starts."""

    size: int = 8

    def __post_init__(self) -> None:
        _check_size(self.size)

    def running(self, tally: Tally, stop: StoppingRule) -> int:
        return self.size


@dataclass(frozen=True)
class OnDemand(StartingPolicy):
    """As many run as disagreement asks for: `growth` for each vote that the leader misses, `contest` for each vote
    against it.

    So an answer that nobody contests costs a few traces, and a contested one is decided by many side by side. With
    `growth` 1 and `contest` 0 as few run as can be, one after another where answers differ. `first` traces start;
    None: those that are missing, by `growth`, and one more than missing at least.
    """

    first: int | None = None
    growth: float = 1.0
    contest: float = 0.5

    def __post_init__(self) -> None:
        if self.first is not None:
            _check_size(self.first)
        if self.growth <= 0 or self.contest < 0:
            raise InputError(
                f"growth = {self.growth}, contest = {self.contest}: write a growth above 0 and a contest of 0 or more"
            )

    def running(self, tally: Tally, stop: StoppingRule) -> int:
        missing = stop.missing(tally)
        if tally.unstarted == tally.n:
            return max(missing + 1, math.ceil(self.growth * missing)) if self.first is None else self.first
        against = tally.given - tally.top_two[0]
        return math.ceil(self.growth * missing + self.contest * against)


def _check_size(size: int) -> None:
    if size < 1:
        raise InputError(f"size = {size}: somebody must run; write 1 or more")
