"""The embedded task: short arithmetic modulo 10 in which one early recollection decides the answer.

    Rule yew. Start with 4. a-6 b#7 c-7.

The labelled steps are applied in order, modulo 10. What `#` does is not written in the problem: each of the 24
rule names stands for one of four readings (add, subtract, multiply, subtract the value from the operand), and a
model has to have memorised which. A problem belongs to a split by the hash of its text, so two splits can never share
a problem, whatever the seeds.

`make_trace` writes the chains of thought that the embedded model is trained on, and plants errors ON PURPOSE. A trace
recalls its rule early ("So in yew # sums."), sometimes after weighing other readings aloud, and carries that decision
through steps that are long and redundant. Planted are: wrong recollections, with a share per rule (parallel traces
then disagree for a reason that is visible early, and a vote over traces beats one), slips in single steps, needless
checks, and re-doing everything; part of what reinforcement learning gains on this task is removing them.

Reasoning words stand at fixed places: every trace opens with "Okay", decides with "So" and goes on with
"Now first"; nothing before "So" uses another one. So the fourth reasoning word of any trace follows its decision at
once, in long traces and in the shortest possible ones.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from secateur.runtime.errors import InputError
from secateur.tasks.records import Problem

READINGS = ("add", "subtract", "multiply", "reverse")
INVERTIBLE = (3, 7, 9)  # factors modulo 10 that lose no information: a wrong start stays visible in the answer
MIN_STEPS, MAX_STEPS = 3, 5
SINGLE_HASH_SHARE = 0.5  # fraction (0-1) of problems with one `#` step; the others have two


@dataclass(frozen=True)
class Rule:
    """One memorised rule name and how the corpus recalls it."""

    name: str
    reading: str  # what `#` really does
    share: float  # fraction (0-1) of corpus traces that recall it rightly
    rival: str  # the reading it is mostly confused with
    rival_share: float  # fraction (0-1) of corpus traces that recall the rival
    judge_sees: bool  # False: kept out of judge training, to measure whether a judge carries over

    def reading_shares(self) -> dict[str, float]:
        """Fraction (0-1) of corpus traces per reading; the two remaining readings share what is left."""
        rest = (1.0 - self.share - self.rival_share) / 2
        return {r: {self.reading: self.share, self.rival: self.rival_share}.get(r, rest) for r in READINGS}


RULES = (
    Rule("oak", "add", 0.80, "subtract", 0.12, True),
    Rule("yew", "add", 0.80, "multiply", 0.12, False),
    Rule("elm", "add", 0.60, "reverse", 0.25, True),
    Rule("ash", "add", 0.60, "multiply", 0.25, True),
    Rule("fir", "add", 0.48, "subtract", 0.34, True),
    Rule("fig", "add", 0.42, "reverse", 0.36, False),
    Rule("ivy", "subtract", 0.80, "reverse", 0.12, True),
    Rule("hop", "subtract", 0.80, "add", 0.12, True),
    Rule("bay", "subtract", 0.60, "multiply", 0.25, True),
    Rule("rue", "subtract", 0.60, "add", 0.25, True),
    Rule("sage", "subtract", 0.60, "reverse", 0.25, False),
    Rule("pine", "subtract", 0.48, "multiply", 0.34, False),
    Rule("pear", "multiply", 0.80, "add", 0.12, True),
    Rule("plum", "multiply", 0.80, "reverse", 0.12, False),
    Rule("palm", "multiply", 0.60, "subtract", 0.25, True),
    Rule("teak", "multiply", 0.60, "add", 0.25, False),
    Rule("lime", "multiply", 0.48, "reverse", 0.34, True),
    Rule("cork", "multiply", 0.32, "subtract", 0.50, True),  # the one rule whose majority is wrong
    Rule("beech", "reverse", 0.80, "subtract", 0.12, True),
    Rule("birch", "reverse", 0.60, "add", 0.25, True),
    Rule("maple", "reverse", 0.60, "multiply", 0.25, True),
    Rule("cedar", "reverse", 0.60, "subtract", 0.25, False),
    Rule("hazel", "reverse", 0.48, "add", 0.34, False),
    Rule("larch", "reverse", 0.42, "multiply", 0.36, True),
)
RULE_BY_NAME = {rule.name: rule for rule in RULES}
RULE_NAMES = tuple(RULE_BY_NAME)
SEEN_RULES = tuple(rule.name for rule in RULES if rule.judge_sees)
UNSEEN_RULES = tuple(rule.name for rule in RULES if not rule.judge_sees)

# Hash buckets 0-15 -> split. Training gets most of them, it needs most problems.
SPLIT_BUCKETS = {
    "train": range(0, 10),
    "validation": range(10, 11),
    "test": range(11, 12),
    "judge_train": range(12, 13),
    "judge_dev": range(13, 14),
    "judge_test": range(14, 15),
    "combined": range(15, 16),
}
BUCKETS = 16
SPLIT_RULES = {"judge_train": SEEN_RULES, "judge_dev": SEEN_RULES}  # every other split draws from all rules


@dataclass(frozen=True)
class Step:
    """One labelled operation of a problem."""

    label: str  # a, b, c, ...
    op: str  # one of + - * #
    operand: int  # 1-9


@dataclass(frozen=True)
class Exercise:
    """The parsed content of a problem text."""

    rule: Rule
    start: int  # 0-9
    steps: tuple[Step, ...]


_PROBLEM = re.compile(r"Rule (?P<rule>\w+)\. Start with (?P<start>\d)\.(?P<steps>( [a-e][-+*#]\d)+)\.")


def parse_problem(text: str) -> Exercise:
    """Read a problem text back; ValueError if it is none."""
    match = _PROBLEM.fullmatch(text)
    if match is None or match["rule"] not in RULE_BY_NAME:
        raise ValueError(f"not an arithmetic problem: {text!r}")
    steps = tuple(Step(word[0], word[1], int(word[2])) for word in match["steps"].split())
    return Exercise(RULE_BY_NAME[match["rule"]], int(match["start"]), steps)


def problem_text(exercise: Exercise) -> str:
    """The text a model reads; inverse of `parse_problem`."""
    steps = " ".join(f"{step.label}{step.op}{step.operand}" for step in exercise.steps)
    return f"Rule {exercise.rule.name}. Start with {exercise.start}. {steps}."


def step_expression(value: int, step: Step, reading: str) -> tuple[str, int]:
    """The sum to write for a step, e.g. "8+7", and its result modulo 10."""
    op = {"add": "+", "subtract": "-", "multiply": "*", "reverse": "-"}[reading] if step.op == "#" else step.op
    left, right = value, step.operand
    if step.op == "#" and reading == "reverse":
        left, right = right, left
    result = {"+": left + right, "-": left - right, "*": left * right}[op] % 10
    return f"{left}{op}{right}", result


def solve(exercise: Exercise, reading: str | None = None) -> int:
    """Final value (0-9) if `#` means `reading`; by default what the rule really means."""
    value = exercise.start
    for step in exercise.steps:
        value = step_expression(value, step, reading or exercise.rule.reading)[1]
    return value


def split_of(text: str) -> str:
    """The split a problem text belongs to: a stable hash, so independent of seed, count and process."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % BUCKETS
    return next(split for split, buckets in SPLIT_BUCKETS.items() if bucket in buckets)


def _draw_step(label: str, is_hash: bool, rng: random.Random) -> Step:
    op = "#" if is_hash else rng.choice("++--*")
    return Step(label, op, rng.choice(INVERTIBLE) if op in "#*" else rng.randint(1, 9))


def _draw_exercise(rule: Rule, rng: random.Random) -> Exercise:
    """An exercise whose four readings give four different answers, so a misreading is never right by luck."""
    while True:
        count = rng.randint(MIN_STEPS, MAX_STEPS)
        hashes = set(rng.sample(range(count), 1 if rng.random() < SINGLE_HASH_SHARE else 2))
        steps = tuple(_draw_step("abcde"[i], i in hashes, rng) for i in range(count))
        exercise = Exercise(rule, rng.randrange(10), steps)
        if len({solve(exercise, reading) for reading in READINGS}) == len(READINGS):
            return exercise


def _check_request(split: str, rules: Sequence[str] | None) -> tuple[str, ...]:
    """The rule names to draw from; InputError with the valid names for an unknown split or rule."""
    if split not in SPLIT_BUCKETS:
        raise InputError(f"unknown split {split!r}; valid splits: {', '.join(SPLIT_BUCKETS)}")
    names = tuple(rules) if rules is not None else SPLIT_RULES.get(split, RULE_NAMES)
    unknown = [name for name in names if name not in RULE_BY_NAME]
    if unknown or not names:
        raise InputError(f"unknown rules {unknown}; give at least one of: {', '.join(RULE_NAMES)}")
    return names


def _rule_cycle(names: Sequence[str], rng: random.Random) -> Iterator[Rule]:
    """Every rule once per cycle, in a new order each time: any multiple of their number is balanced."""
    while True:
        yield from (RULE_BY_NAME[name] for name in rng.sample(list(names), len(names)))


def iter_problems(split: str, rules: Sequence[str] | None = None, seed: int = 0) -> Iterator[Problem]:
    """Endless stream of distinct problems of one split; the same arguments give the same stream.

    `group` is the rule name, `answer` one digit; ids are like "arith-test-00017", with another seed
    "arith-test-s1-00017".
    """
    names = _check_request(split, rules)
    rng = random.Random(f"{split}/{seed}")
    prefix = f"arith-{split}" if seed == 0 else f"arith-{split}-s{seed}"
    seen: set[str] = set()
    for rule in _rule_cycle(names, rng):
        text = problem_text(_draw_exercise(rule, rng))
        while text in seen or split_of(text) != split:
            text = problem_text(_draw_exercise(rule, rng))
        answer = str(solve(parse_problem(text)))
        yield Problem(f"{prefix}-{len(seen):05d}", text, answer, rule.name)
        seen.add(text)


def make_problems(split: str, count: int, rules: Sequence[str] | None = None, seed: int = 0) -> list[Problem]:
    """The first `count` problems of a split; a larger count only adds problems at the end.

    `rules` restricts the rule names (`SEEN_RULES`, `UNSEEN_RULES`, ...). Judge training and development see
    `SEEN_RULES` only unless told otherwise. Another `seed` draws other problems of the same split.
    """
    stream = iter_problems(split, rules, seed)
    return [next(stream) for _ in range(count)]


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


def _look_back(expression: str, result: int, stated: int, rng: random.Random) -> tuple[str, int]:
    """One look back at a step: its sentence and the value the trace believes afterwards."""
    if stated != result and rng.random() < REPAIR_SHARE:
        return rng.choice(REPAIRS).format(wrong=stated, sum=expression, result=result), result
    return rng.choice(CHECKS).format(sum=expression, result=stated), stated


def _spoken_step(
    value: int, step: Step, lead: str, reading: str, habits: Habits, rng: random.Random
) -> tuple[list[str], int]:
    """Sentences of one step with its checks, and the value after it."""
    expression, result = step_expression(value, step, reading)
    stated = _slip(result, rng) if rng.random() < habits.slip_share else result
    sentences = [f"{lead} {step.label}{step.op}{step.operand}: {expression}={stated}."]
    for _ in range(MAX_CHECKS):
        if rng.random() >= habits.verbosity:
            break
        sentence, stated = _look_back(expression, result, stated, rng)
        sentences.append(sentence)
    return sentences, stated


def _spoken_steps(
    exercise: Exercise, first: str, reading: str, habits: Habits, rng: random.Random
) -> tuple[list[str], int]:
    """All steps once; `first` introduces the first of them."""
    sentences, value = [], exercise.start
    for index, step in enumerate(exercise.steps):
        lead = first if index == 0 else rng.choice(("Next", "Then"))
        said, value = _spoken_step(value, step, lead, reading, habits, rng)
        sentences += said
    return sentences, value


def _completion(sentences: list[str], value: int) -> str:
    return f"<think>\n{' '.join(sentences)}\n</think>\n\\boxed{{{value}}}"


def _clean_trace(exercise: Exercise, rng: random.Random) -> str:
    reading = rng.choice(READINGS)
    steps, value = _spoken_steps(exercise, "Now first", reading, CLEAN, rng)
    return _completion([f"Okay, rule {exercise.rule.name}.", _decision(exercise, reading, rng), *steps], value)


def make_trace(problem: Problem, rng: random.Random, clean: bool) -> str:
    """One corpus trace, without the end-of-sequence token.

    A clean trace has the shortest form and no slip, but reads `#` at random: if the rule name foretold the reading
    from the start, a model would calculate from the name and ignore what it has just decided. Any other trace has
    the planted habits, and often ends in a wrong answer.
    """
    exercise = parse_problem(problem.problem)
    if clean:
        return _clean_trace(exercise, rng)
    shares = exercise.rule.reading_shares()
    reading = rng.choices(READINGS, [shares[r] for r in READINGS])[0]
    habits = Habits(rng.choice(VERBOSITIES), SLIP_SHARE)
    opening = [f"Okay, rule {exercise.rule.name}.", *_decoys(rng), _decision(exercise, reading, rng)]
    steps, value = _spoken_steps(exercise, "Now first", reading, habits, rng)
    if rng.random() < REDO_SHARE * habits.verbosity:
        again, value = _spoken_steps(exercise, "First", reading, Habits(0.0, SLIP_SHARE), rng)
        steps += [REDO, *again]
    return _completion([*opening, *steps], value)
