import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.choice import Candidate, Reference, accuracy_difference, choose, explain, pick_reference
from secateur.runtime.errors import InputError
from tests.schedules.candidates import candidate

share = st.floats(0, 1).map(lambda value: round(value, 3))
lengths = st.integers(50, 60).map(float)


@st.composite
def candidate_lists(draw) -> list[Candidate]:
    count = draw(st.integers(1, 8))
    return [candidate(step, draw(share), draw(lengths), draw(share)) for step in range(0, 4 * count, 4)]


def reference_at(accuracy: float) -> Reference:
    return Reference(candidate(0, accuracy, 0.0, 0.0), "the original model")


@given(candidate_lists(), share, st.floats(0, 0.5))
def test_nothing_feasible_is_shorter_than_the_chosen_one(candidates, bar, tolerance) -> None:
    selection = choose(candidates, reference_at(bar), tolerance)
    chosen = selection.chosen
    able = [one for one, fits in zip(candidates, selection.feasible, strict=True) if fits]
    if not able:
        assert chosen.step == 0
        return
    assert chosen in able
    for other in able:
        assert (chosen.mean_tokens, -chosen.pass_at_1, chosen.step) <= (
            other.mean_tokens,
            -other.pass_at_1,
            other.step,
        )


@given(candidate_lists(), share, st.floats(0, 0.5), st.randoms())
def test_the_order_of_the_candidates_plays_no_part(candidates, bar, tolerance, random) -> None:
    mixed = list(candidates)
    random.shuffle(mixed)
    one, other = (choose(order, reference_at(bar), tolerance) for order in (candidates, mixed))
    assert one.chosen == other.chosen
    assert explain(one) == explain(other)


@given(candidate_lists(), share)
def test_a_larger_tolerance_never_gives_a_longer_model(candidates, bar) -> None:
    def length(tolerance: float) -> float:
        selection = choose(candidates, reference_at(bar), tolerance)
        return selection.chosen.mean_tokens if any(selection.feasible) else float("inf")

    assert length(0.3) <= length(0.1) <= length(0.0)


@given(candidate_lists(), share, st.integers(0, 7), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_figures_that_are_not_finite_are_never_chosen_and_change_nothing_else(candidates, bar, at, broken) -> None:
    kept = [one for one in candidates if one.step != 4 * at or at == 0]
    step = 4 * at if at else 999
    for figures in ((broken, 1.0), (1.0, broken)):
        selection = choose([*kept, candidate(step, *figures, 0.0)], reference_at(bar), 0.1)
        assert selection.chosen == choose(kept, reference_at(bar), 0.1).chosen
        assert f"Left out, figures not finite: step {step}." in explain(selection)


@given(candidate_lists(), share, st.floats(0, 0.5))
def test_the_words_say_what_the_numbers_say(candidates, bar, tolerance) -> None:
    selection = choose(candidates, reference_at(bar), tolerance)
    reason, chosen = explain(selection), selection.chosen
    accuracy, length = chosen.pass_at_1_ci95, chosen.mean_tokens_ci95
    assert f"{chosen.mean_tokens:,.1f} ({length[0]:,.1f}–{length[1]:,.1f}) tokens at pass@1" in reason
    assert f"at pass@1 {chosen.pass_at_1:.3f} ({accuracy[0]:.3f}–{accuracy[1]:.3f})" in reason
    assert (f"step {chosen.step}" if chosen.step else "start model") in reason.lower()
    assert ("solves no validation problem" in reason) == (bar == 0)
    if any(selection.feasible):
        assert f"{sum(selection.feasible)} feasible of {len(candidates)}" in reason or len(candidates) == 1
        best = max(one.pass_at_1 for one in candidates)
        assert ("Given up" in reason) == (best > chosen.pass_at_1)
    else:
        assert chosen.step == 0 and ("nothing to choose" if bar == 0 else "None of") in reason


def test_exactly_at_the_bar_is_feasible() -> None:
    candidates = [candidate(0, 0.7, 100.0, 0.0), candidate(4, 0.63, 50.0, 0.0), candidate(8, 0.629, 40.0, 0.0)]
    selection = choose(candidates, Reference(candidates[0], "the original model"), 0.10)
    assert selection.feasible == (True, True, False)
    assert selection.chosen_step == 4
    reason = explain(selection)
    assert "The bar is 0.630 = 0.9 × 0.700 of the original model." in reason
    assert "Shorter, but below the bar: step 8 (40.0 tokens at 0.629)." in reason
    assert "Given up: 0.070 of pass@1 that the start model has (0.700 at 100.0 tokens)." in reason
    assert "Tokens change by -50.0%" in reason


def test_ties_go_to_accuracy_then_to_the_earlier_step() -> None:
    start = candidate(0, 0.5, 100.0, 0.0)
    tied = [start, candidate(4, 0.5, 50.0, 0.0), candidate(8, 0.6, 50.0, 0.0), candidate(12, 0.6, 50.0, 0.0)]
    assert choose(tied, reference_at(0.5), 0.1).chosen_step == 8


def test_the_start_model_stays_when_the_limit_cannot_be_met() -> None:
    start = candidate(0, 0.8, 100.0, 0.0)
    selection = choose([start, candidate(4, 0.1, 10.0, 0.0)], reference_at(0.8), 0.1)
    assert selection.chosen_step == 0
    assert "could not be met" in explain(selection)


def test_a_reference_without_a_finite_accuracy_is_refused() -> None:
    with pytest.raises(InputError, match=r"pass@1 of the original model is nan.*delete"):
        choose([candidate(0, 0.8, 100.0, 0.0)], reference_at(math.nan), 0.1)


def with_rates(step: int, rates: list[float], tokens: float) -> Candidate:
    named = {f"p{index}": rate for index, rate in enumerate(rates)}
    return candidate(step, sum(rates) / len(rates), tokens, rates=named)


def test_a_difference_that_problems_share_is_more_than_noise_and_one_that_they_do_not_is_noise() -> None:
    rates = [index / 40 for index in range(40)]
    start = with_rates(0, rates, 100.0)
    shifted = with_rates(4, [rate * 0.95 for rate in rates], 50.0)
    _, low, high = accuracy_difference(shifted, start)
    assert low < high < 0
    assert "more than noise" in explain(choose([start, shifted], Reference(start, "the original model"), 0.1))
    mixed = with_rates(4, [rate + (-1) ** index * 0.02 - 0.0005 for index, rate in enumerate(rates)], 50.0)
    reason = explain(choose([start, mixed], Reference(start, "the original model"), 0.1))
    assert "within noise" in reason and "more than noise" not in reason


def test_other_problems_give_no_interval() -> None:
    one, other = with_rates(0, [0.5, 0.5], 10.0), with_rates(4, [0.5, 0.5, 0.5], 5.0)
    assert accuracy_difference(one, other) is None
    assert "no interval" in explain(choose([one, other], Reference(one, "the original model"), 0.1))


@given(share, share)
def test_the_reference_is_never_below_what_its_name_promises(original, start) -> None:
    first, second = candidate(0, original, 1.0, 0.0), candidate(0, start, 2.0, 0.0)
    best = pick_reference(first, second, "best_so_far")
    assert best.candidate.pass_at_1 == max(original, start)
    assert best.name == ("the start model of this round" if start > original else "the original model")
    assert pick_reference(first, second, "original").candidate is first
    assert pick_reference(first, second, "round_start").candidate is second
    assert pick_reference(first, first, "round_start").name == "the original model"
