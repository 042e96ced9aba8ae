"""The seven signs of a round that learns nothing, on metrics as they were logged; healthy logs show none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.dead import (
    CLIPPED_SHARE,
    DEAD,
    FINITE_WEIGHTS,
    SIGNS,
    Metrics,
    dead_round,
    explain_end,
    find_signs,
    refuse_dead,
    write_dead,
)
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json

NAMES = (
    *("reward", "reward_std", "correct_share", "truncated_share", "frac_reward_zero_std", "grad_norm", "entropy"),
    "clip_ratio/region_mean",
)
# Steps as train.jsonl had them: the third round of the demo, the second of SmolLM2-135M at a limit that half exceed.
HEALTHY = {
    "embedded": [
        (0.729, 0.447, 0.729, 0.042, 0.083, 0.035, 0.183, 0.0),
        (0.729, 0.447, 0.729, 0.062, 0.25, 0.034, 0.193, 0.0),
        (0.812, 0.392, 0.812, 0.073, 0.25, 0.042, 0.187, 0.0),
        (0.771, 0.423, 0.771, 0.031, 0.333, 0.039, 0.177, 0.0),
        (0.729, 0.447, 0.729, 0.052, 0.0, 0.053, 0.176, 0.0),
        (0.792, 0.408, 0.792, 0.062, 0.25, 0.044, 0.175, 0.0),
        (0.906, 0.293, 0.906, 0.01, 0.583, 0.023, 0.171, 0.0),
        (0.812, 0.392, 0.812, 0.01, 0.25, 0.039, 0.178, 0.0),
        (0.75, 0.435, 0.75, 0.0, 0.167, 0.053, 0.174, 0.0),
        (0.812, 0.392, 0.812, 0.0, 0.417, 0.027, 0.17, 0.0),
    ],
    "SmolLM2": [
        (0.516, 0.504, 0.516, 0.469, 0.125, 0.664, 0.103, 0.0),
        (0.453, 0.502, 0.453, 0.453, 0.375, 0.379, 0.099, 0.0),
        (0.281, 0.453, 0.281, 0.547, 0.375, 0.472, 0.094, 0.0),
        (0.453, 0.502, 0.453, 0.312, 0.5, 0.459, 0.107, 0.0),
        (0.562, 0.5, 0.562, 0.297, 0.375, 0.575, 0.104, 0.0),
        (0.469, 0.503, 0.469, 0.359, 0.375, 0.389, 0.077, 0.0),
    ],
}
NOTHING = {"reward": 0.0, "reward_std": 0.0, "correct_share": 0.0, "frac_reward_zero_std": 1.0, "grad_norm": 0.0}
RATIO = "sampling/importance_sampling_ratio/mean"
# What each way to be dead changes in every step, and the signs that are said of it.
DEATHS: list[tuple[Metrics, list[str]]] = [
    (NOTHING, ["reward"]),
    (NOTHING | {"truncated_share": 1.0}, ["truncated"]),
    ({"frac_reward_zero_std": 1.0, "grad_norm": 0.0}, ["groups"]),
    ({"reward": -1.0, "reward_std": 0.2, "correct_share": 0.0}, ["reward"]),  # a shaped reward without a right answer
    ({"grad_norm": math.nan}, ["gradients"]),
    ({"grad_norm": math.inf}, ["gradients"]),
    ({"grad_norm": math.nan, "entropy": None}, ["weights"]),  # TRL writes None for a mean of nothing but NaN
    ({FINITE_WEIGHTS: 0.0, "grad_norm": math.inf}, ["weights"]),
    ({"entropy": 0.002}, ["entropy"]),
    ({"clip_ratio/region_mean": CLIPPED_SHARE}, ["ratios"]),
    ({"cispo_clip_ratio": 0.9}, ["ratios"]),
    ({RATIO: 0.1}, ["ratios"]),
]


def steps_of(name: str) -> list[dict[str, float | None]]:
    return [dict(zip(NAMES, row, strict=True)) for row in HEALTHY[name]]


def names(steps: list[dict[str, float | None]], needed: int) -> list[str]:
    return [sign.name for sign in find_signs(steps, needed)]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_log_shows_none_over_any_stretch(name: str) -> None:
    steps = steps_of(name)
    for needed in range(1, len(steps) + 1):
        for end in range(len(steps) + 1):
            assert names(steps[:end], needed) == []


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize(("change", "expected"), DEATHS)
def test_each_way_to_be_dead_is_told_once_it_has_lasted(name: str, change: Metrics, expected: list[str]) -> None:
    healthy = steps_of(name)
    dead = [step | change for step in healthy]
    assert names(healthy + dead, len(dead)) == expected
    lasted = names(healthy + dead[:-1], len(dead))
    assert lasted == (["weights"] if expected == ["weights"] else []), "lost weights do not come back"


def test_all_seven_are_among_them() -> None:
    assert {name for _, found in DEATHS for name in found} == {sign.name for sign in SIGNS}
    assert len(SIGNS) == 7


def test_steps_of_one_generation_batch_are_looked_at_together() -> None:
    """The first of four steps on a batch has ratios of 1, so nothing of it is clipped."""
    steps = [step | {"clip_ratio/region_mean": clipped} for step in steps_of("SmolLM2")[:4] for clipped in (0.0, 0.7)]
    assert names(steps, 8) == ["ratios"]
    assert names([step | {RATIO: 0.98} for step in steps_of("SmolLM2")], 6) == []


@given(st.lists(st.sampled_from([0.0, 0.5]), max_size=12), st.integers(1, 12))
def test_one_step_with_a_reward_is_enough_not_to_be_dead(rewards: list[float], needed: int) -> None:
    steps = [steps_of("embedded")[0] | (NOTHING if reward == 0 else {}) for reward in rewards]
    last = rewards[-needed:]
    assert names(steps, needed) == (["reward"] if len(last) == needed and not any(last) else [])


def test_a_round_that_ended_so_is_refused_until_it_is_to_go_on(tmp_path) -> None:
    folder = tmp_path / "1-limit-4000"
    refuse_dead(folder, stop_when_dead=True)
    signs = find_signs([step | NOTHING for step in steps_of("embedded")], 10)
    record = dead_round(40, signs)
    write_dead(folder, record)
    assert read_json(folder / DEAD)["signs"] == ["reward"]
    with pytest.raises(
        InputError, match=r"round 1-limit-4000 is dead after step 40: no completion earned .*'answer_"
    ):
        refuse_dead(folder, stop_when_dead=True)
    refuse_dead(folder, stop_when_dead=False)
    assert "--stop_when_dead false" in explain_end(folder, record, stopped=True)
    assert "the same command goes on before it" in explain_end(folder, record, stopped=False)
