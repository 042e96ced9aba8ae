"""A rule sweep as table, CSV and picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.markup import escape
from rich.table import Table

from eval.studies.rule_sweep import FlatRule, PairedDifference, RuleSweep, RuleSweepRow
from eval.table.labels import judge_label
from secateur.results import Value, flat_row
from secateur.runtime.console import plain_table, wide_console, write_csv
from secateur.runtime.files import JSON
from secateur.runtime.pictures import BLUE, GREEN, ORANGE, PLOT_STYLE, PURPLE, RED, SKY, save_png
from secateur.runtime.records import as_json

_WIDTH = 116
_COLUMNS = (
    *("rule", "acc.", "done", "net\ntokens", "saved\nnet", "pairs"),
    *("against\nconsensus", "against full traces\nfor the same tokens"),
)
_COLOURS = (BLUE, ORANGE, PURPLE, SKY, RED, "#8c564b", "#332288", "#999933")
_GREY = "#777777"
_NAMES = {"tau": "τ", "max_clusters": "K", "compared": "K1", "largest": "K2", "singletons": "K3"}


def key_name(key: str) -> str:
    """The published letter where there is one.

    >>> key_name("max_clusters"), key_name("policy")
    ('K', 'policy')
    """
    return _NAMES.get(key, key)


def changes(row: RuleSweepRow, default: FlatRule) -> dict[str, JSON]:
    """The fields in which a row's rule differs from the default."""
    return {key: value for key, value in row.rule.items() if value != default[key]}


def label(row: RuleSweepRow, default: FlatRule) -> str:
    changed = changes(row, default)
    return ", ".join(f"{key_name(key)} {value}" for key, value in changed.items()) or "default"


def _about(sweep: RuleSweep) -> str:
    return f"{sweep.model}, judge {judge_label(sweep.judge)}"


def _signed(found: PairedDifference) -> str:
    value, low, high = (round(number, 3) + 0.0 for number in (found.difference, *found.ci95))  # no "-0.000"
    return f"{value:+.3f} ({low:+.3f}…{high:+.3f})"


def rule_sweep_table(sweep: RuleSweep) -> Table:
    """One line per rule; a star marks those that no other rule beats in both accuracy and net tokens."""
    table = plain_table(f"{_about(sweep)}: {sweep.problems} problems, n = {sweep.n}", _COLUMNS)
    for row in sweep.rows:
        table.add_row(
            escape(label(row, sweep.default)) + (" *" if row.pareto else ""),
            f"{row.accuracy:.3f}",
            f"{row.finished:.1f}",
            f"{row.net_tokens:,.0f}",
            f"{row.saving_net:.1%}",
            f"{row.compared_pairs:,.0f}",
            _signed(row.to_consensus),
            _signed(row.to_equal_tokens),
            style="green" if row.pareto else None,
        )
    return table


def print_rule_sweep(sweep: RuleSweep) -> None:
    console = wide_console(_WIDTH)
    console.print(rule_sweep_table(sweep))
    default = ", ".join(f"{key_name(key)} {value}" for key, value in sweep.default.items())
    console.print(
        f"default: {escape(default)}.\nConsensus of all {sweep.n} traces: {sweep.consensus.accuracy:.3f} for "
        f"{sweep.consensus.tokens:,.0f} tokens. * no other rule is as good for as few net tokens.\nIn brackets: 95 % "
        "intervals, paired by problem. The best of many rules is flattered: choose on other problems than those you\n"
        "report. pairs: those that the clustering compares.",
        style="dim",
    )


def write_rows(sweep: RuleSweep, path: Path) -> None:
    """As CSV, one line per rule: its fields, then the figures; intervals as two columns."""
    write_csv(path, [_flat(row) for row in sweep.rows])


def _flat(row: RuleSweepRow) -> dict[str, Value]:
    values = as_json(row)
    rule = values.pop("rule")
    del values["accuracies"]
    return rule | {name.removesuffix("_difference"): value for name, value in flat_row(values).items()}


def write_plot(sweep: RuleSweep, path: Path) -> None:
    """Accuracy against net tokens with the Pareto front; below it each key by itself, where they were swept so."""
    keys = [] if sweep.config["grid"] else list(sweep.config["sweep"])
    colours = {key: _COLOURS[index % len(_COLOURS)] for index, key in enumerate(keys)}
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(max(8.0, 2.3 * len(keys)), 8.2 if keys else 5.0), layout="constrained")
        grid = figure.add_gridspec(3 if keys else 1, max(1, len(keys)), height_ratios=(2.2, 1, 1) if keys else None)
        _draw_front(figure.add_subplot(grid[0, :]), sweep, colours)
        shared: list[Axes | None] = [None, None]
        for column, key in enumerate(keys):
            upper = figure.add_subplot(grid[1, column], sharey=shared[0])
            lower = figure.add_subplot(grid[2, column], sharey=shared[1])
            shared = [shared[0] or upper, shared[1] or lower]
            _draw_key(upper, lower, sweep, key, colours[key], first=column == 0)
        save_png(figure, path, dpi=130)


def _draw_front(axes: Axes, sweep: RuleSweep, colours: Mapping[str, str]) -> None:
    curve, front = sweep.fewer_full_traces, sorted((r for r in sweep.rows if r.pareto), key=lambda r: r.net_tokens)
    fewer = [point.tokens for point in curve], [point.accuracy for point in curve]
    axes.plot(*fewer, color=_GREY, linewidth=1.2, marker=".", label="vote of fewer full traces")
    best = [row.net_tokens for row in front], [row.accuracy for row in front]
    axes.plot(*best, color=GREEN, linewidth=1.5, drawstyle="steps-post", label="Pareto front", zorder=2)
    for row in sweep.rows:
        _draw_row(axes, row, list(changes(row, sweep.default)), colours)
    named = {(row.net_tokens, row.accuracy): label(row, sweep.default) for row in reversed(front)}
    for place, name in named.items():  # of equals the first
        axes.annotate(name, place, xytext=(4, 5), textcoords="offset points", fontsize=7.5)
    for key, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=key_name(key))
    axes.plot([], [], "D", color="black", label="default")
    _use_log_tokens(axes)
    axes.set(xlabel="net tokens per problem (judge included)", ylabel="accuracy")
    title = f"{_about(sweep)}, {sweep.problems} problems, n = {sweep.n}; bars: 95 %"
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(fontsize=8, loc="lower right")


def _draw_row(axes: Axes, row: RuleSweepRow, changed: Sequence[str], colours: Mapping[str, str]) -> None:
    axes.errorbar(
        row.net_tokens,
        row.accuracy,
        yerr=_bars([row]),
        fmt="o" if changed else "D",
        color=colours.get(changed[0], BLUE) if changed else "black",
        markersize=7 if row.pareto else 4.5,
        elinewidth=0.7,
        alpha=1.0 if row.pareto or not changed else 0.5,
        zorder=3,
    )


def _use_log_tokens(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))


def _bars(rows: Sequence[RuleSweepRow]) -> list[list[float]]:
    """Lengths of the error bars below and above each accuracy."""
    below = [max(0.0, row.accuracy - row.accuracy_ci95[0]) for row in rows]
    return [below, [max(0.0, row.accuracy_ci95[1] - row.accuracy) for row in rows]]


def _draw_key(upper: Axes, lower: Axes, sweep: RuleSweep, key: str, colour: str, first: bool) -> None:
    """Accuracy (with what the same tokens buy) and net saving over the values of one key."""
    wanted = sweep.config["sweep"][key]
    rows = [row for row in sweep.rows if set(changes(row, sweep.default)) <= {key} and row.rule[key] in wanted]
    rows.sort(key=lambda row: wanted.index(row.rule[key]))
    places, names = range(len(rows)), [str(row.rule[key]) for row in rows]
    upper.errorbar(places, [row.accuracy for row in rows], yerr=_bars(rows), color=colour, marker="o", markersize=4)
    same_tokens = [row.equal_tokens_accuracy for row in rows]
    upper.plot(places, same_tokens, color=_GREY, linestyle=(0, (3, 2)), marker=".")
    lower.plot(places, [row.saving_net for row in rows], color=colour, marker="o", markersize=4)
    for axes in (upper, lower):
        axes.set_xticks(places, names, rotation=45 if max(map(len, names)) > 4 else 0, fontsize=7.5)
        axes.tick_params(labelleft=first)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel(key_name(key) if key_name(key) == key else f"{key_name(key)} ({key})")
    if first:
        upper.set_ylabel("accuracy\n(dashed: same tokens)")
        lower.set_ylabel("net saving")
