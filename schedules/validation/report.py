"""What the schedule shows of its choices: a table per round, and one of all rounds at the end."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from schedules.choice import START, Selection, name_of
from schedules.rounds import Round
from schedules.state import RunFolder
from secateur.runtime.console import console, say
from secateur.runtime.files import read_json


def selection_record(round_: Round, start_model: str, selection: Selection, reason: str) -> dict[str, Any]:
    """What `selection.json` holds; see the documentation of the files."""
    reference, names = selection.reference, ("pass_at_1", "mean_tokens", "truncated_share")
    names = ("step", *names, "pass_at_1_ci95", "mean_tokens_ci95")
    entries = [
        {name: getattr(candidate, name) for name in names} | {"feasible": feasible}
        for candidate, feasible in zip(selection.candidates, selection.feasible, strict=True)
    ]
    figures = {"pass_at_1": reference.candidate.pass_at_1, "mean_tokens": reference.candidate.mean_tokens}
    return {
        "limit": round_.limit,
        "start_model": start_model,
        "reference": figures | {"name": reference.name},
        "tolerance": selection.tolerance,
        "candidates": entries,
        "chosen_step": selection.chosen_step,
        "difference_to_reference": list(selection.difference) if selection.difference else None,
        "reason": reason,
    }


def read_selections(folder: RunFolder) -> list[tuple[Round, dict[str, Any]]]:
    """The selection.json of every round that has chosen, in the order of the rounds."""
    paths = [(round_, folder.round_folder(round_) / "selection.json") for round_ in folder.rounds]
    return [(round_, read_json(path)) for round_, path in paths if path.is_file()]


def show_selection(round_: Round, selection: Selection, reason: str) -> None:
    title = f"round {round_.index}, limit {round_.limit} tokens"
    table = _table(title, "candidate", "pass@1", "95 %", "tokens", "95 %", "truncated", "feasible")
    for candidate, feasible in zip(selection.candidates, selection.feasible, strict=True):
        verdict = "yes" if feasible else "no"
        verdict = f"{verdict}, chosen" if candidate.step == selection.chosen_step else verdict
        name = "start" if candidate.step == START else name_of(candidate.step)
        table.add_row(name, *_figures(vars(candidate)), verdict)
    console.print(table)
    say(f"  {escape(reason)}")


def show_rounds(selections: Sequence[tuple[Round, dict[str, Any]]]) -> None:
    """One row for the model that the schedule began with, one for what each round chose, and the change in all."""
    table = _table("rounds, from start to end", "limit", "chosen", "pass@1", "95 %", "tokens", "95 %", "truncated")
    first = _entry(selections[0][1], START)
    table.add_row("", "start", *_figures(first))
    for round_, record in selections:
        step = record["chosen_step"]
        name = "start stays" if step == START else name_of(step)
        table.add_row(str(round_.limit), name, *_figures(chosen_entry(record)))
    console.print(table)
    last = chosen_entry(selections[-1][1])
    change = last["pass_at_1"] - first["pass_at_1"]
    tokens = f", tokens {last['mean_tokens'] / first['mean_tokens'] - 1:+.1%}" if first["mean_tokens"] else ""
    say(f"  from start to end: pass@1 {change:+.3f}{tokens}")


def chosen_entry(record: dict[str, Any]) -> dict[str, Any]:
    """The candidate that a selection.json names as chosen."""
    return _entry(record, record["chosen_step"])


def _entry(record: dict[str, Any], step: int) -> dict[str, Any]:
    return next(candidate for candidate in record["candidates"] if candidate["step"] == step)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _figures(entry: dict[str, Any]) -> tuple[str, ...]:
    """pass@1, mean tokens, each with its interval, and the truncated share."""
    tokens = ",.0f" if entry["mean_tokens"] >= 1000 else ".1f"
    return (
        f"{entry['pass_at_1']:.3f}",
        _interval(entry.get("pass_at_1_ci95"), ".3f"),
        f"{entry['mean_tokens']:{tokens}}",
        _interval(entry.get("mean_tokens_ci95"), tokens),
        f"{entry['truncated_share']:.1%}",
    )


def _interval(interval: Sequence[float] | None, form: str) -> str:
    return f"{interval[0]:{form}}–{interval[1]:{form}}" if interval else ""
