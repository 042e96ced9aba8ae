"""From the stored samples of a model to its figures on one benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from secateur.deepprune.vote import majority
from secateur.engines.trace_folder import read_trace_folder
from secateur.runtime.errors import InputError
from secateur.runtime.statistics import (
    Bounds,
    Interval,
    macro_mean_with_interval,
    mean_with_interval,
    paired_difference,
    pass_at_k,
    percentiles_with_intervals,
    ratio_with_interval,
)
from secateur.tasks.answers.equality import grade_batch, group_answers
from secateur.tasks.answers.extraction import Extract, Unanswered, count_unanswered
from secateur.tasks.graded import RESULTS_FILE, GradedSample, write_results
from secateur.tasks.records import Problem, Trace

PERCENTILES = (20, 40, 50, 60, 80, 90, 99)  # those that ThinkPrune's evaluation prints


@dataclass(frozen=True)
class Graded:
    """The graded samples of one model on one benchmark, a list per problem. `lengths` [tokens] count the whole
    output, end token included; `right_votes` tells for each problem whether the majority is right, None where it was
    not asked for."""

    right: list[list[bool]]
    lengths: list[list[int]]
    truncated: list[list[bool]]
    prompt_tokens: list[int]
    right_votes: list[bool] | None = None
    unanswered: Unanswered = field(default_factory=Unanswered)

    @property
    def accuracies(self) -> list[float]:
        """Share of right samples of each problem (0-1)."""
        return [sum(group) / len(group) for group in self.right]

    @property
    def mean_lengths(self) -> list[float]:
        """Mean length of each problem's samples [tokens]."""
        return [sum(group) / len(group) for group in self.lengths]

    @property
    def truncated_shares(self) -> list[float]:
        return [sum(group) / len(group) for group in self.truncated]

    def lengths_of(self, right: bool) -> list[list[int]]:
        """Lengths [tokens] of the right, or of the wrong, samples of each problem."""
        return [
            [length for length, verdict in zip(lengths, verdicts, strict=True) if verdict == right]
            for lengths, verdicts in zip(self.lengths, self.right, strict=True)
        ]


@dataclass(frozen=True)
class LengthFigures:
    """Lengths [tokens] of all right, or all wrong, `samples`; None and {} where there are none."""

    samples: int
    mean: float | None
    mean_ci95: Bounds | None
    percentiles: dict[int, float]
    percentiles_ci95: dict[int, Bounds]


@dataclass(frozen=True)
class ModelFigures:
    """One model on one benchmark; every `…_ci95` is a 95 % bootstrap interval over problems.

    `pass_at_1` is the mean over problems of the share of right samples, `pass_at_k` the mean of the unbiased
    estimate, `majority` the share of problems whose most frequent answer is right (None: not asked for);
    `mean_tokens` is the mean length of all samples [tokens], right, wrong and truncated; `truncated_share` of the
    samples ran into the cap (0-1). `prompt_tokens` counts each problem's prompt once, `generated_tokens` all samples.
    """

    pass_at_1: float
    pass_at_1_ci95: Bounds
    mean_tokens: float
    mean_tokens_ci95: Bounds
    truncated_share: float
    truncated_share_ci95: Bounds
    pass_at_k: dict[int, float]
    pass_at_k_ci95: dict[int, Bounds]
    majority: float | None
    majority_ci95: Bounds | None
    length: dict[str, LengthFigures]
    prompt_tokens: int
    generated_tokens: int
    samples: int
    problems: int
    unanswered: Unanswered = field(default_factory=Unanswered)


def grade_folder(
    folder: Path,
    problems: Sequence[Problem],
    samples: int,
    extract: Extract,
    prompt_tokens: Mapping[str, int],
    votes: bool = False,
) -> Graded:
    """Grade `samples` traces per problem of a trace folder and write `results.jsonl` beside them.

    `extract` takes the answer out of a text; `prompt_tokens`: problem id → length of its prompt [tokens];
    `votes`: also find the majority's answer, for which the answers of a problem are compared with one another.
    Raises `InputError` if a trace is missing.
    """
    groups = _wanted_traces(folder, problems, samples)
    traces = [trace for group in groups for trace in group]
    verdicts = grade_batch([trace.text for trace in traces], [trace.gold for trace in traces], extract)
    write_results(folder / RESULTS_FILE, map(_graded, traces, verdicts))
    right = [verdicts[start : start + samples] for start in range(0, len(verdicts), samples)]
    return Graded(
        right=right,
        lengths=[[_tokens(trace) for trace in group] for group in groups],
        truncated=[[trace.finish_reason == "length" for trace in group] for group in groups],
        prompt_tokens=[prompt_tokens[problem.id] for problem in problems],
        right_votes=_right_votes(groups, right, extract) if votes else None,
        unanswered=count_unanswered([trace.text for trace in traces if trace.finish_reason != "length"], extract),
    )


def _right_votes(groups: Sequence[Sequence[Trace]], right: Sequence[Sequence[bool]], extract: Extract) -> list[bool]:
    """Whether the majority of each problem's answers is right; of equally frequent ones the first counts."""
    chosen = [majority(group_answers([extract(trace.text) for trace in group])) for group in groups]
    return [key is not None and verdicts[key] for key, verdicts in zip(chosen, right, strict=True)]


def figures_of(graded: Graded, ks: Sequence[int] = ()) -> ModelFigures:
    """All figures; pass@k for k = 1, 2, 4, … up to the number of samples, and for those of `ks`."""
    samples = len(graded.right[0])
    passes = {k: _pass_at_k(graded, k) for k in sorted({*_powers(samples), *ks})}
    accuracy, length = mean_with_interval(graded.accuracies), mean_with_interval(graded.mean_lengths)
    truncated = mean_with_interval(graded.truncated_shares)
    votes = None if graded.right_votes is None else mean_with_interval(graded.right_votes)
    return ModelFigures(
        pass_at_1=accuracy[0],
        pass_at_1_ci95=accuracy[1:],
        mean_tokens=length[0],
        mean_tokens_ci95=length[1:],
        truncated_share=truncated[0],
        truncated_share_ci95=truncated[1:],
        pass_at_k={k: interval[0] for k, interval in passes.items()},
        pass_at_k_ci95={k: interval[1:] for k, interval in passes.items()},
        majority=votes[0] if votes else None,
        majority_ci95=votes[1:] if votes else None,
        length={
            name: length_figures(graded.lengths_of(value)) for name, value in (("right", True), ("wrong", False))
        },
        prompt_tokens=sum(graded.prompt_tokens),
        generated_tokens=sum(map(sum, graded.lengths)),
        samples=samples,
        problems=len(graded.right),
        unanswered=graded.unanswered,
    )


def _powers(samples: int) -> list[int]:
    return [1 << exponent for exponent in range(samples.bit_length()) if 1 << exponent <= samples]


def _pass_at_k(graded: Graded, k: int) -> Interval:
    return mean_with_interval([pass_at_k(sum(group), len(group), k) for group in graded.right])


def length_figures(lengths: Sequence[Sequence[int]]) -> LengthFigures:
    """Mean and percentiles of lengths [tokens] given per problem; problems without any take part in no resample's
    sums, but are drawn like the others."""
    count = sum(map(len, lengths))
    if not count:
        return LengthFigures(0, None, None, {}, {})
    mean, *bounds = ratio_with_interval([sum(group) for group in lengths], [len(group) for group in lengths])
    found = percentiles_with_intervals(lengths, PERCENTILES)
    return LengthFigures(
        samples=count,
        mean=mean,
        mean_ci95=(bounds[0], bounds[1]),
        percentiles={percent: interval[0] for percent, interval in found.items()},
        percentiles_ci95={percent: interval[1:] for percent, interval in found.items()},
    )


@dataclass(frozen=True)
class MacroFigures:
    """Means over benchmarks in which each weighs the same, however many problems it has; otherwise as in
    `ModelFigures`."""

    benchmarks: int
    pass_at_1: float
    pass_at_1_ci95: Bounds
    mean_tokens: float
    mean_tokens_ci95: Bounds
    truncated_share: float
    truncated_share_ci95: Bounds


def macro_figures(benchmarks: Mapping[str, Graded]) -> MacroFigures:
    parts = list(benchmarks.values())
    accuracy = macro_mean_with_interval([part.accuracies for part in parts])
    length = macro_mean_with_interval([part.mean_lengths for part in parts])
    truncated = macro_mean_with_interval([part.truncated_shares for part in parts])
    return MacroFigures(
        benchmarks=len(parts),
        pass_at_1=accuracy[0],
        pass_at_1_ci95=accuracy[1:],
        mean_tokens=length[0],
        mean_tokens_ci95=length[1:],
        truncated_share=truncated[0],
        truncated_share_ci95=truncated[1:],
    )


@dataclass(frozen=True)
class Comparison:
    """One model minus another, paired by problem, as (value, low, high): shares, tokens, and `tokens_ratio` of their
    mean lengths; None over benchmarks."""

    pass_at_1: Interval
    mean_tokens: Interval
    tokens_ratio: Interval | None


MACRO = "macro"
"""What the mean over benchmarks is called where benchmarks are."""


def differences(first: Mapping[str, Graded], other: Mapping[str, Graded]) -> dict[str, Comparison]:
    """Benchmark → `other` − `first`; where there are several, under `MACRO` the means over them."""
    found = {name: _compared(mine, first[name]) for name, mine in other.items()}
    if len(other) > 1:
        accuracy = [_paired(mine.accuracies, first[name].accuracies) for name, mine in other.items()]
        length = [_paired(mine.mean_lengths, first[name].mean_lengths) for name, mine in other.items()]
        found[MACRO] = Comparison(macro_mean_with_interval(accuracy), macro_mean_with_interval(length), None)
    return found


def _compared(mine: Graded, theirs: Graded) -> Comparison:
    return Comparison(
        paired_difference(mine.accuracies, theirs.accuracies),
        paired_difference(mine.mean_lengths, theirs.mean_lengths),
        ratio_with_interval(mine.mean_lengths, theirs.mean_lengths),
    )


def _paired(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(mine, theirs, strict=True)]


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


def _graded(trace: Trace, correct: bool) -> GradedSample:
    return GradedSample(trace.problem_id, trace.sample, correct, trace.n_tokens, trace.finish_reason)
