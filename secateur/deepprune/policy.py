"""Who starts, waits at its cut, goes on and ends: what a rule is asked, what it sees of a problem, what it decides.

The live controller and the replay both keep the `Progress` of a problem and ask the same `Policy` at the same decode
steps, so a replay keeps and spends what the live run does.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from secateur.deepprune.clustering import Clustering
from secateur.engines.base import trace_seed


class JudgeFailure(RuntimeError):
    """Raised by a judge that cannot score the problem at hand (a server that is gone, memory that ran out).

    The problem then falls back to the consensus of all its traces. Anything else a judge raises is a bug or bad input
    and ends the run.
    """


@dataclass(frozen=True)
class Decision:
    """What came of one problem: `survivors` ascend; they reached their ends, or an answer was forced out of them when
    all stopped, and voted, with `weights`.

    `order` is the order in which the traces that were started were taken for clustering: of arrival under overlap,
    ascending under the barrier. Without a judge `clustering` is None; where one failed, `judge_failure` says why.
    """

    clustering: Clustering | None
    survivors: list[int]
    weights: list[float]
    order: list[int]
    judge_failure: str | None = None


def decision_seed(base_seed: int, problem_id: str) -> int:
    """Seed of a problem's clustering and finishing; like `trace_seed` it depends only on what it is for."""
    return trace_seed(base_seed, problem_id, -1)


Status = Literal["unstarted", "to_cut", "parked", "running", "whole", "finished", "pruned"]
Finished = Mapping[int, Hashable | None]
"""Ended traces in the order of their ends → answer key: equal answers have equal keys, None is no answer."""
Forced = Mapping[int, Hashable | None]
"""Running traces, ascending → key of the answer that was forced out of them last."""


@dataclass(frozen=True)
class Move:
    """How many more traces are started, which parked ones go on, and which parked or running ones end here."""

    start: int = 0
    resume: tuple[int, ...] = ()
    prune: tuple[int, ...] = ()


class Progress:
    """The n traces of one problem, numbered in the order in which they are started; each has one status.

    "unstarted"; "to_cut": runs towards its cut; "parked": waits at its cut; "running": runs on behind it; "whole":
    ended before its cut, or with the very token that shows it; "finished": ended behind it; "pruned".
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.started = 0
        self.finished: dict[int, Hashable | None] = {}
        self.ended: list[int] = []
        """The keys of `finished`, in the order of their ends."""
        self.to_cut: set[int] = set()
        self.parked: set[int] = set()
        self.running: set[int] = set()
        self._statuses: list[Status] = ["unstarted"] * n
        self._holders: dict[Status, set[int]] = {
            "to_cut": self.to_cut,
            "parked": self.parked,
            "running": self.running,
        }

    def status(self, trace: int) -> Status:
        return self._statuses[trace]

    @property
    def held(self) -> int:
        """Traces that take room in the engine, running or parked."""
        return len(self.to_cut) + len(self.parked) + len(self.running)

    @property
    def held_traces(self) -> list[int]:
        """Which they are, ascending."""
        return sorted(self.to_cut | self.parked | self.running)

    @property
    def stands_still(self) -> bool:
        """Nothing runs any more."""
        return not self.to_cut and not self.running

    def start(self, count: int, to_cut: bool = True) -> range:
        """The next `count` traces begin to run, towards their cuts where they have one."""
        begun = range(self.started, self.started + count)
        self.started += count
        self._set(begun, "to_cut" if to_cut else "running")
        return begun

    def park(self, traces: Iterable[int]) -> None:
        self._set(traces, "parked")

    def run(self, traces: Iterable[int]) -> None:
        """Parked traces go on, or traces pass their cuts without a stop."""
        self._set(traces, "running")

    def prune(self, traces: Iterable[int]) -> None:
        self._set(traces, "pruned")

    def end(self, trace: int, key: Hashable | None) -> None:
        """A running trace has come to its end with the answer `key`."""
        self.finished[trace] = key
        self.ended.append(trace)
        self._set((trace,), "whole" if self._statuses[trace] == "to_cut" else "finished")

    def _set(self, traces: Iterable[int], status: Status) -> None:
        target = self._holders.get(status)
        for trace in traces:
            holder = self._holders.get(self._statuses[trace])
            if holder is not None:
                holder.remove(trace)
            if target is not None:
                target.add(trace)
            self._statuses[trace] = status


class Policy(ABC):
    """A rule at work on one problem. It must not depend on anything but what it is told.

    `cuts`: traces have a cut that the policy looks at; without it they run from their start to their end. `parks`:
    they wait at it until the policy lets them go on. `judge_failure` says why a judge had no part in the decision.
    """

    parks: bool
    cuts: bool = True
    judge_failure: str | None = None

    @abstractmethod
    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        """Called once before anything is started, and again after every decode step at which traces of the problem
        came to their cuts or ended; `arrived` have come to their cuts, or to their ends before that, since the last
        call. When nothing runs after a move, the problem is done and every parked trace is pruned. What is surely
        needed no more should be pruned at once: it holds memory."""

    def told(self, progress: Progress, forced: Forced) -> Move:
        """Called where answers are forced (probing.py), whenever one has been forced out of every trace that runs."""
        return Move()

    @abstractmethod
    def vote(self, finished: Finished) -> Hashable | None:
        """The answer of a problem that is done; None if no voter gave one."""

    @abstractmethod
    def decision(self, finished: Finished) -> Decision:
        """The record of a problem that is done."""

    def failure_words(self, progress: Progress) -> str | None:
        """What becomes of the problem where the judge failed, once that is known; None before that and where it did
        not fail."""
        return None
