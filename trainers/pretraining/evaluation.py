"""Sampled evaluation of the embedded model on held-out problems."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.records import Problem
from trainers.pretraining.batches import render_prompt


@dataclass(frozen=True)
class Sample:
    """One sampled completion."""

    ids: list[int]  # completion tokens, end of sequence included
    text: str
    answer: str | None  # the last box after </think>; None without one
    correct: bool
    truncated: bool  # hit the cap before the end of sequence


@dataclass(frozen=True)
class Figures:
    """What an evaluation measured."""

    problems: int
    samples: int  # per problem
    pass_at_1: float  # fraction (0-1) of samples that are right
    majority: float  # fraction (0-1) of problems whose most frequent answer is right
    mean_tokens: float  # completion tokens per sample, end of sequence included
    truncated_share: float  # fraction (0-1) of samples that hit the cap


def _as_sample(tokenizer: PreTrainedTokenizerFast, ids: list[int], gold: str) -> Sample:
    finished = tokenizer.eos_token_id in ids
    kept = ids[: ids.index(tokenizer.eos_token_id) + 1] if finished else ids
    text = tokenizer.decode(kept, skip_special_tokens=True)
    answer = extract_answer(text, thinking=True)
    return Sample(kept, text, answer, finished and answer == gold, not finished)


@torch.inference_mode()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str], cap: int, temperature: float
) -> list[list[int]]:
    """One completion per prompt; tokens after the end of sequence are padding."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=True,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        max_new_tokens=cap,
    )
    return output[:, inputs["input_ids"].shape[1] :].tolist()


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    samples: int,
    cap: int = 500,
    temperature: float = 1.0,
    batch_rows: int = 256,
) -> list[list[Sample]]:
    """`samples` completions of at most `cap` tokens for each problem, in the order of the problems."""
    repeated = [problem for problem in problems for _ in range(samples)]
    flat: list[Sample] = []
    for start in range(0, len(repeated), batch_rows):
        rows = repeated[start : start + batch_rows]
        prompts = [render_prompt(tokenizer, problem.problem) for problem in rows]
        completions = _generate(model, tokenizer, prompts, cap, temperature)
        flat += [_as_sample(tokenizer, ids, row.answer) for ids, row in zip(completions, rows, strict=True)]
    return [flat[i : i + samples] for i in range(0, len(flat), samples)]


def _vote(samples: Sequence[Sample]) -> str | None:
    """The most frequent answer; on a tie the one that came first; None if no sample has one."""
    answers = Counter(sample.answer for sample in samples if sample.answer is not None)
    return answers.most_common(1)[0][0] if answers else None


def summarise(problems: Sequence[Problem], groups: Sequence[Sequence[Sample]]) -> Figures:
    """Figures over all samples; every problem has the same number of samples."""
    flat = [sample for group in groups for sample in group]
    won = sum(_vote(group) == problem.answer for problem, group in zip(problems, groups, strict=True))
    return Figures(
        problems=len(problems),
        samples=len(groups[0]),
        pass_at_1=sum(sample.correct for sample in flat) / len(flat),
        majority=won / len(problems),
        mean_tokens=sum(len(sample.ids) for sample in flat) / len(flat),
        truncated_share=sum(sample.truncated for sample in flat) / len(flat),
    )


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem], samples: int
) -> dict[str, float]:
    """Sample and summarise at temperature 1."""
    model.eval()
    return asdict(summarise(problems, sample_completions(model, tokenizer, problems, samples)))
