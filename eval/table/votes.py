"""Methods that choose no traces: one trace, the consensus of all n, and any right trace as their upper bound.

Chance is averaged out where it can be. A method's outcome on a problem is therefore an expectation: accuracy is a
fraction (0-1), tokens may be fractional.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from eval.table.method import (
    Method,
    Outcome,
    Parameters,
    ReplayKeys,
    ReplayModel,
    ReplayProblem,
    ReplayTrace,
    Result,
    mean_usage,
    one_row,
    rng_for,
)
from secateur.deepprune.vote import majority
from secateur.engines.accounting import Usage, net_cost

RANDOM_TRACES, EQUAL_TOKENS = "random_traces", "consensus_equal_tokens"


def full_cost(traces: Iterable[ReplayTrace]) -> Usage:
    """Tokens of traces that all run to their end, side by side."""
    lengths = [trace.n_tokens for trace in traces]
    return Usage(generated=sum(lengths), longest_path=max(lengths, default=0))


def _is_right(problem: ReplayProblem, keys: Sequence[Hashable | None]) -> bool:
    return bool(keys) and majority(keys) in problem.right


def single(problem: ReplayProblem) -> Outcome:
    """One trace and its answer: the mean over all samples (pass@1)."""
    right = [trace.key in problem.right for trace in problem.traces]
    usages = [full_cost([trace]) for trace in problem.traces]
    return Outcome(float(np.mean(right)), mean_usage(usages), 1.0)


def consensus(problem: ReplayProblem) -> Outcome:
    """Majority vote over all n traces."""
    return Outcome(float(_is_right(problem, problem.keys)), full_cost(problem.traces), len(problem.traces))


def oracle(problem: ReplayProblem) -> Outcome:
    """Right if any of the n traces is: what a perfect choice among them would reach."""
    right = not problem.right.isdisjoint(problem.keys)
    return Outcome(float(right), full_cost(problem.traces), len(problem.traces))


def vote_of_some(problem: ReplayProblem, count: float, draws: int, rng: np.random.Generator) -> Outcome:
    """Vote of `count` traces drawn at random without replacement, averaged over draws.

    A fractional count means the whole number above with the probability that makes the expected count, and with it
    the expected tokens, exactly `count`: each draw is scored at both whole numbers and weighted. No trace, no answer.
    """
    n = len(problem.traces)
    count = min(max(count, 0.0), float(n))
    lower, upper = math.floor(count), math.ceil(count)
    share = count - lower
    orders = np.stack([rng.permutation(n) for _ in range(draws)])
    lengths = np.array([trace.n_tokens for trace in problem.traces])
    accuracy, longest = 0.0, 0.0
    for size, weight in ((lower, 1.0 - share), (upper, share)):
        if weight and size:
            accuracy += weight * _share_right(problem, orders[:, :size])
            longest += weight * float(lengths[orders[:, :size]].max(axis=1).mean())
    usage = Usage(generated=count * float(lengths.mean()), longest_path=longest)
    return Outcome(accuracy, usage, count)


def _share_right(problem: ReplayProblem, chosen: np.ndarray) -> float:
    """How many of the votes of the traces in the rows of `chosen` [draws, size] are right (0-1).

    The vote is `majority`'s, all rows at once: the most frequent answer, of equals the one seen first.
    """
    names = [key for key in dict.fromkeys(problem.keys) if key is not None]
    right = [place for place, key in enumerate(names) if key in problem.right]
    if not right:
        return 0.0
    code = {key: place for place, key in enumerate(names)}
    votes = np.array([code.get(key, -1) for key in problem.keys])[chosen]
    cast = votes[:, :, None] == np.arange(len(names))
    rank = cast.sum(axis=1) * (votes.shape[1] + 1) - cast.argmax(axis=1)
    return float((cast.any(axis=(1, 2)) & np.isin(rank.argmax(axis=1), right)).mean())


def consensus_equal_tokens(problem: ReplayProblem, spent: Outcome, parameters: Parameters, draws: int) -> Outcome:
    """Consensus over the fewer full traces that the net tokens of `spent`, the judge's included, would have
    bought."""
    budget = net_cost(spent.usage, parameters.generator, parameters.judge) / parameters.generator
    mean_length = float(np.mean([trace.n_tokens for trace in problem.traces]))
    return vote_of_some(problem, budget / mean_length, draws, rng_for(problem, EQUAL_TOKENS))


def controls_of(
    problems: Sequence[ReplayProblem],
    outcomes: Sequence[Outcome],
    parameters: Parameters,
    keys: ReplayKeys,
    names: Sequence[str] = (RANDOM_TRACES, EQUAL_TOKENS),
) -> dict[str, list[Outcome]]:
    """As many random traces as voted on average, and consensus over what the same net tokens buy; those of `names`
    that the config asks for."""
    found: dict[str, list[Outcome]] = {}
    pairs = list(zip(problems, outcomes, strict=True))
    if RANDOM_TRACES in names and RANDOM_TRACES in keys.methods:
        found[RANDOM_TRACES] = [
            vote_of_some(problem, outcome.finished, keys.draws, rng_for(problem, RANDOM_TRACES))
            for problem, outcome in pairs
        ]
    if EQUAL_TOKENS in names and EQUAL_TOKENS in keys.methods:
        found[EQUAL_TOKENS] = [
            consensus_equal_tokens(problem, outcome, parameters, keys.draws) for problem, outcome in pairs
        ]
    return found


def _consensus_row(model: ReplayModel, keys: ReplayKeys) -> list[Result]:
    """With the wall time of sampling, which is what a consensus takes."""
    return [replace(result, wall_s=model.wall_s) for result in one_row("consensus", consensus)(model, keys)]


SINGLE = Method(
    "single",
    "one trace",
    "M0-7 7 0 0 7-7 0Z",
    one_row("single", single),
    depends_on_n=False,
    about="the answer of one trace alone",
)
CONSENSUS = Method(
    "consensus",
    "consensus",
    "M-5.5-5.5h11v11h-11Z",
    _consensus_row,
    about="the answer that most of all n traces give",
)
ORACLE = Method(
    "oracle",
    "any trace right",
    "M0-8 2-2.5 8-2.5 3 1 5 7 0 3.3-5 7-3 1-8-2.5-2-2.5Z",
    one_row("oracle", oracle),
    is_bound=True,
    about="right if any trace is: a bound, no method",
)
