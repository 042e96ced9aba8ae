"""How well a judge tells pairs apart. Pure functions of labels (1 = same answer), scores and problem numbers.

Pairs of one problem hang together, so intervals resample problems, never pairs.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from secateur.deepprune.judges.record import Estimate, PairFigures, WithinProblems
from secateur.runtime.statistics import Interval, ratio_with_interval

BOOTSTRAP_RESAMPLES = 2000
THRESHOLD_RESAMPLES = 500  # each sorts out a threshold of its own, which takes longer
ROC_POINTS = 101


def has_both_labels(labels: np.ndarray) -> bool:
    return 0 < int(np.sum(labels)) < len(labels)


def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Share (0-1) of (same, different) pairs of pairs that are ranked rightly, ties counted half; None if one label
    is missing."""
    return float(roc_auc_score(labels, scores)) if has_both_labels(labels) else None


def ordered_counts(labels: np.ndarray, scores: np.ndarray, problems: np.ndarray) -> np.ndarray:
    """[problems, problems]: in cell (a, b), how many same-answer pairs of a are ranked above different-answer pairs
    of b, ties counted half. Its sum over all cells is the numerator of the pooled AUROC."""
    count = int(problems.max()) + 1
    positives, negatives = labels == 1, labels == 0
    owner = problems[positives]
    counts = np.zeros((count, count))
    for problem in range(count):
        ranked = np.sort(scores[negatives & (problems == problem)])
        below = np.searchsorted(ranked, scores[positives], "left") + np.searchsorted(
            ranked, scores[positives], "right"
        )
        counts[:, problem] = np.bincount(owner, weights=below / 2, minlength=count)
    return counts


def auroc_ci95(
    labels: np.ndarray,
    scores: np.ndarray,
    problems: np.ndarray,
    resamples: int = BOOTSTRAP_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of the pooled AUROC over problems drawn with replacement; None without both labels.

    `problems` [pairs] numbers the problem of each pair. Resamples that lack a label are left out.
    """
    if not has_both_labels(labels):
        return None
    problems = np.unique(problems, return_inverse=True)[1]
    count = int(problems.max()) + 1
    counts = ordered_counts(labels, scores, problems)
    same = np.bincount(problems, weights=labels == 1, minlength=count)
    different = np.bincount(problems, weights=labels == 0, minlength=count)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    ordered, total = ((draws @ counts) * draws).sum(1), (draws @ same) * (draws @ different)
    values = ordered[total > 0] / total[total > 0]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def auroc_within_problems(labels: np.ndarray, scores: np.ndarray, problems: np.ndarray) -> Interval | None:
    """(value, low, high) of the share (0-1) of (label 1, label 0) pairs *of one problem* that are ranked rightly,
    ties counted half: what is left of an AUROC where how hard a problem is tells nothing. None where no problem has
    both labels. `problems` numbers the problem of each entry; the interval is over problems."""
    return _ratio(*_within_counts(labels, scores, np.unique(problems, return_inverse=True)[1]))


def within_problems(
    labels: np.ndarray,
    scores: np.ndarray,
    problems: Sequence[int] | np.ndarray,
    ngram: np.ndarray | None = None,
    seed: int = 0,
) -> WithinProblems:
    """`auroc_within_problems` with its control and, where scores [pairs] of the trained n-gram baseline are given,
    what the judge has more than they. Intervals of 95 % over problems."""
    numbers = np.unique(np.asarray(problems), return_inverse=True)[1]
    right, total = _within_counts(labels, scores, numbers)
    found = _ratio(right, total, seed)
    pairs_of = np.maximum(np.bincount(numbers), 1)
    means = (np.bincount(numbers, weights=scores) / pairs_of)[numbers] if len(labels) else scores
    less = None
    if ngram is not None:
        less = _ratio(right - _within_counts(labels, ngram, numbers)[0], total, seed)
    return WithinProblems(
        value=None if found is None else found[0],
        ci95=None if found is None else found[1:],
        problems=int(np.count_nonzero(total)),
        problem_mean=auroc(labels, means),
        minus_ngram=None if less is None else Estimate(less[0], less[1:]),
    )


def _within_counts(labels: np.ndarray, scores: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per problem [problems]: (same, different) pairs of its pairs that are ranked rightly, and all there are."""
    if not len(labels):
        return np.zeros(0), np.zeros(0)
    count = int(problems.max()) + 1
    right, total = np.zeros(count), np.zeros(count)
    for problem in range(count):
        own = problems == problem
        same, different = scores[own & (labels == 1)], np.sort(scores[own & (labels == 0)])
        below = np.searchsorted(different, same, "left") + np.searchsorted(different, same, "right")
        right[problem], total[problem] = below.sum() / 2, len(same) * len(different)
    return right, total


def _ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int = 0) -> Interval | None:
    return ratio_with_interval(numerators, denominators, seed=seed) if denominators.sum() else None


def kappa(
    labels: np.ndarray, scores: np.ndarray, problems: np.ndarray, threshold: float = 0.5, seed: int = 0
) -> Estimate:
    """How much of a vote (0-1) a judged cut is worth: of the pairs that the judge puts together (score above
    `threshold`), the share that belong together beyond what two traces of that problem do anyway.

        Σ (label − p) ÷ Σ (1 − p),  p = the share of same-answer pairs of the pair's problem

    That is Cohen's kappa within problems: 0 for a judge that knows the problem's difficulty and no more, 1 for one
    whose clusters are answers. Interval of 95 % over problems; 0 where nothing is put together or nothing differs.
    """
    together = scores > threshold
    count = int(problems.max()) + 1 if len(problems) else 0
    base = np.bincount(problems, weights=labels, minlength=count) / np.maximum(np.bincount(problems), 1)
    gained = np.bincount(problems, weights=together * (labels - base[problems]), minlength=count)
    possible = np.bincount(problems, weights=together * (1 - base[problems]), minlength=count)
    found = _ratio(gained, possible, seed)
    return Estimate(0.0, (0.0, 0.0)) if found is None else Estimate(found[0], found[1:])


def tnr_at_fnr(labels: np.ndarray, scores: np.ndarray, fnr: float = 0.2) -> float | None:
    """Share (0-1) of different-answer pairs kept apart at the threshold that misses at most `fnr` (0-1) of the
    same-answer pairs (the paper's TNR@0.2FNR; "negative" means different). None without both labels."""
    if not has_both_labels(labels):
        return None
    false_positive, true_positive, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(1.0 - false_positive[true_positive >= 1.0 - fnr - 1e-12].min())


def tnr_at_fnr_ci95(
    labels: np.ndarray,
    scores: np.ndarray,
    problems: np.ndarray,
    fnr: float = 0.2,
    resamples: int = THRESHOLD_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of `tnr_at_fnr` over problems drawn with replacement, the threshold chosen anew in
    each draw; None without both labels."""
    if not has_both_labels(labels):
        return None
    order = np.argsort(-scores, kind="stable")
    owner = np.unique(problems, return_inverse=True)[1][order]
    same, ends = labels[order] == 1, np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    count = int(owner.max()) + 1
    values = []
    for draw in np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples):
        weights = draw[owner]
        kept, merged = np.cumsum(weights * same)[ends], np.cumsum(weights * ~same)[ends]  # at falling thresholds
        if kept[-1] and merged[-1]:
            first = np.searchsorted(kept, (1.0 - fnr) * kept[-1] - 1e-9)
            values.append(1.0 - merged[first] / merged[-1])
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def roc_points(labels: np.ndarray, scores: np.ndarray, points: int = ROC_POINTS) -> tuple[tuple[float, float], ...]:
    """The ROC curve read off at `points` evenly spaced false positive rates: ((fpr, tpr), ...), () without both
    labels."""
    if not has_both_labels(labels):
        return ()
    false_positive, true_positive, _ = roc_curve(labels, scores)
    grid = np.linspace(0.0, 1.0, points)
    return tuple(
        (round(float(x), 4), round(float(y), 4))
        for x, y in zip(grid, np.interp(grid, false_positive, true_positive), strict=True)
    )


def summary(
    labels: np.ndarray, scores: np.ndarray, problems: Sequence[int] | np.ndarray, seed: int = 0
) -> PairFigures:
    """The figures that every judge is reported with, from its pairs [pairs]; `problems` numbers their problems."""
    problems = np.asarray(problems)
    return PairFigures(
        auroc=auroc(labels, scores),
        auroc_ci95=auroc_ci95(labels, scores, problems, seed=seed),
        tnr_at_fnr20=tnr_at_fnr(labels, scores, 0.2),
        tnr_at_fnr20_ci95=tnr_at_fnr_ci95(labels, scores, problems, seed=seed),
        pairs=len(labels),
        same_answer_share=float(np.mean(labels)) if len(labels) else None,
        problems=len(np.unique(problems)),
    )
