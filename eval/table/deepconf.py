"""DeepConf online (arXiv 2508.15260, §3.3) replayed on stored traces and their token confidences. Pure functions.

Token confidence: `secateur.engines.base.Event.confidences`. Group confidence: their mean over a sliding window. A
trace's confidence: its lowest group. `warmup` traces run to their end and set the bar; each later one is stopped at
the token where its group confidence falls below it. Stopped traces do not vote, nor does any other below the bar: one
of the warm-up, or one that ended before it filled a window (as in the released code, deepconf-online.py).

The official code names its knob "percentile" and turns it round between branches; `share_kept` is the paper's η, the
share of traces that the bar lets pass: 0.1 is DeepConf-low, 0.9 DeepConf-high.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.table.method import (
    ConfidenceProfile,
    Method,
    Parameters,
    ReplayKeys,
    ReplayModel,
    ReplayProblem,
    Result,
    Voters,
    average,
    trace_orders,
)
from eval.table.votes import controls_of
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


def deepconf(
    record: ReplayProblem, profiles: Sequence[ConfidenceProfile], rule: DeepConfRule, orders: int
) -> list[Voters]:
    """DeepConf in `orders` orders of the traces; the first `warmup` of an order are its warm-up."""
    if rule.warmup >= len(record.traces):
        raise InputError(
            f"problem '{record.problem_id}': {rule.warmup} warm-up traces of {len(record.traces)}; lower "
            "deepconf_warmup or raise n"
        )
    return [_one_order(record, profiles, rule, order) for order in trace_orders(record, orders)]


def _one_order(
    record: ReplayProblem, profiles: Sequence[ConfidenceProfile], rule: DeepConfRule, order: Sequence[int]
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
        if profiles[index].lowest >= bar:  # one shorter than the window ends by itself, and is judged at its end
            ballot.add(index)
    path = max(begun, default=0) if rule.consensus is None else sum(begun)
    usage = Usage(generated=sum(lengths) + sum(begun), longest_path=max(lengths) + path)
    return Voters(sorted(ballot.voters), ballot.winner, usage)


class _Ballot:
    """Weighted votes as they come in; of equal answers the one seen first wins, as in
    `secateur.deepprune.vote.majority`."""

    def __init__(self, record: ReplayProblem, profiles: Sequence[ConfidenceProfile], rule: DeepConfRule) -> None:
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


@dataclass(kw_only=True)
class DeepConfKeys(ReplayKeys):
    """deepconf_warmup: traces that run to their ends and set DeepConf's bar; an n that is no larger has no DeepConf
    row.
    deepconf_window: size of a group [tokens], below the length of the traces; DeepConf needs top_logprobs: 20.
    deepconf_vote: what a vote weighs: the confidence of the trace's `lowest` group, the `mean` of its tokens, or all
      the same (`majority`).
    deepconf_consensus: share (0-1) of the weights that one answer needs for sampling to stop; null: all n run.
    """

    deepconf_warmup: int = 16
    deepconf_window: int = 2048
    deepconf_vote: Literal["lowest", "mean", "majority"] = "lowest"
    deepconf_consensus: float | None = 0.95

    def deepconf_rule(self, method: str) -> DeepConfRule:
        return DeepConfRule(
            SHARES_KEPT[method],
            self.deepconf_warmup,
            self.deepconf_window,
            self.deepconf_vote,
            self.deepconf_consensus,
        )


def _method(name: str, label: str, mark: str, about: str) -> Method:
    def run(model: ReplayModel, keys: DeepConfKeys) -> list[Result]:
        rule, parameters = keys.deepconf_rule(name), Parameters(model.parameters)
        outcomes = [
            average(problem, deepconf(problem, profiles, rule, keys.orders))
            for problem, profiles in zip(model.plain, model.confidences, strict=True)
        ]
        controls = controls_of(model.plain, outcomes, parameters, keys)
        return [Result(model.name, name, None, parameters, outcomes, controls=controls)]

    def check(keys: DeepConfKeys) -> None:
        keys.deepconf_rule(name)

    def require(keys: DeepConfKeys, n: int) -> None:
        if keys.deepconf_warmup >= n:
            raise InputError(
                f"key 'deepconf_warmup' has the value {keys.deepconf_warmup}, as many as all traces (n = {n}); give "
                "fewer"
            )

    return Method(
        name,
        label,
        mark,
        run,
        DeepConfKeys,
        check=check,
        require=require,
        runs_at=lambda keys, n: n > keys.deepconf_warmup,
        reads_confidences=True,
        is_rival=True,
        about=about,
    )


_STOPS = "stops traces whose tokens the model itself is unsure of"
DEEPCONF_LOW = _method("deepconf_low", "DeepConf low", "M5-6.5v13L-6.5 0Z", f"{_STOPS}, strictly")
DEEPCONF_HIGH = _method("deepconf_high", "DeepConf high", "M-5-6.5v13L6.5 0Z", f"{_STOPS}, mildly")
