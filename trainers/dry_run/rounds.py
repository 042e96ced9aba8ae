"""What a run will do, in numbers: steps, prompts, epochs, tokens, checkpoints and their size, samples to validate."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from schedules.rounds import Round
from secateur.engines.memory import GIB, ModelShape, total_bytes
from secateur.runtime.files import JSON
from secateur.runtime.launch_file import LaunchFile
from trainers.dry_run.memory import Precision, Setting, peak

if TYPE_CHECKING:
    from trainers.grpo.job import BatchSizes

# While a round trains, its two newest checkpoints keep their training state (trainers/grpo/checkpoints.py) and a
# third is being written.
STATES_ON_DISK = 3


@dataclass(frozen=True)
class RoundPlan:
    """`epochs`: passes over the training problems; `tokens`: of all completions, if each reached the limit."""

    round: Round
    prompts: int
    completions: int
    epochs: float
    checkpoints: int
    validated: int  # samples to validate
    tokens: int


def plan_rounds(
    rounds: Sequence[Round], batches: "BatchSizes", values: Mapping[str, JSON], problems: int, samples_per_model: int
) -> list[RoundPlan]:
    """The start model is sampled before the choice of round 1; later rounds know its figures."""
    plans = []
    for round_ in rounds:
        prompts = batches.rows(round_.max_steps)
        completions = prompts * values["num_generations"]
        saved = -int(-round_.max_steps // values["save_steps"])  # the Trainer saves the last step in any case
        models = saved + (1 if round_.index == 1 else 0)
        tokens = completions * round_.limit
        plans.append(
            RoundPlan(round_, prompts, completions, prompts / problems, saved, models * samples_per_model, tokens)
        )
    return plans


def precision_of(values: Mapping[str, JSON], launch: LaunchFile) -> Precision:
    """TRL computes in bf16 unless told otherwise; only DeepSpeed keeps 32-bit weights beside 16-bit ones."""
    sixteen = values.get("bf16", not values.get("fp16")) or bool(values.get("fp16"))
    if not sixteen:
        return "float32"
    if launch.stage:
        return "bf16"
    given = (values.get("model_init_kwargs") or {}).get("dtype", "float32")
    return "mixed" if given == "float32" else "pure_bf16"


def make_setting(
    shape: ModelShape, values: Mapping[str, JSON], launch: LaunchFile, tokens: int, gpu_gib: float
) -> Setting:
    rows = values["per_device_train_batch_size"]
    passes = values.get("steps_per_generation") or values["gradient_accumulation_steps"]
    if values.get("generation_batch_size"):
        passes = values["generation_batch_size"] // (rows * launch.processes)
    sampler: Literal["transformers", "colocate", "server"] = "transformers"
    if values.get("use_vllm"):
        sampler = values.get("vllm_mode", "colocate")
    return Setting(
        shape=shape,
        processes=launch.processes,
        stage=launch.stage,
        precision=precision_of(values, launch),
        offload_optimizer=launch.offload_optimizer,
        offload_parameters=launch.offload_parameters,
        checkpointing=bool(values.get("gradient_checkpointing", True)),
        reference=values["beta"] != 0,
        rows=rows,
        tokens=tokens,
        sampled_rows=rows * passes,
        sampler=sampler,
        share=values.get("vllm_gpu_memory_utilization", 0.3),
        sleep=bool(values.get("vllm_enable_sleep_mode")),
        tensor_parallel=values.get("vllm_tensor_parallel_size", 1),
        gpu_bytes=gpu_gib * GIB,
    )


def remedies(setting: Setting) -> list[tuple[str, float]]:
    """What could be changed, and the peak [bytes] after each change alone; those that help, best first."""
    changes: list[tuple[str, dict[str, object]]] = []
    if setting.sampler == "colocate" and not setting.sleep:
        changes.append(("vllm_enable_sleep_mode: true", {"sleep": True}))
    if setting.sampler == "transformers":
        changes.append(("use_vllm: true, or a smaller generation batch", {"sampler": "server"}))
    if setting.rows % 2 == 0:
        halved = f"per_device_train_batch_size: {setting.rows // 2}, with twice the gradient_accumulation_steps"
        changes.append((halved, {"rows": setting.rows // 2}))
    if not setting.checkpointing:
        changes.append(("gradient_checkpointing: true", {"checkpointing": True}))
    if setting.reference:
        changes.append(("beta: 0 (no reference model)", {"reference": False}))
    if setting.processes > 1:
        sharded = {"precision": "bf16"} if setting.precision in ("mixed", "pure_bf16") else {}
        names = {1: "zero1.yaml", 2: "zero2.yaml", 3: "zero3.yaml"}
        changes += [
            (f"configs/accelerate/{names[stage]}", {"stage": stage, **sharded})
            for stage in range(setting.stage + 1, 4)
        ]
    elif not setting.offload_optimizer:
        offloaded = {"stage": 2, "offload_optimizer": True, "precision": "bf16"}
        changes.append(("configs/accelerate/single_gpu_offload.yaml", offloaded))
    now = total_bytes(peak(setting))
    after = [(words, total_bytes(peak(replace(setting, **change)))) for words, change in changes]
    return sorted(((words, size) for words, size in after if size < now), key=lambda entry: entry[1])


@dataclass(frozen=True)
class DiskPlan:
    """Bytes: a checkpoint's model, its training state, and the most that the run folder holds at one moment."""

    weights: float
    state: float
    peak: float
    end: float


def checkpoint_bytes(setting: Setting) -> tuple[float, float]:
    """Model and training state of one checkpoint.

    DeepSpeed writes the 32-bit weights and both moments of Adam (12 bytes a parameter) and, below ZeRO-3, the whole
    model once more; there the model is saved with its output matrix even if that is the input matrix. Without
    DeepSpeed the state is Adam's moments. Tests compare with real checkpoints.
    """
    total = setting.shape.parameters
    width = 2 if setting.precision in ("bf16", "pure_bf16") else 4
    if setting.stage == 0:
        return width * total, 2 * width * total
    if setting.stage == 3:
        return width * total, 12 * total
    doubled = setting.shape.vocabulary * setting.shape.hidden if setting.shape.tied else 0
    return width * (total + doubled), (12 + width) * total


def plan_disk(setting: Setting, rounds: Sequence[RoundPlan], keep: str) -> DiskPlan:
    """Training state of a decided round is dropped; with `keep: chosen`, also its models but the chosen one."""
    weights, state = checkpoint_bytes(setting)
    kept = [weights * (entry.checkpoints if keep == "all" else 1) for entry in rounds]
    before = [0.0, *itertools.accumulate(kept)]
    during = [
        held + entry.checkpoints * weights + min(entry.checkpoints, STATES_ON_DISK) * state
        for held, entry in zip(before, rounds, strict=False)
    ]
    end = before[-1] + weights
    return DiskPlan(weights, state, max(*during, end), end)
