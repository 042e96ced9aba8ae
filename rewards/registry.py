"""All rewards by name, with their options and sources; what a schedule's `reward` and `reward_options` may say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rewards.by_group import (
    AlpOptions,
    EfficientOptions,
    KimiOptions,
    ShorterBetterOptions,
    alp_rewards,
    efficient_rewards,
    kimi_rewards,
    shorter_better_rewards,
)
from rewards.by_length import (
    CosineOptions,
    L1ExactOptions,
    L1MaxOptions,
    LaserOptions,
    SoftOverlongOptions,
    cosine_rewards,
    dapo_rewards,
    l1_exact_rewards,
    l1_max_rewards,
    laser_rewards,
)
from rewards.completion import Completion, Formula, RewardOptions, refuse
from rewards.filters import drop_equal_groups, keep_best
from rewards.hard_limit import hard_limit_rewards, reference_rewards
from secateur.runtime.config import check_types, reject_unknown
from secateur.runtime.errors import InputError


@dataclass(frozen=True)
class RewardSpec:
    """A reward: its formula, the options it reads, where both come from.

    needs_group: the formula compares the completions of a prompt. needs_target: prompts must name a length, which
    comes in the dataset column `target_tokens`.
    """

    formula: Formula
    options: type[RewardOptions]
    source: str
    needs_group: bool = False
    needs_target: bool = False


REWARDS: dict[str, RewardSpec] = {
    "hard_limit": RewardSpec(
        hard_limit_rewards, RewardOptions, "ThinkPrune, arXiv 2504.01296, as the paper means it"
    ),
    "reference": RewardSpec(reference_rewards, RewardOptions, "ThinkPrune, released code: verl/trainer/main_ppo.py"),
    "dapo_soft_overlong": RewardSpec(
        dapo_rewards, SoftOverlongOptions, "DAPO, arXiv 2503.14476, eq. 13; TRL's get_soft_overlong_punishment"
    ),
    "l1_exact": RewardSpec(l1_exact_rewards, L1ExactOptions, "L1, arXiv 2503.04697, LCPO-Exact", needs_target=True),
    "l1_max": RewardSpec(l1_max_rewards, L1MaxOptions, "L1, arXiv 2503.04697, LCPO-Max", needs_target=True),
    "kimi_k15": RewardSpec(
        kimi_rewards,
        KimiOptions,
        "Kimi k1.5, arXiv 2501.12599, section 2.3.3; open-r1's len_reward",
        needs_group=True,
    ),
    "cosine": RewardSpec(
        cosine_rewards, CosineOptions, "Demystifying Long CoT, arXiv 2502.03373; TRL's get_cosine_scaled_reward"
    ),
    "efficient": RewardSpec(
        efficient_rewards, EfficientOptions, "Arora & Zanette, arXiv 2502.04463", needs_group=True
    ),
    "laser": RewardSpec(laser_rewards, LaserOptions, "LASER, arXiv 2505.15612; hkust-nlp/Laser, length_penalty.py"),
    "shorter_better": RewardSpec(
        shorter_better_rewards,
        ShorterBetterOptions,
        "ShorterBetter, arXiv 2504.21370; JingyangYi/ShorterBetter, naive_configurable.py",
        needs_group=True,
    ),
    "alp": RewardSpec(alp_rewards, AlpOptions, "ALP, arXiv 2506.05256", needs_group=True),
}


def find_reward(name: str) -> RewardSpec:
    """The reward of that name, or `InputError`."""
    if name not in REWARDS:
        raise InputError(f"key 'reward' has the value '{name}'; choose one of {', '.join(REWARDS)}")
    return REWARDS[name]


def make_options(name: str, options: Mapping[str, Any]) -> RewardOptions:
    """The options of reward `name`, defaults filled in. Raises `InputError` naming the key, value and remedy."""
    spec = find_reward(name)
    where = f"reward '{name}', key 'reward_options'"
    reject_unknown(list(options), [field.name for field in fields(spec.options)], where)
    if "keep_by" in options and options.get("keep") is None:
        refuse("keep_by", options["keep_by"], "it says which completions are kept; give reward_options.keep as well")
    return spec.options(**check_types(spec.options, dict(options), where))


def check_reward(
    name: str, options: Mapping[str, Any], num_generations: int, limits: Sequence[int] = ()
) -> RewardOptions:
    """All that can be wrong with a reward before a model is loaded.

    num_generations: completions per prompt. limits: of all rounds [tokens]. Raises `InputError`.
    """
    checked = make_options(name, options)
    if num_generations < 2 and (REWARDS[name].needs_group or checked.drop_equal_groups):
        raise InputError(
            f"key 'num_generations' has the value {num_generations}, but the reward '{name}' compares the "
            "completions of a prompt; give 2 or more"
        )
    if checked.keep is not None and checked.keep > num_generations:
        refuse("keep", checked.keep, f"a group has only num_generations = {num_generations} completions; give fewer")
    for limit in limits:
        checked.check_limit(limit)
    return checked


def needs_target(name: str) -> bool:
    """Whether prompts must name a length and the dataset a column `target_tokens`."""
    return find_reward(name).needs_target


def reward_group(name: str, group: Sequence[Completion], limit: int, options: RewardOptions) -> list[float | None]:
    """Rewards of one prompt's completions, in order; None for those that `keep` rejects.

    group: all completions of the prompt. limit: of the round [tokens].
    """
    rewards = REWARDS[name].formula(group, limit, options)
    return list(rewards) if options.keep is None else keep_best(rewards, group, options.keep, options.keep_by)


def reward_groups(
    name: str, groups: Sequence[Sequence[Completion]], limit: int, options: RewardOptions
) -> list[list[float | None]]:
    """Rewards of a batch by group; None for completions that are not to be trained on (see rewards/filters.py)."""
    rewards = [reward_group(name, group, limit, options) for group in groups]
    return drop_equal_groups(rewards) if options.drop_equal_groups else rewards
