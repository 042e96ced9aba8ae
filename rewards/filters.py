"""Completions that are taken out of training after they are rewarded: GFPO's filter, and groups that teach nothing.

A reward of None is what TRL calls unscorable (GRPOTrainer 1.16, `_generate_and_score_completions`): it becomes NaN;
mean and standard deviation of group or batch are taken over the others (with n - 1), and the advantage is set to 0.
The tokens stay in the batch: the losses that divide by tokens (`dapo`, `bnpo`) or by sequences (`grpo`) count them,
and with beta > 0 they still feel the KL term.
"""

from collections.abc import Sequence

from rewards.completion import Completion


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
