"""The decision of a live run, taken afterwards on traces that were sampled to their ends.

Nothing but `decide` lies between scores and survivors here and in online.py, so a replay tells what the live run
would have kept and spent, token for token, and one set of stored traces serves every rule and every n.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepprune.decide import Decision, PruneRule, decide
from engines.accounting import TokenLedger


@dataclass(frozen=True)
class Replay:
    """`kept_tokens` [n] is how far each trace would have run; `ledger` everything the problem would have cost."""

    decision: Decision
    kept_tokens: list[int]
    ledger: TokenLedger


def whole_traces(lengths: Sequence[int], cuts: Sequence[int | None]) -> set[int]:
    """Traces that ended before their cut, or with the very token that shows it."""
    pairs = zip(lengths, cuts, strict=True)
    return {index for index, (length, cut) in enumerate(pairs) if cut is None or cut >= length}


def replay(
    lengths: Sequence[int],
    cuts: Sequence[int | None],
    scores: np.ndarray,
    rule: PruneRule,
    seed: int,
    judge_ledger: TokenLedger,
) -> Replay:
    """Replay one problem.

    `lengths` [tokens] of the n complete traces, end token included; `cuts` [tokens] up to and including the one that
    showed the cut, None if never reached (`cut_length`); `scores` [n, n] of the judge on those cuts; `seed` from
    `decision_seed`; `judge_ledger` what these scores cost.
    """
    whole = whole_traces(lengths, cuts)
    decision = decide(scores, rule, seed, whole)
    free = whole.union(decision.survivors)
    kept = [length if index in free else cuts[index] for index, length in enumerate(lengths)]
    return Replay(decision, kept, TokenLedger(generated=sum(kept), longest_trace=max(kept)) + judge_ledger)
