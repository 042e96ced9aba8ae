"""Whether a checkpoint on disk is what the trainer saved: its marker, sizes, structure and fingerprints.

The marker `complete.json` is written last and lists every file. A file is checked in ways that stay cheap at any size
(about a mebibyte is read of each): its size, the header of safetensors, the directory of a torch archive, and a
fingerprint of sixteen blocks, which is the whole content of a file of up to one mebibyte.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur.runtime.errors import InputError
from secateur.runtime.records import read_record, write_record

MARKER = "complete.json"
BLOCK = 1 << 16  # bytes
BLOCKS = 16
MARKER_FORMAT = 1
_TORCH_ARCHIVES = (".pt", ".pth", ".bin")


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def saved_checkpoints(round_folder: Path) -> list[Path]:
    """All checkpoint folders of a round, whole or not, by step."""
    folders = [path for path in round_folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(folders, key=step_of)


@dataclass(frozen=True)
class Marker:
    """What a checkpoint's marker says: `step`, `world_size` [processes] that saved it, `limit` [tokens] of the round.

    `resumable`: it still has its training state; `regular` is False for one that was saved out of turn, on a stop;
    `files`: name → size [bytes], `fingerprints`: name → `fingerprint`.
    """

    step: int
    world_size: int
    limit: int
    resumable: bool
    regular: bool
    files: Mapping[str, int]
    fingerprints: Mapping[str, str]


def write_marker(folder: Path, marker: Marker) -> None:
    write_record(folder / MARKER, marker, MARKER_FORMAT)


def read_marker(folder: Path) -> Marker:
    """Raises `InputError` if it is missing, no JSON, or no such record."""
    return read_record(folder / MARKER, Marker, MARKER_FORMAT, "save the checkpoint anew")


def damage(folder: Path) -> str | None:
    """Why the checkpoint cannot be trusted, naming the file; None if it is whole."""
    if not (folder / MARKER).is_file():
        return f"it has no {MARKER}, so saving was interrupted"
    try:
        marker = read_marker(folder)
    except InputError as error:
        return f"its marker is damaged: {error}"
    for name, size in marker.files.items():
        fault = _fault(folder / name, size, marker.fingerprints.get(name))
        if fault:
            return f"{name} {fault}"
    return None


def _fault(path: Path, size: int, expected: str | None) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes where {size} were saved"
    if fault := broken_structure(path):
        return fault
    if fingerprint(path) != expected:
        return "has another content than was saved"
    return None


def broken_structure(path: Path) -> str | None:
    """What is wrong with a safetensors file or a torch archive as far as its header tells, None for other files."""
    if path.suffix == ".safetensors":
        return _broken_safetensors(path)
    if path.suffix in _TORCH_ARCHIVES and not zipfile.is_zipfile(path):
        return "is no readable torch archive"
    return None


def _broken_safetensors(path: Path) -> str | None:
    """The format: 8 bytes header length, a JSON header with the offsets of every tensor, then the tensors."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= size - 8:
            return "has no safetensors header"
        try:
            header = json.loads(handle.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return "has an unreadable safetensors header"
    promised = 8 + length + max(ends, default=0)
    return None if promised == size else f"has {size} bytes where its header promises {promised}"


def fingerprint(path: Path) -> str:
    """Hash of up to `BLOCKS` blocks, spread evenly from the first byte to the last."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as handle:
        if size <= BLOCK * BLOCKS:
            digest.update(handle.read())
        else:
            for index in range(BLOCKS):
                handle.seek((size - BLOCK) * index // (BLOCKS - 1))
                digest.update(handle.read(BLOCK))
    return digest.hexdigest()
