"""What an accelerate config launches: processes, machines, ZeRO stage; and launches that would do harm in silence."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.runtime.config import read_yaml
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json

if TYPE_CHECKING:
    from accelerate.utils import DeepSpeedPlugin

_DISTRIBUTED = ("NO", "MULTI_GPU", "DEEPSPEED")
_FSDP = (
    "FSDP shards weights into checkpoints that cannot be told whole from broken here, and on CPUs accelerate makes "
    "DDP of it without a word; launch DeepSpeed: configs/accelerate/zero3.yaml, zero3_offload.yaml with offload"
)
_WITHOUT_WEIGHTS = (
    "ZeRO-3 would save checkpoints without model weights; set {key}: true, so that they end in plain safetensors"
)


@dataclass(frozen=True)
class LaunchFile:
    """`stage` is that of ZeRO, 0 without DeepSpeed; `processes` counts all machines; `mixed_precision` is
    accelerate's: no, bf16, fp16 (of a launch without a DeepSpeed file of its own); `use_cpu`: GPUs are left alone."""

    path: str
    processes: int
    machines: int
    stage: int
    offload_optimizer: bool
    offload_parameters: bool
    mixed_precision: str = "no"
    use_cpu: bool = False

    @property
    def words(self) -> str:
        kind = f"ZeRO-{self.stage}" if self.stage else ("DDP" if self.processes > 1 else "one process")
        where = f" on {self.machines} machines" if self.machines > 1 else ""
        processes = f", {self.processes} processes{where}" if self.processes > 1 else ""
        return kind + processes + (", optimiser in host memory" if self.offload_optimizer else "")


def read_launch_file(path: str, processes: int | None = None) -> LaunchFile:
    """Read an accelerate config; `processes` overrides its `num_processes`.

    Raises `InputError` for what would train wrongly without a word: ZeRO-3 that saves no weights, `MULTI_CPU` (which
    starts one process whatever `num_processes` says), sharding that our checkpoints do not know.
    """
    values = read_yaml(path)
    kind = values.get("distributed_type", "NO")
    if kind == "FSDP":
        raise InputError(f"{path}: distributed_type is FSDP; {_FSDP}")
    if kind not in _DISTRIBUTED:
        remedy = "use DEEPSPEED or MULTI_GPU (with use_cpu: true that is DDP on CPUs)"
        raise InputError(f"{path}: distributed_type is {kind}; expected one of {', '.join(_DISTRIBUTED)}; {remedy}")
    machines = int(values.get("num_machines") or 1)
    count = int(processes or values.get("num_processes") or 1)
    if count % machines:
        raise InputError(f"{path}: num_processes is {count}, no multiple of num_machines = {machines}")
    zero = _zero_settings(path, values) if kind == "DEEPSPEED" else (0, False, False)
    precision, use_cpu = str(values.get("mixed_precision") or "no"), bool(values.get("use_cpu"))
    return LaunchFile(path, count, machines, *zero, precision, use_cpu)


def _zero_settings(path: str, values: Mapping[str, JSON]) -> tuple[int, bool, bool]:
    """Stage, optimiser offloaded, parameters offloaded: from accelerate's keys or the DeepSpeed file they name."""
    plugin = values.get("deepspeed_config") or {}
    if named := plugin.get("deepspeed_config_file"):
        zero = read_json(named).get("zero_optimization") or {}
        if not gathers_weights(zero):
            raise InputError(f"{named}: {_WITHOUT_WEIGHTS.format(key='stage3_gather_16bit_weights_on_model_save')}")
        devices = [(zero.get(f"offload_{part}") or {}).get("device", "none") for part in ("optimizer", "param")]
        return zero.get("stage", 0), devices[0] != "none", devices[1] != "none"
    stage = plugin.get("zero_stage", 2)
    if stage == 3 and not plugin.get("zero3_save_16bit_model"):
        raise InputError(f"{path}: {_WITHOUT_WEIGHTS.format(key='zero3_save_16bit_model')}")
    devices = [plugin.get(f"offload_{part}_device", "none") for part in ("optimizer", "param")]
    return stage, devices[0] != "none", devices[1] != "none"


def check_sharding() -> None:
    """Raises `InputError` if accelerate has launched this process with FSDP, whose checkpoints are not known here."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise InputError(f"accelerate config of this launch: {_FSDP}")


def gathers_weights(zero: Mapping[str, JSON]) -> bool:
    """Whether a DeepSpeed `zero_optimization` block lets checkpoints hold whole model weights."""
    return zero.get("stage", 0) != 3 or bool(zero.get("stage3_gather_16bit_weights_on_model_save"))


def check_saves_weights(plugin: "DeepSpeedPlugin | None") -> None:
    """The same check on a running launch: `plugin` is the DeepSpeed plugin that accelerate made, or None."""
    if plugin is None or gathers_weights(plugin.deepspeed_config.get("zero_optimization", {})):
        return
    key = "zero3_save_16bit_model (in a DeepSpeed file: stage3_gather_16bit_weights_on_model_save)"
    raise InputError(f"accelerate config of this launch: {_WITHOUT_WEIGHTS.format(key=key)}")
