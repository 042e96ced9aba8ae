"""A rule sweep as table, CSV and picture."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.report.charts import BLUE, GREEN, ORANGE, PURPLE, RED, SKY
from eval.table.terminal import judge_label
from secateur.runtime.files import write_text
from secateur.runtime.pictures import PLOT_STYLE

WIDTH = 116
_COLOURS = (BLUE, ORANGE, PURPLE, SKY, RED, "#8c564b", "#332288", "#999933")
_GREY = "#777777"
_NAMES = {"tau": "τ", "max_clusters": "K", "compared": "K1", "largest": "K2", "singletons": "K3"}


def key_name(key: str) -> str:
    """The paper's letter where it has one.

    >>> key_name("max_clusters"), key_name("policy")
    ('K', 'policy')
    """
    return _NAMES.get(key, key)


def changes(row: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in which a row's rule differs from the default."""
    return {key: value for key, value in row["rule"].items() if value != default[key]}


def label(row: Mapping[str, Any], default: Mapping[str, Any]) -> str:
    changed = changes(row, default)
    return ", ".join(f"{key_name(key)} {value}" for key, value in changed.items()) or "default"


def _signed(difference: Mapping[str, Any]) -> str:
    low, high = difference["ci95"]
    value, low, high = (round(number, 3) + 0.0 for number in (difference["difference"], low, high))  # no "-0.000"
    return f"{value:+.3f} ({low:+.3f}…{high:+.3f})"


def sweep_table(result: Mapping[str, Any]) -> Table:
    """One line per rule; a star marks those that no other rule beats in both accuracy and net tokens."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, title_justify="left")
    table.title = (
        f"{result['model']}, judge {judge_label(result['judge'])}: {result['problems']} problems, n = {result['n']}"
    )
    table.add_column("rule", no_wrap=True)
    for name in ("acc.", "done", "net\ntokens", "saved\nnet", "pairs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("against the\nvote of all", justify="right", no_wrap=True)
    table.add_column("against full traces\nfor the same tokens", justify="right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            escape(label(row, result["default"])) + (" *" if row["pareto"] else ""),
            f"{row['accuracy']:.3f}",
            f"{row['finished']:.1f}",
            f"{row['net_tokens']:,.0f}",
            f"{row['saving_net']:.1%}",
            f"{row['compared_pairs']:,.0f}",
            _signed(row["to_consensus"]),
            _signed(row["to_equal_tokens"]),
            style="green" if row["pareto"] else None,
        )
    return table


def print_sweep(result: Mapping[str, Any], console: Console) -> None:
    if console.width < WIDTH and not console.is_terminal:  # a log file reports 80 columns, yet has room for more
        console = Console(width=WIDTH, highlight=False, soft_wrap=True)
    console.print(sweep_table(result))
    default = ", ".join(f"{key_name(key)} {value}" for key, value in result["default"].items())
    consensus = result["consensus"]
    console.print(
        f"default: {escape(default)}.\nThe vote of all {result['n']} traces: {consensus['accuracy']:.3f} for "
        f"{consensus['tokens']:,.0f} tokens. * no other rule is as good for as few net tokens.\nIn brackets: 95 % "
        "intervals, paired by problem. The best of many rules is flattered: choose on other problems than those you\n"
        "report. pairs: those that the clustering compares.",
        style="dim",
    )


def write_csv(result: Mapping[str, Any], path: Path) -> None:
    """One line per rule: its fields, then the figures; intervals as two columns."""
    lines = [_flat(row) for row in result["rows"]]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, buffer.getvalue())


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = dict(row["rule"])
    for key, value in row.items():
        if key.startswith("to_"):
            flat |= {key: value["difference"], f"{key}_low": value["ci95"][0], f"{key}_high": value["ci95"][1]}
        elif key == "accuracy_ci95":
            flat |= {"accuracy_low": value[0], "accuracy_high": value[1]}
        elif key not in ("rule", "accuracies"):
            flat[key] = value
    return flat


def write_plot(result: Mapping[str, Any], path: Path) -> None:
    """Accuracy against net tokens with the Pareto front; below it each key by itself, where they were swept so."""
    keys = [] if result["config"]["grid"] else list(result["config"]["sweep"])
    colours = {key: _COLOURS[index % len(_COLOURS)] for index, key in enumerate(keys)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(max(8.0, 2.3 * len(keys)), 8.2 if keys else 5.0), layout="constrained")
        grid = figure.add_gridspec(3 if keys else 1, max(1, len(keys)), height_ratios=(2.2, 1, 1) if keys else None)
        _draw_front(figure.add_subplot(grid[0, :]), result, colours)
        shared: list[Axes | None] = [None, None]
        for column, key in enumerate(keys):
            upper = figure.add_subplot(grid[1, column], sharey=shared[0])
            lower = figure.add_subplot(grid[2, column], sharey=shared[1])
            shared = [shared[0] or upper, shared[1] or lower]
            _draw_key(upper, lower, result, key, colours[key], first=column == 0)
        temporary = path.with_name(f".{path.name}.tmp.png")
        figure.savefig(temporary, dpi=130)
        temporary.replace(path)


def _draw_front(axes: Axes, result: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    curve, rows, default = result["fewer_full_traces"], result["rows"], result["default"]
    axes.plot(
        [point["tokens"] for point in curve],
        [point["accuracy"] for point in curve],
        color=_GREY,
        linewidth=1.2,
        marker=".",
        label="vote of fewer full traces",
    )
    front = sorted((row for row in rows if row["pareto"]), key=lambda row: row["net_tokens"])
    axes.plot(
        [row["net_tokens"] for row in front],
        [row["accuracy"] for row in front],
        color=GREEN,
        linewidth=1.5,
        drawstyle="steps-post",
        label="Pareto front",
        zorder=2,
    )
    for row in rows:
        changed = list(changes(row, default))
        colour = "black" if not changed else colours.get(changed[0], BLUE)
        axes.errorbar(
            row["net_tokens"],
            row["accuracy"],
            yerr=_bars([row]),
            fmt="D" if not changed else "o",
            color=colour,
            markersize=7 if row["pareto"] else 4.5,
            elinewidth=0.7,
            alpha=1.0 if row["pareto"] or not changed else 0.5,
            zorder=3,
        )
    named = {
        (row["net_tokens"], row["accuracy"]): label(row, default) for row in reversed(front)
    }  # of equals the first
    for place, name in named.items():
        axes.annotate(name, place, xytext=(4, 5), textcoords="offset points", fontsize=7.5)
    for key, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=key_name(key))
    axes.plot([], [], "D", color="black", label="default")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.set(xlabel="net tokens per problem (judge included)", ylabel="accuracy")
    axes.set_title(
        f"{result['model']}, judge {judge_label(result['judge'])}, {result['problems']} problems, n = {result['n']}; "
        "bars: 95 %",
        fontsize=9,
        loc="left",
    )
    axes.legend(fontsize=8, loc="lower right")


def _bars(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Lengths of the error bars below and above each accuracy."""
    below = [max(0.0, row["accuracy"] - row["accuracy_ci95"][0]) for row in rows]
    return [below, [max(0.0, row["accuracy_ci95"][1] - row["accuracy"]) for row in rows]]


def _draw_key(upper: Axes, lower: Axes, result: Mapping[str, Any], key: str, colour: str, first: bool) -> None:
    """Accuracy (with what the same tokens buy) and net saving over the values of one key."""
    default, wanted = result["default"], result["config"]["sweep"][key]
    rows = [row for row in result["rows"] if set(changes(row, default)) <= {key} and row["rule"][key] in wanted]
    rows.sort(key=lambda row: wanted.index(row["rule"][key]))
    places, names = range(len(rows)), [str(row["rule"][key]) for row in rows]
    upper.errorbar(
        places, [row["accuracy"] for row in rows], yerr=_bars(rows), color=colour, marker="o", markersize=4
    )
    upper.plot(places, [row["equal_tokens_accuracy"] for row in rows], color=_GREY, linestyle=(0, (3, 2)), marker=".")
    lower.plot(places, [row["saving_net"] for row in rows], color=colour, marker="o", markersize=4)
    for axes in (upper, lower):
        axes.set_xticks(places, names, rotation=45 if max(map(len, names)) > 4 else 0, fontsize=7.5)
        axes.tick_params(labelleft=first)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel(key_name(key) if key_name(key) == key else f"{key_name(key)} ({key})")
    if first:
        upper.set_ylabel("accuracy\n(dashed: same tokens)")
        lower.set_ylabel("net saving")
