"""What a reward sees of a completion, the options that all rewards share, and what a reward says of itself.

Whoever treats a reward in another way than the others asks its `RewardSpec`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from secateur.runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of a group, as a formula sees it.

    right: graded correct and allowed to count: a truncated one is not, unless `grade_truncated` says so.
    length: its token ids, the end token among them [tokens].
    truncated: the limit cut it off.
    target: the length that its prompt asked for [tokens]; None where the prompt names none.
    graded: False where the time for grading was used up before its turn; it is not right then.
    """

    right: bool
    length: int
    truncated: bool = False
    target: int | None = None
    graded: bool = True


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """Options of every reward.

    keep: only so many completions of a group are trained on (GFPO); None keeps all.
    keep_by: which ones: the shortest (`length`), or those with the most reward per token (`efficiency`).
    drop_equal_groups: a group whose rewards are all equal leaves the normalisation over the batch (see
        rewards/registry.py: no other group is sampled in its place).
    """

    keep: int | None = None
    keep_by: Literal["length", "efficiency"] = "length"
    drop_equal_groups: bool = False

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            require(not isinstance(value, float) or math.isfinite(value), key, value, "give a finite number")
        if self.keep is not None and self.keep < 2:
            refuse("keep", self.keep, "a baseline needs at least 2 completions; give 2 or more, or leave it out")

    @property
    def counts_truncated(self) -> bool:
        """Whether a truncated completion with the right answer counts as right."""
        return False

    def check_limit(self, limit: int) -> None:
        """Raise `InputError` where an option does not fit a round's limit [tokens]."""


@dataclass(frozen=True, kw_only=True)
class ShapedOptions(RewardOptions):
    """Options of the rewards whose sources grade whatever text there is.

    grade_truncated: a truncated completion with the right answer counts as right, as in the sources; by default it
        counts as wrong. A thought that never ended has no answer either way.
    """

    grade_truncated: bool = False

    @property
    def counts_truncated(self) -> bool:
        return self.grade_truncated


@dataclass(frozen=True, kw_only=True)
class TargetOptions(ShapedOptions):
    """Options of the rewards for which each prompt names a length (`RewardSpec.target`).

    target_min: the targets are drawn uniformly from here to the round's limit [tokens]; 100 in the paper of L1.
    """

    target_min: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.target_min >= 1, "target_min", self.target_min, "give tokens, 1 or more")

    def check_limit(self, limit: int) -> None:
        fits = self.target_min <= limit
        require(fits, "target_min", self.target_min, f"it must lie within the limit of {limit} tokens")


def refuse(key: str, value: object, remedy: str) -> NoReturn:
    raise InputError(f"key 'reward_options.{key}' has the value {value!r}; {remedy}")


def require(fits: bool, key: str, value: object, remedy: str) -> None:
    """`refuse` unless the value fits."""
    if not fits:
        refuse(key, value, remedy)


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
