import dataclasses
import importlib.util
import inspect
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig
from trl.trainer import grpo_trainer

from schedules.config import RunConfig, ScheduleConfig, read_run_config
from schedules.rounds import Round
from secateur.runtime.commands import read_help
from secateur.runtime.config import check_types
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, write_text
from trainers.grpo.data import prompt_order
from trainers.grpo.keys import (
    CHOICES,
    OWNED,
    PINNED,
    batch_sizes,
    check_machine,
    make_grpo_config,
    told_keys,
    trainer_values,
    uneven_steps,
)

SCHEDULE = ScheduleConfig(
    model="owner/model",
    output_dir="outputs/x",
    limits=[220],
    steps_per_round=4,
    problems="arithmetic:train",
    validation_problems="arithmetic:validation",
)
CPU = {"use_cpu": True, "bf16": False}


def run_config(**trainer) -> RunConfig:
    return RunConfig(SCHEDULE, trainer, "test.yaml")


@pytest.mark.parametrize("key", sorted(OWNED))
def test_keys_that_the_schedule_owns_are_refused_with_the_reason(key) -> None:
    with pytest.raises(InputError, match=f"key '{key}' cannot be set: {OWNED[key][:20]}"):
        trainer_values(run_config(**{key: 1}))


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"learning_rte": 1}, "unknown key 'learning_rte'; did you mean 'learning_rate'"),
        ({"limit": 1}, "unknown key 'limit'; did you mean 'limits'"),
        ({"learning_rate": "fast"}, "'learning_rate' has the value 'fast': expected float"),
        ({"num_generations": 2.5}, "'num_generations' has the value 2.5"),
        ({"use_vllm": True, "vllm_max_model_length": 900}, "'vllm_max_model_length' has the value 900.* need 988"),
        ({"temperature": 0}, "'temperature' has the value 0.0; it must be above 0: greedy"),
        ({"learning_rate": -1e-6}, "'learning_rate' has the value -1e-06; it must be 0 or more"),
        ({"beta": -1}, "'beta' has the value -1.0; it must be 0 or more"),
        ({"weight_decay": float("nan")}, "'weight_decay' has the value nan: expected float"),
        ({"top_p": 1.5}, "'top_p' has the value 1.5: expected a share above 0, at most 1"),
        ({"top_k": -5}, "'top_k' has the value -5: expected 0"),
        ({"num_generations": 0}, "'num_generations' has the value 0; it must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "'gradient_accumulation_steps' has the value 0; it must"),
        ({"per_device_train_batch_size": 0}, "'per_device_train_batch_size' has the value 0; it must"),
        ({"num_iterations": 0}, "'num_iterations' has the value 0; it must be at least 1"),
        ({"steps_per_generation": 0}, "'steps_per_generation' has the value 0; it must be at least 1"),
        ({"generation_batch_size": 0}, "'generation_batch_size' has the value 0; it must be at least 1"),
        ({"generation_kwargs": {"seed": 1}}, "'generation_kwargs' cannot be set"),
    ],
)
def test_wrong_keys_and_values_are_named(trainer, message) -> None:
    with pytest.raises(InputError, match=message):
        trainer_values(run_config(**trainer))


VALUES = ("few", -1, 0.5, True, None, [1.0], ["a"], {"a": 1}, {"a": True})


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_the_help_tells_the_types_of_trls_keys_as_trl_has_them(value: JSON) -> None:
    """So that a wrong value is refused without TRL; where the help knows less, anything may pass."""
    keys = told_keys(read_help()["schedules/run.py"])
    hints = typing.get_type_hints(keys)
    assert sum(hint is Any for hint in hints.values()) < 8 < 150 < len(hints)
    for key, hint in hints.items():
        refused = []
        for cls in (keys, GRPOConfig):
            try:
                check_types(cls, {key: value}, "test.yaml")
            except InputError:
                refused.append(cls)
        if refused == [keys]:  # a name that none of its choices has
            with pytest.raises(ValueError, match=f"'?{value}'? is not a valid"):
                GRPOConfig(**{key: value}, use_cpu=True, bf16=False)
        else:
            assert refused in ([], [keys, GRPOConfig]) or (refused == [GRPOConfig] and hint is Any), (key, value)


@pytest.mark.parametrize("key", ["optim", "lr_scheduler_type"])
def test_the_help_knows_every_name_that_trl_takes(key: str) -> None:
    hint = typing.get_type_hints(told_keys(read_help()["schedules/run.py"]))[key]
    (names,) = (one for one in typing.get_args(typing.get_type_hints(GRPOConfig)[key]) if one is not str)
    assert set(typing.get_args(hint)) == {name.value for name in names}


def test_a_value_that_trl_takes_is_blamed_on_where_it_was_given(tmp_path: Path) -> None:
    words = ["--config", "configs/demo/thinkprune.yaml"]
    typed = read_run_config([*words, "--epsilon", "-1"])
    with pytest.raises(InputError, match=r"^command line: key 'epsilon' has the value -1"):
        trainer_values(typed)
    write_text(tmp_path / "c.yaml", Path(words[1]).read_text() + "epsilon: -1\n")
    with pytest.raises(InputError, match=r"c\.yaml: key 'epsilon' has the value -1"):
        trainer_values(read_run_config(["--config", str(tmp_path / "c.yaml"), "--beta", "0.1"]))


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"per_device_train_batch_size": 6}, 2, "12 completions .* no multiple of 'num_generations' = 8"),
        ({"generation_batch_size": 24}, 2, "'generation_batch_size' has the value 24"),
        ({"generation_batch_size": 32, "steps_per_generation": 2}, 2, "not both"),
        ({"steps_per_generation": 4, "save_steps": 6}, 2, "'save_steps' has the value 6.* = 4"),
        ({"num_iterations": 2, "save_steps": 3}, 2, "'save_steps' has the value 3"),
        ({"save_steps": 0.5}, 2, "'save_steps' has the value 0.5"),
    ],
)
def test_batches_that_do_not_fit_are_named(changes, processes, message) -> None:
    with pytest.raises(InputError, match=message):
        batch_sizes(PINNED | changes, processes, "test.yaml")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 20))
def test_a_round_has_exactly_the_prompts_that_its_steps_use(per_device, processes, accumulation, iterations, steps):
    values = PINNED | {
        "per_device_train_batch_size": per_device * 8,
        "gradient_accumulation_steps": accumulation,
        "num_iterations": iterations,
        "save_steps": iterations,
    }
    sizes = batch_sizes(values, processes, "test.yaml")
    assert sizes.prompts == per_device * processes * accumulation
    batches = -(-steps // iterations)  # each generation batch serves `iterations` optimiser steps
    assert sizes.rows(steps) == sizes.prompts * batches


@pytest.mark.parametrize(
    ("values", "launch", "message"),
    [
        ({}, (4096, 0, False), "4096 processes are to train on this machine, which has .*(num_processes|use_cpu)"),
        ({"use_vllm": True}, (1, 0, True), "needs vllm, which is not installed; `pip install -e '.\\[vllm\\]'`"),
        ({}, (1, 2, True), "needs deepspeed, which is not installed; `pip install"),
    ],
)
def test_a_launch_that_this_machine_cannot_carry_is_refused(values, launch, message, monkeypatch) -> None:
    check_machine({}, 1, 0, False)
    check_machine({"use_cpu": True}, 4096, 0, False)
    check_machine({}, 4096, 0, True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as in an environment without extras
    with pytest.raises(InputError, match=message):
        check_machine(values, *launch)


def test_what_matters_to_the_method_reaches_trl() -> None:
    config = run_config(learning_rate=3e-4, per_device_train_batch_size=8, **CPU)
    arguments = make_grpo_config(trainer_values(config), config, Round(2, 160, 12), Path("/tmp/x"))
    assert (arguments.max_completion_length, arguments.max_steps, arguments.learning_rate) == (160, 12, 3e-4)
    assert (arguments.mask_truncated_completions, arguments.shuffle_dataset) == (False, False)
    assert (arguments.loss_type, arguments.beta, arguments.scale_rewards) == ("dapo", 0.0, "group")
    assert arguments.save_total_limit is None


@pytest.mark.parametrize("given", [{}, {"vllm_max_model_length": None}])
def test_vllm_gets_room_for_prompt_and_limit(given) -> None:
    values = trainer_values(run_config(use_vllm=True, **given))
    assert values["vllm_max_model_length"] == SCHEDULE.max_prompt_tokens + 220
    assert values["vllm_importance_sampling_mode"] == "token_truncate"


def test_what_trl_refuses_is_the_users_error() -> None:
    config = run_config(**CPU | {"bf16": True, "fp16": True})
    with pytest.raises(InputError, match="At most one of fp16 and bf16 can be True"):
        make_grpo_config(trainer_values(config), config, Round(1, 160, 12), Path("/tmp/x"))


@given(st.integers(1, 30), st.integers(1, 100), st.integers(0, 3))
def test_every_problem_is_seen_once_per_epoch(problems, rows, seed) -> None:
    order = prompt_order(problems, rows, seed, round_index=1)
    assert len(order) == rows
    for start in range(0, rows - problems + 1, problems):
        assert sorted(order[start : start + problems]) == list(range(problems))


def test_epochs_rounds_and_seeds_have_orders_of_their_own() -> None:
    order = prompt_order(50, 100, 0, 1)
    assert order[:50] != order[50:]
    assert order != prompt_order(50, 100, 1, 1)
    assert order != prompt_order(50, 100, 0, 2)
    assert order == prompt_order(50, 100, 0, 1)


@pytest.mark.parametrize("name", ["thinkprune", "control"])
def test_the_demo_configs_are_right(repository, monkeypatch, name) -> None:
    monkeypatch.chdir(repository)
    config = read_run_config(["--config", f"configs/demo/{name}.yaml"])
    sizes = batch_sizes(trainer_values(config), 2, name)
    assert (sizes.steps_per_batch, sizes.prompts) == (1, 12)


def test_the_control_differs_in_nothing_but_the_limit(repository, monkeypatch) -> None:
    monkeypatch.chdir(repository)
    pruned, control = (
        read_run_config(["--config", f"configs/demo/{name}.yaml"]) for name in ("thinkprune", "control")
    )
    differing = {
        key
        for key in pruned.resolved().keys() | control.resolved().keys()
        if pruned.resolved().get(key) != control.resolved().get(key)
    }
    assert differing == {"limits", "steps_per_round", "output_dir", "save_steps"}
    steps = [sum(round_.max_steps for round_ in run.schedule.rounds) for run in (pruned, control)]
    assert steps[0] == steps[1]
    assert control.schedule.limits == [control.schedule.validation_max_tokens]


def test_schedule_and_trainer_keys_do_not_overlap_by_accident() -> None:
    from trl import GRPOConfig

    both = {f.name for f in dataclasses.fields(GRPOConfig)} & {f.name for f in dataclasses.fields(ScheduleConfig)}
    pushed_by_the_driver = {"push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision"}
    assert both == {"output_dir", "seed"} | pushed_by_the_driver


def test_overrides_win_over_the_file(tmp_path) -> None:
    lines = (
        "model: owner/model\noutput_dir: x\nlimits: [9]\nsteps_per_round: 1\nproblems: p\nvalidation_problems: v\n"
    )
    write_text(tmp_path / "c.yaml", lines)
    config = read_run_config(["--config", str(tmp_path / "c.yaml"), "--limits", "300", "200", "--beta=0.1"])
    assert (config.schedule.limits, config.trainer) == ([300, 200], {"beta": 0.1})


def test_the_choices_that_are_checked_early_are_those_that_trl_knows() -> None:
    source = inspect.getsource(grpo_trainer)
    for key, known in CHOICES.items():
        assert all(f'"{name}"' in source for name in known if isinstance(name, str)), key
        assert PINNED.get(key, known[0]) in known
    compared = re.findall(r'loss_type (?:==|in) (\[[^]]*\]|"\w+")', source)
    assert set(re.findall(r'"(\w+)"', " ".join(compared))) == set(CHOICES["loss_type"])


def test_a_loss_that_divides_by_the_limit_is_warned_of_where_limits_change() -> None:
    """TRL's dr_grpo divides by max_completion_length: from 4000 to 2000 tokens its effective step doubles."""
    assert "2.0 times as much at 2000 as at 4000" in uneven_steps("dr_grpo", 2000, 4000)
    assert "set loss_type: dapo" in uneven_steps("dr_grpo", 2000, 4000)
    assert uneven_steps("dr_grpo", 4000, 4000) == uneven_steps("dapo", 2000, 4000) == ""
    source = inspect.getsource(grpo_trainer.GRPOTrainer._compute_loss)
    losses = source.split('self.loss_type == "dr_grpo"')[1].split("elif")[0]
    assert "self.max_completion_length" in losses and source.count("self.max_completion_length") == 1
