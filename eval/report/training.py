"""What a schedule left behind, as the report draws it: the rounds with their choices."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from eval.report import charts
from eval.report.bars import printable
from eval.report.charts import CheckpointPoint, RoundRecord
from secateur.runtime.files import JSON, read_json, read_jsonl
from secateur.runtime.records import record_of

_REWARD, _LENGTH = "reward", "completions/mean_length"
"""Keys of the training log."""


@dataclass(frozen=True)
class Validated:
    """A checkpoint, by its step within the round, on the validation problems: pass@1 (0-1), mean length [tokens]."""

    step: int
    pass_at_1: float
    mean_tokens: float


@dataclass(frozen=True)
class StoredSelection:
    """What of a round's selection.json is shown: its limit [tokens], what it could choose from, and why it did."""

    limit: int
    candidates: tuple[Validated, ...]
    chosen_step: int
    reason: str

    @property
    def chosen(self) -> Validated:
        return next(one for one in self.candidates if one.step == self.chosen_step)


@dataclass(frozen=True)
class RoundChoice:
    """What a finished round passed on."""

    round: int
    limit: int
    step: int
    pass_at_1: float
    mean_tokens: float
    reason: str


@dataclass(frozen=True)
class FinishedRound:
    number: int
    folder: Path
    selection: StoredSelection


@dataclass(frozen=True)
class RoundFigures:
    """The figures of length pruning, and what each round passed on."""

    lengths: Markup
    accuracy: Markup
    choices: list[RoundChoice]


def round_figures(folder: Path | None) -> RoundFigures | None:
    """From the run folder of a schedule; None where no round was finished."""
    finished = finished_rounds(folder) if folder else []
    if not finished:
        return None
    rounds = round_records(finished)
    drawn = charts.length_over_rounds(rounds), charts.accuracy_over_rounds(rounds)
    return RoundFigures(*map(Markup, drawn), [_choice(one) for one in finished])


def finished_rounds(folder: str | Path) -> list[FinishedRound]:
    """Folders such as `rounds/1-limit-220`, in the order of the rounds, as far as a choice was made."""
    found = []
    for path in (Path(folder) / "rounds").glob("*"):
        name, file = re.fullmatch(r"(\d+)-limit-\d+", path.name), path / "selection.json"
        if name and file.is_file():
            found.append(FinishedRound(int(name[1]), path, record_of(StoredSelection, read_json(file), str(file))))
    return sorted(found, key=lambda one: one.number)


def _choice(one: FinishedRound) -> RoundChoice:
    chosen, selection = one.selection.chosen, one.selection
    reason = printable(selection.reason)
    return RoundChoice(one.number, selection.limit, chosen.step, chosen.pass_at_1, chosen.mean_tokens, reason)


def round_records(finished: Sequence[FinishedRound]) -> list[RoundRecord]:
    """The rounds with their steps counted through."""
    rounds, first = [], 0
    for one in finished:
        log, selection = _training_log(one.folder), one.selection
        last = first + max([*(record["step"] for record in log), *(c.step for c in selection.candidates)])
        candidates = [
            CheckpointPoint(first + c.step, c.pass_at_1, c.mean_tokens, c.step == selection.chosen_step)
            for c in selection.candidates
        ]
        lengths, rewards = _series(log, _LENGTH, first), _series(log, _REWARD, first)
        rounds.append(RoundRecord(one.number, selection.limit, first, last, lengths, rewards, candidates))
        first = last
    return rounds


def _training_log(folder: Path) -> list[Mapping[str, JSON]]:
    """Its lines about steps; a training says other things as well."""
    path = folder / "train.jsonl"
    lines = [line for _, line in read_jsonl(path)] if path.is_file() else []
    return [line for line in lines if "step" in line]


def _series(log: Sequence[Mapping[str, JSON]], key: str, first: int) -> list[tuple[int, float]]:
    """(step, value) where a line has the key; a step that was logged twice counts once, the later."""
    values = {line["step"]: float(line[key]) for line in log if key in line}
    return [(first + step, values[step]) for step in sorted(values)]
