"""Checkpoints that can be trusted: one counts only when a marker, written last, says that it is whole.

The Trainer writes a checkpoint in place, file after file; a kill in between leaves a folder that may resume without
an error and wrongly (a missing rank's random state, an optimiser that starts from zero). The marker is written after
all ranks have finished, and lists every file with its size and checksum (see schedules/integrity.py).
"""

import os
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.markup import escape
from safetensors import safe_open

from schedules.candidates import damaged_checkpoints
from schedules.export import drop_training_state, finish_removals, remove_folder
from schedules.integrity import (
    MARKER,
    Marker,
    broken_structure,
    check_seal,
    damage,
    is_unpickled,
    read_marker,
    saved_checkpoints,
    seal,
    step_of,
    write_marker,
)
from secateur.engines.finite import is_finite
from secateur.runtime.console import MetricLog, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import fingerprint
from secateur.runtime.process import current_ranks

LOG = "train.jsonl"


def mark_complete(folder: Path, world_size: int, limit: int | None, regular: bool = True) -> None:
    """Write the marker; call on one process, after a barrier. `regular` is False for a checkpoint saved out of turn.

    Raises `RuntimeError` naming what the Trainer should have written and did not, and `InputError` for weights that
    are not finite.
    """
    _check_all_there(folder, world_size)
    if is_unpickled(folder):
        seal(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER]
    for path in files:
        _check_sound(path)
        _flush_to_disk(path)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _flush_to_disk(path)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    marker = Marker(
        step=step_of(folder),
        world_size=world_size,
        limit=limit,
        resumable=True,
        regular=regular,
        files={name: path.stat().st_size for name, path in names.items()},
        fingerprints={name: fingerprint(path) for name, path in names.items()},
    )
    write_marker(folder, marker)


def _check_all_there(folder: Path, world_size: int) -> None:
    missing = [name for name in _expected_files(folder, world_size) if not (folder / name).is_file()]
    if missing or not list(folder.glob("*.safetensors")):
        raise RuntimeError(f"{folder}: incomplete after saving, without {', '.join(missing) or 'model weights'}")


def _check_sound(path: Path) -> None:
    if fault := broken_structure(path):
        raise RuntimeError(f"{path}: {fault} right after saving; is the disk full or failing?")
    if (name := exploded(path)) is not None:
        raise InputError(
            f"{path}: '{name}' is not finite, so training has diverged; the checkpoint does not count. Lower "
            "'learning_rate' or 'max_grad_norm', or set bf16 in place of fp16; a start goes on before it"
        )


def exploded(path: Path) -> str | None:
    """The first tensor of a safetensors file that holds NaN or an infinity; None for other files and sound ones."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as handle:
        return next((name for name in handle.keys() if not is_finite(handle.get_tensor(name))), None)  # noqa: SIM118


def _expected_files(folder: Path, world_size: int) -> list[str]:
    ranks = [f"rng_state_{rank}.pth" for rank in range(world_size)] if world_size > 1 else ["rng_state.pth"]
    names = ["config.json", "trainer_state.json", "scheduler.pt", *ranks]
    if not (folder / "latest").is_file():
        return [*names, "optimizer.pt"]
    engine_folder = (folder / "latest").read_text(encoding="utf-8").strip()
    shards = [path.relative_to(folder).as_posix() for path in (folder / engine_folder).glob("*optim_states.pt")]
    absent = [f"{engine_folder}/optim_states of {world_size - len(shards)} ranks"] if len(shards) < world_size else []
    return [name for name in names if name != "scheduler.pt"] + absent


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def set_damaged_aside(round_folder: Path, candidates: bool = True) -> list[tuple[Path, str]]:
    """Rename what a kill left unfinished or something has damaged since, so that neither resume nor choice can take
    it. Returns the old names and what is wrong with each. Raises `InputError` as `damaged_checkpoints` does."""
    finish_removals(round_folder)
    damaged = damaged_checkpoints(round_folder, candidates)
    for folder, _ in damaged:
        number = len(list(round_folder.glob(f"incomplete-{folder.name}-*")))
        folder.rename(folder.with_name(f"incomplete-{folder.name}-{number}"))
    return damaged


def checkpoint_to_resume(round_folder: Path, world_size: int) -> Path | None:
    """The newest whole checkpoint that holds training state, None if there is none.

    Raises `InputError` if it was saved by another number of processes (optimiser shards and random states belong to
    ranks, so such a resume would fail or silently compute something else), and if it would be unpickled and bears no
    seal of this user's.
    """
    for folder in reversed(saved_checkpoints(round_folder)):
        if damage(folder):
            continue
        marker = read_marker(folder)
        if not marker.resumable:
            continue
        if marker.world_size != world_size:
            raise InputError(
                f"{folder} was saved by {marker.world_size} processes and this launch has {world_size}; launch "
                f"with num_processes {marker.world_size}, or delete {round_folder} to train the round afresh"
            )
        if is_unpickled(folder):
            check_seal(folder)
        return folder
    return None


def remove_later_than(round_folder: Path, step: int) -> list[Path]:
    """Delete checkpoints of steps that are trained again: the Trainer would write over them, file after file, under
    a marker that says whole. There are some only where every newer one that could be resumed was damaged."""
    later = [folder for folder in saved_checkpoints(round_folder) if step_of(folder) > step]
    for folder in later:
        remove_folder(folder)
    return later


def drop_what_is_superseded(round_folder: Path, keep: int = 2) -> None:
    """After a regular save: remove checkpoints saved out of turn and keep the training state of the newest `keep`.

    Optimiser state is several times the size of the model, and nobody resumes from a checkpoint that is not newest.
    The whole rule stands at `schedules.state.prune_checkpoints`.
    """
    finish_removals(round_folder)
    whole = [folder for folder in saved_checkpoints(round_folder) if damage(folder, whole_files=False) is None]
    for folder in whole[:-1]:
        if not read_marker(folder).regular:
            remove_folder(folder)
    regular = [folder for folder in whole if folder.is_dir()]
    for folder in regular[:-keep]:
        drop_training_state(folder)


def prepare_resume(round_folder: Path, world_size: int, *logs: str, candidates: bool = True) -> Path | None:
    """The checkpoint to go on from, None to start afresh; the same on all ranks.

    The main process looks, after it has set aside what cannot be trusted, and cuts the metrics log and the other
    `logs` back to that step.
    Raises `InputError` if the checkpoint was saved by another number of processes, or if an older one, which is one
    of the `candidates` of a choice, was damaged.
    """
    found = [_tidy(round_folder, world_size, [LOG, *logs], candidates) if current_ranks().is_main else None]
    if PartialState().num_processes > 1:
        broadcast_object_list(found)
    return Path(found[0]) if found[0] else None


def _tidy(round_folder: Path, world_size: int, logs: Sequence[str], candidates: bool) -> str | None:
    for folder, fault in set_damaged_aside(round_folder, candidates):
        say(f"  set aside: {escape(str(folder))}: {escape(fault)}")
    resume = checkpoint_to_resume(round_folder, world_size)
    step = step_of(resume) if resume else 0
    for folder in remove_later_than(round_folder, step):
        say(f"  removed: {escape(str(folder))}: it is trained again")
    for log in logs:
        MetricLog(round_folder / log).forget_after(step)  # those are trained again
    if resume is not None:
        say(f"  going on from {escape(str(resume))}")
    return str(resume) if resume else None
