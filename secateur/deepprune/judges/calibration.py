"""Turning a judge's scores into probabilities, and saying how well they are ones. Pure functions of numpy arrays.

Focal loss and the doubled minority teach a judge to rank pairs, not to say how sure it may be, so what it calls .5 is
not a coin's toss. Temperature scaling (Guo et al., arXiv 1706.04599) divides its log-odds by one number, fitted on
development problems. It cannot move .5; the shift of Platt's scaling beside it can, and undoes what counting the
rarer label twice does to the odds. Both keep the order of the scores, hence AUROC and TNR.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

CalibrationKind = Literal["none", "temperature", "affine"]
RELIABILITY_BINS = 10
_EDGE = 1e-12  # keeps log-odds finite; far below what 10^9 pairs could tell from certainty


@dataclass(frozen=True)
class Calibration:
    """P = sigmoid(log-odds(score) / temperature + shift); the default leaves scores as they are."""

    temperature: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0, or the order would turn round")

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Scores 0-1 of any shape → probabilities of that shape, float64, in the same order."""
        if self == Calibration():
            return np.asarray(scores, dtype=np.float64)
        return _sigmoid(log_odds(scores) / self.temperature + self.shift)


@dataclass(frozen=True)
class ReliabilityBin:
    """An interval of the score, from `low` to `high`: its `pairs`, their mean score, and the share of them that have
    the same answer. All but `pairs` are fractions (0-1)."""

    low: float
    high: float
    pairs: int
    mean_score: float
    same_answer_share: float


@dataclass(frozen=True, kw_only=True)
class CalibrationFigures:
    """What a calibration does for pairs it was not fitted on: expected calibration error `ece` and Brier score with
    and without it (0-1), and the reliability curve with it, empty bins left out."""

    temperature: float
    shift: float
    ece: float
    brier: float
    ece_uncalibrated: float
    brier_uncalibrated: float
    reliability: tuple[ReliabilityBin, ...]


def log_odds(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(scores, dtype=np.float64), _EDGE, 1 - _EDGE)
    return np.log(clipped) - np.log1p(-clipped)


def fit_calibration(labels: np.ndarray, scores: np.ndarray, kind: CalibrationKind) -> Calibration:
    """The calibration under which `labels` [pairs] (1 = same answer) are likeliest, given uncalibrated `scores`.

    None is fitted ("none", a label missing), or a rising one exists only at the edge (scores that say nothing or the
    opposite): the identity then, since a judge must not be turned round behind its user's back.
    """
    if kind == "none" or not 0 < labels.sum() < len(labels):
        return Calibration()
    from scipy.optimize import minimize

    logits, targets = log_odds(scores), labels.astype(np.float64)
    affine = kind == "affine"

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.exp(parameters[0])
        values = slope * logits + (parameters[1] if affine else 0.0)
        residual = _sigmoid(values) - targets
        gradient = [np.mean(residual * logits) * slope, *([np.mean(residual)] if affine else [])]
        return float(np.mean(np.logaddexp(0.0, values) - targets * values)), np.array(gradient)

    start, bounds = ([0.0, 0.0], [(-7.0, 7.0), (None, None)]) if affine else ([0.0], [(-7.0, 7.0)])
    found = minimize(loss, np.array(start), jac=True, method="L-BFGS-B", bounds=bounds)
    if abs(found.x[0]) > 6.9:
        return Calibration()
    return Calibration(float(np.exp(-found.x[0])), float(found.x[1]) if affine else 0.0)


def reliability(labels: np.ndarray, scores: np.ndarray, bins: int = RELIABILITY_BINS) -> tuple[ReliabilityBin, ...]:
    """The reliability curve: `bins` equal intervals of the score. Empty bins are left out."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.digitize(scores, edges[1:-1]), 0, bins - 1)
    return tuple(
        ReliabilityBin(
            low=round(float(edges[index]), 6),
            high=round(float(edges[index + 1]), 6),
            pairs=int((place == index).sum()),
            mean_score=float(scores[place == index].mean()),
            same_answer_share=float(labels[place == index].mean()),
        )
        for index in range(bins)
        if (place == index).any()
    )


def calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = RELIABILITY_BINS) -> float:
    """Expected calibration error (0-1): distance between mean score and share of same answers, averaged over bins by
    their number of pairs."""
    curve = reliability(labels, scores, bins)
    return sum(b.pairs * abs(b.mean_score - b.same_answer_share) for b in curve) / len(labels)


def brier(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean squared distance between score and label (0-1); .25 for a judge that always says .5."""
    return float(np.mean((np.asarray(scores) - labels) ** 2))


def calibration_figures(labels: np.ndarray, raw: np.ndarray, calibration: Calibration) -> CalibrationFigures:
    """What a calibration does for pairs; `raw` [pairs] are uncalibrated scores."""
    scores = calibration(raw)
    return CalibrationFigures(
        temperature=calibration.temperature,
        shift=calibration.shift,
        ece=calibration_error(labels, scores),
        brier=brier(labels, scores),
        ece_uncalibrated=calibration_error(labels, raw),
        brier_uncalibrated=brier(labels, raw),
        reliability=reliability(labels, scores),
    )


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 0, 1.0, np.exp(np.minimum(values, 0))) / (1.0 + np.exp(-np.abs(values)))
