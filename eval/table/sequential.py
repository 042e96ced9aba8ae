"""Methods that sample until the answers agree, replayed on stored traces: Adaptive-Consistency and early stopping.

Each takes the traces of a problem in one order and says who votes, for what, and what that costs; `average` is the
mean over orders. They are sequential: a trace is begun only when others have ended, so their `longest_path` is the
sum of the tokens that have to be generated one after another."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.table.method import (
    Method,
    Outcome,
    Parameters,
    ReplayKeys,
    ReplayModel,
    ReplayProblem,
    Result,
    mean_usage,
    oracle_share,
    trace_orders,
)
from eval.table.votes import EQUAL_TOKENS, controls_of
from secateur.deepprune.vote import majority, majority_stays
from secateur.engines.accounting import Usage
from secateur.runtime.errors import InputError


@dataclass(frozen=True)
class Voters:
    """One run of a method on one problem: the traces that vote, their answer, and what was spent."""

    survivors: list[int]
    key: Hashable | None
    usage: Usage


def average(problem: ReplayProblem, runs: Sequence[Voters]) -> Outcome:
    """The mean over runs."""
    right = [run.key in problem.right for run in runs]
    voters = float(np.mean([len(run.survivors) for run in runs]))
    usage = mean_usage([run.usage for run in runs])
    return Outcome(float(np.mean(right)), usage, voters, oracle_share(problem, [run.survivors for run in runs]))


def adaptive_consistency(problem: ReplayProblem, orders: int, threshold: float = 0.95) -> list[Voters]:
    """Adaptive-Consistency (arXiv 2305.11860, §3, its Beta criterion): one trace after another, until the majority
    stays what it is with probability `threshold`. Traces without an answer cost, but do not count."""
    return [
        _first_of(problem, order, adaptive_stop([problem.traces[i].key for i in order], threshold), group=1)
        for order in trace_orders(problem, orders)
    ]


def adaptive_stop(keys: Sequence[Hashable | None], threshold: float) -> int:
    """How many of the answers, in this order, are drawn before sampling stops."""
    counts: dict[Hashable, int] = {}
    for drawn, key in enumerate(keys, start=1):
        if key is None:
            continue
        counts[key] = counts.get(key, 0) + 1
        first, second = (*sorted(counts.values(), reverse=True)[:2], 0)[:2]
        if majority_stays(first, second) >= threshold:
            return drawn
    return len(keys)


def early_stopping(problem: ReplayProblem, orders: int, window: int = 5) -> list[Voters]:
    """Early-stopping self-consistency (arXiv 2401.10480, algorithm 1): windows of `window` traces, one window after
    another, until all answers of one are the same; all traces sampled so far vote. A trace without an answer agrees
    with nobody. The traces of one window run side by side."""
    return [
        _first_of(problem, order, window_stop([problem.traces[i].key for i in order], window), group=window)
        for order in trace_orders(problem, orders)
    ]


def window_stop(keys: Sequence[Hashable | None], window: int) -> int:
    """How many of the answers, in this order, are drawn before sampling stops; the last window ends it anyway."""
    for end in range(window, len(keys), window):
        found = set(keys[end - window : end])
        if len(found) == 1 and None not in found:
            return end
    return len(keys)


def _first_of(problem: ReplayProblem, order: Sequence[int], count: int, group: int) -> Voters:
    """The vote of the first `count` traces, sampled `group` at a time."""
    drawn = list(order[:count])
    lengths = [problem.traces[index].n_tokens for index in drawn]
    path = sum(max(lengths[first : first + group]) for first in range(0, count, group))
    key = majority([problem.traces[index].key for index in drawn])
    return Voters(sorted(drawn), key, Usage(generated=sum(lengths), longest_path=path))


def one_row_of_orders(
    model: ReplayModel, name: str, keys: ReplayKeys, runs_of: Callable[[ReplayProblem], list[Voters]]
) -> list[Result]:
    """They vote over traces taken at random, so the control is the same number of tokens, not of traces."""
    parameters = Parameters(model.parameters)
    outcomes = [average(problem, runs_of(problem)) for problem in model.plain]
    controls = controls_of(model.plain, outcomes, parameters, keys, (EQUAL_TOKENS,))
    return [Result(model.name, name, None, parameters, outcomes, controls=controls)]


@dataclass(kw_only=True)
class AdaptiveConsistencyKeys(ReplayKeys):
    """adaptive_threshold: Adaptive-Consistency stops once the majority stays with this probability (0-1)."""

    adaptive_threshold: float = 0.95


@dataclass(kw_only=True)
class EarlyStoppingKeys(ReplayKeys):
    """early_window: early stopping: so many answers in a row that agree."""

    early_window: int = 5


def _run_adaptive(model: ReplayModel, keys: AdaptiveConsistencyKeys) -> list[Result]:
    runs = lambda problem: adaptive_consistency(problem, keys.orders, keys.adaptive_threshold)  # noqa: E731
    return one_row_of_orders(model, ADAPTIVE_CONSISTENCY.name, keys, runs)


def _run_early(model: ReplayModel, keys: EarlyStoppingKeys) -> list[Result]:
    return one_row_of_orders(
        model, EARLY_STOPPING.name, keys, lambda problem: early_stopping(problem, keys.orders, keys.early_window)
    )


def check_share(key: str, value: float) -> None:
    """Raise `InputError` unless a key's value is a share above 0, at most 1."""
    if not 0 < value <= 1:
        raise InputError(f"key '{key}' has the value {value}; write a number above 0, at most 1")


def _check_window(keys: EarlyStoppingKeys) -> None:
    if keys.early_window < 1:
        raise InputError(f"key 'early_window' has the value {keys.early_window}; it must be at least 1")


ADAPTIVE_CONSISTENCY = Method(
    "adaptive_consistency",
    "adaptive consistency",
    "M-2-6.5h4v4.5h4.5v4h-4.5v4.5h-4v-4.5h-4.5v-4h4.5Z",
    _run_adaptive,
    AdaptiveConsistencyKeys,
    lambda keys: check_share("adaptive_threshold", keys.adaptive_threshold),
    is_rival=True,
)
EARLY_STOPPING = Method(
    "early_stopping",
    "early stopping",
    "M-6-3.5-3.5-6 0-2.5 3.5-6 6-3.5 2.5 0 6 3.5 3.5 6 0 2.5-3.5 6-6 3.5-2.5 0Z",
    _run_early,
    EarlyStoppingKeys,
    _check_window,
    is_rival=True,
)
