"""Names and options: what a schedule may say, and what it is told otherwise."""

from dataclasses import fields

import pytest

from rewards.registry import REWARDS, check_reward, make_options, needs_target
from secateur.runtime.errors import InputError

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
    ("l1_max", {"alpha": float("nan")}, "finite"),
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
    assert {name for name in REWARDS if needs_target(name)} == {"l1_exact", "l1_max"}
    with pytest.raises(InputError, match="'reward' has the value 'l1'"):
        needs_target("l1")
