"""The rounds of a schedule: each has one limit, and its number feeds prompt, cap, reward and folder name."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.runtime.errors import InputError


@dataclass(frozen=True)
class Round:
    """`index` counts from 1; `limit` [tokens] caps a completion, end token included; `max_steps` optimiser steps."""

    index: int
    limit: int
    max_steps: int

    @property
    def name(self) -> str:
        """
        >>> Round(1, 4000, 180).name
        '1-limit-4000'
        """
        return f"{self.index}-limit-{self.limit}"


def make_rounds(limits: Sequence[int], steps_per_round: int | Sequence[int]) -> list[Round]:
    """One round per limit; `steps_per_round` is one number for all rounds or one per round."""
    validate_limits(limits)
    steps = [steps_per_round] * len(limits) if isinstance(steps_per_round, int) else list(steps_per_round)
    if len(steps) != len(limits):
        raise InputError(
            f"key 'steps_per_round' has {len(steps)} values for {len(limits)} limits; "
            "give one number or one per limit"
        )
    if min(steps) < 1:
        raise InputError(f"key 'steps_per_round' has the value {min(steps)}; a round needs at least 1 step")
    return [
        Round(index, limit, count) for index, (limit, count) in enumerate(zip(limits, steps, strict=True), start=1)
    ]


def validate_limits(limits: Sequence[int], needs: int = 1) -> None:
    """Raises `InputError` for an empty or rising schedule, or a limit under `needs`.

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
        if after > before:
            raise InputError(f"key 'limits' rises from {before} to {after}; order the limits from loose to tight")
