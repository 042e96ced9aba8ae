"""Pruned consensus in a program of your own.

    from secateur import TransformersEngine, prune

    engine = TransformersEngine("path/of/model")
    result = prune("What is 17 · 23?", engine, n=64)
    print(result.answer, result.usage)

With a judge of the model's own states, traces that would end in the same answer stop early:

    judge = load_judge("path/of/judge", "path/of/model")
    engine = TransformersEngine("path/of/model", capture_layers=judge.capture_layers)
    result = prune("What is 17 · 23?", engine, judge, n=64)

Many problems at once share the engine's batch through `secateur.run_live`, on which this stands."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.deepprune.answers import AHEAD, AnswerRule
from secateur.deepprune.controller import ProblemJob, TraceResult, run_live
from secateur.deepprune.evidence import EVIDENCE_RULE, EvidenceRule, JudgedRule, Rule
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.policy import Decision
from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, SamplingSpec
from secateur.runtime.errors import InputError
from secateur.tasks.answers.extraction import ANSWER, Extract, extraction
from secateur.tasks.prompts import Prompt, encode_prompt, evaluation_messages, prompt_of, starts_inside_thinking

DEFAULT_SPEC = SamplingSpec(temperature=0.6, top_p=0.95, max_tokens=32_768)
"""How reasoning models are usually sampled (that of the R1-distills and of the paper's setting); a shorter context
lowers the cap."""


@dataclass(frozen=True)
class PruneResult:
    """The vote's `answer`, None if no trace that finished gave one; all n `traces`; and what it took.

    `usage` holds the tokens of all traces and of the judge; `decision` the clusters, who voted, and whether the judge
    failed (then no trace is pruned that had not been pruned before, and a warning says so).
    """

    answer: str | None
    traces: list[TraceResult]
    usage: Usage
    decision: Decision


def prune(
    problem: str | Sequence[Mapping[str, str]],
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
    seed: int = 0,
) -> PruneResult:
    """Answer one problem by the vote of up to n parallel traces, as few of which run as the answer needs.

    Without a judge the rule is `ahead` (`FEWEST_TOKENS`): a few traces start, more as far as their answers differ,
    and all stop once one answer leads. `SHORTEST_WAIT` is the same for those who wait. With a judge the rule is
    `EVIDENCE_RULE`: cuts add to the vote what the judge has earned on development problems, and a judge that has
    earned nothing is not asked, which a warning says. `ADAPTIVE_RULE` and `PUBLISHED_RULE`, the paper's, ask any.

    `problem` is the problem's text, or chat messages, which are rendered as they are. A text gets the sentences of
    `prompt_family` (deepseek, qwen, or plain for none) or `system_prompt` and `instruction` of your own
    (secateur/tasks/prompts.py); what is not given is as the judge's traces were prompted, deepseek's where it does
    not say. The final answer is taken from the last `\\boxed{…}` after the thinking, unless `answer_from` says
    otherwise (`anywhere`, `pattern:REGEX`, or a function from text to answer or None). `seed` makes the run
    repeatable. A cap of `spec` that the model's context does not hold is lowered, with a warning. The engine may be
    used again, but for one call at a time.

    Raises `InputError` for an engine that lacks what the judge reads, fewer than 2 traces, or a prompt that the
    engine refuses, and `EngineError` if the engine breaks down.
    """
    rule = rule_for(rule, judge)
    if judge is not None and isinstance(rule, JudgedRule):
        _check_states(engine, judge)
    known = (None if judge is None else judge.prompt) or Prompt()
    given = {"prompt_family": prompt_family, "system_prompt": system_prompt, "instruction": instruction}
    job = job_of(problem, engine, prompt_of(given, known), n, seed)
    thinking = starts_inside_thinking(engine.tokenizer)
    extract = extraction(answer_from, thinking) if isinstance(answer_from, str) else answer_from
    (result,) = run_live(engine, [job], spec, judge, rule, max_rows=n, extract=extract)
    if judge is not None and isinstance(rule, JudgedRule):
        _warn_of_whole_cuts(judge, result.traces)
    return PruneResult(result.answer, result.traces, result.usage, result.decision)


def job_of(
    problem: str | Sequence[Mapping[str, str]], engine: Engine, prompt: Prompt, n: int, seed: int
) -> ProblemJob:
    """The n traces that `prune` would run of a problem."""
    if engine.tokenizer is None:
        raise InputError(
            "the engine has no tokenizer, so no prompt can be rendered: open it with the model's tokenizer"
        )
    prompt_ids = encode_prompt(engine.tokenizer, _messages(problem, prompt))
    return ProblemJob.sampled(hashlib.sha256(repr(prompt_ids).encode()).hexdigest()[:16], prompt_ids, n, seed)


def _warn_of_whole_cuts(judge: Judge, traces: Sequence[TraceResult]) -> None:
    """Say where no trace came to its cut, as in a language that the reasoning words are not of."""
    started = [trace for trace in traces if trace.status != "unstarted"]
    if started and all(trace.status == "whole" for trace in started):
        warnings.warn(
            f"no trace has {judge.cut_rule.in_words}, so the judge '{judge.name}' was never asked; take one that "
            "cuts earlier, or at tokens (cut_kind: tokens)",
            RuntimeWarning,
            stacklevel=3,
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
        warnings.warn(f"the judge '{judge.name}' is not asked: {why}", RuntimeWarning, stacklevel=3)
    return weighed


def _messages(problem: str | Sequence[Mapping[str, str]], prompt: Prompt) -> list[dict[str, str]]:
    if isinstance(problem, str):
        if not problem.strip():
            raise InputError("the problem is empty: give its text or chat messages")
        return evaluation_messages(problem, prompt)
    messages = [dict(message) for message in problem]
    if not messages or any(not {"role", "content"} <= message.keys() for message in messages):
        raise InputError(
            f"the problem is {messages!r:.200}: give a text, or chat messages such as "
            '[{"role": "user", "content": "…"}]'
        )
    return messages


def _check_states(engine: Engine, judge: Judge) -> None:
    if not judge.needs_states or tuple(engine.capture_layers) == tuple(judge.capture_layers):
        return
    wanted = tuple(judge.capture_layers)
    found = f"captures those of layers {tuple(engine.capture_layers)}" if engine.capture_layers else "captures none"
    raise InputError(
        f"the judge '{judge.name}' reads the generator's hidden states of layers {wanted}, but the engine {found}: "
        f"open it with capture_layers={wanted}, or take a judge that reads text"
    )
