"""All rewards by name, what a schedule's `reward` and `reward_options` may say, and the filters that go with any.

Filters take completions out of training after they are rewarded: GFPO's, and groups that teach nothing.

A reward of None is what TRL calls unscorable (GRPOTrainer 1.16, `_generate_and_score_completions`): it becomes NaN;
mean and standard deviation of group or batch are taken over the others (with n - 1), and the advantage is set to 0.
The tokens stay in the batch: the losses that divide by tokens (`dapo`, `bnpo`) or by sequences (`grpo`) count them,
and with beta > 0 they still feel the KL term.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from rewards.by_group import ALP, EFFICIENT, KIMI_K15, SHORTER_BETTER
from rewards.by_length import COSINE, DAPO_SOFT_OVERLONG, L1_EXACT, L1_MAX, LASER
from rewards.completion import Completion, RewardOptions, RewardSpec, refuse
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
    """Rewards of a batch by group; None for completions that are not to be trained on."""
    rewards = [reward_group(name, group, limit, options) for group in groups]
    return drop_equal_groups(rewards) if options.drop_equal_groups else rewards


def keep_best(rewards: Sequence[float], group: Sequence[Completion], keep: int, keep_by: str) -> list[float | None]:
    """GFPO (arXiv 2508.09726, section 3): None for all but the `keep` shortest, or most rewarded per token.

    Ties go to the shorter and then to the better rewarded one, so the kept (reward, length) pairs do not depend on
    the order within the group. As in the paper, mean and standard deviation are those of the kept ones. Three things
    differ: TRL divides by the standard deviation (n - 1) + 1e-4; with `scale_rewards: batch` it is that of all kept
    completions of the batch; and a reward that can be negative ranks long wrong answers above short ones under
    `efficiency`, which the paper uses with rewards from 0 up.

    The truncated ones are the longest, so with enough finished ones they are taken out: they teach nothing then.
    """

    def rank(index: int) -> tuple[float, float, float]:
        reward, length = rewards[index], group[index].length
        score = length if keep_by == "length" else -reward / max(length, 1)
        return score, length, -reward

    kept = set(sorted(range(len(group)), key=rank)[:keep])
    return [reward if index in kept else None for index, reward in enumerate(rewards)]


def drop_equal_groups(groups: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    """The rewards of a batch by group; None for all of a group whose rewards (those not None) are all equal.

    The half of dynamic sampling (DAPO, arXiv 2503.14476, section 3.2; DLER, arXiv 2510.15110) that a reward can do:
    such groups have advantage 0 anyway, but with `scale_rewards: batch` they no longer enter the standard deviation
    that all others are divided by. It is not dynamic sampling: no other prompt is sampled instead, so the batch
    teaches from fewer groups, and their tokens still count in the loss. TRL 1.16 offers no such thing
    (huggingface/trl issue 3708). If no group would be left, all stand: their advantages are 0, and means of nothing
    need not be logged.
    """
    teaches = [len({reward for reward in rewards if reward is not None}) > 1 for rewards in groups]
    if not any(teaches):
        return [list(rewards) for rewards in groups]
    return [list(rewards) if stays else [None] * len(rewards) for rewards, stays in zip(groups, teaches, strict=True)]
