import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.rounds import make_rounds, validate_limits
from secateur.runtime.errors import InputError


def test_a_round_is_named_by_its_number_and_limit() -> None:
    rounds = make_rounds([4000, 3000, 3000], [180, 90, 10])
    assert [(r.name, r.max_steps) for r in rounds] == [
        ("1-limit-4000", 180),
        ("2-limit-3000", 90),
        ("3-limit-3000", 10),
    ]


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6))
def test_falling_limits_are_accepted_in_any_number(limits) -> None:
    ordered = sorted(limits, reverse=True)
    assert [round_.limit for round_ in make_rounds(ordered, 5)] == ordered


@pytest.mark.parametrize(
    ("limits", "steps", "message"),
    [
        ([], 5, "'limits' is empty"),
        ([100, 200], 5, "rises from 100 to 200"),
        ([100, 0], 5, "positive number"),
        ([100], 0, "at least 1 step"),
        ([100, 90], [5], "1 values for 2 limits"),
    ],
)
def test_impossible_schedules_are_named(limits, steps, message) -> None:
    with pytest.raises(InputError, match=message):
        make_rounds(limits, steps)


def test_a_limit_that_cannot_hold_an_answer_is_refused() -> None:
    validate_limits([100, 20], needs=20)
    with pytest.raises(InputError, match=r"value 20, but .* takes 21 tokens.*raise the limit"):
        validate_limits([100, 20], needs=21)
