"""What a round trains on: the problems that pass the filters, and the order of all its prompts, written beforehand.

TRL's sampler forgets on resume which epoch it was in and replays the first permutation. A round is therefore always
one epoch over a dataset that holds every prompt of the round in order.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from transformers import PreTrainedTokenizerBase

from rewards.completion import TargetOptions
from rewards.registry import find_reward, make_options
from schedules.config import ScheduleConfig
from schedules.records import DataRecord
from schedules.rounds import Round
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.tasks.decontaminate import ProblemOverlap, find_overlaps, words
from secateur.tasks.hub_sets import HUB_SETS
from secateur.tasks.prompts import Messages, encode_prompt, in_known_roles, training_messages
from secateur.tasks.records import Problem
from secateur.tasks.sources import UnreadableGold, load_problems, load_training_set, read_source, split_source

Row = dict[str, Messages | str | int]
"""An entry of the dataset that TRL trains on."""


@dataclass(frozen=True)
class TooLong:
    """A problem whose prompt has more than `max_prompt_tokens` tokens."""

    id: str
    tokens: int


@dataclass(frozen=True)
class DataReport(DataRecord):
    """What became of the training problems, in the order of the filters: data.json of the run.

    unreadable: no completion could be right (published sets only; in an own file they are an error).
    evaluation: number of problems of each set that the training problems were compared with.
    exact, near: problems that are in one of those sets, and where. too_long: prompts over `max_prompt_tokens`.
    """

    problems: str
    unreadable: list[UnreadableGold]
    evaluation: dict[str, int]
    exact: list[ProblemOverlap]
    near: list[ProblemOverlap]
    max_prompt_tokens: int
    too_long: list[TooLong]

    def summary(self) -> str:
        """One line for the console."""
        left_out = {
            "in an evaluation set": len(self.exact),
            "nearly in one": len(self.near),
            "too long": len(self.too_long),
            "with an answer that cannot be graded": len(self.unreadable),
        }
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        return f"{self.kept} of {self.loaded} problems of {self.problems}" + (f" ({reasons})" if reasons else "")


@dataclass(frozen=True)
class TrainingData:
    """The problems to train on, how they were come by, and their longest prompt [tokens]."""

    problems: list[Problem]
    report: DataReport
    longest_prompt: int


def load_training_problems(schedule: ScheduleConfig, tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    """The training problems less those of the evaluation sets and those with a prompt over `max_prompt_tokens`.

    Raises `InputError` for what `secateur.tasks.sources` refuses, and if no problem is left.
    """
    problems, unreadable = load_training_set(schedule.problems, schedule.problem_count, schedule.seed)
    evaluation = {source: _read_evaluation(source) for source in schedule.decontaminate}
    overlaps = find_overlaps(problems, evaluation)
    taken = {overlap.id for overlap in overlaps}
    clean = [problem for problem in problems if problem.id not in taken]
    lengths = _prompt_lengths(clean, schedule, tokenizer)
    too_long = [TooLong(*entry) for entry in lengths.items() if entry[1] > schedule.max_prompt_tokens]
    taken |= {entry.id for entry in too_long}
    kept = [problem for problem in clean if problem.id not in taken]
    report = DataReport(
        problems=schedule.problems,
        origins=_origins([schedule.problems, *schedule.decontaminate]),
        loaded=len(problems) + len(unreadable),
        unreadable=unreadable,
        evaluation={source: len(members) for source, members in evaluation.items()},
        exact=[overlap for overlap in overlaps if overlap.kind == "exact"],
        near=[overlap for overlap in overlaps if overlap.kind == "near"],
        max_prompt_tokens=schedule.max_prompt_tokens,
        too_long=too_long,
        kept=len(kept),
    )
    if not kept:
        raise InputError(_nothing_left(report))
    return TrainingData(kept, report, max(tokens for name, tokens in lengths.items() if name not in taken))


def check_validation(schedule: ScheduleConfig, problems: Sequence[Problem]) -> None:
    """Compare the validation problems with those that are trained on, by their text: some in common are a warning.

    Raises `InputError` where all are: checkpoints would be chosen by what they have learned by heart.
    """
    known = {tuple(words(problem.problem)) for problem in problems}
    validation = load_problems(schedule.validation_problems, schedule.validation_count, schedule.seed)
    common = sum(tuple(words(problem.problem)) in known for problem in validation)
    where = f"key 'validation_problems' has the value '{schedule.validation_problems}'"
    if common == len(validation):
        raise InputError(f"{where}: all {common} are training problems as well; name others for one of the two keys")
    if common:
        say(
            f"[bold]warning: {escape(where)}: {common} of {len(validation)} are trained on as well; 'decontaminate' "
            "takes them out of the training problems[/bold]"
        )


def _read_evaluation(source: str) -> list[Problem]:
    try:
        return [one.problem for one in read_source(source)]
    except InputError as error:
        raise InputError(f"key 'decontaminate', '{source}': {error}") from None


def _prompt_lengths(
    problems: Sequence[Problem], schedule: ScheduleConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, int]:
    """Problem id → length of its prompt [tokens] under the highest limit: its sentences have the longest numbers."""
    limit = schedule.limit_range[1]
    target = None if find_reward(schedule.reward).target is None else limit
    return {
        problem.id: len(encode_prompt(tokenizer, _messages(problem, schedule, limit, target))) for problem in problems
    }


def _origins(sources: Sequence[str]) -> dict[str, str]:
    names = [part for source in sources for part in split_source(source) if part in HUB_SETS]
    return {name: f"{HUB_SETS[name].repository}@{HUB_SETS[name].revision}" for name in names}


def _nothing_left(report: DataReport) -> str:
    if len(report.too_long) == report.loaded:
        return (
            f"key 'max_prompt_tokens' has the value {report.max_prompt_tokens}: all {report.loaded} prompts of "
            f"{report.problems} are longer; raise it"
        )
    return f"key 'problems' has the value '{report.problems}': nothing is left to train on: {report.summary()}"


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
    problems: Sequence[Problem],
    schedule: ScheduleConfig,
    round_: Round,
    rows: int,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Row]:
    """The dataset of a round, one entry per prompt in training order, in turns that the chat template takes.

    `prompt` (chat), `gold`, `problem_id`, `row` (its number: the group id of its completions), and `target_tokens`
    if the reward asks for a length.
    """
    order = prompt_order(len(problems), rows, schedule.seed, round_.index)
    return [row_of(problems[index], row, schedule, round_, tokenizer) for row, index in enumerate(order)]


def row_of(
    problem: Problem, row: int, schedule: ScheduleConfig, round_: Round, tokenizer: PreTrainedTokenizerBase
) -> Row:
    """The entry of a round's dataset that has the number `row`."""
    target = _target_tokens(schedule, round_, row)
    prompt = in_known_roles(tokenizer, _messages(problem, schedule, round_.limit, target))
    entry: Row = {"prompt": prompt, "gold": problem.answer, "problem_id": problem.id, "row": row}
    return entry if target is None else {**entry, "target_tokens": target}


def moves_system_turn(problem: Problem, schedule: ScheduleConfig, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template has no place for the system text that a problem is put with."""
    messages = _messages(problem, schedule, schedule.limit_range[1], None)
    return in_known_roles(tokenizer, messages) != messages


def _messages(problem: Problem, schedule: ScheduleConfig, limit: int, target: int | None) -> Messages:
    at_most = find_reward(schedule.reward).target == "at_most"
    stated = limit if schedule.state_limit else None
    return training_messages(problem.problem, schedule.prompt, stated, target, at_most)


def _target_tokens(schedule: ScheduleConfig, round_: Round, row: int) -> int | None:
    """L1's target of a row (arXiv 2503.04697): uniform from `target_min` to the limit [tokens], from its seed."""
    if find_reward(schedule.reward).target is None:
        return None
    options = make_options(schedule.reward, schedule.reward_options)
    assert isinstance(options, TargetOptions), "the options of a reward with a target say how it is drawn"
    return random.Random(f"{schedule.seed}|{round_.index}|{row}|target").randint(options.target_min, round_.limit)
