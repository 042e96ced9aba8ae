"""Pruned consensus in a program of your own.

    from secateur import TransformersEngine, prune

    engine = TransformersEngine("path/of/model")
    result = prune("What is 17 · 23?", engine, n=64)
    print(result.answer, result.usage)

With a judge of the model's own states, traces that would end in the same answer stop early:

    judge = load_judge("path/of/judge", "path/of/model")
    engine = TransformersEngine("path/of/model", capture_layers=judge.capture_layers)
    result = prune("What is 17 · 23?", engine, judge, n=64)

Many problems at once share the engine's batch: a known list of them through `secateur.run_live`, those that callers
bring at any time through `secateur.Pruner` (pruner.py)."""

import hashlib
import math
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from secateur.deepprune.answers import AHEAD, AnswerRule
from secateur.deepprune.controller import run_tasks
from secateur.deepprune.evidence import EVIDENCE_RULE, EvidenceRule, JudgedRule, Rule
from secateur.deepprune.job import Ended, LiveResult, ProblemJob, ProblemTask, TraceResult
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.policy import Decision
from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, Interruptible, SamplingSpec, warn_of_context
from secateur.runtime.errors import InputError
from secateur.tasks.answers.extraction import ANSWER, Extract
from secateur.tasks.answers.kinds import MATHEMATICS, Answers
from secateur.tasks.prompts import (
    Prompt,
    encode_prompt,
    ends_inside_thinking,
    evaluation_messages,
    prompt_of,
    starts_inside_thinking,
)

DEFAULT_SPEC = SamplingSpec(temperature=0.6, top_p=0.95, max_tokens=32_768)
"""How reasoning models are usually sampled (that of the R1-distills and of the paper's setting); a shorter context
lowers the cap."""

Problem = str | Sequence[Mapping[str, str]] | Sequence[int]
"""Its text, chat messages, or a prompt's token ids."""


@dataclass(frozen=True)
class PruneResult:
    """The vote's `answer`, None if no trace that finished gave one; all n `traces`; and what it took.

    `usage` holds the tokens of all traces and of the judge; `decision` the clusters, who voted, and whether the judge
    failed (then no trace is pruned that had not been pruned before, and a warning says so). `text`: the shortest
    finished trace that voted for the answer, thinking included; None where there is none. `votes`: answer → traces
    that voted for it, the most first. Of all traces `started`, `finished` and `stopped` so many. `ended` says what
    ended it: "decided" by its rule, or the "token_budget" or "deadline" that it came to, which make the vote one of
    those that had finished. `full_vote_tokens` [tokens]: what n full traces would have cost, n times the mean of the
    finished ones, which the earliest make too small; None where none finished. `judge`: the judge's verdict on
    itself, "" without one. `prompt_tokens` counts the prompt once, `cached_tokens` what of its readings, one for each
    trace, was found in the engine's cache.
    """

    answer: str | None
    traces: list[TraceResult]
    usage: Usage
    decision: Decision
    text: str | None
    votes: Mapping[str, int]
    started: int
    finished: int
    stopped: int
    ended: Ended
    full_vote_tokens: int | None
    judge: str = field(default="", compare=False)
    prompt_tokens: int = 0
    cached_tokens: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PruneRequest:
    """One problem and how it is to be answered: what `prune` is given beside engine and judge. Raises `InputError`
    for values out of range. `began` [seconds of `time.monotonic`]: from when the deadline counts."""

    problem: Problem
    n: int = 64
    spec: SamplingSpec = DEFAULT_SPEC
    rule: Rule | None = None
    prompt_family: str | None = None
    system_prompt: str | None = None
    instruction: str | None = None
    answers: Answers = MATHEMATICS
    seed: int = 0
    token_budget: int | None = None
    deadline_s: float | None = None
    began: float = field(default_factory=time.monotonic, compare=False)

    def __post_init__(self) -> None:
        if self.token_budget is not None and self.token_budget < 1:
            raise InputError(f"token_budget = {self.token_budget}: write at least 1 token, or None for no budget")
        if self.deadline_s is not None and not 0 < self.deadline_s < math.inf:
            raise InputError(f"deadline_s = {self.deadline_s}: write seconds above 0, or None for no deadline")
        if not self.answers.votes and self.n != 1:
            raise InputError(
                f"n = {self.n}: free text has no vote; write n = 1, or say by 'answers' which answers are equal"
            )

    def task(self, engine: Engine, judge: Judge | None) -> ProblemTask:
        """What runs. Raises `InputError` as `prune` does."""
        rule = rule_for(self.rule, judge) if self.answers.votes else AHEAD
        if judge is not None and isinstance(rule, JudgedRule):
            _check_states(engine, judge)
        known = (None if judge is None else judge.prompt) or Prompt()
        given = {key: getattr(self, key) for key in ("prompt_family", "system_prompt", "instruction")}
        prompt = self.answers.prompted(prompt_of(given, known))
        job = job_of(self.problem, engine, prompt, self.n, self.seed, not self.answers.votes)
        return ProblemTask(
            job,
            self.spec,
            judge,
            rule,
            self.answers.extract(_inside_thinking(self.problem, engine)),
            self.answers.groups,
            self.token_budget,
            None if self.deadline_s is None else self.began + self.deadline_s,
        )


def prune(
    problem: Problem,
    engine: Engine,
    judge: Judge | None = None,
    n: int = 64,
    *,
    spec: SamplingSpec = DEFAULT_SPEC,
    rule: Rule | None = None,
    prompt_family: str | None = None,
    system_prompt: str | None = None,
    instruction: str | None = None,
    answer_from: str | Extract = ANSWER,
    answers: Answers | str | None = None,
    seed: int = 0,
    token_budget: int | None = None,
    deadline_s: float | None = None,
) -> PruneResult:
    """Answer one problem by the vote of up to n parallel traces, as few of which run as the answer needs.

    Without a judge the rule is `ahead` (`FEWEST_TOKENS`): a few traces start, more as far as their answers differ,
    and all stop once one answer leads. `SHORTEST_WAIT` is the same for those who wait. With a judge the rule is
    `EVIDENCE_RULE`: cuts add to the vote what the judge has earned on development problems, and a judge that has
    earned nothing is not asked, which a warning says. `ADAPTIVE_RULE` and `PUBLISHED_RULE`, the paper's, ask any.

    `problem` is the problem's text, or chat messages or a prompt's token ids, which are taken as they are. A text
    gets the sentences of `prompt_family` (deepseek, qwen, or plain for none) or `system_prompt` and `instruction` of
    your own (secateur/tasks/prompts.py); what is not given is as the judge's traces were prompted, deepseek's where
    it does not say. The final answer is taken from the last `\\boxed{…}` after the thinking and compared as
    mathematics, unless `answer_from` says where else it is (`anywhere`, `pattern:REGEX`, or a function from text to
    answer or None), or `answers` that it is none of mathematics: `choice`, `exact`, `json:KEY.PATH`, `pattern:REGEX`,
    or, with n = 1, `none` for free text (secateur/tasks/answers/kinds.py); a family's sentence that asks for a box is
    left out with these. `seed` makes the run repeatable. A
    cap of `spec` that the model's context does not hold is lowered, with a warning. The engine may be used again, but
    for one call at a time.

    `token_budget` [tokens, generated by all traces together] and `deadline_s` [seconds from now]: once one of them is
    reached all that runs is stopped, and those that have finished vote (`PruneResult.ended`). An engine step is never
    cut short, so that a token for each running trace may come beyond.

    Raises `InputError` for an engine that lacks what the judge reads, fewer than 2 traces, or a prompt that the
    engine refuses, and `EngineError` if the engine breaks down.
    """
    keys = (spec, rule, prompt_family, system_prompt, instruction)
    asked = _answers(answers, answer_from)
    request = PruneRequest(problem, n, *keys, asked, seed, token_budget, deadline_s)
    task = request.task(engine, judge)
    warn_of_context(engine, [task.job.prompt_ids], spec)
    with _woken(engine, deadline_s):
        (live,) = run_tasks(engine, [task], max_rows=n)
    return result_of(task, live)


@contextmanager
def _woken(engine: Engine, deadline_s: float | None) -> Iterator[None]:
    """At the deadline a step that waits for a server waits no longer."""
    if deadline_s is None or not isinstance(engine, Interruptible):
        yield
        return
    timer = threading.Timer(deadline_s, engine.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _answers(answers: Answers | str | None, answer_from: str | Extract) -> Answers:
    if answers is None:
        return Answers(answer_from=answer_from)
    if answer_from != ANSWER:
        raise InputError(f"answers = {answers!r} and answer_from = {answer_from!r}: give one of them")
    return answers if isinstance(answers, Answers) else Answers(answers)


def result_of(task: ProblemTask, live: LiveResult) -> PruneResult:
    """What a task came to, for whoever asked."""
    judge, states = task.judge, Counter(trace.status for trace in live.traces)
    if judge is not None and isinstance(task.rule, JudgedRule) and (words := unasked_warning(judge, live.traces)):
        warnings.warn(words, RuntimeWarning, stacklevel=3)
    lengths = [len(trace.token_ids) for trace in live.traces if trace.status in ("whole", "finished")]
    return PruneResult(
        live.answer,
        live.traces,
        live.usage,
        live.decision,
        live.text,
        live.votes,
        started=len(live.traces) - states["unstarted"],
        finished=len(lengths),
        stopped=states["pruned"],
        ended=live.ended,
        full_vote_tokens=round(len(live.traces) * sum(lengths) / len(lengths)) if lengths else None,
        judge=(judge.verdict or "") if judge is not None else "",
        prompt_tokens=len(task.job.prompt_ids),
        cached_tokens=live.cached_tokens,
    )


def job_of(
    problem: Problem,
    engine: Engine,
    prompt: Prompt,
    n: int,
    seed: int,
    voteless: bool = False,
) -> ProblemJob:
    """The n traces that `prune` would run of a problem."""
    if engine.tokenizer is None:
        raise InputError(
            "the engine has no tokenizer, so no prompt can be rendered: open it with the model's tokenizer"
        )
    prompt_ids = _token_ids(problem) or encode_prompt(engine.tokenizer, _messages(problem, prompt))
    name = hashlib.sha256(repr(prompt_ids).encode()).hexdigest()[:16]
    return ProblemJob.sampled(name, prompt_ids, n, seed, voteless)


def unasked_warning(judge: Judge, traces: Sequence[TraceResult]) -> str | None:
    """What is to be said where no trace came to its cut, as in a language that the reasoning words are not of."""
    started = [trace for trace in traces if trace.status != "unstarted"]
    if not started or any(trace.status != "whole" for trace in started):
        return None
    return (
        f"no trace has {judge.cut_rule.in_words}, so the judge '{judge.name}' was never asked; take one that cuts "
        "earlier, or at tokens (cut_kind: tokens)"
    )


def rule_for(rule: Rule | None, judge: Judge | None) -> Rule:
    """The rule that runs: a judge without weight has none that asks it, unless the rule is one that always does."""
    if judge is None:
        if isinstance(rule, JudgedRule):
            raise InputError("the rule asks a judge, but there is none: give a judge, or take the rule FEWEST_TOKENS")
        return AHEAD if rule is None else rule
    rule = EVIDENCE_RULE if rule is None else rule
    if not isinstance(rule, EvidenceRule):
        return rule
    weighed = rule.weighed(judge.weight)
    if isinstance(weighed, AnswerRule):
        why = judge.verdict or "what a cut is worth was never measured (trainers/judge.py does)"
        warnings.warn(f"the judge '{judge.name}' is not asked: {why}", RuntimeWarning, stacklevel=4)
    return weighed


def _token_ids(problem: Problem) -> list[int]:
    """Those of a prompt that is given by them; [] for one that is not."""
    ids = [] if isinstance(problem, str) else [item for item in problem if isinstance(item, int)]
    return ids if len(ids) == len(problem) else []


def _inside_thinking(problem: Problem, engine: Engine) -> bool:
    ids = _token_ids(problem)
    return ends_inside_thinking(engine.tokenizer, ids) if ids else starts_inside_thinking(engine.tokenizer)


def _messages(problem: Problem, prompt: Prompt) -> list[dict[str, str]]:
    if isinstance(problem, str):
        if not problem.strip():
            raise InputError("the problem is empty: give its text or chat messages")
        return evaluation_messages(problem, prompt)
    if not problem or not all(isinstance(turn, Mapping) and {"role", "content"} <= turn.keys() for turn in problem):
        raise InputError(
            f"the problem is {problem!r:.200}: give a text, or chat messages such as "
            '[{"role": "user", "content": "…"}]'
        )
    return [dict(turn) for turn in problem]


def _check_states(engine: Engine, judge: Judge) -> None:
    if not judge.needs_states or tuple(engine.capture_layers) == tuple(judge.capture_layers):
        return
    wanted = tuple(judge.capture_layers)
    found = f"captures those of layers {tuple(engine.capture_layers)}" if engine.capture_layers else "captures none"
    raise InputError(
        f"the judge '{judge.name}' reads the generator's hidden states of layers {wanted}, but the engine {found}: "
        f"open it with capture_layers={wanted}, or take a judge that reads text"
    )
