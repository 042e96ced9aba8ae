"""Hours of a schedule: tokens of training and of validation, over the speed at which they are made.

A speed is what the run folder has measured, else `tokens_per_second` (what one process generates), else a unit that
says that it is none. Training without a measurement counts generation alone: gradients come on top.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from schedules.choice import START
from schedules.config import ScheduleConfig
from schedules.racing import looks
from schedules.records import SELECTION, read_selection
from secateur.engines.registry import engine_kind
from secateur.runtime.console import say
from secateur.runtime.dry_run import hours_words, millions, plan_table, show_table
from secateur.runtime.files import read_jsonl

UNIT = 1000.0  # [tokens/s] of a process, where nothing is known; said so
EXPECTED_SHARE = 0.5  # of the limit or the cap, as a mean: a figure to plan with, not a measurement
_LENGTH = "completions/mean_length"


@dataclass(frozen=True)
class Speed:
    """Tokens/s of all processes together, and where the number comes from."""

    tokens_per_second: float
    source: str

    def hours(self, tokens: float) -> float:
        return tokens / self.tokens_per_second / 3600


@dataclass(frozen=True)
class Work:
    """Something that takes tokens: as many as are expected and at most, and the speed at which they are made."""

    name: str
    tokens: float
    most: float
    speed: Speed


@dataclass(frozen=True)
class Amounts:
    """What a schedule does: the most tokens that the completions have which are `trained` on; `completions` of an
    optimiser step; `checkpoints` of each round to validate, on so many `problems`; `screened`: the most tokens that
    the pass rates of the training problems take."""

    trained: float
    completions: int
    checkpoints: Sequence[int]
    problems: int
    screened: float = 0.0


def plan_hours(schedule: ScheduleConfig, processes: int, amounts: Amounts) -> list[Work]:
    """Training; validation with all samples; validation raced, by the least that a race takes; and last the pass
    rates, where they are wanted."""
    run, samples = Path(schedule.output_dir), schedule.validation_samples
    engines = max(1, processes // engine_kind(schedule.validation_engine).gpus(schedule.validation_engine_options))
    training = measured_training(run, amounts.completions) or _told(schedule, processes, "; gradients come on top")
    sampling = measured_sampling(run, engines) or _told(schedule, engines)
    all_samples = amounts.problems * (sum(amounts.checkpoints) + 1) * samples
    least = amounts.problems * least_raced(amounts.checkpoints, samples)
    length = validated_length(run, amounts.checkpoints) or EXPECTED_SHARE * schedule.validation_max_tokens
    expected = (trained_share(run) or EXPECTED_SHARE) * amounts.trained
    cap = float(schedule.validation_max_tokens)
    work = [
        Work("training", expected, amounts.trained, training),
        Work("validation, all samples", all_samples * length, all_samples * cap, sampling),
        Work("validation, raced: at least", least * length, least * cap, sampling),
    ]
    rates = Work("pass rates of training problems", EXPECTED_SHARE * amounts.screened, amounts.screened, sampling)
    return [*work, rates] if amounts.screened else work


def least_raced(checkpoints: Sequence[int], samples: int) -> int:
    """Samples of a problem that a race takes in all rounds if everything is plain at its first look: those of the
    first start model and of each round's choice, and those of the first look of the others.

    >>> least_raced([9, 9, 9], 16)
    112
    """
    first = looks(samples)[0]
    return samples + sum(samples + (count - 1) * first for count in checkpoints)


def measured_training(run: Path, completions: int) -> Speed | None:
    """From the times between the steps in train.jsonl, of so many completions each; the median, for a run that was
    stopped and went on has some that are longer."""
    rates = []
    for lines in trained_rounds(run):
        for before, after in itertools.pairwise(lines):
            if after["time"] > before["time"]:
                rates.append(after[_LENGTH] * completions / (after["time"] - before["time"]))
    return (
        Speed(median(rates), f"measured over {len(rates)} steps, as were lengths; gradients included")
        if rates
        else None
    )


def trained_share(run: Path) -> float | None:
    """Mean length of the completions trained on so far, as a share of their limit (0-1): a model that becomes shorter
    meets a lower limit, so that the share stays about the same."""
    shares = [line[_LENGTH] / line["limit"] for lines in trained_rounds(run) for line in lines]
    return fmean(shares) if shares else None


def trained_rounds(run: Path) -> Iterator[list[dict[str, float]]]:
    """Of each round its logged steps with completions of their own."""
    for path in sorted(run.glob("rounds/*/train.jsonl")):
        yield [line for _, line in read_jsonl(path) if _LENGTH in line]


def measured_sampling(run: Path, engines: int) -> Speed | None:
    """From what every process of the validations noted: its tokens, and the seconds from before its model was opened
    (eval/one_model/sampling.py)."""
    lines = [
        line for path in sorted(run.glob("rounds/*/validation/wall-rank*.jsonl")) for _, line in read_jsonl(path)
    ]
    seconds = sum(line["seconds"] for line in lines)
    if not seconds:
        return None
    return Speed(engines * sum(line["tokens"] for line in lines) / seconds, "measured in validation")


def _told(schedule: ScheduleConfig, processes: int, note: str = "") -> Speed:
    if schedule.tokens_per_second is not None:
        return Speed(processes * schedule.tokens_per_second, f"{processes} × tokens_per_second{note}")
    return Speed(processes * UNIT, f"{processes} × {UNIT:,.0f}, no measurement but a unit{note}")


def validated_length(run: Path, checkpoints: Sequence[int]) -> float | None:
    """Mean tokens of a sample over all `checkpoints` of all rounds: of those validated what they had, of the others
    what the last choice has, which they start from."""
    rounds = [read_selection(path.parent) for path in sorted(run.glob(f"rounds/*/{SELECTION}"))]
    if not rounds:
        return None
    known = [one.mean_tokens for number, record in enumerate(rounds) for one in record.candidates
             if number == 0 or one.step != START]  # fmt: skip
    rest = max(0, sum(checkpoints) + 1 - len(known))
    return (math.fsum(known) + rest * rounds[-1].chosen.mean_tokens) / (len(known) + rest)


def show_hours(work: Sequence[Work], raced: bool) -> None:
    """Print them; `raced`: validation is (key `racing_confidence`)."""
    table = plan_table("hours", "tokens", "at most", "tokens/s", "hours", "at most")
    for one in work:
        amounts = (millions(one.tokens), millions(one.most), f"{one.speed.tokens_per_second:,.0f}")
        table.add_row(one.name, *amounts, *(hours_words(one.speed.hours(count)) for count in (one.tokens, one.most)))
    show_table(table)
    for name, one in (("training", work[0]), ("validation", work[1])):
        say(f"  {name}: tokens/s {one.speed.source}")
    if not raced:
        say("  racing_confidence: 0.95 would race the validation, which takes between its two lines then")
