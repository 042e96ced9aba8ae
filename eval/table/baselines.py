"""Published ways of spending less than a vote of all n traces, replayed on stored traces. Pure functions.

Each takes the traces of a problem in one order and says who votes, for what, and what that costs; `average` is the
mean over orders. Random pruning needs no method of its own: `random_traces` (methods.py) votes as it would.

Some of these are sequential: a trace is begun only when others have ended. Their `longest_path` is the critical
path, the sum of the tokens that have to be generated one after another.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.table.problems import Outcome, ProblemRecord, mean_usage, oracle_share, trace_orders
from secateur.deepprune.vote import majority, majority_stays
from secateur.engines.accounting import Usage

SIMILARITIES = ("embedding", "token_embedding", "tfidf", "values")  # judges that "embedding" can prune by


@dataclass(frozen=True)
class Voters:
    """One run of a method on one problem: the traces that vote, their answer, and what was spent."""

    survivors: list[int]
    key: Hashable | None
    usage: Usage


def average(record: ProblemRecord, runs: Sequence[Voters]) -> Outcome:
    """The mean over runs."""
    right = [run.key in record.right for run in runs]
    voters = float(np.mean([len(run.survivors) for run in runs]))
    usage = mean_usage([run.usage for run in runs])
    return Outcome(float(np.mean(right)), usage, voters, oracle_share(record, [run.survivors for run in runs]))


def adaptive_consistency(record: ProblemRecord, orders: int, threshold: float = 0.95) -> list[Voters]:
    """Adaptive-Consistency (arXiv 2305.11860, §3, its Beta criterion): one trace after another, until the majority
    stays what it is with probability `threshold`. Traces without an answer cost, but do not count."""
    return [
        _first_of(record, order, adaptive_stop([record.traces[i].key for i in order], threshold), group=1)
        for order in trace_orders(record, orders)
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


def early_stopping(record: ProblemRecord, orders: int, window: int = 5) -> list[Voters]:
    """Early-stopping self-consistency (arXiv 2401.10480, algorithm 1): windows of `window` traces, one window after
    another, until all answers of one are the same; all traces sampled so far vote. A trace without an answer agrees
    with nobody. The traces of one window run side by side."""
    return [
        _first_of(record, order, window_stop([record.traces[i].key for i in order], window), group=window)
        for order in trace_orders(record, orders)
    ]


def window_stop(keys: Sequence[Hashable | None], window: int) -> int:
    """How many of the answers, in this order, are drawn before sampling stops; the last window ends it anyway."""
    for end in range(window, len(keys), window):
        found = set(keys[end - window : end])
        if len(found) == 1 and None not in found:
            return end
    return len(keys)


def _first_of(record: ProblemRecord, order: Sequence[int], count: int, group: int) -> Voters:
    """The vote of the first `count` traces, sampled `group` at a time."""
    drawn = list(order[:count])
    lengths = [record.traces[index].n_tokens for index in drawn]
    path = sum(max(lengths[first : first + group]) for first in range(0, count, group))
    key = majority([record.traces[index].key for index in drawn])
    return Voters(sorted(drawn), key, Usage(generated=sum(lengths), longest_path=path))


def similar_dropped(record: ProblemRecord, orders: int, threshold: float = 0.95) -> list[Voters]:
    """Similarity pruning after Slim-SC (arXiv 2509.13990): at its cut, a trace is dropped that is more than
    `threshold` similar to an earlier one that runs on; the others run to their end and vote.

    Slim-SC compares thought by thought while the chains run; here the cuts are compared, once. Similarities are
    `record.scores`; traces that ended before their cut are neither dropped nor compared.
    """
    lengths = [trace.n_tokens for trace in record.traces]
    cuts = [trace.cut_tokens for trace in record.traces]
    whole = {index for index, trace in enumerate(record.traces) if trace.whole}
    runs = []
    for order in trace_orders(record, orders):
        running: list[int] = []
        for index in order:
            if index not in whole and not (record.scores[index, running] > threshold).any():
                running.append(index)
        voters = sorted(whole.union(running))
        kept = [length if i in whole or i in running else cuts[i] for i, length in enumerate(lengths)]
        usage = Usage(generated=sum(kept), longest_path=max(kept)) + record.judge_usage.everything
        runs.append(Voters(voters, majority([record.traces[index].key for index in voters]), usage))
    return runs
