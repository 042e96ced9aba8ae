"""Opening a model folder for generation, and refusing early what the engine cannot run exactly."""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer

from secateur.engines.local.kv_cache import GROUPED_ATTENTION
from secateur.engines.registry import check_dtype
from secateur.runtime.errors import InputError
from secateur.runtime.hub import require_reach
from secateur.runtime.process import current_ranks
from secateur.tasks.prompts import turn_end

_WORDS = "hello world so wait 12"  # a text that every tokenizer gives back


def check_model_folder(path: str | Path) -> None:
    """Names that are no local folder are taken for hub ids, which must be cached or within reach."""
    require_reach(path)
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path}: no config.json there; give a Hugging Face model folder")


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


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id. Raises `InputError` where there is none, or one that loses text."""
    if Path(path).is_dir() and not any(Path(path).glob("tokenizer*")):
        raise InputError(
            f"{path}: no tokenizer there (tokenizer.json, tokenizer_config.json); save it beside the model"
        )
    require_reach(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: its tokenizer cannot be loaded ({error})") from None
    _check_round_trip(tokenizer, str(path))
    return tokenizer


def _check_round_trip(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Words must come back as words; case and the width of space may be lost, as with BERT's. A class that splits in
    its own way and ignores tokenizer.json, as LlamaTokenizerFast over the byte-level one of R1-Distill-Llama, glues
    them, in prompts and in answers, and nothing else would tell."""
    ids = tokenizer(_WORDS, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id in ids:  # a vocabulary that has not all letters
        return
    back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if back.casefold().split() != _WORDS.split():
        raise InputError(
            f"{name}: its tokenizer, a {type(tokenizer).__name__}, makes {back!r} of {_WORDS!r}; if tokenizer.json "
            'is right, write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json'
        )


def check_cache_layers(config: PreTrainedConfig, name: str) -> None:
    """Only plain full attention: a sliding or recurrent layer forgets, so a parked trace could not go on exactly."""
    layers = DynamicCache(config=config).layers
    for index, layer in enumerate(layers):
        if type(layer) is not DynamicLayer:
            raise InputError(
                f"{name}: layer {index} keeps its past in a {type(layer).__name__}; the transformers engine "
                "parks and resumes full-attention models only; use the vllm engine for this model"
            )


def check_capture_layers(
    layers: Sequence[int] | None, config: PreTrainedConfig, key: str = "capture_layers"
) -> tuple[int, ...]:
    """`layers` index transformers' `hidden_states` tuple: 0 embeddings … num_hidden_layers last layer, normed."""
    last = config.get_text_config(decoder=True).num_hidden_layers
    chosen = tuple(layers or ())
    for layer in chosen:
        if not 0 <= layer <= last:
            raise InputError(f"key '{key}' holds {layer}: this model has the states 0 to {last}")
    if len(set(chosen)) != len(chosen):
        raise InputError(f"key '{key}' has the value {list(chosen)}: a layer is named twice")
    return chosen


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


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends a completion, for the generation config, the config and the tokenizer."""
    named = (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id)
    return _some_ids(model.name_or_path, *named)


def stored_end_ids(
    model: str | Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, of_trainer: bool = False
) -> frozenset[int]:
    """What `end_token_ids` finds once the model is loaded, from its files. TRL's trainer (`of_trainer`) does not ask
    the config where generation settings lie beside it."""
    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    of_config = None if of_trainer else config.eos_token_id
    return _some_ids(str(model), generation.eos_token_id, of_config, tokenizer.eos_token_id)


def _some_ids(model: str, *named: int | list[int] | None) -> frozenset[int]:
    given = [value for value in named if value is not None]
    if not given:
        raise InputError(f"{model}: neither model nor tokenizer names an end token; set eos_token_id")
    return frozenset(token for value in given for token in (value if isinstance(value, list) else [value]))


def unstopped_turn(tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int]) -> str | None:
    """A warning where the token that ends a turn in the chat template is none of `end_ids`; None if all is well. Such
    completions run into the cap one and all, unless the model ends them otherwise, as base models do."""
    end = turn_end(tokenizer)
    if end is None or end in end_ids:
        return None
    stops = ", ".join(tokenizer.convert_ids_to_tokens(sorted(end_ids)))
    return (
        f"{tokenizer.name_or_path}: its chat template ends a turn with {tokenizer.convert_ids_to_tokens(end)}, but "
        f"completions stop at {stops} only: they may all be truncated. If that is not meant, write "
        f'"eos_token_id": {[end, *sorted(end_ids)]} into generation_config.json of the model folder'
    )


def context_tokens(config: PreTrainedConfig) -> int | None:
    """How many positions [tokens], prompt included, the model was made for; None where its config does not say.

    RoPE scaling stretches what the config names by its factor (linear, dynamic), or its original length (yarn); the
    kinds llama3 and longrope name the stretched length. The same as vLLM derives.
    """
    text = config.get_text_config(decoder=True)
    named = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)  # some models have one for each kind of layer
    kind, factor = rope.get("rope_type"), rope.get("factor") or 1.0
    if named is None or kind not in ("linear", "dynamic", "yarn"):
        return named
    begun = rope.get("original_max_position_embeddings", named) if kind == "yarn" else named
    return max(named, int(factor * begun))


def check_context(config: PreTrainedConfig, prompt: int, key: str, tokens: int) -> None:
    """Raises `InputError` where the longest `prompt` and `tokens` [tokens], the value of `key`, have no room in the
    context of a model: what lies beyond it would be noise."""
    context = context_tokens(config)
    if context is not None and prompt + tokens > context:
        room = max(context - prompt, 0)
        raise InputError(
            f"key '{key}' has the value {tokens}: with the longest prompt, {prompt} tokens, that is more than the "
            f"{context} positions of {config.name_or_path}; lower it to {room}, leave out long problems, or stretch "
            "the model's RoPE (config.json: rope_parameters)"
        )


def read_model_config(model: str | Path) -> PreTrainedConfig:
    """The config of a folder or hub id. Raises `InputError` where it cannot be read."""
    check_model_folder(model)
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(f"{model}: its config cannot be read ({str(error).splitlines()[0]})") from None


def count_parameters(config: PreTrainedConfig) -> int:
    """Parameters of the model, tied ones once, without loading a weight."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config).num_parameters()
    except ValueError as error:
        raise InputError(
            f"{config.name_or_path}: not a causal language model that transformers knows ({error})"
        ) from None


def _attention_for(config: PreTrainedConfig) -> str | None:
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", 0)
    groups = getattr(text, "num_key_value_heads", None)
    return GROUPED_ATTENTION if groups and heads > groups else None
