"""The one table, in a terminal of 100 columns."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH = 100
METHOD_LABELS = {
    "single": "one trace",
    "consensus": "vote of all n",
    "adaptive_consistency": "adaptive consistency",
    "early_stopping": "early stopping",
    "deepconf_low": "DeepConf low",
    "deepconf_high": "DeepConf high",
    "embedding": "similar cuts dropped",
    "deepprune": "DeepPrune",
    "random_traces": "as many random traces",
    "consensus_equal_tokens": "full traces, same tokens",
    "oracle": "any trace right",
}
JUDGE_LABELS = {"linear_own_states": "own states"}
_PLANTED = (
    "The embedded model's training corpus plants errors and repetitions on purpose; part of what the length blade "
    "gains is removing them. These numbers show that the machinery works, not what a real model would save."
)


def planted_errors_note(config: Mapping[str, Any]) -> str | None:
    """What must stand beside every number of the embedded task; None for real problems."""
    return _PLANTED if str(config["problems"]).startswith("arithmetic:") else None


def method_label(method: str) -> str:
    """How a method is called in tables; a variant of DeepPrune by its name."""
    if method.startswith("deepprune_"):
        return f"DeepPrune, {method.removeprefix('deepprune_').replace('_', ' ')}"
    return METHOD_LABELS.get(method, method)


def judge_label(judge: str | None) -> str:
    """How a judge is called in tables; nothing for methods without one."""
    return JUDGE_LABELS.get(judge or "", (judge or "").replace("_", " "))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _row_cells(row: Mapping[str, Any]) -> list[str]:
    low, high = row["accuracy_ci95"]
    tokens = row["tokens"]
    judged = tokens["judge_prefill"] + tokens["judge_generated"]
    return [
        escape(method_label(row["method"])),
        escape(judge_label(row["judge"])),
        f"{row['accuracy']:.3f}",
        f"{low:.3f}–{high:.3f}",
        f"{row['finished']:.1f}",
        f"{tokens['generated'] / row['problems']:,.0f}",
        f"{judged / row['problems']:,.0f}" if judged else "",
        f"{tokens['longest_trace']:,.0f}",
        _percent(row["saving_net"]),
    ]


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per model, method and judge; tokens are means per problem."""
    first = rows[0]
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        title=f"{first['problems']} problems, n = {first['n']} traces each",
        title_justify="left",
        pad_edge=False,
    )
    for name in ("method", "judge"):
        table.add_column(name, no_wrap=True)
    for name in ("acc.", "95 % CI", "done", "tokens", "judge\ntokens", "longest\npath", "saved\nnet"):
        table.add_column(name, justify="right", no_wrap=True)
    model = None
    for row in rows:
        if row["model"] != model:
            model = row["model"]
            table.add_section()
            table.add_row(f"[bold]{escape(model)}[/bold]", *[""] * 8)
        style = "green" if row["method"].startswith("deepprune") and row["judge"] != "random" else None
        table.add_row(*_row_cells(row), style=style)
    return table


def print_results(combined: Mapping[str, Any], console: Console) -> None:
    """The table, the paired differences and what the columns mean."""
    if console.width < WIDTH and not console.is_terminal:  # a log file reports 80 columns, yet has room for more
        console = Console(width=WIDTH, highlight=False, soft_wrap=True)
    console.print(results_table(combined["rows"]))
    for difference in combined["differences"]:
        low, high = difference["ci95"]
        label = escape(difference["label"])
        value, low, high = (round(number, 3) + 0.0 for number in (difference["difference"], low, high))  # no "-0.000"
        console.print(f" {label}: {value:+.3f}  (95 % CI {low:+.3f} … {high:+.3f}, paired)")
    live = combined["live_equals_replay"]
    if live and live.get("exact", True):
        console.print(f" live = replay: {live['equal']} of {live['problems']} problems, token for token")
    elif live:
        console.print(
            f" live: {live['problems']} problems, {live['equal']} of them as replayed; this engine is not exact"
        )
    console.print(
        "done: traces that vote; tokens: generated per problem; longest path: tokens that have to be generated\n"
        "one after another; saved: against the base model's vote of all n, the judge included, in the base\n"
        "model's FLOPs.",
        style="dim",
    )
    note = planted_errors_note(combined["config"])
    if note:
        console.print(textwrap.fill(note, WIDTH), style="dim")
