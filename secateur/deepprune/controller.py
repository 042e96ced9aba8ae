"""Pruning while the traces run: problems share an engine's batch, each follows its rule's policy.

By a rule of answers (answers.py) traces run to their ends, start as they are asked for, and stop when one answer is
ahead. By a rule of forced answers (probing.py) all start at once and are asked on the way. Rules that ask a judge
have a cut. Under the barrier every trace of a problem runs to its cut and is parked
there. When the last one has come to its cut or its end, the judge scores them, losers are pruned, and survivors go
on from where they stood, as the policy says (gathering.py, finishing.py). Under overlap nobody waits: each trace is
judged as it comes and runs on meanwhile. Several problems share the engine's batch, so that it stays full while one
of them waits for its last trace.

A judge that fails (`JudgeFailure`, or scores that are no probabilities) costs no problem: all traces that have not
been pruned before run to their ends and vote, and a warning says so. An engine that fails ends the run.
"""

import warnings
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from secateur.deepprune.answers import AnswerPolicy, AnswerRule
from secateur.deepprune.best_first import BestFirstPolicy, ScoreRule
from secateur.deepprune.cut import CutDetector, CutRule
from secateur.deepprune.evidence import EvidenceRule, Rule, judged_policy
from secateur.deepprune.judges.base import CutTrace, Judge, JudgeSession, out_of_memory_is_failure
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.policy import Decision, Move, Policy, Progress, decision_seed
from secateur.deepprune.probing import LiveMarks, ProbeRule
from secateur.deepprune.scorer import CUT, Scorer, observed_at
from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, Event, SamplingSpec, fit_to_context, trace_seed, warn_of_context
from secateur.engines.sampling import Prober
from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import AnswerGroups
from secateur.tasks.answers.extraction import Extract, extract_answer

if TYPE_CHECKING:
    import numpy as np
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
class TraceResult:
    """What became of one trace.

    `status`: "whole" ended before its cut, "finished" ran to its end after it, "pruned" was stopped, at its cut or,
    under overlap or by a policy that had seen enough, after it; "unstarted" was not needed. `cut_tokens` [tokens]
    were generated when it came to its cut (all, if whole), None where the rule has no cuts; `cluster` is None where
    unassigned; `finish_reason` is "stop" or "length", None if pruned. `probes` are the answers that were forced out
    of it at its marks, None for none, and `probe_tokens` [tokens] what each took to read."""

    token_ids: tuple[int, ...]
    text: str
    status: Literal["whole", "finished", "pruned", "unstarted"]
    cut_tokens: int | None
    cluster: int | None
    finish_reason: str | None
    probes: tuple[str | None, ...] = ()
    probe_tokens: tuple[int, ...] = ()


NEVER_STARTED = TraceResult((), "", "unstarted", 0, None, None)


@dataclass(frozen=True)
class LiveResult:
    """One problem's run: its traces in the order of the job's seeds, the vote's answer, and every token spent."""

    problem_id: str
    traces: list[TraceResult]
    decision: Decision
    answer: str | None
    usage: Usage


def run_live(
    engine: Engine,
    jobs: Iterable[ProblemJob],
    spec: SamplingSpec,
    judge: Judge | Scorer | None,
    rule: Rule | ScoreRule,
    max_rows: int,
    extract: Extract = extract_answer,
) -> Iterator[LiveResult]:
    """Run problems through one engine and yield each as it is done. A `PruneRule` asks the `judge`, a `ScoreRule` a
    scorer in its place; an `AnswerRule` or a `ProbeRule` asks none, and neither does an `EvidenceRule` beside a judge
    that has earned no weight.

    A problem is started while the traces it starts at once and those held for others, running or parked, are at most
    `max_rows`; one that is larger than that runs alone. Where answers are forced a trace counts twice, with its
    probe. An engine serves one such run at a time. A cap that its context does not hold is lowered, with a warning.
    `extract` takes the final answer out of a text; see
    `secateur.tasks.answers.extraction.extraction`.
    """
    if isinstance(rule, EvidenceRule):
        rule = rule.weighed(judge.weight)
    waiting = deque(jobs)
    warn_of_context(engine, (job.prompt_ids for job in waiting), spec)
    active: list[_ProblemRun] = []
    while waiting or active:
        while waiting and _fits(rule.first(len(waiting[0].seeds)), active, max_rows):
            active.append(_ProblemRun(waiting.popleft(), engine, spec, judge, rule, extract))
        _advance(engine, active)
        for run in [run for run in active if run.done]:
            active.remove(run)
            yield run.result()


def _fits(starting: int, active: list["_ProblemRun"], max_rows: int) -> bool:
    return not active or starting + sum(run.places for run in active) <= max_rows


def _advance(engine: Engine, active: list["_ProblemRun"]) -> None:
    """One engine step, and what it makes due."""
    events: dict[int, list[Event]] = {}
    for event in engine.step():
        events.setdefault(event.trace, []).append(event)
    assert events, "the engine runs nothing, but problems wait for it"
    for run in active:
        run.on_events([event for handle in run.handles for event in events.get(handle, ())])


class _RunningTrace:
    """The tokens and text of one trace so far. `cut_tokens` [tokens] is set when it comes to its cut, or to its end
    before that; where it stands is its status in the problem's `Progress`."""

    def __init__(self, handle: int, rule: CutRule | None) -> None:
        self.handle = handle
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.cut_tokens: int | None = None
        self._pieces: list[str] = []
        self._detector = None if rule is None else CutDetector(rule)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, event: Event) -> bool:
        """Append new tokens. True at the event that brings the trace to its cut, or to its end before that."""
        self.token_ids.extend(event.token_ids)
        self._pieces.append(event.text)
        self.finish_reason = event.done
        if self._detector is None:
            return False
        reached = self._detector.feed(event.text, len(event.token_ids))
        if self.cut_tokens is not None or not (reached or event.done):
            return False
        self.cut_tokens = len(self.token_ids)
        return True

    def cut(self, prompt_ids: tuple[int, ...], states: "torch.Tensor | None") -> CutTrace:
        return CutTrace(prompt_ids, tuple(self.token_ids[: self.cut_tokens]), self._detector.text, states)


class _AnswerKeys:
    """Keys of answers that come one by one: answers of one group get the key of its first, a trace; None is no
    answer."""

    def __init__(self, extract: Extract) -> None:
        self._extract, self._groups = extract, AnswerGroups()

    def add(self, trace: int, text: str) -> Hashable | None:
        answer = self._extract(text)
        return None if answer is None else self._groups.add(trace, answer)

    def answer(self, key: Hashable | None) -> str | None:
        return None if key is None else self._groups.first(key)


class _ProblemRun:
    """One problem while it runs: feed it every engine step's events of its `handles` until it is `done`."""

    def __init__(
        self,
        job: ProblemJob,
        engine: Engine,
        spec: SamplingSpec,
        judge: Judge | Scorer | None,
        rule: Rule | ScoreRule,
        extract: Extract,
    ) -> None:
        self.job, self._engine, self._judge = job, engine, judge
        self._spec = fit_to_context(engine, job.prompt_ids, spec)
        n = len(job.seeds)
        self.progress = Progress(n)
        self.traces: list[_RunningTrace] = []  # those that were started
        self._index: dict[int, int] = {}  # handle → place in `traces`
        self._steps = 0  # decode steps of the engine in which a trace of this problem ran
        self._keys = _AnswerKeys(extract)
        self._session: JudgeSession | None = None
        self._marks: LiveMarks | None = None
        self._scoring = Usage()
        self._policy = self._policy_of(rule, n)
        self._warned = False
        self._move(self._policy.next(self.progress, ()))

    def _policy_of(self, rule: Rule | ScoreRule, n: int) -> Policy:
        if isinstance(rule, AnswerRule):
            return AnswerPolicy(rule, n)
        if isinstance(rule, ProbeRule):
            prober, job = Prober(self._engine, rule.forcing, rule.tokens), self.job
            self._marks = LiveMarks(prober, rule, job.prompt_ids, job.seeds, self._spec, self._keys.add)
            return rule.policy(n)
        if isinstance(rule, ScoreRule):
            return BestFirstPolicy(rule, n, self._score)
        return judged_policy(rule, PairScores(n, self._ask, self._introduce), self.job.decision_seed)

    @property
    def handles(self) -> list[int]:
        """Of its traces and the probes that run beside them."""
        return [*self._index, *(self._marks.prober.handles if self._marks else ())]

    @property
    def places(self) -> int:
        """Room that it needs in the engine."""
        return self.progress.held * (2 if self._marks else 1)

    @property
    def done(self) -> bool:
        return self.progress.held == 0

    def on_events(self, events: Sequence[Event]) -> None:
        """Take this problem's events of one engine step, and do what they make due."""
        own = [event for event in events if event.trace in self._index]
        if self._marks is not None:
            self._marks.take(event for event in events if event.trace not in self._index)
        self._steps += bool(own)
        arrived, ended = [], []
        for event in own:
            index = self._index[event.trace]
            if self.traces[index].take(event):
                arrived.append(index)
            if event.done is not None:
                ended.append(index)
        for index in ended:
            self.progress.end(index, self._keys.add(index, self.traces[index].text))
        self._pass_cut([index for index in arrived if self.progress.status(index) == "to_cut"])
        if arrived or ended:
            self._move(self._policy.next(self.progress, arrived))
        if self._marks is not None:
            self._marks.leave(ended)
            self._probe()

    def _probe(self) -> None:
        """Force answers out of traces that have come to their marks, and tell the policy when all have answered."""
        self._marks.reach({index: self.traces[index] for index in sorted(self.progress.running)})
        while forced := self._marks.due(self.progress.running):
            self._move(self._policy.told(self.progress, forced))

    def _pass_cut(self, traces: Sequence[int]) -> None:
        if not self._policy.parks:
            self.progress.run(traces)
        elif traces:
            self._engine.park(self._handles_of(traces))
            self.progress.park(traces)

    def _move(self, move: Move) -> None:
        """Losers first, so that their memory is free before anybody comes back."""
        self._warn_of_failure()
        self._prune(move.prune)
        if move.resume:
            self._engine.resume(self._handles_of(move.resume))
            self.progress.run(move.resume)
        if move.start:
            self._start(move.start)
        if self.progress.stands_still:
            self._prune(sorted(self.progress.parked))

    def _start(self, count: int) -> None:
        cut_rule = self._judge.cut_rule if self._policy.cuts else None
        begun = self.progress.start(count, self._policy.cuts)
        handles = self._engine.start(self.job.prompt_ids, self.job.seeds[begun.start : begun.stop], self._spec)
        self.traces += [_RunningTrace(handle, cut_rule) for handle in handles]
        self._index.update(zip(handles, begun, strict=True))

    def _prune(self, traces: Sequence[int]) -> None:
        if traces:
            self._engine.prune(self._handles_of(traces))
            self.progress.prune(traces)
            if self._marks is not None:
                self._marks.leave(traces)

    def _handles_of(self, traces: Sequence[int]) -> list[int]:
        return [self.traces[index].handle for index in traces]

    def _introduce(self, traces: Sequence[int]) -> None:
        """Show cuts to the judge; those that have run on since are cut again. May raise `JudgeFailure`."""
        handles = self._handles_of(traces)
        states = self._engine.states(handles) if self._judge.needs_states else [None] * len(handles)
        if self._session is None:
            self._session = self._judge.open()
        with out_of_memory_is_failure():
            for index, own in zip(traces, states, strict=True):
                self._session.add(self.traces[index].cut(self.job.prompt_ids, own))

    def _ask(self, pairs: "np.ndarray") -> Sequence[float]:
        with out_of_memory_is_failure():
            return self._session.scores(list(map(tuple, pairs.tolist())))

    def _score(self) -> Sequence[float]:
        """P(right) of all traces, which have come to their cuts."""
        scorer, handles = self._judge, self._handles_of(range(len(self.traces)))
        places = [trace.cut_tokens for trace in self.traces]
        logits: list[float | None] = [None] * len(handles)
        if scorer.needs_states:
            logits = [scorer.logit(CUT, states) for states in self._engine.states(handles)]
        self._scoring = Usage(judge_head=sum(scorer.macs(CUT, place) for place in places))
        return scorer.probabilities(CUT, [observed_at(*one) for one in zip(places, logits, strict=True)]).tolist()

    def _warn_of_failure(self) -> None:
        """Once, as soon as the policy knows what becomes of the problem."""
        words = None if self._warned else self._policy.failure_words(self.progress)
        if words is not None:
            self._warned = True
            warnings.warn(f"problem '{self.job.problem_id}': {words}", RuntimeWarning, stacklevel=2)

    def result(self) -> LiveResult:
        """The record of a problem that is done."""
        finished, started = self.progress.finished, len(self.traces)
        decision = self._policy.decision(finished)
        clusters = decision.clustering.labels(started) if decision.clustering is not None else [None] * started
        records = [
            TraceResult(
                tuple(trace.token_ids),
                trace.text,
                self.progress.status(index),
                trace.cut_tokens,
                clusters[index],
                trace.finish_reason,
                *self._probes_of(index),
            )
            for index, trace in enumerate(self.traces)
        ]
        records += [NEVER_STARTED] * (len(self.job.seeds) - started)
        answer = self._keys.answer(self._policy.vote(finished))
        return LiveResult(self.job.problem_id, records, decision, answer, self._usage())

    def _probes_of(self, trace: int) -> tuple[tuple[str | None, ...], tuple[int, ...]]:
        if self._marks is None:
            return (), ()
        read = tuple(self._marks.read[trace])
        return tuple(map(self._keys.answer, self._marks.keys[trace][: len(read)])), read

    def _usage(self) -> Usage:
        """What was spent so far, the judge included, also where it failed in the end."""
        usages = [self._engine.usage(handle) for handle in self._index]
        generated = sum(usage.generated_tokens for usage in usages)
        overrun = sum(usage.overrun_tokens for usage in usages)
        spent = Usage(generated=generated, overrun=overrun, longest_path=self._steps) + self._scoring
        spent += self._marks.prober.usage if self._marks is not None else Usage()
        return spent if self._session is None else spent + self._session.usage
