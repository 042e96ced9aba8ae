"""The pictures of an evaluation for services that show no page: the frontier, and what more traces buy.

Colours are the models', marks the methods'; rows are chosen as in the report's own figures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from deepprune.judges.untrained import UNTRAINED
from eval.analysis import model_colours, save_png
from eval.report_frontier import NOT_METHODS, on_frontier, row_label
from eval.report_scaling import net_tokens
from eval.report_views import View, grid_of
from eval.rules import PUBLISHED
from runtime.plot_style import PLOT_STYLE

Row = Mapping[str, Any]
_MARKS = "osD^v<>PXhp*"
_SIZE = (7.5, 4.6)  # inches
_LABELLED = 90  # characters of a name in a legend


def draw_figures(combined: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Name in the service → PNG in `folder`: `frontier` at the largest n and, with several n, `scaling`; for every
    benchmark where there are several."""
    grid, pictures = grid_of(combined["rows"]), {}
    styles = _Styles(combined["rows"])
    with matplotlib.rc_context(PLOT_STYLE):
        for number, benchmark in enumerate(grid.benchmarks):
            views, last = grid.of(benchmark), f"/{benchmark}" if grid.several_benchmarks else ""
            figures = {"frontier": _frontier(views[-1], styles)}
            if len(views) > 1:
                figures["scaling"] = _scaling(views, styles)
            for name, figure in figures.items():
                pictures[f"{name}{last}"] = folder / f"{name}-{number}.png"
                save_png(figure, pictures[f"{name}{last}"])
    return pictures


class _Styles:
    """Colour and mark of each row, the same in all figures."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._colours = model_colours(list(dict.fromkeys(row["model"] for row in rows)))
        self._methods = list(dict.fromkeys((row["method"], row["judge"]) for row in rows if _is_shown(row)))

    def of(self, row: Row) -> dict[str, Any]:
        place = self._methods.index((row["method"], row["judge"]))
        return {"color": self._colours[row["model"]], "marker": _MARKS[place % len(_MARKS)], "label": _label(row)}


def _is_shown(row: Row) -> bool:
    chance = row["judge"] in UNTRAINED and row["method"].startswith(PUBLISHED)
    return row["method"] not in NOT_METHODS and not chance


def _label(row: Row) -> str:
    label = row_label(row)
    return label if len(label) <= _LABELLED else f"{label[: _LABELLED - 1]}…"


def _frontier(view: View, styles: _Styles) -> Figure:
    """Accuracy with its interval against the net cost, in per cent of the base model's vote of all n."""
    figure, axes = _figure(1)
    for row in filter(_is_shown, view.rows):
        low, high = row["accuracy_ci95"]
        error = [[max(row["accuracy"] - low, 0)], [max(high - row["accuracy"], 0)]]
        axes[0].errorbar(_cost(row), row["accuracy"], error, linestyle="none", elinewidth=0.8, **styles.of(row))
    best = on_frontier([row for row in view.rows if _is_shown(row)])
    axes[0].plot(
        [_cost(row) for row in best], [row["accuracy"] for row in best], color="#444444", linewidth=1, zorder=0
    )
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} %"))
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].set(xlabel="net cost, of the base model's vote of all n", ylabel="accuracy")
    figure.suptitle(_title(view, f"n = {view.n}"), fontsize=9)
    _legend(figure, axes[0])
    return figure


def _scaling(views: Sequence[View], styles: _Styles) -> Figure:
    """Accuracy and net tokens over n of the base model's vote and of all that is on the frontier at some n."""
    figure, axes = _figure(2)
    for name in _worth_following(views):
        found = [(view, row) for view in views for row in view.rows if _series(row) == name]
        ns, style = [view.n for view, _ in found], styles.of(found[0][1])
        axes[0].plot(ns, [row["accuracy"] for _, row in found], linewidth=1.2, **style)
        axes[1].plot(ns, [net_tokens(row, view) for view, row in found], linewidth=1.2, **style)
    for one, label in zip(axes, ("accuracy", "net tokens per problem"), strict=True):
        one.set_xscale("log", base=2)
        one.set_xticks([view.n for view in views], [str(view.n) for view in views])
        one.set(xlabel="traces per problem (n)", ylabel=label)
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    figure.suptitle(_title(views[-1], "over n"), fontsize=9)
    _legend(figure, axes[0])
    return figure


def _worth_following(views: Sequence[View]) -> list[tuple[Any, ...]]:
    votes = [row for view in views for row in view.rows if row["method"] == "consensus"]
    best = [row for view in views for row in on_frontier([row for row in view.rows if _is_shown(row)])]
    return list(dict.fromkeys(_series(row) for row in (*votes, *best)))


def _series(row: Row) -> tuple[Any, ...]:
    return row["model"], row["method"], row["judge"]


def _cost(row: Row) -> float:
    """Per cent; what costs next to nothing still has a place on a logarithmic axis."""
    return max(100 * (1 - row["saving_net"]), 1e-3)


def _title(view: View, what: str) -> str:
    name = f"{view.benchmark}: " if view.benchmark else ""
    return f"{name}{view.problems} problems, {what}"


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
