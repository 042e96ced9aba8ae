"""What more traces buy: accuracy with its interval, net tokens and the longest path over n, a small chart per method.

Charts of one measure share their axes. Models keep the colours that they have elsewhere and have a mark each; dotted
in every chart is what the other methods are compared with, the base model's consensus.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.report.bars import printable
from eval.report.cards import find_row
from eval.report.frontier import Ticks, can_be_run, longest_path
from eval.report.views import Grid, View
from eval.table.labels import judge_label
from eval.table.registry import method_label, method_of, prunes
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.results import Row
from secateur.runtime.pictures import model_colours

Place = Callable[[float], float]
Series = tuple[str, str | None]
"""A method, and a judge or None."""
WIDTH, HEIGHT = 220, 158
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 10, 26
_STEP = 3.5  # between the marks of two models at the same n
_LABELS = 6  # that fit below a chart
_LEAST_DECADES = 0.8  # of a logarithmic axis: two ticks are in it wherever it begins
_MODEL_MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z", "M-3.6-3.6h7.2v7.2h-7.2Z", "M-4.4 3.6h8.8L0-4.4Z", "M0-5 5 0 0 5-5 0Z",
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """`about` says which way is better. `share`: 0-1, with an interval; else tokens, on a logarithmic axis."""

    name: str
    about: str
    value: Callable[[Row], float]
    form: str
    share: bool = False


@dataclass(frozen=True)
class Mark:
    """`low` and `high` are the ends of the whisker, if there is one."""

    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Line:
    """One model; `path` joins its marks, all in the chart's coordinates."""

    model: str
    colour: str
    shape: str
    path: str
    marks: list[Mark]


@dataclass(frozen=True)
class Chart:
    """One method with one judge; `words` says in full what is drawn."""

    title: str
    lines: list[Line]
    reference: str
    words: str


@dataclass(frozen=True)
class Scaling:
    """The charts of one benchmark by one measure, of methods that ran with several n. Ticks are (place, text)."""

    benchmark: str
    measure: Measure
    charts: list[Chart]
    x_ticks: Ticks
    y_ticks: Ticks


MEASURES = (
    Measure(
        "accuracy", "up is better; whiskers: 95 % intervals over problems", lambda row: row.accuracy, "{:.3f}",
        share=True,
    ),
    Measure(
        "net tokens", "per problem, judge included, on a logarithmic axis; down is cheaper",
        lambda row: row.net_tokens, "{:,.0f}",
    ),
    Measure(
        "longest path", "tokens one after another, on a logarithmic axis; down is sooner", longest_path, "{:,.0f}",
    ),
)  # fmt: skip


def scaling(grid: Grid) -> list[Scaling]:
    """For every benchmark with several n, one per measure."""
    models = list(dict.fromkeys(row.model for view in grid.views for row in view.rows))
    found = [(benchmark, [view for view in grid.of(benchmark) if any(map(_is_shown, view.rows))])
             for benchmark in grid.benchmarks]  # fmt: skip
    return [_scaling(*pair, models, measure) for pair in found if len(pair[1]) > 1 for measure in MEASURES]


def model_mark(model: str, models: Sequence[str]) -> tuple[str, str]:
    """(colour, shape) of a model in every chart."""
    return model_colours(models)[model], _MODEL_MARKS[list(models).index(model) % len(_MODEL_MARKS)]


def is_followed(row: Row) -> bool:
    """Not what nobody would run, nor judges without training: their place is in the table."""
    trained = not prunes(row.method) or JUDGE_KINDS[row.judge_kind].needs_folder
    return can_be_run(row) and trained


def _is_shown(row: Row) -> bool:
    """Nor one trace, which is the same at every n."""
    return is_followed(row) and method_of(row.method).depends_on_n


def _scaling(benchmark: str, views: Sequence[View], models: Sequence[str], measure: Measure) -> Scaling:
    shown = [row for view in views for row in view.rows if _is_shown(row)]
    values = [measure.value(row) for row in shown]
    if measure.share:
        values += [value for row in shown for value in row.accuracy_ci95]
    x_of = _x_axis([view.n for view in views])
    y_ticks, y_of = (_share_axis if measure.share else _log_axis)(values)
    every = math.ceil(len(views) / _LABELS)
    ticks = [(x_of(view.n), f"n = {view.n}" if place == 0 else f"{view.n}") for place, view in enumerate(views)]
    found = sorted(dict.fromkeys((row.method, row.judge) for row in shown), key=_order)
    charts = [_chart(series, views, models, measure, x_of, y_of) for series in found]
    several = [chart for chart in charts if any(len(line.marks) > 1 for line in chart.lines)]
    return Scaling(benchmark, measure, several, ticks[::every], y_ticks)


def _order(series: Series) -> tuple[bool, bool]:
    return series[0] != "consensus", not prunes(series[0])


def _chart(
    series: Series, views: Sequence[View], models: Sequence[str], measure: Measure, x_of: Place, y_of: Place
) -> Chart:
    method, judge = series
    title = method_label(method) + (f" · {judge_label(judge)}" if judge and prunes(method) else "")
    lines = []
    for place, model in enumerate(models):
        rows = [row for view in views for row in view.rows if row.series == (model, method, judge)]
        if rows:
            shift = _STEP * (place - (len(models) - 1) / 2)
            marks = [_mark(row, measure, x_of(row.n) + shift, y_of) for row in rows]
            lines.append(Line(printable(model, 80), *model_mark(model, models), _path(marks), marks))
    base = [find_row(view.rows, models[0], "consensus") for view in views]
    reference = [_mark(row, measure, x_of(row.n), y_of) for row in base if row]
    words = "; ".join(f"{line.model}: {', '.join(mark.label for mark in line.marks)}" for line in lines)
    return Chart(printable(title, 80), lines, _path(reference), f"{printable(title, 80)}, {measure.name}. {words}")


def _mark(row: Row, measure: Measure, x: float, y_of: Place) -> Mark:
    value = measure.value(row)
    low, high = (y_of(end) for end in row.accuracy_ci95) if measure.share else (None, None)
    return Mark(x, y_of(value), low, high, f"{measure.form.format(value)} at n = {row.n}")


def _path(marks: Sequence[Mark]) -> str:
    return "".join(f"{'L' if place else 'M'}{mark.x:.1f} {mark.y:.1f}" for place, mark in enumerate(marks))


def _x_axis(ns: Sequence[int]) -> Place:
    """Logarithmic: each doubling of n is as wide."""
    low, high = math.log2(min(ns)), math.log2(max(ns))
    left, right = _LEFT + 12, WIDTH - _RIGHT - 8
    return lambda n: left + (math.log2(n) - low) / (high - low) * (right - left)


def _y_place(low: float, high: float) -> Place:
    return lambda value: HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def _share_axis(values: Sequence[float]) -> tuple[Ticks, Place]:
    """As far as the values go; at most six ticks."""
    low, high = max(min(values), 0.0), min(max(values), 1.0)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if (high - low) / step <= 4)
    low, high = math.floor(low / step) * step, max(math.ceil(high / step), math.floor(low / step) + 1) * step
    place = _y_place(low, high)
    ticks = [low + step * k for k in range(round((high - low) / step) + 1)]
    return [(place(tick), f"{tick:.2f}") for tick in ticks], place


def _log_axis(values: Sequence[float]) -> tuple[Ticks, Place]:
    low, high = math.log10(max(min(values), 1e-3)), math.log10(max(*values, 1e-3))
    middle, half = (low + high) / 2, max(0.54 * (high - low), _LEAST_DECADES / 2)
    low, high = middle - half, middle + half
    place = _y_place(low, high)
    steps = (1,) if high - low > 2 else (1, 3) if high - low > 1 else (1, 2, 5)
    ticks = [m * 10.0**e for e in range(-3, 12) for m in steps if low <= math.log10(m * 10.0**e) <= high]
    return [(place(math.log10(tick)), _short(tick)) for tick in ticks], lambda v: place(math.log10(max(v, 1e-3)))


def _short(value: float) -> str:
    """A round number in the room of a tick."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
