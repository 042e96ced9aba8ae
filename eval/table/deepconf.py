"""DeepConf online (arXiv 2508.15260, §3.3) replayed on stored traces and their token confidences. Pure functions.

Token confidence: `secateur.engines.base.Event.confidences`. Group confidence: their mean over a sliding window. A
trace's
confidence: its lowest group. `warmup` traces run to their end and set the bar; each later one is stopped at the token
where its group confidence falls below it. Stopped traces do not vote, nor do warm-up traces below the bar.

The official code names its knob "percentile" and turns it round between branches; `share_kept` is the paper's η, the
share of traces that the bar lets pass: 0.1 is DeepConf-low, 0.9 DeepConf-high.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.table.baselines import Voters
from eval.table.problems import ProblemRecord, trace_orders
from secateur.engines.accounting import Usage
from secateur.runtime.errors import InputError

SHARES_KEPT = {"deepconf_low": 0.1, "deepconf_high": 0.9}


@dataclass(frozen=True)
class DeepConfRule:
    """`window` [tokens] is the size of a group (the paper's 2,048). `vote`: each vote weighs the trace's confidence
    ("lowest" group or "mean" of all tokens), or all weigh the same ("majority"). `consensus`: the share (0-1) of the
    weights that one answer needs for sampling to stop; with it traces follow each other after the warm-up, as in the
    paper's algorithm 2; None runs them side by side, all n."""

    share_kept: float
    warmup: int = 16
    window: int = 2048
    vote: Literal["lowest", "mean", "majority"] = "lowest"
    consensus: float | None = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.share_kept < 1:
            raise InputError(f"share_kept = {self.share_kept}: write the share of traces above the bar, 0.1 or 0.9")
        for key in ("warmup", "window"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} = {getattr(self, key)}: write 1 or more")
        if self.vote not in ("lowest", "mean", "majority"):
            raise InputError(f"vote = {self.vote!r}: unknown; write 'lowest', 'mean' or 'majority'")
        if self.consensus is not None and not 0 < self.consensus <= 1:
            raise InputError(f"consensus = {self.consensus}: write a share of the votes up to 1, or null for none")


@dataclass(frozen=True)
class ConfidenceProfile:
    """All that DeepConf asks of one trace: `mean` token confidence, and each new low of its group confidence,
    `lows` descending, with `tokens` ascending, how many were generated when it was seen. A trace shorter than the
    window has no group: it is never stopped, and its confidence is its mean."""

    mean: float
    lows: np.ndarray
    tokens: np.ndarray

    @property
    def lowest(self) -> float:
        return float(self.lows[-1]) if len(self.lows) else self.mean

    def stopped_at(self, bar: float) -> int | None:
        """Tokens generated when the group confidence first lies below `bar`; None if it never does."""
        place = int(np.searchsorted(-self.lows, -bar, side="right"))
        return int(self.tokens[place]) if place < len(self.lows) else None


def confidence_profile(confidences: Sequence[float], window: int) -> ConfidenceProfile:
    """`confidences` [tokens], one per token of a whole trace."""
    values = np.asarray(confidences, dtype=np.float64)
    if not len(values):
        raise ValueError("a trace has at least one token")
    sums = np.concatenate([[0.0], values.cumsum()])
    groups = np.round((sums[window:] - sums[:-window]) / window, 6)  # equal confidences have equal means
    before = np.concatenate([[np.inf], np.minimum.accumulate(groups)[:-1]]) if len(groups) else groups
    places = np.flatnonzero(groups < before)
    return ConfidenceProfile(float(values.mean()), groups[places], places + window)


def deepconf(
    record: ProblemRecord, profiles: Sequence[ConfidenceProfile], rule: DeepConfRule, orders: int
) -> list[Voters]:
    """DeepConf in `orders` orders of the traces; the first `warmup` of an order are its warm-up."""
    if rule.warmup >= len(record.traces):
        raise InputError(
            f"problem '{record.problem_id}': {rule.warmup} warm-up traces of {len(record.traces)}; lower "
            "deepconf_warmup or raise n"
        )
    return [_one_order(record, profiles, rule, order) for order in trace_orders(record, orders)]


def _one_order(
    record: ProblemRecord, profiles: Sequence[ConfidenceProfile], rule: DeepConfRule, order: Sequence[int]
) -> Voters:
    warmup, later = order[: rule.warmup], order[rule.warmup :]
    bar = float(np.percentile([profiles[index].lowest for index in warmup], 100 * (1 - rule.share_kept)))
    ballot = _Ballot(record, profiles, rule)
    for index in warmup:
        if profiles[index].lowest >= bar:
            ballot.add(index)
    lengths = [record.traces[index].n_tokens for index in warmup]
    begun: list[int] = []
    for index in later:
        if rule.consensus is not None and ballot.share >= rule.consensus:
            break
        stop = profiles[index].stopped_at(bar)
        begun.append(record.traces[index].n_tokens if stop is None else stop)
        if stop is None:
            ballot.add(index)
    path = max(begun, default=0) if rule.consensus is None else sum(begun)
    usage = Usage(generated=sum(lengths) + sum(begun), longest_path=max(lengths) + path)
    return Voters(sorted(ballot.voters), ballot.winner, usage)


class _Ballot:
    """Weighted votes as they come in; of equal answers the one seen first wins, as in
    `secateur.deepprune.vote.majority`."""

    def __init__(self, record: ProblemRecord, profiles: Sequence[ConfidenceProfile], rule: DeepConfRule) -> None:
        self._record, self._profiles, self._kind = record, profiles, rule.vote
        self._totals: dict[Hashable, float] = {}
        self.voters: list[int] = []

    def add(self, index: int) -> None:
        self.voters.append(index)
        key = self._record.traces[index].key
        if key is not None:
            self._totals[key] = self._totals.get(key, 0.0) + self._weight(self._profiles[index])

    def _weight(self, profile: ConfidenceProfile) -> float:
        if self._kind == "majority":
            return 1.0
        return profile.lowest if self._kind == "lowest" else profile.mean

    @property
    def winner(self) -> Hashable | None:
        return max(self._totals, key=self._totals.__getitem__, default=None)

    @property
    def share(self) -> float:
        """The winner's part of all weights; 0 while nobody voted."""
        total = sum(self._totals.values())
        return self._totals[self.winner] / total if total else 0.0
