"""The reward of ThinkPrune (arXiv 2504.01296): 1 for a correct answer within the limit, otherwise 0.

Where we differ from the released code: there a completion that the limit cut off is graded like any other, so a right
box inside an unfinished thought earns 1. The paper means 0, and that is what `hard_limit` gives. The released
behaviour is the option `reference`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from tasks.answers import grade_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REWARDS = ("hard_limit", "reference")


def hard_limit(correct: bool, truncated: bool) -> float:
    """1.0 if correct and finished within the limit, else 0.0.

    >>> hard_limit(True, False), hard_limit(True, True), hard_limit(False, False)
    (1.0, 0.0, 0.0)
    """
    return float(correct and not truncated)


def is_truncated(token_ids: Sequence[int], end_ids: Collection[int]) -> bool:
    """Whether the limit cut the completion off: its last id is neither an end id nor the pad id (TRL's own rule).

    `end_ids` holds both kinds. An end id as the last allowed token counts as finished; no token at all does not.
    """
    return not token_ids or token_ids[-1] not in end_ids


class HardLimitReward:
    """The reward as `GRPOTrainer` calls it: one value per completion, for a batch of completions.

    Correctness is judged on the decoded ids, not on the completion that TRL hands over: a chat template with a
    response schema would have split the thinking off. The dataset must have a column `gold`.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", end_ids: Collection[int], thinking: bool, kind: str = "hard_limit"
    ) -> None:
        assert kind in REWARDS, kind
        self.tokenizer, self.end_ids, self.thinking = tokenizer, frozenset(end_ids), thinking
        self.__name__ = kind  # TRL's metric key

    def __call__(
        self,
        *,
        completion_ids: Sequence[Sequence[int]],
        gold: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        texts = self.tokenizer.batch_decode(list(completion_ids), skip_special_tokens=True)
        truncated = [is_truncated(ids, self.end_ids) for ids in completion_ids]
        if log_metric is not None:
            log_metric("truncated_share", sum(truncated) / len(truncated))
        if self.__name__ == "reference":
            bare = [text.replace("<think>", "").replace("</think>", "") for text in texts]
            return [float(correct) for correct in grade_batch(bare, gold)]
        correct = grade_batch(texts, gold, self.thinking)
        return [hard_limit(right, cut) for right, cut in zip(correct, truncated, strict=True)]
