"""Verdicts that must hold: reported cases, attacks on the reward, and rewritten answers of real problems."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from secateur.tasks.answers.equality import grade_answers, grade_batch
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.records import read_problems

Rewrite = tuple[str, str, str, bool]  # kind, answer, gold, whether it is right


def test_reported_verdicts(reported: list[dict]) -> None:
    cases = [case for case in reported if case["function"].endswith("grade_answers")]
    inputs = [case["input"] for case in cases]
    verdicts = grade_answers([one["answer"] for one in inputs], [one["gold"] for one in inputs])
    wrong = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict is not case["expected"]]
    assert cases and not wrong


def test_reported_extractions(reported: list[dict]) -> None:
    cases = [case for case in reported if case["function"].endswith("extract_answer")]
    assert cases and not [case for case in cases if extract_answer(**case["input"]) != case["expected"]]


def test_reported_golds_of_benchmarks_can_be_graded(reported: list[dict]) -> None:
    golds = [gold for case in reported if case["kind"].startswith("14") for gold in case["input"]["golds"]]
    assert golds and all(grade_answers(golds, golds))


def test_every_reported_case_is_tested(reported: list[dict]) -> None:
    """Verdicts, extractions and golds of a benchmark above; imports and files of problems in
    tests/eval/test_imports.py."""
    asked = ("grade_answers", "extract_answer", "load_problems", "--imports")
    assert len(reported) >= 113 and all(case["function"].endswith(asked) for case in reported)


def test_attacks_earn_nothing_and_plain_answers_are_right(repository: Path) -> None:
    cases = [json.loads(line) for line in (repository / "bench" / "attacks.jsonl").read_text("utf-8").splitlines()]
    assert sum(not case["right"] for case in cases) >= 250
    verdicts = grade_batch([case["completion"] for case in cases], [case["gold"] for case in cases])
    assert not [case for case, verdict in zip(cases, verdicts, strict=True) if verdict is not case["right"]]


def test_rewritten_answers_of_real_problems(shared_data: Path) -> None:
    """No other answer is right, and at most 3 of 1,000 equal ones are wrong."""
    rng = random.Random(0)
    golds = sorted(
        {problem.answer for path in (shared_data / "problems").glob("*.jsonl") for problem in read_problems(path)}
    )
    found = [rewrite for gold in golds for rewrite in rewrites(gold, rng)]
    verdicts = grade_answers([answer for _, answer, _, _ in found], [gold for _, _, gold, _ in found])
    judged = list(zip(found, verdicts, strict=True))
    accepted = [one for one, verdict in judged if verdict and not one[3]]
    rejected = [one for one, verdict in judged if not verdict and one[3]]
    equal = sum(one[3] for one in found)
    print(f"{len(golds):,} golds: {equal:,} equal rewrites, {len(rejected)} rejected; ", end="")
    print(f"{len(found) - equal:,} others, {len(accepted)} accepted")
    assert min(equal, len(found) - equal) >= 3000
    assert not accepted
    assert len(rejected) <= 0.003 * equal, rejected


WORDS = [
    "apples",
    "km",
    "cups of flour",
    "students",
    "square units",
    "dollars",
    "marbles",
    "miles per hour",
    "points",
]
NUMBER_WORDS = ["million", "dozen", "thousand", "squared", "cubed", "plus one", "or more", "tenths", "factorial"]


def rewrites(gold: str, rng: random.Random) -> Iterator[Rewrite]:
    """Equal and unequal rewrites of an answer."""
    for kind, answer in spelled(gold):
        yield kind, answer, gold, True
    number = re.fullmatch(r"-?\d+", gold)
    if number is not None and abs(int(gold)) > 2:
        for kind, answer in equal_numbers(int(gold), rng):
            yield kind, answer, gold, True
        for kind, answer in other_numbers(int(gold), rng):
            yield kind, answer, gold, False
    elif re.fullmatch(r"\\d?frac\{\d+\}\{\d+\}", gold):
        top, bottom = re.findall(r"\d+", gold)
        yield "slash", f"{top}/{bottom}", gold, True
        yield "scaled", f"\\frac{{{3 * int(top)}}}{{{3 * int(bottom)}}}", gold, True
        yield "left side", f"\\frac{{AB}}{{CD}} = {gold}", gold, True
        yield "other number", f"\\frac{{{int(top) + 1}}}{{{bottom}}}", gold, False
        yield "turned over", f"\\frac{{{bottom}}}{{{top}}}", gold, top == bottom
        yield "letter", f"{gold}\\mathrm{{i}}", gold, False
        yield "candidates", f"{gold} \\text{{ or }} {top}", gold, False
        yield "denied", f"{gold} \\text{{ is wrong}}", gold, False


def spelled(gold: str) -> Iterator[tuple[str, str]]:
    yield "dollars", f"${gold}$"
    yield "big brackets", gold.replace("(", "\\left(").replace(")", "\\right)")
    yield "display", f"\\displaystyle {gold.replace(chr(92) + 'frac', chr(92) + 'dfrac')}"
    yield "braces", f"{{{gold}}}."
    yield "space", f"\\; {gold} \\,"
    yield "colour", f"\\textcolor{{red}}{{{gold}}}"
    yield "emphasis", f"**{gold}**"
    yield "label", f"\\text{{Answer: }}{gold}"
    yield "box", f"\\boxed{{{gold}}}"


def equal_numbers(gold: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    part = rng.randint(2, 30)
    yield "unit word", f"{gold} {rng.choice(WORDS)}"
    yield "unit in text", f"{gold}\\text{{ {rng.choice(WORDS)}}}"
    yield "name", f"{rng.choice(['x', 'N', 'S_{10}', 'm', '|AB|', 'f(2)'])} = {gold}"
    yield "sum of names", f"m+n = {part} + {gold - part} = {gold}"
    yield "fraction", f"\\frac{{{gold * part}}}{{{part}}}"
    yield "decimal", f"{gold}.0"
    yield "thousands", f"{gold:,}"
    yield "product", f"{part}\\cdot\\frac{{{gold}}}{{{part}}}"
    yield "full-width digits", str(gold).translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"})


def other_numbers(gold: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    other = gold + rng.randint(1, 30)
    yield "other number", str(other)
    yield "sign", str(-gold)
    yield "number word", f"{gold} {rng.choice(NUMBER_WORDS)}"
    yield "number word in text", f"{gold}\\text{{ {rng.choice(NUMBER_WORDS)}}}"
    yield "letter", f"{gold}{rng.choice(['i', 'x', 'e', chr(92) + 'mathrm{i}', chr(92) + 'text{n}', chr(92) + 'pi'])}"
    yield "base", f"{gold}_{{{rng.choice([2, 8, 12])}}}"
    yield "candidates", f"{gold}{rng.choice([' or ', ', ', chr(92) + 'text{ or }', ' and '])}{other}"
    yield "denied", rng.choice([f"{gold} \\text{{ is wrong}}", f"\\text{{not }}{gold}", f"\\ne {gold}"])
    yield "per cent", f"{100 * gold}\\%"
    yield "false equation", rng.choice([f"{other} = {gold}", f"x = {other} = {gold}", f"{other}\\in\\{{{gold}\\}}"])
    yield "interval", f"[{gold}, {other}]"
