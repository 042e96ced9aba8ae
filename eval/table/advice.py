"""From the cells of the grid to what combined.json says of them: rows with marks and costs, differences, and which
method to run. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eval.table.costs import TokenPrices, cost_of
from eval.table.grid import Cell
from eval.table.labels import judge_label, marks, method_label
from eval.table.methods import COMPANIONS
from eval.table.recommend import Candidate, recommend
from eval.table.results import Result
from eval.table.rows import make_differences, make_row, total_usage

NOT_TO_BE_RUN = (*COMPANIONS, "oracle")
"""Methods that hold another against something: nobody can run them by themselves."""
Prices = Mapping[str, TokenPrices]


def tabulate(cells: Sequence[Cell], prices: Prices, points: float) -> dict[str, Any]:
    """`rows`, `differences` and `recommendation` of one benchmark; `cells` have the largest n first, `points` is the
    tolerance of the recommendation."""
    rows_of = [_rows(cell, prices, f"/n={cell.n}" if len(cells) > 1 else "") for cell in cells]
    differences = [make_differences(cell.results, cell.reference.model, cell.benchmark, cell.n) for cell in cells]
    return {
        "rows": [row for rows in rows_of for row in rows],
        "differences": [difference for found in differences for difference in found],
        "recommendation": {"benchmark": cells[0].benchmark} | advice(cells, rows_of, points),
    }


def _rows(cell: Cell, prices: Prices, suffix: str) -> list[dict[str, Any]]:
    rows = []
    for result in cell.results:
        row = make_row(result, cell.benchmark, cell.n, cell.reference)
        row |= {"id": row["id"] + suffix} | asdict(cell.seen[result.model, result.judge])
        rows.append(row | ({"cost": row_cost(result, cell, prices)} if prices else {}))
    return rows


def row_cost(result: Result, cell: Cell, prices: Prices) -> dict[str, float]:
    """Money for a row; `prices` has the row's model and, by kind, its judge where that one reads tokens."""
    kind = cell.judge_kinds.get((result.model, result.judge), "")
    judge = prices.get(kind) if result.prices.judge else None
    usage, prompt = total_usage(result.outcomes), cell.prompt_tokens[result.model]
    return cost_of(usage, len(result.outcomes), prompt, prices[result.model], judge)


def advice(cells: Sequence[Cell], rows_of: Sequence[Sequence[Mapping[str, Any]]], points: float) -> dict[str, Any]:
    """The field `recommendation`: every method that can be run, on any model, with any n, against the base model's
    vote of the largest n."""
    first, several = cells[0], len(cells) > 1
    reference, base = first.reference, first.reference.model
    voted = Candidate(
        f"{base}/consensus/n={first.n}" if several else f"{base}/consensus",
        base,
        _name("consensus", None, first.n if several else None),
        [outcome.accuracy for outcome in reference.votes[base]],
        reference.net_tokens,
        reference.usage.longest_path,
        0.0,
    )
    candidates = [
        _candidate(result, row, reference.net_tokens, cell.n if several else None)
        for cell, rows in zip(cells, rows_of, strict=True)
        for result, row in zip(cell.results, rows, strict=True)
        if result.method not in NOT_TO_BE_RUN and result.judge != "random"
        if result.method != "single" or cell is first  # it is the same with every n
    ]
    # The very same object, so that it is held against itself, without a doubt.
    return recommend([voted if one.id == voted.id else one for one in candidates], voted, points)


def _candidate(result: Result, row: Mapping[str, Any], reference: float, n: int | None) -> Candidate:
    """`reference` [tokens per problem] is what it is measured against; `n` is None where there is only one."""
    return Candidate(
        id=row["id"],
        model=result.model,
        name=_name(result.method, result.judge, n) + marks(row),
        accuracies=[outcome.accuracy for outcome in result.outcomes],
        net_tokens=row["net_tokens"],
        longest_path=row["tokens"]["longest_path"],
        saving_net=1 - row["net_tokens"] / reference,
    )


def _name(method: str, judge: str | None, n: int | None) -> str:
    name = method_label(method) + (f" ({judge_label(judge)})" if judge else "")
    if n is None or method == "single":
        return name
    return f"vote of all {n}" if method == "consensus" else f"{name} with n = {n}"
