"""Accuracy against net tokens: every method of every model as a point that can be pointed at and reached by keyboard.

Drawn here rather than by a plotting library, so that each point is an element with a name of its own; it is complete
without a script. Costs are shares of what the base model's consensus generates.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from eval.table.labels import is_chance, row_label
from eval.table.registry import method_label, method_mark, method_of
from secateur.results import Recommendation, Row
from secateur.runtime.pictures import model_colours

Cost = Callable[[Row], float]
Ticks = list[tuple[float, str]]
"""(place, text)."""
WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 30, 52
_TICKS = [m * 10.0**e for e in range(-3, 4) for m in (1, 2, 5)]  # per cent


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
    """All that the template draws. `path` is the frontier, `best` its points in words, `soonest` those of the one of
    accuracy against the longest path; `models` are (name, colour), `methods` (label, shape)."""

    points: list[Point]
    x_ticks: Ticks
    y_ticks: Ticks
    path: str
    best: list[str]
    soonest: list[str]
    models: list[tuple[str, str]]
    methods: list[tuple[str, str]]


def net_cost_percent(row: Row) -> float:
    """Of what the base model's consensus costs; a share too small to be drawn counts as the smallest that is."""
    return max(100 * (1 - row.saving_net), 1e-3)


def longest_path(row: Row) -> float:
    return row.tokens.longest_path


def can_be_run(row: Row) -> bool:
    """Not bounds, controls and judges at chance: nobody can run those by themselves, or should."""
    return not method_of(row.method).is_bound and not is_chance(row)


def on_frontier(rows: Sequence[Row], cost: Cost = net_cost_percent) -> list[Row]:
    """Rows that no other one beats in both accuracy and cost, the cheapest first, among those that can be run."""
    best, found = -math.inf, []
    for row in sorted(filter(can_be_run, rows), key=lambda row: (cost(row), -row.accuracy)):
        if row.accuracy > best:
            best = row.accuracy
            found.append(row)
    return found


def _named(rows: Sequence[Row], ids: Collection[str], cost: Cost) -> list[Row]:
    return sorted((row for row in rows if row.id in ids), key=cost)


def frontier(rows: Sequence[Row], models: Sequence[str], advice: Recommendation | None) -> Frontier:
    """Of one benchmark and n. `models` are all of the run, so that each has its colour. `advice` names the rows of
    both frontiers; None where it compares several n, of which these rows are one."""
    shown = [row for row in rows if not is_chance(row)] or rows  # a plot needs a point
    if advice is None:
        best, soonest = on_frontier(rows), on_frontier(rows, longest_path)
    else:
        best = _named(rows, advice.frontier_tokens, net_cost_percent)
        soonest = _named(rows, advice.frontier_wall, longest_path)
    x_ticks, x_of = _cost_axis([net_cost_percent(row) for row in shown])
    y_ticks, y_of = _accuracy_axis([value for row in shown for value in row.accuracy_ci95])
    places, colours = {row.id: place for place, row in enumerate(best, start=1)}, model_colours(models)
    corners = [(x_of(net_cost_percent(row)), y_of(row.accuracy)) for row in best]
    return Frontier(
        [_point(row, x_of, y_of, colours[row.model], places.get(row.id)) for row in shown],
        x_ticks,
        y_ticks,
        "".join(f"{'L' if place else 'M'}{x:.1f} {y:.1f}" for place, (x, y) in enumerate(corners)),
        [_words(row) for row in best],
        [_words_of_wait(row) for row in soonest],
        [(model, colours[model]) for model in models if any(row.model == model for row in rows)],
        [(method_label(name), method_mark(name)) for name in dict.fromkeys(row.method for row in shown)],
    )


def _point(
    row: Row, x_of: Callable[[float], float], y_of: Callable[[float], float], colour: str, place: int | None
) -> Point:
    low, high = (y_of(value) for value in row.accuracy_ci95)
    x, y = x_of(net_cost_percent(row)), y_of(row.accuracy)
    return Point(_words(row), colour, method_mark(row.method), x, y, low, high, place)


def _accuracy(row: Row) -> str:
    return "accuracy {:.3f} ({:.3f}–{:.3f})".format(row.accuracy, *row.accuracy_ci95)


def _words(row: Row) -> str:
    return f"{row_label(row)}: {_accuracy(row)} at {net_cost_percent(row):.3g} % of the cost"


def _words_of_wait(row: Row) -> str:
    return f"{row_label(row)}: {_accuracy(row)} after {longest_path(row):,.0f} tokens"


def _cost_axis(costs: Sequence[float]) -> tuple[Ticks, Callable[[float], float]]:
    """Logarithmic, with room at both ends for the marks."""
    low, high = math.log10(min(costs)), math.log10(max(costs))
    pad = 0.04 * max(high - low, 1.0)
    low, high = low - pad, high + pad

    def place(cost: float) -> float:
        return LEFT + (math.log10(cost) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    ticks = [(place(tick), f"{tick:g} %") for tick in _TICKS if low <= math.log10(tick) <= high]
    return ticks, place


def _accuracy_axis(values: Sequence[float]) -> tuple[Ticks, Callable[[float], float]]:
    low, high = max(min(values), 0.0), min(max(values), 1.0)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 7)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    high = max(high, low + step)

    def place(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    count = round((high - low) / step)
    return [(place(low + k * step), f"{low + k * step:.2f}") for k in range(count + 1)], place
