"""What an engine needs on its GPU while it samples, from the sizes in config.json: no GPU, no weights. Bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from secateur.runtime.errors import InputError
from secateur.runtime.hub import require_reach

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a decoder's config.json that memory depends on, and its exact number of `parameters`."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    largest_module: int  # parameters
    qk_norm: bool  # queries and keys are normalised per head (Qwen3)
    tied: bool  # input and output embeddings are one matrix

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


def read_shape(model: str, key: str = "model", with_head: bool = True) -> ModelShape:
    """Architecture and exact parameter count of a model folder or Hub name, built on the meta device.

    key: named in the message; with_head: whether the output layer counts. Raises `InputError` if the config.json is
    out of reach or describes no model that the plan knows.
    """
    require_reach(model)
    try:
        network = empty_model(model, with_head)
        return shape_of(network, network.config.get_text_config())
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"key '{key}' has the value '{model}': nothing can be planned without its architecture "
            f"({str(error).splitlines()[0]}); download the model first, or give its folder"
        ) from None


def empty_model(model: str, with_head: bool = True) -> "PreTrainedModel":
    """The model without weights, from its config.json."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        return (AutoModelForCausalLM if with_head else AutoModel).from_config(config)


def shape_of(network: "torch.nn.Module", config: "PreTrainedConfig") -> ModelShape:
    """`config` is that of the text decoder; tied parameters count once."""
    heads = config.num_attention_heads
    modules = (sum(p.numel() for p in module.parameters(recurse=False)) for module in network.modules())
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        largest_module=max(modules),
        qk_norm=any(name.endswith("q_norm.weight") for name, _ in network.named_parameters()),
        tied=bool(config.tie_word_embeddings),
    )


GIB = 1 << 30
# What a process holds before any tensor: CUDA context, NCCL's channels, rounding of the allocator. An assumption.
RUNTIME_BYTES = 2 * GIB
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "auto": 2}
_FIRST_COLUMNS, _GROWTH = 64, 1.5  # of secateur/engines/local/kv_cache.py
# Of secateur/engines/local/drawing.py, which holds at most four float64 copies of so many logits.
_DRAW_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Item:
    name: str
    bytes: float


def total_bytes(items: Sequence[Item]) -> float:
    return sum(item.bytes for item in items)


@dataclass(frozen=True)
class SamplingLoad:
    """What one process holds at once: `rows` traces, each with a prompt and `tokens` of its own [tokens].

    captured: layers whose hidden states are kept; cut: up to which token; width: bytes of a number of the model.
    """

    shape: ModelShape
    rows: int
    prompt: int
    tokens: int
    captured: int
    cut: int
    width: int

    @property
    def kv_token_bytes(self) -> float:
        return self.width / 2 * self.shape.kv_bytes

    @property
    def captured_bytes(self) -> float:
        """Hidden states of all rows, without room to grow: 16 bits a number."""
        return 2.0 * self.rows * self.captured * self.shape.hidden * self.cut


def grown_columns(columns: int, first: int = 0) -> int:
    """Columns [tokens] that a buffer of secateur/engines/local/kv_cache.py has when one row needs `columns`,
    having begun with `first`: it grows by half at a time."""
    have = max(first, _FIRST_COLUMNS)
    while have < columns:
        have = max(have + 1, int(have * _GROWTH))
    return have


@dataclass
class CacheRoom:
    """Room for keys and values in the engine of this package. Until it is empty again its buffers keep as many rows,
    and as many columns, as were ever needed at once, and both grow by half at a time (kv_cache.py). `cells` [tokens]:
    rows times columns that may be needed at most, so that what they grow by fits too."""

    cells: int
    _rows: int = 0
    _columns: int = 0

    @classmethod
    def of(cls, memory: float, token_bytes: int) -> "CacheRoom":
        """In so many bytes."""
        return cls(int(memory / (token_bytes * _GROWTH**2)))

    def rows_for(self, columns: int) -> int:
        """Rows that may be held once the longest has so many columns."""
        return self.cells // max(self._columns, columns)

    def fits(self, rows: int, columns: int) -> bool:
        """Whether so many rows may be held, the new ones with up to so many columns."""
        return max(self._rows, rows) <= self.rows_for(columns)

    def take(self, rows: int, columns: int) -> None:
        """So many are held from now on."""
        self._rows, self._columns = max(self._rows, rows), max(self._columns, columns)

    def clear(self) -> None:
        """No row is left."""
        self._rows = self._columns = 0


def free_host_bytes(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process can still have: what the machine has free, in a container what it is allowed."""
    free = psutil.virtual_memory().available
    limit, used = group / "memory.max", group / "memory.current"
    if not limit.is_file() or not used.is_file() or (most := limit.read_text().strip()) == "max":
        return free
    return max(0, min(free, int(most) - int(used.read_text())))


def transformers_items(load: SamplingLoad) -> list[Item]:
    """The engine in this package: every row's buffers are as long as the longest trace, with room to grow."""
    shape, rows = load.shape, load.rows
    columns = grown_columns(load.prompt + load.tokens, load.prompt)
    drawn = load.width * rows * shape.vocabulary + 4 * 8 * min(rows * shape.vocabulary, _DRAW_ELEMENTS)
    items = [
        Item("weights", load.width * shape.parameters),
        Item(f"keys and values of {rows} traces", rows * columns * load.kv_token_bytes),
        Item("attention scores of a step", rows * shape.heads * (load.prompt + load.tokens) * (load.width + 8)),
        Item("logits and drawing", drawn),
    ]
    if load.captured:
        held = 2 * rows * load.captured * shape.hidden * grown_columns(load.cut)
        items.append(Item(f"hidden states of {load.captured} layers up to the cut", held))
    return items


def vllm_room(shape: ModelShape, tokens: float, at_once: int, share_bytes: float, parallel: int = 1) -> int:
    """Sequences of `tokens` (prompt included) that a vLLM with `share_bytes` of each of `parallel` GPUs holds at
    once, when it samples `at_once` per GPU; 16-bit weights. What does not fit waits its turn."""
    free = share_bytes - 2 * shape.parameters / parallel - vllm_work_bytes(shape, at_once, parallel)
    return vllm_sequences(shape, tokens, free, parallel)


def vllm_work_bytes(shape: ModelShape, at_once: int, parallel: int = 1) -> float:
    """Work space of sampling and of one batch of 4096 tokens; a GiB for CUDA graphs is assumed."""
    logits, batch = 2 * 4 * at_once * shape.vocabulary, 4 * 4096 * shape.intermediate
    return (logits + batch) / parallel + GIB


def vllm_sequences(shape: ModelShape, tokens: float, cache_bytes: float, parallel: int = 1) -> int:
    """Sequences whose keys and values `cache_bytes` of each of `parallel` GPUs hold."""
    return max(0, int(cache_bytes // (tokens * shape.kv_bytes / min(parallel, shape.kv_heads))))
