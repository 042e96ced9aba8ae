"""What a round trains on: the filtered problems, and the order of all its prompts, written down beforehand.

TRL's sampler forgets on resume which epoch it was in and replays the first permutation. A round is therefore always
one epoch over a dataset that holds every prompt of the round in order.
"""

import random
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from runtime.errors import InputError
from schedules.config import ScheduleConfig
from schedules.rounds import Round
from tasks.load import load_problems
from tasks.prompts import encode_prompt, training_messages
from tasks.records import Problem


def load_training_problems(schedule: ScheduleConfig, tokenizer: PreTrainedTokenizerBase) -> list[Problem]:
    """The training problems whose prompts have at most `max_prompt_tokens`; raises `InputError` if none is left."""
    problems = load_problems(schedule.problems, schedule.problem_count, schedule.seed)
    limit = schedule.limits[0]
    kept = [
        problem
        for problem in problems
        if len(encode_prompt(tokenizer, training_messages(problem.problem, schedule.prompt_family, limit)))
        <= schedule.max_prompt_tokens
    ]
    if not kept:
        raise InputError(
            f"key 'max_prompt_tokens' has the value {schedule.max_prompt_tokens}: all {len(problems)} prompts of "
            f"{schedule.problems} are longer; raise it"
        )
    return kept


def shortest_completion(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the longest gold answer takes at least: an empty thought, the box, the end token."""
    longest = max((problem.answer for problem in problems), key=len)
    scaffold = f"<think>\n</think>\n\n\\boxed{{{longest}}}"
    return len(tokenizer(scaffold, add_special_tokens=False)["input_ids"]) + 1


def prompt_order(problems: int, rows: int, seed: int, round_index: int) -> list[int]:
    """`rows` indices below `problems`: epochs, each permuted from (seed, round, epoch), the last one cut off."""
    order: list[int] = []
    epoch = 0
    while len(order) < rows:
        permutation = list(range(problems))
        random.Random(f"{seed}|{round_index}|{epoch}").shuffle(permutation)
        order += permutation
        epoch += 1
    return order[:rows]


def round_rows(
    problems: Sequence[Problem], schedule: ScheduleConfig, round_: Round, rows: int
) -> list[dict[str, Any]]:
    """The dataset of a round: `prompt` (chat), `gold`, `problem_id`, one row per prompt in training order."""
    order = prompt_order(len(problems), rows, schedule.seed, round_.index)
    return [
        {
            "prompt": training_messages(problems[index].problem, schedule.prompt_family, round_.limit),
            "gold": problems[index].answer,
            "problem_id": problems[index].id,
        }
        for index in order
    ]
