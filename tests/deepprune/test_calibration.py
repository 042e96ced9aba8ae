"""Calibration: what it must not change, what it must mend, and the curve against a count by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.deepprune.judges import metrics
from secateur.deepprune.judges.calibration import (
    Calibration,
    brier,
    calibration_error,
    calibration_figures,
    fit_calibration,
    reliability,
)


def distorted(seed: int, temperature: float, shift: float, pairs: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the scores of a judge whose calibration is known."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, pairs)
    labels = (rng.random(pairs) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    return labels, 1 / (1 + np.exp(-(logits - shift) * temperature))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.05, 20), st.floats(-5, 5))
def test_order_and_range_are_kept(scores, temperature, shift):
    found = Calibration(temperature, shift)(np.array(scores))
    assert ((found >= 0) & (found <= 1)).all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


def test_the_default_changes_nothing():
    scores = np.array([0.0, 0.3, 1.0])
    assert (Calibration()(scores) == scores).all()
    with pytest.raises(ValueError, match="temperature is 0"):
        Calibration(0.0)


@pytest.mark.parametrize(("temperature", "shift"), [(0.25, -1.0), (3.0, 0.5), (1.0, 0.0)])
def test_a_known_distortion_is_found_again(temperature, shift):
    labels, scores = distorted(0, temperature, shift)
    found = fit_calibration(labels, scores, "affine")
    assert found.temperature == pytest.approx(temperature, rel=0.1) and found.shift == pytest.approx(shift, abs=0.15)
    fresh, raw = distorted(1, temperature, shift)
    figures = calibration_figures(fresh, raw, found)
    assert figures.ece < 0.03 and figures.brier <= figures.brier_uncalibrated + 1e-3
    assert metrics.auroc(fresh, found(raw)) == pytest.approx(metrics.auroc(fresh, raw), abs=1e-9)


def test_a_temperature_alone_leaves_one_half_where_it_is():
    labels, scores = distorted(2, 0.25, -1.0)
    found = fit_calibration(labels, scores, "temperature")
    assert found.shift == 0 and found(np.array([0.5]))[0] == pytest.approx(0.5)
    affine = fit_calibration(labels, scores, "affine")
    assert brier(labels, affine(scores)) < brier(labels, found(scores)) < brier(labels, scores)


def test_nothing_is_fitted_to_nothing():
    labels, scores = distorted(3, 1.0, 0.0)
    assert fit_calibration(labels, scores, "none") == Calibration()
    assert fit_calibration(np.ones(5, dtype=int), np.full(5, 0.3), "affine") == Calibration()
    assert fit_calibration(labels, 1 - scores, "affine") == Calibration(), "a judge is never turned round"


def test_reliability_counts_by_hand():
    labels, scores = np.array([0, 1, 1, 1, 0]), np.array([0.0, 0.15, 0.1, 1.0, 0.95])
    curve = reliability(labels, scores, bins=10)
    assert [(b.low, b.pairs) for b in curve] == [(0.0, 1), (0.1, 2), (0.9, 2)]
    assert curve[1].mean_score == pytest.approx(0.125) and curve[1].same_answer_share == 1.0
    expected = (1 * 0 + 2 * 0.875 + 2 * abs(0.975 - 0.5)) / 5
    assert calibration_error(labels, scores) == pytest.approx(expected)
    assert brier(labels, scores) == pytest.approx(np.mean((scores - labels) ** 2))
