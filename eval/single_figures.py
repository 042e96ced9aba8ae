"""From the stored samples of a model to its figures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.trace_folder import read_trace_folder
from eval.scores import mean_with_interval
from runtime.errors import InputError
from runtime.files import write_text
from tasks.answers import grade_batch
from tasks.records import Problem, Trace


@dataclass(frozen=True)
class ModelFigures:
    """`pass_at_1` is the mean over problems of the share of right samples, `mean_tokens` of the mean length of all
    samples [tokens], right, wrong and truncated; `truncated_share` of the samples ran into the cap (fraction 0-1)."""

    pass_at_1: float
    pass_at_1_ci95: tuple[float, float]
    mean_tokens: float
    mean_tokens_ci95: tuple[float, float]
    truncated_share: float
    samples: int
    problems: int


def measure(folder: Path, problems: Sequence[Problem], samples: int, thinking: bool) -> ModelFigures:
    """Grade `samples` traces per problem of a trace folder and write `results.jsonl` beside them.

    Raises `InputError` if a trace is missing.
    """
    groups = _wanted_traces(folder, problems, samples)
    traces = [trace for group in groups for trace in group]
    verdicts = grade_batch([trace.text for trace in traces], [trace.gold for trace in traces], thinking)
    _write_results(folder / "results.jsonl", traces, verdicts)
    right = [sum(verdicts[start : start + samples]) / samples for start in range(0, len(verdicts), samples)]
    lengths = [sum(_tokens(trace) for trace in group) / samples for group in groups]
    accuracy, *accuracy_interval = mean_with_interval(right)
    length, *length_interval = mean_with_interval(lengths)
    return ModelFigures(
        pass_at_1=accuracy,
        pass_at_1_ci95=(accuracy_interval[0], accuracy_interval[1]),
        mean_tokens=length,
        mean_tokens_ci95=(length_interval[0], length_interval[1]),
        truncated_share=sum(trace.finish_reason == "length" for trace in traces) / len(traces),
        samples=samples,
        problems=len(groups),
    )


def _wanted_traces(folder: Path, problems: Sequence[Problem], samples: int) -> list[list[Trace]]:
    stored = {
        (entry.problem.id, stored.trace.sample): stored.trace
        for entry in read_trace_folder(folder)
        for stored in entry.traces
    }
    for problem in problems:
        for sample in range(samples):
            if (problem.id, sample) not in stored:
                raise InputError(f"{folder}: sample {sample} of problem '{problem.id}' is missing; run again")
    return [[stored[problem.id, sample] for sample in range(samples)] for problem in problems]


def _tokens(trace: Trace) -> int:
    assert trace.n_tokens is not None, "our own engine counts tokens"
    return trace.n_tokens


def _write_results(path: Path, traces: Sequence[Trace], verdicts: Sequence[bool]) -> None:
    lines = [
        {
            "problem_id": trace.problem_id,
            "sample": trace.sample,
            "correct": correct,
            "n_tokens": trace.n_tokens,
            "finish_reason": trace.finish_reason,
        }
        for trace, correct in zip(traces, verdicts, strict=True)
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
