import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepprune.decide import PruneRule, decide
from deepprune.replay import replay, whole_traces
from engines.accounting import TokenLedger

TRACES = st.lists(st.tuples(st.integers(1, 50), st.one_of(st.none(), st.integers(1, 60))), min_size=2, max_size=20)


@given(TRACES, st.integers(0, 1000))
def test_every_token_is_counted_once(traces: list[tuple[int, int | None]], seed: int) -> None:
    lengths, cuts = zip(*traces, strict=True)
    n = len(traces)
    raw = np.random.default_rng(seed).random((n, n))
    replayed = replay(lengths, cuts, (raw + raw.T) / 2, PruneRule(), seed, TokenLedger(judge_prefill=7))
    for index, kept in enumerate(replayed.kept_tokens):
        ended_first = cuts[index] is None or cuts[index] >= lengths[index]
        survives = index in replayed.decision.survivors
        assert kept == (lengths[index] if ended_first or survives else cuts[index])
    assert replayed.ledger.generated == sum(replayed.kept_tokens) <= sum(lengths)
    assert replayed.ledger.longest_trace == max(replayed.kept_tokens)
    assert replayed.ledger.judge_prefill == 7


def test_whole_means_ended_no_later_than_the_cut() -> None:
    assert whole_traces([5, 5, 5, 5], [None, 4, 5, 6]) == {0, 2, 3}


def test_scores_that_are_no_probabilities_prune_nobody() -> None:
    scores = np.full((3, 3), np.nan)
    replayed = replay([9, 8, 7], [2, 2, 2], scores, PruneRule(), 0, TokenLedger())
    assert replayed.kept_tokens == [9, 8, 7]
    assert replayed.decision.judge_failure == "9 of 9 judge scores are not between 0 and 1"


def test_a_decision_votes_with_its_survivors_only() -> None:
    scores = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=float)
    decision = decide(scores, PruneRule(), 0)
    assert decision.survivors == [0, 2]
    assert decision.vote(["7", "3", None]) == "7"


def test_scores_must_be_square() -> None:
    with pytest.raises(ValueError, match="shape"):
        decide(np.ones((2, 3)), PruneRule(), 0)
