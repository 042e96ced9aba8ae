"""Prompts that are drawn while a round trains (`dynamic_prompts`): those whose completions still differ.

A group in which all completions earn the same gives no gradient. DAPO (Yu et al., arXiv 2503.14476, section 3.2)
samples on until a batch has none of these; here a batch keeps its size, and its prompts are drawn from those whose
last group was mixed and those not seen yet, the least often drawn first. Where these are too few, others follow.

The trainer's loader reads one batch ahead, so that batch b is drawn by the groups of the batches up to b - 2. What is
drawn follows from the seed and from these groups alone, which stand in groups.jsonl of the round: a resume cuts it
back to its checkpoint and draws what was drawn before. Every process sees the groups of all and draws for itself.
"""

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from schedules.rounds import Round
from secateur.runtime.console import MetricLog
from secateur.runtime.files import read_jsonl

GROUPS = "groups.jsonl"
_DELAY = 2  # batches from a group to the first draw that knows it


class PromptDrawer:
    """Which problem stands in which row of a round's dataset; batch b has the rows from b × `prompts` on.

    problems: how many there are. seed, round_: what chance is made of.
    """

    def __init__(self, problems: int, prompts: int, seed: int, round_: Round) -> None:
        self.problems, self.prompts, self._chance = problems, prompts, f"{seed}|{round_.index}"
        self._drawn: list[list[int]] = []
        self._mixed: dict[int, Sequence[bool]] = {}
        self._eligible, self._times = [True] * problems, [0] * problems

    def note(self, batch: int, mixed: Sequence[bool]) -> None:
        """The groups of a batch in the order of its rows: whether their completions earned different rewards."""
        self._mixed[batch] = mixed

    def problem_of(self, row: int) -> int:
        """Raises `KeyError` for a row that is asked for before the groups are known that it is drawn by."""
        batch, place = divmod(row, self.prompts)
        while len(self._drawn) <= batch:
            self._settle(len(self._drawn) - _DELAY)
            self._drawn.append(self._draw())
        return self._drawn[batch][place]

    def _settle(self, batch: int) -> None:
        """Take note of whose groups were mixed in a batch; one that was drawn twice needs one that was."""
        if batch < 0:
            return
        found: dict[int, bool] = {}
        for problem, mixed in zip(self._drawn[batch], self._mixed[batch], strict=True):
            found[problem] = found.get(problem, False) or mixed
        for problem, mixed in found.items():
            self._eligible[problem] = mixed

    def _draw(self) -> list[int]:
        drawn: list[int] = []
        while len(drawn) < self.prompts:
            order = sorted(range(self.problems), key=self._place)[: self.prompts - len(drawn)]
            for problem in order:
                self._times[problem] += 1
            drawn += order
        return drawn

    def _place(self, problem: int) -> tuple[bool, int, float]:
        times = self._times[problem]
        return not self._eligible[problem], times, random.Random(f"{self._chance}|{times}|{problem}").random()


class GroupLog:
    """groups.jsonl of a round, on every process: what it holds already, the `drawer` is told.

    steps_per_batch: optimiser steps that use one batch.
    """

    def __init__(self, round_folder: Path, drawer: PromptDrawer, steps_per_batch: float) -> None:
        self.drawer, self.steps_per_batch = drawer, steps_per_batch
        self._log = MetricLog(round_folder / GROUPS)
        if self._log.path.is_file():
            for _, line in read_jsonl(self._log.path):
                drawer.note(line["batch"], line["mixed"])

    def __call__(self, rewards: Mapping[int, Sequence[float | None]]) -> None:
        """Take note of a batch: row → the rewards of its completions, on whichever process they are."""
        batch = min(rewards) // self.drawer.prompts
        mixed = [len({one for one in rewards[row] if one is not None}) > 1 for row in sorted(rewards)]
        self.drawer.note(batch, mixed)
        last_step = math.ceil((batch + 1) * self.steps_per_batch)
        self._log.write(step=last_step, batch=batch, mixed=mixed)
