"""What each way of answering with n traces would have scored and cost, on the same stored traces. Pure functions.

Chance is averaged out where it can be: which traces are drawn and in which order DeepPrune meets them. A method's
outcome on a problem is therefore an expectation: accuracy is a fraction (0-1), tokens may be fractional.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deepprune.decide import PruneRule
from deepprune.replay import replay
from deepprune.vote import majority
from engines.accounting import TokenLedger, net_cost

COMPANIONS = ("random_traces", "consensus_equal_tokens")  # what each DeepPrune row is held against
NOTHING_SPENT = TokenLedger()
METHODS = ("single", "consensus", "deepprune", *COMPANIONS, "oracle")


@dataclass(frozen=True)
class TraceRecord:
    """One finished trace: the key of its answer (None: it gave none) and its length [tokens]; `cut_tokens` [tokens]
    is None for a trace that ended before its cut."""

    key: Hashable | None
    n_tokens: int
    cut_tokens: int | None


@dataclass(frozen=True)
class ProblemRecord:
    """The n traces of one problem by one model, and what its judge said. Equal answers have equal keys."""

    problem_id: str
    gold: Hashable
    traces: tuple[TraceRecord, ...]
    decision_seed: int = 0
    scores: np.ndarray | None = None
    """[n, n] probability (0-1) that two traces will end in the same answer, read at their cuts."""
    judge_cost: TokenLedger = NOTHING_SPENT

    @property
    def keys(self) -> list[Hashable | None]:
        return [trace.key for trace in self.traces]


@dataclass(frozen=True)
class Outcome:
    """One method on one problem: expected accuracy (0-1), expected tokens, expected number of finished traces."""

    accuracy: float
    ledger: TokenLedger
    finished: float


@dataclass(frozen=True)
class Prices:
    """Parameters of the models that spend tokens: the unit in which costs of different models can be added."""

    generator: int
    judge: int = 0


def mean_ledger(ledgers: Sequence[TokenLedger]) -> TokenLedger:
    """Field by field the mean of ledgers; fields become fractional."""
    fields = [field.name for field in dataclasses.fields(TokenLedger)]
    return TokenLedger(**{name: float(np.mean([getattr(ledger, name) for ledger in ledgers])) for name in fields})


def rng_for(record: ProblemRecord, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the problem and the purpose, not on the order in which either is asked for."""
    return np.random.default_rng([record.decision_seed, *purpose.encode()])


def full_cost(traces: Iterable[TraceRecord]) -> TokenLedger:
    """Tokens of traces that all run to their end, side by side."""
    lengths = [trace.n_tokens for trace in traces]
    return TokenLedger(generated=sum(lengths), longest_trace=max(lengths, default=0))


def _is_right(record: ProblemRecord, keys: Sequence[Hashable | None]) -> bool:
    return bool(keys) and majority(keys) == record.gold


def single(record: ProblemRecord) -> Outcome:
    """One trace and its answer: the mean over all samples (pass@1)."""
    right = [trace.key is not None and trace.key == record.gold for trace in record.traces]
    ledgers = [full_cost([trace]) for trace in record.traces]
    return Outcome(float(np.mean(right)), mean_ledger(ledgers), 1.0)


def consensus(record: ProblemRecord) -> Outcome:
    """Majority vote over all n traces."""
    return Outcome(float(_is_right(record, record.keys)), full_cost(record.traces), len(record.traces))


def oracle(record: ProblemRecord) -> Outcome:
    """Right if any of the n traces is: what a perfect choice among them would reach."""
    return Outcome(float(record.gold in record.keys), full_cost(record.traces), len(record.traces))


def vote_of_some(record: ProblemRecord, count: float, draws: int, rng: np.random.Generator) -> Outcome:
    """Vote of `count` traces drawn at random without replacement, averaged over draws.

    A fractional count means the whole number above with the probability that makes the expected count, and with it
    the expected tokens, exactly `count`: each draw is scored at both whole numbers and weighted. No trace, no answer.
    """
    n = len(record.traces)
    count = min(max(count, 0.0), float(n))
    lower, upper = math.floor(count), math.ceil(count)
    share = count - lower
    accuracy, longest = 0.0, 0.0
    for _ in range(draws):
        order = [record.traces[i] for i in rng.permutation(n)[:upper]]
        for size, weight in ((lower, 1.0 - share), (upper, share)):
            if weight:
                accuracy += weight * _is_right(record, [trace.key for trace in order[:size]])
                longest += weight * max((trace.n_tokens for trace in order[:size]), default=0)
    mean_length = float(np.mean([trace.n_tokens for trace in record.traces]))
    ledger = TokenLedger(generated=count * mean_length, longest_trace=longest / draws)
    return Outcome(accuracy / draws, ledger, count)


@dataclass(frozen=True)
class Pruned:
    """DeepPrune on one problem in one order of its traces; traces are numbered as in the record.

    `labels` [n] are the clusters, None where unassigned; `kept_tokens` [n] is how far each trace would have run.
    """

    survivors: list[int]
    labels: list[int | None]
    kept_tokens: list[int]
    key: Hashable | None
    ledger: TokenLedger
    judge_failure: str | None


def prune_once(record: ProblemRecord, rule: PruneRule, order: Sequence[int] | None = None) -> Pruned:
    """DeepPrune on stored traces, taken in `order`; by default as they are stored, which is what a live run does."""
    n = len(record.traces)
    order = list(range(n)) if order is None else [int(place) for place in order]
    taken = [record.traces[index] for index in order]
    replayed = replay(
        [trace.n_tokens for trace in taken],
        [trace.cut_tokens for trace in taken],
        record.scores[np.ix_(order, order)],
        rule,
        record.decision_seed,
        record.judge_cost,
    )
    decision = replayed.decision
    labels, kept = [None] * n, [0] * n
    clusters = decision.clustering.labels(n) if decision.clustering else [None] * n
    for index, label, tokens in zip(order, clusters, replayed.kept_tokens, strict=True):
        labels[index], kept[index] = label, tokens
    survivors = sorted(order[place] for place in decision.survivors)
    key = decision.vote([trace.key for trace in taken])
    return Pruned(survivors, labels, kept, key, replayed.ledger, decision.judge_failure)


def prune_in_orders(record: ProblemRecord, rule: PruneRule, orders: int) -> list[Pruned]:
    """DeepPrune in `orders` orders of the traces: the stored one first, then random ones."""
    rng = rng_for(record, "orders")
    shuffled = [rng.permutation(len(record.traces)) for _ in range(orders - 1)]
    return [prune_once(record, rule, order) for order in (None, *shuffled)]


def deepprune(record: ProblemRecord, runs: Sequence[Pruned]) -> Outcome:
    """The mean over the orders in `runs`."""
    accuracy = float(np.mean([run.key is not None and run.key == record.gold for run in runs]))
    return Outcome(
        accuracy, mean_ledger([run.ledger for run in runs]), float(np.mean([len(r.survivors) for r in runs]))
    )


def random_traces(record: ProblemRecord, runs: Sequence[Pruned], draws: int) -> Outcome:
    """The vote of as many traces, drawn at random, as DeepPrune finished: what its choice of traces is worth."""
    rng = rng_for(record, "random_traces")
    counts = Counter(len(run.survivors) for run in runs)
    outcomes = [vote_of_some(record, count, draws, rng) for count in sorted(counts)]
    weights = [counts[count] / len(runs) for count in sorted(counts)]
    accuracy = sum(w * outcome.accuracy for w, outcome in zip(weights, outcomes, strict=True))
    ledger = TokenLedger(
        generated=sum(w * outcome.ledger.generated for w, outcome in zip(weights, outcomes, strict=True)),
        longest_trace=sum(w * outcome.ledger.longest_trace for w, outcome in zip(weights, outcomes, strict=True)),
    )
    return Outcome(accuracy, ledger, sum(w * outcome.finished for w, outcome in zip(weights, outcomes, strict=True)))


def consensus_equal_tokens(record: ProblemRecord, pruned: Outcome, prices: Prices, draws: int) -> Outcome:
    """Consensus over the fewer full traces that DeepPrune's net tokens, the judge's included, would have bought."""
    budget = net_cost(pruned.ledger, prices.generator, prices.judge) / prices.generator
    mean_length = float(np.mean([trace.n_tokens for trace in record.traces]))
    return vote_of_some(record, budget / mean_length, draws, rng_for(record, "consensus_equal_tokens"))
