"""Checkpoints that can be trusted: one counts only when a marker, written last, says that it is whole.

The Trainer writes a checkpoint in place, file after file; a kill in between leaves a folder that may resume without
an error and wrongly (a missing rank's random state, an optimiser that starts from zero). The marker is written after
all ranks have finished, and lists every file with its size.
"""

import os
from pathlib import Path

from runtime.errors import InputError
from runtime.files import read_json, write_json
from schedules.export import COMPLETION_MARKER as MARKER
from schedules.export import is_training_state


def mark_complete(folder: Path, world_size: int, limit: int) -> None:
    """Write the marker; call on one process, after a barrier.

    Raises `RuntimeError` naming what the Trainer should have written and did not.
    """
    missing = [name for name in _expected_files(folder, world_size) if not (folder / name).is_file()]
    weights = list(folder.glob("*.safetensors"))
    if missing or not weights:
        raise RuntimeError(f"{folder}: incomplete after saving, without {', '.join(missing) or 'model weights'}")
    sizes = _sizes(folder)
    for name in sizes:
        _flush_to_disk(folder / name)
    write_json(
        folder / MARKER,
        {"step": step_of(folder), "world_size": world_size, "limit": limit, "resumable": True, "files": sizes},
    )


def _expected_files(folder: Path, world_size: int) -> list[str]:
    ranks = [f"rng_state_{rank}.pth" for rank in range(world_size)] if world_size > 1 else ["rng_state.pth"]
    names = ["config.json", "trainer_state.json", "scheduler.pt", *ranks]
    if not (folder / "latest").is_file():
        return [*names, "optimizer.pt"]
    engine_folder = (folder / "latest").read_text(encoding="utf-8").strip()
    shards = [path.relative_to(folder).as_posix() for path in (folder / engine_folder).glob("*optim_states.pt")]
    absent = [f"{engine_folder}/optim_states of {world_size - len(shards)} ranks"] if len(shards) < world_size else []
    return [name for name in names if name != "scheduler.pt"] + absent


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file it lists has its size."""
    if not (folder / MARKER).is_file():
        return False
    files = read_json(folder / MARKER)["files"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())


def saved_checkpoints(round_folder: Path) -> list[Path]:
    """All checkpoint folders of a round, whole or not, by step."""
    folders = [path for path in round_folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(folders, key=step_of)


def set_incomplete_aside(round_folder: Path) -> list[Path]:
    """Rename what a kill left unfinished, so that neither resume nor choice can take it. Returns the new names."""
    moved = []
    for folder in saved_checkpoints(round_folder):
        if not is_complete(folder):
            number = len(list(round_folder.glob(f"incomplete-{folder.name}*")))
            moved.append(folder.rename(folder.with_name(f"incomplete-{folder.name}-{number}")))
    return moved


def checkpoint_to_resume(round_folder: Path, world_size: int) -> Path | None:
    """The newest whole checkpoint that holds training state, None if there is none.

    Raises `InputError` if it was saved by another number of processes: optimiser shards and random states belong to
    ranks, so such a resume would fail or silently compute something else.
    """
    for folder in reversed(saved_checkpoints(round_folder)):
        if not is_complete(folder):
            continue
        marker = read_json(folder / MARKER)
        if not marker["resumable"]:
            continue
        if marker["world_size"] != world_size:
            raise InputError(
                f"{folder} was saved by {marker['world_size']} processes and this launch has {world_size}; launch "
                f"with num_processes {marker['world_size']}, or delete {round_folder} to train the round afresh"
            )
        return folder
    return None


def drop_old_training_state(round_folder: Path, keep: int = 2) -> None:
    """Keep the training state of the newest `keep` whole checkpoints only; older ones stay as models.

    Optimiser state is several times the size of the model, and nobody resumes from a checkpoint that is not newest.
    """
    whole = [folder for folder in saved_checkpoints(round_folder) if is_complete(folder)]
    for folder in whole[:-keep]:
        marker = read_json(folder / MARKER)
        if not marker["resumable"]:
            continue
        files = {name: size for name, size in marker["files"].items() if not is_training_state(name.split("/")[0])}
        write_json(folder / MARKER, marker | {"resumable": False, "files": files})
        for name in marker["files"].keys() - files.keys():
            (folder / name).unlink(missing_ok=True)
