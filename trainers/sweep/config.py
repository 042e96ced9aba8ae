"""The options of trainers/judge_sweep.py: those of a judge, and what is varied."""

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path

from secateur.deepprune.cut import CutRule
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from trainers.judges.config import FREE_KEYS, JudgeConfig


@dataclass(frozen=True)
class SweepCell:
    """One training of a sweep: where traces are cut, with focal loss or plain cross-entropy, the rarer label counted
    more often or once, from which seed."""

    rule: CutRule
    focal: bool
    oversampling: bool
    seed: int

    @property
    def name(self) -> str:
        loss = "focal" if self.focal else "plain"
        sampling = "oversampled" if self.oversampling else "even"
        return f"{self.rule.kind}-{self.rule.k}-{loss}-{sampling}-seed-{self.seed}"


@dataclass(kw_only=True)
class JudgeSweepConfig(JudgeConfig):
    """All keys of trainers/judge.py but the cut, and what is varied.

    cut_kind, cut_k: not to be given; the cuts are those of `words` and `tokens`.
    report_to: none; a sweep keeps its figures in files.
    words, tokens: the k of each cut.
    focal: with `focal_gamma` and `focal_alpha` (true), or plain cross-entropy (false).
    oversampling: the rarer label counted `minority_factor` times (true), or once (false).
    seeds: trainings of a setting, averaged.
    keep_judges: leave every cell's judge in its folder.
    cells_per_launch: end after so many cells (launchers that do not give memory back between trainings); null: train
      all.
    """

    words: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    focal: list[bool] = field(default_factory=lambda: [True, False])
    oversampling: list[bool] = field(default_factory=lambda: [True, False])
    seeds: list[int] = field(default_factory=lambda: [0])
    keep_judges: bool = False
    cells_per_launch: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_judge_keys()
        self._check_cells()

    def _check_judge_keys(self) -> None:
        """Raise `InputError` for keys of a judge that a sweep has no use for."""
        if self.cut_kind is not None:
            raise InputError(
                "keys 'cut_kind' and 'cut_k' give one cut; a sweep takes its cuts from 'words' and 'tokens'"
            )
        if self.report_to != "none":
            raise InputError(
                f"key 'report_to' has the value '{self.report_to}': a sweep keeps its figures in files; write none"
            )
        if self.dry_run:
            raise InputError("key 'dry_run' has the value true: a sweep has no plan; ask trainers/judge.py for one")
        if self.push_to_hub:
            raise InputError("key 'push_to_hub' has the value true: a sweep makes no judge to share; leave it out")

    def _check_cells(self) -> None:
        if not self.words and not self.tokens:
            raise InputError(
                "keys 'words' and 'tokens' are both empty; name the k to try, for example words: [10, 25]"
            )
        for key in ("focal", "oversampling", "seeds"):
            if not getattr(self, key):
                raise InputError(f"key '{key}' is empty; give at least one value")
        if not self.epochs and len(self.focal) * len(self.oversampling) * len(self.seeds) > 1:
            raise InputError(
                "key 'epochs' has the value 0, so losses and seeds make no difference; give 'focal', 'oversampling' "
                "and 'seeds' one value each"
            )
        if self.cells_per_launch is not None and self.cells_per_launch < 1:
            raise InputError(f"key 'cells_per_launch' has the value {self.cells_per_launch}; it must be at least 1")
        self.cells()  # every k is one that a cut can have

    def cells(self) -> list[SweepCell]:
        """All cells, those of one cut together; a value given twice counts once."""
        rules = [CutRule("words", k) for k in self.words] + [CutRule("tokens", k) for k in self.tokens]
        settings = itertools.product(rules, self.focal, self.oversampling, self.seeds)
        return list(dict.fromkeys(SweepCell(*values) for values in settings))

    def of_cell(self, cell: SweepCell) -> JudgeConfig:
        """What trainers/judge.py would be given for this cell, but for the cut, which is made here."""
        values = {key.name: getattr(self, key.name) for key in dataclasses.fields(JudgeConfig)}
        values |= {"output_dir": str(Path(self.output_dir) / "cells" / cell.name), "seed": cell.seed}
        if not cell.focal:
            values |= {"focal_gamma": 0.0, "focal_alpha": None}
        if not cell.oversampling:
            values["minority_factor"] = 1.0
        return JudgeConfig(**values)

    def common(self) -> dict[str, JSON]:
        """What all cells share; stored cells must have been trained with the same."""
        left_out = {"output_dir", "cut_kind", "cut_k", *FREE_KEYS}
        keys = {key.name for key in dataclasses.fields(JudgeConfig)} - left_out
        return {key: value for key, value in self.to_json().items() if key in keys}
