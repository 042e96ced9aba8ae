"""Which checkpoint a round passes on: the shortest one whose accuracy is good enough (ThinkPrune, arXiv 2504.01296).

The paper states no tolerance; its authors took the shortest among checkpoints of nearly equal accuracy. Here that is
`pass_at_1 >= (1 - tolerance) * reference`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE_REFERENCES = ("best_so_far", "original", "round_start")
START = 0  # the step number of the round's start model


@dataclass(frozen=True)
class Candidate:
    """One validated model: `step` of its checkpoint (0 = the round's start model), `pass_at_1` and
    `truncated_share` as fractions 0-1, `mean_tokens` per completion."""

    step: int
    pass_at_1: float
    mean_tokens: float
    truncated_share: float


@dataclass(frozen=True)
class Selection:
    """The choice and how it came about. `feasible` is in the order of the candidates."""

    chosen_step: int
    reference: Candidate
    feasible: tuple[bool, ...]
    reason: str


def pick_reference(original: Candidate, round_start: Candidate, kind: str) -> Candidate:
    """What accuracy is measured against.

    `best_so_far` takes the better of both: against the original alone a later round may throw a gain away, against
    the round's start alone three rounds may compound to 0.9 ** 3.
    """
    assert kind in TOLERANCE_REFERENCES, kind
    if kind == "best_so_far":
        return max(original, round_start, key=lambda candidate: candidate.pass_at_1)
    return original if kind == "original" else round_start


def choose(candidates: Sequence[Candidate], reference: Candidate, tolerance: float) -> Selection:
    """The feasible candidate with the smallest mean length, ties by accuracy, then the earlier step.

    `candidates` must hold the start model (step 0); it is taken if nothing is feasible.
    """
    assert sum(candidate.step == START for candidate in candidates) == 1, "the start model is a candidate"
    bar = (1 - tolerance) * reference.pass_at_1
    # A share that equals the bar on paper may fall below it by rounding.
    feasible = tuple(candidate.pass_at_1 >= bar - 1e-9 for candidate in candidates)
    able = [candidate for candidate, fits in zip(candidates, feasible, strict=True) if fits]
    if not able:
        reason = f"no candidate reaches pass@1 {bar:.3f}: the start model stays"
        return Selection(START, reference, feasible, reason)
    best = min(able, key=lambda c: (c.mean_tokens, -c.pass_at_1, c.step))
    return Selection(best.step, reference, feasible, _reason(best, able, bar))


def _reason(best: Candidate, able: Sequence[Candidate], bar: float) -> str:
    margin = f"{len(able)} with pass@1 of at least {bar:.3f}"
    if best.step == START:
        return f"the start model is the shortest of {margin}: the limit could not be met"
    return f"step {best.step} is the shortest of {margin}: {best.mean_tokens:.1f} tokens at {best.pass_at_1:.3f}"
