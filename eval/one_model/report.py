"""summary.json of eval/single.py, as a typed record; and its figures as a table, rows for CSV, and a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.markup import escape
from rich.table import Table

from eval.one_model.figures import (
    MACRO,
    Comparison,
    Graded,
    LengthFigures,
    MacroFigures,
    ModelFigures,
    differences,
    figures_of,
    macro_figures,
)
from eval.one_model.sampling import SingleConfig
from secateur.runtime.console import CsvValue, console, interval_text, plain_table, print_table
from secateur.runtime.files import JSON
from secateur.runtime.pictures import PLOT_STYLE, model_colours, save_png
from secateur.runtime.records import as_json, read_record, write_record
from secateur.runtime.statistics import Bounds
from secateur.tasks.answers.equality import GRADER_VERSION

SUMMARY_FILE = "summary.json"
_FORMAT = 1
Grades = Mapping[str, Mapping[str, Graded]]
"""Model → benchmark → its graded samples."""


@dataclass(frozen=True)
class Summary:
    """`models`: model → benchmark → figures; `macro`: model → means over benchmarks, {} for a single one;
    `differences`: every model but the first → benchmark → its difference to the first."""

    config: Mapping[str, JSON]
    grader: str
    models: Mapping[str, Mapping[str, ModelFigures]]
    macro: Mapping[str, MacroFigures]
    differences: Mapping[str, Mapping[str, Comparison]]


def summarise(config: SingleConfig, graded: Grades) -> Summary:
    ks = config.pass_k or ()
    first, *others = graded
    return Summary(
        config=as_json(asdict(config)),
        grader=GRADER_VERSION,
        models={name: {benchmark: figures_of(part, ks) for benchmark, part in parts.items()}
                for name, parts in graded.items()},
        macro={name: macro_figures(parts) for name, parts in graded.items()} if len(config.benchmarks) > 1 else {},
        differences={name: differences(graded[first], graded[name]) for name in others},
    )  # fmt: skip


def write_summary(folder: str | Path, summary: Summary) -> None:
    """Replace `<folder>/summary.json`."""
    write_record(Path(folder) / SUMMARY_FILE, summary, _FORMAT)


def read_summary(folder: str | Path) -> Summary:
    """Raises `InputError` if there is none, or of another format."""
    return read_record(Path(folder) / SUMMARY_FILE, Summary, _FORMAT, "start eval/single.py again with the same keys")


Figures = Mapping[str, Mapping[str, ModelFigures]]
"""Model → benchmark → figures."""
_COLUMNS = (
    *("benchmark", "n", "pass@1", "95 %", "pass@n", "tokens", "95 %", "median\nright", "median\nwrong"),
    "trun-\ncated",
)
_MARKERS = "osD^vPX*<>ph"
_LOG_FROM = 12.0  # lengths that spread over more than this factor are drawn on a logarithmic axis


def results_table(summary: Summary) -> Table:
    """One line per model and benchmark, and the mean over benchmarks where there are several."""
    table = plain_table("", _COLUMNS)
    for model, benchmarks in summary.models.items():
        table.add_section()
        table.add_row(f"[bold]{escape(model)}[/bold]", *[""] * (len(_COLUMNS) - 1))
        for name, entry in benchmarks.items():
            table.add_row(*_cells(name, entry))
        if model in summary.macro:
            table.add_row(*_macro_cells(summary.macro[model]))
    return table


def _cells(name: str, entry: ModelFigures) -> list[str]:
    return [
        escape(name),
        f"{entry.problems}×{entry.samples}",
        f"{entry.pass_at_1:.3f}",
        interval_text(*entry.pass_at_1_ci95),
        f"{entry.pass_at_k[max(k for k in entry.pass_at_k if k <= entry.samples)]:.3f}",
        f"{entry.mean_tokens:,.0f}",
        interval_text(*entry.mean_tokens_ci95, digits=0),
        _median(entry.length["right"]),
        _median(entry.length["wrong"]),
        f"{entry.truncated_share:.1%}",
    ]


def _macro_cells(mean: MacroFigures) -> list[str]:
    accuracy, interval = f"{mean.pass_at_1:.3f}", interval_text(*mean.pass_at_1_ci95)
    length, bounds = f"{mean.mean_tokens:,.0f}", interval_text(*mean.mean_tokens_ci95, digits=0)
    truncated = f"{mean.truncated_share:.1%}"
    return [f"mean of {mean.benchmarks}", "", accuracy, interval, "", length, bounds, "", "", truncated]


def _median(length: LengthFigures) -> str:
    return f"{length.percentiles[50]:,.0f}" if length.samples else "–"


def show(summary: Summary) -> None:
    """Print the table and the paired differences to the first model."""
    print_table(results_table(summary))
    for model, parts in summary.models.items():
        for benchmark, entry in parts.items():
            if entry.majority is not None and entry.majority_ci95 is not None:
                bounds = interval_text(*entry.majority_ci95)
                line = f" {model}, {benchmark}: majority of {entry.samples} right {entry.majority:.3f} ({bounds})"
                console.print(line, markup=False)
            if words := entry.unanswered.words():
                console.print(f" {model}, {benchmark}: {words}", markup=False)
    first = next(iter(summary.models))
    for model, benchmarks in summary.differences.items():
        for benchmark, found in benchmarks.items():
            name = "mean" if benchmark == MACRO else benchmark
            console.print(f" {model} − {first}, {name}: {_difference(found)}", markup=False)
    console.print(
        "n: problems × samples; pass@n: at least one of a problem's samples is right; truncated: share that ran into "
        "the cap;\nintervals: bootstrap over problems, differences paired; the mean weighs every benchmark the same",
        style="dim",
    )


def _difference(found: Comparison) -> str:
    accuracy = "pass@1 {:+.3f} ({:+.3f} … {:+.3f})".format(*found.pass_at_1)
    tokens = "tokens {:+,.0f} ({:+,.0f} … {:+,.0f})".format(*found.mean_tokens)
    ratio = "" if found.tokens_ratio is None else ", ×{:.3f} ({:.3f}–{:.3f})".format(*found.tokens_ratio)
    return f"{accuracy}, {tokens}{ratio}"


def csv_rows(summary: Summary) -> list[dict[str, CsvValue]]:
    """Flat rows: one per model and benchmark, and one named `macro` per model with several benchmarks."""
    rows: list[dict[str, CsvValue]] = []
    for model, benchmarks in summary.models.items():
        rows += [{"model": model, "benchmark": name} | flat_figures(entry) for name, entry in benchmarks.items()]
        if model in summary.macro:
            mean = summary.macro[model]
            rows.append({"model": model, "benchmark": MACRO, "benchmarks": mean.benchmarks} | _flat_means(mean))
    return rows


def flat_figures(entry: ModelFigures) -> dict[str, CsvValue]:
    """The figures as columns of a CSV."""
    row: dict[str, CsvValue] = {"problems": entry.problems, "samples": entry.samples} | _flat_means(entry)
    for k, value in entry.pass_at_k.items():
        row |= {f"pass_at_{k}": value} | _bounds(f"pass_at_{k}", entry.pass_at_k_ci95[k])
    if entry.majority is not None and entry.majority_ci95 is not None:
        row |= {"majority": entry.majority} | _bounds("majority", entry.majority_ci95)
    for side, length in entry.length.items():
        row |= {f"{side}_samples": length.samples, f"{side}_mean_tokens": length.mean}
        row |= {f"{side}_p{percent}": value for percent, value in length.percentiles.items()}
    return row | {"prompt_tokens": entry.prompt_tokens, "generated_tokens": entry.generated_tokens}


def _flat_means(entry: ModelFigures | MacroFigures) -> dict[str, CsvValue]:
    row: dict[str, CsvValue] = {}
    for key in ("pass_at_1", "mean_tokens", "truncated_share"):
        row |= {key: getattr(entry, key)} | _bounds(key, getattr(entry, f"{key}_ci95"))
    return row


def _bounds(key: str, bounds: Bounds) -> dict[str, CsvValue]:
    return {f"{key}_low": bounds[0], f"{key}_high": bounds[1]}


def draw_lengths(path: Path, graded: Grades, figures: Figures) -> None:
    """A panel per benchmark with the distribution of lengths, and one with accuracy over mean length."""
    benchmarks = list(next(iter(graded.values())))
    columns = min(3, len(benchmarks) + 1)
    rows = math.ceil((len(benchmarks) + 1) / columns)
    colours = model_colours(list(graded))
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(4.3 * columns, 3.1 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name in zip(panels, benchmarks, strict=False):
            _draw_distribution(axes, {model: parts[name] for model, parts in graded.items()}, colours)
            axes.set_title(name)
        _draw_tradeoff(panels[len(benchmarks)], figures, colours)
        for axes in panels[len(benchmarks) + 1 :]:
            axes.set_axis_off()
        handles = [Line2D([], [], color=colour, label=model) for model, colour in colours.items()]
        handles += [
            Line2D([], [], color="#555555", label="right"),
            Line2D([], [], color="#555555", ls=":", label="wrong"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * columns))
        save_png(figure, path)


def _draw_distribution(axes: Axes, models: Mapping[str, Graded], colours: Mapping[str, str]) -> None:
    lengths: list[int] = []
    for model, graded in models.items():
        for right, line in ((True, "-"), (False, ":")):
            found = sorted(length for group in graded.lengths_of(right) for length in group)
            if found:
                axes.ecdf(found, color=colours[model], linestyle=line, linewidth=1.7)
            lengths += found
    use_token_axis(axes, lengths)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("tokens of a sample")
    axes.set_ylabel("share of samples up to that length")


def use_token_axis(axes: Axes, lengths: Sequence[float]) -> None:
    """An x axis of tokens, logarithmic with ticks at 1, 2 and 5 where the lengths spread widely."""
    if max(lengths) > _LOG_FROM * max(1, min(lengths)):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(axis="x", labelsize=8)


def _draw_tradeoff(axes: Axes, figures: Figures, colours: Mapping[str, str]) -> None:
    """Every model and benchmark as a point with its intervals; lines join a benchmark's points."""
    benchmarks = list(next(iter(figures.values())))
    for index, name in enumerate(benchmarks):
        entries = {model: parts[name] for model, parts in figures.items()}
        places = [(entry.mean_tokens, entry.pass_at_1) for entry in entries.values()]
        axes.plot(*zip(*places, strict=True), color="#bbbbbb", linewidth=1, zorder=1)
        for model, entry in entries.items():
            draw_point(axes, entry, colours[model], _MARKERS[index % len(_MARKERS)])
    use_token_axis(axes, [entry.mean_tokens for parts in figures.values() for entry in parts.values()])
    if len(benchmarks) > 1:
        signs = zip(benchmarks, _MARKERS * len(benchmarks), strict=False)
        axes.legend(handles=[Line2D([], [], color="#777777", ls="", marker=sign, label=name) for name, sign in signs])
    axes.margins(x=0.12, y=0.12)
    axes.set_title("accuracy and length, 95 % intervals")
    axes.set_xlabel("mean tokens of a sample")
    axes.set_ylabel("pass@1")


def draw_point(axes: Axes, entry: ModelFigures, colour: str, marker: str, size: float = 6) -> None:
    """One model on one benchmark, with both intervals."""
    axes.errorbar(
        [entry.mean_tokens],
        [entry.pass_at_1],
        xerr=_error(entry.mean_tokens, entry.mean_tokens_ci95),
        yerr=_error(entry.pass_at_1, entry.pass_at_1_ci95),
        color=colour,
        marker=marker,
        markersize=size,
        elinewidth=1,
        capsize=2,
        zorder=2,
    )


def _error(value: float, bounds: Sequence[float]) -> list[list[float]]:
    """matplotlib's form; rounding may put a bound on the wrong side of its value."""
    return [[max(0.0, value - bounds[0])], [max(0.0, bounds[1] - value)]]
