from hypothesis import given
from hypothesis import strategies as st

from schedules.choice import Candidate, choose, pick_reference

share = st.floats(0, 1).map(lambda value: round(value, 3))
lengths = st.integers(50, 60).map(float)


@st.composite
def candidate_lists(draw) -> list[Candidate]:
    count = draw(st.integers(1, 8))
    return [Candidate(step, draw(share), draw(lengths), draw(share)) for step in range(0, 4 * count, 4)]


@given(candidate_lists(), share, st.floats(0, 0.5))
def test_nothing_feasible_is_shorter_than_the_chosen_one(candidates, bar, tolerance) -> None:
    selection = choose(candidates, Candidate(0, bar, 0.0, 0.0), tolerance)
    chosen = next(candidate for candidate in candidates if candidate.step == selection.chosen_step)
    able = [candidate for candidate, fits in zip(candidates, selection.feasible, strict=True) if fits]
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
    reference = Candidate(0, bar, 0.0, 0.0)
    mixed = list(candidates)
    random.shuffle(mixed)
    assert choose(mixed, reference, tolerance).chosen_step == choose(candidates, reference, tolerance).chosen_step


@given(candidate_lists(), share)
def test_a_larger_tolerance_never_gives_a_longer_model(candidates, bar) -> None:
    reference = Candidate(0, bar, 0.0, 0.0)

    def length(tolerance: float) -> float:
        selection = choose(candidates, reference, tolerance)
        able = any(selection.feasible)
        chosen = next(candidate for candidate in candidates if candidate.step == selection.chosen_step)
        return chosen.mean_tokens if able else float("inf")

    assert length(0.3) <= length(0.1) <= length(0.0)


def test_exactly_at_the_bar_is_feasible() -> None:
    candidates = [Candidate(0, 0.7, 100.0, 0.0), Candidate(4, 0.63, 50.0, 0.0), Candidate(8, 0.629, 40.0, 0.0)]
    selection = choose(candidates, candidates[0], 0.10)
    assert selection.feasible == (True, True, False)
    assert selection.chosen_step == 4


def test_ties_go_to_accuracy_then_to_the_earlier_step() -> None:
    start = Candidate(0, 0.5, 100.0, 0.0)
    tied = [start, Candidate(4, 0.5, 50.0, 0.0), Candidate(8, 0.6, 50.0, 0.0), Candidate(12, 0.6, 50.0, 0.0)]
    assert choose(tied, start, 0.1).chosen_step == 8


def test_the_start_model_stays_when_the_limit_cannot_be_met() -> None:
    start = Candidate(0, 0.8, 100.0, 0.0)
    selection = choose([start, Candidate(4, 0.1, 10.0, 0.0)], start, 0.1)
    assert selection.chosen_step == 0
    assert "could not be met" in selection.reason


@given(share, share)
def test_the_reference_is_never_below_what_its_name_promises(original, start) -> None:
    first, second = Candidate(0, original, 1.0, 0.0), Candidate(0, start, 1.0, 0.0)
    assert pick_reference(first, second, "best_so_far").pass_at_1 == max(original, start)
    assert pick_reference(first, second, "original") is first
    assert pick_reference(first, second, "round_start") is second
