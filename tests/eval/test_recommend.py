"""The Pareto frontier, the verdicts, and what is said of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.table.recommend import (
    Option,
    adjusted_interval,
    compare,
    pareto,
    problems_needed,
    recommend,
)

DIFFERENCES = st.lists(st.sampled_from([-1.0, -0.5, -0.1, 0.0, 0.0, 0.0, 0.2, 1.0]), min_size=1, max_size=60)


def option(name: str, accuracies: list[float], cost: float, model: str = "base", path: float = 1.0) -> Option:
    return Option(f"{model}/{name}", model, name, accuracies, cost, path, 1 - cost / 100)


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(POINTS)
def test_nobody_on_the_frontier_is_beaten_and_everybody_else_is(points: list[tuple[int, int]]) -> None:
    found = [option(str(index), [right / 5], cost) for index, (right, cost) in enumerate(points)]
    front = pareto(found, lambda one: one.net_tokens)

    def beats(a: Option, b: Option) -> bool:
        better = (a.accuracy > b.accuracy) or (a.net_tokens < b.net_tokens)
        return better and a.accuracy >= b.accuracy and a.net_tokens <= b.net_tokens

    for one in found:
        assert (one.id in front) == (not any(beats(other, one) for other in found))
    costs = [one.net_tokens for name in front for one in found if one.id == name]
    assert costs == sorted(costs)


@given(DIFFERENCES)
def test_the_interval_of_a_decision_is_never_narrower_than_either(differences: list[float]) -> None:
    reference = [1.0 if value <= 0 else 0.0 for value in differences]
    one = option("x", [a + b for a, b in zip(reference, differences, strict=True)], 1)
    found = compare(one, reference, 0.03)
    low, high = adjusted_interval(differences)
    assert found.interval[0] <= low + 1e-9 and found.interval[1] >= high - 1e-9
    assert found.interval[0] <= found.difference <= found.interval[1]
    mirrored = adjusted_interval([-value for value in differences])
    assert mirrored == pytest.approx((-high, -low))


def test_agreement_on_few_problems_is_no_proof() -> None:
    """Where two methods agree on every problem the bootstrap has no width at all."""
    for count, verdict in ((10, "cannot tell"), (30, "cannot tell"), (63, "cannot tell"), (64, "holds")):
        same = [1.0] * count
        judged = compare(option("x", list(same), 1), same, 0.03)
        assert (judged.difference, judged.verdict) == (0.0, verdict)


def test_verdicts_follow_the_interval() -> None:
    rng = np.random.default_rng(0)
    reference = list((rng.random(200) < 0.7).astype(float))
    worse = [0.0 if rng.random() < 0.3 else value for value in reference]
    assert compare(option("worse", worse, 1), reference, 0.03).verdict == "loses"
    assert compare(option("worse", worse, 1), reference, 0.5).verdict == "holds"
    lost = [index for index, value in enumerate(reference) if value][:6]
    slightly = [0.0 if index in lost else value for index, value in enumerate(reference)]
    unsure = compare(option("unsure", slightly, 1), reference, 0.04)
    assert unsure.verdict == "cannot tell" and unsure.interval[0] < -0.04 <= unsure.difference == pytest.approx(-0.03)


@given(DIFFERENCES, st.sampled_from([0.01, 0.03, 0.2]))
def test_so_many_problems_like_these_would_tell(differences: list[float], tolerance: float) -> None:
    needed = problems_needed(differences, tolerance)
    if needed is None:
        assert np.mean(differences) <= -tolerance + 0.01
    else:
        assert needed > len(differences)
        assert adjusted_interval(differences, problems=needed)[0] >= -tolerance


def test_the_number_of_problems_needed_does_tell_as_often_as_it_says() -> None:
    """Four times in five."""
    differences = [0.0] * 27 + [-1.0, 1.0, -0.5]
    needed = problems_needed(differences, 0.05)
    rng, told = np.random.default_rng(0), 0
    for _ in range(400):
        drawn = rng.choice(differences, needed)
        told += adjusted_interval(list(drawn))[0] >= -0.05
    assert 0.72 <= told / 400 <= 0.88


def test_decisions_are_wrong_no_more_often_than_they_say() -> None:
    """A method that loses exactly the tolerance is called within it in at most 2.5 % of evaluations, also with few
    problems and rare differences, where the percentile bootstrap alone is too sure."""
    rng = np.random.default_rng(0)
    for count in (30, 120):
        held = 0
        for _ in range(400):
            drawn = rng.random(count)
            differences = np.where(drawn < 0.09, -1.0, np.where(drawn < 0.15, 1.0, 0.0))
            reference = (differences <= 0).astype(float)
            held += compare(option("x", list(reference + differences), 1), reference, 0.03).verdict == "holds"
        assert held / 400 <= 0.04


def test_the_cheapest_that_holds_is_recommended() -> None:
    right = [1.0] * 180 + [0.0] * 20
    reference = option("vote", right, 100.0, path=9)
    poor = option("poor", [0.0] * 60 + right[60:], 1.0, path=1)
    good = option("good", list(right), 20.0, path=3)
    dear = option("dear", list(right), 50.0, path=2)
    found = recommend([reference, poor, good, dear], reference, 3.0, "b")
    assert found.per_model["base"].recommended == found.overall == "base/good"
    assert [entry.verdict for entry in found.per_model["base"].considered] == ["loses", *["holds"] * 3]
    assert found.frontier_tokens == ("base/poor", "base/good")
    assert found.frontier_wall == ("base/poor", "base/dear")
    assert found.words == (
        "base: run good, the cheapest that is shown to lose no more than 3 points against vote: +0.0 points, "
        "cautious 95 % interval −1.0 … +1.0. It saves 80.0 % of the tokens, with 3 tokens to wait for instead of 9.",
    )
    assert (found.tolerance_points, found.benchmark) == (3.0, "b")


def test_too_few_problems_are_said_to_be_too_few() -> None:
    right = [1.0] * 25 + [0.0] * 5
    reference = option("vote", right, 100.0)
    quick = option("quick", [0.0, *right[1:]], 10.0, "pruned")
    found = recommend([reference, quick], reference, 3.0, "b")
    assert found.per_model["pruned"].recommended is None
    assert found.per_model["base"].recommended == found.overall == "base/vote"
    words = " ".join(found.words)
    assert "; 30 problems are too few to tell (if that is the truth, no number of them would)." in words
    same = recommend([reference, option("quick", list(right), 10.0, "pruned")], reference, 3.0, "b")
    needed = same.per_model["pruned"].considered[0].problems_needed
    assert 64 < needed < 200 and f"about {-(-needed // 10) * 10 if needed > 99 else needed} would" in same.words[1]
    assert same.words[0] == "base: stay with vote. Nothing cheaper is shown to lose no more than 3 points."
    assert same.words[1].startswith("pruned: nothing is shown to lose no more than 3 points against vote on base. ")
