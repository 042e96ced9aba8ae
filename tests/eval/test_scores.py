"""Means and intervals over problems."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.runtime.statistics import (
    macro_mean_with_interval,
    mean_with_interval,
    paired_difference,
    pass_at_k,
    percentiles_with_intervals,
    ratio_interval,
    ratio_with_interval,
)

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """1000 simulated evaluations of 120 problems, whose pass rates follow a Beta distribution with two humps, as
    those of reasoning models do. With few problems the intervals are too narrow: docs/combined.md has by how much."""
    rng, truth, covered = np.random.default_rng(0), 0.8 / 2, 0
    for seed in range(1000):
        _, low, high = mean_with_interval(rng.beta(0.8, 1.2, size=120), seed=seed, resamples=500)
        covered += low <= truth <= high
    assert 0.94 <= covered / 1000 <= 0.96


def test_a_paired_difference_covers_the_truth_as_often_as_it_says() -> None:
    """Both sides share the problems' hardness, and one is 0.05 better on average."""
    rng, covered = np.random.default_rng(1), 0
    for seed in range(1000):
        rates = rng.beta(0.8, 1.2, size=120)
        a, b = rng.binomial(16, 0.05 + 0.9 * rates) / 16, rng.binomial(16, 0.9 * rates) / 16
        _, low, high = paired_difference(a, b, seed=seed, resamples=500)
        covered += low <= 0.05 <= high
    assert 0.94 <= covered / 1000 <= 0.96


def all_resamples(count: int) -> np.ndarray:
    """Every one of the equally likely resamples of `count` problems, as rows of places."""
    return np.array(list(product(range(count), repeat=count)))


@pytest.mark.parametrize("values", [[0.3], [0.0, 1.0], [0.0, 0.25, 0.5, 1.0], [0.1, 0.1, 0.9, 0.4, 0.6, 0.7]])
def test_bootstrap_equals_brute_force(values: list[float]) -> None:
    """The exact bootstrap distribution is known for few problems. A bound estimated from 20,000 random resamples lies
    between its exact percentiles 2.5 ± 0.5 and 97.5 ± 0.5."""
    exact = np.array(values)[all_resamples(len(values))].mean(axis=1)
    mean, low, high = mean_with_interval(values, resamples=20000)
    assert mean == pytest.approx(np.mean(values)) and mean == pytest.approx(exact.mean())
    for bound, percent in ((low, 2.5), (high, 97.5)):
        assert between(bound, exact, percent)
    other = values[::-1]
    differences = (np.array(values) - np.array(other))[all_resamples(len(values))].mean(axis=1)
    _, low, high = paired_difference(values, other, resamples=20000)
    assert between(low, differences, 2.5) and between(high, differences, 97.5)


def test_bootstrap_of_a_ratio_equals_brute_force() -> None:
    top, bottom = [3.0, 1.0, 4.0, 1.0, 5.0], [5.0, 2.0, 6.0, 3.0, 5.0]
    places = all_resamples(5)
    exact = np.array(top)[places].sum(axis=1) / np.array(bottom)[places].sum(axis=1)
    _, low, high = ratio_with_interval(top, bottom, resamples=20000)
    assert between(low, exact, 2.5) and between(high, exact, 97.5)


def between(bound: float, exact: np.ndarray, percent: float, slack: float = 0.5) -> bool:
    """Whether a bound lies between two exact percentiles close to its own."""
    lower, upper = np.percentile(exact, (percent - slack, percent + slack), method="inverted_cdf")
    return bool(lower - 1e-9 <= bound <= upper + 1e-9)


@given(VALUES, st.integers(0, 5))
def test_the_interval_encloses_the_mean_and_stays_within_the_values(values: list[float], seed: int) -> None:
    mean, low, high = mean_with_interval(values, seed=seed, resamples=200)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert mean == pytest.approx(np.mean(values))


def test_same_seed_same_interval_and_equal_values_leave_no_doubt() -> None:
    values = list(np.random.default_rng(1).random(30))
    assert mean_with_interval(values, seed=3) == mean_with_interval(values, seed=3)
    assert mean_with_interval([0.5] * 20) == (0.5, 0.5, 0.5)


@given(VALUES)
def test_paired_difference_is_antisymmetric_and_zero_against_itself(values: list[float]) -> None:
    other = values[::-1]
    forth, back = paired_difference(values, other, resamples=200), paired_difference(other, values, resamples=200)
    assert forth[0] == pytest.approx(-back[0])
    assert paired_difference(values, values, resamples=200) == (0.0, 0.0, 0.0)


def test_pairing_narrows_the_interval_of_what_problems_share() -> None:
    rng = np.random.default_rng(2)
    hardness = rng.random(80)
    a, b = hardness + 0.05 + rng.normal(0, 0.01, 80), hardness + rng.normal(0, 0.01, 80)
    difference, low, high = paired_difference(a, b)
    apart = mean_with_interval(a)[2] - mean_with_interval(a)[1]
    assert low < 0.05 < high and difference == pytest.approx(0.05, abs=0.01)
    assert high - low < apart / 5


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), 1.0]])
def test_values_without_a_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="interval"):
        mean_with_interval(values)


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same problems"):
        paired_difference([0.1, 0.2], [0.1])


@given(verdicts=st.lists(st.booleans(), min_size=1, max_size=8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(verdicts: list[bool]) -> None:
    estimates = []
    for k in range(1, len(verdicts) + 1):
        subsets = list(combinations(verdicts, k))
        estimates.append(pass_at_k(sum(verdicts), len(verdicts), k))
        assert estimates[-1] == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert estimates == sorted(estimates)
    assert estimates[0] == pytest.approx(sum(verdicts) / len(verdicts))


@given(groups=st.lists(st.lists(st.integers(1, 50), max_size=6), min_size=1, max_size=8))
def test_percentiles_are_those_of_all_values_together(groups: list[list[int]]) -> None:
    found = percentiles_with_intervals(groups, (20, 50, 99, 100), resamples=50)
    values = [value for group in groups for value in group]
    assert set(found) == ({20, 50, 99, 100} if values else set())
    for percent, (value, low, high) in found.items():
        assert value == np.percentile(values, percent, method="inverted_cdf")
        assert min(values) <= low <= high <= max(values)


@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_a_ratio_is_that_of_the_sums_and_of_itself_is_one(pairs: list[tuple[int, int]]) -> None:
    top, bottom = zip(*pairs, strict=True)
    value, low, high = ratio_with_interval(top, bottom, resamples=50)
    assert value == pytest.approx(sum(top) / sum(bottom))
    ratios = [a / b for a, b in pairs]
    assert min(ratios) - 1e-9 <= low <= high <= max(ratios) + 1e-9
    itself = ratio_interval((bottom, top), (bottom, top), paired=True) if min(top) > 0 else None
    assert itself is None or itself == pytest.approx((1, 1, 1))


def test_a_rate_that_was_zero_has_no_ratio() -> None:
    assert ratio_interval(([1.0], [2.0]), ([0.0], [2.0]), paired=False) is None


def test_a_mean_over_groups_weighs_each_the_same_and_is_the_plain_mean_of_one() -> None:
    assert macro_mean_with_interval([[1.0] * 50, [0.0, 0.5]])[0] == pytest.approx(0.625)
    values = np.random.default_rng(1).random(30).tolist()
    assert macro_mean_with_interval([values]) == pytest.approx(mean_with_interval(values))
    wide = macro_mean_with_interval([values, values[:10]])
    assert wide[1] < wide[0] < wide[2]
