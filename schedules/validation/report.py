"""What the schedule shows of its choices: a table per round, and one of all rounds at the end."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from schedules.choice import START, Figures, Selection, name_of
from schedules.records import SelectionRecord
from schedules.rounds import Round
from secateur.runtime.console import console, say
from secateur.runtime.statistics import Bounds


def show_selection(round_: Round, selection: Selection, reason: str) -> None:
    title = f"round {round_.index}, limit {round_.limit} tokens"
    table = _table(title, "candidate", "pass@1", "95 %", "tokens", "95 %", "truncated", "feasible")
    for candidate, feasible in zip(selection.candidates, selection.feasible, strict=True):
        verdict = "yes" if feasible else "no"
        verdict = f"{verdict}, chosen" if candidate.step == selection.chosen_step else verdict
        name = "start" if candidate.step == START else name_of(candidate.step)
        table.add_row(name, *_figures(candidate), verdict)
    console.print(table)
    say(f"  {escape(reason)}")


def show_rounds(selections: Sequence[tuple[Round, SelectionRecord]]) -> None:
    """One row for the model that the schedule began with, one for what each round chose, and the change in all."""
    table = _table("rounds, from start to end", "limit", "chosen", "pass@1", "95 %", "tokens", "95 %", "truncated")
    first = selections[0][1].start
    table.add_row("", "start", *_figures(first))
    for round_, record in selections:
        chosen = record.chosen
        name = "start stays" if chosen.step == START else name_of(chosen.step)
        table.add_row(str(round_.limit), name, *_figures(chosen))
    console.print(table)
    last = selections[-1][1].chosen
    change = last.pass_at_1 - first.pass_at_1
    tokens = f", tokens {last.mean_tokens / first.mean_tokens - 1:+.1%}" if first.mean_tokens else ""
    say(f"  from start to end: pass@1 {change:+.3f}{tokens}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _figures(candidate: Figures) -> tuple[str, ...]:
    """pass@1, mean tokens, each with its interval, and the truncated share."""
    tokens = ",.0f" if candidate.mean_tokens >= 1000 else ".1f"
    return (
        f"{candidate.pass_at_1:.3f}",
        _interval(candidate.pass_at_1_ci95, ".3f"),
        f"{candidate.mean_tokens:{tokens}}",
        _interval(candidate.mean_tokens_ci95, tokens),
        f"{candidate.truncated_share:.1%}",
    )


def _interval(bounds: Bounds, form: str) -> str:
    return f"{bounds[0]:{form}}–{bounds[1]:{form}}"
