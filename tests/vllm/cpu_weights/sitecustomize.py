"""Found through PYTHONPATH by every Python process that a test starts: lets vLLM's CPU build take new weights.

That build packs the weight of a linear layer into another format and drops the original, so nothing is left to write
to; here it keeps the weight and multiplies with torch. GPUs need none of this.

SECATEUR_STALE_AFTER=n lets only the first n transfers of weights happen: what the tests' check must be able to see.
SECATEUR_WEIGHTS=FILE is the way to a server: where GPUs broadcast by NCCL, the trainer writes this file, the server
reads it. All else of TRL's server mode (requests, announcements, the order of things) stays as it is.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


def keep_weights(utils: ModuleType) -> None:
    import torch

    def dispatch(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = dispatch


def stop_transfers(generation: ModuleType) -> None:
    allowed, sync = int(os.environ["SECATEUR_STALE_AFTER"]), generation.VLLMGeneration.sync_weights

    def sync_weights(self: Any) -> None:
        nonlocal allowed
        allowed -= 1
        if allowed >= 0:
            sync(self)

    generation.VLLMGeneration.sync_weights = sync_weights


def write_weights(client: ModuleType) -> None:
    """The trainer's side of the file."""
    import torch
    from safetensors.torch import save_file

    file, open_group = Path(os.environ["SECATEUR_WEIGHTS"]), client.VLLMClient.init_communicator

    def send(iterator: Iterator[tuple[str, torch.Tensor]], **_: Any) -> None:
        save_file({name: weight.detach().contiguous() for name, weight in iterator}, f"{file}.part")
        os.replace(f"{file}.part", file)

    retry = client.Retry
    client.Retry = lambda **options: retry(**options | {"backoff_factor": 0})  # TRL would wait a minute
    client.VLLMClient.init_communicator = lambda self, device: open_group(self, torch.device("cuda"))
    client.open_trainer_endpoint = lambda _: SimpleNamespace(group=SimpleNamespace())
    client.packed_nccl_broadcast_producer = send


def read_weights(engine: ModuleType) -> None:
    """The server's side of the file."""
    from safetensors.torch import load_file

    file = Path(os.environ["SECATEUR_WEIGHTS"])

    def update(self: Any, announced: dict[str, list]) -> None:
        while not file.exists():
            time.sleep(0.01)
        weights = load_file(file)
        file.unlink()
        assert [[*weights[name].shape] for name in announced["names"]] == announced["shapes"]
        self.model.load_weights(weights.items())

    engine.NCCLWeightTransferEngine.init_transfer_engine = lambda self, _: None
    engine.NCCLWeightTransferEngine.update_weights = update


def allow_cpu(rollout_server: ModuleType) -> None:
    rollout_server._check_device = lambda _: None


class PatchOnImport(MetaPathFinder):
    """Applies a patch right after its module was executed, so that nothing is imported that the command would not."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], None]]) -> None:
        self.patches = patches

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.patches:
            return None
        patch = self.patches.pop(name)
        spec = PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


PATCHES = {"vllm.model_executor.layers.utils": keep_weights}
if "SECATEUR_STALE_AFTER" in os.environ:
    PATCHES["trl.generation.vllm_generation"] = stop_transfers
if "SECATEUR_WEIGHTS" in os.environ:
    PATCHES["trl.generation.vllm_client"] = write_weights
    PATCHES["vllm.distributed.weight_transfer.nccl_engine"] = read_weights
    PATCHES["trainers.grpo.rollout_server"] = allow_cpu
sys.meta_path.insert(0, PatchOnImport(PATCHES))
