"""All there is to know of a reward: whoever treats it in another way than the others asks its `RewardSpec`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rewards.completion import Completion, RewardOptions

Formula = Callable[[Sequence[Completion], int, Any], list[float]]
"""(completions of one prompt, limit of the round [tokens], the reward's own options) → one reward each, in order."""


@dataclass(frozen=True, kw_only=True)
class RewardSpec:
    """A reward, and what else it changes about a training.

    formula: what the completions of a prompt earn.
    options: the class of its options, beside the formula that reads them.
    source: where both come from.
    needs_group: the formula compares the completions of a prompt, so there must be two or more.
    target: each prompt names a length, to be met (`exact`) or not exceeded (`at_most`); it is drawn between
        `TargetOptions.target_min` and the limit and comes in the dataset column `target_tokens`. None: it names none.
    grades_whole_text: a right box counts wherever it stands, in unfinished thoughts and truncated completions too.
    words: what it pays for, as a model card says it; empty where its name has to do.
    """

    formula: Formula
    options: type[RewardOptions]
    source: str
    needs_group: bool = False
    target: Literal["exact", "at_most"] | None = None
    grades_whole_text: bool = False
    words: str = ""
