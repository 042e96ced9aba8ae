"""What each way of answering with n traces would have scored and cost, on the same stored traces. Pure functions.

Chance is averaged out where it can be: which traces are drawn and in which order DeepPrune meets them. A method's
outcome on a problem is therefore an expectation: accuracy is a fraction (0-1), tokens may be fractional.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.table.problems import Outcome, ProblemRecord, TraceRecord, mean_usage, rng_for, trace_orders
from secateur.deepprune.replay import replay
from secateur.deepprune.rule import PruneRule
from secateur.deepprune.vote import majority
from secateur.engines.accounting import Usage, net_cost

COMPANIONS = ("random_traces", "consensus_equal_tokens")  # what each DeepPrune row is held against
BASELINES = ("adaptive_consistency", "early_stopping", "deepconf_low", "deepconf_high")
METHODS = ("single", "consensus", "deepprune", *COMPANIONS, *BASELINES, "embedding", "oracle")


@dataclass(frozen=True)
class Prices:
    """Parameters of the models that spend tokens: the unit in which costs of different models can be added."""

    generator: int
    judge: int = 0


def full_cost(traces: Iterable[TraceRecord]) -> Usage:
    """Tokens of traces that all run to their end, side by side."""
    lengths = [trace.n_tokens for trace in traces]
    return Usage(generated=sum(lengths), longest_path=max(lengths, default=0))


def _is_right(record: ProblemRecord, keys: Sequence[Hashable | None]) -> bool:
    return bool(keys) and majority(keys) in record.right


def single(record: ProblemRecord) -> Outcome:
    """One trace and its answer: the mean over all samples (pass@1)."""
    right = [trace.key in record.right for trace in record.traces]
    usages = [full_cost([trace]) for trace in record.traces]
    return Outcome(float(np.mean(right)), mean_usage(usages), 1.0)


def consensus(record: ProblemRecord) -> Outcome:
    """Majority vote over all n traces."""
    return Outcome(float(_is_right(record, record.keys)), full_cost(record.traces), len(record.traces))


def oracle(record: ProblemRecord) -> Outcome:
    """Right if any of the n traces is: what a perfect choice among them would reach."""
    return Outcome(float(not record.right.isdisjoint(record.keys)), full_cost(record.traces), len(record.traces))


def vote_of_some(record: ProblemRecord, count: float, draws: int, rng: np.random.Generator) -> Outcome:
    """Vote of `count` traces drawn at random without replacement, averaged over draws.

    A fractional count means the whole number above with the probability that makes the expected count, and with it
    the expected tokens, exactly `count`: each draw is scored at both whole numbers and weighted. No trace, no answer.
    """
    n = len(record.traces)
    count = min(max(count, 0.0), float(n))
    lower, upper = math.floor(count), math.ceil(count)
    share = count - lower
    orders = np.stack([rng.permutation(n) for _ in range(draws)])
    lengths = np.array([trace.n_tokens for trace in record.traces])
    accuracy, longest = 0.0, 0.0
    for size, weight in ((lower, 1.0 - share), (upper, share)):
        if weight and size:
            accuracy += weight * _share_right(record, orders[:, :size])
            longest += weight * float(lengths[orders[:, :size]].max(axis=1).mean())
    usage = Usage(generated=count * float(lengths.mean()), longest_path=longest)
    return Outcome(accuracy, usage, count)


def _share_right(record: ProblemRecord, chosen: np.ndarray) -> float:
    """How many of the votes of the traces in the rows of `chosen` [draws, size] are right (0-1).

    The vote is `majority`'s, all rows at once: the most frequent answer, of equals the one seen first.
    """
    names = [key for key in dict.fromkeys(record.keys) if key is not None]
    right = [place for place, key in enumerate(names) if key in record.right]
    if not right:
        return 0.0
    code = {key: place for place, key in enumerate(names)}
    votes = np.array([code.get(key, -1) for key in record.keys])[chosen]
    cast = votes[:, :, None] == np.arange(len(names))
    rank = cast.sum(axis=1) * (votes.shape[1] + 1) - cast.argmax(axis=1)
    return float((cast.any(axis=(1, 2)) & np.isin(rank.argmax(axis=1), right)).mean())


@dataclass(frozen=True)
class Pruned:
    """DeepPrune on one problem in one order of its traces; traces are numbered as in the record.

    `labels` [n] are the clusters, None where unassigned; `kept_tokens` [n] is how far each trace would have run.
    """

    survivors: list[int]
    labels: list[int | None]
    kept_tokens: list[int]
    key: Hashable | None
    usage: Usage
    judge_failure: str | None


def prune_once(record: ProblemRecord, rule: PruneRule, order: Sequence[int] | None = None) -> Pruned:
    """DeepPrune on stored traces, taken in `order`; by default as they are stored, which is what a live run does."""
    n = len(record.traces)
    order = list(range(n)) if order is None else [int(place) for place in order]
    taken = [record.traces[index] for index in order]
    replayed = replay(
        [trace.n_tokens for trace in taken],
        [trace.cut_tokens for trace in taken],
        [trace.key for trace in taken],
        record.scores[np.ix_(order, order)],
        rule,
        record.decision_seed,
        record.judge_usage.reordered(order),
    )
    decision = replayed.decision
    labels, kept = [None] * n, [0] * n
    clusters = decision.clustering.labels(n) if decision.clustering else [None] * n
    for index, label, tokens in zip(order, clusters, replayed.kept_tokens, strict=True):
        labels[index], kept[index] = label, tokens
    survivors = sorted(order[place] for place in decision.survivors)
    return Pruned(survivors, labels, kept, replayed.key, replayed.usage, decision.judge_failure)


def prune_in_orders(record: ProblemRecord, rule: PruneRule, orders: int) -> list[Pruned]:
    """DeepPrune in `orders` orders of the traces."""
    return [prune_once(record, rule, order) for order in trace_orders(record, orders)]


def deepprune(record: ProblemRecord, runs: Sequence[Pruned]) -> Outcome:
    """The mean over the orders in `runs`."""
    accuracy = float(np.mean([run.key in record.right for run in runs]))
    return Outcome(
        accuracy, mean_usage([run.usage for run in runs]), float(np.mean([len(r.survivors) for r in runs]))
    )


def random_traces(record: ProblemRecord, runs: Sequence[Pruned], draws: int) -> Outcome:
    """The vote of as many traces, drawn at random, as DeepPrune finished: what its choice of traces is worth."""
    rng = rng_for(record, "random_traces")
    counts = Counter(len(run.survivors) for run in runs)
    outcomes = [vote_of_some(record, count, draws, rng) for count in sorted(counts)]
    weights = [counts[count] / len(runs) for count in sorted(counts)]
    accuracy = sum(w * outcome.accuracy for w, outcome in zip(weights, outcomes, strict=True))
    usage = Usage(
        generated=sum(w * outcome.usage.generated for w, outcome in zip(weights, outcomes, strict=True)),
        longest_path=sum(w * outcome.usage.longest_path for w, outcome in zip(weights, outcomes, strict=True)),
    )
    return Outcome(accuracy, usage, sum(w * outcome.finished for w, outcome in zip(weights, outcomes, strict=True)))


def consensus_equal_tokens(record: ProblemRecord, pruned: Outcome, prices: Prices, draws: int) -> Outcome:
    """Consensus over the fewer full traces that DeepPrune's net tokens, the judge's included, would have bought."""
    budget = net_cost(pruned.usage, prices.generator, prices.judge) / prices.generator
    mean_length = float(np.mean([trace.n_tokens for trace in record.traces]))
    return vote_of_some(record, budget / mean_length, draws, rng_for(record, "consensus_equal_tokens"))
