"""Ending the thinking of stored traces by force, and generating what comes after it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eval.one_model.sampling import OpenedModel
from eval.traces.sampling import prompt_ids
from secateur.engines.base import SamplingSpec, trace_seed
from secateur.engines.detokenize import Detokenizer
from secateur.engines.sampling import FinishedTrace, TraceJob, sample_traces
from secateur.engines.trace_folder import ProblemTraces, TraceFolderWriter
from secateur.runtime.console import progress
from secateur.runtime.ranks import current_ranks
from secateur.tasks.records import Problem, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Forcing:
    """`injected` ends thinking by force; thinking that holds `end` has ended by itself."""

    injected: str
    end: str = "</think>"


# The first three are those of ThinkPrune's budget_forcing_gen.py; the last is how the embedded model goes on.
FORCING = {
    "deepseek": Forcing("</think>\n\n**Final Answer:**\n\n"),
    "qwq": Forcing("</think>\n\nThe final answer is"),
    "s1": Forcing("<|im_start|>answer\nFinal Answer:", "<|im_start|>answer"),
    "plain": Forcing("\n</think>\n\\boxed{"),
}
_OF_FAMILY = {"deepseek": "deepseek", "qwen": "qwq", "plain": "plain"}


@dataclass(frozen=True)
class Budget:
    """Thinking ends after `tokens`; the answer is sampled with `answer_spec`, `rows` at once."""

    tokens: int
    forcing: Forcing
    answer_spec: SamplingSpec
    prompt_family: str
    seed: int
    rows: int


class Forcer:
    """Puts stored traces and their forced ends together; needs the tokenizer, not the engine."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", forcing: Forcing) -> None:
        self._tokenizer, self._forcing = tokenizer, forcing
        self._detokenizer = Detokenizer(tokenizer)
        self.injected_ids = tuple(tokenizer(forcing.injected, add_special_tokens=False)["input_ids"])

    def is_due(self, trace: Trace, budget: int) -> bool:
        """Whether the trace was still thinking after `budget` tokens."""
        ids = trace.token_ids or ()
        ended_with_it = len(ids) == budget and trace.finish_reason == "stop"
        if len(ids) < budget or ended_with_it:
            return False
        text = self._tokenizer.decode(ids[:budget], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return self._forcing.end not in text

    def job(self, problem: Problem, trace: Trace, prompt: Sequence[int], budget: Budget) -> TraceJob:
        """The continuation of a trace; its seed depends on problem, sample and budget alone."""
        ids = (*prompt, *(trace.token_ids or ())[: budget.tokens], *self.injected_ids)
        number = int(trace.sample)
        return TraceJob(problem, number, ids, trace_seed(budget.seed, f"{problem.id}|budget {budget.tokens}", number))

    def forced(self, trace: Trace, budget: int, answer: FinishedTrace) -> Trace:
        """Thinking, string and answer as one trace; `n_tokens` counts all three."""
        thinking = (trace.token_ids or ())[:budget]
        ids = (*thinking, *self.injected_ids, *answer.token_ids)
        stream = self._detokenizer.stream()
        text = "".join([stream.push(token) for token in thinking]) + stream.finish()
        return replace(
            trace,
            text=text + self._forcing.injected + answer.text,
            token_ids=ids,
            n_tokens=len(ids),
            finish_reason=answer.finish_reason,
        )


def force_missing(
    model: OpenedModel, budget: Budget, unforced: Sequence[ProblemTraces], writer: TraceFolderWriter
) -> None:
    """Store every trace of `unforced` that `writer`'s folder lacks, forced or, if it ended in time, untouched."""
    forcer = Forcer(model.tokenizer, budget.forcing)
    due: dict[tuple[str, int | str], Trace] = {}
    jobs = []
    for entry in unforced:
        prompt = prompt_ids(model.tokenizer, entry.problem, budget.prompt_family)
        for trace in (stored.trace for stored in entry.traces):
            if (trace.problem_id, trace.sample) in writer.done:
                continue
            if forcer.is_due(trace, budget.tokens):
                due[trace.problem_id, trace.sample] = trace
                jobs.append(forcer.job(entry.problem, trace, prompt, budget))
            else:
                writer.add(trace, group=entry.problem.group)
    if not jobs:
        return
    with progress(f"{model.name}, budget {budget.tokens:,}{current_ranks().note}", len(jobs)) as shown:
        for answer in sample_traces(model.engine, None, jobs, budget.answer_spec, budget.rows):
            problem = answer.job.problem
            trace = forcer.forced(due[problem.id, answer.job.sample], budget.tokens, answer)
            writer.add(trace, cut_tokens=budget.tokens, group=problem.group)
            shown.advance()
