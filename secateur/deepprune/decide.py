"""The rule by which judge scores become survivors, and the record of what was decided about one problem."""

from dataclasses import dataclass, field
from typing import Literal

from secateur.deepprune.clustering import Clustering, ClusterRule
from secateur.deepprune.finish import FinishRule
from secateur.deepprune.start import StartRule
from secateur.engines.base import trace_seed
from secateur.runtime.errors import InputError


class JudgeFailure(RuntimeError):
    """Raised by a judge that cannot score the problem at hand (a server that is gone, memory that ran out).

    The problem then falls back to the consensus of all its traces. Anything else a judge raises is a bug or bad input
    and ends the run.
    """


@dataclass(frozen=True)
class PruneRule:
    """How scores become survivors.

    mode: `barrier`: every trace waits at its cut until the last one has come to its own, then all are judged.
      `overlap`: each is judged as it comes and runs on; what those run that are pruned later is wasted and counted.
    """

    cluster: ClusterRule = field(default_factory=ClusterRule)
    finish: FinishRule = field(default_factory=FinishRule)
    mode: Literal["barrier", "overlap"] = "barrier"
    start: StartRule = field(default_factory=StartRule)

    def __post_init__(self) -> None:
        if self.mode not in ("barrier", "overlap"):
            raise InputError(f"mode = {self.mode!r}: unknown; write 'barrier' or 'overlap'")
        if self.start.start_batch and (self.mode == "overlap" or self.finish.policy == "soft"):
            raise InputError(
                f"start_batch = {self.start.start_batch}: starting in batches goes with mode 'barrier' and policy "
                "'largest' or 'representatives'; write start_batch = 0 to start all traces at once"
            )


ADAPTIVE_RULE = PruneRule(finish=FinishRule(lead=3), start=StartRule(start_batch=8, start_confidence=0.95))
"""Ours: traces start in batches until the clusters say enough, and finish until one answer leads by three votes."""


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
