"""Pruning while the traces run.

Under the barrier every trace of a problem runs to its cut and is parked there. When the last one has come to its cut
or its end, the judge scores them, losers are pruned, and survivors go on from where they stood, as the plan says
(plan.py). Under overlap nobody waits: each trace is judged as it comes and runs on meanwhile; it is pruned at once if
it can never be needed, otherwise by the plan, which is made when the last one has come. Several problems share the
engine's batch, so that it stays full while one of them waits for its last trace.

A judge that fails (`JudgeFailure`, or scores that are no probabilities) costs no problem: all traces that have not
been pruned before run to their ends and vote, and a warning says so. An engine that fails ends the run.
"""

import warnings
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from secateur.deepprune.arrivals import Arrivals
from secateur.deepprune.batched import BatchedStart
from secateur.deepprune.cut import CutDetector, CutRule
from secateur.deepprune.decide import Decision, PruneRule, decision_seed
from secateur.deepprune.judges.base import CutTrace, Judge, JudgeSession, out_of_memory_is_failure
from secateur.deepprune.plan import FinishPlan, make_plan
from secateur.deepprune.scores import PairScores
from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, Event, SamplingSpec, trace_seed
from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import AnswerGroups, extract_answer

if TYPE_CHECKING:
    import numpy as np
    import torch


class LiveTrace:
    """One trace while it runs. `cut_tokens` [tokens] is set when it comes to its cut, or to its end before that."""

    def __init__(self, handle: int, rule: CutRule) -> None:
        self.handle = handle
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.cut_tokens: int | None = None
        self.whole = False
        self._pieces: list[str] = []
        self._detector = CutDetector(rule)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def status(self) -> Literal["whole", "finished", "pruned"]:
        """Of a problem that is done, see `TraceResult`."""
        if self.finish_reason is None:
            return "pruned"
        return "whole" if self.whole else "finished"

    def take(self, event: Event) -> bool:
        """Append new tokens. True at the event that brings the trace to its cut, or to its end before that."""
        self.token_ids.extend(event.token_ids)
        self._pieces.append(event.text)
        self.finish_reason = event.done
        reached = self._detector.feed(event.text, len(event.token_ids))
        if self.cut_tokens is not None or not (reached or event.done):
            return False
        self.cut_tokens, self.whole = len(self.token_ids), event.done is not None
        return True

    def cut(self, prompt_ids: tuple[int, ...], states: "torch.Tensor | None") -> CutTrace:
        return CutTrace(prompt_ids, tuple(self.token_ids[: self.cut_tokens]), self._detector.text, states)


class AnswerKeys:
    """Keys of answers that come one by one: answers of one group get the key of its first, a trace; None is no
    answer."""

    def __init__(self, thinking: bool) -> None:
        self._thinking, self._groups = thinking, AnswerGroups()

    def add(self, trace: int, text: str) -> Hashable | None:
        answer = extract_answer(text, self._thinking)
        return None if answer is None else self._groups.add(trace, answer)

    def answer(self, key: Hashable | None) -> str | None:
        return None if key is None else self._groups.first(key)


class LiveProblem:
    """Feed it every engine step's events of its `handles` until it is `done`."""

    def __init__(
        self, job: "ProblemJob", engine: Engine, spec: SamplingSpec, judge: Judge, rule: PruneRule, thinking: bool
    ) -> None:
        self.job, self._engine, self._judge, self._rule = job, engine, judge, rule
        self._spec, n = spec, len(job.seeds)
        self.traces: list[LiveTrace] = []  # those that were started
        self._index: dict[int, int] = {}  # handle → place in `traces`
        self._running: set[int] = set()
        self._parked: set[int] = set()
        self._to_come = 0  # traces that were started and have neither come to their cut nor ended
        self._steps = 0  # decode steps of the engine in which a trace of this problem ran
        self._finished: dict[int, Hashable | None] = {}
        self._keys = AnswerKeys(thinking)
        self._session: JudgeSession | None = None
        self._arrivals = Arrivals(n, self._ask, rule, job.decision_seed)
        self._batches = deque(rule.start.batches(n))
        self._starts = BatchedStart(n, self._ask, rule, job.decision_seed)
        self._plan: FinishPlan | None = None
        self._start(self._batches.popleft())

    @property
    def handles(self) -> list[int]:
        return list(self._index)

    @property
    def live_rows(self) -> int:
        """Traces that still take room in the engine, running or parked."""
        return len(self._running) + len(self._parked)

    @property
    def done(self) -> bool:
        return self._plan is not None and self.live_rows == 0

    def _start(self, traces: range) -> None:
        handles = self._engine.start(self.job.prompt_ids, self.job.seeds[traces.start : traces.stop], self._spec)
        self.traces += [LiveTrace(handle, self._judge.cut_rule) for handle in handles]
        self._index.update(zip(handles, traces, strict=True))
        self._running.update(traces)
        self._to_come = len(traces)

    def on_events(self, events: Sequence[Event]) -> None:
        """Take this problem's events of one engine step, and do what they make due."""
        arrived, ended = [], []
        self._steps += bool(events)
        for event in events:
            index = self._index[event.trace]
            if self.traces[index].take(event):
                arrived.append(index)
            if event.done is not None:
                ended.append(index)
        for index in ended:
            self._running.remove(index)
            self._finished[index] = self._keys.add(index, self.traces[index].text)
        if arrived:
            self._arrive(arrived)
        elif ended and self._plan is not None:
            self._follow()

    def _arrive(self, arrived: list[int]) -> None:
        self._to_come -= len(arrived)
        if self._rule.mode == "barrier":
            self._park([index for index in arrived if index in self._running])
        else:
            self._prune(self._arrivals.come(arrived, self._finished, lambda: self._introduce(arrived)))
        if self._to_come:
            return
        self._plan = self._make_plan()
        if self._plan is None:
            self._start(self._batches.popleft())
            return
        if self._plan.judge_failure is not None:
            self._warn()
        self._follow()

    def _make_plan(self) -> FinishPlan | None:
        """What follows when all that were started have come; None if more have to be started first."""
        if self._rule.mode == "overlap":
            return self._arrivals.plan(self._finished)
        n = len(self.traces)
        if not self._rule.start.start_batch:
            scores = PairScores(n, self._ask, prepare=lambda: self._introduce(range(n)))
            return make_plan(scores, self._rule, self.job.decision_seed, self._finished)
        enough = self._starts.come(n, lambda: self._introduce(range(self._starts.clustered, n)))
        return self._starts.plan(self._finished) if enough or not self._batches else None

    def _introduce(self, traces: Sequence[int]) -> None:
        """Show cuts to the judge; those that have run on since are cut again. May raise `JudgeFailure`."""
        handles = [self.traces[index].handle for index in traces]
        states = self._engine.states(handles) if self._judge.needs_states else [None] * len(handles)
        if self._session is None:
            self._session = self._judge.open()
        with out_of_memory_is_failure():
            for index, own in zip(traces, states, strict=True):
                self._session.add(self.traces[index].cut(self.job.prompt_ids, own))

    def _ask(self, pairs: "np.ndarray") -> Sequence[float]:
        with out_of_memory_is_failure():
            return self._session.scores(list(map(tuple, pairs.tolist())))

    def _warn(self) -> None:
        pruned = len(self._arrivals.gone)
        rest = f"the other {len(self.traces) - pruned} run to their ends" if pruned else "no trace is pruned"
        before = f"{pruned} traces had been pruned before, " if pruned else ""
        warnings.warn(
            f"problem '{self.job.problem_id}': the judge failed ({self._plan.judge_failure}); {before}{rest}",
            RuntimeWarning,
            stacklevel=2,
        )

    def _follow(self) -> None:
        """Ask the plan and do what it says, losers first, so that their memory is free before anybody comes back."""
        move = self._plan.next(self._finished, frozenset(self._running), frozenset(self._parked))
        self._prune(move.prune)
        if move.resume:
            self._engine.resume([self.traces[index].handle for index in move.resume])
            self._parked.difference_update(move.resume)
            self._running.update(move.resume)
        if not self._running:
            self._prune(sorted(self._parked))

    def _park(self, traces: Sequence[int]) -> None:
        if traces:
            self._engine.park([self.traces[index].handle for index in traces])
            self._running.difference_update(traces)
            self._parked.update(traces)

    def _prune(self, traces: Sequence[int]) -> None:
        if traces:
            self._engine.prune([self.traces[index].handle for index in traces])
            self._running.difference_update(traces)
            self._parked.difference_update(traces)

    @property
    def decision(self) -> Decision:
        """Of a problem that is done."""
        order = self._arrivals.order if self._rule.mode == "overlap" else range(len(self.traces))
        return self._plan.decision(self._finished, order)

    @property
    def answer(self) -> str | None:
        """Of a problem that is done."""
        return self._keys.answer(self._plan.vote(self._finished))

    @property
    def usage(self) -> Usage:
        """What was spent so far, the judge included, also where it failed in the end."""
        usages = [self._engine.usage(handle) for handle in self.handles]
        generated = [usage.generated_tokens for usage in usages]
        overrun = sum(usage.overrun_tokens for usage in usages)
        spent = Usage(generated=sum(generated), overrun=overrun, longest_path=self._steps)
        return spent if self._session is None else spent + self._session.usage


@dataclass(frozen=True)
class ProblemJob:
    """One problem to run: a sampling seed for each of its n traces, and one for its decision."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    decision_seed: int

    def __post_init__(self) -> None:
        if len(self.seeds) < 2:
            raise InputError(
                f"n = {len(self.seeds)}: pruning compares traces of one problem; sample at least 2 of each"
            )

    @classmethod
    def sampled(cls, problem_id: str, prompt_ids: Sequence[int], n: int, base_seed: int) -> "ProblemJob":
        """n traces with the seeds that every other run of this problem with `base_seed` uses."""
        seeds = tuple(trace_seed(base_seed, problem_id, sample) for sample in range(n))
        return cls(problem_id, tuple(prompt_ids), seeds, decision_seed(base_seed, problem_id))


@dataclass(frozen=True)
class TraceResult:
    """What became of one trace.

    `status`: "whole" ended before its cut, "finished" ran to its end after it, "pruned" was stopped, at its cut or,
    under overlap or by a plan that had seen enough, after it; "unstarted" was not needed. `cut_tokens` [tokens] were
    generated when it came to its cut (all, if whole); `cluster` is None where unassigned; `finish_reason` is "stop"
    or "length", None if pruned.
    """

    token_ids: tuple[int, ...]
    text: str
    status: Literal["whole", "finished", "pruned", "unstarted"]
    cut_tokens: int
    cluster: int | None
    finish_reason: str | None


NEVER_STARTED = TraceResult((), "", "unstarted", 0, None, None)


@dataclass(frozen=True)
class LiveResult:
    """One problem's run: its traces in the order of the job's seeds, the vote's answer, and every token spent."""

    problem_id: str
    traces: list[TraceResult]
    decision: Decision
    answer: str | None
    usage: Usage


def _result(run: LiveProblem) -> LiveResult:
    """The record of a problem that is done."""
    decision = run.decision
    started = len(run.traces)
    clusters = decision.clustering.labels(started) if decision.clustering is not None else [None] * started
    records = [
        TraceResult(tuple(trace.token_ids), trace.text, trace.status, trace.cut_tokens, cluster, trace.finish_reason)
        for trace, cluster in zip(run.traces, clusters, strict=True)
    ]
    records += [NEVER_STARTED] * (len(run.job.seeds) - started)
    return LiveResult(run.job.problem_id, records, decision, run.answer, run.usage)


def run_live(
    engine: Engine,
    jobs: Iterable[ProblemJob],
    spec: SamplingSpec,
    judge: Judge,
    rule: PruneRule,
    max_rows: int,
    thinking: bool = False,
) -> Iterator[LiveResult]:
    """Run problems through one engine and yield each as it is done.

    A problem is started while the traces it starts at once and those held for others, running or parked, are at most
    `max_rows`; one that is larger than that runs alone. An engine serves one such run at a time. `thinking` as in
    `secateur.tasks.answers.equality.extract_answer`.
    """
    waiting = deque(jobs)
    active: list[LiveProblem] = []
    while waiting or active:
        while waiting and _fits(len(rule.start.batches(len(waiting[0].seeds))[0]), active, max_rows):
            active.append(LiveProblem(waiting.popleft(), engine, spec, judge, rule, thinking))
        _advance(engine, active)
        for run in [run for run in active if run.done]:
            active.remove(run)
            yield _result(run)


def _fits(starting: int, active: list[LiveProblem], max_rows: int) -> bool:
    return not active or starting + sum(run.live_rows for run in active) <= max_rows


def _advance(engine: Engine, active: list[LiveProblem]) -> None:
    """One engine step, and what it makes due."""
    events: dict[int, list[Event]] = {}
    for event in engine.step():
        events.setdefault(event.trace, []).append(event)
    assert events, "the engine runs nothing, but problems wait for it"
    for run in active:
        run.on_events([event for handle in run.handles for event in events.get(handle, ())])
