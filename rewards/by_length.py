"""Rewards that look at one completion alone: its correctness, its length, the limit or a target.

Lengths are completion token ids with the end token [tokens]. A truncated completion is wrong unless
`grade_truncated` is set. Options stand beside the formula that reads them, and what there is to know of each reward
behind it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.completion import Completion, RewardOptions, RewardSpec, ShapedOptions, TargetOptions, require


@dataclass(frozen=True, kw_only=True)
class SoftOverlongOptions(ShapedOptions):
    """DAPO (arXiv 2503.14476).

    buffer: the last tokens before the limit, in which the penalty grows [tokens]; None is a fifth of the limit, the
        paper's 4096 of 20480. 0 leaves only the step beyond the limit.
    factor: scale of the penalty (`penalty_factor` of verl's reward manager).
    wrong: reward of a wrong answer before the penalty; the paper's is -1, a right one's 1.
    """

    buffer: int | None = None
    factor: float = 1.0
    wrong: float = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.buffer is None or self.buffer >= 0, "buffer", self.buffer, "give tokens, 0 or more")
        require(self.factor >= 0, "factor", self.factor, "a penalty cannot pay; give 0 or more")
        require(self.wrong < 1, "wrong", self.wrong, "a right answer earns 1; give less")

    def check_limit(self, limit: int) -> None:
        fits = self.buffer is None or self.buffer <= limit
        require(fits, "buffer", self.buffer, f"it must lie within the limit of {limit} tokens")


def soft_overlong(length: int, limit: int, buffer: int) -> float:
    """0 up to `limit - buffer`, then linearly down to -1 at `limit`, -1 beyond (DAPO, eq. 13).

    >>> [soft_overlong(length, 100, 20) for length in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if length <= limit - buffer:
        return 0.0
    if length > limit:
        return -1.0
    return (limit - buffer - length) / buffer


def dapo_rewards(group: Sequence[Completion], limit: int, options: SoftOverlongOptions) -> list[float]:
    """Outcome reward, 1 or `wrong`, plus the soft overlong punishment (DAPO, eq. 13)."""
    buffer = limit // 5 if options.buffer is None else options.buffer
    return [
        (1.0 if one.right else options.wrong) + options.factor * soft_overlong(one.length, limit, buffer)
        for one in group
    ]


DAPO_SOFT_OVERLONG = RewardSpec(
    formula=dapo_rewards,
    options=SoftOverlongOptions,
    source="DAPO, arXiv 2503.14476, eq. 13; TRL's get_soft_overlong_punishment",
)


@dataclass(frozen=True, kw_only=True)
class L1ExactOptions(TargetOptions):
    """L1 (arXiv 2503.04697).

    alpha: reward per token of distance from the target; 0.0003 in the paper, 1/3000 in the released code.
    """

    alpha: float = 0.0003

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha > 0, "alpha", self.alpha, "give a reward per token above 0")


@dataclass(frozen=True, kw_only=True)
class L1MaxOptions(L1ExactOptions):
    """L1 (arXiv 2503.04697).

    alpha: 0.0003 in the paper; the released code falls from 1 to 0 within ±500 tokens of the target: 0.001.
    delta: reward of a right answer of exactly the target's length.
    """

    delta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.delta <= 1, "delta", self.delta, "give a reward above 0, at most 1")


def l1_exact(correct: bool, length: int, target: int, alpha: float) -> float:
    """LCPO-Exact: 1[correct] - alpha × |target - length|, wrong answers included.

    >>> l1_exact(True, 1000, 1000, 0.0003), l1_exact(False, 2000, 1000, 0.0003)
    (1.0, -0.3)
    """
    return float(correct) - alpha * abs(target - length)


def l1_max(correct: bool, length: int, target: int, alpha: float, delta: float) -> float:
    """LCPO-Max: 1[correct] × clip(alpha × (target - length) + delta, 0, 1).

    >>> l1_max(True, 1000, 1000, 0.0003, 0.5), l1_max(False, 1000, 1000, 0.0003, 0.5)
    (0.5, 0.0)
    """
    return float(correct) * min(1.0, max(0.0, alpha * (target - length) + delta))


def l1_exact_rewards(group: Sequence[Completion], limit: int, options: L1ExactOptions) -> list[float]:
    """`l1_exact` of each completion; each has a target."""
    return [l1_exact(one.right, one.length, _target(one), options.alpha) for one in group]


def l1_max_rewards(group: Sequence[Completion], limit: int, options: L1MaxOptions) -> list[float]:
    """`l1_max` of each completion; each has a target."""
    return [l1_max(one.right, one.length, _target(one), options.alpha, options.delta) for one in group]


def _target(completion: Completion) -> int:
    assert completion.target is not None, (
        "the shell hands no completion without its target to a reward that needs one"
    )
    return completion.target


L1_EXACT = RewardSpec(
    formula=l1_exact_rewards,
    options=L1ExactOptions,
    source="L1, arXiv 2503.04697, LCPO-Exact",
    target="exact",
)
L1_MAX = RewardSpec(
    formula=l1_max_rewards,
    options=L1MaxOptions,
    source="L1, arXiv 2503.04697, LCPO-Max",
    target="at_most",
)


@dataclass(frozen=True, kw_only=True)
class CosineOptions(RewardOptions):
    """Demystifying Long CoT (arXiv 2502.03373), with the values of TRL and open-r1; the paper's own in brackets.

    right_short, right_long: reward of a right answer of length 0 and at the limit [2, 1].
    wrong_short, wrong_long: the same of a wrong answer, which gains by thinking longer [-10, 0].
    exceeded: reward of a truncated completion, right or wrong [-10]. TRL's version has no such rule.
    """

    right_short: float = 1.0
    right_long: float = 0.5
    wrong_short: float = -1.0
    wrong_long: float = -0.5
    exceeded: float = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = self.wrong_short <= self.wrong_long < self.right_long <= self.right_short
        remedy = "needed: wrong_short ≤ wrong_long < right_long ≤ right_short"
        require(ordered, "right_long", self.right_long, remedy)
        remedy = f"truncation would pay more than a short wrong answer ({self.wrong_short}); give at most that"
        require(self.exceeded <= self.wrong_short, "exceeded", self.exceeded, remedy)


def cosine(length: int, limit: int, short: float, long: float) -> float:
    """From `short` at length 0 to `long` at the limit along half a cosine; `long` beyond (paper, appendix C.1).

    >>> cosine(0, 100, 1.0, 0.5), cosine(50, 100, 1.0, 0.5), cosine(100, 100, 1.0, 0.5), cosine(200, 100, 1.0, 0.5)
    (1.0, 0.75, 0.5, 0.5)
    """
    progress = min(length / limit, 1.0)
    return long + 0.5 * (short - long) * (1.0 + math.cos(progress * math.pi))


def cosine_rewards(group: Sequence[Completion], limit: int, options: CosineOptions) -> list[float]:
    """`exceeded` for truncated completions; for the others `cosine` between the values of right or of wrong ones."""
    right, wrong = (options.right_short, options.right_long), (options.wrong_short, options.wrong_long)
    return [
        options.exceeded if one.truncated else cosine(one.length, limit, *(right if one.right else wrong))
        for one in group
    ]


COSINE = RewardSpec(
    formula=cosine_rewards,
    options=CosineOptions,
    source="Demystifying Long CoT, arXiv 2502.03373; TRL's get_cosine_scaled_reward",
)


@dataclass(frozen=True, kw_only=True)
class LaserOptions(ShapedOptions):
    """LASER (arXiv 2505.15612), with the values of its released code.

    target: a right answer of at most so many tokens earns the bonus [tokens]; None is a quarter of the limit, the
        released 4096 of 16384.
    bonus: what it earns on top of 1.
    wrong, unfinished: reward of a wrong answer, and of a truncated completion (there: no closed thought or no box).
    """

    target: int | None = None
    bonus: float = 0.5
    wrong: float = -0.5
    unfinished: float = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.target is None or self.target >= 1, "target", self.target, "give tokens, 1 or more")
        require(self.bonus > 0, "bonus", self.bonus, "give a reward above 0")
        require(self.wrong < 1, "wrong", self.wrong, "a right answer earns 1; give less")
        remedy = f"truncation would pay more than a wrong answer ({self.wrong}); give at most that"
        require(self.unfinished <= self.wrong, "unfinished", self.unfinished, remedy)

    def check_limit(self, limit: int) -> None:
        fits = self.target is None or self.target < limit
        remedy = f"it must be below the limit of {limit} tokens, or all that finish earn the bonus"
        require(fits, "target", self.target, remedy)


def laser(correct: bool, length: int, target: int, bonus: float, wrong: float) -> float:
    """1, and `bonus` more if at most `target` tokens long, for a right answer; `wrong` for a wrong one.

    >>> laser(True, 1000, 1000, 0.5, -0.5), laser(True, 1001, 1000, 0.5, -0.5), laser(False, 10, 1000, 0.5, -0.5)
    (1.5, 1.0, -0.5)
    """
    return 1.0 + bonus * (length <= target) if correct else wrong


def laser_rewards(group: Sequence[Completion], limit: int, options: LaserOptions) -> list[float]:
    """`laser` of each completion; an unfinished one that is not right earns `unfinished`."""
    target = max(limit // 4, 1) if options.target is None else options.target
    return [
        laser(one.right, one.length, target, options.bonus, options.unfinished if one.truncated else options.wrong)
        for one in group
    ]


LASER = RewardSpec(
    formula=laser_rewards,
    options=LaserOptions,
    source="LASER, arXiv 2505.15612; hkust-nlp/Laser, length_penalty.py",
)
