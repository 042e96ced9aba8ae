"""What a method of the table is: a way of answering with n traces, replayed on the stored traces of a model.

A new one is a file with a `Method` and a line in registry.py. Its `run` gets the traces of a model and the keys of
the config, and returns one `Result` per row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from eval.table.problems import ConfidenceProfile, Outcome, ReplayProblem, blocks, mean_outcome, part


@dataclass(frozen=True)
class Parameters:
    """Parameters of the models that spend tokens: the unit in which costs of different models can be added. `judge`
    is 0 where no judge reads tokens."""

    generator: int
    judge: int = 0


@dataclass(frozen=True)
class ReplayModel:
    """One model: its problems without a judge, and once more for every judge, in the same order.

    `judge_kinds` and `judge_parameters` have the keys of `judged`; `pruned_by` names the judges of the pruning rules,
    `similarity` the one of "embedding". `confidences` are those of each problem's traces, empty where no method asks
    for them. `wall_s`: wall time of sampling all traces [seconds], None where none were sampled. `prompt_tokens`:
    mean length of a prompt [tokens], 0 where no prices ask for it."""

    name: str
    parameters: int
    plain: list[ReplayProblem]
    judged: dict[str, list[ReplayProblem]] = field(default_factory=dict)
    judge_parameters: dict[str, int] = field(default_factory=dict)
    judge_kinds: dict[str, str] = field(default_factory=dict)
    pruned_by: list[str] = field(default_factory=list)
    similarity: str | None = None
    confidences: list[list[ConfidenceProfile]] = field(default_factory=list)
    wall_s: float | None = None
    prompt_tokens: float = 0.0

    def part(self, chosen: np.ndarray) -> "ReplayModel":
        """As if only the `chosen` traces [m] of each problem had been sampled."""
        return replace(
            self,
            plain=[part(problem, chosen) for problem in self.plain],
            judged={judge: [part(problem, chosen) for problem in found] for judge, found in self.judged.items()},
            confidences=[[traces[place] for place in chosen] for traces in self.confidences],
            wall_s=None,
        )

    def blocks(self, n: int) -> "list[ReplayModel]":
        """The disjoint blocks of n traces: this model itself where n is all of them."""
        stored = len(self.plain[0].traces)
        return [self] if n == stored else [self.part(chosen) for chosen in blocks(stored, n)]


@dataclass(frozen=True)
class Result:
    """One method of one model on all problems.

    `controls` are what it is compared with, problem by problem; `wall_s` [seconds] where it was measured.
    """

    model: str
    method: str
    judge: str | None
    parameters: Parameters
    outcomes: list[Outcome]
    wall_s: float | None = None
    controls: Mapping[str, list[Outcome]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Names the row within its table: model/method, and the judge where there is one."""
        return "/".join(part for part in (self.model, self.method, self.judge) if part)


def mean_result(found: Sequence[Result]) -> Result:
    """One method on several blocks of the same problems' traces: the mean, problem by problem."""
    if len(found) == 1:
        return found[0]
    controls = {name: mean_outcomes([one.controls[name] for one in found]) for name in found[0].controls}
    return replace(found[0], outcomes=mean_outcomes([one.outcomes for one in found]), controls=controls)


def mean_outcomes(found: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """Problem by problem the mean over blocks."""
    if len(found) == 1:
        return list(found[0])
    return [mean_outcome(outcomes) for outcomes in zip(*found, strict=True)]


@dataclass(kw_only=True)
class ReplayKeys:
    """The keys that every method may ask.

    methods: single, consensus, deepprune, random_traces, consensus_equal_tokens, adaptive_consistency,
      early_stopping, deepconf_low, deepconf_high, embedding, oracle.
    orders: orders of the traces that methods are averaged over which take them one after another; draws: random
      draws of the other methods.
    """

    methods: list[str] = field(
        default_factory=lambda: ["single", "consensus", "deepprune", "random_traces", "consensus_equal_tokens"]
    )
    orders: int = 20
    draws: int = 100


K = TypeVar("K", bound=ReplayKeys)


def _always(keys: ReplayKeys, n: int) -> bool:
    return True


def _nothing_to_check(keys: ReplayKeys) -> None:
    return None


def _any_n(keys: ReplayKeys, n: int) -> None:
    return None


@dataclass(frozen=True)
class Method:
    """All there is to know of a method.

    name: in configs and rows; label: in tables and reports; mark: path of its mark in the frontier's plot, SVG, about
      14 wide around the origin.
    run: the rows of one model; None for controls, whose rows come with those of the method `beside`.
    keys: dataclass of the options that are its own; check: raises `InputError` for options that cannot be, asked for
    or
      not; require: raises it where n traces, the most that a run samples, are too few.
    runs_at: whether it can be run with n traces.
    prunes: it asks the judges of a model; reads_similarity, reads_confidences: it needs scores or token confidences.
    is_bound: a bound or a control, that nobody can run by itself; is_rival: pruning rules are compared with it,
    paired
      by problem; depends_on_n: False where every n comes to the same.
    """

    name: str
    label: str
    mark: str
    run: Callable[[ReplayModel, K], list[Result]] | None
    keys: type[ReplayKeys] = ReplayKeys
    check: Callable[[K], None] = _nothing_to_check
    require: Callable[[K, int], None] = _any_n
    runs_at: Callable[[K, int], bool] = _always
    beside: str | None = None
    prunes: bool = False
    reads_similarity: bool = False
    reads_confidences: bool = False
    is_bound: bool = False
    is_rival: bool = False
    depends_on_n: bool = True
