"""TRL's keys in a schedule's YAML file: names, types, what we own, what must fit together. Messages name the key."""

import dataclasses
import functools
import importlib.util
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from schedules.config import RunConfig, ScheduleConfig, read_run_config
from schedules.rounds import Round
from secateur.engines.base import SamplingSpec
from secateur.runtime.commands import LAUNCH_ONLY, CommandHelp
from secateur.runtime.config import check_types, reject_unknown, take_options
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.launch_file import read_launch_file
from secateur.runtime.tracking import check_reporters
from secateur.tasks.sources import check_problems, check_source

if TYPE_CHECKING:
    from trl import GRPOConfig

TRL_KEYS = "TRL's keys"
"""How the help heads the keys that go through as they are."""

# Keys of GRPOConfig that the schedule sets; the reason is shown to a user who gives one.
_SEQUENCE = "a resume must see the prompts in their order"
OWNED = {
    "max_completion_length": "the limit of the round is the cap: set 'limits'",
    "mask_truncated_completions": "masked completions give no gradient, so the pressure of the limit would vanish",
    "max_steps": "set 'steps_per_round'",
    "num_train_epochs": "set 'steps_per_round'",
    "shuffle_dataset": f"the round's whole prompt order is written down beforehand: {_SEQUENCE}",
    "ignore_data_skip": _SEQUENCE,
    "data_seed": "set 'seed'",
    "remove_unused_columns": "the reward reads the gold answer from the dataset",
    "save_strategy": "checkpoints are the candidates of the choice: set 'save_steps'",
    "save_only_model": "a checkpoint without training state cannot be resumed",
    "save_total_limit": "every checkpoint is a candidate; training state of old ones is dropped by itself",
    "load_best_model_at_end": "the choice is made by the schedule, on the validation problems",
    "resume_from_checkpoint": "the newest complete checkpoint of the round is found by itself",
    "eval_strategy": "checkpoints are validated by eval/single.py",
    "do_eval": "checkpoints are validated by eval/single.py",
    "disable_tqdm": "progress is shown by the schedule",
    "auto_find_batch_size": "a batch that shrinks breaks the groups of completions",
    "generation_kwargs": "it would override the limit and the seeds: set temperature, top_p, top_k",
    # Our own keys push_to_hub, hub_model_id, hub_private_repo and hub_revision are not among the trainer's: a round's
    # trainer pushes nothing.
    "hub_strategy": "checkpoints are candidates, not results: push_to_hub uploads 'final' once, at the end",
    "hub_always_push": "push_to_hub uploads 'final' once, at the end",
    # Of trl.ModelConfig, whose other keys for adapters are ours.
    "use_dora": "its magnitudes are no sum of matrices, which the merge of each checkpoint adds up; leave it out",
    "lora_modules_to_save": "whole modules are no adapters; leave it out, or train all weights with use_peft: false",
    "lora_target_parameters": "the merge knows linear layers; set 'lora_target_modules'",
    "lora_task_type": "the model is always trained as a causal language model",
    "load_in_8bit": "set load_in_4bit: true, or leave both out",
    "fsdp": "its sharded checkpoints cannot be told whole from broken: launch DeepSpeed, zero3.yaml",
    "fsdp_config": "its sharded checkpoints cannot be told whole from broken: launch DeepSpeed, zero3.yaml",
    "bnb_4bit_quant_storage": "only FSDP needs it, which is not launched here",
}
# TRL's defaults that matter to the method, and the paper's settings, pinned against a change of versions.
PINNED: dict[str, JSON] = {
    "learning_rate": 1e-6,
    # As in the paper's scripts.
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "beta": 0.0,
    "loss_type": "dapo",
    "scale_rewards": "group",
    "epsilon": 0.2,
    "num_iterations": 1,
    "num_generations": 8,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "vllm_mode": "colocate",
    "vllm_importance_sampling_correction": True,
    # TRL's default `sequence_mask` drops completions whose ratio leaves its bounds, the longest ones first.
    "vllm_importance_sampling_mode": "token_truncate",
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_tensor_parallel_size": 1,
    "vllm_enable_sleep_mode": False,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    # Checkpoints are the candidates of the choice.
    "save_steps": 20,
    # Every step stands in train.jsonl.
    "logging_steps": 1,
    "report_to": "none",
    # Every parameter has a gradient; DDP need not look for others.
    "ddp_find_unused_parameters": False,
}


# What batches and epochs are divided by.
_COUNTS = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "num_iterations"),
    *("generation_batch_size", "steps_per_generation", "vllm_tensor_parallel_size"),
)
_NOT_NEGATIVE = (
    *("learning_rate", "weight_decay", "max_grad_norm", "beta", "epsilon", "epsilon_high", "delta", "min_p"),
    *("repetition_penalty", "warmup_steps", "adam_epsilon"),
)
# What TRL looks at only once it trains.
CHOICES: dict[str, tuple[JSON, ...]] = {
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}


# Types as the help writes them; classes of transformers' own are left to TRL, but for enumerations.
_TOLD: Mapping[str, object] = {
    **{"bool": bool, "int": int, "float": float, "str": str, "null": type(None), "false": Literal[False]},
    **{"dict": dict, "dict[str, Any]": dict[str, Any], "dict[str, bool]": dict[str, bool]},
    **{"list[str]": list[str], "list[float]": list[float]},
}
_VALUES = re.compile(r"\w+(, \w+)+")


@dataclass(frozen=True)
class BatchSizes:
    """`prompts` per generation batch; `steps_per_batch` optimiser steps that use one generation batch."""

    prompts: int
    steps_per_batch: float

    def rows(self, max_steps: int) -> int:
        """Prompts that a round of `max_steps` optimiser steps consumes."""
        return self.prompts * -int(-max_steps // self.steps_per_batch)


def check_command(told: CommandHelp, words: Sequence[str]) -> None:
    """What can be said of the command line of a schedule, or of one of its launches, without TRL, which takes seconds
    to load: `told` has the types of its keys. Raises `InputError` as the launch would."""
    argv, launch = take_options(words, [name[2:] for name in told.names_under(LAUNCH_ONLY)])
    config = read_run_config(argv)
    _check_sources(config.schedule)
    values = checked_values(config, told_keys(told))
    check_reporters(values["report_to"])
    file, given = launch.get("accelerate_config"), launch.get("num_processes", "")
    launched = None if file is None else read_launch_file(file, int(given) if given.isdigit() else None)
    if launched is not None:
        batch_sizes(values, launched.processes, config.where)
    if not config.schedule.dry_run and (launched is None or launched.machines == 1):  # else it is not made here
        check_packages(values, launched.stage if launched else 0, config.schedule.load_in_4bit)


def _check_sources(schedule: ScheduleConfig) -> None:
    """All problems that a schedule names are there, as far as that is seen without loading them."""
    check_problems(schedule.problems, schedule.problem_count)
    check_problems(schedule.validation_problems, schedule.validation_count, "validation_count")
    for source in schedule.decontaminate:
        check_source(source)


def told_keys(told: CommandHelp) -> type:
    """A class with TRL's keys and the types that the help tells of them."""
    keys = [key for group in told.groups if group.title == TRL_KEYS for key in group.keys]
    return dataclasses.make_dataclass("TrlKeys", [(key.names[0][2:], _told_type(key.type)) for key in keys])


def _told_type(text: str) -> object:
    parts = [_TOLD.get(part) or _told_choice(part) for part in text.split(" or ")]
    return functools.reduce(operator.or_, parts) if all(parts) else Any


def _told_choice(text: str) -> object:
    """`linear, cosine`; None for what is no list of values."""
    return Literal[tuple(text.split(", "))] if _VALUES.fullmatch(text) else None


def trainer_values(config: RunConfig) -> dict[str, JSON]:
    """TRL's keys with their types checked, over our pinned defaults. Raises `InputError` naming the key."""
    from trl import GRPOConfig

    return checked_values(config, GRPOConfig)


def checked_values(config: RunConfig, keys: type) -> dict[str, JSON]:
    """The same with `keys`, a dataclass, for TRL's."""
    known = {field.name for field in dataclasses.fields(keys) if field.init}
    ours = {field.name for field in dataclasses.fields(ScheduleConfig)}
    takes, values = sorted((known - OWNED.keys()) | ours), dict(PINNED)
    for where in dict.fromkeys(map(config.where_of, config.trainer)):
        given = {key: value for key, value in config.trainer.items() if config.where_of(key) == where}
        for key in OWNED.keys() & given.keys():
            raise InputError(f"{where}: key '{key}' cannot be set: {OWNED[key]}")
        reject_unknown(list(given), takes, where)
        values |= check_types(keys, given, where)
    for key, choices in CHOICES.items():
        if key in values and values[key] not in choices:
            names = ", ".join(map(str, choices))
            raise InputError(
                f"{config.where_of(key)}: key '{key}' has the value {values[key]!r}; choose one of {names}"
            )
    _check_numbers(values, config)
    if values.get("use_vllm"):
        _fit_vllm_length(config, values)
    return values


def _check_numbers(values: Mapping[str, JSON], config: RunConfig) -> None:
    """Raises `InputError` for a number out of its range, which TRL would say only in training, or never."""
    for key in _COUNTS:
        if values.get(key) is not None and values[key] < 1:
            where = config.where_of(key)
            raise InputError(f"{where}: key '{key}' has the value {values[key]}; it must be at least 1")
    if values["num_generations"] == 1:
        raise InputError(
            f"{config.where_of('num_generations')}: key 'num_generations' has the value 1; it must be at least 2: "
            "the rewards of a prompt's completions are compared with each other"
        )
    for key in _NOT_NEGATIVE:
        if values.get(key) is not None and values[key] < 0:
            where = config.where_of(key)
            raise InputError(f"{where}: key '{key}' has the value {values[key]}; it must be 0 or more")
    SamplingSpec(top_p=values["top_p"], top_k=values["top_k"] or 0)  # which refuses what it cannot draw by
    if values["temperature"] <= 0:
        raise InputError(
            f"{config.where_of('temperature')}: key 'temperature' has the value {values['temperature']}; it must be "
            "above 0: greedy completions of one prompt are all the same, so nothing can be learned from their rewards"
        )


def _fit_vllm_length(config: RunConfig, values: dict[str, JSON]) -> None:
    """vLLM cuts a completion earlier than the limit when prompt and completion do not fit its model length."""
    needed = config.schedule.max_prompt_tokens + config.schedule.limit_range[1]
    if values.get("vllm_max_model_length") is None:
        values["vllm_max_model_length"] = needed
    given = values["vllm_max_model_length"]
    if given < needed:
        raise InputError(
            f"{config.where}: key 'vllm_max_model_length' has the value {given}, but max_prompt_tokens and "
            f"the largest limit need {needed}; raise it or leave it out"
        )


def batch_sizes(values: Mapping[str, JSON], processes: int, where: str) -> BatchSizes:
    """How completions are batched over `processes`.

    Raises `InputError` where groups would be torn apart, or where a checkpoint would fall between the optimiser
    steps of one generation batch (buffered completions are not saved, so a resume would train on others).
    """
    global_batch = values["per_device_train_batch_size"] * processes
    accumulation, generations = values["gradient_accumulation_steps"], values["num_generations"]
    if values.get("generation_batch_size") is not None and values.get("steps_per_generation") is not None:
        raise InputError(f"{where}: give 'generation_batch_size' or 'steps_per_generation', not both")
    passes = values.get("steps_per_generation") or accumulation
    batch = values.get("generation_batch_size") or global_batch * passes
    if batch % global_batch:
        raise InputError(
            f"{where}: key 'generation_batch_size' has the value {batch}, no multiple of "
            f"per_device_train_batch_size × processes = {global_batch}"
        )
    if batch % generations:
        raise InputError(
            f"{where}: a generation batch of {batch} completions ({processes} processes) is no multiple of "
            f"'num_generations' = {generations}; change per_device_train_batch_size, gradient_accumulation_steps or "
            "num_generations"
        )
    block = batch // global_batch * values["num_iterations"]
    save_steps = values["save_steps"]
    if save_steps < 1 or save_steps != int(save_steps) or int(save_steps) * accumulation % block:
        raise InputError(
            f"{where}: key 'save_steps' has the value {save_steps:g}; it must be a whole number, and save_steps × "
            f"gradient_accumulation_steps a multiple of steps_per_generation × num_iterations = {block}"
        )
    return BatchSizes(batch // generations, block / accumulation)


def make_grpo_config(values: Mapping[str, JSON], config: RunConfig, round_: Round, folder: Path) -> "GRPOConfig":
    """The arguments of one round. Raises `InputError` for a combination that TRL refuses."""
    from trl import GRPOConfig

    owned = {
        "output_dir": str(folder),
        "max_completion_length": round_.limit,
        "max_steps": round_.max_steps,
        "seed": config.schedule.seed + 1000 * round_.index,
        "mask_truncated_completions": False,
        "shuffle_dataset": False,
        "remove_unused_columns": False,
        "save_strategy": "steps",
        "disable_tqdm": True,
        "log_level": "error",
        "run_name": values.get("run_name") or f"{Path(config.schedule.output_dir).name}/{round_.name}",
    }
    try:
        return GRPOConfig(**{**values, "save_steps": int(values["save_steps"]), **owned})
    except ValueError as error:
        raise InputError(f"{config.where}: {error}") from None


def uneven_steps(loss_type: str, lowest: int, highest: int) -> str:
    """What is to be said of a loss that divides by the limit where that changes; empty for the others."""
    if loss_type != "dr_grpo" or lowest == highest:
        return ""
    return (
        f"key 'loss_type' has the value 'dr_grpo', which divides by the limit: the same tokens weigh "
        f"{highest / lowest:.1f} times as much at {lowest} as at {highest}, so the steps of later rounds are larger; "
        "set loss_type: dapo, bnpo or grpo, or train each round with a learning_rate of its own"
    )


def check_machine(
    values: Mapping[str, JSON], processes: int, stage: int, use_cpu: bool, four_bit: bool = False
) -> None:
    """Raises `InputError` where this machine lacks what a launch of so many `processes` on it needs: a GPU for each
    unless `use_cpu`, what TRL's `values` ask for, DeepSpeed for a ZeRO `stage` above 0, bitsandbytes for weights in
    four bits."""
    import torch

    gpus = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if processes > max(1, gpus) and not (use_cpu or values.get("use_cpu")):
        remedy = f"give --num_processes {gpus}" if gpus else "set use_cpu: true to train on CPUs (embedded model)"
        raise InputError(
            f"{processes} processes are to train on this machine, which has {gpus} usable GPUs; {remedy}"
        )
    check_packages(values, stage, four_bit)
    if values.get("use_liger_kernel") and not gpus:
        raise InputError("key 'use_liger_kernel' has the value true, but its kernels run on GPUs only; leave it out")


def check_packages(values: Mapping[str, JSON], stage: int, four_bit: bool = False) -> None:
    """Raises `InputError` for a package that is not installed: of what `check_machine` looks at, the part that can be
    said before torch is loaded."""
    eight_bit = "8bit" in str(values.get("optim", "")) and "torch" not in str(values["optim"])
    for package, extra, needed in (
        ("vllm", "vllm", bool(values.get("use_vllm"))),
        ("deepspeed", "deepspeed", stage > 0),
        ("bitsandbytes", "4bit", four_bit or eight_bit),
        ("liger_kernel", "liger", bool(values.get("use_liger_kernel"))),
    ):
        if needed and importlib.util.find_spec(package) is None:
            raise InputError(
                f"this launch needs {package}, which is not installed; `pip install -e '.[{extra}]'` in the folder "
                "of this project"
            )
