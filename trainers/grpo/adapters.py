"""LoRA and QLoRA: adapters train beside frozen weights, and every checkpoint is a plain model with its adapter merged
in.

    checkpoint-20/
        config.json, model-00001-of-00001.safetensors, model.safetensors.index.json, tokenizer…    the merged model
        default/                        the adapter, which a resume reads, and merge.json: what the merge changed
        optimizer.pt, …                 training state, as without adapters

The adapter lies in a folder of its name: transformers would add one that lies beside the weights to them once more,
and the Trainer reads one in a folder. For the same reason the merged weights are always in shards with an index: the
Trainer would take a model.safetensors for the weights to resume from and leave the adapter as it was initialised.

The merge adds the adapter to the weights on disk that the round started from, not to those in memory. In 4 bits these
lie in the middle of their cells, and a sum of less than half a cell, nearly all that is trained, would be lost when
the next round quantizes them. Weights on disk lie anywhere in their cells, so a small sum moves the right share.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rewards.trl_reward import LimitReward
from schedules.config import ScheduleConfig
from schedules.export import ADAPTER
from secateur.engines.memory import empty_model
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json, write_json
from secateur.runtime.process import current_ranks, return_freed_memory
from secateur.runtime.records import read_record, write_record
from secateur.tasks.prompts import Messages, encode_prompt
from trainers.grpo.handover import INDEX, copy_config, stored_weights, stored_width

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase
    from trl import GRPOTrainer

_MERGE, _MERGE_FORMAT = "merge.json", 1
_COMPLETIONS, _TOKENS = 8, 256  # that the merge is measured on, and of each


def peft_config(schedule: ScheduleConfig) -> "LoraConfig | None":
    """What TRL builds the adapters from; None where all weights are trained."""
    from peft import LoraConfig

    if not schedule.use_peft:
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=schedule.lora_r,
        lora_alpha=schedule.lora_alpha,
        lora_dropout=schedule.lora_dropout,
        target_modules=schedule.lora_target_modules,
        use_rslora=schedule.use_rslora,
    )


def quantization_config(schedule: ScheduleConfig, sixteen: bool) -> "BitsAndBytesConfig | None":
    """How the frozen weights are held in 4 bits; `sixteen`: what they are multiplied in, bfloat16 or float32."""
    from transformers import BitsAndBytesConfig

    if not schedule.load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if sixteen else torch.float32,
        bnb_4bit_quant_type=schedule.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=schedule.use_bnb_nested_quant,
    )


@dataclass(frozen=True)
class AdapterShape:
    """What adapters a model gets: the names of its `layers` that have one, and their `parameters` together; whether
    there is `dropout`; `quantized`: frozen parameters that are held in 4 bits; `stored_width`: bytes of a number of
    the model on disk."""

    layers: tuple[str, ...]
    parameters: int
    dropout: bool
    quantized: int
    stored_width: int

    def words(self, schedule: ScheduleConfig) -> str:
        kept = f", {self.quantized:,} frozen ones in 4 bits" if self.quantized else ""
        return f"rank {schedule.lora_r} in {len(self.layers)} layers, {self.parameters:,} parameters{kept}"


def adapter_shape(schedule: ScheduleConfig) -> AdapterShape | None:
    """Counted on the model without weights; None where all weights are trained. Raises `InputError` for targets that
    the model does not have, or that the merge does not know."""
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    config = peft_config(schedule)
    if config is None:
        return None
    where = f"key 'lora_target_modules' has the value {schedule.lora_target_modules!r}"
    network = empty_model(schedule.model)
    output = network.get_output_embeddings()
    try:
        model = get_peft_model(network, config).get_base_model()
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    layers = {name: layer.get_base_layer() for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    for name, layer in layers.items():
        if type(layer) is not nn.Linear or layer is output:
            raise InputError(
                f"{where}: '{name}' is {type(layer).__name__ if layer is not output else 'the output'}, "
                "but adapters are trained on linear layers within the model; leave it out"
            )
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    linear = [layer for layer in model.modules() if type(layer) is nn.Linear and layer is not output]
    quantized = sum(layer.weight.numel() for layer in linear if not layer.weight.requires_grad)
    width = stored_width(Path(schedule.model)) or getattr(model.config.dtype, "itemsize", 2)
    return AdapterShape(
        layers=tuple(layers),
        parameters=trained,
        dropout=schedule.lora_dropout > 0,
        quantized=quantized if schedule.load_in_4bit else 0,
        stored_width=width,
    )


def check_mergeable(start: Path, layers: Sequence[str]) -> None:
    """Raises `InputError` if the weights of `layers` do not lie in the model folder `start` by their own names:
    packed, as quantizations do it, or fused in memory."""
    stored = stored_weights(start)
    missing = next((name for name in layers if f"{name}.weight" not in stored), None)
    if missing is not None:
        raise InputError(
            f"{start}: holds no '{missing}.weight' in safetensors, which an adapter is to be merged into (packed or "
            "renamed weights?); take a model with plain weights, or set use_peft: false"
        )


class _Sums:
    """What the adapter in `folder` adds to the weights of the layers that it is for."""

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "adapter_config.json")
        rank = config["r"]
        self._scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as handle:
            names = handle.keys()
            self._parts = {name.removeprefix("base_model.model."): handle.get_tensor(name) for name in names}

    def added(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """`weight` [out, in] called `name`, with its sum added in 32 bits; itself if it has none."""
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" not in self._parts:
            return weight
        first, second = (self._parts[f"{layer}.lora_{part}.weight"].float() for part in "AB")
        return weight.float() + self._scale * (second @ first)


def merge(start: Path, adapter: Path, target: Path, dtype: torch.dtype | None = None) -> None:
    """Write the weights of the model folder `start`, with `adapter` added, into the folder `target`: shard by shard,
    in `dtype` or each in its own."""
    sums, shards = _Sums(adapter), defaultdict(list)
    for name, file in stored_weights(start).items():
        shards[file].append(name)
    places, total = {}, 0
    for number, (file, names) in enumerate(sorted(shards.items()), start=1):
        shard = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with safe_open(file, framework="pt") as handle:
            stored = {name: handle.get_tensor(name) for name in names}
        tensors = {name: sums.added(name, one).to(dtype or one.dtype) for name, one in stored.items()}
        save_file(tensors, target / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(names, shard)
        total += sum(tensor.nbytes for tensor in tensors.values())
    write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    copy_config(start, target, dtype)


@dataclass(frozen=True)
class MergeLoss:
    """What merging changed: log-probability [nats] of a token of sampled completions under the merged model less that
    under the model with its adapter beside it: `mean`, `mean_absolute` and `largest` over `tokens` tokens.

    Without 4 bits it is what rounding the sum to the precision on disk takes; with them, it is also the difference
    between the weights trained on and those on disk.
    """

    tokens: int
    mean: float
    mean_absolute: float
    largest: float

    @property
    def words(self) -> str:
        return (
            f"merged − unmerged, log-probability of a token: {self.mean:+.2e} on average, {self.mean_absolute:.2e} "
            f"in size, {self.largest:.2e} at most ({self.tokens} tokens)"
        )


def write_merge_loss(checkpoint: Path, loss: MergeLoss) -> None:
    write_record(checkpoint / ADAPTER / _MERGE, loss, _MERGE_FORMAT)


def read_merge_loss(checkpoint: Path) -> MergeLoss | None:
    """None for a checkpoint without an adapter."""
    folder = checkpoint / ADAPTER
    if not folder.is_dir():
        return None
    return read_record(folder / _MERGE, MergeLoss, _MERGE_FORMAT, f"delete {checkpoint} to save it again")


_BLOCK = 64  # weights that share a scale


def check_blocks(model: nn.Module) -> None:
    """Raises `InputError` where bitsandbytes 0.50 reads 4-bit weights wrongly: rows of no whole blocks, on CPUs."""
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if getattr(weight, "quant_state", None) is None or weight.device.type != "cpu":
            continue
        if layer.in_features % _BLOCK:
            raise InputError(
                f"key 'load_in_4bit' has the value true, but '{name}' has rows of {layer.in_features}, no multiple "
                f"of {_BLOCK}, which bitsandbytes reads wrongly on CPUs; train on a GPU, or set load_in_4bit: false"
            )


def keep_adapters_exact(model: nn.Module) -> None:
    """In 32 bits: TRL 1.16 rounds adapters beside 4-bit weights to 16, where steps of a small learning rate vanish.
    DeepSpeed holds 32-bit ones of its own."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


class LastCompletions:
    """`reward` itself, which remembers the beginnings of a few completions that it was last given, with their
    prompts [token ids]: what a merge is measured on."""

    def __init__(self, reward: LimitReward, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.reward, self.tokenizer, self.__name__ = reward, tokenizer, reward.__name__
        self._last: list[tuple[Messages, Sequence[int]]] = []

    def __call__(
        self, *, prompts: Sequence[Messages], completion_ids: Sequence[Sequence[int]], **columns: JSON
    ) -> list[float | None]:
        return_freed_memory()  # that of the generation, before the gradients
        self._last = list(zip(prompts, completion_ids, strict=True))[:: max(1, len(prompts) // _COMPLETIONS)]
        return self.reward(completion_ids=completion_ids, **columns)

    def sequences(self) -> Iterator[tuple[list[int], list[int]]]:
        """Prompt and completion."""
        for prompt, completion in self._last[:_COMPLETIONS]:
            yield encode_prompt(self.tokenizer, prompt), list(completion[:_TOKENS])


class Merging(TrainerCallback):
    """Makes each checkpoint that the Trainer has written a plain model; before the marker that says it is whole.

    start: folder of the weights that the round began with; dtype: what merged ones are stored in, None as those are;
    completions: what the merge is measured on.
    """

    def __init__(
        self, trainer: "GRPOTrainer", start: Path, dtype: torch.dtype | None, completions: LastCompletions
    ) -> None:
        self.trainer, self.start, self.dtype, self.completions = trainer, start, dtype, completions

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if current_ranks().is_main:  # which has all weights, up to ZeRO-2
            self._merge(checkpoint)
            loss = self.measure(checkpoint)
            write_merge_loss(checkpoint, loss)
            say(f"  step {state.global_step}: {loss.words}")

    def _merge(self, checkpoint: Path) -> None:
        adapter = checkpoint / ADAPTER
        adapter.mkdir()
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (checkpoint / name).rename(adapter / name)
        merge(self.start, adapter, checkpoint, self.dtype)
        base = self.trainer.accelerator.unwrap_model(self.trainer.model).get_base_model()
        base.generation_config.save_pretrained(checkpoint)

    def measure(self, checkpoint: Path) -> MergeLoss:
        """What the merge in `checkpoint` changed, on the completions that the model sampled last."""
        model, sequences = self.trainer.model, list(self.completions.sequences())
        with torch.no_grad(), self.trainer.accelerator.autocast(), _without_dropout(model):
            apart = [_log_probabilities(model, *one) for one in sequences]
            with _as_stored(model, checkpoint):
                merged = [_log_probabilities(model, *one) for one in sequences]
        change = torch.cat(merged) - torch.cat(apart)
        size = change.abs()
        return MergeLoss(change.numel(), change.mean().item(), size.mean().item(), size.max().item())


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """No random number is drawn, for a resume must not see that this was computed. The rest of the model stays in
    training mode: bitsandbytes packs 4-bit weights anew for inference on CPUs, and fails where rows are no whole
    blocks."""
    active = [layer for layer in model.modules() if isinstance(layer, nn.Dropout) and layer.training]
    for layer in active:
        layer.eval()
    try:
        yield
    finally:
        for layer in active:
            layer.train()


def _log_probabilities(model: nn.Module, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Of each token of `completion`, [tokens] in nats."""
    device = next(model.parameters()).device
    ids = torch.tensor([prompt + completion], device=device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].double().cpu()


@contextlib.contextmanager
def _as_stored(model: nn.Module, folder: Path) -> Iterator[None]:
    """Within it every layer with an adapter computes with its weight in `folder` alone. One is read at a time, so it
    takes no memory. Merging in place takes none either, but taking the sum off again does not restore every bit."""
    from peft.tuners.lora import LoraLayer

    stored, hooks = stored_weights(folder), []
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            hooks.append(_replace_output(layer, f"{name}.weight", stored[f"{name}.weight"]))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _replace_output(layer: nn.Module, name: str, file: Path) -> RemovableHandle:
    bias = layer.get_base_layer().bias

    def compute(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        with safe_open(file, framework="pt") as handle:
            weight = handle.get_tensor(name).to(inputs[0].device, inputs[0].dtype)
        return functional.linear(inputs[0], weight, bias).to(output.dtype)

    return layer.register_forward_hook(compute)
