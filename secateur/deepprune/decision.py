"""What was decided about one problem, and why a judge may have had no part in it."""

from dataclasses import dataclass

from secateur.deepprune.clustering import Clustering
from secateur.engines.base import trace_seed


class JudgeFailure(RuntimeError):
    """Raised by a judge that cannot score the problem at hand (a server that is gone, memory that ran out).

    The problem then falls back to the consensus of all its traces. Anything else a judge raises is a bug or bad input
    and ends the run.
    """


@dataclass(frozen=True)
class Decision:
    """What came of one problem: `survivors` ascend; they reached their ends and voted, with `weights`.

    `order` is the order in which the traces that were started were taken for clustering: of arrival under overlap,
    ascending under the barrier. Where the judge failed, `judge_failure` says why and `clustering` is None.
    """

    clustering: Clustering | None
    survivors: list[int]
    weights: list[float]
    order: list[int]
    judge_failure: str | None = None


def decision_seed(base_seed: int, problem_id: str) -> int:
    """Seed of a problem's clustering and finishing; like `trace_seed` it depends only on what it is for."""
    return trace_seed(base_seed, problem_id, -1)
