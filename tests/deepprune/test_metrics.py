"""Judge metrics against brute force and against what they must not depend on."""

import numpy as np
import pytest

from secateur.deepprune.judges import metrics


def data(seed: int, pairs: int = 300, problems: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, pairs)
    scores = np.round(rng.normal(size=pairs) + labels, 1)  # rounded: ties happen
    return labels, scores, rng.integers(0, problems, pairs)


def brute_auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    difference = scores[labels == 1][:, None] - scores[labels == 0][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


@pytest.mark.parametrize("seed", range(5))
def test_auroc_counts_ordered_pairs(seed):
    labels, scores, problems = data(seed)
    counts = metrics.ordered_counts(labels, scores, problems)
    expected = brute_auroc(labels, scores)
    assert metrics.auroc(labels, scores) == pytest.approx(expected)
    assert counts.sum() / ((labels == 1).sum() * (labels == 0).sum()) == pytest.approx(expected)


def test_interval_is_that_of_resampled_problems():
    labels, scores, problems = data(1)
    low, high = metrics.auroc_ci95(labels, scores, problems, resamples=400, seed=3)
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=400)
    values = []
    for draw in draws:
        chosen = np.concatenate([np.flatnonzero(problems == p) for p in np.repeat(np.arange(12), draw)])
        values.append(brute_auroc(labels[chosen], scores[chosen]))
    assert (low, high) == pytest.approx(tuple(np.quantile(values, (0.025, 0.975))))


def test_interval_is_wider_over_problems_than_over_pairs():
    """Twenty copies of a pair tell no more than one: the interval must not shrink with them."""
    labels, scores, _ = data(2, pairs=24)
    problems = np.arange(24)
    once = metrics.auroc_ci95(labels, scores, problems)
    copied = metrics.auroc_ci95(np.repeat(labels, 20), np.repeat(scores, 20), np.repeat(problems, 20))
    assert copied == pytest.approx(once)


@pytest.mark.parametrize("seed", range(5))
def test_tnr_at_fnr_is_the_best_threshold_that_keeps_the_misses_down(seed):
    labels, scores, _ = data(seed)
    allowed = [t for t in np.unique(scores) if (scores[labels == 1] < t).mean() <= 0.2]
    expected = max((scores[labels == 0] < t).mean() for t in allowed)
    assert metrics.tnr_at_fnr(labels, scores, 0.2) == pytest.approx(expected)


def test_the_interval_of_tnr_is_that_of_resampled_problems():
    labels, scores, problems = data(5)
    found = metrics.tnr_at_fnr_ci95(labels, scores, problems, resamples=300, seed=3)
    draws = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=300)
    values = []
    for draw in draws:
        chosen = np.concatenate([np.flatnonzero(problems == p) for p in np.repeat(np.arange(12), draw)])
        values.append(metrics.tnr_at_fnr(labels[chosen], scores[chosen]))
    assert found == pytest.approx(tuple(np.quantile(values, (0.025, 0.975))))


def test_perfect_and_reversed_judges():
    labels = np.array([0, 0, 1, 1, 1])
    assert metrics.auroc(labels, labels.astype(float)) == 1.0
    assert metrics.tnr_at_fnr(labels, labels.astype(float)) == 1.0
    assert metrics.auroc(labels, -labels.astype(float)) == 0.0


def test_one_label_alone_gives_none_instead_of_a_number():
    labels, scores = np.ones(4, dtype=int), np.arange(4.0)
    found = metrics.summary(labels, scores, np.zeros(4, dtype=int))
    assert (found.auroc, found.auroc_ci95, found.tnr_at_fnr20) == (None, None, None)
    assert metrics.roc_points(labels, scores) == ()
    assert found.pairs == 4 and found.same_answer_share == 1.0


def test_roc_points_rise_from_corner_to_corner():
    labels, scores, _ = data(4)
    points = np.array(metrics.roc_points(labels, scores))
    assert points[0, 0] == 0 and tuple(points[-1]) == (1, 1)
    assert (np.diff(points, axis=0) >= 0).all()
    area = np.trapezoid(points[:, 1], points[:, 0])
    assert area == pytest.approx(metrics.auroc(labels, scores), abs=0.01)


def test_within_problems_difficulty_counts_for_nothing() -> None:
    """Two problems, an easy and a hard one. A score that knows which is which has a good AUROC over all pairs and .5
    within; one that ranks rightly within them has 1 there, whatever it says of the problem."""
    labels = np.array([1, 1, 1, 0, 1, 0, 0, 0])
    problems = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    difficulty, own = np.where(problems == 0, 0.9, 0.1), np.array([0.3, 0.3, 0.3, 0.2, 0.9, 0.8, 0.8, 0.8])
    found = metrics.within_problems(labels, difficulty, problems)
    assert (found.value, found.problem_mean, found.problems) == (0.5, 0.75, 2)
    ranked = metrics.within_problems(labels, own, problems, ngram=difficulty)
    assert ranked.value == 1 and ranked.minus_ngram.value == 0.5
    assert metrics.auroc_within_problems(labels, own, problems) == (1, 1, 1)
    assert metrics.auroc_within_problems(np.ones(4), own[:4], problems[:4]) is None


def test_kappa_by_hand() -> None:
    """Half of the pairs agree; of the four that the judge puts together three do: (3 - 2) / (4 - 2)."""
    labels = np.array([1, 1, 1, 0, 1, 0, 0, 0])
    scores = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1])
    problem = np.zeros(8, dtype=int)
    assert metrics.kappa(labels, scores, problem).value == 0.5
    assert metrics.kappa(labels, labels, problem).value == 1
    assert metrics.kappa(labels, np.full(8, 0.4), problem).value == 0, "nothing is put together"
    assert metrics.kappa(labels, np.full(8, 0.6), problem).value == 0, "everything is"
