"""What can be written in several ways, or not be seen at all, and means one thing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.tasks.answers.equality import answers_equal, grade_answers
from secateur.tasks.answers.text import normalise
from tests.tasks.test_answers import ANSWERS


@settings(max_examples=40)
@given(ANSWERS, st.sampled_from("\u200b\u200e\u2060\u2061\ufeff"), st.integers(0, 40))
def test_signs_that_nobody_sees_change_nothing(answer: str, sign: str, place: int) -> None:
    assert answers_equal(answer, f"{answer[:place]}{sign}{answer[place:]}")


@given(st.integers(0, 999), st.sampled_from("\N{RING OPERATOR}\N{MASCULINE ORDINAL INDICATOR}\N{RING ABOVE}"))
def test_a_ring_behind_a_number_is_a_degree(number: int, ring: str) -> None:
    assert grade_answers([f"{number}{ring}"] * 3, [f"{number}^\\circ", str(number), f"{number}\\%"]) == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("command", ["mathbf", "mathrm", "text", "bm"])
def test_a_command_takes_one_sign_where_no_brace_opens(command: str) -> None:
    answers = [f"\\{command} C", f"\\{command} 42", f"\\{command} 4", f"\\{command} x+1", f"\\{command} CD"]
    assert grade_answers(answers, ["C", "42", "4", "x+1", "C"]) == [True, True, True, True, False]


def test_a_command_whose_name_begins_with_text_takes_none() -> None:
    assert "\\text{" not in normalise("5\\textdegree") + normalise("\\textasciitilde 5")
