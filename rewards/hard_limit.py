"""The reward of ThinkPrune (arXiv 2504.01296): 1 for a correct answer within the limit, otherwise 0.

Where we differ from the released code: there a completion that the limit cut off is graded like any other, so a right
box inside an unfinished thought earns 1. The paper means 0, and that is what `hard_limit` gives. The released
behaviour is the reward `reference`.
"""

from collections.abc import Collection, Sequence

from rewards.completion import Completion, RewardOptions, RewardSpec


def hard_limit(correct: bool, truncated: bool) -> float:
    """1.0 if correct and finished within the limit, else 0.0.

    >>> hard_limit(True, False), hard_limit(True, True), hard_limit(False, False)
    (1.0, 0.0, 0.0)
    """
    return float(correct and not truncated)


def is_truncated(token_ids: Sequence[int], end_ids: Collection[int], pad_id: int | None = None) -> bool:
    """Whether the limit cut the completion off: its last id, padding apart, is no end id.

    An end id as the last allowed token counts as finished; no token at all does not. TRL takes a pad id at the end
    for an end; a policy can sample that id too, and would learn to fill up what it does not finish.
    """
    last = next((one for one in reversed(token_ids) if one != pad_id or one in end_ids), None)
    return last not in end_ids


def hard_limit_rewards(group: Sequence[Completion], limit: int, options: RewardOptions) -> list[float]:
    """`hard_limit` of each completion."""
    return [hard_limit(one.right, one.truncated) for one in group]


def reference_rewards(group: Sequence[Completion], limit: int, options: RewardOptions) -> list[float]:
    """1.0 for a right answer anywhere in the text, unfinished thoughts included (verl/trainer/main_ppo.py there)."""
    return [float(one.right) for one in group]


HARD_LIMIT = RewardSpec(
    formula=hard_limit_rewards,
    options=RewardOptions,
    source="ThinkPrune, arXiv 2504.01296, as the paper means it",
    words="a reward that a completion earns only if it ends, and is right, within a token limit",
)
REFERENCE = RewardSpec(
    formula=reference_rewards,
    options=RewardOptions,
    source="ThinkPrune, released code: verl/trainer/main_ppo.py",
    grades_whole_text=True,
)
