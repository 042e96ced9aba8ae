"""What the order of ending tells of an answer table, and whether a vote weighted by it beats the plain one.

    python bench/scorer.py --answers qwen3_8b_aime24_aime25_hmmt25_n128.jsonl.gz
    python bench/scorer.py --answers FILE --sizes 16 64 --output_dir outputs/bench_scorer

The table is that of bench/ahead.py. A scorer of order alone
is fitted on all benchmarks but one and measured on that one, in turn: AUROC within problems, then the accuracy of the
score-weighted vote minus the plain vote, paired, with 95 % intervals over problems. Of each problem the traces are
taken in disjoint blocks of n. The last rows are the same with the lengths of the benchmark that is measured turned
round (bench/ahead.py): what such a scorer does where short is wrong. Writes scorer.json.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.ahead import read_answers, turned_round
from eval.table.method import ReplayProblem, TraceReadings, blocks, part
from eval.table.scored import score_vote
from eval.table.votes import consensus
from secateur.deepprune.cut import CutRule
from secateur.deepprune.scorer import (
    END,
    Observed,
    PointRecord,
    ScoreFigures,
    Scorer,
    ScorerRecord,
    features_of,
    fit_scores,
    score_figures,
)
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from secateur.runtime.records import write_record
from secateur.runtime.statistics import Interval, mean_with_interval

FORMAT = 1


@dataclass(frozen=True)
class HeldOut:
    """One benchmark with n traces of each problem, by a scorer fitted on the others: `weights` of came_before and
    length (positive: late, or long, is right), accuracies (0-1) with intervals over problems, and of each problem the
    accuracy of the weighted vote minus that of the plain one. `answered`: the figures without traces that gave no
    answer, which have no vote to weigh."""

    benchmark: str
    turned: bool
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


def _observed(problem: ReplayProblem) -> list[Observed]:
    return [Observed(trace.n_tokens) for trace in problem.traces]


def _labels(problem: ReplayProblem) -> np.ndarray:
    return np.array([key in problem.right for key in problem.keys], dtype=np.int64)


def _columns(problems: Sequence[ReplayProblem]) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of all traces."""
    tables = [features_of(_observed(problem), ("order",)) for problem in problems]
    return np.concatenate(tables), np.concatenate([_labels(problem) for problem in problems])


def held_out(table: Mapping[str, Sequence[ReplayProblem]], benchmark: str, n: int, turned: bool = False) -> HeldOut:
    """`benchmark`, perhaps with its lengths `turned` round, by a scorer that was fitted on the others as they are."""
    if turned:
        table = {**table, benchmark: [turned_round(problem) for problem in table[benchmark]]}
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
        turned,
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
    return score_vote(problem, [TraceReadings(one, one) for one in _observed(problem)], scorer).accuracy


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def shown(found: HeldOut) -> str:
    """A row of the table in bench/RESULTS.md."""
    name = f"{found.benchmark}, turned round" if found.turned else found.benchmark
    cells = [
        name,
        str(found.n),
        ", ".join(f"{weight:+.2f}" for weight in found.weights),
        _within(found.figures),
        _within(found.answered),
        f"{100 * found.vote[0]:.1f}",
        f"{100 * found.score_vote[0]:.1f}",
        _points(found.differences),
    ]
    return f"| {' | '.join(cells)} |"


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", required=True, help="the table")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64], help="every n")
    parser.add_argument("--output_dir", default="outputs/scorer", help="gets scorer.json")
    config = parser.parse_args()
    if min(config.sizes) < 2:
        raise InputError(f"--sizes {config.sizes}: traces are compared, at least 2 of each")
    table = read_answers(Path(config.answers))
    if len(table) < 2:
        raise InputError(f"--answers {config.answers} holds one benchmark; others are needed to fit on")
    found: list[HeldOut] = []
    for turned, n in itertools.product((False, True), config.sizes):
        rows = [held_out(table, benchmark, n, turned) for benchmark in table]
        found += rows
        for row in rows:
            say(shown(row))
        together = [one for row in rows for one in row.differences]
        say(f"all{', turned round' * turned}, n = {n}: {_points(together)} points")
    path = Path(config.output_dir) / "scorer.json"
    write_record(path, BenchRecord(tuple(found)), FORMAT)
    say(f"figures: {path}")


if __name__ == "__main__":
    main()
