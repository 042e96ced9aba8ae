"""sweep.json from the cells that are done: figures of every setting, and what the losses change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from secateur.runtime.files import JSON
from trainers.sweep.estimates import Estimate, auroc_estimate, draw_problems, mean, tnr_estimate
from trainers.sweep.record import FIGURES, CellRecord, Effect, Sweep, SweepFigures, SweepRow, SweepSetting

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
