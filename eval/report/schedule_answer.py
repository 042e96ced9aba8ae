"""The five answers of a schedule alone: the model that it has come to against the one that it began with, a trace of
each at a time, on the problems of the validation."""

from collections.abc import Sequence
from pathlib import Path

from eval.report.answer import Answer, Change, change, share, signed_points
from eval.report.bars import printable
from eval.report.command import Command
from schedules.choice import START, Candidate, accuracy_difference
from schedules.config import finished_config, first_question
from schedules.records import VALIDATION, FinishedRound, read_validation
from secateur.runtime.errors import InputError

_BENCHMARK = "validation"
_FLATTERED = (
    "The checkpoints were chosen on these very problems, which flatters the figures: secateur single measures both "
    "models on others."
)


def schedule_answer(folder: Path, rounds: Sequence[FinishedRound]) -> Answer:
    """`rounds` that have chosen, of the schedule in `folder`. Raises `InputError` for records that cannot be read."""
    start, chosen = rounds[0].selection.start, rounds[-1].selection.chosen
    first, last = _measured(rounds[0], START), _measured(rounds[-1], chosen.step)
    model = printable(rounds[0].selection.start_model, 120)
    return Answer(
        benchmark=_BENCHMARK,
        winner=f"the model of round {rounds[-1].number}",
        does="",
        cheaper=chosen.mean_tokens < start.mean_tokens,
        tokens=change(start.mean_tokens, chosen.mean_tokens),
        generated="",
        wait=change(start.mean_tokens, chosen.mean_tokens),
        time=None,
        accuracy=Change(share(start.pass_at_1), share(chosen.pass_at_1)),
        loss=_loss(first, last),
        reference=f"one trace of {model}",
        about=f"pass@1 of {first.samples} samples on the same {first.problems:,} problems of the validation",
        sure=_FLATTERED,
        notes=[],
        command=_command(folder),
    )


def _measured(one: FinishedRound, step: int) -> Candidate:
    found = read_validation(one.folder / VALIDATION).candidates
    return next(candidate for candidate in found if candidate.step == step)


def _loss(first: Candidate, last: Candidate) -> str:
    difference = accuracy_difference(last, first)
    if difference is None:
        return "No interval: the problems of both are not the same."
    mean, low, high = difference
    return (
        f"{signed_points(mean)} points, 95\N{NO-BREAK SPACE}% interval {signed_points(low)} … {signed_points(high)}"
    )


def _command(folder: Path) -> Command:
    if not (folder / "final").is_dir():
        return Command("", "The schedule has not come to its end: the same command goes on.")
    try:
        return Command(first_question(finished_config(folder).schedule, folder / "final"), "")
    except InputError as error:
        return Command("", printable(str(error), 300))
