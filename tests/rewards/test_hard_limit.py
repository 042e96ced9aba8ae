from hypothesis import given
from hypothesis import strategies as st

from rewards.hard_limit import hard_limit, is_truncated

END, PAD, OTHER = 2, 0, 7


@given(st.booleans(), st.booleans())
def test_only_right_and_finished_earns(correct: bool, truncated: bool) -> None:
    assert hard_limit(correct, truncated) == (1.0 if correct and not truncated else 0.0)


@given(st.lists(st.integers(0, 20), max_size=8))
def test_truncated_is_decided_by_the_last_id_alone(ids: list[int]) -> None:
    assert not is_truncated([*ids, END], {END}, PAD)
    assert not is_truncated([*ids, END, PAD], {END}, PAD)
    assert is_truncated([*ids, OTHER], {END}, PAD)


def test_an_empty_completion_is_not_finished() -> None:
    assert is_truncated([], {END}, PAD)


@given(st.lists(st.integers(10, 99)), st.integers(1, 9))
def test_a_pad_token_that_the_policy_samples_is_no_end(ids, pads) -> None:
    assert is_truncated([*ids, *[PAD] * pads], {END}, PAD)
    assert is_truncated([*ids, END, *ids, 7, *[PAD] * pads], {END}, PAD)
    assert not is_truncated([*ids, *[PAD] * pads, END, *[PAD] * pads], {END}, PAD)
    assert not is_truncated([*ids, END], {END}, END), "one token for both"
