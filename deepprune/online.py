"""Pruning while the traces run.

Under the barrier every trace of a problem runs to its cut and is parked there. When the last one has come to its cut
or its end, the judge scores them, losers are pruned, and survivors go on from where they stood, as the plan says
(plan.py). Under overlap nobody waits: each trace is judged as it comes and runs on meanwhile; it is pruned at once if
it can never be needed, otherwise by the plan, which is made when the last one has come. Several problems share the
engine's batch, so that it stays full while one of them waits for its last trace.

A judge that fails (`JudgeFailure`, or scores that are no probabilities) costs no problem: all traces that have not
been pruned before run to their ends and vote, and a warning says so. An engine that fails ends the run.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from deepprune.decide import Decision, PruneRule, decision_seed
from deepprune.judges.base import Judge
from deepprune.live import LiveProblem
from engines.accounting import TokenLedger
from engines.base import Engine, Event, SamplingSpec, trace_seed
from runtime.errors import InputError


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


NEVER_STARTED = OnlineTrace((), "", "unstarted", 0, None, None)


@dataclass(frozen=True)
class OnlineResult:
    """One problem's run: its traces in the order of the job's seeds, the vote's answer, and every token spent."""

    problem_id: str
    traces: list[OnlineTrace]
    decision: Decision
    answer: str | None
    ledger: TokenLedger


def _result(run: LiveProblem) -> OnlineResult:
    """The record of a problem that is done."""
    decision = run.decision
    started = len(run.traces)
    clusters = decision.clustering.labels(started) if decision.clustering is not None else [None] * started
    records = [
        OnlineTrace(tuple(trace.token_ids), trace.text, trace.status, trace.cut_tokens, cluster, trace.finish_reason)
        for trace, cluster in zip(run.traces, clusters, strict=True)
    ]
    records += [NEVER_STARTED] * (len(run.job.seeds) - started)
    return OnlineResult(run.job.problem_id, records, decision, run.answer, run.ledger)


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

    A problem is started while the traces it starts at once and those held for others, running or parked, are at most
    `max_rows`; one that is larger than that runs alone. An engine serves one such run at a time. `thinking` as in
    `tasks.answers.extract_answer`.
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
