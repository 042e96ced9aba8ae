"""Typed records on disk: frozen dataclasses as JSON, with a format number, written and read in one place each."""

from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json, write_json

R = TypeVar("R")
FORMAT_KEY = "format"


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


def write_record(path: str | Path, record: object, number: int) -> None:
    """Replace `path` by the record and its format number."""
    write_json(path, {FORMAT_KEY: number, **as_json(record)})


def read_record(path: str | Path, kind: type[R], number: int, remedy: str) -> R:
    """The record in `path`. Raises `InputError` if it is missing, of another format, or not such a record; `remedy`
    says how to get a new one."""
    values = read_json(path)
    found = values.pop(FORMAT_KEY, None) if isinstance(values, dict) else None
    if found != number:
        raise InputError(f"{path}: has format {found}, this version reads {number}; {remedy}")
    return record_of(kind, values, str(path))
