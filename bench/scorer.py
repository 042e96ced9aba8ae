"""What the order of ending tells of an answer table, and whether a vote weighted by it beats the plain one.

    python bench/scorer.py --answers qwen3_8b_aime24_aime25_hmmt25_n128.jsonl.gz
    python bench/scorer.py --answers FILE --sizes 16 64 --output_dir outputs/scorer

A line of the table is a problem: `problem_id, benchmark, gold, traces: [{n_tokens, answer}]`. A scorer of order alone
is fitted on all benchmarks but one and measured on that one, in turn: AUROC within problems, then the accuracy of the
score-weighted vote minus the plain vote, paired, with 95 % intervals over problems. Of each problem the traces are
taken in disjoint blocks of n. Writes scorer.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eval.table.assemble import keys_and_right_ones
from eval.table.method import ReplayProblem, ReplayTrace, TraceReadings, blocks, part
from eval.table.scored import score_vote
from eval.table.votes import consensus
from secateur.deepprune.cut import CutRule
from secateur.deepprune.scorer import (
    END,
    Evidence,
    PointRecord,
    ScoreFigures,
    Scorer,
    ScorerRecord,
    features_of,
    fit_scores,
    score_figures,
)
from secateur.runtime.config import parse_config
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_jsonl
from secateur.runtime.process import entry_point
from secateur.runtime.records import write_record
from secateur.runtime.statistics import Interval, mean_with_interval

FORMAT = 1


@dataclass(kw_only=True)
class ScorerBenchConfig:
    """answers: the table. sizes: every n. output_dir: gets scorer.json."""

    answers: str
    sizes: list[int] = field(default_factory=lambda: [16, 64])
    output_dir: str = "outputs/scorer"

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 2:
            raise InputError(f"key 'sizes' has the value {self.sizes}; traces are compared: at least 2 of each")


@dataclass(frozen=True)
class HeldOut:
    """One benchmark with n traces of each problem, by a scorer fitted on the others: `weights` of came_before and
    length (positive: late, or long, is right), accuracies (0-1) with intervals over problems, and of each problem the
    accuracy of the weighted vote minus that of the plain one. `answered`: the figures without traces that gave no
    answer, which have no vote to weigh."""

    benchmark: str
    n: int
    weights: tuple[float, ...]
    figures: ScoreFigures
    answered: ScoreFigures
    vote: Interval
    score_vote: Interval
    differences: tuple[float, ...]


@dataclass(frozen=True)
class BenchRecord:
    """All of scorer.json of this benchmark."""

    rows: tuple[HeldOut, ...]


def read_table(path: str) -> dict[str, list[ReplayProblem]]:
    """Benchmark → its problems."""
    found: dict[str, list[ReplayProblem]] = {}
    for _, line in read_jsonl(path):
        keys, right = keys_and_right_ones([trace["answer"] for trace in line["traces"]], str(line["gold"]))
        rows = zip(keys, line["traces"], strict=True)
        traces = tuple(ReplayTrace(key, trace["n_tokens"], None) for key, trace in rows)
        found.setdefault(line["benchmark"], []).append(ReplayProblem(line["problem_id"], right, traces))
    if len(found) < 2:
        raise InputError(
            f"key 'answers': {path} holds the benchmark {list(found)} alone; others are needed to fit on"
        )
    return found


def _evidence(problem: ReplayProblem) -> list[Evidence]:
    return [Evidence(trace.n_tokens) for trace in problem.traces]


def _labels(problem: ReplayProblem) -> np.ndarray:
    return np.array([key in problem.right for key in problem.keys], dtype=np.int64)


def _columns(problems: Sequence[ReplayProblem]) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of all traces."""
    tables = [features_of(_evidence(problem), ("order",)) for problem in problems]
    return np.concatenate(tables), np.concatenate([_labels(problem) for problem in problems])


def held_out(table: Mapping[str, Sequence[ReplayProblem]], benchmark: str, n: int) -> HeldOut:
    """`benchmark` by a scorer that was fitted on the others."""
    parts = {name: [_parts(problem, n) for problem in problems] for name, problems in table.items()}
    fit = fit_scores(*_columns([one for name in parts if name != benchmark for own in parts[name] for one in own]))
    tested = parts[benchmark]
    numbers = np.concatenate([np.full(len(own) * n, index) for index, own in enumerate(tested)])
    features, labels = _columns([one for own in tested for one in own])
    gave = np.array([key is not None for own in tested for one in own for key in one.keys])
    figures = score_figures(labels, fit(features), numbers)
    record = ScorerRecord(reads=("order",), points={END: PointRecord(fit, figures)}, cut=CutRule())
    plain = [_mean([consensus(one).accuracy for one in own]) for own in tested]
    weighted = [_mean([_vote(one, Scorer(record, {})) for one in own]) for own in tested]
    return HeldOut(
        benchmark,
        n,
        fit.weights,
        figures,
        score_figures(labels[gave], fit(features[gave]), numbers[gave]),
        mean_with_interval(plain),
        mean_with_interval(weighted),
        tuple(np.subtract(weighted, plain).tolist()),
    )


def _parts(problem: ReplayProblem, n: int) -> list[ReplayProblem]:
    return [part(problem, chosen) for chosen in blocks(len(problem.traces), n)]


def _vote(problem: ReplayProblem, scorer: Scorer) -> float:
    return score_vote(problem, [TraceReadings(one, one) for one in _evidence(problem)], scorer).accuracy


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def shown(found: HeldOut) -> str:
    """A row of the table in bench/RESULTS.md."""
    before, length = found.weights
    return (
        f"| {found.benchmark} | {found.n} | {before:+.2f}, {length:+.2f} | {_within(found.figures)} | "
        f"{_within(found.answered)} | {100 * found.vote[0]:.1f} | {100 * found.score_vote[0]:.1f} | "
        f"{_points(found.differences)} |"
    )


def _within(figures: ScoreFigures) -> str:
    if figures.auroc_within is None:
        return "–"
    low, high = figures.auroc_within_ci95
    return f"{figures.auroc_within:.3f} ({low:.3f}–{high:.3f}), {figures.mixed_problems}"


def _points(differences: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in mean_with_interval(differences))
    return f"{mean:+.1f} ({low:+.1f} … {high:+.1f})"


@entry_point
def main() -> None:
    config = parse_config(ScorerBenchConfig)
    table = read_table(config.answers)
    rows = tuple(held_out(table, benchmark, n) for n in config.sizes for benchmark in table)
    for row in rows:
        say(shown(row))
    for n in config.sizes:
        say(f"all, n = {n}: {_points([one for row in rows if row.n == n for one in row.differences])} points")
    path = Path(config.output_dir) / "scorer.json"
    write_record(path, BenchRecord(rows), FORMAT)
    say(f"figures: {path}")


if __name__ == "__main__":
    main()
