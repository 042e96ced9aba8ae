"""Means over problems with their uncertainty. Problems are the unit: samples of one problem are not independent."""

from collections.abc import Sequence
from math import comb

import numpy as np

Interval = tuple[float, float, float]
"""(mean, low, high)."""
Bounds = tuple[float, float]
"""(low, high)."""
TAILS = (2.5, 97.5)  # percent


def mean_with_interval(values_per_problem: Sequence[float], seed: int = 0, resamples: int = 2000) -> Interval:
    """(mean, low, high) of one value per problem; low and high enclose the mean with 95 % confidence.

    Raises `ValueError` for no value or one that is not finite.
    """
    values = np.asarray(values_per_problem, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("an interval needs at least one problem, one finite value for each")
    low, high = np.percentile(resampled_means(values, seed, resamples), TAILS)
    return float(values.mean()), float(low), float(high)


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = 2000) -> Interval:
    """(mean, low, high) of a − b where both are values of the same problems in the same order.

    Pairing removes what problems have in common, so the interval is narrower than that of two separate means.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same problems on both sides, got {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_with_interval(difference, seed, resamples)


def resampled_means(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Means of `resamples` draws with replacement from `values` [problems]."""
    drawn = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    return values[drawn].mean(axis=1)


def macro_mean_with_interval(groups: Sequence[Sequence[float]], seed: int = 0, resamples: int = 2000) -> Interval:
    """(mean, low, high) of the mean over groups (benchmarks) of the mean over each group's problems: every group
    weighs the same, however many problems it has. Problems are resampled within their own group."""
    parts = [np.asarray(values, dtype=np.float64) for values in groups]
    if not parts or any(len(part) == 0 or not np.isfinite(part).all() for part in parts):
        raise ValueError("a mean over groups needs at least one finite value in each")
    drawn = np.mean([resampled_means(part, seed + index, resamples) for index, part in enumerate(parts)], axis=0)
    low, high = np.percentile(drawn, TAILS)
    return float(np.mean([part.mean() for part in parts])), float(low), float(high)


def ratio_with_interval(
    numerators: Sequence[float], denominators: Sequence[float], seed: int = 0, resamples: int = 2000
) -> Interval:
    """(ratio, low, high) of the sums of two values per problem, both of the same problems in the same order.

    Raises `ValueError` where the denominators sum to nothing; resamples in which they do are left out.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if len(top) != len(bottom) or len(top) == 0 or not bottom.sum() > 0:
        raise ValueError("a ratio needs two values for each problem and a denominator above zero")
    drawn = np.random.default_rng(seed).integers(0, len(top), size=(resamples, len(top)))
    over, under = top[drawn].sum(axis=1), bottom[drawn].sum(axis=1)
    low, high = np.percentile(over[under > 0] / under[under > 0], TAILS)
    return float(top.sum() / bottom.sum()), float(low), float(high)


def ratio_interval(
    over: tuple[Sequence[float], Sequence[float]],
    under: tuple[Sequence[float], Sequence[float]],
    paired: bool,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval | None:
    """(ratio, low, high) of two rates, each a sum over problems ÷ another sum; None if the lower one is zero.

    `paired`: both sides are of the same problems in the same order, which are drawn together. Resamples without a
    lower rate count as an infinite ratio; a bound may be infinite then.
    """
    rng = np.random.default_rng(seed)
    sides = [
        (np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)) for top, bottom in (over, under)
    ]
    if not sides[1][0].sum() > 0:
        return None
    first = rng.integers(0, len(sides[0][0]), size=(resamples, len(sides[0][0])))
    second = first if paired else rng.integers(0, len(sides[1][0]), size=(resamples, len(sides[1][0])))
    rates = [
        top[drawn].sum(1) / bottom[drawn].sum(1) for (top, bottom), drawn in zip(sides, (first, second), strict=True)
    ]
    ratios = np.divide(rates[0], rates[1], out=np.full(resamples, np.inf), where=rates[1] > 0)
    low, high = np.percentile(ratios, TAILS, method="inverted_cdf")
    point = (sides[0][0].sum() / sides[0][1].sum()) / (sides[1][0].sum() / sides[1][1].sum())
    return float(point), float(low), float(high)


def percentiles_with_intervals(
    values_per_problem: Sequence[Sequence[float]], percents: Sequence[int], seed: int = 0, resamples: int = 2000
) -> dict[int, Interval]:
    """Percent → (percentile, low, high) of all values together, each one that occurs (the smallest that at least
    `percents` of the values do not exceed). Whole problems are resampled; {} if there is no value."""
    order = sorted((value, index) for index, values in enumerate(values_per_problem) for value in values)
    if not order:
        return {}
    values = np.array([value for value, _ in order], dtype=np.float64)
    owners = np.array([index for _, index in order])
    rng, problems = np.random.default_rng(seed), len(values_per_problem)
    found = [_weighted_percentiles(values, np.ones(len(values)), percents)]
    while len(found) <= resamples:
        weights = np.bincount(rng.integers(0, problems, problems), minlength=problems)[owners]
        if weights.any():
            found.append(_weighted_percentiles(values, weights, percents))
    low, high = np.percentile(found[1:], TAILS, axis=0)
    return {
        percent: (float(found[0][index]), float(low[index]), float(high[index]))
        for index, percent in enumerate(percents)
    }


def _weighted_percentiles(values: np.ndarray, weights: np.ndarray, percents: Sequence[int]) -> np.ndarray:
    """`values` ascending; -1e-9 keeps 0.2 × 5 from being a little more than 1."""
    reached = np.cumsum(weights)
    return values[np.searchsorted(reached, np.asarray(percents) / 100 * reached[-1] - 1e-9)]


def pass_at_k(right: int, samples: int, k: int) -> float:
    """Probability (0-1) that at least one of k samples, drawn without replacement from `samples` of which `right`
    are right, is right: the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1)."""
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {right} right among {samples}: expected 1 ≤ k ≤ samples and right ≤ samples")
    return 1.0 - comb(samples - right, k) / comb(samples, k)
