"""A checkpoint as a plain model folder: everything but what only a resume of training needs."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from schedules.integrity import MARKER, SEAL, damage, read_marker, write_export, write_marker
from secateur.runtime.errors import InputError
from secateur.runtime.hub import is_hub_id

_TRAINING_FILES = (
    "optimizer.pt",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
    "latest",
    "zero_to_fp32.py",
    "zero_to_torch.py",
)
ADAPTER = "default"  # peft's name for it, and so the folder in a checkpoint that the Trainer resumes it from
_TRAINING_PREFIXES = ("rng_state", "global_step", "entropy_ctrl_state")


def is_training_state(name: str) -> bool:
    """Whether the file or folder `name` of a checkpoint serves a resume only, not the model."""
    return name in (*_TRAINING_FILES, MARKER, SEAL, ADAPTER, "README.md") or name.startswith(_TRAINING_PREFIXES)


def export_model(source: str, target: Path, original: str | None = None) -> None:
    """Copy the model `source` (a folder, or a Hub name) to `target`, which appears whole or not at all, in place of
    what may lie there; `final.json` beside it says what it consists of. The generation settings are those of the
    model `original`: training leaves them out of its checkpoints.

    Raises `InputError` if `source` holds no model, or a checkpoint of ours that was damaged since it was saved.
    """
    folder = Path(source if Path(source).is_dir() or not is_hub_id(source) else _cached_folder(source))
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: is no model folder (no config.json)")
    if (folder / MARKER).is_file() and (fault := damage(folder)):
        raise InputError(f"{folder}: damaged since it was saved: {fault}; restore it from a copy")
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and not is_training_state(path.name):
            shutil.copy(path, unfinished / path.name)
    if (settings := _generation_settings(original or source)) is not None:
        shutil.copy(settings, unfinished / settings.name)
    write_export(unfinished, target)
    finish_removals(target.parent)
    if target.exists():
        remove_folder(target)
    os.replace(unfinished, target)


def _generation_settings(model: str) -> Path | None:
    """The file of a model folder, or of one that was fetched from the Hub."""
    from huggingface_hub import try_to_load_from_cache

    name = "generation_config.json"
    found = (
        Path(model) / name if Path(model).is_dir() or not is_hub_id(model) else try_to_load_from_cache(model, name)
    )
    return Path(found) if isinstance(found, str | Path) and Path(found).is_file() else None


def _cached_folder(name: str) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(name)


def drop_training_state(checkpoint: Path) -> None:
    """Turn a whole checkpoint into a mere model. The marker forgets the files first: a kill in between leaves a whole
    model with files too many, and the next call removes them."""
    marker = read_marker(checkpoint)
    if marker.resumable:
        kept = {name: size for name, size in marker.files.items() if not is_training_state(name.split("/")[0])}
        prints = {name: marker.fingerprints[name] for name in kept}
        write_marker(checkpoint, replace(marker, resumable=False, files=kept, fingerprints=prints))
    for path in checkpoint.iterdir():
        if path.name != MARKER and is_training_state(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_folder(folder: Path) -> None:
    """Delete a model folder so that a kill in between leaves nothing that looks like one."""
    doomed = folder.with_name(f".removed-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def finish_removals(parent: Path) -> None:
    """Delete what a kill left of a removal."""
    for doomed in parent.glob(".removed-*"):
        shutil.rmtree(doomed, ignore_errors=True)
