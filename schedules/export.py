"""A checkpoint as a plain model folder: everything but what only a resume of training needs."""

import os
import shutil
from pathlib import Path

from runtime.errors import InputError

COMPLETION_MARKER = "complete.json"
_TRAINING_FILES = (
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
    "latest",
    "zero_to_fp32.py",
)
_TRAINING_PREFIXES = ("rng_state", "global_step", "entropy_ctrl_state")


def is_training_state(name: str) -> bool:
    """Whether the file or folder `name` of a checkpoint serves a resume only, not the model."""
    return name in (*_TRAINING_FILES, COMPLETION_MARKER, "README.md") or name.startswith(_TRAINING_PREFIXES)


def export_model(source: str, target: Path) -> None:
    """Copy the model `source` (a folder, or a Hub name) to `target`, which appears whole or not at all.

    Raises `InputError` if `source` holds no model.
    """
    folder = Path(source if Path(source).is_dir() else _cached_folder(source))
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: is no model folder (no config.json)")
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and not is_training_state(path.name):
            shutil.copy(path, unfinished / path.name)
    os.replace(unfinished, target)


def _cached_folder(name: str) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(name)
