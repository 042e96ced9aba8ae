from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepprune.vote import majority

KEYS = st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=20)


@given(KEYS)
def test_the_most_frequent_answer_wins_and_ties_go_to_the_first_seen(keys: list[int | None]) -> None:
    counts = Counter(key for key in keys if key is not None)
    winner = majority(keys)
    if not counts:
        assert winner is None
        return
    assert counts[winner] == max(counts.values())
    tied = [key for key in keys if key is not None and counts[key] == counts[winner]]
    assert winner == tied[0]


@given(
    KEYS.flatmap(
        lambda keys: st.tuples(st.just(keys), st.lists(st.integers(1, 4), min_size=len(keys), max_size=len(keys)))
    )
)
def test_a_weight_is_so_many_votes(case: tuple[list[int | None], list[int]]) -> None:
    keys, weights = case
    repeated = [key for key, weight in zip(keys, weights, strict=True) for _ in range(weight)]
    assert majority(keys, weights) == majority(repeated)


def test_weights_must_fit() -> None:
    with pytest.raises(ValueError):
        majority(["1", "2"], [1.0])
