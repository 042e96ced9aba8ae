"""What a schedule's run folder takes on disk, by its checkpoints."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.runtime.dry_run import plan_table, show_disk_room, show_table, size_words
from trainers.dry_run.memory import Setting

# While a round trains, its two newest checkpoints keep their training state (trainers/steps/checkpoints.py) and a
# third is being written.
STATES_ON_DISK = 3


@dataclass(frozen=True)
class DiskPlan:
    """Bytes: a checkpoint's model, its training state, and the most that the run folder holds at one moment."""

    weights: float
    state: float
    peak: float
    end: float


def checkpoint_bytes(setting: Setting) -> tuple[float, float]:
    """Model and training state of one checkpoint.

    DeepSpeed writes the 32-bit weights and both moments of Adam (12 bytes a parameter) and, below ZeRO-3, the whole
    model once more; there the model is saved with its output matrix even if that is the input matrix. Without
    DeepSpeed the state is Adam's moments. With adapters both concern these alone, and each model is merged and stored
    as the start model is. Tests compare with real checkpoints.
    """
    total, saved = setting.shape.parameters, setting.handed_on
    width = 2 if setting.precision in ("bf16", "pure_bf16") else 4
    if setting.adapters:  # the adapter itself and its optimiser
        return saved * total, (12 + (2 * width if setting.stage else 0)) * setting.adapters
    if setting.stage == 0:
        return saved * total, 2 * width * total
    if setting.stage == 3:
        return saved * total, 12 * total
    doubled = setting.shape.vocabulary * setting.shape.hidden if setting.shape.tied else 0
    return saved * (total + doubled), (12 + width) * total


def plan_disk(setting: Setting, checkpoints: Sequence[int], keep: str) -> DiskPlan:
    """Of rounds that save so many `checkpoints`. Training state of a decided round is dropped; with `keep: chosen`,
    also its models but the chosen one."""
    weights, state = checkpoint_bytes(setting)
    kept = [weights * (saved if keep == "all" else 1) for saved in checkpoints]
    before = [0.0, *itertools.accumulate(kept)]
    during = [
        held + saved * weights + min(saved, STATES_ON_DISK) * state
        for held, saved in zip(before, checkpoints, strict=False)
    ]
    end = before[-1] + weights
    return DiskPlan(weights, state, max(*during, end), end)


def show_disk(disk: DiskPlan, output_dir: str) -> None:
    table = plan_table("disk", "")
    table.add_row("a checkpoint: the model", size_words(disk.weights))
    table.add_row("a checkpoint: training state, kept by the newest two", size_words(disk.state))
    table.add_row("the run folder in the end", size_words(disk.end))
    table.add_section()
    table.add_row("[bold]the run folder at the worst moment[/bold]", f"[bold]{size_words(disk.peak)}[/bold]")
    show_table(table)
    remedy = "keep_checkpoints: chosen or a larger save_steps takes less, or another output_dir"
    show_disk_room(output_dir, disk.peak, remedy)
