"""Names and options: what a schedule may say, and what it is told otherwise."""

from dataclasses import fields

import pytest

from rewards.completion import Completion, RewardOptions, RewardSpec, TargetOptions
from rewards.registry import REWARDS, check_reward, find_reward, make_options, reward_group
from secateur.runtime.errors import InputError

FIVE = RewardSpec(formula=lambda group, limit, options: [5.0] * len(group), options=RewardOptions, source="here")
BAD = [
    ("hard_limit", {"kep": 4}, "did you mean 'keep'"),
    ("hard_limit", {"grade_truncated": True}, "unknown key 'grade_truncated'"),
    ("hard_limit", {"keep": 1}, "reward_options.keep' has the value 1"),
    ("hard_limit", {"keep": 17}, "num_generations = 16"),
    ("hard_limit", {"keep_by": "efficiency"}, "give reward_options.keep as well"),
    ("hard_limit", {"keep": 4, "keep_by": "tokens"}, "keep_by"),
    ("dapo_soft_overlong", {"buffer": -1}, "reward_options.buffer' has the value -1"),
    ("dapo_soft_overlong", {"buffer": 2001}, "the limit of 2000 tokens"),
    ("dapo_soft_overlong", {"factor": -1.0}, "reward_options.factor"),
    ("dapo_soft_overlong", {"wrong": 1.0}, "reward_options.wrong"),
    ("l1_exact", {"alpha": 0.0}, "reward_options.alpha' has the value 0.0"),
    ("l1_exact", {"target_min": 2001}, "reward_options.target_min"),
    ("l1_max", {"delta": 0.0}, "reward_options.delta"),
    ("l1_max", {"alpha": float("nan")}, "a number with an end"),
    ("kimi_k15", {"weight": 2.0}, "reward_options.weight"),
    ("cosine", {"right_long": -2.0}, "wrong_long < right_long"),
    ("cosine", {"exceeded": 0.0}, "reward_options.exceeded"),
    ("efficient", {"alpha": 1.0}, "reward_options.alpha"),
    ("laser", {"target": 2000}, "below the limit of 2000 tokens"),
    ("laser", {"bonus": 0.0}, "reward_options.bonus"),
    ("laser", {"unfinished": 0.5}, "reward_options.unfinished"),
    ("shorter_better", {"beta": -0.1}, "reward_options.beta"),
    ("alp", {"beta": "much"}, "has the value 'much'"),
]


@pytest.mark.parametrize("name", REWARDS)
def test_defaults_fit_every_limit_of_the_paper(name: str) -> None:
    assert check_reward(name, {}, 16, [4000, 3000, 2000]) == make_options(name, {})


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_a_bad_option_names_key_value_and_remedy(name: str, options: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_reward(name, options, 16, [4000, 2000])
    assert message in str(caught.value)
    assert "reward_options" in str(caught.value)


def test_an_unknown_reward_is_told_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'reward' has the value 'length'.*hard_limit.*alp"):
        check_reward("length", {}, 16)


def test_a_reward_that_compares_refuses_a_single_completion() -> None:
    for name, spec in REWARDS.items():
        if spec.needs_group:
            with pytest.raises(InputError, match="num_generations"):
                check_reward(name, {}, 1)
        else:
            check_reward(name, {}, 1)
    with pytest.raises(InputError, match="num_generations"):
        check_reward("hard_limit", {"drop_equal_groups": True}, 1)


def test_every_option_is_explained_where_it_is_declared() -> None:
    for spec in REWARDS.values():
        documented = " ".join(cls.__doc__ or "" for cls in spec.options.__mro__)
        assert all(field.name in documented for field in fields(spec.options))


def test_the_rewards_of_l1_need_a_target() -> None:
    assert {name: spec.target for name, spec in REWARDS.items() if spec.target} == {
        "l1_exact": "exact",
        "l1_max": "at_most",
    }
    with pytest.raises(InputError, match="'reward' has the value 'l1'"):
        find_reward("l1")


def test_a_reward_with_a_target_has_options_that_say_how_it_is_drawn() -> None:
    assert all(issubclass(spec.options, TargetOptions) == (spec.target is not None) for spec in REWARDS.values())


def test_a_reward_of_ones_own_is_named_by_its_module() -> None:
    """As one from another package: its formula pays, its options are checked, and it is no entry of the registry."""
    name = f"{__name__}:FIVE"
    assert name not in REWARDS and find_reward(name) is FIVE
    options = check_reward(name, {"keep": 2}, 4, [100])
    assert reward_group(name, [Completion(True, length) for length in (3, 1, 2)], 100, options) == [None, 5.0, 5.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module:X", "the module 'no.such.module' cannot be imported"),
        (":X", "cannot be imported"),
        (f"{__name__}:SIX", "has no 'SIX'"),
        (f"{__name__}:BAD", "is no RewardSpec"),
    ],
)
def test_what_names_no_reward_of_ones_own_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_reward(name, {}, 4)
    assert "key 'reward'" in str(caught.value)
