"""The vote of finished traces."""

from collections.abc import Hashable, Sequence


def majority(keys: Sequence[Hashable | None], weights: Sequence[float] | None = None) -> Hashable | None:
    """The answer key with the greatest total weight; of equals the one seen first.

    `keys` are such that equal answers have equal keys (`tasks.answers.group_answers`); None, a trace without an
    answer, abstains, so None is returned only when nobody votes.

    >>> majority(["7", None, "3", None, "3"])
    '3'
    """
    totals: dict[Hashable, float] = {}
    for key, weight in zip(keys, [1.0] * len(keys) if weights is None else weights, strict=True):
        if key is not None:
            totals[key] = totals.get(key, 0.0) + weight
    return max(totals, key=totals.__getitem__, default=None)
