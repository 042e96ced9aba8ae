"""Files that survive a kill: JSON replaced atomically, JSONL appended line by line, errors named by line."""

import contextlib
import errno
import gzip
import hashlib
import json
import os
import platform
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import xxhash
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from pydantic import JsonValue

from secateur.runtime.errors import InputError
from secateur.runtime.process import is_alive, is_no_access

if TYPE_CHECKING:
    import numpy as np

JSON = JsonValue
"""What a JSON file holds."""
_SAMPLE_BYTES = 1 << 20
_KEY_BYTES = 32
_LONGEST_LINE = 1 << 28  # characters; a compressed file may promise any number
_LONGEST_NAME = 160  # of the 255 bytes that file systems allow, with room for endings and temporary names
LOCK, _SOFT_LOCK, HOLDER = ".lock", ".lock-soft", ".lock-holder"
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}  # ENOSYS is known to filelock itself


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # as within /proc: other errors have their codes, see `is_no_access`
        raise InputError(f"{folder}: no folder can be made there; give another 'output_dir'") from None


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` atomically: readers see the old file or the whole new one."""
    path = Path(path)
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: JSON) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Replace `target` by a copy; a kill leaves the old one."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.copyfile(source, unfinished)
    unfinished.replace(target)


def fingerprint(path: Path) -> str:
    """Checksum of the whole file (XXH3, 128 bits: against accidents, not against forgers)."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, xxhash.xxh3_128).hexdigest()


def fingerprints(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Name → `fingerprint` of every file in a folder and below it whose name fits."""
    files = (path for path in sorted(folder.rglob(pattern)) if path.is_file())
    return {path.relative_to(folder).as_posix(): fingerprint(path) for path in files}


def first_changed(folder: Path, known: Mapping[str, str]) -> str | None:
    """Which of the `known` files (name → `fingerprint`) is missing or was changed since; None if all are whole."""
    for name, expected in known.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if fingerprint(folder / name) != expected:
            return f"{name} has another content than was saved"
    return None


def model_fingerprint(folder: str | Path) -> str:
    """Sixteen hex digits that tell two model folders apart: config and weights (size, and the first and last MiB of
    every weight file, so that large models cost milliseconds). What the Trainer leaves beside them says nothing of
    the model."""
    folder = Path(folder)
    files = sorted(path for pattern in ("config.json", "*.safetensors", "*.bin") for path in folder.glob(pattern))
    files = [path for path in files if path.name != "training_args.bin"]
    if not files:
        raise InputError(f"{folder}: no config.json and no weights there; give a Hugging Face model folder")
    return sampled_digest((path.name, path) for path in files)


def model_identity(path: str | Path) -> str:
    """A folder's fingerprint, or the id itself for a model on the Hub."""
    return model_fingerprint(path) if Path(path).is_dir() else str(path)


def sampled_digest(files: Iterable[tuple[str, Path]]) -> str:
    """Sixteen hex digits of the names, sizes and first and last MiB of (name, path) pairs, which tell weights apart
    without reading gigabytes."""
    digest = hashlib.sha256()
    for name, path in files:
        size = path.stat().st_size
        digest.update(f"{name}|{size}|".encode())
        with open(path, "rb") as handle:
            digest.update(handle.read(_SAMPLE_BYTES))
            handle.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def file_name(identifier: str) -> str:
    """A file name, without its ending, for any text: as it stands but for letters that paths know, and where it is
    too long its beginning and a digest.

    >>> file_name("aime/24 1"), len(file_name("x" * 300))
    ('aime%2F24%201', 160)
    """
    name = quote(identifier, safe="")
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(identifier.encode()).hexdigest()[:32]
    return f"{name[: _LONGEST_NAME - 33]}-{digest}"


def has_content(folder: str | Path, pattern: str) -> bool:
    """Whether a file in `folder` holds anything that was made with the settings beside it: they bind only then, so
    that those of a command that failed before can be corrected."""
    return any(path.stat().st_size for path in Path(folder).glob(pattern))


def read_json(path: str | Path) -> JSON:
    """Raises `InputError` naming the file (and line) when it is missing or no JSON."""
    try:
        return _parse(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); restore the file or delete it") from None


def _parse(text: str) -> JSON:
    """Raises `ValueError` for what is no JSON, is nested too deep, or has an integer of thousands of digits."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_arrays(path: Path, remedy: str, names: Iterable[str] = ()) -> "dict[str, np.ndarray]":
    """All arrays of an `.npz` file, whose checksums are compared. Raises `InputError` naming it if it is damaged, or
    lacks one of the `names`."""
    import numpy as np

    try:
        with np.load(path) as stored:
            found = dict(stored)  # RuntimeError: a flipped bit may mean "encrypted"
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from None
    if missing := set(names) - found.keys():
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; {remedy}")
    return found


def append_jsonl(path: str | Path, records: Iterable[Mapping[str, JSON]]) -> None:
    """Append one line per record and flush, so that a kill costs at most the line being written."""
    path = Path(path)
    _make_folder(path.parent)
    with open(path, "a", encoding="utf-8") as handle:
        for record in records:
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path, growing: bool = False) -> Iterator[tuple[int, dict[str, JSON]]]:
    """Yield `(line number, object)` from `.jsonl` or `.jsonl.gz`; blank lines are passed over, and where another
    process is writing the file (`growing`) a last line without its end.

    Raises `InputError` naming file and line for a line that is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as handle:
            lines = iter(lambda: handle.readline(_LONGEST_LINE), "")
            for number, line in enumerate(lines, start=1):
                if len(line) == _LONGEST_LINE:
                    raise InputError(f"{path}, line {number}: longer than {_LONGEST_LINE >> 20} MiB; no trace is")
                if line.strip() and not (growing and not line.endswith("\n")):
                    yield number, _parse_line(path, number, line)
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: not readable as UTF-8 JSONL ({error})") from None


def _parse_line(path: Path, number: int, line: str) -> dict[str, JSON]:
    try:
        value = _parse(line)
        if "\\ud" in line.lower():  # the only way to half a surrogate pair, which could not be written again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise InputError(f"{path}, line {number}: not JSON ({reason}); mend or delete the line") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}")
    return value


def repair_torn_tail(path: str | Path) -> bool:
    """Cut off a last line that a kill left unfinished (no newline at its end). True if something was cut."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with open(path, "rb+") as handle:
        content = handle.read()
        if content.endswith(b"\n"):
            return False
        handle.truncate(content.rfind(b"\n") + 1)
    return True


def key_file() -> Path:
    """Where this user's key lies, in the user's own configuration folder."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "secateur" / "key"


def own_key() -> bytes:
    """32 random bytes that tell what this user made from what others did; made when they are first asked for."""
    path = key_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), open(path, "xb", opener=_for_the_user_alone) as handle:
            handle.write(secrets.token_bytes(_KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: your key cannot be kept there ({error.strerror}); set XDG_CONFIG_HOME to a folder of yours"
        ) from None
    if len(key) != _KEY_BYTES:
        raise InputError(f"{path}: is no key of this program; delete it, and a new one is made")
    return key


def _for_the_user_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def require_folder(folder: str | Path) -> None:
    """Raises `InputError` where `hold_folder` could not make it, as far as that is seen without making anything."""
    place = Path(folder).absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InputError(f"{folder}: no folder that can be written to ({there}); give another 'output_dir'")


@contextlib.contextmanager
def hold_folder(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Keep a second command out of `folder` while this one works in it; a kill releases it. With `wait` the second
    one waits for the first.

    A command that ends before it has written anything leaves no folder behind. Raises `InputError` naming the process
    that holds it. File systems without `flock` get a lock that is a mere file, which is taken over once its process
    is gone.
    """
    folder = Path(folder)
    try:
        _make_folder(folder)
        lock = _acquired(folder / LOCK, wait)
    except Timeout:
        raise InputError(f"{folder}: {_holder(folder)} is working in it; wait for it or end it") from None
    except OSError as error:
        if not is_no_access(error):
            raise
        raise InputError(f"{folder}: no folder that can be written to ({error}); give another 'output_dir'") from None
    try:
        write_text(folder / HOLDER, f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        _leave_no_empty_folder(folder)
        lock.release()


def _acquired(path: Path, wait: bool) -> BaseFileLock:
    lock: BaseFileLock = FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in _NO_LOCKS:
            raise
        lock = SoftFileLock(path.with_name(_SOFT_LOCK))  # what the first attempt made there is no record of a holder
        lock.acquire(blocking=wait)
    return lock


def _holder(folder: Path) -> str:
    """Who wrote the folder's `HOLDER`; it comes a moment after the lock."""
    path = folder / HOLDER
    return path.read_text(encoding="utf-8") if path.is_file() else "another process"


def held_by(folder: str | Path) -> str | None:
    """Who works in a folder now, as `hold_folder` has noted it; None where nobody does, or its process is gone. Takes
    no lock: whoever only looks must keep nobody out."""
    path = Path(folder) / HOLDER
    noted = path.read_text(encoding="utf-8") if path.is_file() else ""
    process, _, machine = noted.removeprefix("process ").partition(" on ")
    if not process.isdecimal():
        return None
    gone = machine == platform.node() and not is_alive(int(process))
    return None if gone else noted


def _leave_no_empty_folder(folder: Path) -> None:
    (folder / HOLDER).unlink(missing_ok=True)
    locks = [folder / LOCK, folder / _SOFT_LOCK]
    if all(path in locks for path in folder.iterdir()):
        for path in locks:  # a process that has just opened one finds that it is gone
            path.unlink(missing_ok=True)
        folder.rmdir()
