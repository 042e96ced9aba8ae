"""Which process this is, read from the launcher's environment. The only place that knows rank numbers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from secateur.runtime.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """`rank` of `world_size` processes, as `accelerate launch` exports them (0 of 1 without a launcher)."""

    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def note(self) -> str:
        """What to put behind a count that covers this process's share only; empty where there is one process."""
        return f" (process {self.rank + 1} of {self.world_size})" if self.world_size > 1 else ""

    def shard(self, items: Sequence[T]) -> list[T]:
        """Every `world_size`-th item, so that neighbours of similar cost spread over the processes."""
        return list(items[self.rank :: self.world_size])


def current_ranks() -> Ranks:
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def claim_gpus(per_process: int) -> None:
    """Leave this process only its own `per_process` GPUs of those on this machine, for a library that always takes
    the first ones it sees. To be called once, before anything asks for a GPU; one process keeps them all."""
    if current_ranks().world_size == 1:
        return
    first = int(os.environ.get("LOCAL_RANK", "0")) * per_process
    wanted = range(first, first + per_process)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(index) for index in range(wanted.stop)]
    if wanted.stop > len(devices):
        raise InputError(
            f"process {os.environ.get('LOCAL_RANK')} on this machine wants the GPUs {list(wanted)}, but only "
            f"{len(devices)} are visible (CUDA_VISIBLE_DEVICES={visible}); start fewer processes (--num_processes)"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[index] for index in wanted)
