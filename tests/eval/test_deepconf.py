"""DeepConf on examples worked out by hand, and its stop compared with a plain loop over the tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.table.deepconf import DeepConfRule, deepconf
from eval.table.method import ConfidenceProfile, ReplayProblem, ReplayTrace, confidence_profile
from secateur.runtime.errors import InputError

GOLD = "g"
RIGHT = frozenset({GOLD})


def flat(confidence: float) -> ConfidenceProfile:
    """A trace of ten equally confident tokens, window 4."""
    return confidence_profile([confidence] * 10, 4)


def make_record(keys: str, n_tokens: int = 10) -> ReplayProblem:
    return ReplayProblem("p", RIGHT, tuple(ReplayTrace(None if k == "-" else k, n_tokens, 5) for k in keys), 1)


def test_the_profile_of_a_trace_by_hand() -> None:
    """Windows of two: means 4, 3, 3, 2, 4; new lows at 4 (two tokens), 3 (three) and 2 (five)."""
    profile = confidence_profile([5, 3, 3, 3, 1, 7], 2)
    assert profile.lows.tolist() == [4, 3, 2] and profile.tokens.tolist() == [2, 3, 5]
    assert (profile.lowest, profile.mean) == (2, pytest.approx(22 / 6))
    assert [profile.stopped_at(bar) for bar in (5, 4, 3.5, 3, 2.5, 2, 1)] == [2, 3, 3, 5, 5, None, None]


def test_a_trace_shorter_than_the_window_is_its_mean_and_never_stopped() -> None:
    profile = confidence_profile([1, 2], 16)
    assert profile.lowest == 1.5 and profile.stopped_at(99) is None


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(0, 20).map(lambda x: x + 0.5),
)
def test_the_stop_is_that_of_a_loop_over_the_tokens(values: list[int], window: int, bar: float) -> None:
    wanted = next(
        (end for end in range(window, len(values) + 1) if sum(values[end - window : end]) / window < bar), None
    )
    assert confidence_profile(values, window).stopped_at(bar) == wanted


def test_low_and_high_by_hand() -> None:
    """Warm-up confidences 1 … 5: η = 0.1 puts the bar at their 90th percentile, 4.6, η = 0.9 at the 10th, 1.4."""
    record = make_record("abcdgagag")
    profiles = [flat(c) for c in (1, 2, 3, 4, 5, 2, 4.7, 1, 6)]
    (low,) = deepconf(record, profiles, DeepConfRule(0.1, warmup=5, window=4, consensus=None), orders=1)
    assert low.survivors == [4, 6, 8], "warm-up traces below the bar do not vote"
    assert low.usage.generated == 5 * 10 + 4 + 10 + 4 + 10, "a stopped trace ends with its first group"
    assert low.usage.longest_path == 20, "the bar has to be known before the others begin"
    assert low.key == GOLD
    (high,) = deepconf(record, profiles, DeepConfRule(0.9, warmup=5, window=4, consensus=None), orders=1)
    assert high.survivors == [1, 2, 3, 4, 5, 6, 8]


def test_a_trace_that_ended_before_its_window_votes_only_above_the_bar() -> None:
    """Warm-up 1 … 5 and η = 0.5: the bar is 3. The later traces have 2 of 4 tokens: 1 and 2 below the bar, 3 and 4
    not; all ran to their ends and are paid."""
    record = make_record("abcdgaagg")
    profiles = [*map(flat, (1, 2, 3, 4, 5)), *(confidence_profile([c, c], 4) for c in (1, 2, 3, 4))]
    (run,) = deepconf(record, profiles, DeepConfRule(0.5, warmup=5, window=4, consensus=None), orders=1)
    assert run.survivors == [2, 3, 4, 7, 8] and run.usage.generated == 9 * 10 and run.key == GOLD


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=6, max_size=12), st.integers(1, 15))
def test_who_votes_is_who_the_released_code_lets_vote(traces: list[list[int]], window: int) -> None:
    """deepconf-online.py: the least group mean, or the mean of a trace that is shorter, at or above the bar."""

    def least(values: list[int]) -> float:
        if len(values) < window:
            return sum(values) / len(values)
        return min(round(sum(values[k : k + window]) / window, 6) for k in range(len(values) - window + 1))

    bar = np.percentile([least(values) for values in traces[:4]], 50)
    wanted = [index for index, values in enumerate(traces) if least(values) >= bar]
    record = ReplayProblem("p", RIGHT, tuple(ReplayTrace(GOLD, len(values), 1) for values in traces), 1)
    profiles = [confidence_profile(values, window) for values in traces]
    (run,) = deepconf(record, profiles, DeepConfRule(0.5, warmup=4, window=window, consensus=None), orders=1)
    assert run.survivors == wanted


def test_votes_weigh_confidence() -> None:
    record = make_record("aagg--")
    profiles = [flat(c) for c in (2, 2, 2, 3, 9, 9)]
    rules = {vote: DeepConfRule(0.9, 4, 4, vote, None) for vote in ("lowest", "mean", "majority")}
    keys = {vote: deepconf(record, profiles, rule, orders=1)[0].key for vote, rule in rules.items()}
    assert keys == {"lowest": "g", "mean": "g", "majority": "a"}, "4 against 5; of equal counts the first seen"


def test_sampling_stops_at_consensus() -> None:
    record = make_record("gggaggggg")
    profiles = [flat(2.0)] * 9
    by_share = {}
    for consensus in (0.7, 0.8, 0.95):
        rule = DeepConfRule(0.5, warmup=4, window=4, consensus=consensus)
        (run,) = deepconf(record, profiles, rule, orders=1)
        by_share[consensus] = len(run.survivors), run.usage.generated, run.usage.longest_path
    assert by_share == {
        0.7: (4, 40, 10),  # 3 of 4 in the warm-up
        0.8: (5, 50, 20),  # 4 of 5: one more, after it
        0.95: (9, 90, 60),  # 8 of 9 is less: all five, one after another
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"share_kept": 10}, "0.1 or 0.9"), ({"window": 0}, "window = 0"), ({"vote": "x"}, "'majority'"),
     ({"consensus": 2.0}, "null for none")],
)  # fmt: skip
def test_impossible_rules_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeepConfRule(**{"share_kept": 0.1} | changes)


def test_a_warm_up_of_all_traces_is_refused() -> None:
    with pytest.raises(InputError, match="lower deepconf_warmup"):
        deepconf(make_record("gg"), [flat(1)] * 2, DeepConfRule(0.1, warmup=2), orders=1)


def test_profiles_hold_what_half_precision_kept() -> None:
    values = np.array([12.34, 7.8, 15.1], dtype=np.float16)
    assert confidence_profile(values, 2).lowest == pytest.approx(float(values[:2].astype(np.float64).mean()))
