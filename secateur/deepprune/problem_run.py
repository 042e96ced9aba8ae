"""One problem while its traces run: what comes in from the engine, what the rule makes of it, what it came to.

By a rule of answers (answers.py) traces run to their ends, start as they are asked for, and stop when one answer is
ahead. By a rule of forced answers (probing.py) all start at once and are asked on the way. Rules that ask a judge
have a cut. Under the barrier every trace of a problem runs to its cut and is parked
there. When the last one has come to its cut or its end, the judge scores them, losers are pruned, and survivors go
on from where they stood, as the policy says (gathering.py, finishing.py). Under overlap nobody waits: each trace is
judged as it comes and runs on meanwhile. A problem that has spent its tokens or its time is stopped, and those that
have finished vote.

A judge that fails (`JudgeFailure`, or scores that are no probabilities) costs no problem: all traces that have not
been pruned before run to their ends and vote, and a warning says so.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from secateur.deepprune.answers import AnswerPolicy, AnswerRule
from secateur.deepprune.best_first import BestFirstPolicy, ScoreRule
from secateur.deepprune.cut import CutDetector, CutRule
from secateur.deepprune.evidence import judged_policy
from secateur.deepprune.job import NEVER_STARTED, Ended, LiveResult, ProblemTask, TraceResult
from secateur.deepprune.judges.base import CutTrace, JudgeSession, out_of_memory_is_failure
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.policy import Decision, Move, Policy, Progress
from secateur.deepprune.probing import LiveMarks, ProbeRule
from secateur.deepprune.scorer import CUT, observed_at
from secateur.deepprune.vote import weighted_vote
from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, EngineError, Event, fit_to_context
from secateur.engines.sampling import Prober
from secateur.tasks.answers.extraction import Extract
from secateur.tasks.answers.kinds import Groups

if TYPE_CHECKING:
    import numpy as np
    import torch


class RunningTrace:
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

    def __init__(self, extract: Extract, groups: Groups) -> None:
        self._extract, self._groups = extract, groups

    def add(self, trace: int, text: str) -> Hashable | None:
        answer = self._extract(text)
        return None if answer is None else self._groups.add(trace, answer)

    def answer(self, key: Hashable | None) -> str | None:
        return None if key is None else self._groups.first(key)


class ProblemRun:
    """One problem while it runs: `begin` it, then feed it every engine step's events of its `handles` until it is
    `over`. Then it has a `result` or an `error` and its `usage`, and the engine has forgotten its traces."""

    def __init__(
        self,
        task: ProblemTask,
        engine: Engine,
        may_start: Callable[["ProblemRun", int], int] = lambda run, count: count,
    ) -> None:
        """`may_start`: how many of the traces that its rule wants to start now may do so; at least one where none
        runs. The rule is asked again at the next end of a trace."""
        self.task, self.job, self._engine, self._judge = task, task.job, engine, task.judge
        self._spec = fit_to_context(engine, self.job.prompt_ids, task.spec)
        self.longest, self._may_start = task.longest(engine), may_start
        n = len(self.job.seeds)
        self.progress = Progress(n)
        self.traces: list[RunningTrace] = []  # those that were started
        self.tokens = 0
        self.usage = Usage()
        self.cached_tokens = 0
        self.result: LiveResult | None = None
        self.error: Exception | None = None
        self._ended: Ended = "decided"
        self._index: dict[int, int] = {}  # handle → place in `traces`
        self._steps = 0  # decode steps of the engine in which a trace of this problem ran
        self._keys = _AnswerKeys(task.extract, task.groups())
        self._session: JudgeSession | None = None
        self._marks: LiveMarks | None = None
        self._scoring = Usage()
        self._policy = self._policy_of(n)
        self._warned = self._closed = False

    def begin(self) -> None:
        """Start the first traces, unless its time is over already. Raises `InputError` where the engine refuses the
        prompt."""
        if not self._expired():
            self._move(self._policy.next(self.progress, ()))
        else:
            self._finish()

    def advance(self, events: Sequence[Event]) -> None:
        """Take this problem's events of one engine step, and do what they make due. What goes wrong in it is its
        `error`; only an `EngineError`, which concerns all problems, is raised."""
        if self.over:
            return
        try:
            self._on_events(events)
            if not self.progress.held or self._expired():
                self._finish()
        except EngineError:
            raise
        except Exception as error:
            self.error = error
            self.close()

    def close(self) -> None:
        """End what still runs, and let the engine forget this problem."""
        if self._closed:
            return
        self._closed = True
        self._prune([trace for trace in self.progress.held_traces if self.traces[trace].finish_reason is None])
        if self._marks is not None:
            self._marks.prober.close()
        self.usage = self._usage()
        self.cached_tokens = sum(self._engine.usage(handle).prefill_cached for handle in self._index)
        self._engine.release(list(self._index))

    @property
    def over(self) -> bool:
        return self.result is not None or self.error is not None

    def _expired(self) -> bool:
        """Whether it has come to one of its limits."""
        task = self.task
        if task.token_budget is not None and self.tokens >= task.token_budget:
            self._ended = "token_budget"
        elif task.deadline is not None and time.monotonic() >= task.deadline:
            self._ended = "deadline"
        return self._ended != "decided"

    def _finish(self) -> None:
        self.close()
        self.result = self._result()

    def _policy_of(self, n: int) -> Policy:
        rule = self.task.rule
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
    def reserved(self) -> int:
        """Room that it has, whether it needs all of it now or not."""
        return max(self.places, self.task.first)

    def answer_of(self, trace: int) -> str | None:
        """The answer that a trace has ended with, as its group's first put it; None for none so far."""
        return self._keys.answer(self.progress.finished.get(trace))

    def _on_events(self, events: Sequence[Event]) -> None:
        own = [event for event in events if event.trace in self._index]
        if self._marks is not None:
            self._marks.take(event for event in events if event.trace not in self._index)
        self._steps += bool(own)
        arrived, ended = [], []
        for event in own:  # first of all: where something goes wrong below, `close` has to know what still runs
            self.traces[self._index[event.trace]].finish_reason = event.done
        for event in own:
            index = self._index[event.trace]
            self.tokens += len(event.token_ids)
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
        count = self._may_start(self, count)
        if not count:
            return
        cut_rule = self._judge.cut_rule if self._policy.cuts else None
        begun = self.progress.start(count, self._policy.cuts)
        handles = self._engine.start(self.job.prompt_ids, self.job.seeds[begun.start : begun.stop], self._spec)
        self.traces += [RunningTrace(handle, cut_rule) for handle in handles]
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

    def _result(self) -> LiveResult:
        finished = self.progress.finished
        if self._ended == "decided":
            decision, key = self._policy.decision(finished), self._policy.vote(finished)
        else:
            voters = sorted(finished)
            decision = Decision(None, voters, [1.0] * len(voters), voters, self._policy.judge_failure)
            key = weighted_vote(finished, dict.fromkeys(voters, 1.0))
        answer, votes, text = self._keys.answer(key), self._votes(decision), self._text(decision, key)
        traces, cached = self._records(decision), self.cached_tokens
        return LiveResult(self.job.problem_id, traces, decision, answer, self.usage, votes, text, self._ended, cached)

    def _records(self, decision: Decision) -> list[TraceResult]:
        started = len(self.traces)
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
        return records + [NEVER_STARTED] * (len(self.job.seeds) - started)

    def _votes(self, decision: Decision) -> dict[str, int]:
        """Of the voters; one that was stopped votes with the answer that was forced out of it last."""
        finished, marks = self.progress.finished, self._marks
        keys = [finished[t] if t in finished else marks.told(t) for t in decision.survivors]
        counts = Counter(self._keys.answer(key) for key in keys if key is not None)
        return dict(counts.most_common())

    def _text(self, decision: Decision, key: Hashable | None) -> str | None:
        """The shortest of those that voted for the winning answer; of a voteless problem the only one."""
        if key is None and not self.job.voteless:
            return None
        finished = self.progress.finished
        winners = [self.traces[t] for t in decision.survivors if t in finished and finished[t] == key]
        return min(winners, key=lambda trace: len(trace.token_ids)).text if winners else None

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
