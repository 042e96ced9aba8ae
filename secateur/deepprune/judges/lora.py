"""Language models that judges fine-tune: with low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) through peft, or
with all their weights.

A trained judge is saved merged: one plain model folder that needs neither peft nor the model it came from. That costs
the disk space of the whole model (2 bytes per parameter in bfloat16, so 8 GB for 4B) instead of some ten MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from secateur.deepprune.judges.kind import JudgeKeys
from secateur.engines.models import keep_special_tokens_only
from secateur.runtime.errors import InputError


@dataclass(frozen=True)
class LoraShape:
    """Keys `lora_*` of the judge's configuration; `targets` are module names, or "all-linear" for every linear map
    but the output layer. What the adapters compute is multiplied by `alpha / rank`."""

    rank: int
    alpha: float
    dropout: float
    targets: str | Sequence[str]


def lora_shape(keys: JudgeKeys) -> LoraShape | None:
    """None where all weights are trained."""
    if not keys.lora_rank:
        return None
    return LoraShape(keys.lora_rank, keys.lora_alpha, keys.lora_dropout, keys.lora_targets)


def trainable(model: PreTrainedModel, keys: JudgeKeys) -> nn.Module:
    """The language model as it is trained: with adapters, with recomputed activations, or as it is."""
    if keys.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    shape = lora_shape(keys)
    return model if shape is None else add_lora(model, shape)


def save_language_model(model: nn.Module, folder: Path) -> None:
    """A plain model folder, adapters merged in. The model itself goes on training unmerged."""
    plain, weights = _plain_model(model)
    keep_special_tokens_only(plain)
    plain.save_pretrained(folder, state_dict=weights)


def add_lora(model: PreTrainedModel, shape: LoraShape) -> nn.Module:
    """Freeze the model and give it adapters, which start without effect. Raises `InputError` for unknown targets."""
    from peft import LoraConfig, get_peft_model

    targets = shape.targets if isinstance(shape.targets, str) else list(shape.targets)
    config = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, lora_dropout=shape.dropout, target_modules=targets)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"key 'lora_targets' has the value {shape.targets!r}: {error}") from None


def _plain_model(model: nn.Module) -> tuple[PreTrainedModel, dict[str, torch.Tensor] | None]:
    """What `save_pretrained` needs: the transformers model, and its weights with the adapters merged in (on the CPU,
    in the model's dtype). None where there are no adapters."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model, None
    base = model.get_base_model()
    weights = _merged_weights(base)
    for name, value in base.state_dict().items():
        clean = name.replace(".base_layer.", ".")
        if ".lora_" not in name and clean not in weights:
            weights[clean] = value.detach().cpu()
    return base, weights


def _merged_weights(base: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Those of the maps that have an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    weights = {}
    for name, layer in base.named_modules():
        if isinstance(layer, BaseTunerLayer):
            weight = layer.get_base_layer().weight
            change = layer.get_delta_weight("default").to(weight.device)
            weights[f"{name}.weight"] = (weight.float() + change.float()).to(weight.dtype).detach().cpu()
    return weights
