"""Figures of a sweep with their resamples, so that averages and differences of paired trainings have intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateur.deepprune.judges.metrics import auroc, has_both_labels, ordered_counts, tnr_at_fnr
from trainers.sweep.record import SweepFigure

RESAMPLES = 1000
MISSED = 0.2  # share (0-1) of same-answer pairs that the threshold of the TNR may miss
_CHUNK = 50  # resamples at once: bounds memory to 50 numbers per pair


@dataclass(frozen=True, eq=False)
class Estimate:
    """A figure and its value in every resample [RESAMPLES], NaN where a resample lacks one of the labels."""

    value: float
    resampled: np.ndarray

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.resampled - other.resampled)

    def figure(self) -> SweepFigure:
        """Its value, with the 95 % interval of the resamples."""
        low, high = np.nanquantile(self.resampled, (0.025, 0.975))
        return SweepFigure(self.value, (float(low), float(high)))


def mean(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(
        float(np.mean([estimate.value for estimate in estimates])),
        np.mean([estimate.resampled for estimate in estimates], axis=0),
    )


def draw_problems(problems: int, seed: int = 0) -> np.ndarray:
    """[RESAMPLES, problems]: how often each problem was drawn; every row sums to `problems`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(problems, np.full(problems, 1 / problems), size=RESAMPLES).astype(np.float64)


def auroc_estimate(labels: np.ndarray, scores: np.ndarray, problem: np.ndarray, draws: np.ndarray) -> Estimate | None:
    """Pooled AUROC (0-1); None without both labels. `problem` [pairs] numbers columns of `draws`."""
    if not has_both_labels(labels):
        return None
    present, numbers = np.unique(problem, return_inverse=True)
    drawn = draws[:, present]
    same = drawn @ np.bincount(numbers, weights=labels == 1)
    different = drawn @ np.bincount(numbers, weights=labels == 0)
    ordered = ((drawn @ ordered_counts(labels, scores, numbers)) * drawn).sum(1)
    total = same * different
    resampled = np.divide(ordered, total, out=np.full(len(draws), np.nan), where=total > 0)
    return Estimate(auroc(labels, scores), resampled)


def tnr_estimate(labels: np.ndarray, scores: np.ndarray, problem: np.ndarray, draws: np.ndarray) -> Estimate | None:
    """TNR at FNR 0.2 (0-1), the threshold chosen anew in every resample; None without both labels."""
    if not has_both_labels(labels):
        return None
    order = np.argsort(-scores, kind="stable")
    labels, ranked, problem = labels[order], scores[order], problem[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)  # a threshold takes all pairs of one score or none
    resampled = [_tnrs(labels, problem, last_of_tie, chunk) for chunk in np.array_split(draws, len(draws) // _CHUNK)]
    return Estimate(tnr_at_fnr(labels, ranked, MISSED), np.concatenate(resampled))


def _tnrs(labels: np.ndarray, problem: np.ndarray, last_of_tie: np.ndarray, draws: np.ndarray) -> np.ndarray:
    weights = draws[:, problem]
    caught = np.cumsum(weights * (labels == 1), axis=1)[:, last_of_tie]
    let_through = np.cumsum(weights * (labels == 0), axis=1)[:, last_of_tie]
    same, different = caught[:, -1], let_through[:, -1]
    enough = caught >= (1 - MISSED) * same[:, None] - 1e-9
    at_threshold = np.take_along_axis(let_through, enough.argmax(1)[:, None], 1)[:, 0]
    usable = (same > 0) & (different > 0)
    return 1 - np.divide(at_threshold, different, out=np.full(len(draws), np.nan), where=usable)
