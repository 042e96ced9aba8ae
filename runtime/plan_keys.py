"""The keys of `dry_run: true` in configs that have no driver of their own."""

import dataclasses
import os
from typing import Any

from runtime.errors import InputError
from runtime.launch_file import LaunchFile, read_launch_file
from runtime.ranks import current_ranks


@dataclasses.dataclass(kw_only=True)
class PlanKeys:
    """What is asked of a dry run; a real run never looks at these keys, nor are they kept with its results.

    dry_run: print what the run would do, need and cost, and what of it is done; nothing is loaded or written.
    accelerate_config: the launch that is planned, an accelerate config; by default the one that the dry run itself
      was started with.
    gpu_memory_gib: memory of one GPU [GiB]; 79 for a card sold as 80 GB.
    tokens_per_second: what one process (one engine) gets through, for the hours; without it, and where nothing was
      measured, they are given for 1,000 tokens a second.
    """

    dry_run: bool = False
    accelerate_config: str | None = None
    gpu_memory_gib: float = 79.0
    tokens_per_second: float | None = None

    def check_plan(self) -> None:
        """Raises `InputError` for a value that nothing can be planned with, or that a real run would pass over."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in PLAN_KEYS or value == field.default:
                continue
            if not self.dry_run:
                raise InputError(f"key '{field.name}' has the value {value}: a dry run alone reads it; leave it out")
            if isinstance(value, (int, float)) and value <= 0:
                raise InputError(f"key '{field.name}' has the value {value}; it must be above 0")

    def planned_launch(self) -> LaunchFile:
        """The launch that is planned."""
        if self.accelerate_config is not None:
            return read_launch_file(self.accelerate_config)
        processes = current_ranks().world_size
        machines = max(1, processes // int(os.environ.get("LOCAL_WORLD_SIZE", str(processes))))
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0"))
        offloads = [os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part}_DEVICE") for part in ("OPTIMIZER", "PARAM")]
        offloaded = [stage > 0 and device not in (None, "none") for device in offloads]
        mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        return LaunchFile("the launch of this dry run", processes, machines, stage, *offloaded, mixed)


PLAN_KEYS = (*(field.name for field in dataclasses.fields(PlanKeys)), "mean_tokens", "mean_cut_tokens")


def without_plan_keys(values: dict[str, Any]) -> dict[str, Any]:
    """A config's values as they are kept with its results."""
    return {key: value for key, value in values.items() if key not in PLAN_KEYS}
