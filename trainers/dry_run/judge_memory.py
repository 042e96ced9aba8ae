"""What training a judge needs on each GPU, from its config, the launch and the model's config.json alone. Bytes."""

from dataclasses import dataclass

from secateur.deepprune.judges.lora import add_lora, lora_shape
from secateur.engines.memory import GIB, RUNTIME_BYTES, Item, empty_model, read_shape
from secateur.runtime.errors import InputError
from secateur.runtime.launch_file import LaunchFile
from trainers.dry_run.memory import Precision, Setting, buffers, layer_activations, model_states
from trainers.dry_run.rounds import checkpoint_bytes
from trainers.judges.config import JudgeConfig

_ADAPTER_BYTES = 16  # weight, gradient and Adam's moments of a LoRA parameter, 32 bits each


@dataclass(frozen=True)
class JudgeMemory:
    """`setting` describes one process; `adapters` are LoRA's parameters, 0 for a full fine-tune; `trains` is False
    where a model is used as it is."""

    setting: Setting
    adapters: int
    trains: bool

    @property
    def width(self) -> int:
        return 2 if self.setting.precision in ("bf16", "pure_bf16") else 4

    def items(self) -> list[Item]:
        """What adds up at the worst moment of a training step, or of scoring."""
        shape, context = self.setting.shape, Item("CUDA context, NCCL (assumed)", RUNTIME_BYTES)
        frozen = Item("weights", self.width * shape.parameters)
        if not self.trains:
            return [frozen, Item("keys and values of a pass", self.width / 2 * shape.kv_bytes * self.read), context]
        states = [frozen, Item("adapters with their optimiser", _ADAPTER_BYTES * self.adapters)]
        if not self.adapters:
            states = [*model_states(self.setting), buffers(self.setting)]
        return [item for item in [*states, *layer_activations(self.setting), context] if item.bytes]

    @property
    def read(self) -> int:
        """Tokens of one pass."""
        return self.setting.rows * self.setting.tokens

    def disk(self) -> tuple[float, float]:
        """The judge in the end, and the most that its folder holds: best judge and checkpoint, each with its
        successor while that is written."""
        weights, state = checkpoint_bytes(self.setting)
        if self.adapters:
            state = 12 * self.adapters
        return weights, 2 * weights + 2 * (weights + state) if self.trains else 0.0


def judge_memory(config: JudgeConfig, launch: LaunchFile, rows: int, tokens: int) -> JudgeMemory:
    """`rows` sequences of `tokens` at once in one process. Raises `InputError` for a launch that judges refuse, or a
    model whose config.json is out of reach."""
    if launch.stage == 3:
        raise InputError(f"{launch.path}: a judge trains with DeepSpeed up to ZeRO-2; choose zero2.yaml")
    setting = Setting(
        shape=read_shape(config.model, with_head=_with_head(config)),
        processes=launch.processes,
        stage=launch.stage,
        precision=judge_precision(config, launch),
        offload_optimizer=launch.offload_optimizer,
        offload_parameters=False,
        checkpointing=config.gradient_checkpointing,
        reference=False,
        rows=rows,
        tokens=tokens,
        sampled_rows=0,
        sampler="server",
        share=0.0,
        sleep=False,
        tensor_parallel=1,
        gpu_bytes=config.gpu_memory_gib * GIB,
    )
    return JudgeMemory(setting, _adapters(config), config.epochs > 0)


def judge_precision(config: JudgeConfig, launch: LaunchFile) -> Precision:
    """`dtype` is what the weights are loaded in; accelerate's mixed precision computes in 16 bits beside them."""
    if config.dtype == "bfloat16":
        return "bf16" if launch.stage else "pure_bf16"
    if launch.mixed_precision == "no":
        return "float32"
    return "bf16" if launch.stage else "mixed"


def _adapters(config: JudgeConfig) -> int:
    """Parameters of LoRA's adapters, counted on the model without weights."""
    shape = lora_shape(config)
    if shape is None:
        return 0
    model = add_lora(empty_model(config.model, with_head=_with_head(config)), shape)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _with_head(config: JudgeConfig) -> bool:
    return config.judge_kind.language_model == "causal"


def own_states_items(layers: int, hidden: int, head: int, cuts: int, longest: int) -> list[Item]:
    """An own-state judge: a head of `head` parameters, and a step's states of `cuts` cuts, padded to the `longest`
    [tokens], in 16 bits and twice in 32."""
    numbers = layers * hidden * cuts * longest
    return [
        Item("head, gradients, optimiser", 16 * head),
        Item("states of a step (16 bits, and normalised in 32)", 10 * numbers),
        Item("CUDA context (assumed)", RUNTIME_BYTES),
    ]
