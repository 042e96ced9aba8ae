"""The rounds of a schedule: each has one limit, and its number feeds prompt, cap, reward and folder name.

Limits are numbers, or `auto`: then drawn from what the round before has found. They fall from round to round; in
SIRI's schedules (arXiv 2509.25176), which compress and expand by turns, they may rise again.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from secateur.runtime.errors import InputError

AUTO = "auto"
Limit = int | Literal["auto"]


@dataclass(frozen=True)
class Round:
    """`index` counts from 1; `limit` [tokens] caps a completion, end token included; `max_steps` optimiser steps.

    expands: its limit is above the one before, so it is there for accuracy. drawn: its limit is not known yet;
    `limit` is the most that it can be.
    """

    index: int
    limit: int
    max_steps: int
    expands: bool = False
    drawn: bool = False

    @property
    def name(self) -> str:
        """
        >>> Round(1, 4000, 180).name, Round(2, 4000, 180, drawn=True).name
        ('1-limit-4000', '2-limit-auto')
        """
        return f"{self.index}-limit-{AUTO if self.drawn else self.limit}"


def make_rounds(limits: Sequence[Limit], steps_per_round: int | Sequence[int], may_rise: bool = False) -> list[Round]:
    """One round per limit; `steps_per_round` is one number for all rounds or one per round. `may_rise`: see
    `validate_limits`."""
    check_first(limits)
    most = list(itertools.accumulate(limits, lambda before, limit: before if limit == AUTO else limit))
    validate_limits(most, may_rise=may_rise)
    steps = [steps_per_round] * len(limits) if isinstance(steps_per_round, int) else list(steps_per_round)
    if len(steps) != len(limits):
        raise InputError(
            f"key 'steps_per_round' has {len(steps)} values for {len(limits)} limits; "
            "give one number or one per limit"
        )
    if min(steps) < 1:
        raise InputError(f"key 'steps_per_round' has the value {min(steps)}; a round needs at least 1 step")
    return [
        Round(index, limit, count, expands=limit > before, drawn=given == AUTO)
        for index, (before, limit, count, given) in enumerate(
            zip([most[0], *most[:-1]], most, steps, limits, strict=True), start=1
        )
    ]


def check_first(limits: Sequence[Limit]) -> None:
    """Raises `InputError` where nothing was measured that the first limit could be drawn from."""
    if limits and limits[0] == AUTO:
        raise InputError(
            "key 'limits' begins with auto, but a limit is drawn from the lengths that the round before has found; "
            "give the first as a number and one auto for each further round, for example [4000, auto, auto]"
        )


def draw_limit(lengths: Sequence[int], quantile: float, lowest: int, before: int) -> int:
    """The limit after a round with the limit `before` that chose a model with these `lengths` in validation: the
    length [tokens] that the share `quantile` (0-1) of them does not exceed, at least `lowest`, at most `before`.

    >>> [draw_limit([100, 200, 300, 400], quantile, 150, 350) for quantile in (0.25, 0.5, 0.75, 1.0)]
    [150, 200, 300, 350]
    """
    place = max(0, math.ceil(quantile * len(lengths)) - 1)
    return min(before, max(lowest, sorted(lengths)[place]))


def validate_limits(limits: Sequence[int], needs: int = 1, may_rise: bool = False) -> None:
    """Raises `InputError` for an empty schedule, one that rises unless it `may_rise`, or a limit under `needs`.

    `needs` [tokens] is the shortest completion that the prompt allows: an empty thought, the longest gold answer in
    its box, the end token. A limit that cannot hold it gives every completion the reward 0.
    """
    if not limits:
        raise InputError("key 'limits' is empty; give at least one limit in tokens, for example [4000, 3000, 2000]")
    for limit in limits:
        if limit < 1:
            raise InputError(f"key 'limits' has the value {limit}; a limit is a positive number of tokens")
        if limit < needs:
            raise InputError(
                f"key 'limits' has the value {limit}, but an empty thought with the longest gold answer takes "
                f"{needs} tokens: no completion could earn a reward; raise the limit well above {needs}"
            )
    for before, after in itertools.pairwise(limits):
        if after > before and not may_rise:
            raise InputError(
                f"key 'limits' rises from {before} to {after}; order the limits from loose to tight, or set "
                "expanding_rounds: true for rounds that expand again"
            )
