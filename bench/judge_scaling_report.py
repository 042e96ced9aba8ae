"""The figures of judge_scaling.py as JSON, Markdown, picture and table in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich import box
from rich.console import Console
from rich.table import Table

from runtime.console import say
from runtime.files import write_json, write_text
from runtime.plot_style import PLOT_STYLE

GOAL = 0.02  # share of the traces' tokens that own states may cost
_COLUMNS = ("judge ÷ traces", "range", "judge ÷ cuts", "saved gross", "saved net")
# Okabe & Ito: told apart by people with any common colour blindness.
_COLOURS = ("#009e73", "#66c2a5", "#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#000000")


def _cells(row: Mapping[str, Any]) -> list[str]:
    low, high = row["to_traces_range"]
    return [
        f"{row['n']}",
        row["way"] + ("" if row["measured"] else " (counted)"),
        _percent(row["to_traces"]),
        f"{_percent(low)} – {_percent(high)}",
        f"{row['to_cuts']:,.2f} ×",
        f"{row['saving_gross']:.1%}",
        f"{row['saving_net']:.1%}",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:,.0f} %"


def write_report(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any], folder: Path, console: Console) -> None:
    """judge_scaling.json, .md and .png into `folder`, and the table to the console."""
    write_json(folder / "judge_scaling.json", {"rows": list(rows), **about})
    write_text(folder / "judge_scaling.md", _markdown(rows, about))
    _plot(rows, folder / "judge_scaling.png")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title_justify="left")
    table.title = _about(about)
    for index, name in enumerate(("n", "way of asking", _COLUMNS[0], *_COLUMNS[2:])):
        table.add_column(name, justify="left" if index == 1 else "right", no_wrap=True)
    before = None
    for row in rows:
        if before not in (None, row["n"]):
            table.add_section()
        cells = _cells(row)
        table.add_row(*cells[:3], *cells[4:])  # the range is in the other files
        before = row["n"]
    wide = Console(width=110, highlight=False, soft_wrap=True)
    (console if console.width >= 110 or console.is_terminal else wide).print(table)
    say(f"results: {folder / 'judge_scaling.json'}, judge_scaling.md, judge_scaling.png")


def _about(about: Mapping[str, Any]) -> str:
    return (
        f"{about['problems']} problems; per trace {about['mean_trace_tokens']:.0f} tokens, "
        f"cut {about['mean_cut_tokens']:.0f}, prompt {about['prompt_tokens']:.0f}"
    )


def _markdown(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    lines = [
        "# What a judge costs as the traces grow in number",
        "",
        f"`python bench/judge_scaling.py`: {_about(about)}. Costs are in tokens of the generator "
        "(multiply-accumulates of a head divided by its parameters); means over problems, the range is theirs; "
        "savings against the vote of all n, DeepPrune by the published rule. *counted*: from real lengths, without "
        f"running the model for it; up to {about['live']} traces the pairwise judge's own scores decide, beyond it "
        "those of the own-state judge.",
        "",
        "![cost and net saving over n](judge_scaling.png)",
        "",
        f"| n | way of asking | {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(_cells(row))} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    ways, sizes = list(dict.fromkeys(row["way"] for row in rows)), sorted({row["n"] for row in rows})
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for way, colour in zip(ways, _COLOURS, strict=True):
            own = [row for row in rows if row["way"] == way]
            style = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.6}
            left.plot([row["n"] for row in own], [row["to_traces"] for row in own], label=way, **style)
            # what costs more than it saves is told by the left picture; here it would hide all else
            right.plot([row["n"] for row in own], [max(row["saving_net"], -1.05) for row in own], **style)
        left.axhline(GOAL, color="#777777", linewidth=1, linestyle=(0, (4, 2)))
        left.annotate("2 %", (sizes[0], GOAL), xytext=(0, 3), textcoords="offset points", color="#777777", fontsize=8)
        left.set_yscale("log")
        left.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        right.axhline(0, color="#777777", linewidth=1)
        right.set_ylim(-1.05, 1)
        left.set_title("judge's cost ÷ tokens of all traces", fontsize=9, loc="left")
        right.set_title("net saving against the vote of all n (cut off at −105 %)", fontsize=9, loc="left")
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.set_xlabel("n, parallel traces")
        figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside right center")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp.png")
        figure.savefig(temporary, dpi=130)
        temporary.replace(path)
