"""The grid of a combined run, and what the table says of it. Pure functions.

Every method of every model on one benchmark with one n is a cell. The cells of a benchmark make its rows, its
differences, and the recommendation which method to run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TypeVar

import numpy as np

from eval.table.config import CombinedConfig
from eval.table.costs import TokenPrices, cost_of
from eval.table.labels import ALL, judge_label, marks
from eval.table.method import Outcome, ReplayModel, Result, mean_outcomes, mean_result
from eval.table.provenance import Seen
from eval.table.recommend import Option, recommend
from eval.table.registry import METHODS, method_label, method_of
from eval.table.rows import BaseConsensus, make_differences, make_row, total_usage
from eval.table.votes import consensus
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.results import Cost, Difference, LiveEntry, Recommendation, Row
from secateur.runtime.console import progress

T = TypeVar("T")
ModelAndJudge = tuple[str, str | None]
"""A model, and a judge of it, its scorer (`SCORER`), or None."""
SCORER = "scorer"


@dataclass(frozen=True)
class GridCell:
    """All results on one benchmark with n traces of each problem.

    `seen`: what each model, with each of its judges and its scorer, had seen of the benchmark; `prompt_tokens`:
    model → mean length of a prompt, 0 where no prices ask for it; `judge_kinds`: the kind of each judge.
    """

    benchmark: str
    n: int
    results: list[Result]
    reference: BaseConsensus
    seen: Mapping[ModelAndJudge, Seen]
    prompt_tokens: Mapping[str, float]
    judge_kinds: Mapping[ModelAndJudge, str]

    @property
    def problems(self) -> int:
        return len(self.reference.votes[self.reference.model])

    def timed(self, live: Sequence[LiveEntry]) -> "GridCell":
        """With the wall time of the methods of which all problems ran live; `live` are those of this n."""
        walls = {
            (entry.model, entry.method, entry.judge): entry.live.wall_s
            for entry in live
            if entry.problems == self.problems
        }
        results = [
            replace(one, wall_s=walls.get((one.model, one.method, one.judge), one.wall_s)) for one in self.results
        ]
        return replace(self, results=results)


def measure_cells(
    config: CombinedConfig,
    benchmark: str,
    models: Mapping[str, ReplayModel],
    seen: Mapping[ModelAndJudge, Seen],
) -> list[GridCell]:
    """Replay every method of every model at every n; the cells have the largest n first."""
    sizes, measured = config.sizes[::-1], {}
    replays = len(models) * sum(config.largest_n // n for n in sizes)
    with progress(f"{benchmark}: methods", replays) as shown:
        for n in sizes:
            for name, found in models.items():
                measured[name, n] = _measure(found, config.of_size(n))
                shown.advance(config.largest_n // n, note=f"{name}, n = {n}")
    parameters = {name: found.parameters for name, found in models.items()}
    prompts = {name: found.prompt_tokens for name, found in models.items()}
    kinds = {(name, judge): kind for name, found in models.items() for judge, kind in found.judge_kinds.items()}
    cells = []
    for n in sizes:
        votes = {name: measured[name, n].votes for name in models}
        results = [result for name in models for result in measured[name, n].results]
        reference = BaseConsensus(config.base, votes, parameters)
        cells.append(GridCell(benchmark, n, results, reference, seen, prompts, kinds))
    return cells


@dataclass(frozen=True)
class _Measured:
    results: list[Result]
    votes: list[Outcome]


def results_of_model(model: ReplayModel, config: CombinedConfig) -> list[Result]:
    """Every method that the config asks for, on one model."""
    asked = [METHODS[name] for name in METHODS if name in config.methods]
    return [result for method in asked if method.run is not None for result in method.run(model, config)]


def _measure(model: ReplayModel, config: CombinedConfig) -> _Measured:
    """One model at the config's only n, the mean over the blocks of its traces."""
    parts = model.blocks(config.largest_n)
    found = [results_of_model(part, config) for part in parts]
    results = [mean_result(same) for same in zip(*found, strict=True)]
    votes = mean_outcomes([[consensus(problem) for problem in part.plain] for part in parts])
    return _Measured(results, votes)


def together(cells: Sequence[GridCell]) -> GridCell:
    """The cells of several benchmarks with the same n as one: every problem of every benchmark counts once."""
    first, weights = cells[0], [cell.problems for cell in cells]
    votes = {name: _joined([cell.reference.votes[name] for cell in cells]) for name in first.reference.votes}
    return GridCell(
        ALL,
        first.n,
        [_together(found) for found in zip(*(cell.results for cell in cells), strict=True)],
        replace(first.reference, votes=votes),
        {key: reduce(or_, (cell.seen[key] for cell in cells)) for key in first.seen},
        {
            name: float(np.average([cell.prompt_tokens[name] for cell in cells], weights=weights))
            for name in first.prompt_tokens
        },
        first.judge_kinds,
    )


def _together(found: Sequence[Result]) -> Result:
    """The same method of the same model on several benchmarks."""
    times = [one.wall_s for one in found]
    return replace(
        found[0],
        outcomes=_joined([one.outcomes for one in found]),
        wall_s=None if None in times else sum(times),
        controls={name: _joined([one.controls[name] for one in found]) for name in found[0].controls},
    )


def _joined(parts: Sequence[Sequence[T]]) -> list[T]:
    return [one for part in parts for one in part]


PricesOf = Mapping[str, TokenPrices]
"""Model, or kind of a judge that reads tokens → money."""


@dataclass(frozen=True)
class BenchmarkTable:
    """What the table says of one benchmark, or of all together."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    recommendation: Recommendation

    def prefixed(self, prefix: str) -> "BenchmarkTable":
        """With `prefix` before the id of every row."""
        rows = tuple(replace(row, id=prefix + row.id) for row in self.rows)
        return BenchmarkTable(rows, self.differences, _prefixed(self.recommendation, prefix))


def tabulate(cells: Sequence[GridCell], prices: PricesOf, points: float) -> BenchmarkTable:
    """`cells` have the largest n first; `points` is the tolerance of the recommendation."""
    rows_of = [_rows(cell, prices, f"/n={cell.n}" if len(cells) > 1 else "") for cell in cells]
    differences = [
        make_differences(cell.results, cell.reference.model, cell.judge_kinds, cell.benchmark, cell.n)
        for cell in cells
    ]
    return BenchmarkTable(
        tuple(row for rows in rows_of for row in rows),
        tuple(difference for found in differences for difference in found),
        advice(cells, rows_of, points),
    )


def _rows(cell: GridCell, prices: PricesOf, suffix: str) -> list[Row]:
    return [
        make_row(
            result,
            result.id + suffix,
            cell.benchmark,
            cell.n,
            cell.reference,
            seen=cell.seen[result.model, SCORER if method_of(result.method).reads_scorer else result.judge],
            judge_kind=cell.judge_kinds.get((result.model, result.judge)),
            cost=row_cost(result, cell, prices) if prices else None,
        )
        for result in cell.results
    ]


def row_cost(result: Result, cell: GridCell, prices: PricesOf) -> Cost:
    """Money for a row; `prices` has the row's model and, by kind, its judge where that one reads tokens."""
    kind = cell.judge_kinds.get((result.model, result.judge), "")
    judge = prices.get(kind) if result.parameters.judge else None
    usage, prompt = total_usage(result.outcomes), cell.prompt_tokens[result.model]
    return cost_of(usage, len(result.outcomes), prompt, prices[result.model], judge)


def advice(cells: Sequence[GridCell], rows_of: Sequence[Sequence[Row]], points: float) -> Recommendation:
    """Every method that can be run, on any model, with any n, against the base model's consensus of the largest n."""
    first, several = cells[0], len(cells) > 1
    reference, base = first.reference, first.reference.model
    voted = Option(
        f"{base}/consensus/n={first.n}" if several else f"{base}/consensus",
        base,
        _name("consensus", None, first.n if several else None),
        [outcome.accuracy for outcome in reference.votes[base]],
        reference.net_tokens,
        reference.usage.longest_path,
        0.0,
    )
    options = [
        _option(result, row, reference.net_tokens, cell.n if several else None)
        for cell, rows in zip(cells, rows_of, strict=True)
        for result, row in zip(cell.results, rows, strict=True)
        if _can_be_run(row) and (method_of(row.method).depends_on_n or cell is first)
    ]
    # The very same object, so that it is compared with itself, without a doubt.
    options = [voted if one.id == voted.id else one for one in options]
    return recommend(options, voted, points, first.benchmark)


def _can_be_run(row: Row) -> bool:
    chance = row.judge_kind is not None and JUDGE_KINDS[row.judge_kind].is_chance
    return not method_of(row.method).is_bound and not chance


def _option(result: Result, row: Row, reference: float, n: int | None) -> Option:
    """`reference` [tokens per problem] is what it is measured against; `n` is None where there is only one."""
    return Option(
        id=row.id,
        model=result.model,
        name=_name(result.method, result.judge, n) + marks(row),
        accuracies=[outcome.accuracy for outcome in result.outcomes],
        net_tokens=row.net_tokens,
        longest_path=row.tokens.longest_path,
        saving_net=1 - row.net_tokens / reference,
    )


def _name(method: str, judge: str | None, n: int | None) -> str:
    name = method_label(method) + (f" ({judge_label(judge)})" if judge else "")
    if n is None or not method_of(method).depends_on_n:
        return name
    return f"{name} of {n}" if method == "consensus" else f"{name} with n = {n}"


def _prefixed(advice: Recommendation, prefix: str) -> Recommendation:
    def named(row_id: str | None) -> str | None:
        return None if row_id is None else prefix + row_id

    return replace(
        advice,
        reference=prefix + advice.reference,
        overall=named(advice.overall),
        frontier_tokens=tuple(prefix + name for name in advice.frontier_tokens),
        frontier_wall=tuple(prefix + name for name in advice.frontier_wall),
        per_model={
            model: replace(
                choice,
                recommended=named(choice.recommended),
                considered=tuple(replace(one, id=prefix + one.id) for one in choice.considered),
            )
            for model, choice in advice.per_model.items()
        },
    )
