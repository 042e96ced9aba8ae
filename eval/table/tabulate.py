"""From the cells of the grid to what the table says of a benchmark: rows, differences, and which method to run.
Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eval.table.costs import TokenPrices, cost_of
from eval.table.grid import GridCell
from eval.table.labels import judge_label, marks
from eval.table.method import Result
from eval.table.recommend import Option, recommend
from eval.table.registry import method_label, method_of
from eval.table.rows import make_differences, make_row, total_usage
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.results import Cost, Difference, Recommendation, Row

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
            seen=cell.seen[result.model, result.judge],
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
