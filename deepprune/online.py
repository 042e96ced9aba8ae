"""Pruning while the traces run, under the barrier policy.

Every trace of a problem runs to its cut and is parked there. When the last one has come to its cut or its end, the
judge scores all of them, losers are pruned, and survivors go on from where they stood. Several problems share the
engine's batch, each with its own barrier, so that the batch stays full while one of them waits for its last trace.
"""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from deepprune.cut import CutDetector, CutRule
from deepprune.decide import Decision, JudgeFailure, PruneRule, decide, decision_seed, keep_all
from deepprune.judges.base import CutTrace, Judge
from engines.accounting import TokenLedger
from engines.base import Engine, Event, SamplingSpec, trace_seed
from runtime.errors import InputError
from tasks.answers import extract_answer, group_answers

if TYPE_CHECKING:
    import torch


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
class OnlineTrace:
    """What became of one trace.

    `status`: "whole" ended before its cut, "finished" survived and ran to its end, "pruned" was stopped at its cut.
    `cut_tokens` [tokens] were generated when it came to its cut (all, if whole); `cluster` is None where unassigned;
    `finish_reason` is "stop" or "length", None if pruned.
    """

    token_ids: tuple[int, ...]
    text: str
    status: Literal["whole", "finished", "pruned"]
    cut_tokens: int
    cluster: int | None
    finish_reason: str | None


@dataclass(frozen=True)
class OnlineResult:
    """One problem's run: its traces in the order of the job's seeds, the survivors' answer, and every token spent."""

    problem_id: str
    traces: list[OnlineTrace]
    decision: Decision
    answer: str | None
    ledger: TokenLedger


class _LiveTrace:
    """One trace while it runs."""

    def __init__(self, handle: int, rule: CutRule) -> None:
        self.handle = handle
        self.token_ids: list[int] = []
        self.text_pieces: list[str] = []
        self.finish_reason: str | None = None
        self.cut: CutTrace | None = None  # set when the trace comes to its cut or its end
        self.detector = CutDetector(rule)

    def take(self, event: Event) -> bool:
        """Append new tokens. True at the event that brings the trace to its cut, or to its end before that."""
        self.token_ids.extend(event.token_ids)
        self.text_pieces.append(event.text)
        self.finish_reason = event.done
        reached = self.detector.feed(event.text, len(event.token_ids))
        return self.cut is None and (reached or event.done is not None)

    def set_cut(self, prompt_ids: tuple[int, ...], states: "torch.Tensor | None") -> None:
        self.cut = CutTrace(prompt_ids, tuple(self.token_ids), self.detector.text, states)


class ProblemRun:
    """One problem and its barrier: feed it events, `decide` once it is `ready`, take `result` once it is `done`."""

    def __init__(self, job: ProblemJob, engine: Engine, spec: SamplingSpec, judge: Judge, rule: PruneRule) -> None:
        self.job, self._engine, self._judge, self._rule = job, engine, judge, rule
        handles = engine.start(job.prompt_ids, job.seeds, spec)
        self._traces = [_LiveTrace(handle, judge.cut_rule) for handle in handles]
        self._by_handle = {trace.handle: trace for trace in self._traces}
        self._whole: set[int] = set()
        self._decision: Decision | None = None
        self._judge_ledger = TokenLedger()

    @property
    def handles(self) -> list[int]:
        return list(self._by_handle)

    @property
    def live_rows(self) -> int:
        """Traces that still take room in the engine, running or parked."""
        held = range(len(self._traces)) if self._decision is None else self._decision.survivors
        return sum(self._traces[index].finish_reason is None for index in held)

    @property
    def ready(self) -> bool:
        """Every trace stands at its cut or has ended, and nothing is decided yet."""
        return self._decision is None and all(trace.cut is not None for trace in self._traces)

    @property
    def done(self) -> bool:
        return self._decision is not None and self.live_rows == 0

    def on_events(self, events: Iterable[Event]) -> None:
        """Take this problem's events of one engine step; traces that came to their cut are parked together."""
        parked = []
        for event in events:
            trace = self._by_handle[event.trace]
            if not trace.take(event):
                continue
            states = self._engine.states([trace.handle])[0] if self._judge.needs_states else None
            trace.set_cut(self.job.prompt_ids, states)
            if trace.finish_reason is None:
                parked.append(trace.handle)
        if parked:
            self._engine.park(parked)

    def decide(self) -> None:
        """Ask the judge, end the losers, let the survivors go on."""
        self._whole = {index for index, trace in enumerate(self._traces) if trace.finish_reason is not None}
        self._decision = decision = self._judged()
        if decision.judge_failure is not None:
            warnings.warn(
                f"problem '{self.job.problem_id}': the judge failed ({decision.judge_failure}); no trace is pruned",
                RuntimeWarning,
                stacklevel=2,
            )
        parked = [index for index in range(len(self._traces)) if index not in self._whole]
        losers = [self._traces[index].handle for index in parked if index not in decision.survivors]
        survivors = [self._traces[index].handle for index in parked if index in decision.survivors]
        if losers:  # before anybody resumes, so that their memory is free by then
            self._engine.prune(losers)
        if survivors:
            self._engine.resume(survivors)

    def _judged(self) -> Decision:
        cuts = [trace.cut for trace in self._traces]
        self._judge.reset_ledger()
        try:
            scores = np.asarray(self._judge.score(cuts), dtype=np.float64)
        except JudgeFailure as failure:
            return keep_all(len(cuts), str(failure))
        finally:
            self._judge_ledger = self._judge.ledger  # a judge that failed may have read tokens before
        assert scores.shape == (len(cuts), len(cuts)), scores.shape
        return decide(scores, self._rule, self.job.decision_seed, self._whole)

    def result(self, thinking: bool = False) -> OnlineResult:
        """The finished run; `thinking` as in `tasks.answers.extract_answer`."""
        assert self.done
        records = self._records()
        survivors = set(self._decision.survivors)
        answers = [
            extract_answer(record.text, thinking) if index in survivors else None
            for index, record in enumerate(records)
        ]
        winner = self._decision.vote(group_answers(answers))
        answer = None if winner is None else answers[winner]  # a key is the index of the first equal answer
        return OnlineResult(self.job.problem_id, records, self._decision, answer, self._ledger())

    def _records(self) -> list[OnlineTrace]:
        n, clustering = len(self._traces), self._decision.clustering
        clusters = clustering.labels(n) if clustering is not None else [None] * n
        return [
            OnlineTrace(
                token_ids=tuple(trace.token_ids),
                text="".join(trace.text_pieces),
                status=self._status(index),
                cut_tokens=len(trace.cut.token_ids),
                cluster=clusters[index],
                finish_reason=trace.finish_reason,
            )
            for index, trace in enumerate(self._traces)
        ]

    def _status(self, index: int) -> Literal["whole", "finished", "pruned"]:
        if index in self._whole:
            return "whole"
        return "finished" if self._traces[index].finish_reason is not None else "pruned"

    def _ledger(self) -> TokenLedger:
        usages = [self._engine.usage(handle) for handle in self.handles]
        generated = [usage.generated_tokens for usage in usages]
        overrun = sum(usage.overrun_tokens for usage in usages)
        return (
            TokenLedger(generated=sum(generated), overrun=overrun, longest_trace=max(generated)) + self._judge_ledger
        )


def run_online(
    engine: Engine,
    jobs: Iterable[ProblemJob],
    spec: SamplingSpec,
    judge: Judge,
    rule: PruneRule,
    max_rows: int,
    thinking: bool = False,
) -> Iterator[OnlineResult]:
    """Run problems through one engine and yield each as it is done.

    A problem is started while its traces and those held for others, running or parked, are at most `max_rows`; one
    that is larger than that runs alone. An engine serves one such run at a time.
    """
    waiting = deque(jobs)
    active: list[ProblemRun] = []
    while waiting or active:
        while waiting and _fits(waiting[0], active, max_rows):
            active.append(ProblemRun(waiting.popleft(), engine, spec, judge, rule))
        _advance(engine, active)
        for run in [run for run in active if run.done]:
            active.remove(run)
            yield run.result(thinking)


def _fits(job: ProblemJob, active: list[ProblemRun], max_rows: int) -> bool:
    return not active or len(job.seeds) + sum(run.live_rows for run in active) <= max_rows


def _advance(engine: Engine, active: list[ProblemRun]) -> None:
    """One engine step, and the decisions that it makes due."""
    events: dict[int, list[Event]] = {}
    for event in engine.step():
        events.setdefault(event.trace, []).append(event)
    assert events, "the engine runs nothing, but problems wait for it"
    for run in active:
        run.on_events(event for handle in run.handles for event in events.get(handle, ()))
        if run.ready:
            run.decide()
