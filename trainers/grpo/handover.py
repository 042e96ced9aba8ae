"""What a round hands on is a plain model: where its weights lie, what share of them moved, and in how many bits.

DeepSpeed saves weights in the 16 bits that it computes with, where small steps vanish. With `float32_handover` its
own 32-bit weights are put in their place, and are what the next round begins with. adapters.py merges adapters.
"""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from schedules.config import ScheduleConfig
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json, write_json
from secateur.runtime.process import current_ranks

if TYPE_CHECKING:
    from trl import GRPOTrainer

INDEX = "model.safetensors.index.json"


def check_launch(schedule: ScheduleConfig, values: Mapping[str, JSON], stage: int) -> None:
    """Raises `InputError` for what does not go together with TRL's `values` or ZeRO `stage` (0 without DeepSpeed)."""
    if schedule.load_in_4bit and values.get("use_vllm"):
        raise InputError(
            "key 'load_in_4bit' has the value true beside use_vllm: true, but TRL 1.16 sends vLLM the packed numbers "
            "(its issue 4973); set use_vllm: false, or load_in_4bit: false with model_init_kwargs: {dtype: bfloat16}"
        )
    if schedule.load_in_4bit and stage:
        raise InputError(
            "key 'load_in_4bit' has the value true, but DeepSpeed cannot hold weights in 4 bits; launch without it "
            "(configs/accelerate/single_gpu.yaml): adapters leave it next to nothing to share out"
        )
    if schedule.use_peft and stage == 3:
        raise InputError(
            "key 'use_peft' has the value true, but adapters were never tried under ZeRO-3; launch zero2.yaml, or "
            "set use_peft: false"
        )
    if not schedule.float32_handover or schedule.use_peft:
        return
    if not stage and (values.get("model_init_kwargs") or {}).get("dtype", "float32") != "float32":
        raise InputError(
            "key 'float32_handover' has the value true, but model_init_kwargs loads weights in 16 bits and nothing "
            "keeps others beside them; leave its dtype out, or launch DeepSpeed (zero2.yaml)"
        )
    if stage == 3:
        raise InputError(
            "key 'float32_handover' has the value true, but ZeRO-3 cannot be given 32-bit weights to begin with; "
            "launch zero2.yaml, with single_gpu_offload.yaml's offload if it does not fit, or leave it out"
        )


def stored_weights(folder: Path) -> dict[str, Path]:
    """Tensor → the safetensors file of a model folder that holds it; empty for a folder with none."""
    if (folder / INDEX).is_file():
        return {name: folder / file for name, file in read_json(folder / INDEX)["weight_map"].items()}
    if not (folder / "model.safetensors").is_file():
        return {}
    with safe_open(folder / "model.safetensors", framework="pt") as handle:
        return dict.fromkeys(handle.keys(), folder / "model.safetensors")


def stored_width(folder: Path) -> int | None:
    """Bytes of a number in the files of a model folder, whatever its config.json says; None without."""
    stored = stored_weights(folder)
    return next((_tensor(file, name).element_size() for name, file in stored.items()), None)


def weights_folder(model: str, revision: str | None = None) -> Path:
    """The folder of a model that has been loaded: itself, or where the Hub's cache has it."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model).is_dir():
        return Path(model)
    found = try_to_load_from_cache(model, "config.json", revision=revision)
    assert isinstance(found, str), f"{model} was loaded, but is not in the Hub's cache"
    return Path(found).parent


def copy_config(start: Path, target: Path, dtype: torch.dtype | None) -> None:
    """The config.json of the model folder `start`, for weights of `dtype` (None: of the same)."""
    values = read_json(start / "config.json")
    if dtype is not None:
        values = {key: value for key, value in values.items() if key != "torch_dtype"}
        values["dtype"] = str(dtype).removeprefix("torch.")
    write_json(target / "config.json", values)


def moved_share(start: Path, result: Path) -> float | None:
    """The share (0-1) of the weights that differ between two model folders, in the coarser precision of both: what of
    a training reached its result at all. None if one of them holds no safetensors. A tensor is read at a time."""
    ours, theirs = stored_weights(start), stored_weights(result)
    moved = total = 0
    for name in ours.keys() & theirs.keys():
        one, other = _tensor(ours[name], name), _tensor(theirs[name], name)
        coarser = min(one.dtype, other.dtype, key=lambda dtype: torch.finfo(dtype).bits)
        moved += int((one.to(coarser) != other.to(coarser)).sum())
        total += one.numel()
    return moved / total if total else None


def _tensor(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as handle:
        return handle.get_tensor(name)


class Float32Weights(TrainerCallback):
    """Under DeepSpeed with 16-bit weights: begins with all bits of the start model, and puts DeepSpeed's own 32-bit
    weights into every checkpoint. `start`: folder of the weights that the round begins with."""

    def __init__(self, trainer: "GRPOTrainer", start: Path) -> None:
        self.trainer, self.start = trainer, start

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """DeepSpeed makes its 32-bit weights of those that it has rounded. A resume has them from its checkpoint."""
        from deepspeed.utils import safe_set_full_fp32_param

        if state.global_step:
            return
        stored = stored_weights(self.start)
        for name, parameter in self.trainer.model_wrapped.module.named_parameters():
            value = _tensor(stored[name], name)
            safe_set_full_fp32_param(parameter, value.to(parameter.device, torch.float32))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank's part of them is on disk
        if current_ranks().is_main:
            widen(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def widen(checkpoint: Path) -> None:
    """Replace the weights of a checkpoint of DeepSpeed by its 32-bit ones: file by file. Those that were not trained
    keep their value."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it reports progress
        exact = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint))
    stored = stored_weights(checkpoint)
    for file in set(stored.values()):
        names = [name for name, place in stored.items() if place == file]
        tensors = {name: exact.get(name, _tensor(file, name)).float().clone() for name in names}
        save_file(tensors, file.with_suffix(".unfinished"), metadata={"format": "pt"})
        file.with_suffix(".unfinished").replace(file)
    copy_config(checkpoint, checkpoint, torch.float32)
