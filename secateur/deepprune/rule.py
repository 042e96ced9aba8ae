"""The keys of redundancy pruning: how traces are clustered, how many start, who finishes. Each class is one part."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from secateur.deepprune.vote import majority_stays
from secateur.runtime.errors import InputError


@dataclass(frozen=True)
class ClusterRule:
    """How traces are put into clusters.

    tau: similarity (0-1) that a trace must exceed to join a cluster.
    max_clusters: clusters that can be opened, the paper's K.
    compared: members of a cluster that a trace is compared with, the paper's K1.
    overflow: once all clusters are open, `stop` leaves all later traces unassigned, `join_best` puts each into its
      most similar cluster whatever the similarity.
    linkage: `greedy` places one trace after the other, the paper's way. `average` merges all of them from the bottom
      up, as long as the mean similarity of two clusters is at least tau; the other three keys say nothing then.
    """

    tau: float = 0.5
    max_clusters: int = 32
    compared: int = 10
    overflow: Literal["stop", "join_best"] = "stop"
    linkage: Literal["greedy", "average"] = "greedy"

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise InputError(f"tau = {self.tau}: judge scores lie between 0 and 1; choose a threshold there (0.5)")
        if self.max_clusters < 1:
            raise InputError(f"max_clusters = {self.max_clusters}: there must be a cluster to join; write 1 or more")
        if self.compared < 1:
            raise InputError(f"compared = {self.compared}: each cluster must be asked at least once; write 1 or more")
        if self.overflow not in ("stop", "join_best"):
            raise InputError(f"overflow = {self.overflow!r}: unknown; write 'stop' or 'join_best'")
        if self.linkage not in ("greedy", "average"):
            raise InputError(f"linkage = {self.linkage!r}: unknown; write 'greedy' or 'average'")


@dataclass(frozen=True)
class FinishRule:
    """Who runs to its end, and how votes weigh.

    largest: traces of the largest cluster that go on, the paper's K2.
    singletons: traces of all n that go on where every cluster has one member, so that the clustering says nothing;
      the paper's K3. For `largest` and `representatives`.
    policy: `largest`: up to K2 traces of the largest cluster, the earlier of equals, go on. `representatives`: one
      trace of every cluster goes on and votes with the cluster's size. `soft`, ours: K2 traces in all go on, allotted
      to the clusters by size; every other trace gives its one vote to the finished ones, in proportion to the cube
      of its judge scores with them.
    stop_when_decided: survivors stop as soon as those that still run cannot change the vote; the answer stays.
    lead: ours, for `largest`, 0 is off: survivors go on a few at a time, just as many as one answer still needs to
      be so many votes ahead of the next, and no more once it is (Wald's sequential test between two answers).
      Members of one cluster mostly agree, so two or three of them finish where the published rule finishes all K2.
      Where they disagree, the clusters were wrong: with `start_batch`, the next batch starts after all.
    until: for `largest`: survivors go on `all` at once; one after the other until Adaptive-Consistency's test is
      passed (`beta`), or five at a time until five agree, as early stopping has it (`window`).
    """

    largest: int = 10
    singletons: int = 64
    policy: Literal["largest", "representatives", "soft"] = "largest"
    stop_when_decided: bool = False
    lead: int = 0
    until: Literal["all", "beta", "window"] = "all"

    def __post_init__(self) -> None:
        for key in ("largest", "singletons"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} = {getattr(self, key)}: somebody must be left to vote; write 1 or more")
        if self.policy not in ("largest", "representatives", "soft"):
            raise InputError(f"policy = {self.policy!r}: unknown; write 'largest', 'representatives' or 'soft'")
        if self.lead < 0 or (self.lead and self.policy != "largest"):
            raise InputError(f"lead = {self.lead}: expected votes, 0 (off) or more, and policy 'largest' with it")
        if self.until not in ("all", "beta", "window"):
            raise InputError(f"until = {self.until!r}: unknown; write 'all', 'beta' or 'window'")
        if self.until != "all" and (self.lead or self.policy != "largest"):
            raise InputError(f"until = {self.until!r}: goes with policy 'largest' and without a lead; write lead = 0")


@dataclass(frozen=True)
class StartRule:
    """How many traces are started.

    Not in the paper, which starts all n. A cut costs a small part of a trace, and on an easy problem a few of them
    show already which cluster is the largest. So Adaptive-Consistency's question (arXiv 2305.11860) is put to the
    cuts instead of to finished answers.

    start_batch: traces started at a time; 0 starts all n at once, as the paper does.
    start_confidence: probability (0-1) that the largest cluster is more frequent than the second, from which on no
      more are started.
    """

    start_batch: int = 0
    start_confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.start_batch < 0 or self.start_batch == 1:
            raise InputError(
                f"start_batch = {self.start_batch}: traces are compared; write 2 or more, or 0 to start all at once"
            )
        if not 0.5 <= self.start_confidence < 1:
            raise InputError(
                f"start_confidence = {self.start_confidence}: expected a probability from 0.5 to below 1"
            )

    def batches(self, n: int) -> list[range]:
        """The traces 0 … n-1 as they are started; a last batch of one trace joins the one before."""
        size = self.start_batch or n
        firsts = [first for first in range(0, n, size) if first == 0 or n - first > 1]
        return [range(first, last) for first, last in zip(firsts, [*firsts[1:], n], strict=True)]

    def enough(self, sizes: Sequence[int]) -> bool:
        """Whether clusters of these sizes [traces] say which one is the largest."""
        first, second = (*sorted(sizes, reverse=True)[:2], 0, 0)[:2]
        return majority_stays(first, second) >= self.start_confidence


@dataclass(frozen=True)
class PruneRule:
    """How judge scores become survivors.

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

        if self.cluster.linkage == "average" and (self.start.start_batch or self.mode == "overlap"):
            raise InputError(
                "linkage = 'average': all traces are clustered at once; write mode 'barrier' and start_batch = 0"
            )

    def first(self, n: int) -> int:
        """How many of n traces are started at once."""
        return len(self.start.batches(n)[0])


PUBLISHED_RULE = PruneRule()
"""The paper's: start all n, finish up to K2 traces of the largest cluster."""
ADAPTIVE_RULE = PruneRule(finish=FinishRule(lead=3), start=StartRule(start_batch=8, start_confidence=0.95))
"""Ours: traces start in batches until the clusters say enough, and finish until one answer leads by three votes."""
EVERYBODY = 1_000_000  # more traces than any problem has
POLR_RULE = PruneRule(ClusterRule(tau=0.8, linkage="average"), FinishRule(largest=EVERYBODY, singletons=1))
"""PoLR (arXiv 2601.21494) with a `tfidf` judge that cuts after 256 tokens: short prefixes are clustered from the
bottom up, and all of the largest cluster finish. Where the tree is cut no source says that we could read. At .8 seven
tenths of traces of R1 distills and nearly all of Qwen2.5-Math's are in it (4 and 8 traces of 10 and 100 problems)."""
