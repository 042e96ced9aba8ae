"""What a method is told about a problem and what it answers. Pure data, no torch."""

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.deepprune.cut import ended_before_cut
from secateur.engines.accounting import NO_JUDGE, JudgeUsage, Usage


@dataclass(frozen=True)
class ReplayTrace:
    """One finished trace: the key of its answer (None: it gave none) and its length [tokens]; `cut_tokens` [tokens]
    is None for a trace that ended before its cut."""

    key: Hashable | None
    n_tokens: int
    cut_tokens: int | None

    @property
    def whole(self) -> bool:
        """It ended before its cut, so that nothing more can be saved."""
        return ended_before_cut(self.n_tokens, self.cut_tokens)


@dataclass(frozen=True)
class ReplayProblem:
    """The n traces of one problem by one model, and what its judge said.

    Equal answers have equal keys; `right` are the keys of right ones, which may be none or several (50 % and 0.5 for
    a gold answer of 0.5).
    """

    problem_id: str
    right: frozenset[Hashable]
    traces: tuple[ReplayTrace, ...]
    decision_seed: int = 0
    scores: np.ndarray | None = None
    """[n, n] probability (0-1) that two traces will end in the same answer, read at their cuts."""
    judge_usage: JudgeUsage = NO_JUDGE

    @property
    def keys(self) -> list[Hashable | None]:
        return [trace.key for trace in self.traces]


@dataclass(frozen=True)
class Outcome:
    """One method on one problem: expected accuracy (0-1), expected tokens, expected number of finished traces.

    `oracle` (0-1), where traces are chosen: how often one of those that vote is right, so what the choice left over.
    """

    accuracy: float
    usage: Usage
    finished: float
    oracle: float | None = None


@dataclass(frozen=True)
class Pruned:
    """A pruning rule on one problem in one order of its traces; traces are numbered as in the problem.

    `labels` [n] are the clusters, None where unassigned; `kept_tokens` [n] is how far each trace would have run.
    """

    survivors: list[int]
    labels: list[int | None]
    kept_tokens: list[int]
    key: Hashable | None
    usage: Usage
    judge_failure: str | None


@dataclass(frozen=True)
class ConfidenceProfile:
    """All that DeepConf (deepconf.py) asks of one trace: `mean` token confidence, and each new low of its group
    confidence,
    `lows` descending, with `tokens` ascending, how many were generated when it was seen. A trace shorter than the
    window has no group: it is never stopped, and its confidence is its mean."""

    mean: float
    lows: np.ndarray
    tokens: np.ndarray

    @property
    def lowest(self) -> float:
        return float(self.lows[-1]) if len(self.lows) else self.mean

    def stopped_at(self, bar: float) -> int | None:
        """Tokens generated when the group confidence first lies below `bar`; None if it never does."""
        place = int(np.searchsorted(-self.lows, -bar, side="right"))
        return int(self.tokens[place]) if place < len(self.lows) else None


def confidence_profile(confidences: Sequence[float], window: int) -> ConfidenceProfile:
    """`confidences` [tokens], one per token of a whole trace."""
    values = np.asarray(confidences, dtype=np.float64)
    if not len(values):
        raise ValueError("a trace has at least one token")
    sums = np.concatenate([[0.0], values.cumsum()])
    groups = np.round((sums[window:] - sums[:-window]) / window, 6)  # equal confidences have equal means
    before = np.concatenate([[np.inf], np.minimum.accumulate(groups)[:-1]]) if len(groups) else groups
    places = np.flatnonzero(groups < before)
    return ConfidenceProfile(float(values.mean()), groups[places], places + window)


def part(problem: ReplayProblem, chosen: np.ndarray) -> ReplayProblem:
    """The problem as if only the `chosen` traces [m] had been sampled, in that order; the judge's usage is the part
    of
    the stored one that falls to them."""
    places = chosen.tolist()
    return ReplayProblem(
        problem.problem_id,
        problem.right,
        tuple(problem.traces[place] for place in places),
        problem.decision_seed,
        None if problem.scores is None else problem.scores[np.ix_(chosen, chosen)],
        problem.judge_usage.part(places),
    )


def blocks(stored: int, n: int) -> list[np.ndarray]:
    """The places [n] of each of the ⌊stored ÷ n⌋ disjoint blocks of traces, the first n traces first.

    >>> [block.tolist() for block in blocks(5, 2)]
    [[0, 1], [2, 3]]
    """
    return [np.arange(first, first + n) for first in range(0, stored - n + 1, n)]


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """One problem's expected accuracy, tokens and finished traces over draws or blocks of its traces."""
    shares = [outcome.oracle for outcome in outcomes if outcome.oracle is not None]
    return Outcome(
        float(np.mean([outcome.accuracy for outcome in outcomes])),
        mean_usage([outcome.usage for outcome in outcomes]),
        float(np.mean([outcome.finished for outcome in outcomes])),
        float(np.mean(shares)) if shares else None,
    )


def mean_usage(usages: Sequence[Usage]) -> Usage:
    """Field by field the mean of usages; fields become fractional."""
    fields = [field.name for field in dataclasses.fields(Usage)]
    return Usage(**{name: float(np.mean([getattr(usage, name) for usage in usages])) for name in fields})


def oracle_share(problem: ReplayProblem, chosen: Sequence[Sequence[int]]) -> float:
    """The share of the choices of traces in which at least one is right."""
    return float(np.mean([any(problem.traces[index].key in problem.right for index in traces) for traces in chosen]))


def rng_for(problem: ReplayProblem, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the problem and the purpose, not on the order in which either is asked for."""
    return np.random.default_rng([problem.decision_seed, *purpose.encode()])


def trace_orders(problem: ReplayProblem, orders: int) -> list[list[int]]:
    """`orders` orders of the traces: the stored one first, then random ones, the same for every method."""
    rng, n = rng_for(problem, "orders"), len(problem.traces)
    return [list(range(n)), *(rng.permutation(n).tolist() for _ in range(orders - 1))]
