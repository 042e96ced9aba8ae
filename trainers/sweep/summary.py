"""What a sweep leaves behind, as typed records: metrics.json of a cell, and sweep.json, which is made from the cells
that are done: figures of every setting, and what the losses change.

Every figure keeps its resamples, so that averages and differences of paired trainings have intervals.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from secateur.deepprune.judges.metrics import auroc, has_both_labels, ordered_counts, tnr_at_fnr
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


RESAMPLES = 1000
MISSED = 0.2  # share (0-1) of same-answer pairs that the threshold of the TNR may miss
_CHUNK = 50  # resamples at once: bounds memory to 50 numbers per pair


@dataclass(frozen=True, eq=False)
class Estimate:
    """A figure and its value in every resample [RESAMPLES], NaN where a resample lacks one of the labels."""

    value: float
    resampled: np.ndarray

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.resampled - other.resampled)

    def figure(self) -> SweepFigure:
        """Its value, with the 95 % interval of the resamples."""
        low, high = np.nanquantile(self.resampled, (0.025, 0.975))
        return SweepFigure(self.value, (float(low), float(high)))


def mean(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(
        float(np.mean([estimate.value for estimate in estimates])),
        np.mean([estimate.resampled for estimate in estimates], axis=0),
    )


def draw_problems(problems: int, seed: int = 0) -> np.ndarray:
    """[RESAMPLES, problems]: how often each problem was drawn; every row sums to `problems`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(problems, np.full(problems, 1 / problems), size=RESAMPLES).astype(np.float64)


def auroc_estimate(labels: np.ndarray, scores: np.ndarray, problem: np.ndarray, draws: np.ndarray) -> Estimate | None:
    """Pooled AUROC (0-1); None without both labels. `problem` [pairs] numbers columns of `draws`."""
    if not has_both_labels(labels):
        return None
    present, numbers = np.unique(problem, return_inverse=True)
    drawn = draws[:, present]
    same = drawn @ np.bincount(numbers, weights=labels == 1)
    different = drawn @ np.bincount(numbers, weights=labels == 0)
    ordered = ((drawn @ ordered_counts(labels, scores, numbers)) * drawn).sum(1)
    total = same * different
    resampled = np.divide(ordered, total, out=np.full(len(draws), np.nan), where=total > 0)
    return Estimate(auroc(labels, scores), resampled)


def tnr_estimate(labels: np.ndarray, scores: np.ndarray, problem: np.ndarray, draws: np.ndarray) -> Estimate | None:
    """TNR at FNR 0.2 (0-1), the threshold chosen anew in every resample; None without both labels."""
    if not has_both_labels(labels):
        return None
    order = np.argsort(-scores, kind="stable")
    labels, ranked, problem = labels[order], scores[order], problem[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)  # a threshold takes all pairs of one score or none
    resampled = [_tnrs(labels, problem, last_of_tie, chunk) for chunk in np.array_split(draws, len(draws) // _CHUNK)]
    return Estimate(tnr_at_fnr(labels, ranked, MISSED), np.concatenate(resampled))


def _tnrs(labels: np.ndarray, problem: np.ndarray, last_of_tie: np.ndarray, draws: np.ndarray) -> np.ndarray:
    weights = draws[:, problem]
    caught = np.cumsum(weights * (labels == 1), axis=1)[:, last_of_tie]
    let_through = np.cumsum(weights * (labels == 0), axis=1)[:, last_of_tie]
    same, different = caught[:, -1], let_through[:, -1]
    enough = caught >= (1 - MISSED) * same[:, None] - 1e-9
    at_threshold = np.take_along_axis(let_through, enough.argmax(1)[:, None], 1)[:, 0]
    usable = (same > 0) & (different > 0)
    return 1 - np.divide(at_threshold, different, out=np.full(len(draws), np.nan), where=usable)


_VARIANTS = ((True, False), (False, True), (True, True))  # (focal, oversampling), but for plain cross-entropy
_ESTIMATORS = (("auroc", auroc_estimate), ("tnr_at_fnr20", tnr_estimate))
Estimates = dict[str, Estimate | None]


@dataclass(frozen=True)
class CellResult:
    """A cell that is done. `scores`: "<test>/<column>" → [pairs], with the columns labels, scores, problem and
    unfinished."""

    record: CellRecord
    scores: Mapping[str, np.ndarray]

    @property
    def setting(self) -> SweepSetting:
        cell = self.record.cell
        return SweepSetting(cell.rule.kind, cell.rule.k, cell.focal, cell.oversampling)


def make_sweep(kind: str, results: Sequence[CellResult], config: Mapping[str, JSON], missing_cells: int) -> Sweep:
    """Seeds of one setting are averaged."""
    groups: dict[SweepSetting, list[CellResult]] = {}
    for result in results:
        groups.setdefault(result.setting, []).append(result)
    tests = tuple(results[0].record.tests) if results else ()
    found = {setting: _estimates(members, tests) for setting, members in groups.items()}
    rows = tuple(_row(setting, members, tests, found[setting]) for setting, members in groups.items())
    best = max(rows, key=lambda row: row.auroc_unfinished.value if row.auroc_unfinished else 0.0, default=None)
    sizes = [results[0].record.tests[test] for test in tests]
    return Sweep(
        kind=kind,
        tests=tests,
        rows=rows,
        effects=tuple(_effects(found)),
        best_unfinished=best.setting if best else None,
        pairs=sum(size.pairs for size in sizes),
        problems=sum(size.problems for size in sizes),
        config=config,
        missing_cells=missing_cells,
    )


def _estimates(members: Sequence[CellResult], tests: Sequence[str]) -> Estimates:
    """Each figure of one setting, averaged over its seeds and the tests; None where the pairs lack a label."""
    columns = [
        {key: result.scores[f"{test}/{key}"] for key in ("labels", "scores", "problem", "unfinished")}
        for result in members
        for test in tests
    ]
    found: Estimates = {}
    for suffix in ("", "_unfinished"):
        for name, estimate in _ESTIMATORS:
            estimates = []
            for column in columns:
                draws = draw_problems(int(column["problem"].max()) + 1)
                kept = column["unfinished"] if suffix else np.ones(len(column["labels"]), dtype=bool)
                estimates.append(estimate(*(column[key][kept] for key in ("labels", "scores", "problem")), draws))
            found[name + suffix] = None if None in estimates else mean(estimates)
    return found


def _row(setting: SweepSetting, members: Sequence[CellResult], tests: Sequence[str], found: Estimates) -> SweepRow:
    records = [result.record for result in members]
    cells = [test for record in records for test in record.tests.values()]
    return SweepRow(
        **vars(setting),
        **vars(_figures(found)),
        whole_cut_share=float(np.mean([cell.whole_cut_share for cell in cells])),
        median_cut_share=float(np.mean([cell.median_cut_share for cell in cells])),
        mean_cut_tokens=float(np.mean([cell.mean_cut_tokens for cell in cells])),
        seeds=len(members),
        unfinished_pairs=sum(test.unfinished.pairs for test in records[0].tests.values()),
        training_cpu_s=float(np.mean([record.training.cpu_s or 0.0 for record in records])),
        tests={test: _figures(_estimates(members, [test])) for test in tests} if len(tests) > 1 else {},
    )


def _figures(found: Estimates) -> SweepFigures:
    return SweepFigures(**{name: estimate.figure() if estimate else None for name, estimate in found.items()})


def _effects(found: Mapping[SweepSetting, Estimates]) -> list[Effect]:
    """What focal loss and oversampling change against plain cross-entropy."""
    effects = []
    for cut in dict.fromkeys(setting.cut for setting in found):
        for focal, oversampling in _VARIANTS:
            for name in FIGURES:
                if differences := _differences(found, cut, (focal, oversampling), name):
                    figure = mean(differences).figure()
                    effects.append(Effect(cut, focal, oversampling, name, figure.value, figure.ci95))
    return effects


def _differences(
    found: Mapping[SweepSetting, Estimates],
    cut: Literal["words", "tokens"],
    variant: tuple[bool, bool],
    name: str,
) -> list[Estimate]:
    """For every k of a cut with both: the figure called `name` minus that of plain cross-entropy."""
    differences = []
    for setting, estimates in found.items():
        plain = found.get(SweepSetting(cut, setting.k, False, False))
        if setting.cut != cut or (setting.focal, setting.oversampling) != variant or plain is None:
            continue
        if estimates[name] and plain[name]:
            differences.append(estimates[name] - plain[name])
    return differences
