"""The options of trainers/judge_sweep.py: those of a judge, and what is varied.

Judge data is cut again and again from traces that were collected once, at the largest k. Text is cut anew from the
stored trace. Hidden states are kept only up to the cut the traces were collected at; those of an earlier cut are
their beginning, because a causal model's states do not depend on what comes later.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from secateur.deepprune.cut import CutRule, cut_pieces, ended_before_cut
from secateur.deepprune.judges.base import CutTrace
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.engines.detokenize import Detokenizer
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from trainers.judges.config import FREE_KEYS, JudgeConfig
from trainers.judges.data import load_judge_data


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

    cut_kind, cut_k, cut_share: not to be given; the cuts are those of `words` and `tokens`.
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
        left_out = {"output_dir", "cut_kind", "cut_k", "cut_share", *FREE_KEYS}
        keys = {key.name for key in dataclasses.fields(JudgeConfig)} - left_out
        return {key: value for key, value in self.to_json().items() if key in keys}


@dataclass(frozen=True)
class StoredProblem:
    """A problem at the cut its states were stored for, and the text of every token of each cut."""

    problem: LabelledProblem
    pieces: list[list[str]]


class CutAgain:
    """Judge data at any cut. States are read from disk once, at the cut they were stored for."""

    def __init__(self, config: JudgeConfig) -> None:
        """`config` without a cut of its own: own-state data is read at the cut of the folders."""
        self.config = config
        self._stored = load_judge_data(config) if config.judge_kind.reads_states else None
        if self._stored is not None:
            detokenizer = Detokenizer(self._stored.tokenizer)
            self._train, self._dev, *tests = (
                [StoredProblem(problem, [_pieces(cut, detokenizer) for cut in problem.cuts]) for problem in split]
                for split in (self._stored.train, self._stored.dev, *self._stored.tests.values())
            )
            self._tests = dict(zip(self._stored.tests, tests, strict=True))

    def at(self, rule: CutRule) -> JudgeData:
        """All splits at `rule`; raises `InputError` where the stored states end too early."""
        if self._stored is None:
            return load_judge_data(dataclasses.replace(self.config, cut_kind=rule.kind, cut_k=rule.k))
        try:
            train, dev = ([shorter(entry, rule) for entry in split] for split in (self._train, self._dev))
            tests = {name: [shorter(entry, rule) for entry in split] for name, split in self._tests.items()}
        except TooShort as error:
            stored = self._stored.cut_rule
            raise InputError(
                f"key '{rule.kind}' names {rule.k}, but the stored states end at {stored.k} {stored.kind}: {error}; "
                "collect the traces at a larger cut or leave this k out"
            ) from None
        return dataclasses.replace(self._stored, train=train, dev=dev, tests=tests, cut_rule=rule)


class TooShort(Exception):
    """The stored cut ends before the one that is asked for."""


def _pieces(cut: CutTrace, detokenizer: Detokenizer) -> list[str]:
    stream = detokenizer.stream()
    return [stream.push(token) for token in cut.token_ids]


def shorter(stored: StoredProblem, rule: CutRule) -> LabelledProblem:
    """The problem at an earlier cut; its pairs and labels stay, which of them are unfinished may change.

    Raises `TooShort` where an unfinished cut has not reached the earlier one.
    """
    problem = stored.problem
    columns = zip(problem.cuts, stored.pieces, problem.whole, problem.cut_shares, strict=True)
    cuts, whole, shares = (
        tuple(column) for column in zip(*(_earlier(*entry, rule) for entry in columns), strict=True)
    )
    complete = np.array(whole, dtype=bool)
    unfinished = ~(complete[problem.pairs.first] | complete[problem.pairs.second])
    pairs = dataclasses.replace(problem.pairs, unfinished=unfinished)
    return dataclasses.replace(problem, cuts=cuts, whole=whole, cut_shares=shares, pairs=pairs)


def _earlier(
    cut: CutTrace, pieces: Sequence[str], whole: bool, share: float, rule: CutRule
) -> tuple[CutTrace, bool, float]:
    """The earlier cut, whether it is the whole trace, and its share (0-1) of the trace."""
    found = cut_pieces(pieces, rule)
    if found.n_tokens is None:
        if not whole:
            raise TooShort(f"one of the traces has not reached {rule.k} {rule.kind} by then")
        return cut, True, share
    tokens, length = found.n_tokens, round(len(cut.token_ids) / share)
    # The newest token of a cut was sampled but not yet read, so it has no state.
    states = None if cut.states is None else cut.states[: tokens - 1]
    earlier = dataclasses.replace(cut, token_ids=cut.token_ids[:tokens], text=found.text, states=states)
    return earlier, ended_before_cut(length, tokens), tokens / length
