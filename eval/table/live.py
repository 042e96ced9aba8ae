"""Live runs of DeepPrune beside the replays: the online controller on some problems, each held against its replay."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from eval.table.config import CombinedConfig
from eval.table.store import judge_labels, live_path, read_live, read_scores
from eval.table.terminal import method_label
from eval.traces.sampling import prompt_ids
from secateur.deepprune.controller import LiveResult, ProblemJob, TraceResult, run_live
from secateur.deepprune.decision import decision_seed
from secateur.deepprune.gathering import ALL_PAIRS
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.replay import Replay, replay
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, Event, SamplingSpec
from secateur.engines.trace_folder import StoredTrace
from secateur.runtime.console import progress
from secateur.runtime.files import write_json
from secateur.runtime.ranks import current_ranks
from secateur.tasks.answers.equality import GRADER_VERSION, grade_answers, group_answers
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.prompts import starts_inside_thinking
from secateur.tasks.records import Problem

TOKEN_CAUSES = ("before_cut", "after_cut", "cap", "choice")


@dataclass(frozen=True)
class TraceSpan:
    """How far a trace ran: `reach` [tokens] until its cut, or its end before that, `length` [tokens] in all."""

    reach: int
    length: int
    finished: bool
    capped: bool

    @classmethod
    def of_live(cls, trace: TraceResult) -> "TraceSpan":
        finished = trace.finish_reason is not None
        return cls(trace.cut_tokens, len(trace.token_ids), finished, trace.finish_reason == "length")

    @classmethod
    def of_replay(cls, stored: StoredTrace, kept: int) -> "TraceSpan":
        """`kept` [tokens] is how far the replay let the stored trace run."""
        length, cut = stored.trace.n_tokens, stored.cut_tokens
        reach = length if cut is None else min(cut, length)
        finished = kept == length
        return cls(min(reach, kept), kept, finished, finished and stored.trace.finish_reason == "length")

    @property
    def went_on(self) -> bool:
        """Beyond its cut to its end, so that it could vote."""
        return self.finished and self.length > self.reach


def token_causes(live: LiveResult, replayed: Replay, stored: Sequence[StoredTrace]) -> dict[str, dict[str, int]]:
    """Per cause the number of traces that show it and the tokens that the live run generated more than the replay
    because of it; these add up to the whole difference."""
    found = {cause: {"traces": 0, "generated": 0} for cause in TOKEN_CAUSES}
    for ran, trace, kept in zip(live.traces, stored, replayed.kept_tokens, strict=True):
        a, b = TraceSpan.of_live(ran), TraceSpan.of_replay(trace, kept)
        later = _later_cause(a, b)
        started_in_one = (a.length == 0) != (b.length == 0)
        first = 0 if started_in_one else a.reach - b.reach
        before = not started_in_one and ran.token_ids[: a.reach] != trace.trace.token_ids[: b.reach]
        rest = a.length - b.length - first
        found["before_cut"]["generated"] += first
        found["before_cut"]["traces"] += before
        found[later]["generated"] += rest
        same_rest = ran.token_ids[a.reach :] == trace.trace.token_ids[b.reach : b.length]
        found[later]["traces"] += rest != 0 or (not before and not same_rest)
    return found


def _later_cause(live: TraceSpan, replayed: TraceSpan) -> str:
    """What a difference behind the cut is put down to."""
    if live.went_on != replayed.went_on or (live.length == 0) != (replayed.length == 0):
        return "choice"
    return "cap" if live.went_on and live.capped != replayed.capped else "after_cut"


def asks_all_pairs(rule: PruneRule, n: int) -> bool:
    """Whether the live judge compares everybody with everybody, as the stored scores do; else it is asked for fewer
    pairs than they hold."""
    return rule.mode == "barrier" and not rule.start.start_batch and n <= ALL_PAIRS


def first_difference(
    live: LiveResult, replayed: Replay, stored: Sequence[StoredTrace], all_pairs: bool
) -> str | None:
    """What a live run and a replay of its problem disagree about; None if nothing. `all_pairs`: see `asks_all_pairs`;
    without it the costs of the judge are not compared."""
    for index, (ran, trace, kept) in enumerate(zip(live.traces, stored, replayed.kept_tokens, strict=True)):
        if ran.token_ids != trace.trace.token_ids[: len(ran.token_ids)]:
            return f"trace {index} has other tokens"
        if len(ran.token_ids) != kept:
            return f"trace {index} ran for {len(ran.token_ids)} tokens, {kept} in the replay"
        if ran.finish_reason is not None and ran.text != trace.trace.text:
            return f"trace {index} has another text"
    if live.decision.survivors != replayed.decision.survivors:
        return "the survivors differ"
    spent, foreseen = live.usage, replayed.usage
    if not all_pairs:
        spent, foreseen = (Usage(x.generated, x.overrun, longest_path=x.longest_path) for x in (spent, foreseen))
    return None if spent == foreseen else f"the costs differ: {spent} and {foreseen}"


def compare(
    live: LiveResult,
    replayed: Replay,
    replayed_answer: str | None,
    stored: Sequence[StoredTrace],
    gold: str,
    rule: PruneRule,
) -> dict[str, Any]:
    """The record of one problem: whether both are equal and, if not, their first difference; `live` and `replay` with
    answer, whether it is right, number of finished and of capped traces, usage and failure of the judge; `causes`
    from `token_causes`; `traces`: their number n, `stored_tokens`: all that these had."""
    difference = _answers_differ(live.answer, replayed_answer)
    difference = difference or first_difference(live, replayed, stored, asks_all_pairs(rule, len(stored)))
    spans = [TraceSpan.of_live(trace) for trace in live.traces]
    again = [TraceSpan.of_replay(trace, kept) for trace, kept in zip(stored, replayed.kept_tokens, strict=True)]
    failures = live.decision.judge_failure, replayed.decision.judge_failure
    return {
        "equal": difference is None,
        "difference": difference,
        "live": _side(live.answer, gold, spans, live.usage, failures[0]),
        "replay": _side(replayed_answer, gold, again, replayed.usage, failures[1]),
        "causes": token_causes(live, replayed, stored),
        "traces": len(stored),
        "stored_tokens": sum(trace.trace.n_tokens for trace in stored),
    }


def _answers_differ(live: str | None, replayed: str | None) -> str | None:
    same = len(set(group_answers([live, replayed]))) == 1
    return None if same else f"the answers differ: {live} and {replayed}"


def _side(
    answer: str | None, gold: str, spans: Sequence[TraceSpan], usage: Usage, failure: str | None
) -> dict[str, Any]:
    return {
        "answer": answer,
        "right": grade_answers([answer], [gold])[0],
        "finished": sum(span.finished for span in spans),
        "capped": sum(span.capped for span in spans),
        "judge_failure": failure,
        "usage": asdict(usage),
    }


_FORMAT = 2  # of the records; those of another one are run again


class LiveRuns:
    """One model, one rule, and the first of the model's judges, whose scores were stored `scored_with` settings."""

    def __init__(
        self,
        config: CombinedConfig,
        model: str,
        method: str,
        rule: PruneRule,
        judge: Judge,
        tokenizer: PreTrainedTokenizerBase,
        scored_with: str,
    ) -> None:
        self.config, self.model, self.method, self.rule, self.judge = config, model, method, rule, judge
        self.tokenizer = tokenizer
        self._settings: dict[str, Any] = {
            "format": _FORMAT,
            "scores": scored_with,
            "rule": asdict(rule),
            "grader": GRADER_VERSION,
        }
        self._thinking = starts_inside_thinking(tokenizer)

    def missing(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those of `problems` that have not been run with these settings."""
        config = (self.config, self.model, self.method)
        return [problem for problem in problems if read_live(*config, problem, self._settings) is None]

    def run(self, engine: Engine, problems: Sequence[Problem], stored: Mapping[str, Sequence[StoredTrace]]) -> None:
        """Run them with as many traces as are `stored`, and write what each came to, as it is done.

        A record holds what `compare` says and `wall`: seconds from the problem's first token to its vote; the seconds
        by which it made the whole phase longer, since problems share the engine; and the process that ran it.
        """
        config, by_id = self.config, {problem.id: problem for problem in problems}
        jobs = [self._job(problem, len(stored[problem.id])) for problem in problems]
        spec = replace(config.spec, top_logprobs=0)  # nobody reads the confidences of a live run
        clock = ClockedEngine(engine, jobs)
        with progress(f"{self.model}: {method_label(self.method)} live{current_ranks().note}", len(jobs)) as shown:
            began = time.monotonic()
            for result in run_live(clock, jobs, spec, self.judge, self.rule, config.rows, self._thinking):
                ended = time.monotonic()
                wall = {"problem_s": ended - clock.first_token[result.problem_id], "phase_s": ended - began}
                self._write(by_id[result.problem_id], result, stored[result.problem_id], wall)
                shown.advance()
                began = time.monotonic()  # replaying and writing are no part of the live run

    def _job(self, problem: Problem, n: int) -> ProblemJob:
        ids = prompt_ids(self.tokenizer, problem, self.config.prompt_family)
        return ProblemJob.sampled(problem.id, ids, n, self.config.seed)

    def _write(
        self, problem: Problem, result: LiveResult, stored: Sequence[StoredTrace], wall: dict[str, float]
    ) -> None:
        answers = [extract_answer(trace.trace.text, self._thinking) for trace in stored]
        label = judge_labels(self.config, self.model)[0]
        found = read_scores(self.config, self.model, label, problem)
        replayed = replay(
            [trace.trace.n_tokens for trace in stored],
            [trace.cut_tokens for trace in stored],
            group_answers(answers),
            found.scores,
            self.rule,
            decision_seed(self.config.seed, problem.id),
            found.usage,
        )
        answer = None if replayed.key is None else answers[replayed.key]  # the index of the first equal answer
        record = {"settings": self._settings, **compare(result, replayed, answer, stored, problem.answer, self.rule)}
        record["wall"] = {key: round(value, 3) for key, value in wall.items()} | {"rank": current_ranks().rank}
        write_json(live_path(self.config, self.model, self.method, problem), record)


class ClockedEngine:
    """An engine that notes when the first token of each problem came (`first_token`, monotonic seconds)."""

    def __init__(self, engine: Engine, jobs: Sequence[ProblemJob]) -> None:
        self._engine = engine
        self._problem_of = {seed: job.problem_id for job in jobs for seed in job.seeds}
        self._silent: dict[int, str] = {}  # traces without a token yet → problem
        self.first_token: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        handles = self._engine.start(prompt_ids, seeds, spec)
        self._silent.update((handle, self._problem_of[seed]) for handle, seed in zip(handles, seeds, strict=True))
        return handles

    def step(self) -> list[Event]:
        events = self._engine.step()
        now = time.monotonic()
        for event in events:
            problem = self._silent.pop(event.trace, None)
            if problem is not None:
                self.first_token.setdefault(problem, now)
        return events
