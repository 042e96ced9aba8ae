"""What a sweep leaves behind, as typed records: metrics.json of a cell, and sweep.json."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secateur.deepprune.judges.record import METRICS_FILE, CutFigures, PairFigures, TrainingFigures
from secateur.runtime.files import JSON
from secateur.runtime.records import read_record, write_record
from secateur.runtime.statistics import Bounds
from trainers.sweep.config import SweepCell

FORMAT = 1
SWEEP_FILE = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class CellFigures(PairFigures, CutFigures):
    """A cell on one test folder: all pairs, and those of which no cut is a whole trace."""

    unfinished: PairFigures


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """metrics.json of a cell; `tests`: name → figures of every test folder, `config`: of its training."""

    kind: str
    cell: SweepCell
    tests: Mapping[str, CellFigures]
    training: TrainingFigures
    config: Mapping[str, JSON]


def write_cell(folder: Path, record: CellRecord) -> None:
    write_record(folder / METRICS_FILE, record, FORMAT)


def read_cell(folder: Path) -> CellRecord:
    """Raises `InputError` for a cell of another format."""
    return read_record(folder / METRICS_FILE, CellRecord, FORMAT, "delete the cell's folder to train it again")


@dataclass(frozen=True)
class SweepFigure:
    """A figure (0-1), or a difference of two, averaged over what it is a figure of, with its 95 % interval over
    problems."""

    value: float
    ci95: Bounds


@dataclass(frozen=True, kw_only=True)
class SweepFigures:
    """Of all pairs and of the unfinished ones; None where the pairs lack a label."""

    auroc: SweepFigure | None
    auroc_unfinished: SweepFigure | None
    tnr_at_fnr20: SweepFigure | None
    tnr_at_fnr20_unfinished: SweepFigure | None


FIGURES = tuple(figure.name for figure in dataclasses.fields(SweepFigures))


@dataclass(frozen=True)
class SweepSetting:
    """What the seeds of a row have in common: the cut at `k` words or tokens, and the loss."""

    cut: Literal["words", "tokens"]
    k: int
    focal: bool
    oversampling: bool


@dataclass(frozen=True, kw_only=True)
class SweepRow(SweepSetting, SweepFigures, CutFigures):
    """The cells of one setting, averaged over `seeds` and test folders. `unfinished_pairs`: of all test folders
    together. `training_cpu_s`: seconds of processor time, a mean. `tests`: the same per folder, empty for one."""

    seeds: int
    unfinished_pairs: int
    training_cpu_s: float
    tests: Mapping[str, SweepFigures]

    @property
    def setting(self) -> SweepSetting:
        return SweepSetting(self.cut, self.k, self.focal, self.oversampling)


@dataclass(frozen=True)
class Effect:
    """What a loss changes against plain cross-entropy: a difference of the figure called `figure`, the mean over the
    k of one cut, paired."""

    cut: Literal["words", "tokens"]
    focal: bool
    oversampling: bool
    figure: str
    value: float
    ci95: Bounds


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All of sweep.json. `best_unfinished`: the setting with the best AUROC over unfinished pairs; `pairs` and
    `problems` of all `tests` together; `missing_cells` are still to be trained."""

    kind: str
    tests: tuple[str, ...]
    rows: tuple[SweepRow, ...]
    effects: tuple[Effect, ...]
    best_unfinished: SweepSetting | None
    pairs: int
    problems: int
    config: Mapping[str, JSON]
    missing_cells: int


def write_sweep(folder: Path, sweep: Sweep) -> None:
    write_record(folder / SWEEP_FILE, sweep, FORMAT)
