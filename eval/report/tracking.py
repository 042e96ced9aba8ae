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
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.markup import escape

from eval.report.frontier import NOT_METHODS, on_frontier, row_label
from eval.report.scaling import net_tokens
from eval.report.views import View, grid_of
from eval.table.csv import flat_row, flat_table
from eval.table.rules import PUBLISHED
from secateur.deepprune.judges.registry import UNTRAINED
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.pictures import PLOT_STYLE, model_colours, save_png
from secateur.runtime.tensorboard import FOLDER, write_tensorboard
from secateur.runtime.tracking import (
    Artifact,
    Publication,
    check_services,
    home_of,
    last_published,
    publish,
    reporters,
    run_id,
    schedule_of,
    usable_report_to,
)

if TYPE_CHECKING:
    from eval.table.config import CombinedConfig

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


Row = Mapping[str, Any]
KIND = "evaluation"
STEP = "n"
HEADLINES = (
    *("accuracy", "saving_net", "saving_gross", "net_tokens"),
    *("tokens_generated", "tokens_longest_trace", "wall_s"),
)
_LARGEST_PAGE = 10_000_000  # bytes; W&B shows a page as a whole. A larger report is in the artifact only
_RESULTS = ("rows", "differences", "recommendation", "recommendations", "live", "live_equals_replay")
_FILES = ("combined.json", "combined.csv", "report.html")


def check_tracking(report_to: str | Sequence[str], tracking_group: str | None) -> None:
    """Raise `InputError` for a service that is unknown or not installed, or a schedule that is not there."""
    check_services(report_to)
    if tracking_group is None:
        return
    if not reporters(report_to):
        raise InputError(f"key 'tracking_group' has the value '{tracking_group}', but 'report_to' is none")
    if not Path(tracking_group).is_dir():
        raise InputError(
            f"key 'tracking_group' has the value '{tracking_group}': no such folder; name a schedule's run folder"
        )


def publish_combined(config: "CombinedConfig", combined: Mapping[str, Any], folder: Path) -> None:
    """Send `combined`, and its files in `folder`, to the services of `report_to`. A failure of one is said and ends
    nothing; for W&B, the next start of the same command tries again."""
    services = usable_report_to(config.report_to)
    version = result_digest(combined)
    if "wandb" in services and last_published(folder) == version:
        services.remove("wandb")
        say("W&B: this result is logged already")
    if not services:
        return
    with tempfile.TemporaryDirectory() as scratch:
        content = combined_publication(combined, folder, draw_figures(combined, Path(scratch)))
        if "tensorboard" in services:
            write_tensorboard(folder / FOLDER, [content], STEP)
            say(f"TensorBoard: {escape(str(folder / FOLDER))}")
        if "wandb" in services:
            run_folder = Path(config.tracking_group) if config.tracking_group else None
            home = home_of(config.models.values(), folder, run_folder)
            about = {**combined["config"], "schedules": _schedules(config.models)}
            content = replace(content, artifact=_artifact(combined, folder, content.summary))
            publish(folder, {version: content}, about, kind=KIND, step=STEP, home=home)


def result_digest(combined: Mapping[str, Any]) -> str:
    """The same for the same results, whatever the folder is called and the versions of the packages are."""
    results = {key: combined[key] for key in _RESULTS if key in combined}
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


def combined_publication(combined: Mapping[str, Any], folder: Path, pictures: Mapping[str, Path]) -> Publication:
    """All that is logged of a result besides its files; the numbers that come last are those of the largest n."""
    *curve, numbers = headline_curve(combined["rows"])
    differences = [
        {("difference_ci95" if key == "ci95" else key): value for key, value in entry.items()}
        for entry in combined["differences"]
    ]
    report = folder / "report.html"
    small = report.is_file() and report.stat().st_size <= _LARGEST_PAGE
    return Publication(
        numbers=numbers,
        curve=curve,
        tables={"results": flat_table(combined["rows"]), "differences": flat_table(differences)},
        pictures=pictures,
        summary=recommended(combined),
        pages={"report": report} if small else {},
    )


def headline_curve(rows: Sequence[Row]) -> list[dict[str, float]]:
    """The headline numbers of all rows, one dict per n from the smallest on, by `<column>/<row>`."""
    curve = []
    for n in sorted({row["n"] for row in rows}):
        numbers: dict[str, float] = {STEP: n}
        for row in (row for row in rows if row["n"] == n):
            flat, name = flat_row(row), series_name(row)
            columns = [column for column in (*HEADLINES, *_costs(flat)) if flat.get(column) is not None]
            numbers |= {f"{column}/{name}": flat[column] for column in columns}
        curve.append(numbers)
    return curve


def series_name(row: Row) -> str:
    """The id of a row without its n, with no character that a service would replace.

    >>> series_name({"id": "aime24:R1 1.5B/deepprune/linear/n=8", "n": 8})
    'aime24/R1_1.5B/deepprune/linear'
    """
    name = str(row["id"]).removesuffix(f"/n={row['n']}").replace(":", "/", 1)
    return re.sub(r"[^-/\w.]", "_", name)


def recommended(combined: Mapping[str, Any]) -> dict[str, Any]:
    """What is recommended, in words and by its numbers; by benchmark where there are several."""
    entries = combined.get("recommendations") or [combined["recommendation"]]
    rows = {row["id"]: row for row in combined["rows"]}
    summary: dict[str, Any] = {}
    for entry in filter(None, entries):
        prefix = f"recommendation/{entry['benchmark']}" if len(entries) > 1 else "recommendation"
        summary[prefix] = "\n".join(entry.get("words", []))
        row = rows.get(entry.get("overall"))
        if row is not None:
            summary[f"{prefix}/method"] = row["id"]
            summary |= {f"{prefix}/{column}": row[column] for column in ("accuracy", "saving_net")}
    return summary


def _costs(flat: Row) -> list[str]:
    return [column for column in flat if column.startswith("cost_per_")]


def _schedules(models: Mapping[str, str]) -> dict[str, str]:
    """Model → the W&B group of the schedule that made it."""
    found = {name: schedule_of(path) for name, path in models.items()}
    return {name: home_of([], run).group for name, run in found.items() if run is not None}


def _artifact(combined: Mapping[str, Any], folder: Path, summary: Mapping[str, Any]) -> Artifact:
    """The files of the result; each evaluation has versions of its own."""
    name = re.sub(r"[^-\w.]", "_", folder.resolve().name[:60], flags=re.ASCII)
    files = [folder / file for file in _FILES if (folder / file).is_file()]
    about = {**summary, "settings": combined["settings"], "versions": combined["versions"]}
    return Artifact(f"{name}-{run_id(folder, KIND)}", KIND, files, about)
