"""Opening a model for inference: its weights, threads, layers, and what it says of itself while it generates."""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import Accelerator
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from secateur.engines.local.kv_cache import GROUPED_ATTENTION
from secateur.engines.model_files import check_cache_layers, check_model_folder
from secateur.engines.registry import check_dtype
from secateur.runtime.errors import InputError
from secateur.runtime.process import current_ranks


def load_model(path: str | Path, dtype: str, device: torch.device) -> PreTrainedModel:
    """A causal language model from a folder or a hub id, ready for inference.

    Raises `InputError` for a folder without config.json or weights, an unknown dtype, a model that is not causal.
    """
    check_dtype("transformers", dtype)
    check_model_folder(path)
    try:
        config = AutoConfig.from_pretrained(path)
        check_cache_layers(config, str(path))
        model = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=getattr(torch, dtype), attn_implementation=_attention_for(config)
        )
    except UnpicklingError:
        raise InputError(f"{path}: its weights hold more than tensors, which might run; give safetensors") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be loaded as a causal language model ({error})") from None
    return model.to(device).eval()


class PackedLinear(torch.nn.Module):
    """A linear layer for inference in bfloat16 on a CPU, its matrix [out, in] in the order in which oneDNN reads it.

    `torch.nn.Linear` puts it into that order again in every call, which for few rows takes longer than the product:
    measured, it is 3 times as slow at 1 row, 1.6 times at 16, 1.1 times at 128. The results are the same bits.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        # the one thing that code outside a layer asks of it is the type of its weights
        self.weight = torch.nn.Parameter(layer.weight.detach().to("meta"), requires_grad=False)
        self.bias = layer.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(values, self._packed, self.bias, "none", [], "")


@torch.no_grad()
def pack_linear_layers(model: PreTrainedModel) -> bool:
    """Make every linear layer of a bfloat16 model on a CPU a `PackedLinear`, for inference alone; False where that is
    not possible, and nothing is changed. A tied output layer then has a copy of its own."""
    fits = model.device.type == "cpu" and model.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
    if not fits or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is torch.nn.Linear:
                setattr(parent, name, PackedLinear(layer))
    return True


_ROWS = 16  # of a measured step
_PAIRS = 3  # measured steps with each number of threads
_CLEARLY = 1.2  # times as fast: threads that wait for one that is not scheduled cost far more than they gain


def choose_threads(model: PreTrainedModel) -> str | None:
    """Let torch use one thread or all cores, whichever takes a decode step of `model` in less time, and say which.

    None, and nothing is changed, where the user (OMP_NUM_THREADS) or a launch of several processes decides, on a GPU
    and on one core. All cores are taken if they are clearly faster in every one of a few steps done in turn: beside
    another busy process, two threads were ten times slower than one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    decided = "OMP_NUM_THREADS" in os.environ or current_ranks().world_size > 1
    if decided or cores == 1 or model.device.type != "cpu":
        return None
    one, all_ = zip(*((_step_seconds(model, 1), _step_seconds(model, cores)) for _ in range(_PAIRS + 1)), strict=True)
    faster = min(a / b for a, b in zip(one[1:], all_[1:], strict=True)) > _CLEARLY  # the first ones warm up
    torch.set_num_threads(cores if faster else 1)
    times = f"a step of {_ROWS} rows takes {1e3 * statistics.median(one[1:]):.3g} ms with 1 thread and "
    times += f"{1e3 * statistics.median(all_[1:]):.3g} ms with {cores}"
    return f"engine: {times}, so it uses {cores if faster else 1} (OMP_NUM_THREADS or `threads` decide otherwise)"


@torch.inference_mode()
def _step_seconds(model: PreTrainedModel, threads: int) -> float:
    torch.set_num_threads(threads)
    begin = time.perf_counter()
    model(input_ids=torch.zeros(_ROWS, 1, dtype=torch.long), use_cache=False)
    return time.perf_counter() - begin


def keep_special_tokens_only(model: PreTrainedModel) -> None:
    """Of the model's generation settings leave the special tokens. The rest would leak into every `generate` that
    does not name it (a published `min_new_tokens`), and settings that contradict one another, as some published
    models have them, cannot be saved."""
    published = getattr(model, "generation_config", None)
    if published is not None:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        model.generation_config = GenerationConfig(**{name: getattr(published, name) for name in names})


def reduce_gradients_in_place(accelerator: Accelerator) -> None:
    """DDP sums the gradients where they lie, not in buckets of their own: on every process one copy of them less. To
    be called before the model is wrapped."""
    if accelerator.ddp_handler is not None:
        accelerator.ddp_handler.gradient_as_bucket_view = True


@torch.no_grad()
def read_states(
    model: PreTrainedModel, prompt: Sequence[int], traces: Sequence[Sequence[int]], layers: Sequence[int]
) -> list[torch.Tensor]:
    """The hidden states that an engine captures while it generates `traces` (token ids) after `prompt`, read in one
    pass: of each trace fp16 [tokens, layers, hidden]."""
    longest = max(map(len, traces))
    rows = [
        [*prompt, *trace, *[0] * (longest - len(trace))] for trace in traces
    ]  # what is behind a token is not seen
    found = model.base_model(torch.tensor(rows, device=model.device), output_hidden_states=True, use_cache=False)
    stacked = torch.stack([found.hidden_states[layer][:, len(prompt) :] for layer in layers], dim=2).half().cpu()
    return [stacked[row, : len(trace)].clone() for row, trace in enumerate(traces)]


def _attention_for(config: PreTrainedConfig) -> str | None:
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", 0)
    groups = getattr(text, "num_key_value_heads", None)
    return GROUPED_ATTENTION if groups and heads > groups else None
