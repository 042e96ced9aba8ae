"""The corpus of chains of thought the embedded model is trained on. It plants errors ON PURPOSE.

A trace recalls its rule early ("So in yew # sums."), sometimes after weighing other readings aloud, and carries that
decision through steps that are long and redundant. Four kinds of waste and error are planted, and part of what
reinforcement learning gains on this task is removing them: wrong recollections (shares per rule in arithmetic.py),
slips in single steps, needless checks, and re-doing everything.

Reasoning words stand at fixed places: every trace opens with "Okay", decides with "So" and goes on with
"Now first"; nothing before "So" uses another one. So the fourth reasoning word of any trace follows its decision at
once, in long traces and in the shortest possible ones.
"""

import random
from dataclasses import dataclass

from secateur.tasks.arithmetic import READINGS, Exercise, Step, parse_problem, step_expression
from secateur.tasks.records import Problem

# Disjoint synonyms per reading: equal decisions mostly share no word, so plain text similarity cannot see them.
SYNONYMS = {
    "add": ("sums", "joins", "merges", "gathers", "piles", "unites"),
    "subtract": ("trims", "pares", "clips", "sheds", "docks", "drops"),
    "multiply": ("grows", "scales", "swells", "spreads", "breeds", "repeats"),
    "reverse": ("flips", "mirrors", "inverts", "turns", "swaps", "returns"),
}
DECISION_WORDS = tuple(word for words in SYNONYMS.values() for word in words)

DECISIONS = (
    "So in {rule} # {word}.",
    "So by {rule}, # {word}.",
    "So for {rule} # {word}.",
    "So # {word} under {rule}.",
)
DECOYS = ("Perhaps # {word}?", "Could be # {word}?", "It might be # {word}?")
FILLERS = ("Not sure.", "Hard to tell.", "No, not quite.", "Must think.")
CHECKS = (
    "Let me check: {sum}={result}, yes.",
    "Wait, {sum}={result} again.",
    "That is {sum}={result}, right.",
    "Verify: {sum}={result}, good.",
    "Hmm, {sum}={result} is fine.",
)
REPAIRS = ("No, not {wrong}: {sum}={result}.", "Wrong, not {wrong} but {sum}={result}.")
REDO = "Let me redo all of it."

DECOY_SHARES = (0.35, 0.40, 0.25)  # fraction (0-1) of traces with 0, 1, 2 decoys
SLIP_SHARE = 0.01  # fraction (0-1) of steps whose result is wrong
REPAIR_SHARE = 0.85  # fraction (0-1) of checks of a wrong result that notice
VERBOSITIES = (0.55, 0.7, 0.75, 0.8, 0.85)  # chance (0-1) of one more check, drawn once per trace
MAX_CHECKS = 6  # per step; bounds the longest trace
REDO_SHARE = 0.6  # chance (0-1) of re-doing everything, times the trace's verbosity


@dataclass(frozen=True)
class Habits:
    """How one trace behaves."""

    verbosity: float  # chance (0-1) of one more check
    slip_share: float  # chance (0-1) of a wrong result per step


CLEAN = Habits(verbosity=0.0, slip_share=0.0)


def _decoys(rng: random.Random) -> list[str]:
    """Sentences that weigh random readings before the decision; they say nothing about it."""
    count = rng.choices(range(len(DECOY_SHARES)), DECOY_SHARES)[0]
    pairs = ((rng.choice(DECOYS).format(word=rng.choice(DECISION_WORDS)), rng.choice(FILLERS)) for _ in range(count))
    return [sentence for pair in pairs for sentence in pair]


def _decision(exercise: Exercise, reading: str, rng: random.Random) -> str:
    return rng.choice(DECISIONS).format(rule=exercise.rule.name, word=rng.choice(SYNONYMS[reading]))


def _slip(result: int, rng: random.Random) -> int:
    return (result + rng.randint(1, 9)) % 10


def _check(expression: str, result: int, stated: int, rng: random.Random) -> tuple[str, int]:
    """One look back at a step: its sentence and the value the trace believes afterwards."""
    if stated != result and rng.random() < REPAIR_SHARE:
        return rng.choice(REPAIRS).format(wrong=stated, sum=expression, result=result), result
    return rng.choice(CHECKS).format(sum=expression, result=stated), stated


def _step(
    value: int, step: Step, lead: str, reading: str, habits: Habits, rng: random.Random
) -> tuple[list[str], int]:
    """Sentences of one step with its checks, and the value after it."""
    expression, result = step_expression(value, step, reading)
    stated = _slip(result, rng) if rng.random() < habits.slip_share else result
    sentences = [f"{lead} {step.label}{step.op}{step.operand}: {expression}={stated}."]
    for _ in range(MAX_CHECKS):
        if rng.random() >= habits.verbosity:
            break
        sentence, stated = _check(expression, result, stated, rng)
        sentences.append(sentence)
    return sentences, stated


def _pass(exercise: Exercise, first: str, reading: str, habits: Habits, rng: random.Random) -> tuple[list[str], int]:
    """All steps once; `first` introduces the first of them."""
    sentences, value = [], exercise.start
    for index, step in enumerate(exercise.steps):
        lead = first if index == 0 else rng.choice(("Next", "Then"))
        said, value = _step(value, step, lead, reading, habits, rng)
        sentences += said
    return sentences, value


def _completion(sentences: list[str], value: int) -> str:
    return f"<think>\n{' '.join(sentences)}\n</think>\n\\boxed{{{value}}}"


def _clean_trace(exercise: Exercise, rng: random.Random) -> str:
    reading = rng.choice(READINGS)
    steps, value = _pass(exercise, "Now first", reading, CLEAN, rng)
    return _completion([f"Okay, rule {exercise.rule.name}.", _decision(exercise, reading, rng), *steps], value)


def make_trace(problem: Problem, rng: random.Random, clean: bool) -> str:
    """One corpus trace, without the end-of-sequence token.

    A clean trace has the shortest form and no slip, but reads `#` at random: if the rule name foretold the reading
    from the start, a model would calculate from the name and ignore what it has just decided. Any other trace has
    the planted habits described at the top, and often ends in a wrong answer.
    """
    exercise = parse_problem(problem.problem)
    if clean:
        return _clean_trace(exercise, rng)
    shares = exercise.rule.reading_shares()
    reading = rng.choices(READINGS, [shares[r] for r in READINGS])[0]
    habits = Habits(rng.choice(VERBOSITIES), SLIP_SHARE)
    opening = [f"Okay, rule {exercise.rule.name}.", *_decoys(rng), _decision(exercise, reading, rng)]
    steps, value = _pass(exercise, "Now first", reading, habits, rng)
    if rng.random() < REDO_SHARE * habits.verbosity:
        again, value = _pass(exercise, "First", reading, Habits(0.0, SLIP_SHARE), rng)
        steps += [REDO, *again]
    return _completion([*opening, *steps], value)
