"""What bench/judge_scaling.py found, as records, a table, Markdown and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich import box
from rich.table import Table

from secateur.runtime.console import print_table, say
from secateur.runtime.files import write_json, write_text
from secateur.runtime.pictures import PLOT_STYLE, save_png
from secateur.runtime.records import as_json

GOAL = 0.02  # share of the traces' tokens that own states may cost
_COLUMNS = ("judge ÷ traces", "range", "judge ÷ cuts", "saved gross", "saved net")
# Okabe & Ito: told apart by people with any common colour blindness.
_COLOURS = ("#009e73", "#66c2a5", "#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#000000")


@dataclass(frozen=True)
class WayFigures:
    """A way of asking: the judge's cost [tokens of the generator], as a share of the tokens of all traces and of all
    cuts, and what DeepPrune saves (shares, 1 = all)."""

    judge_tokens: float
    to_traces: float
    to_cuts: float
    saving_gross: float
    saving_net: float


@dataclass(frozen=True, kw_only=True)
class ScalingRow(WayFigures):
    """A way of asking with n traces: means over problems, and the range of `to_traces`. `measured`: the model ran for
    its scores and its cost."""

    n: int
    way: str
    measured: bool
    to_traces_range: tuple[float, float]


@dataclass(frozen=True)
class ScalingReport:
    """All of judge_scaling.json; lengths are means [tokens]. Up to `live` traces the pairwise judge ran."""

    rows: tuple[ScalingRow, ...]
    problems: int
    live: int
    parameters: int
    mean_trace_tokens: float
    mean_cut_tokens: float
    prompt_tokens: float


def _cells(row: ScalingRow) -> list[str]:
    low, high = row.to_traces_range
    return [
        f"{row.n}",
        row.way + ("" if row.measured else " (counted)"),
        _percent(row.to_traces),
        f"{_percent(low)} – {_percent(high)}",
        f"{row.to_cuts:,.2f} ×",
        f"{row.saving_gross:.1%}",
        f"{row.saving_net:.1%}",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:,.0f} %"


def write_report(report: ScalingReport, folder: Path) -> None:
    """judge_scaling.json, .md and .png into `folder`, and the table to the console."""
    write_json(folder / "judge_scaling.json", as_json(report))
    write_text(folder / "judge_scaling.md", _markdown(report))
    _plot(report.rows, folder / "judge_scaling.png")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title_justify="left")
    table.title = _about(report)
    for index, name in enumerate(("n", "way of asking", _COLUMNS[0], *_COLUMNS[2:])):
        table.add_column(name, justify="left" if index == 1 else "right", no_wrap=True)
    before = None
    for row in report.rows:
        if before not in (None, row.n):
            table.add_section()
        cells = _cells(row)
        table.add_row(*cells[:3], *cells[4:])  # the range is in the other files
        before = row.n
    print_table(table, 110)
    say(f"results: {folder / 'judge_scaling.json'}, judge_scaling.md, judge_scaling.png")


def _about(about: ScalingReport) -> str:
    return (
        f"{about.problems} problems; per trace {about.mean_trace_tokens:.0f} tokens, "
        f"cut {about.mean_cut_tokens:.0f}, prompt {about.prompt_tokens:.0f}"
    )


def _markdown(report: ScalingReport) -> str:
    lines = [
        "# What a judge costs as the traces grow in number",
        "",
        f"`python bench/judge_scaling.py`: {_about(report)}. Costs are in tokens of the generator "
        "(multiply-accumulates of a head divided by its parameters); means over problems, the range is theirs; "
        "savings against consensus, DeepPrune by the published rule. *counted*: from real lengths, without "
        f"running the model for it; up to {report.live} traces the pairwise judge's own scores decide, beyond it "
        "those of the own-state judge.",
        "",
        "![cost and net saving over n](judge_scaling.png)",
        "",
        f"| n | way of asking | {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(_cells(row))} |" for row in report.rows),
    ]
    return "\n".join(lines) + "\n"


def _plot(rows: Sequence[ScalingRow], path: Path) -> None:
    ways, sizes = list(dict.fromkeys(row.way for row in rows)), sorted({row.n for row in rows})
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for way, colour in zip(ways, _COLOURS, strict=True):
            own = [row for row in rows if row.way == way]
            style = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.6}
            left.plot([row.n for row in own], [row.to_traces for row in own], label=way, **style)
            # what costs more than it saves is told by the left picture; here it would hide all else
            right.plot([row.n for row in own], [max(row.saving_net, -1.05) for row in own], **style)
        left.axhline(GOAL, color="#777777", linewidth=1, linestyle=(0, (4, 2)))
        left.annotate("2 %", (sizes[0], GOAL), xytext=(0, 3), textcoords="offset points", color="#777777", fontsize=8)
        left.set_yscale("log")
        left.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        right.axhline(0, color="#777777", linewidth=1)
        right.set_ylim(-1.05, 1)
        left.set_title("judge's cost ÷ tokens of all traces", fontsize=9, loc="left")
        right.set_title("net saving against consensus (cut off at −105 %)", fontsize=9, loc="left")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.set_xlabel("n, parallel traces")
        figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside right center")
        save_png(figure, path, dpi=130)
