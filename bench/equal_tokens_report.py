"""What bench/equal_tokens.py found, as records, tables, Markdown and a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from rich import box
from rich.table import Table

from secateur.runtime.console import print_table, say
from secateur.runtime.files import write_json, write_text
from secateur.runtime.pictures import PLOT_STYLE, save_png
from secateur.runtime.records import as_json
from secateur.runtime.statistics import Bounds

# Okabe & Ito: told apart by people with any common colour blindness.
_COLOURS = ("#d55e00", "#e69f00", "#cc79a7", "#999933", "#0072b2", "#009e73", "#56b4e9", "#000000")
_DODGE = 0.035  # octaves between the methods' intervals
_WIDTH = 128


@dataclass(frozen=True)
class MethodFigures:
    """A method at one n, a mean: accuracy (0-1), net tokens per problem, finished traces, and what consensus over the
    full traces comes to that the same net tokens buy."""

    accuracy: float
    net_tokens: float
    finished: float
    equal_accuracy: float
    equal_traces: float


@dataclass(frozen=True, kw_only=True)
class BenchRow(MethodFigures):
    """A method on one mix at one n, beside the consensus of all n. `difference` in accuracy to `equal_accuracy`,
    paired by problem; `net_share`: net tokens as a share of those of all n."""

    mix: str
    n: int
    consensus: float
    method: str
    difference: float
    ci95: Bounds
    net_share: float


@dataclass(frozen=True)
class Mix:
    """How many problems weigh anything, and over them the accuracy of the majority of all stored traces and the share
    of these that are right (0-1)."""

    problems: int
    majority_of_all: float
    right_share: float


@dataclass(frozen=True)
class BenchResult:
    """All of equal_tokens.json. `stored`: traces per problem; `draws`: subsets of them per problem and n; `votes`:
    draws of the control; `note`: what the figures were made with."""

    rows: tuple[BenchRow, ...]
    mixes: Mapping[str, Mix]
    model: str
    judge: str
    stored: int
    problems: int
    sizes: tuple[int, ...]
    draws: int
    votes: int
    note: str

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(row.method for row in self.rows))

    def of_mix(self, mix: str) -> list[BenchRow]:
        return [row for row in self.rows if row.mix == mix]


def write_report(result: BenchResult, folder: Path) -> None:
    """equal_tokens.json, .md and .png into `folder`, and the tables to the console."""
    write_json(folder / "equal_tokens.json", as_json(result))
    write_text(folder / "equal_tokens.md", _markdown(result))
    _plot(result, folder / "equal_tokens.png")
    for mix in result.mixes:
        print_table(_table(result, mix), _WIDTH)
    say(f"results: {folder / 'equal_tokens.json'}, equal_tokens.md, equal_tokens.png")


def _points(row: BenchRow) -> str:
    """Percentage points, with the interval."""
    value, low, high = (round(100 * number, 1) + 0.0 for number in (row.difference, *row.ci95))  # no "-0.0"
    return f"{value:+.1f} ({low:+.1f} … {high:+.1f})"


def _share(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def _title(result: BenchResult, mix: str) -> str:
    about = result.mixes[mix]
    return (
        f"{mix}: {about.problems} problems, {about.right_share:.2f} of the traces right, "
        f"majority of all {about.majority_of_all:.3f}"
    )


def _table(result: BenchResult, mix: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title_justify="left")
    table.title = f"{_title(result, mix)}; difference in points, accuracy at share of the tokens"
    table.add_column("", no_wrap=True)
    found = result.of_mix(mix)
    for n in result.sizes:
        consensus_of_n = next(row.consensus for row in found if row.n == n)
        table.add_column(f"n = {n}\nall n {consensus_of_n:.3f}", no_wrap=True)
    for name in result.names:
        rows = [row for row in found if row.method == name]
        cells = (f"{row.accuracy:.3f} at {_share(row.net_share)}" for row in rows)
        points = (_points(row).replace(" … ", "…").replace(" ", "\n") for row in rows)
        table.add_row(name, *map("\n".join, zip(points, cells, strict=True)))
    return table


def _markdown(result: BenchResult) -> str:
    lines = [
        "# DeepPrune against consensus over full traces for the same tokens",
        "",
        f"`python bench/equal_tokens.py`: {result.problems} problems, {result.stored} stored traces of each, "
        f"model `{result.model}`, judge `{result.judge}`; {result.draws} random subsets per problem and n "
        "(beyond n = 64 fewer, at least 2, for methods that read all n cuts).",
        *(["", result.note] if result.note else []),
        "",
        "Net tokens count everything, the judge's work as tokens of the generator. *Difference*: accuracy minus that "
        "of consensus over as many full traces as the method's net tokens buy, in percentage points, paired by "
        "problem, with its 95 % bootstrap interval over problems. *Tokens*: net, as a share of those of all n; "
        "*full traces* is what they buy. Mixes weigh problems by the share of their stored traces that are right: "
        "contested is below 0.6, half contested gives such problems half of the weight.",
        "",
        "![difference and tokens over n](equal_tokens.png)",
    ]
    for mix in result.mixes:
        lines += ["", f"## {_title(result, mix).capitalize()}", "", *_markdown_table(result, mix)]
    return "\n".join(lines) + "\n"


def _markdown_table(result: BenchResult, mix: str) -> list[str]:
    lines = [
        "| n | consensus of n | method | accuracy | full traces, their accuracy | difference | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result.of_mix(mix):
        cells = (
            f"{row.n}",
            f"{row.consensus:.3f}",
            row.method,
            f"{row.accuracy:.3f}",
            f"{row.equal_traces:.1f}, {row.equal_accuracy:.3f}",
            _points(row),
            _share(row.net_share),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _plot(result: BenchResult, path: Path) -> None:
    mixes = list(result.mixes)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(3.7 * len(mixes), 7.2), layout="constrained")
        grid = figure.subplots(2, len(mixes), sharex=True, sharey="row", squeeze=False)
        for mix, upper, lower in zip(mixes, *grid, strict=True):
            _draw_mix(result, mix, upper, lower)
        grid[0, 0].set_ylabel("accuracy − that of full traces\nfor the same tokens [points]")
        grid[1, 0].set_ylabel("net tokens ÷ tokens of all n")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), ncols=4, fontsize=9, loc="outside lower center")
        save_png(figure, path, dpi=110)


def _draw_mix(result: BenchResult, mix: str, upper: Axes, lower: Axes) -> None:
    names, sizes = result.names, result.sizes
    for index, (name, colour) in enumerate(zip(names, _COLOURS, strict=True)):
        rows = [row for row in result.of_mix(mix) if row.method == name]
        style = {"color": colour, "marker": "o", "markersize": 3.5, "linewidth": 1.5, "label": name}
        if index == len(names) - 1:
            style |= {"linestyle": (0, (4, 2)), "marker": "s"}
        values, low, high = 100 * np.array([(row.difference, *row.ci95) for row in rows]).T
        beside = np.array(sizes) * 2.0 ** (_DODGE * (index - (len(names) - 1) / 2))
        errors = [np.maximum(values - low, 0), np.maximum(high - values, 0)]
        upper.errorbar(beside, values, yerr=errors, elinewidth=0.8, **style)
        lower.plot(sizes, [row.net_share for row in rows], **style)
    upper.axhline(0, color="#777777", linewidth=1)
    about = result.mixes[mix]
    upper.set_title(f"{mix} ({about.problems} problems)\nmajority of all {about.majority_of_all:.3f}", loc="left")
    lower.set_yscale("log")
    lower.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    for axes in (upper, lower):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
    lower.set_xlabel("n, parallel traces")
