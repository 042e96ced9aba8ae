"""What eval/combined.py puts into W&B and TensorBoard: the tables, the figures, what is recommended, the report.

In W&B an evaluation is one run (`job_type: evaluation`) in the group of the schedule whose final model it measures.
Started again, it goes on in the same run (`wandb.json` in its folder): nothing is logged twice, a changed result is
logged as a new version. Both services have the same names: `accuracy/<row>`, `saving_net/<row>` and so on, drawn over
n, where `<row>` is the id of the row.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.markup import escape

from eval.report.frontier import net_cost_percent, on_frontier
from eval.report.scaling import is_followed
from eval.report.views import View, grid_of
from eval.table.config import CombinedConfig
from eval.table.labels import row_label
from secateur.results import TABLE_FILE, Difference, Row, Table, Value, flat_row, flat_table
from secateur.runtime.console import say
from secateur.runtime.files import JSON
from secateur.runtime.pictures import PLOT_STYLE, model_colours, save_png
from secateur.runtime.records import as_json
from secateur.runtime.tensorboard import FOLDER, write_tensorboard
from secateur.runtime.tracking import (
    Artifact,
    Publication,
    home_of,
    last_published,
    publish,
    run_id,
    schedule_of,
    usable_report_to,
)

KIND = "evaluation"
STEP = "n"
HEADLINES = (
    *("accuracy", "saving_net", "saving_gross", "net_tokens"),
    *("tokens_generated", "tokens_longest_path", "wall_s"),
)
"""Columns of combined.csv that are drawn over n; costs join them."""
_LARGEST_PAGE = 10_000_000  # bytes; W&B shows a page at once. A larger report is in the artifact only
_FILES = (TABLE_FILE, "combined.csv", "report.html")
_MARKS = "osD^v<>PXhp*"
_SIZE = (7.5, 4.6)  # inches
_LABELLED = 90  # characters of a name in a legend
Columns = tuple[list[str], list[list[Value]]]


def publish_table(config: CombinedConfig, table: Table, folder: Path) -> None:
    """Send `table`, and its files in `folder`, to the services of `report_to`. A failure of one is said and ends
    nothing; for W&B, the next start of the same command tries again."""
    services = usable_report_to(config.report_to)
    version = result_digest(table)
    if "wandb" in services and last_published(folder) == version:
        services.remove("wandb")
        say("W&B: this result is logged already")
    if not services:
        return
    with tempfile.TemporaryDirectory() as scratch:
        content = publication(table, folder, draw_figures(table.rows, Path(scratch)))
        if "tensorboard" in services:
            write_tensorboard(folder / FOLDER, [content], STEP)
            say(f"TensorBoard: {escape(str(folder / FOLDER))}")
        if "wandb" in services:
            _publish_to_wandb(config, table, folder, version, content)


def _publish_to_wandb(config: CombinedConfig, table: Table, folder: Path, version: str, content: Publication) -> None:
    run_folder = Path(config.tracking_group) if config.tracking_group else None
    home = home_of(config.models.values(), folder, run_folder)
    about = {**table.config, "schedules": _schedules(config.models)}
    content = replace(content, artifact=_artifact(table, folder, content.summary))
    publish(folder, {version: content}, about, kind=KIND, step=STEP, home=home)


def result_digest(table: Table) -> str:
    """The same for the same results, whatever the folder is called and the versions of the packages are."""
    results = (table.rows, table.differences, table.recommendations, table.live, table.live_equals_replay)
    return hashlib.sha256(json.dumps(as_json(results), sort_keys=True).encode()).hexdigest()[:16]


def publication(table: Table, folder: Path, pictures: Mapping[str, Path]) -> Publication:
    """All that is logged of a result besides its files; the numbers that come last are those of the largest n."""
    *curve, numbers = headline_curve(table.rows)
    report = folder / "report.html"
    small = report.is_file() and report.stat().st_size <= _LARGEST_PAGE
    return Publication(
        numbers=numbers,
        curve=curve,
        tables={"results": flat_table(table.rows), "differences": differences_table(table.differences)},
        pictures=pictures,
        summary=recommended(table),
        pages={"report": report} if small else {},
    )


def differences_table(found: Sequence[Difference]) -> Columns:
    """Columns, and one list of values per difference, what is compared first."""
    flat = [flat_row({_COLUMN.get(key, key): value for key, value in as_json(one).items()}) for one in found]
    return list(flat[0]) if flat else [], [list(row.values()) for row in flat]


_COLUMN = {"ci95": "difference_ci95"}


def headline_curve(rows: Sequence[Row]) -> list[dict[str, float]]:
    """The headline numbers of all rows, one dict per n from the smallest on, by `<column>/<row>`."""
    curve = []
    for n in sorted({row.n for row in rows}):
        numbers: dict[str, float] = {STEP: n}
        for row in (row for row in rows if row.n == n):
            flat, name = flat_row(as_json(row)), series_name(row)
            columns = [*HEADLINES, *(column for column in flat if column.startswith("cost_per_"))]
            numbers |= {f"{column}/{name}": flat[column] for column in columns if flat[column] is not None}
        curve.append(numbers)
    return curve


def series_name(row: Row) -> str:
    """The id of a row without its n, with no character that a service would replace: the row
    "aime24:R1 1.5B/deepprune/linear/n=8" is `aime24/R1_1.5B/deepprune/linear`."""
    name = row.id.removesuffix(f"/n={row.n}").replace(":", "/", 1)
    return re.sub(r"[^-/\w.]", "_", name)


def recommended(table: Table) -> dict[str, str | float]:
    """What is recommended, in words and by its numbers; by benchmark where there are several."""
    summary: dict[str, str | float] = {}
    for advice in table.recommendations:
        several = len(table.recommendations) > 1
        prefix = f"recommendation/{advice.benchmark}" if several else "recommendation"
        summary[prefix] = "\n".join(advice.words)
        row = table.row(advice.overall)
        if row is not None:
            summary |= {f"{prefix}/method": row.id, f"{prefix}/accuracy": row.accuracy}
            summary[f"{prefix}/saving_net"] = row.saving_net
    return summary


def _schedules(models: Mapping[str, str]) -> dict[str, str]:
    """Model → the W&B group of the schedule that made it."""
    found = {name: schedule_of(path) for name, path in models.items()}
    return {name: home_of([], run).group for name, run in found.items() if run is not None}


def _artifact(table: Table, folder: Path, summary: Mapping[str, JSON]) -> Artifact:
    """The files of the result; each evaluation has versions of its own."""
    name = re.sub(r"[^-\w.]", "_", folder.resolve().name[:60], flags=re.ASCII)
    files = [folder / file for file in _FILES if (folder / file).is_file()]
    about = {**summary, "settings": table.settings, "versions": table.versions}
    return Artifact(f"{name}-{run_id(folder, KIND)}", KIND, files, about)


def draw_figures(rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """Name in the service → PNG in `folder`: `frontier` at the largest n and, with several n, `scaling`; for every
    benchmark where there are several."""
    grid, styles, pictures = grid_of(rows), _Styles(rows), {}
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


class _Style(TypedDict):
    color: str
    marker: str
    label: str


class _Styles:
    """Colour and mark of each row, the same in all figures."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._colours = model_colours(list(dict.fromkeys(row.model for row in rows)))
        self._methods = list(dict.fromkeys((row.method, row.judge) for row in rows if is_followed(row)))

    def of(self, row: Row) -> _Style:
        place = self._methods.index((row.method, row.judge))
        return _Style(color=self._colours[row.model], marker=_MARKS[place % len(_MARKS)], label=_label(row))


def _label(row: Row) -> str:
    label = row_label(row)
    return label if len(label) <= _LABELLED else f"{label[: _LABELLED - 1]}…"


def _frontier(view: View, styles: _Styles) -> Figure:
    """Accuracy with its interval against the net cost, in per cent of that of the base model's consensus."""
    figure, axes = _figure(1)
    shown = [row for row in view.rows if is_followed(row)]
    for row in shown:
        low, high = row.accuracy_ci95
        error = [[max(row.accuracy - low, 0)], [max(high - row.accuracy, 0)]]
        style = styles.of(row)
        axes[0].errorbar(net_cost_percent(row), row.accuracy, error, linestyle="none", elinewidth=0.8, **style)
    best = on_frontier(shown)
    places = [net_cost_percent(row) for row in best], [row.accuracy for row in best]
    axes[0].plot(*places, color="#444444", linewidth=1, zorder=0)
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} %"))
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].set(xlabel="net cost, of that of the base model's consensus", ylabel="accuracy")
    figure.suptitle(_title(view, f"n = {view.n}"), fontsize=9)
    _legend(figure, axes[0])
    return figure


def _scaling(views: Sequence[View], styles: _Styles) -> Figure:
    """Accuracy and net tokens over n of the consensus and of all that is on the frontier at some n."""
    figure, axes = _figure(2)
    for series in _worth_following(views):
        found = [row for view in views for row in view.rows if row.series == series]
        ns, style = [row.n for row in found], styles.of(found[0])
        axes[0].plot(ns, [row.accuracy for row in found], linewidth=1.2, **style)
        axes[1].plot(ns, [row.net_tokens for row in found], linewidth=1.2, **style)
    for one, label in zip(axes, ("accuracy", "net tokens per problem"), strict=True):
        one.set_xscale("log", base=2)
        one.set_xticks([view.n for view in views], [str(view.n) for view in views])
        one.set(xlabel="traces per problem (n)", ylabel=label)
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    figure.suptitle(_title(views[-1], "over n"), fontsize=9)
    _legend(figure, axes[0])
    return figure


def _worth_following(views: Sequence[View]) -> list[tuple[str, str, str | None]]:
    consensus = [row for view in views for row in view.rows if row.method == "consensus"]
    best = [row for view in views for row in on_frontier([row for row in view.rows if is_followed(row)])]
    return list(dict.fromkeys(row.series for row in (*consensus, *best)))


def _title(view: View, what: str) -> str:
    return f"{view.benchmark}: {view.problems} problems, {what}"


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
