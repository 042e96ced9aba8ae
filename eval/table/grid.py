"""The grid of a combined run: every method of every model on one benchmark with one n is a cell. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TypeVar

import numpy as np

from eval.table.config import CombinedConfig
from eval.table.labels import ALL
from eval.table.method import ReplayModel, Result, mean_outcomes, mean_result
from eval.table.problems import Outcome
from eval.table.provenance import Seen
from eval.table.registry import METHODS
from eval.table.rows import BaseConsensus
from eval.table.votes import consensus
from secateur.results import LiveEntry
from secateur.runtime.console import progress

T = TypeVar("T")
ModelAndJudge = tuple[str, str | None]
"""A model, and a judge of it or None."""


@dataclass(frozen=True)
class GridCell:
    """All results on one benchmark with n traces of each problem.

    `seen`: what each model, with each of its judges, had seen of the benchmark; `prompt_tokens`: model → mean length
    of a prompt, 0 where no prices ask for it; `judge_kinds`: the kind of each judge.
    """

    benchmark: str
    n: int
    results: list[Result]
    reference: BaseConsensus
    seen: Mapping[ModelAndJudge, Seen]
    prompt_tokens: Mapping[str, float]
    judge_kinds: Mapping[ModelAndJudge, str]

    @property
    def problems(self) -> int:
        return len(self.reference.votes[self.reference.model])

    def timed(self, live: Sequence[LiveEntry]) -> "GridCell":
        """With the wall time of the methods of which all problems ran live; `live` are those of this n."""
        walls = {
            (entry.model, entry.method, entry.judge): entry.live.wall_s
            for entry in live
            if entry.problems == self.problems
        }
        results = [
            replace(one, wall_s=walls.get((one.model, one.method, one.judge), one.wall_s)) for one in self.results
        ]
        return replace(self, results=results)


def measure_cells(
    config: CombinedConfig,
    benchmark: str,
    models: Mapping[str, ReplayModel],
    seen: Mapping[ModelAndJudge, Seen],
) -> list[GridCell]:
    """Replay every method of every model at every n; the cells have the largest n first."""
    sizes, measured = config.sizes[::-1], {}
    replays = len(models) * sum(config.largest_n // n for n in sizes)
    with progress(f"{benchmark}: methods", replays) as shown:
        for n in sizes:
            for name, found in models.items():
                measured[name, n] = _measure(found, config.of_size(n))
                shown.advance(config.largest_n // n, note=f"{name}, n = {n}")
    parameters = {name: found.parameters for name, found in models.items()}
    prompts = {name: found.prompt_tokens for name, found in models.items()}
    kinds = {(name, judge): kind for name, found in models.items() for judge, kind in found.judge_kinds.items()}
    cells = []
    for n in sizes:
        votes = {name: measured[name, n].votes for name in models}
        results = [result for name in models for result in measured[name, n].results]
        reference = BaseConsensus(config.base, votes, parameters)
        cells.append(GridCell(benchmark, n, results, reference, seen, prompts, kinds))
    return cells


@dataclass(frozen=True)
class _Measured:
    results: list[Result]
    votes: list[Outcome]


def results_of_model(model: ReplayModel, config: CombinedConfig) -> list[Result]:
    """Every method that the config asks for, on one model."""
    asked = [METHODS[name] for name in METHODS if name in config.methods]
    return [result for method in asked if method.run is not None for result in method.run(model, config)]


def _measure(model: ReplayModel, config: CombinedConfig) -> _Measured:
    """One model at the config's only n, the mean over the blocks of its traces."""
    parts = model.blocks(config.largest_n)
    found = [results_of_model(part, config) for part in parts]
    results = [mean_result(same) for same in zip(*found, strict=True)]
    votes = mean_outcomes([[consensus(problem) for problem in part.plain] for part in parts])
    return _Measured(results, votes)


def together(cells: Sequence[GridCell]) -> GridCell:
    """The cells of several benchmarks with the same n as one: every problem of every benchmark counts once."""
    first, weights = cells[0], [cell.problems for cell in cells]
    votes = {name: _joined([cell.reference.votes[name] for cell in cells]) for name in first.reference.votes}
    return GridCell(
        ALL,
        first.n,
        [_together(found) for found in zip(*(cell.results for cell in cells), strict=True)],
        replace(first.reference, votes=votes),
        {key: reduce(or_, (cell.seen[key] for cell in cells)) for key in first.seen},
        {
            name: float(np.average([cell.prompt_tokens[name] for cell in cells], weights=weights))
            for name in first.prompt_tokens
        },
        first.judge_kinds,
    )


def _together(found: Sequence[Result]) -> Result:
    """The same method of the same model on several benchmarks."""
    times = [one.wall_s for one in found]
    return replace(
        found[0],
        outcomes=_joined([one.outcomes for one in found]),
        wall_s=None if None in times else sum(times),
        controls={name: _joined([one.controls[name] for one in found]) for name in found[0].controls},
    )


def _joined(parts: Sequence[Sequence[T]]) -> list[T]:
    return [one for part in parts for one in part]
