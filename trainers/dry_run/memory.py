"""What a training step needs on each GPU, or of a CPU machine for each process, by arithmetic alone: no torch, no
weights.

Sizes are bytes. P parameters, N processes, h hidden size, I width of the feed-forward block, b sequences of a
micro-batch, t tokens of a sequence (longest prompt plus limit).
"""

from dataclasses import dataclass
from typing import Literal

from secateur.engines.memory import RUNTIME_BYTES, Item, ModelShape, total_bytes, vllm_room

# Defaults of DeepSpeed (runtime/zero/config.py), in elements.
BUCKET_ELEMENTS = 500_000_000  # reduce_bucket_size and allgather_bucket_size, ZeRO-1 and 2
LIVE_ELEMENTS = 1_000_000_000  # max_live_parameters and sub_group_size, ZeRO-3
HOST_RUNTIME_BYTES = 1 << 29  # of a process that has imported torch, transformers and TRL, without a model
# Tile of TRL's fused output layer (trl/kernels/chunked_logprob.py, trainer/utils.py): logits are never whole.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768

Precision = Literal["bf16", "mixed", "pure_bf16", "float32"]


@dataclass(frozen=True)
class Setting:
    """Everything that the memory of a training process depends on.

    `precision`: bf16 (16-bit weights, DeepSpeed keeps 32-bit ones beside them), mixed (32-bit weights under
    autocast), pure_bf16 (16 bits throughout) or float32. `stage`: of ZeRO, 0 without DeepSpeed. `sampler`: what
    generates the completions; `share` (0-1) is the part of a GPU that a colocated vLLM takes. `device_bytes`: memory
    of the process, on its GPU or, `on_cpu`, of the machine's. `adapters`: parameters of LoRA's adapters, 0 where all
    weights are trained, and `dropout`: whether they drop some of their inputs; `quantized`: of the frozen parameters
    those in 4 bits; `stored_width`: bytes of a number in the files of the start model, and of a merged checkpoint;
    `float32_handover`: checkpoints have 32 bits; `prompt`: tokens of a sequence that no probability is computed of.
    """

    shape: ModelShape
    processes: int
    stage: int
    precision: Precision
    offload_optimizer: bool
    offload_parameters: bool
    checkpointing: bool
    reference: bool
    rows: int  # sequences of a micro-batch
    tokens: int  # of a sequence
    sampled_rows: int  # sequences generated at once by this process
    sampler: Literal["transformers", "colocate", "server"]
    share: float
    sleep: bool
    tensor_parallel: int
    device_bytes: float
    on_cpu: bool = False
    adapters: int = 0
    dropout: bool = False
    quantized: int = 0
    stored_width: int = 2
    float32_handover: bool = False
    prompt: int = 0

    @property
    def handed_on(self) -> int:
        """Bytes of a number of the model that a round hands on."""
        if self.float32_handover:
            return 4
        return self.stored_width if self.adapters else 2 if self.precision in ("bf16", "pure_bf16") else 4

    @property
    def trained(self) -> int:
        """Parameters that have gradients and an optimiser."""
        return self.adapters or self.shape.parameters

    @property
    def runtime(self) -> Item:
        """What libraries take of a GPU, or of a process's own memory."""
        if self.on_cpu:
            return Item("Python and libraries (measured)", HOST_RUNTIME_BYTES)
        return Item("CUDA context, NCCL (assumed)", RUNTIME_BYTES)


def model_states(setting: Setting) -> list[Item]:
    """Weights, gradients, optimiser and reference model of one process.

    DeepSpeed: 2 bytes a parameter for weights, 2 for gradients, 4 for the 32-bit weights, 8 for Adam's moments and,
    in the step, 4 for gradients in 32 bits, each divided by N from the stage on that shards it (Rajbhandari et al.,
    ZeRO, arXiv 1910.02054, section 3; for stage 2 the sum is what `estimate_zero2_model_states_mem_needs` of
    DeepSpeed gives). ZeRO-3 takes its step in groups of at most a billion elements. With adapters only they are
    trained, and the model without them is the reference.
    """
    if setting.stage == 0:
        return _states_without_deepspeed(setting)
    total, shard = setting.shape.parameters, setting.shape.parameters / setting.processes
    width = 2 if setting.precision == "bf16" else 4
    weights = 0 if setting.offload_parameters else width * (shard if setting.stage == 3 else total)
    items = [Item("frozen weights" if setting.adapters else "weights", weights)]
    total, shard = setting.trained, setting.trained / setting.processes
    if setting.adapters:
        items.append(Item("adapters", width * total))
    elif setting.reference:
        items.append(Item("reference model", width * (shard if setting.stage == 3 else total)))
    if not setting.offload_optimizer:
        step = min(shard, LIVE_ELEMENTS) if setting.stage == 3 else shard
        items += [
            Item("gradients", width * (total if setting.stage == 1 else shard)),
            Item("32-bit weights and Adam's moments", 12 * shard),
            Item("32-bit gradients in the step", 4 * step),
        ]
    return items


def _states_without_deepspeed(setting: Setting) -> list[Item]:
    """Nothing is sharded."""
    if setting.adapters:
        return _states_of_adapters(setting)
    total = setting.shape.parameters
    width = 2 if setting.precision == "pure_bf16" else 4
    items = [
        Item("weights", width * total),
        Item("gradients", width * total),
        Item("Adam's moments", 2 * width * total),
    ]
    if setting.precision == "mixed":
        items.append(Item("16-bit copies of the weights (autocast)", 2 * total))
    if setting.reference:
        items.append(Item("reference model", width * total))
    return items


# Of a number in 4 bits: itself, and its part of the 32-bit scale of a block of 64 (Dettmers et al., QLoRA,
# arXiv 2305.14314, section 3). Nested scales take .05 less.
FOUR_BITS = 0.5 + 4 / 64


def _states_of_adapters(setting: Setting) -> list[Item]:
    """Frozen weights, and adapters in 32 bits with gradients and both moments."""
    width = 2 if setting.precision == "pure_bf16" else 4
    frozen = width * (setting.shape.parameters - setting.quantized) + FOUR_BITS * setting.quantized
    return [
        Item("frozen weights", frozen),
        Item("adapters, gradients, Adam's moments", 16 * setting.adapters),
    ]


def buffers(setting: Setting) -> Item:
    """What DeepSpeed gathers and reduces in, with its defaults; see the constants above."""
    total = setting.shape.parameters if setting.stage == 3 else setting.trained
    width = 2 if setting.precision == "bf16" else 4
    if setting.stage == 0:
        return Item("communication buffers", 0)
    if setting.stage == 3:
        gathered = min(total, max(LIVE_ELEMENTS, setting.shape.largest_module))
        return Item("gathered weights (ZeRO-3)", width * (gathered + min(total, BUCKET_ELEMENTS)))
    return Item("communication buffers", 2 * width * min(total, BUCKET_ELEMENTS))


# Bytes of a token and hidden unit that the norms of a layer keep, and those of frozen weights. Adapters have 32 bits:
# under autocast their sums are of that width even where all weights have 16.
_NORMS = {"bf16": 16, "pure_bf16": 16, "mixed": 26, "float32": 24}
_NORMS_FROZEN = {"bf16": 12, "pure_bf16": 20, "mixed": 20, "float32": 16}


def layer_bytes(setting: Setting) -> float:
    """What one decoder layer keeps for its backward pass, a token, without gradient checkpointing.

    Counted from what transformers' Qwen2 and Qwen3 layers save under PyTorch's fused attention with padded rows; a
    test counts the same with `torch.autograd.graph.saved_tensors_hooks`. (Korthikanti et al., arXiv 2205.05198,
    count 34 h for a layer with another feed-forward block.)
    """
    shape, tokens = setting.shape, setting.tokens
    width = 4 if setting.precision == "float32" else 2
    norms = (_NORMS_FROZEN if setting.adapters else _NORMS)[setting.precision] * shape.hidden
    attention = 4 * width * shape.heads * shape.head_dim + 4 * shape.heads + width * tokens
    if shape.qk_norm:
        trained = 0 if setting.adapters else width
        norms += ((4 + trained) * shape.head_dim + 4) * (shape.heads + shape.kv_heads)
    dropped = _dropped_bytes(setting, width) if setting.adapters and setting.dropout else 0
    return norms + 4 * width * shape.intermediate + attention + 8 + dropped


def _dropped_bytes(setting: Setting, width: int) -> int:
    """An adapter reads the input of its layer, which others keep as well. With dropout it has one of its own and the
    mask that made it: five of the hidden size, one per head, one inner. Then nobody else needs three of the shared
    ones, unless they are of another width."""
    shape = setting.shape
    own = 5 * shape.hidden + shape.heads * shape.head_dim + shape.intermediate
    shared = 0 if setting.precision in ("mixed", "pure_bf16") else 2 * shape.hidden + shape.intermediate
    return width * (2 * own - shared)


def activations(setting: Setting) -> list[Item]:
    """What the forward pass of a micro-batch leaves for the backward pass, and the output layer's own work space."""
    kept, inside = layer_activations(setting)
    head = output_bytes(setting)
    return [kept, inside if inside.bytes > head.bytes else head]


def layer_activations(setting: Setting) -> tuple[Item, Item]:
    """What the layers keep, and the work space of one of them. With gradient checkpointing: the input of every layer,
    and one layer's inside twice (values and their gradients)."""
    shape, tokens = setting.shape, setting.rows * setting.tokens
    residual = 2 if setting.precision in ("bf16", "pure_bf16") else 4
    layer = layer_bytes(setting) * tokens
    if setting.checkpointing:
        kept = Item("checkpointed activations", shape.layers * residual * shape.hidden * tokens)
        return kept, Item("one layer, recomputed", 2 * layer)
    return Item("activations", shape.layers * layer), Item("gradients of one layer", layer)


def output_bytes(setting: Setting) -> Item:
    """TRL's fused output layer: one tile of logits, gradients of the hidden states and, where it is trained, of the
    matrix in 32 bits. Without Triton the prompt is not left out (trl/trainer/utils.py, `compact`), and torch works on
    the tile: seven of it in 32 bits and a mask are there at once (`_backward_tile` in trl/kernels)."""
    shape, scored = setting.shape, setting.tokens - (0 if setting.on_cpu else setting.prompt)
    tokens = setting.rows * scored
    tile = min(tokens, TILE_TOKENS) * min(shape.vocabulary, TILE_VOCABULARY)
    copies = 2 + (7 * 4 + 1 if setting.on_cpu else 0)
    matrix = 0 if setting.adapters else 4 * shape.hidden * shape.vocabulary
    return Item("output layer", copies * tile + matrix + 8 * shape.hidden * tokens)


def generation(setting: Setting) -> Item:
    """What generation holds: vLLM's share of the GPU, or keys and values of all rows that transformers samples."""
    if setting.sampler == "colocate":
        return Item("vLLM (weights, keys and values)", setting.share * setting.device_bytes)
    if setting.sampler == "server":
        return Item("generation (on the server)", 0)
    width = 2 if setting.precision == "float32" else 1
    return Item(
        "keys and values in generation", width * setting.sampled_rows * setting.tokens * setting.shape.kv_bytes
    )


def peak(setting: Setting) -> list[Item]:
    """What adds up at the worst moment. A colocated vLLM stays beside the backward pass unless it is put to sleep."""
    states = [*model_states(setting), buffers(setting), setting.runtime]
    training, sampling = activations(setting), generation(setting)
    if setting.sampler == "colocate" and not setting.sleep:
        return [item for item in [*states, *training, sampling] if item.bytes]
    larger = training if total_bytes(training) >= sampling.bytes else [sampling]
    return [item for item in [*states, *larger] if item.bytes]


def host_bytes(setting: Setting, machines: int) -> float:
    """What an offloaded optimiser takes of each machine's memory (formulas of DeepSpeed's own estimators)."""
    if not setting.offload_optimizer:
        return 0.0
    total, spare = setting.trained, 1.5
    if setting.stage == 3:
        frozen = 2 * (setting.shape.parameters - total) if setting.offload_parameters else 0
        return (total * (18 if setting.offload_parameters else 16) + frozen) / machines * spare
    return total * max(4 * setting.processes, 16) * spare


def colocated_room(setting: Setting) -> tuple[int, int]:
    """Full-length sequences that a colocated vLLM can hold at once, and how many TRL sends it at once (its
    `max_num_seqs`, per group of `tensor_parallel` GPUs). What does not fit waits its turn."""
    share, parallel = setting.share * setting.device_bytes, setting.tensor_parallel
    room = vllm_room(setting.shape, setting.tokens, setting.sampled_rows, share, parallel)
    return room, setting.sampled_rows * parallel
