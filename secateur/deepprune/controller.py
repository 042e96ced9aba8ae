"""Problems that share an engine's batch, so that it stays full while one of them waits for its last trace.

One stepping core, `Controller`: `submit` a problem, `step` all of them, `cancel` one. `run_live` runs a known list of
problems through it, and a `Pruner` (pruner.py) those that callers bring. What happens within a problem is in
problem_run.py. An engine that fails ends all problems that run.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from secateur.deepprune.best_first import ScoreRule
from secateur.deepprune.evidence import EvidenceRule, Rule
from secateur.deepprune.job import LiveResult, ProblemJob, ProblemTask
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.problem_run import ProblemRun
from secateur.deepprune.scorer import Scorer
from secateur.engines.base import (
    Engine,
    Event,
    Interruptible,
    SamplingSpec,
    Shareable,
    TraceRefused,
    warn_of_context,
)
from secateur.engines.memory import CacheRoom
from secateur.tasks.answers.equality import AnswerGroups
from secateur.tasks.answers.extraction import Extract, extract_answer
from secateur.tasks.answers.kinds import Groups


class Controller:
    """Many problems, one engine; to be called from one thread at a time.

    `max_rows`: a problem is started while the traces it starts at once and those held for others, running or parked,
    are at most so many; one that is larger than that runs alone. Where answers are forced a trace counts twice, with
    its probe. `room`: the memory in which keys and values of all traces must fit, were they to come to their caps.
    A problem waits for that too, and starts no more traces than fit; those it begins with it can always have.
    """

    def __init__(self, engine: Engine, max_rows: int, room: CacheRoom | None = None) -> None:
        self._engine, self._max_rows, self._room = engine, max_rows, room
        self.active: list[ProblemRun] = []

    @property
    def rows(self) -> int:
        """Places that are taken in the engine."""
        return sum(run.places for run in self.active)

    def has_room(self, task: ProblemTask) -> bool:
        if not self.active:
            return True
        held = sum(run.reserved for run in self.active)
        fits = self._room is None or self._room.fits(held + task.first, task.longest(self._engine))
        return fits and task.first + self.rows <= self._max_rows

    def _may_start(self, run: ProblemRun, count: int) -> int:
        """How many of `count` traces that a problem wants to start there is memory for."""
        if self._room is None:
            return count
        if not self.active:
            self._room.clear()
        others, columns = sum(other.reserved for other in self.active if other is not run), run.longest
        most = max(self._room.rows_for(columns) - others, run.task.first)
        started = max(0, min(count, most - run.places))
        self._room.take(others + max(run.places + started, run.task.first), columns)
        return started

    def submit(self, task: ProblemTask) -> ProblemRun:
        """Start a problem; one whose deadline has passed is over at once. Raises `InputError` where the engine
        refuses it."""
        run = ProblemRun(task, self._engine, self._may_start)
        run.begin()
        if not run.over:
            self.active.append(run)
        return run

    def step(self) -> list[ProblemRun]:
        """One engine step and what it makes due; returns the problems that are over by it, the oldest first. Raises
        `EngineError` where the engine fails: all problems are lost with it, see `lose`."""
        events: dict[int, list[Event]] = {}
        try:
            for event in self._engine.step():
                events.setdefault(event.trace, []).append(event)
        except TraceRefused as refused:
            self._refuse(refused)
        stands = not events and not isinstance(self._engine, Interruptible)
        assert not stands, "the engine runs nothing, but problems wait for it"
        for run in self.active:
            run.advance([event for handle in run.handles for event in events.get(handle, ())])
        over = [run for run in self.active if run.over]
        self.active = [run for run in self.active if not run.over]
        return over

    def _refuse(self, refused: TraceRefused) -> None:
        """The problem that asks for what a server refuses fails, and where the engine is shared no other."""
        if not (isinstance(self._engine, Shareable) and self._engine.shared):
            raise refused
        for run in self.active:
            if refused.trace in run.handles:
                run.error = refused
                run.close()

    def cancel(self, run: ProblemRun) -> None:
        """End a problem that nobody waits for any more."""
        self.active.remove(run)
        run.close()

    def lose(self) -> list[ProblemRun]:
        """Give up all problems, as after the engine has failed, and free what it still holds for them."""
        lost, self.active = self.active, []
        for run in lost:
            with suppress(Exception):  # an engine that has failed, which is what is being dealt with, frees nothing
                run.close()
        return lost


def run_tasks(engine: Engine, tasks: Sequence[ProblemTask], max_rows: int) -> Iterator[LiveResult]:
    """Run problems through one engine and yield each as it is done. Whatever ends it early, the engine is left with
    nothing of them."""
    core = Controller(engine, max_rows)
    try:
        for run in _run_all(core, deque(tasks)):
            if run.error is not None:
                raise run.error
            yield run.result
    finally:
        core.lose()


def _run_all(core: Controller, waiting: deque[ProblemTask]) -> Iterator[ProblemRun]:
    """Each problem as it is over."""
    while waiting or core.active:
        while waiting and core.has_room(waiting[0]):
            run = core.submit(waiting.popleft())
            if run.over:
                yield run
        if core.active:
            yield from core.step()


def run_live(
    engine: Engine,
    jobs: Iterable[ProblemJob],
    spec: SamplingSpec,
    judge: Judge | Scorer | None,
    rule: Rule | ScoreRule,
    max_rows: int,
    extract: Extract = extract_answer,
    groups: Callable[[], Groups] = AnswerGroups,
) -> Iterator[LiveResult]:
    """Run problems through one engine and yield each as it is done. A `PruneRule` asks the `judge`, a `ScoreRule` a
    scorer in its place; an `AnswerRule` or a `ProbeRule` asks none, and neither does an `EvidenceRule` beside a judge
    that has earned no weight.

    A problem is started while the traces it starts at once and those held for others, running or parked, are at most
    `max_rows`; one that is larger than that runs alone. Where answers are forced a trace counts twice, with its
    probe. An engine serves one such run at a time. A cap that its context does not hold is lowered, with a warning.
    `extract` takes the final answer out of a text; see
    `secateur.tasks.answers.extraction.extraction`. `groups` makes empty groups of equal answers.
    """
    if isinstance(rule, EvidenceRule):
        rule = rule.weighed(judge.weight)
    tasks = [ProblemTask(job, spec, judge, rule, extract, groups) for job in jobs]
    warn_of_context(engine, (task.job.prompt_ids for task in tasks), spec)
    yield from run_tasks(engine, tasks, max_rows)
