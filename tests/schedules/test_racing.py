"""Who stays in a race: properties of the pure rule, and its promise on made-up models."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.choice import Candidate, ProblemFigures, choose, pick_reference
from schedules.integrity import Marker, write_marker
from schedules.racing import Race, Samples, foresee, lacking, looks, make_race, read_samples
from schedules.validation.sampling import same_weights
from secateur.runtime.errors import InputError
from secateur.tasks.graded import GradedSample, write_results


def model(rng: np.random.Generator, rate: float, length: float, problems: int = 60, samples: int = 16) -> Samples:
    """Samples of a model with this mean rate of right answers and mean length, which problems share in part."""
    hard = np.random.default_rng(7).uniform(-0.25, 0.25, (problems, 1))
    right = rng.random((problems, samples)) < np.clip(rate + hard, 0, 1)
    tokens = rng.gamma(4, length * (1 - hard) / 4, (problems, samples)).round()
    return Samples(right.astype(float), tokens)


def figures(step: int, drawn: Samples) -> Candidate:
    rates, lengths = drawn.right.mean(axis=1), drawn.tokens.mean(axis=1)
    found = {f"{i:03}": ProblemFigures(*pair) for i, pair in enumerate(zip(rates, lengths, strict=True))}
    bounds = ((0.0, 1.0), (0.0, 1e9))
    means = float(rates.mean()), float(lengths.mean())
    return Candidate(step, *means, 0.0, *bounds, drawn.count, len(found), found)


def run(
    models: dict[int, Samples], confidence: float = 0.95, tolerance: float = 0.1
) -> tuple[int, int, dict[int, int]]:
    """The choice of a full validation, that of the race, and how many samples each candidate had; 0 is the start."""
    everyone = {step: figures(step, drawn) for step, drawn in models.items()}
    reference = pick_reference(everyone[0], everyone[0], "best_so_far")
    full = choose(list(everyone.values()), reference, tolerance).chosen_step
    race = make_race(models[0].count, confidence, tolerance, everyone[0], everyone[0])
    had = {step: 0 for step in models if step}
    while missing := lacking(race, {step: models[step].first(count) for step, count in had.items()}):
        had |= missing
    raced = [everyone[0], *(figures(step, models[step].first(count)) for step, count in had.items())]
    return full, choose(raced, reference, tolerance).chosen_step, had


def promises(seeds: range, confidence: float) -> tuple[float, float]:
    """Share of races that choose as the full validation, and of samples they take, over models around the bar."""
    equal, taken = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rates, lengths = rng.uniform(0.5, 0.66, 9), 8000 * np.cumprod(rng.uniform(0.93, 1.01, 9))
        checkpoints = {1 + i: model(rng, *pair) for i, pair in enumerate(zip(rates, lengths, strict=True))}
        full, raced, had = run({0: model(rng, 0.6, 8000)} | checkpoints, confidence)
        equal.append(full == raced)
        taken.append(np.mean(list(had.values())) / 16)
    return float(np.mean(equal)), float(np.mean(taken))


def test_the_choice_of_a_race_is_that_of_a_full_validation_as_often_as_promised() -> None:
    equal, taken = promises(range(100), 0.95)
    assert equal >= 0.95
    assert taken < 0.5
    assert promises(range(100), 0.7)[0] >= 0.7


def test_hopeless_candidates_get_an_eighth_and_the_winner_all() -> None:
    rng = np.random.default_rng(1)
    models = {0: (0.6, 8000), 20: (0.6, 7000), 40: (0.6, 4000), 60: (0.2, 2000)}
    full, raced, had = run({step: model(rng, *pair) for step, pair in models.items()})
    assert full == raced == 40
    assert had == {20: 2, 40: 16, 60: 2}


def test_a_reference_that_solves_nothing_leaves_nothing_to_race_for() -> None:
    rng = np.random.default_rng(2)
    full, raced, had = run({0: model(rng, -1, 8000), 20: model(rng, -1, 4000)})
    assert full == raced == 0
    assert had == {20: 2}


@given(st.integers(1, 40))
def test_the_last_look_has_all_samples_and_none_comes_twice(samples: int) -> None:
    found = looks(samples)
    assert found == sorted(set(found)) and found[-1] == samples and found[0] >= 1 and len(found) <= 4


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 0.99))
def test_a_race_goes_on_until_one_candidate_with_all_its_samples_is_probable_enough(
    seed: int, confidence: float
) -> None:
    rng = np.random.default_rng(seed)
    models = {step: model(rng, 0.5, 8000 - 40 * step, problems=12, samples=4) for step in (0, 10, 20, 30)}
    start = figures(0, models[0])
    race = make_race(4, confidence, 0.1, start, start)
    had = dict.fromkeys((10, 20, 30), 0)
    while missing := lacking(race, {step: models[step].first(count) for step, count in had.items()}):
        assert all(had[step] < count <= 4 for step, count in missing.items())
        had |= missing
    chance = foresee(race, {step: models[step].first(count) for step, count in had.items()}).chances()
    best = max(chance, key=lambda step: (chance[step], -step))
    assert chance[best] >= confidence and sum(chance.values()) == pytest.approx(1)
    assert best == 0 or had[best] == 4
    assert lacking(race, {step: models[step] for step in had}) == {}  # all on disk: nothing is asked for


def test_a_probability_is_that_of_stratified_samples_worked_by_hand() -> None:
    """Two problems, two of four samples, lengths .5 about their mean: within-problem squares 1.0, with the pair's 3
    degrees of freedom; standard error of the mean sqrt(1/3 × (1/2 − 1/4) / 2) = .204. A start model that is shorter
    by 1.5 of these stays shorter with P(t₃ < 1.5) = .885."""
    start = np.full(2, 100.0)
    race = Race(4, 0.95, 0.9, np.ones(2), start)
    tokens = 100 + 1.5 * math.sqrt(1 / 24) + np.array([[-0.5, 0.5], [-0.5, 0.5]])
    always = np.full((2, 2), 1.5)  # far above the bar: lengths alone decide
    assert foresee(race, {1: Samples(always, tokens)}).chances()[0] == pytest.approx(0.885, abs=0.01)


def test_a_draw_below_the_bar_is_not_chosen_and_the_start_model_stays() -> None:
    """One right and one wrong sample of each of 50 problems, the bar at their mean: half the draws miss it."""
    start = np.full(50, 100.0)
    right, tokens = np.tile([0.0, 1.0], (50, 1)), np.tile([49.0, 51.0], (50, 1))
    chance = foresee(Race(4, 0.95, 0.5, np.ones(50), start), {1: Samples(right, tokens)}).chances()
    assert chance[0] == pytest.approx(0.5, abs=0.02)
    assert foresee(Race(4, 0.95, 0.0, np.zeros(50), start), {1: Samples(right, tokens)}).chances()[0] == 1


def test_a_start_model_below_the_bar_is_no_rival_in_length() -> None:
    race = Race(2, 0.95, 0.8, np.full(3, 0.1), np.full(3, 50.0))
    able, unable = (Samples(np.full((3, 2), right), np.full((3, 2), 100.0)) for right in (1.0, 0.0))
    assert foresee(race, {4: able, 8: unable}).chances() == {0: 0, 4: 1, 8: 0}
    assert foresee(race, {8: unable}).chances() == {0: 1, 8: 0}


def test_rivals_wait_while_the_leader_may_miss_the_bar() -> None:
    """Whoever leads is sampled in any case; a longer one matters only once the leader has failed."""
    rng = np.random.default_rng(3)
    start = model(rng, 0.6, 8000)
    models = {10: model(rng, 0.6, 6000), 20: model(rng, 0.55, 3000)}
    first = figures(0, start)
    race = make_race(16, 0.95, 0.1, first, first)
    assert set(lacking(race, {step: one.first(2) for step, one in models.items()})) == {20}


def test_samples_are_read_in_the_order_of_problems_and_samples(tmp_path) -> None:
    lines = [("b", 1, True, 4), ("a", 0, False, 1), ("b", 0, False, 3), ("a", 1, True, 2), ("a", 2, True, 9)]
    write_results(tmp_path / "results.jsonl", [GradedSample(*line, "stop") for line in lines])
    drawn = read_samples(tmp_path / "results.jsonl", 2)
    assert drawn.tokens.tolist() == [[1, 2], [3, 4]] and drawn.right.tolist() == [[0, 1], [0, 1]]
    with pytest.raises(InputError, match=r"results.jsonl: lacks some of the 3 samples of 'b'; delete the file"):
        read_samples(tmp_path / "results.jsonl", 3)
    assert read_samples(tmp_path / "missing.jsonl", 0).count == 0


def test_models_with_the_same_weights_are_one_candidate(tmp_path) -> None:
    models = {0: "owner/model"}
    for step, weights in ((4, "x"), (8, "x"), (12, "y")):
        folder = tmp_path / f"checkpoint-{step}"
        prints = {"model.safetensors": weights, "trainer_state.json": str(step)}
        write_marker(folder, Marker(step, 2, 100, False, True, {}, prints))
        models[step] = str(folder)
    assert same_weights(models) == {0: 0, 4: 4, 8: 4, 12: 12}
    assert same_weights({0: models[4], 8: models[8]}) == {0: 0, 8: 0}  # a round that has not moved its start model


@pytest.mark.parametrize("value", [0, 1, -0.5, 95])
def test_an_impossible_confidence_is_named(value, tmp_path) -> None:
    from schedules.config import ScheduleConfig
    from secateur.runtime.errors import InputError

    keys = {"model": str(tmp_path), "output_dir": "x", "limits": [2], "steps_per_round": 1}
    keys |= {"problems": "p", "validation_problems": "v"}
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="racing_confidence"):
        ScheduleConfig(**keys, racing_confidence=value)
