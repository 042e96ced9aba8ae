"""What a schedule writes into its run folder and reads back: typed records with a format number, each file written
and read here alone. state.py says which files there are and when; a checkpoint's marker is in integrity.py, the
model card's memory in card/measured.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from schedules.choice import START, Candidate, Figures, Selection
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.records import read_record, write_record
from secateur.runtime.statistics import Interval

SELECTION, VALIDATION, DATA = "selection.json", "validation.json", "data.json"
SELECTION_FORMAT, VALIDATION_FORMAT, DATA_FORMAT = 2, 1, 1
PASS_RATES, PASS_RATES_FORMAT = "pass_rate.json", 1
ENGINE, ENGINE_FORMAT = "engine.json", 1
_AGAIN = "delete it and start schedules/run.py again, which makes it anew from what is stored"


@dataclass(frozen=True)
class WeighedCandidate(Figures):
    """A candidate of a choice; `feasible`: its accuracy reaches the bar."""

    feasible: bool


@dataclass(frozen=True)
class ReferenceRecord:
    """What accuracy was measured against: `pass_at_1` (fraction 0-1) and `mean_tokens` of the model called `name`."""

    pass_at_1: float
    mean_tokens: float
    name: str


@dataclass(frozen=True)
class SelectionRecord:
    """The choice of a round, its selection.json.

    `limit` [tokens] of the round; `start_model`: what it started from, `rounds/…` for a checkpoint of this run;
    `tolerance`: share of the reference's pass@1 that may be lost (0-1); `candidates`: the start model (step 0) first;
    `difference_to_reference`: pass@1 of the chosen one less the reference's, paired by problem, None where their
    problems are not the same; `reason` says it in words. `expands`: the limit is above the one before, and accuracy
    decided; `next_limit` [tokens]: drawn here for the next round, None where that has a limit of its own.
    """

    limit: int
    start_model: str
    reference: ReferenceRecord
    tolerance: float
    candidates: tuple[WeighedCandidate, ...]
    chosen_step: int
    difference_to_reference: Interval | None
    reason: str
    expands: bool = False
    next_limit: int | None = None

    @property
    def chosen(self) -> WeighedCandidate:
        return self._at(self.chosen_step)

    @property
    def start(self) -> WeighedCandidate:
        """The round's start model."""
        return self._at(START)

    def _at(self, step: int) -> WeighedCandidate:
        return next(candidate for candidate in self.candidates if candidate.step == step)


def selection_record(
    limit: int, start_model: str, selection: Selection, reason: str, next_limit: int | None = None
) -> SelectionRecord:
    reference = selection.reference
    names = [field.name for field in fields(Figures)]
    weighed = [
        WeighedCandidate(**{name: getattr(candidate, name) for name in names}, feasible=feasible)
        for candidate, feasible in zip(selection.candidates, selection.feasible, strict=True)
    ]
    return SelectionRecord(
        limit=limit,
        start_model=start_model,
        reference=ReferenceRecord(reference.candidate.pass_at_1, reference.candidate.mean_tokens, reference.name),
        tolerance=selection.tolerance,
        candidates=tuple(weighed),
        chosen_step=selection.chosen_step,
        difference_to_reference=selection.difference,
        reason=reason,
        expands=selection.expands,
        next_limit=next_limit,
    )


def write_selection(round_folder: Path, record: SelectionRecord) -> None:
    write_record(round_folder / SELECTION, record, SELECTION_FORMAT)


def read_selection(round_folder: Path) -> SelectionRecord:
    """The choice of a round that has chosen. Raises `InputError` for a file that is missing or no such record."""
    return read_record(round_folder / SELECTION, SelectionRecord, SELECTION_FORMAT, _AGAIN)


def has_chosen(round_folder: Path) -> bool:
    return (round_folder / SELECTION).is_file()


@dataclass(frozen=True)
class FinishedRound:
    """A round that has chosen: its number from 1, its folder and its choice."""

    number: int
    folder: Path
    selection: SelectionRecord


def finished_rounds(run_folder: str | Path) -> list[FinishedRound]:
    """Folders such as `rounds/1-limit-220`, in the order of the rounds, as far as a choice was made."""
    found = []
    for path in (Path(run_folder) / "rounds").glob("*"):
        name = re.fullmatch(r"(\d+)-limit-\d+", path.name)
        if name and has_chosen(path):
            found.append(FinishedRound(int(name[1]), path, read_selection(path)))
    return sorted(found, key=lambda one: one.number)


@dataclass(frozen=True)
class ValidationRecord:
    """The figures of a round's candidates, the start model first where all are measured; `settings` are the keys that
    eval/single.py was given."""

    settings: Mapping[str, JSON]
    candidates: tuple[Candidate, ...]


def write_validation(path: Path, record: ValidationRecord) -> None:
    """To the round's validation.json, or while candidates are still measured to the figures.json of its samples."""
    write_record(path, record, VALIDATION_FORMAT)


def read_validation(path: Path) -> ValidationRecord:
    """Raises `InputError` for a file that is missing or no such record."""
    return read_record(path, ValidationRecord, VALIDATION_FORMAT, _AGAIN)


@dataclass(frozen=True)
class DataRecord:
    """What data.json says of the training problems beyond the trainer's own lists: how many were `loaded` and `kept`,
    and `origins`: repository and revision of each published set that was read."""

    loaded: int
    kept: int
    origins: Mapping[str, str]


def write_data(run_folder: Path, record: DataRecord) -> None:
    write_record(run_folder / DATA, record, DATA_FORMAT)


def read_data(run_folder: Path) -> DataRecord:
    """Raises `InputError` for a file that is missing or no such record; every launch of a training writes it."""
    return read_record(run_folder / DATA, DataRecord, DATA_FORMAT, "the next launch of the training writes it anew")


@dataclass(frozen=True)
class PassRates:
    """`rates`: problem id → share of its `samples` that were right within the limit (0-1); `tokens` of them all;
    `settings`: the keys of eval/single.py that they were sampled with, and what the problems were chosen by."""

    samples: int
    tokens: int
    rates: Mapping[str, float]
    settings: Mapping[str, JSON]

    def kept(self, bounds: Sequence[float]) -> list[str]:
        """Ids of the problems whose rate lies within `bounds`, ends included."""
        low, high = bounds
        return [name for name, rate in self.rates.items() if low <= rate <= high]

    def words(self, bounds: Sequence[float]) -> str:
        """What was kept, why not the others, and the cost."""
        rates, (low, high) = self.rates.values(), bounds
        below, above = sum(rate < low for rate in rates), sum(rate > high for rate in rates)
        share = len(self.kept(bounds)) / len(rates)
        return (
            f"{len(self.kept(bounds)):,} of {len(rates):,} training problems kept ({share:.0%}), with a pass rate of "
            f"{low:g} to {high:g}; {below:,} are below, {above:,} above; {self.tokens:,} tokens, {self.samples} "
            "samples of each"
        )


def write_pass_rates(round_folder: Path, record: PassRates) -> None:
    write_record(round_folder / PASS_RATES, record, PASS_RATES_FORMAT)


def read_pass_rates(round_folder: Path) -> PassRates:
    """Raises `InputError` where they were not sampled, which schedules/run.py does."""
    if not (round_folder / PASS_RATES).is_file():
        raise InputError(
            f"key 'pass_rate': the problems of {round_folder.name} have not been sampled yet; run schedules/run.py "
            "with the same --config, which does so before it trains"
        )
    return read_record(
        round_folder / PASS_RATES, PassRates, PASS_RATES_FORMAT, "delete it and start schedules/run.py again"
    )


def has_pass_rates(round_folder: Path, settings: Mapping[str, JSON]) -> bool:
    """Whether they are there, sampled with these keys: until the first step any key may be corrected."""
    return (round_folder / PASS_RATES).is_file() and read_pass_rates(round_folder).settings == settings


@dataclass(frozen=True)
class TrainedBy:
    """What trained a round in fact, its engine.json: `engine`, the class that wraps the model, `world_size`
    processes, `zero_stage` (0 without DeepSpeed). A launcher that is configured wrongly trains as well, on one
    process or without sharding."""

    engine: str
    world_size: int
    zero_stage: int


def read_trained_by(round_folder: Path) -> TrainedBy:
    """Raises `InputError` where engine.json is missing or damaged."""
    return read_record(round_folder / ENGINE, TrainedBy, ENGINE_FORMAT, f"delete {round_folder} to train it afresh")
