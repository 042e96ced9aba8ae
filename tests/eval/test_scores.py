"""Means and intervals over problems."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scores import mean_with_interval, paired_difference

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """1000 simulated evaluations of 60 problems whose pass rates follow a Beta distribution."""
    rng = np.random.default_rng(0)
    truth = 2 / 5
    covered = 0
    for seed in range(1000):
        _, low, high = mean_with_interval(rng.beta(2, 3, size=60), seed=seed, resamples=400)
        covered += low <= truth <= high
    assert 0.92 <= covered / 1000 <= 0.97


def test_bootstrap_equals_brute_force() -> None:
    """All 4^4 resamples of four values, each equally likely, are what the random resamples estimate."""
    values = [0.0, 0.25, 0.5, 1.0]
    grid = np.array(np.meshgrid(*[values] * 4)).reshape(4, -1).mean(axis=0)
    mean, low, high = mean_with_interval(values, resamples=40000)
    assert mean == pytest.approx(0.4375)
    exact = np.percentile(grid, (2.5, 97.5))
    assert (low, high) == pytest.approx(exact, abs=0.035)


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
