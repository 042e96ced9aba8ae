"""All rewards by name; what a schedule's `reward` and `reward_options` may say."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from rewards.by_group import ALP, EFFICIENT, KIMI_K15, SHORTER_BETTER
from rewards.by_length import COSINE, DAPO_SOFT_OVERLONG, L1_EXACT, L1_MAX, LASER
from rewards.completion import Completion, RewardOptions, RewardSpec, refuse
from rewards.filters import drop_equal_groups, keep_best
from rewards.hard_limit import HARD_LIMIT, REFERENCE
from secateur.runtime.config import check_types, import_named, is_dotted, reject_unknown
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON

REWARDS: dict[str, RewardSpec] = {
    "hard_limit": HARD_LIMIT,
    "reference": REFERENCE,
    "dapo_soft_overlong": DAPO_SOFT_OVERLONG,
    "l1_exact": L1_EXACT,
    "l1_max": L1_MAX,
    "kimi_k15": KIMI_K15,
    "cosine": COSINE,
    "efficient": EFFICIENT,
    "laser": LASER,
    "shorter_better": SHORTER_BETTER,
    "alp": ALP,
}


def find_reward(name: str) -> RewardSpec:
    """The reward of that name, or the `RewardSpec` of a user's own that `package.module:NAME` names. Raises
    `InputError` if there is none."""
    if is_dotted(name):
        found = import_named(name, "reward")
        if not isinstance(found, RewardSpec):
            raise InputError(f"key 'reward' has the value '{name}', which is no RewardSpec (rewards/completion.py)")
        return found
    if name not in REWARDS:
        raise InputError(f"key 'reward' has the value '{name}'; choose one of {', '.join(REWARDS)}")
    return REWARDS[name]


def make_options(name: str, options: Mapping[str, JSON]) -> RewardOptions:
    """The options of reward `name`, defaults filled in. Raises `InputError` naming the key, value and remedy."""
    spec = find_reward(name)
    where = f"reward '{name}', key 'reward_options'"
    reject_unknown(list(options), [field.name for field in fields(spec.options)], where)
    if "keep_by" in options and options.get("keep") is None:
        refuse("keep_by", options["keep_by"], "it says which completions are kept; give reward_options.keep as well")
    return spec.options(**check_types(spec.options, dict(options), where))


def check_reward(
    name: str, options: Mapping[str, JSON], num_generations: int, limits: Sequence[int] = ()
) -> RewardOptions:
    """All that can be wrong with a reward before a model is loaded.

    num_generations: completions per prompt. limits: of all rounds [tokens]. Raises `InputError`.
    """
    checked = make_options(name, options)
    if num_generations < 2 and (find_reward(name).needs_group or checked.drop_equal_groups):
        raise InputError(
            f"key 'num_generations' has the value {num_generations}, but the reward '{name}' compares the "
            "completions of a prompt; give 2 or more"
        )
    if checked.keep is not None and checked.keep > num_generations:
        refuse("keep", checked.keep, f"a group has only num_generations = {num_generations} completions; give fewer")
    for limit in limits:
        checked.check_limit(limit)
    return checked


def reward_group(name: str, group: Sequence[Completion], limit: int, options: RewardOptions) -> list[float | None]:
    """Rewards of one prompt's completions, in order; None for those that `keep` rejects.

    group: all completions of the prompt. limit: of the round [tokens].
    """
    rewards = find_reward(name).formula(group, limit, options)
    return list(rewards) if options.keep is None else keep_best(rewards, group, options.keep, options.keep_by)


def reward_groups(
    name: str, groups: Sequence[Sequence[Completion]], limit: int, options: RewardOptions
) -> list[list[float | None]]:
    """Rewards of a batch by group; None for completions that are not to be trained on (see rewards/filters.py)."""
    rewards = [reward_group(name, group, limit, options) for group in groups]
    return drop_equal_groups(rewards) if options.drop_equal_groups else rewards
