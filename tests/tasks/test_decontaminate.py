"""Overlaps with evaluation sets: what counts as the same problem, on made-up and on real ones."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.tasks.decontaminate import NEAR, find_overlaps, words
from secateur.tasks.records import Problem, read_problems

TRAPEZOID = (
    "In isosceles trapezoid $ABCD$, parallel bases $\\overline{AB}$ and $\\overline{CD}$ have lengths $500$ and "
    "$650$, respectively, and $AD=BC=333$. The angle bisectors of $\\angle{A}$ and $\\angle{D}$ meet at $P$. Let "
    "$x = \\frac{1}{2} \\cdot PQ$. Find $x + 1,000$."
)


def problem(text: str, name: str = "t") -> Problem:
    return Problem(name, text, "1")


def kind(text: str, other: str = TRAPEZOID) -> str | None:
    found = find_overlaps([problem(text)], {"exam": [problem(other, "e")]})
    return found[0].kind if found else None


@pytest.mark.parametrize(
    "text",
    [
        TRAPEZOID,
        f"  {TRAPEZOID.replace(' ', chr(10))}  ",
        TRAPEZOID.replace("\\frac{1}{2}", "\\dfrac12").replace("\\cdot", "\\times").replace("1,000", "1{,}000"),
        TRAPEZOID.replace("$", "").replace("Find", "find"),
        TRAPEZOID.replace("$PQ$", "\\(PQ\\)") + "\n[asy] draw((0,0)--(5,7)); [/asy]",
    ],
)
def test_typesetting_does_not_matter(text: str) -> None:
    assert kind(text) == "exact"


@pytest.mark.parametrize(
    "text",
    [
        TRAPEZOID.replace("ABCD", "KLMN").replace("x", "t").replace("\\angle{A}", "\\angle{K}"),
        TRAPEZOID.replace("Find", "Determine the value of"),
        f"Consider the following problem. {TRAPEZOID} Give the answer as an integer, without units.",
        TRAPEZOID + " Write it as $m/n$ with $m$ and $n$ coprime, and give the remainder of $m+n$ divided by $7$.",
    ],
)
def test_renamed_variables_and_other_words_are_near(text: str) -> None:
    assert kind(text) == "near"


@pytest.mark.parametrize(
    "text",
    [
        TRAPEZOID.replace("650", "700"),
        TRAPEZOID.replace("500", "501").replace("650", "651").replace("333", "334"),
        "Find the number of ordered pairs of integers $(a, b)$ with $a^2 + b^2 < 1000$.",
        "",
    ],
)
def test_other_numbers_make_another_problem(text: str) -> None:
    assert kind(text) is None


def test_short_problems_are_not_found_in_longer_ones() -> None:
    """Few words are in many texts; a function is no variable."""
    assert (
        kind("Compute $2+3$.", "Compute $2+3$, then double it and take away half of it. What is left of $2+3$?")
        is None
    )
    assert kind("Compute $\\sin 60^\\circ$.", "Compute $\\cos 60^\\circ$.") is None


def test_the_most_similar_counterpart_is_reported_and_order_is_kept() -> None:
    near = TRAPEZOID.replace("Find", "Determine the value of")
    evaluation = {"one": [problem(near, "n"), problem("Something else entirely, with $3$ apples.", "o")]}
    evaluation["two"] = [problem(TRAPEZOID, "e")]
    training = [problem("No overlap here at all, is there?", "a"), problem(TRAPEZOID, "b"), problem(near, "c")]
    found = find_overlaps(training, evaluation)
    assert [(o.id, o.source, o.match, o.kind, o.similarity) for o in found] == [
        ("b", "two", "e", "exact", 1.0),
        ("c", "one", "n", "exact", 1.0),
    ]


def test_nothing_to_compare_with() -> None:
    assert find_overlaps([], {"exam": [problem("x")]}) == find_overlaps([problem("x")], {}) == []
    assert find_overlaps([problem("x")], {"exam": []}) == []


@given(st.text(max_size=60))
def test_any_text_equals_itself_and_words_never_fail(text: str) -> None:
    assert kind(text, text) == "exact"
    assert words(text) == words(f" {text}\n")


@pytest.fixture(scope="module")
def real(shared_data: Path) -> dict[str, list[Problem]]:
    return {path.stem: read_problems(path) for path in sorted((shared_data / "problems").glob("*.jsonl"))}


def test_real_problems_overlap_with_no_other(real: dict[str, list[Problem]]) -> None:
    """590 different competition problems: no pair reaches the bounds, templates of MATH included."""
    members = [member for problems in real.values() for member in problems]
    for index in range(5):
        left = members[index::5]
        rest = {"rest": [member for other in range(5) if other != index for member in members[other::5]]}
        assert find_overlaps(left, rest) == []


def _respelled(text: str) -> str:
    return (
        text.replace("\\frac", "\\dfrac").replace("\\cdot", "\\times").replace(" ", "  ").replace("\\le ", "\\leq ")
    )


def _renamed(text: str) -> str:
    letters = dict(zip("abcxyzntmk", "uvwpqrsjgh", strict=True))
    return re.sub(r"(?<![A-Za-z\\])([a-z])(?![A-Za-z])", lambda match: letters.get(match[1], match[1]), text)


def _reworded(text: str) -> str:
    opening = "Consider the following. " + text.replace("Find", "Determine").replace("Let ", "Suppose that ")
    return opening + " Give your answer in simplest form."


def _renumbered(text: str) -> str:
    text = re.sub(r"\[asy\].*?\[/asy\]", "", text, flags=re.DOTALL)
    return re.sub(r"\d+", lambda match: str(int(match[0]) + 7), text, count=1)


@pytest.mark.parametrize(
    ("edit", "lowest", "highest"),
    [(_respelled, 1.0, 1.0), (_renamed, 1.0, 1.0), (_reworded, 0.93, 1.0), (_renumbered, 0.0, 0.0)],
)
def test_edits_of_real_problems(
    real: dict[str, list[Problem]], edit: Callable[[str], str], lowest: float, highest: float
) -> None:
    """The share (0-1) that is found again; a changed number must change every problem that has one."""
    originals = [member for problems in real.values() for member in problems]
    edited = [problem(edit(member.problem), member.id) for member in originals]
    if edit is _renumbered:
        edited = [e for e, o in zip(edited, originals, strict=True) if words(e.problem) != words(o.problem)]
    found = find_overlaps(edited, real)
    assert all(overlap.id == overlap.match for overlap in found)
    assert lowest <= len(found) / len(edited) <= highest
    assert all(overlap.similarity >= NEAR for overlap in found if edit is _renamed)
