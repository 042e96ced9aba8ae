"""Whether a checkpoint on disk is what the trainer saved: its marker, sizes, structure and fingerprints.

The marker `complete.json` is written last and lists every file with its size and a checksum of all its bytes (XXH3,
128 bits: against accidents, not against forgers). Reading costs what the disk takes; where a wrong answer would cost
nothing that cannot be had again, only size, safetensors header and archive directory are looked at. `final/` has its
checksums in `final.json` beside it, for the folder itself is handed on.

DeepSpeed unpickles its training state, and reading a pickle runs what it says. Such a folder gets a seal,
`seal.json`, that only who has this user's key can make (SHA-256: against forgers), and is resumed only if it fits.
"""

import hashlib
import hmac
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur.runtime.errors import InputError
from secateur.runtime.files import fingerprint, fingerprints, first_changed, key_file, own_key
from secateur.runtime.records import read_record, write_record

MARKER = "complete.json"
MARKER_FORMAT = 2
EXPORT_FORMAT = 1
SEAL, SEAL_FORMAT = "seal.json", 1
_NO_PICKLES = (".safetensors", ".json")
_TORCH_ARCHIVES = (".pt", ".pth", ".bin")


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def saved_checkpoints(round_folder: Path) -> list[Path]:
    """All checkpoint folders of a round, whole or not, by step."""
    folders = [path for path in round_folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(folders, key=step_of)


@dataclass(frozen=True)
class Marker:
    """What a checkpoint's marker says: `step`, `world_size` [processes] that saved it, `limit` [tokens] of the
    round, None for other trainings.

    `resumable`: it still has its training state; `regular` is False for one that was saved out of turn, on a stop;
    `files`: name → size [bytes], `fingerprints`: name → `fingerprint`.
    """

    step: int
    world_size: int
    limit: int | None
    resumable: bool
    regular: bool
    files: Mapping[str, int]
    fingerprints: Mapping[str, str]


def write_marker(folder: Path, marker: Marker) -> None:
    write_record(folder / MARKER, marker, MARKER_FORMAT)


def read_marker(folder: Path) -> Marker:
    """Raises `InputError` if it is missing, no JSON, or no such record."""
    return read_record(folder / MARKER, Marker, MARKER_FORMAT, "save the checkpoint anew")


def damage(folder: Path, whole_files: bool = True, spared: Callable[[str], bool] = lambda name: False) -> str | None:
    """Why the checkpoint cannot be trusted, naming the file; None if it is whole. Without `whole_files` contents are
    not read: sizes and structure only. Files that are `spared`, by name, may be as they like."""
    if not (folder / MARKER).is_file():
        return f"it has no {MARKER}, so saving was interrupted"
    try:
        marker = read_marker(folder)
    except InputError as error:
        return f"its marker is damaged: {error}"
    for name, size in marker.files.items():
        if spared(name.split("/")[0]):
            continue
        fault = _broken_file(folder / name, size)
        if not fault and whole_files and fingerprint(folder / name) != marker.fingerprints.get(name):
            fault = "has another content than was saved"
        if fault:
            return f"{name} {fault}"
    return None


def _broken_file(path: Path, size: int) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes where {size} were saved"
    return broken_structure(path)


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


@dataclass(frozen=True)
class Seal:
    """What `seal.json` says: an HMAC over names and contents of all files of the folder that may hold pickles."""

    hmac: str


def is_unpickled(folder: Path) -> bool:
    """Whether a resume from the folder would unpickle: DeepSpeed's state does, what torch loads for others does not
    (`weights_only`)."""
    return (folder / "latest").exists() or any(folder.glob("global_step*"))


def seal(folder: Path) -> None:
    """Write down that this user saved the training state in `folder`."""
    write_record(folder / SEAL, Seal(_mac(folder)), SEAL_FORMAT)


def check_seal(folder: Path) -> None:
    """Raises `InputError` unless the training state in `folder` is, file by file, what this user has sealed."""
    remedy = (
        "training state of DeepSpeed is unpickled, which runs what it says. If a machine of yours saved it, copy "
        f"{key_file()} of that machine here; else delete it to train afresh"
    )
    if not (folder / SEAL).is_file():
        raise InputError(f"{folder}: bears no seal ({SEAL}) of this user's; {remedy}")
    if not hmac.compare_digest(read_record(folder / SEAL, Seal, SEAL_FORMAT, remedy).hmac, _mac(folder)):
        raise InputError(f"{folder}: its seal ({SEAL}) does not fit this user's key and the files; {remedy}")


def _mac(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in _NO_PICKLES)
    total = hmac.new(own_key(), digestmod="sha256")
    for path in files:
        with open(path, "rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        total.update(json.dumps([path.relative_to(folder).as_posix(), content]).encode())
    return total.hexdigest()


@dataclass(frozen=True)
class Export:
    """What `final.json` says of the folder `final`: file name → `fingerprint`. What is added later, such as the model
    card, is not in it."""

    fingerprints: Mapping[str, str]


def write_export(folder: Path, place: Path) -> None:
    """Write down what the exported model in `folder` consists of, before it becomes `place`."""
    write_record(_export_file(place), Export(fingerprints(folder)), EXPORT_FORMAT)


def export_damage(place: Path) -> str | None:
    """Why the exported model in `place` cannot be trusted, naming the file; None if it is whole."""
    try:
        known = read_record(_export_file(place), Export, EXPORT_FORMAT, "it is exported anew").fingerprints
    except InputError as error:
        return str(error)
    return first_changed(place, known)


def _export_file(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")
