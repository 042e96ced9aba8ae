"""Typed records on disk: frozen dataclasses as JSON, with a format number, written and read in one place each.

Every record carries a checksum of itself, so that another digit or letter in it does not pass for what was computed.
One without is taken as it is: it was written by hand.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import xxhash
from pydantic import TypeAdapter, ValidationError

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, model_identity, read_json, read_jsonl, write_json

R = TypeVar("R")
FORMAT_KEY, CHECKSUM_KEY = "format", "checksum"


@lru_cache
def _adapter(kind: type[R]) -> TypeAdapter[R]:
    return TypeAdapter(kind)


def as_json(record: object) -> JSON:
    """A record, or a sequence or mapping of records, as JSON values: tuples become lists."""
    return _adapter(type(record)).dump_python(record, mode="json")


def record_of(kind: type[R], values: JSON, where: str) -> R:
    """A record from JSON values. Raises `InputError` that names `where`, the key and what is wrong with it."""
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"{where}: {key}: {first['msg'].lower()}; it is no {kind.__name__} of this program"
        ) from None


def with_checksum(values: Mapping[str, JSON]) -> dict[str, JSON]:
    """The values and their checksum (XXH3, 64 bits: against accidents, not against forgers)."""
    return {**values, CHECKSUM_KEY: _checksum(values)}


def without_checksum(values: Mapping[str, JSON], where: str, remedy: str) -> dict[str, JSON]:
    """The values without their checksum. Raises `InputError` naming `where` if it is not theirs."""
    bare = {key: value for key, value in values.items() if key != CHECKSUM_KEY}
    if CHECKSUM_KEY in values and values[CHECKSUM_KEY] != _checksum(bare):
        raise InputError(
            f"{where}: was changed since it was written; restore it, or {remedy} (if you changed it on purpose, take "
            f"out its '{CHECKSUM_KEY}')"
        )
    return bare


def read_with_checksums(path: Path, remedy: str) -> Iterator[tuple[int, dict[str, JSON]]]:
    """`read_jsonl` of lines that may carry checksums. A changed one raises `InputError` naming file and line."""
    for number, line in read_jsonl(path):
        yield number, without_checksum(line, f"{path}, line {number}", remedy)


def _checksum(values: Mapping[str, JSON]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(values).encode())


def write_record(path: str | Path, record: object, number: int) -> None:
    """Replace `path` by the record, its format number and its checksum."""
    write_json(path, with_checksum({FORMAT_KEY: number, **as_json(record)}))


def read_record(path: str | Path, kind: type[R], number: int, remedy: str) -> R:
    """The record in `path`. Raises `InputError` if it is missing, of another format, changed since, or not such a
    record; `remedy` says how to get a new one."""
    values = read_json(path)
    found = values.get(FORMAT_KEY) if isinstance(values, dict) else None
    if found != number:
        raise InputError(f"{path}: has format {found}, this version reads {number}; {remedy}")
    bare = without_checksum(values, str(path), remedy)
    return record_of(kind, {key: value for key, value in bare.items() if key != FORMAT_KEY}, str(path))


START_MODEL_FILE, _START_MODEL_FORMAT = "start_model.json", 1


@dataclass(frozen=True)
class StartModel:
    """What the model of a training was when it began: `path` as the config names it, `identity` of its weights."""

    path: str
    identity: str


def write_start_model(folder: Path, path: str) -> None:
    write_record(folder / START_MODEL_FILE, StartModel(path, model_identity(path)), _START_MODEL_FORMAT)


def check_start_model(folder: Path, path: str) -> None:
    """Raises `InputError` if the training in `folder` began with other weights than lie in `path` now."""
    if not (folder / START_MODEL_FILE).is_file():
        return
    there = read_record(folder / START_MODEL_FILE, StartModel, _START_MODEL_FORMAT, "delete it to take what is there")
    if there.identity != (now := model_identity(path)):
        raise InputError(
            f"{folder}: was begun with other weights in key 'model': {there.identity} then, {now} in {path} now; "
            "restore the model, or give another 'output_dir'"
        )
