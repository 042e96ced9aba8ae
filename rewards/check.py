"""Tries a reward or an answer extraction of your own on all that a training can hand it, and shows what it pays.

    python rewards/check.py --reward my_reward:ROOM_LEFT --reward_options '{weight: 0.2}'
    python rewards/check.py --answer_from my_answers:last_line

Each promise is a line, `ok` or `FAULT` with the smallest case that broke it, and a fault ends with exit code 1. The
rewards and extractions that are here keep all of them.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.markup import escape

from rewards.completion import Completion, RewardOptions, RewardSpec
from rewards.registry import check_reward, find_reward
from secateur.runtime.config import parse_config
from secateur.runtime.console import plain_table, print_table, say
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from secateur.tasks.answers.extraction import Extract, extraction

_GROUPS = 200
_SEED = 0
_CLOSE = 1e-9  # two sums of the same numbers in another order
_LONG_TEXT, _LONG_TEXT_CPU_S = 200_000, 1.0
TEXTS = (
    *(
        "",
        " ",
        "\n",
        "42",
        "\\boxed{42}",
        "The answer is \\boxed{\\frac{1}{2}}.",
        "<think>\\boxed{1}</think> \\boxed{2}",
    ),
    *(
        "<think> never closed \\boxed{3}",
        "\\boxed{",
        "}{",
        "\\boxed{}",
        "\\boxed{{{{}",
        "ANSWER: 7",
        "Antwort: −5 °C",
    ),
    *("\x00\x1b[31m", "\ud7ff\U0001f600", "((((((((((", "$\\boxed{$", "%s {0} {x!r}", "\\boxed{__import__('os')}"),
)
"""What models write when they are asked for a box, and what nobody expected."""


@dataclass(kw_only=True)
class CheckConfig:
    """What is tried; one of both, or both.

    reward: a name of docs/rewards.md, or your own as package.module:NAME (a RewardSpec, see rewards/completion.py).
    reward_options: its options, as a schedule has them.
    answer_from: where an answer is taken from, your own as package.module:function.
    limit: of a round [tokens].
    num_generations: completions per prompt.
    """

    reward: str | None = None
    reward_options: dict[str, Any] = field(default_factory=dict)
    answer_from: str | None = None
    limit: int = 4000
    num_generations: int = 8

    def __post_init__(self) -> None:
        if self.reward is None and self.answer_from is None:
            raise InputError("nothing to try: give 'reward', 'answer_from', or both")
        if self.reward is None and self.reward_options:
            raise InputError("key 'reward_options' is given, but no 'reward'")
        if self.limit < 10:
            raise InputError(f"key 'limit' has the value {self.limit}; give tokens, 10 or more")


Fault = str | None
"""What broke a promise; None if nothing did."""


class Trial:
    """A reward on random groups; the same ones each time."""

    def __init__(self, spec: RewardSpec, options: RewardOptions, limit: int, size: int) -> None:
        self.spec, self.options, self.limit, self.size = spec, options, limit, size

    def pay(self, group: Sequence[Completion]) -> list[float]:
        return self.spec.formula(list(group), self.limit, self.options)

    def groups(self) -> Iterator[list[Completion]]:
        """Every mix of outcomes in small groups first, so that what breaks is shown small."""
        rng = random.Random(_SEED)
        for outcomes in itertools.chain.from_iterable(itertools.product(_OUTCOMES, repeat=size) for size in (2, 3)):
            yield [self.completion(one, rng) for one in outcomes]
        for _ in range(_GROUPS):
            yield [self.completion(rng.choice(_OUTCOMES), rng) for _ in range(self.size)]

    def completion(self, outcome: str, rng: random.Random) -> Completion:
        target = rng.randint(1, self.limit) if self.spec.target else None
        if outcome == "truncated":
            counts = self.options.counts_truncated and rng.random() < 0.5
            return Completion(counts, self.limit, truncated=True, target=target)
        return Completion(outcome == "right", rng.choice((1, rng.randint(1, self.limit), self.limit)), target=target)


_OUTCOMES = ("right", "wrong", "truncated")


def one_number_each(trial: Trial) -> Fault:
    """one finite number for each completion"""
    for group in trial.groups():
        paid = trial.pay(group)
        if len(paid) != len(group) or not all(isinstance(one, (int, float)) and math.isfinite(one) for one in paid):
            return f"{paid!r:.200} for {_words(group)}"
    return None


def the_same_each_time(trial: Trial) -> Fault:
    """the same group earns the same each time"""
    for group in trial.groups():
        if (first := trial.pay(group)) != (again := trial.pay(group)):
            return f"{first} and then {again} for {_words(group)}"
    return None


def whatever_the_order(trial: Trial) -> Fault:
    """what a completion earns does not hang on its place in the group"""
    for group in trial.groups():
        if not _all_close(trial.pay(group)[::-1], trial.pay(group[::-1])):
            return f"{trial.pay(group)}, but {trial.pay(group[::-1])} the other way round, for {_words(group)}"
    return None


def alone_as_in_company(trial: Trial) -> Fault:
    """without needs_group, what a completion earns does not hang on the others"""
    if trial.spec.needs_group:
        return None
    for group in trial.groups():
        alone = [trial.pay([one])[0] for one in group]
        if not _all_close(alone, trial.pay(group)):
            return f"{trial.pay(group)} together, but {alone} each alone, for {_words(group)}: set needs_group=True"
    return None


def right_before_wrong(trial: Trial) -> Fault:
    """a right completion earns no less than if it were wrong"""
    for group in trial.groups():
        for place, one in enumerate(group):
            if one.right and not one.truncated:
                wrong = [*group[:place], replace(one, right=False), *group[place + 1 :]]
                earned, otherwise = trial.pay(group)[place], trial.pay(wrong)[place]
                if earned < otherwise - _CLOSE:
                    return f"{earned} right, {otherwise} wrong, for number {place + 1} of {_words(group)}"
    return None


def finished_before_truncated(trial: Trial) -> Fault:
    """a right completion that ends at the limit earns no less than one that was cut off there"""
    rng = random.Random(_SEED)
    for others in ([], [trial.completion(one, rng) for one in _OUTCOMES]):
        target = trial.limit if trial.spec.target else None
        ended, cut = (Completion(not cut_off, trial.limit, cut_off, target) for cut_off in (False, True))
        if trial.pay([ended, *others, *others])[0] < trial.pay([cut, *others, *others])[0] - _CLOSE:
            return f"less than truncated, beside {_words(others)}" if others else "less than truncated, alone"
    return None


PROMISES: tuple[Callable[[Trial], Fault], ...] = (
    one_number_each,
    the_same_each_time,
    whatever_the_order,
    alone_as_in_company,
    right_before_wrong,
    finished_before_truncated,
)


def text_or_none(extract: Extract) -> Fault:
    """a text or None for whatever a model writes"""
    for text in TEXTS:
        if not isinstance(found := extract(text), str | None):
            return f"{found!r:.100} for {text!r}"
    return None


def the_same_answer(extract: Extract) -> Fault:
    """the same answer each time"""
    return next((f"for {text!r}" for text in TEXTS if extract(text) != extract(text)), None)


def long_texts(extract: Extract) -> Fault:
    """a text of 200,000 characters takes less than a second of processor time"""
    for part in ("a", "{", "\\boxed{", "1 ", "((", "\\boxed{1}"):
        began = time.process_time()
        extract(part * (_LONG_TEXT // len(part)))
        if (took := time.process_time() - began) > _LONG_TEXT_CPU_S:
            return f"{took:.1f} s for {part!r} again and again"
    return None


ANSWER_PROMISES: tuple[Callable[[Extract], Fault], ...] = (text_or_none, the_same_answer, long_texts)


def broken(promises: Sequence[Callable[[Any], Fault]], tried: object) -> int:
    """Say of each promise whether it is kept; how many are not."""
    faults = 0
    for promise in promises:
        try:
            fault = promise(tried)
        except Exception as error:  # whatever somebody else's code raises
            fault = f"raises {type(error).__name__}: {error}"
        faults += fault is not None
        say(f"  ok     {promise.__doc__}" if fault is None else f"  FAULT  {promise.__doc__}: {escape(fault)}")
    return faults


def show_payments(trial: Trial) -> None:
    """What right, wrong and truncated completions earn, by length."""
    table = plain_table("what a completion earns", ("tokens", "right", "wrong", "truncated"))
    company = (
        [Completion(True, trial.limit // 2), Completion(False, trial.limit // 2)] if trial.spec.needs_group else []
    )
    target = trial.limit // 2 if trial.spec.target else None
    company = [replace(one, target=target) for one in company]
    for length in sorted({max(1, trial.limit * eighth // 8) for eighth in (1, 2, 4, 6, 8)}):
        shown = [Completion(right, length, target=target) for right in (True, False)]
        shown += [Completion(False, length, True, target)] if length == trial.limit else []
        cells = [f"{trial.pay([one, *company])[0]:.4g}" for one in shown]
        table.add_row(f"{length:,}", *cells, *[""] * (3 - len(cells)))
    print_table(table)
    if company:
        say(f"  each beside {escape(_words(company))}")


def _words(group: Sequence[Completion]) -> str:
    def outcome(one: Completion) -> str:
        return "truncated" if one.truncated else "right" if one.right else "wrong"

    return ", ".join(f"{outcome(one)} {one.length}" for one in group)


def _all_close(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(math.isclose(*pair, rel_tol=_CLOSE, abs_tol=_CLOSE) for pair in zip(first, second, strict=True))


@entry_point
def main() -> None:
    config, faults = parse_config(CheckConfig), 0
    if config.reward is not None:
        options = check_reward(config.reward, config.reward_options, config.num_generations, [config.limit])
        trial = Trial(find_reward(config.reward), options, config.limit, config.num_generations)
        say(f"reward {escape(config.reward)}, limit {config.limit:,} tokens")
        faults = broken(PROMISES, trial)
        if not faults:
            show_payments(trial)
    if config.answer_from is not None:
        say(f"answers from {escape(config.answer_from)}")
        faults += broken(ANSWER_PROMISES, extraction(config.answer_from))
    if faults:
        say(f"{faults} broken: mend the code, or say in its docstring why the promise does not hold")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
