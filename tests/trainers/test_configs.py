"""Every training and launch config is resolved as a launch would resolve it, without a Hub and without a GPU."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewards.registry import check_reward
from schedules.config import read_run_config
from secateur.engines.memory import read_shape, total_bytes
from secateur.engines.registry import check_options
from secateur.runtime.launch_file import LaunchFile, read_launch_file
from secateur.tasks.hub_sets import HUB_SETS
from secateur.tasks.sources import split_source
from tests.real_models import DECODERS, write_config_folder
from trainers.dry_run.memory import colocated_room, peak
from trainers.dry_run.report import make_setting
from trainers.grpo.adapters import adapter_shape
from trainers.grpo.handover import check_launch
from trainers.grpo.keys import batch_sizes, make_grpo_config, trainer_values

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINING = sorted(path.stem for path in (ROOT / "configs/thinkprune").glob("*.yaml"))
LAUNCHES = sorted(path.name for path in (ROOT / "configs/accelerate").glob("*.yaml"))
# The launch that the header of a config names; all others are for 8 GPUs under ZeRO-2.
MEANT_FOR = {
    "r1_distill_qwen_7b": "zero3.yaml",
    "qwq_32b": "zero3_multinode.yaml",
    "r1_distill_qwen_1.5b_lora": "single_gpu.yaml",
    "r1_distill_qwen_7b_qlora": "single_gpu.yaml",
}
MODEL_OF = {
    name: name.removesuffix("_qlora") for name in ("r1_distill_qwen_7b", "r1_distill_qwen_7b_qlora", "qwq_32b")
}


def resolve(name: str, *overrides: str, launch: str | None = None) -> tuple[Any, dict[str, Any], LaunchFile]:
    config = read_run_config(["--config", str(ROOT / f"configs/thinkprune/{name}.yaml"), *overrides])
    file = ROOT / "configs/accelerate" / (launch or MEANT_FOR.get(name, "zero2.yaml"))
    return config, trainer_values(config), read_launch_file(str(file))


@pytest.mark.parametrize("name", TRAINING)
def test_training_configs_resolve(name, tmp_path) -> None:
    config, values, launch = resolve(name)
    batches = batch_sizes(values, launch.processes, name)
    schedule = config.schedule
    assert batches.steps_per_batch == 1, "one optimiser step per generation batch, as in the paper"
    check_reward(schedule.reward, schedule.reward_options, values["num_generations"], schedule.limits)
    assert schedule.prompt.prompt_family == schedule.prompt_family
    check_options(schedule.validation_engine, schedule.validation_engine_options)
    for source in (schedule.problems, schedule.validation_problems, *schedule.decontaminate):
        assert set(split_source(source)) <= set(HUB_SETS), source
    assert set(split_source(schedule.validation_problems)) <= set(split_source("+".join(schedule.decontaminate)))
    whole = {"per_device_train_batch_size": batches.prompts * values["num_generations"], "use_cpu": True}
    for round_ in schedule.rounds:
        arguments = make_grpo_config(values | whole, config, round_, tmp_path)
        assert (arguments.max_completion_length, arguments.beta) == (round_.limit, values["beta"])


@pytest.mark.parametrize("name", ["r1_distill_qwen_1.5b", "r1_distill_qwen_7b", "deepscaler_1.5b", "qwq_32b"])
def test_the_papers_settings(name) -> None:
    """facts of the released scripts: 128 × 16, lr 1e-6 constant, KL and entropy 0.001, clip 0.2, Adam's betas."""
    config, values, launch = resolve(name)
    assert batch_sizes(values, launch.processes, name).prompts == 128
    wanted = {
        "num_generations": 16,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "beta": 0.001,
        "entropy_coef": 0.001,
        "epsilon": 0.2,
        "loss_type": "bnpo",
        "per_device_train_batch_size": 4,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
        "adam_beta2": 0.999,
        "temperature": 1.0,
        "save_steps": 20,
    }
    assert {key: values[key] for key in wanted} == wanted
    schedule = config.schedule
    assert (schedule.limits, schedule.steps_per_round, schedule.seed) == ([4000, 3000, 2000], 180, 42)
    prompts = (1024, "qwen") if "qwq" in name else (768, "deepseek")
    assert (schedule.max_prompt_tokens, schedule.prompt_family) == prompts


@pytest.mark.parametrize("name", TRAINING)
def test_training_configs_fit_the_gpus_they_are_written_for(name, tmp_path) -> None:
    config, values, launch = resolve(name)
    folder = write_config_folder(tmp_path / "model", MODEL_OF.get(name, "r1_distill_qwen_1.5b"))
    tokens = config.schedule.max_prompt_tokens + max(config.schedule.limits)
    adapters = adapter_shape(dataclasses.replace(config.schedule, model=str(folder)))
    setting = make_setting(read_shape(str(folder)), values, launch, tokens, config.schedule.gpu_memory_gib, adapters)
    check_launch(config.schedule, values, launch.stage)
    assert total_bytes(peak(setting)) < 0.95 * setting.device_bytes
    if setting.sampler == "colocate":
        assert colocated_room(setting)[0] >= 16, "a group at full length at once"


def test_the_control_differs_in_nothing_but_the_limit() -> None:
    pruned, control = (resolve(name)[0] for name in ("r1_distill_qwen_1.5b", "control_r1_distill_qwen_1.5b"))
    keys = pruned.resolved().keys() | control.resolved().keys()
    differing = {key for key in keys if pruned.resolved().get(key) != control.resolved().get(key)}
    batch = {"per_device_train_batch_size", "gradient_accumulation_steps"}
    assert differing == {"limits", "steps_per_round", "output_dir", "save_steps"} | batch
    assert control.schedule.limits == [control.schedule.validation_max_tokens]
    steps = [sum(round_.max_steps for round_ in run.schedule.rounds) for run in (pruned, control)]
    assert steps[0] == steps[1]


@pytest.mark.parametrize("launch", ["single_gpu.yaml", "single_gpu_offload.yaml"])
def test_one_gpu_takes_the_same_file_with_one_override(launch, tmp_path) -> None:
    _, values, file = resolve("r1_distill_qwen_1.5b", "--gradient_accumulation_steps", "512", launch=launch)
    batches = batch_sizes(values, file.processes, launch)
    assert (file.processes, batches.prompts, batches.steps_per_batch) == (1, 128, 1)
    shape = read_shape(str(write_config_folder(tmp_path / "model", "r1_distill_qwen_1.5b")))
    needed = total_bytes(peak(make_setting(shape, values, file, 4768, 79.0)))
    assert needed < 79 * 2**30


@pytest.mark.parametrize("name", LAUNCHES)
def test_launch_configs_are_understood(name) -> None:
    launch = read_launch_file(str(ROOT / "configs/accelerate" / name))
    values = yaml.safe_load((ROOT / "configs/accelerate" / name).read_text(encoding="utf-8"))
    stages = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3_multinode": 3, "zero3_offload": 3, "single_gpu_offload": 2}
    assert launch.stage == stages.get(Path(name).stem, 0)
    assert launch.machines == (4 if "multinode" in name else 1)
    assert values["deepspeed_config"]["deepspeed_multinode_launcher"] == "standard" if launch.stage else True
    assert "gradient_accumulation_steps" not in values.get("deepspeed_config", {}), "it comes from the run's config"


@pytest.mark.parametrize("name", LAUNCHES)
def test_accelerate_takes_the_launch_configs(name, monkeypatch) -> None:
    """Accelerate's own parser and checks, up to the point where it would start processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    for variable in ("ACCELERATE_USE_CPU",):
        monkeypatch.delenv(variable, raising=False)
    command = ["--config_file", str(ROOT / "configs/accelerate" / name), "--main_process_ip", "node0", "train.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    expected = read_launch_file(str(ROOT / "configs/accelerate" / name))
    assert (arguments.num_processes, arguments.num_machines) == (expected.processes, expected.machines)
    assert bool(arguments.use_deepspeed) == bool(expected.stage)
    if expected.stage:
        assert arguments.zero_stage == expected.stage
    if expected.stage == 3:
        assert arguments.zero3_save_16bit_model is True


def test_the_architectures_are_those_of_the_configs() -> None:
    assert set(MODEL_OF.values()) <= set(DECODERS)
