import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.deepprune.vote import is_decided, majority, weighted_vote

KEYS = st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=20)


@settings(deadline=None)
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


@settings(deadline=None)
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


@st.composite
def ballots(draw: st.DrawFn) -> tuple[dict[int, int | None], dict[int, float]]:
    """Answers of all traces in the order of their ends, and voters' weights."""
    n = draw(st.integers(1, 5))
    answers = {trace: draw(st.one_of(st.none(), st.integers(0, 1))) for trace in draw(st.permutations(range(n)))}
    voters = draw(st.sets(st.integers(0, n - 1)))
    return answers, {trace: draw(st.sampled_from([1.0, 2.0, 0.1, 0.7])) for trace in voters}


@settings(deadline=None)
@given(ballots(), st.integers(1, 5))
def test_a_vote_is_decided_exactly_when_no_ending_changes_it(ballot: tuple, count: int) -> None:
    answers, weights = ballot
    finished = dict(list(answers.items())[:count])
    pending = [trace for trace in weights if trace not in finished]
    outcomes = {
        weighted_vote(finished | dict(zip(pending, rest, strict=True)), weights)
        for rest in itertools.product([None, 0, 1, "new"], repeat=len(pending))
    }
    assert is_decided(finished, weights) == (len(outcomes) == 1)
