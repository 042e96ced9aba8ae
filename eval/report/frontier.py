"""Accuracy against net tokens: every method of every model as a point that can be pointed at and reached by keyboard.

Drawn here rather than by a plotting library, so that each point is an element with a name of its own; it is complete
without a script. Costs are shares of what the base model's vote of all traces generates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.table.labels import judge_label, method_label
from eval.table.methods import COMPANIONS
from secateur.runtime.pictures import colour_of

Row = Mapping[str, Any]
Cost = Callable[[Row], float]
WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 30, 52
_TICKS = [m * 10.0**e for e in range(-3, 4) for m in (1, 2, 5)]  # per cent
NOT_METHODS = (*COMPANIONS, "oracle")
"""Bounds and controls: nobody can run them by themselves."""
SHAPES = {
    "single": "M0-7 7 0 0 7-7 0Z",
    "consensus": "M-5.5-5.5h11v11h-11Z",
    "deepprune": "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0Z",
    "deepprune_adaptive": "M0-7.5 6.5-3.75V3.75L0 7.5-6.5 3.75V-3.75Z",
    "random_traces": "M-6.5-5h13L0 6.5Z",
    "consensus_equal_tokens": "M-6.5 5h13L0-6.5Z",
    "oracle": "M0-8 2-2.5 8-2.5 3 1 5 7 0 3.3-5 7-3 1-8-2.5-2-2.5Z",
    "adaptive_consistency": "M-2-6.5h4v4.5h4.5v4h-4.5v4.5h-4v-4.5h-4.5v-4h4.5Z",
    "early_stopping": "M-6-3.5-3.5-6 0-2.5 3.5-6 6-3.5 2.5 0 6 3.5 3.5 6 0 2.5-3.5 6-6 3.5-2.5 0Z",
    "deepconf_low": "M5-6.5v13L-6.5 0Z",
    "deepconf_high": "M-5-6.5v13L6.5 0Z",
    "embedding": "M0-7 6.7-2.2 4.1 5.7H-4.1L-6.7-2.2Z",
}
OTHER_SHAPE = "M-7-3.5h14v7h-14Z"


@dataclass(frozen=True)
class Point:
    """A row of the table in the plot's coordinates; `place` is its number on the frontier, from the cheapest."""

    label: str
    colour: str
    shape: str
    x: float
    y: float
    low: float
    high: float
    place: int | None


@dataclass(frozen=True)
class Frontier:
    """All that the template draws. `ticks` are (place, text); `path` is the frontier; `best` its points in words,
    `soonest` those of the frontier of accuracy against the longest path."""

    points: list[Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    path: str
    best: list[str]
    soonest: list[str]
    models: list[tuple[str, str]]
    methods: list[tuple[str, str]]


def row_label(row: Row) -> str:
    judge = f" ({judge_label(row['judge'])})" if row["judge"] else ""
    return f"{row['model']} · {method_label(row['method'])}{judge}"


def on_frontier(rows: Sequence[Row], named: Sequence[Any] | None = None, cost: Cost | None = None) -> list[Row]:
    """Rows that no other one beats in both accuracy and cost (default: net), the cheapest first; those with the ids
    `named` where a run says which. Bounds, controls and judges at chance take no part."""
    cost = cost or _cost
    if named is not None:
        return sorted((row for row in rows if row.get("id") in named), key=cost)
    free = [row for row in rows if row["method"] not in NOT_METHODS and row["judge"] != "random"]
    best, found = -math.inf, []
    for row in sorted(free, key=lambda row: (cost(row), -row["accuracy"])):
        if row["accuracy"] > best:
            best = row["accuracy"]
            found.append(row)
    return found


def _cost(row: Row) -> float:
    """Per cent; a share too small to be drawn counts as the smallest that is."""
    return max(100 * (1 - row["saving_net"]), 1e-3)


def frontier(rows: Sequence[Row], models: Sequence[str], recommendation: Mapping[str, Any]) -> Frontier:
    """Of one benchmark and n. `models` are all of the run, so that each has its colour. `recommendation` is that of
    combined.json; empty where there is none, or where it compares several n."""
    trained = [row for row in rows if row["judge"] != "random" or not row["method"].startswith("deepprune")]
    shown = trained or rows  # a plot needs a point
    best = on_frontier(rows, recommendation.get("frontier_tokens"))
    soonest = on_frontier(rows, recommendation.get("frontier_wall"), _wait)
    x_ticks, x_of = _cost_axis([_cost(row) for row in shown])
    y_ticks, y_of = _accuracy_axis([value for row in shown for value in row["accuracy_ci95"]])
    places = {id(row): place for place, row in enumerate(best, start=1)}
    points = [
        Point(
            _words(row),
            colour_of(row["model"], models),
            SHAPES.get(row["method"], OTHER_SHAPE),
            x_of(_cost(row)),
            y_of(row["accuracy"]),
            *(y_of(value) for value in row["accuracy_ci95"]),
            places.get(id(row)),
        )
        for row in shown
    ]
    corners = [(x_of(_cost(row)), y_of(row["accuracy"])) for row in best]
    return Frontier(
        points,
        x_ticks,
        y_ticks,
        "".join(f"{'L' if place else 'M'}{x:.1f} {y:.1f}" for place, (x, y) in enumerate(corners)),
        [_words(row) for row in best],
        [_words_of_wait(row) for row in soonest],
        [(m, colour_of(m, models)) for m in models if any(row["model"] == m for row in rows)],
        [(method_label(m), SHAPES.get(m, OTHER_SHAPE)) for m in dict.fromkeys(row["method"] for row in shown)],
    )


def _accuracy(row: Row) -> str:
    return "accuracy {:.3f} ({:.3f}–{:.3f})".format(row["accuracy"], *row["accuracy_ci95"])


def _words(row: Row) -> str:
    return f"{row_label(row)}: {_accuracy(row)} at {_cost(row):.3g} % of the cost"


def _wait(row: Row) -> float:
    return row["tokens"]["longest_path"]


def _words_of_wait(row: Row) -> str:
    return f"{row_label(row)}: {_accuracy(row)} after {_wait(row):,.0f} tokens"


def _cost_axis(costs: Sequence[float]):
    """Logarithmic, with room at both ends for the markers."""
    low, high = math.log10(min(costs)), math.log10(max(costs))
    pad = 0.04 * max(high - low, 1.0)
    low, high = low - pad, high + pad

    def place(cost: float) -> float:
        return LEFT + (math.log10(cost) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    ticks = [(place(tick), f"{tick:g} %") for tick in _TICKS if low <= math.log10(tick) <= high]
    return ticks, place


def _accuracy_axis(values: Sequence[float]):
    low, high = max(min(values), 0.0), min(max(values), 1.0)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 7)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    high = max(high, low + step)

    def place(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    count = round((high - low) / step)
    return [(place(low + k * step), f"{low + k * step:.2f}") for k in range(count + 1)], place
