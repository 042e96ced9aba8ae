"""The five answers at the top of the report: what was saved, at what loss, against what, how sure, what to run.

All of a benchmark's recommended row against its reference, in absolute terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval.report.bars import printable
from eval.report.command import Command, command_of
from eval.report.frontier import longest_path
from eval.table.labels import ALL, row_label, row_notes
from eval.table.registry import method_about
from secateur.results import Considered, LiveEntry, Recommendation, Row, Table


@dataclass(frozen=True)
class Change:
    """A figure before and after, as it is written; `change` between them, "" where there is nothing to say."""

    before: str
    after: str
    change: str = ""


@dataclass(frozen=True)
class LiveTime:
    """Seconds of answering `problems` at once; `label` stands behind the figures, `words` say how both sides were
    measured."""

    seconds: Change
    label: str
    words: str


@dataclass(frozen=True)
class Answer:
    """What a benchmark came to. `winner` is what is recommended, `does` says what that does, `cheaper` whether it is
    anything but the reference; `tokens` per answer with everything counted, `generated` alone where that differs;
    `loss` and `sure` are sentences; `notes`: what the row's marks mean."""

    benchmark: str
    winner: str
    does: str
    cheaper: bool
    tokens: Change
    generated: str
    wait: Change
    time: LiveTime | None
    accuracy: Change
    loss: str
    reference: str
    about: str
    sure: str
    notes: list[str]
    command: Command


def answers(table: Table) -> list[Answer]:
    """One for each benchmark of which the table recommends something."""
    found = [_answer(table, advice) for advice in table.recommendations]
    return [one for one in found if one is not None]


def rows_of(table: Table, advice: Recommendation) -> tuple[Row, Row] | None:
    """The recommended row and its reference, itself where nothing else holds; None where the table lacks one."""
    reference = table.row(advice.reference)
    chosen = reference if advice.overall is None else table.row(advice.overall)
    return None if reference is None or chosen is None else (chosen, reference)


def _answer(table: Table, advice: Recommendation) -> Answer | None:
    pair = rows_of(table, advice)
    if pair is None:
        return None
    chosen, reference = pair
    measured = _considered(advice, chosen)
    return Answer(
        benchmark=advice.benchmark,
        winner=_named(chosen),
        does=method_about(chosen.method),
        cheaper=chosen is not reference,
        tokens=change(reference.net_tokens, chosen.net_tokens),
        generated=_generated(chosen),
        wait=change(longest_path(reference), longest_path(chosen)),
        time=_live_time(table, chosen, reference),
        accuracy=Change(share(reference.accuracy), share(chosen.accuracy)),
        loss=_loss(measured),
        reference=_named(reference),
        about=_about(reference),
        sure=_sure(measured, chosen, advice.tolerance_points),
        notes=[printable(note, 300) for note in row_notes(chosen)],
        command=command_of(chosen, table.config),
    )


def _named(row: Row) -> str:
    """ "ahead on pruned": which method of which model."""
    method = row_label(row).removeprefix(f"{row.model} · ")
    return printable(f"{method} on {row.model}", 120)


def change(before: float, after: float) -> Change:
    """Two numbers and the step between them in per cent.

    >>> change(12478, 417)
    Change(before='12,478', after='417', change='−97 %')
    """
    step = f"{100 * (after / before - 1):+.0f}\N{NO-BREAK SPACE}%".replace("-", "−") if before else ""
    return Change(number(before), number(after), "" if before == after else step)


def number(value: float) -> str:
    """Three digits or more.

    >>> number(1023.8), number(88.55), number(0.1234)
    ('1,024', '88.6', '0.123')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(value: float) -> str:
    """0.359 as `35.9 %`."""
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _generated(row: Row) -> str:
    found = number(row.generated_per_problem)
    return "" if found == number(row.net_tokens) else found


def _considered(advice: Recommendation, row: Row) -> Considered | None:
    choice = advice.per_model.get(row.model)
    return next((one for one in choice.considered if one.id == row.id), None) if choice else None


def signed_points(difference: float) -> str:
    """-0.0123 as `−1.2`: percentage points."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}".replace("-", "−")


def _loss(measured: Considered | None) -> str:
    if measured is None or measured.difference == 0 == measured.interval[1] - measured.interval[0]:
        return ""
    low, high = map(signed_points, measured.interval)
    return f"{signed_points(measured.difference)} points, cautious 95\N{NO-BREAK SPACE}% interval {low} … {high}"


def _about(reference: Row) -> str:
    problems = f"{reference.problems:,} problem{'s' if reference.problems != 1 else ''}"
    if reference.benchmark != ALL:
        problems += f" of {reference.benchmark}"
    return printable(f"the answer that most of its {reference.n} traces give, on the same {problems}", 200)


def _sure(measured: Considered | None, row: Row, points: float) -> str:
    if measured is None:
        return "Nobody compared it problem by problem."
    if measured.id == row.id and measured.interval == (0.0, 0.0):
        return f"Nothing cheaper is shown to lose no more than {points:g} points: go on as before."
    low = signed_points(measured.interval[0])
    return (
        f"Shown to lose no more than {points:g} points: the cautious interval over {row.problems:,} problems begins "
        f"at {low}."
    )


def _live_time(table: Table, chosen: Row, reference: Row) -> LiveTime | None:
    """What answering took live beside what sampling all traces of the same problems took; live runs have the largest
    n. None where a benchmark of the row did not run live, or has no time."""
    pairs = [_live_pair(table.live, name, chosen, reference) for name in benchmarks_of(table, chosen)]
    if chosen.n != max(table.n) or not pairs or None in pairs:
        return None
    before = sum(theirs.sampling_wall_s for _, theirs in pairs)
    after = sum(mine.live.wall_s for mine, _ in pairs)
    problems = sum(mine.problems for mine, _ in pairs)
    seconds, label = change(before, after), f"seconds for {problems:,} answers"
    words = f"live, {problems:,} problems at once"
    if not all(theirs.sampling_wall_measured for _, theirs in pairs):
        seconds, label = replace(seconds, before=f"≈ {seconds.before}"), f"{label}, those before estimated"
        words += "; before: their share, by tokens, of sampling all problems"
    return LiveTime(seconds, label, words)


def benchmarks_of(table: Table, row: Row) -> list[str]:
    """The benchmarks that a row is about."""
    return list(table.folders) if row.benchmark == ALL else [row.benchmark]


def _live_pair(
    live: Sequence[LiveEntry], benchmark: str, chosen: Row, reference: Row
) -> tuple[LiveEntry, LiveEntry] | None:
    """The live runs of a row, and any of the reference's model, which tell how long sampling took."""
    there = [one for one in live if one.benchmark == benchmark]
    mine = next((one for one in there if (one.model, one.method, one.judge) == chosen.series), None)
    theirs = next((one for one in there if one.model == reference.model), None)
    if mine is None or theirs is None or mine.live.wall_s is None or theirs.sampling_wall_s is None:
        return None
    return mine, theirs
