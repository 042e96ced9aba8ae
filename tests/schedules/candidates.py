"""Candidates of a choice with made-up figures."""

from collections.abc import Mapping, Sequence

from schedules.choice import Candidate, ProblemFigures


def candidate(
    step: int,
    pass_at_1: float,
    mean_tokens: float,
    truncated_share: float = 0.0,
    rates: Mapping[str, float] | None = None,
    lengths: Sequence[int] = (),
) -> Candidate:
    """One that was measured on the problems of `rates` (problem id → pass@1), or on none that is told; `lengths` of
    the samples of each."""
    found = {name: ProblemFigures(rate, mean_tokens, tuple(lengths)) for name, rate in (rates or {}).items()}
    intervals = ((pass_at_1 - 0.1, pass_at_1 + 0.1), (mean_tokens - 10, mean_tokens + 10))
    return Candidate(step, pass_at_1, mean_tokens, truncated_share, *intervals, 1, max(1, len(found)), found)
