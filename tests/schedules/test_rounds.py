import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.rounds import Round, draw_limit, make_rounds, validate_limits
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


def test_limits_rise_only_where_that_is_meant_and_such_rounds_expand() -> None:
    """SIRI (arXiv 2509.25176) compresses and expands by turns."""
    rounds = make_rounds([16000, 8000, 16000, 8000, 8000], 80, may_rise=True)
    assert [round_.expands for round_ in rounds] == [False, False, True, False, False]
    with pytest.raises(InputError, match=r"rises from 8000 to 16000.*expanding_rounds: true"):
        make_rounds([16000, 8000, 16000], 80)


def test_an_auto_limit_is_planned_with_the_one_before_it() -> None:
    assert make_rounds([4000, "auto", "auto"], [9, 8, 7]) == [
        Round(1, 4000, 9),
        Round(2, 4000, 8, drawn=True),
        Round(3, 4000, 7, drawn=True),
    ]
    with pytest.raises(InputError, match=r"begins with auto.*\[4000, auto, auto\]"):
        make_rounds(["auto"], 9)


@given(
    st.lists(st.integers(1, 9000), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
    st.integers(1, 4000),
    st.integers(4000, 9000),
)
def test_a_drawn_limit_covers_its_share_between_the_floor_and_the_limit_before(lengths, quantile, lowest, before):
    limit = draw_limit(lengths, quantile, lowest, before)
    assert lowest <= limit <= before
    covered = sum(length <= limit for length in lengths) / len(lengths)
    assert covered >= quantile - 1e-9 or limit == before
    shorter = sum(length < limit for length in lengths) / len(lengths)
    assert shorter < quantile or limit == lowest, "one token less would not do, but for the floor"
