"""Curves of budget forcing: accuracy over tokens as a table, CSV and a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.markup import escape

from eval.one_model.figures import ModelFigures
from eval.one_model.report import draw_point, flat_figures, use_token_axis
from eval.studies.common import interval_text, model_colours, plain_table, print_table, save_png
from secateur.runtime.console import console
from secateur.runtime.pictures import PLOT_STYLE
from secateur.runtime.statistics import Interval


@dataclass(frozen=True)
class PointFigures:
    """One model on one benchmark at one budget [tokens], None where nothing is forced.

    `forced_share` (0-1) of the traces, with its 95 % interval over problems, were still thinking at the budget;
    `injected_tokens` is the sum over all traces of what was put behind their thinking. The lengths in `figures` count
    it, as the whole output; it was read as a prompt, not generated.
    """

    budget: int | None
    figures: ModelFigures
    forced_share: Interval
    injected_tokens: int

    @property
    def label(self) -> str:
        return "none" if self.budget is None else f"{self.budget:,}"

    def to_json(self) -> dict[str, Any]:
        share = {"forced_share": self.forced_share[0], "forced_share_ci95": self.forced_share[1:]}
        generated = self.figures.generated_tokens - self.injected_tokens
        tokens = {"generated_tokens": generated, "injected_tokens": self.injected_tokens}
        return {"budget": self.budget} | asdict(self.figures) | share | tokens


Curves = Mapping[str, Mapping[str, Sequence[PointFigures]]]


def csv_rows(curves: Curves) -> list[dict[str, Any]]:
    """One row per model, benchmark and budget."""
    return [
        {"model": model, "benchmark": name, "budget": point.label.replace(",", "")}
        | {"forced_share": point.forced_share[0], "injected_tokens": point.injected_tokens}
        | flat_figures(point.figures)
        | {"generated_tokens": point.figures.generated_tokens - point.injected_tokens}
        for model, parts in curves.items()
        for name, points in parts.items()
        for point in points
    ]


def show(curves: Curves) -> None:
    table = plain_table("", ("model, benchmark", "budget", "forced", "pass@1", "95 %", "tokens", "95 %", "cut"))
    for model, parts in curves.items():
        for name, points in parts.items():
            table.add_section()
            table.add_row(f"[bold]{escape(model)}[/bold], {escape(name)}", *[""] * 7)
            for point in points:
                entry = point.figures
                table.add_row(
                    "",
                    point.label,
                    f"{point.forced_share[0]:.1%}",
                    f"{entry.pass_at_1:.3f}",
                    interval_text(*entry.pass_at_1_ci95),
                    f"{entry.mean_tokens:,.0f}",
                    interval_text(*entry.mean_tokens_ci95, digits=0),
                    f"{entry.truncated_share:.1%}",
                )
    print_table(table)
    console.print(
        "budget: tokens after which thinking ends by force; tokens: mean of the whole output, the injected string\n"
        "included; cut: share that ran into the cap on the answer, or on the whole where nothing was forced",
        style="dim",
    )


def draw(curves: Curves, path: Path) -> None:
    """A panel per benchmark: accuracy over mean tokens, a curve over the budgets per model, its unforced point
    large."""
    benchmarks = list(next(iter(curves.values())))
    colours = model_colours(list(curves))
    with matplotlib.rc_context(PLOT_STYLE):
        columns = min(3, len(benchmarks))
        rows = -(-len(benchmarks) // columns)
        figure = Figure(figsize=(max(6.0, 4.4 * columns), 3.6 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name in zip(panels, benchmarks, strict=False):
            _draw_curves(axes, {model: parts[name] for model, parts in curves.items()}, colours)
            axes.set_title(name)
        for axes in panels[len(benchmarks) :]:
            axes.set_axis_off()
        handles = [Line2D([], [], color=colour, label=model) for model, colour in colours.items()]
        handles.append(
            Line2D([], [], color="#555555", marker="o", markersize=4, label="forced at the budget beside it")
        )
        handles.append(Line2D([], [], color="#555555", marker="D", markersize=8, ls="", label="unforced"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        save_png(figure, path)


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[PointFigures]], colours: Mapping[str, str]) -> None:
    for number, (model, points) in enumerate(curves.items()):
        places = [(point.figures.mean_tokens, point.figures.pass_at_1) for point in points]
        axes.plot(*zip(*places, strict=True), color=colours[model], linewidth=1.3, alpha=0.6, zorder=1)
        for point, place in zip(points, places, strict=True):
            unforced = point.budget is None
            draw_point(axes, point.figures, colours[model], "D" if unforced else "o", 8 if unforced else 4)
            if point.forced_share[0] > 0:
                offset = (5, -10) if number % 2 == 0 else (-5, 6)
                side = "left" if number % 2 == 0 else "right"
                axes.annotate(
                    point.label,
                    place,
                    xytext=offset,
                    textcoords="offset points",
                    fontsize=7,
                    ha=side,
                    color=colours[model],
                )
    use_token_axis(axes, [point.figures.mean_tokens for points in curves.values() for point in points])
    axes.margins(x=0.08, y=0.1)
    axes.set_xlabel("mean tokens of a sample, thinking and answer")
    axes.set_ylabel("pass@1")
