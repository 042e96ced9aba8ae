"""Rewards that compare a completion with the others of its group: the completions of the same prompt.

Lengths are completion token ids with the end token [tokens]. A truncated completion is wrong unless
`grade_truncated` is set, but its length counts wherever the formula looks at all lengths.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rewards.completion import Completion, RewardSpec, ShapedOptions, require


@dataclass(frozen=True, kw_only=True)
class KimiOptions(ShapedOptions):
    """Kimi k1.5 (arXiv 2501.12599).

    weight: scale of the length reward on top of 1 for a right answer. The report names no value, open-r1 adds it as
        it is.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.weight <= 1, "weight", self.weight, "give a scale above 0, at most 1")


def kimi_rewards(group: Sequence[Completion], limit: int, options: KimiOptions) -> list[float]:
    """1[correct] + weight × (λ if right, min(0, λ) if wrong), λ = 0.5 - (length - shortest) / (longest - shortest).

    Shortest and longest of the whole group, right or wrong; 0 for all where they are equal (Kimi k1.5, section 2.3.3;
    `len_reward` of open-r1, which counts characters).
    """
    lengths = [one.length for one in group]
    shortest, spread = min(lengths), max(lengths) - min(lengths)
    if spread == 0:
        return [float(one.right) for one in group]
    scores = [0.5 - (one.length - shortest) / spread for one in group]
    return [
        1.0 + options.weight * score if one.right else options.weight * min(0.0, score)
        for one, score in zip(group, scores, strict=True)
    ]


KIMI_K15 = RewardSpec(
    formula=kimi_rewards,
    options=KimiOptions,
    source="Kimi k1.5, arXiv 2501.12599, section 2.3.3; open-r1's len_reward",
    needs_group=True,
)


@dataclass(frozen=True, kw_only=True)
class EfficientOptions(ShapedOptions):
    """Arora & Zanette, Training Language Models to Reason Efficiently (arXiv 2502.04463).

    alpha: the share of the reward that length can take; 0.05 to 0.4 in the paper.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.alpha < 1, "alpha", self.alpha, "give a share above 0 and below 1")


def efficient_rewards(group: Sequence[Completion], limit: int, options: EfficientOptions) -> list[float]:
    """1[correct] × (1 - alpha × sigmoid((length - mean) / std)), both over the right answers of the group.

    The paper does not say which standard deviation; here the one of a population. Where it is 0, as with a single
    right answer, the sigmoid is 1/2.
    """
    lengths = [one.length for one in group if one.right]
    if not lengths:
        return [0.0] * len(group)
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return [
        1.0 - options.alpha * _sigmoid((one.length - mean) / deviation if deviation else 0.0) if one.right else 0.0
        for one in group
    ]


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))  # does not overflow


EFFICIENT = RewardSpec(
    formula=efficient_rewards,
    options=EfficientOptions,
    source="Arora & Zanette, arXiv 2502.04463",
    needs_group=True,
)


@dataclass(frozen=True, kw_only=True)
class ShorterBetterOptions(ShapedOptions):
    """ShorterBetter (arXiv 2504.21370), with the values of its released code.

    alpha: reward of a right answer.
    beta: reward per token of distance from the sample optimal length.
    """

    alpha: float = 2.0
    beta: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha > 0, "alpha", self.alpha, "give a reward above 0")
        require(self.beta > 0, "beta", self.beta, "give a reward per token above 0")


def sample_optimal_length(group: Sequence[Completion]) -> float:
    """Length of the shortest right answer, the mean length of all if none is right [tokens]."""
    return min((one.length for one in group if one.right), default=statistics.fmean(one.length for one in group))


def shorter_better_rewards(group: Sequence[Completion], limit: int, options: ShorterBetterOptions) -> list[float]:
    """alpha × 1[correct] - beta × |length - sample optimal length|, wrong answers included."""
    optimum = sample_optimal_length(group)
    return [options.alpha * one.right - options.beta * abs(one.length - optimum) for one in group]


SHORTER_BETTER = RewardSpec(
    formula=shorter_better_rewards,
    options=ShorterBetterOptions,
    source="ShorterBetter, arXiv 2504.21370; JingyangYi/ShorterBetter, naive_configurable.py",
    needs_group=True,
)


@dataclass(frozen=True, kw_only=True)
class AlpOptions(ShapedOptions):
    """ALP, Just Enough Thinking (arXiv 2506.05256).

    beta: reward per token at a solve rate of 1 (the paper's β / N). TRL adds 1e-4 to the standard deviation that it
        divides by: where all are right and lengths differ by less than 1e-4 / beta tokens, the penalty fades.
    """

    beta: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta", self.beta, "give a reward per token above 0")


def solve_rate(group: Sequence[Completion]) -> float:
    """Share of right answers in the group, at least one answer's share (fraction 0-1)."""
    return max(sum(one.right for one in group), 1) / len(group)


def alp_rewards(group: Sequence[Completion], limit: int, options: AlpOptions) -> list[float]:
    """1[correct] - beta × max(solve rate, 1 / group size) × length, wrong answers included."""
    price = options.beta * solve_rate(group)
    return [float(one.right) - price * one.length for one in group]


ALP = RewardSpec(
    formula=alp_rewards,
    options=AlpOptions,
    source="ALP, arXiv 2506.05256",
    needs_group=True,
)
