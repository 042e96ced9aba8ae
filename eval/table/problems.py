"""What a method is told about a problem and what it answers. Pure data, no torch."""

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.deepprune.cut import ended_before_cut
from secateur.engines.accounting import NO_JUDGE, JudgeUsage, Usage


@dataclass(frozen=True)
class TraceRecord:
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
class ProblemRecord:
    """The n traces of one problem by one model, and what its judge said.

    Equal answers have equal keys; `right` are the keys of right ones, which may be none or several (50 % and 0.5 for
    a gold answer of 0.5).
    """

    problem_id: str
    right: frozenset[Hashable]
    traces: tuple[TraceRecord, ...]
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


def part(record: ProblemRecord, chosen: np.ndarray) -> ProblemRecord:
    """The problem as if only the `chosen` traces [m] had been sampled, in that order; the judge's usage is the part
    of
    the stored one that falls to them."""
    places = chosen.tolist()
    return ProblemRecord(
        record.problem_id,
        record.right,
        tuple(record.traces[place] for place in places),
        record.decision_seed,
        None if record.scores is None else record.scores[np.ix_(chosen, chosen)],
        record.judge_usage.part(places),
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


def oracle_share(record: ProblemRecord, chosen: Sequence[Sequence[int]]) -> float:
    """The share of the choices of traces in which at least one is right."""
    return float(np.mean([any(record.traces[index].key in record.right for index in traces) for traces in chosen]))


def rng_for(record: ProblemRecord, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the problem and the purpose, not on the order in which either is asked for."""
    return np.random.default_rng([record.decision_seed, *purpose.encode()])


def trace_orders(record: ProblemRecord, orders: int) -> list[list[int]]:
    """`orders` orders of the traces: the stored one first, then random ones, the same for every method."""
    rng, n = rng_for(record, "orders"), len(record.traces)
    return [list(range(n)), *(rng.permutation(n).tolist() for _ in range(orders - 1))]
