"""From judge scores to survivors and their vote: the one decision that live runs and replays share."""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from deepprune.cluster import Clustering, ClusterRule, cluster_traces
from deepprune.finish import FinishRule, choose_survivors
from deepprune.vote import majority
from engines.base import trace_seed


class JudgeFailure(RuntimeError):
    """Raised by a judge that cannot score the problem at hand (a server that is gone, memory that ran out).

    The problem then falls back to the consensus of all its traces. Anything else a judge raises is a bug or bad input
    and ends the run.
    """


@dataclass(frozen=True)
class PruneRule:
    """How scores become survivors."""

    cluster: ClusterRule = field(default_factory=ClusterRule)
    finish: FinishRule = field(default_factory=FinishRule)


@dataclass(frozen=True)
class Decision:
    """`survivors` ascend and vote with `weights`.

    Where the judge failed, `judge_failure` says why, `clustering` is None and every trace survives.
    """

    clustering: Clustering | None
    survivors: list[int]
    weights: list[float]
    judge_failure: str | None = None

    def vote(self, keys: Sequence[Hashable | None]) -> Hashable | None:
        """The survivors' answer; `keys` [n] name the answers of all traces, those of pruned ones are not read."""
        return majority([keys[trace] for trace in self.survivors], self.weights)


def decide(scores: np.ndarray, rule: PruneRule, seed: int, whole: Collection[int] = ()) -> Decision:
    """Cluster the traces of one problem and choose who goes on; the same arguments give the same decision.

    `scores` [n, n] are P(same answer), 0-1; where they are none, nobody is pruned. `whole` are the traces that ended
    before their cut.
    """
    n = len(scores)
    if scores.shape != (n, n):
        raise ValueError(f"scores of shape {list(scores.shape)} instead of [n, n]")
    bad = int(n * n - np.count_nonzero((scores >= 0) & (scores <= 1)))  # NaN fails both comparisons
    if bad:
        return keep_all(n, f"{bad} of {n * n} judge scores are not between 0 and 1")
    clustering = cluster_traces(n, scores, rule.cluster, seed)
    survivors, weights = choose_survivors(clustering, rule.finish, scores, seed, whole)
    return Decision(clustering, survivors, weights)


def keep_all(n: int, judge_failure: str) -> Decision:
    """The consensus of all n traces, because the judge failed."""
    return Decision(None, list(range(n)), [1.0] * n, judge_failure)


def decision_seed(base_seed: int, problem_id: str) -> int:
    """Seed of a problem's clustering and finishing; like `trace_seed` it depends only on what it is for."""
    return trace_seed(base_seed, problem_id, -1)
