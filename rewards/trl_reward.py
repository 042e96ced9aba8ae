"""A reward as TRL's `GRPOTrainer` calls it: grades completions, brings each group together, applies the formula.

TRL hands every process its own completions. It lays the groups out one after the other over the batch of all
processes, so a process boundary may run through a group. Formulas that compare completions, and means over all
completions, therefore see the batch of all processes.
"""

import logging
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rewards.completion import Completion
from rewards.hard_limit import is_truncated
from rewards.registry import find_reward, make_options, reward_groups
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.tasks.answers.equality import grade_within
from secateur.tasks.answers.extraction import ANSWER, ANYWHERE, extraction, last_box

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def completion_metrics(completions: Sequence[Completion]) -> dict[str, float]:
    """Shares (fraction 0-1) and mean lengths [tokens] over completions; a mean over none is left out.

    truncated_share, correct_share: of all completions. right_mean_length, wrong_mean_length: of right and wrong ones.
    ungraded_share: of all completions, where the time for grading did not suffice for all.
    """
    right = [one.length for one in completions if one.right]
    wrong = [one.length for one in completions if not one.right]
    metrics = {
        "truncated_share": sum(one.truncated for one in completions) / len(completions),
        "correct_share": len(right) / len(completions),
    }
    if right:
        metrics["right_mean_length"] = sum(right) / len(right)
    if wrong:
        metrics["wrong_mean_length"] = sum(wrong) / len(wrong)
    if ungraded := sum(not one.graded for one in completions):
        metrics["ungraded_share"] = ungraded / len(completions)
    return metrics


def group_metrics(groups: Mapping[int, Sequence[Completion]]) -> dict[str, float]:
    """Shares of the groups in which all completions are right, and in which none is (fraction 0-1)."""
    solved = [sum(one.right for one in group) / len(group) for group in groups.values()]
    return {
        "groups_all_right": solved.count(1.0) / len(solved),
        "groups_all_wrong": solved.count(0.0) / len(solved),
    }


_UNSCORABLE = re.compile(r"(\[RANK \d+\] )?All reward functions returned None")  # the prefix is accelerate's
Labelled = tuple[int | None, Completion]  # (group id, completion)


class LimitReward:
    """The reward `name` within `limit`: one value per completion, None for one that is not to be trained on.

    tokenizer: decodes completions. end_ids: end tokens; only the loaded model knows them all, so
    they may be set later. thinking: completions begin inside the thinking part. options: `reward_options` of the
    schedule. limit: of the round [tokens]. world: processes that train together. answer_from: where the final answer
    is (secateur/tasks/answers/extraction.py). grading_s: what the answers of one call may take together on this
    process [s, processor time]; those left then are wrong.
    `on_groups` may be set: it is told group id → rewards of every batch.

    Correctness is judged on the decoded ids, not on the completion that TRL hands over: a chat template with a
    response schema would have split the thinking off. Dataset columns: `gold`; `row`, the group id, the same for all
    completions of a prompt and for no others; `target_tokens` if the reward needs a target [tokens].

    Raises `InputError` for an unknown name or an option that does not fit.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        end_ids: Collection[int],
        thinking: bool,
        name: str,
        options: Mapping[str, JSON],
        limit: int,
        world: int,
        answer_from: str = ANSWER,
        grading_s: float = math.inf,
    ) -> None:
        self.spec, self.options = find_reward(name), make_options(name, options)
        self.options.check_limit(limit)
        self.tokenizer, self.end_ids = tokenizer, frozenset(end_ids)
        self.extract = extraction(answer_from, thinking)
        if self.spec.grades_whole_text and answer_from in (ANSWER, ANYWHERE):  # thinking is text like any other
            self.extract = last_box
        self.limit, self.world, self.grading_s = limit, world, grading_s
        self.on_groups: Callable[[Mapping[int, Sequence[float | None]]], None] | None = None
        self.__name__ = name  # TRL's metric key

    def __call__(
        self,
        *,
        completion_ids: Sequence[Sequence[int]],
        gold: Sequence[str],
        row: Sequence[int] | None = None,
        target_tokens: Sequence[int] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: object,
    ) -> list[float | None]:
        self._check_columns(row, target_tokens)
        completions = self._read(completion_ids, gold, target_tokens)
        groups = row if row is not None else [None] * len(completions)
        batch, first = self._gather(list(zip(groups, completions, strict=True)))
        rewards, metrics = self._reward(batch)
        if self.on_groups is not None:
            self.on_groups(_by_group(batch, rewards))
        if log_metric is not None:
            for key, value in metrics.items():
                log_metric(key, value)
        own = rewards[first : first + len(completions)]
        if None in own:
            _silence_unscorable()
        return own

    def _check_columns(self, row: Sequence[int] | None, target_tokens: Sequence[int] | None) -> None:
        options = self.options
        if row is None and (self.spec.needs_group or options.keep is not None or options.drop_equal_groups):
            raise InputError(
                f"reward '{self.__name__}' compares the completions of a prompt, but the dataset has no column 'row' "
                "that tells the prompts apart; add it: one number per row"
            )
        if target_tokens is None and self.spec.target is not None:
            raise InputError(
                f"reward '{self.__name__}' needs the length that each prompt asks for, but the dataset has no column "
                "'target_tokens'; add it [tokens]"
            )

    def _read(
        self, completion_ids: Sequence[Sequence[int]], gold: Sequence[str], targets: Sequence[int] | None
    ) -> list[Completion]:
        truncated = [is_truncated(ids, self.end_ids, self.tokenizer.pad_token_id) for ids in completion_ids]
        verdicts = self._grade(completion_ids, gold, truncated)
        targets = targets if targets is not None else [None] * len(verdicts)
        lengths = [len(ids) for ids in completion_ids]
        return [
            Completion(verdict is True, length, cut, target, graded=verdict is not None)
            for verdict, length, cut, target in zip(verdicts, lengths, truncated, targets, strict=True)
        ]

    def _grade(
        self, completion_ids: Sequence[Sequence[int]], gold: Sequence[str], truncated: Sequence[bool]
    ) -> list[bool | None]:
        """Which completions are right, None for those that time did not suffice for. Those whose answer cannot count
        are wrong without being graded."""
        counts_truncated = self.spec.grades_whole_text or self.options.counts_truncated
        chosen = [index for index, cut in enumerate(truncated) if counts_truncated or not cut]
        right: list[bool | None] = [False] * len(truncated)
        if not chosen:
            return right
        texts = self.tokenizer.batch_decode([completion_ids[index] for index in chosen], skip_special_tokens=True)
        verdicts = grade_within(texts, [gold[index] for index in chosen], self.grading_s, self.extract)
        for index, verdict in zip(chosen, verdicts, strict=True):
            right[index] = verdict
        return right

    def _gather(self, own: list[Labelled]) -> tuple[list[Labelled], int]:
        """The completions of all processes in order of their ranks, and where this process's begin among them."""
        if self.world == 1:
            return own, 0
        from accelerate import PartialState
        from accelerate.utils import gather_object

        parts: list[list[Labelled]] = gather_object([own])
        first = sum(len(part) for part in parts[: PartialState().process_index])
        return [labelled for part in parts for labelled in part], first

    def _reward(self, batch: Sequence[Labelled]) -> tuple[list[float | None], dict[str, float]]:
        """Rewards of the whole batch and what is logged about it."""
        places: dict[int | None, list[int]] = {}
        for place, (label, _) in enumerate(batch):
            places.setdefault(label, []).append(place)
        groups = {label: [batch[place][1] for place in members] for label, members in places.items()}
        values = reward_groups(self.__name__, list(groups.values()), self.limit, self.options)
        rewards: list[float | None] = [None] * len(batch)
        for members, found in zip(places.values(), values, strict=True):
            for place, value in zip(members, found, strict=True):
                rewards[place] = value
        metrics = completion_metrics([completion for _, completion in batch])
        if None not in groups:
            metrics |= group_metrics(groups)
        if self.options.keep is not None or self.options.drop_equal_groups:
            metrics["trained_share"] = sum(reward is not None for reward in rewards) / len(rewards)
        return rewards, metrics


def _by_group(batch: Sequence[Labelled], rewards: Sequence[float | None]) -> dict[int, list[float | None]]:
    found: dict[int, list[float | None]] = {}
    for (label, _), reward in zip(batch, rewards, strict=True):
        assert label is not None, "the dataset of a round numbers its rows"
        found.setdefault(label, []).append(reward)
    return found


def _silence_unscorable() -> None:
    """TRL warns of each batch with a None and prints a whole completion; here they are meant, and are counted."""
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(_is_no_note_of_unscorable)


def _is_no_note_of_unscorable(record: logging.LogRecord) -> bool:
    return not _UNSCORABLE.match(record.getMessage())
