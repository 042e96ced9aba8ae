"""Markdown tables of keys: types, defaults and free text as cells."""

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Key:
    """A row of a table: one key or several that are explained together."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    defaults: tuple[str, ...]
    text: str


def slug(title: str) -> str:
    """GitHub's anchor of a heading."""
    kept = (letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")
    return "".join(kept)


def type_text(hint: Any) -> str:
    """A type as it is written in YAML's words: `Literal` by its values, `None` as null."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(value_text(value) for value in inner)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_text(one) for one in inner)
    if hint is type(None):
        return "null"
    if origin is not None and inner:
        named = ", ".join(type_text(one) for one in inner if one is not ...)
        return f"{origin.__name__.lower()}[{named}]"
    return str(getattr(hint, "__name__", hint))


def default_text(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return value_text(field.default_factory())
    return value_text(field.default)


def value_text(value: Any) -> str:
    """A default as it would stand in a YAML file."""
    if value in (dataclasses.MISSING, inspect.Parameter.empty):
        return "required"
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)  # YAML reads it, and it stays on one line
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip().removesuffix("\n...").strip()


def table(keys: Sequence[Key]) -> str:
    if not keys:
        return ""
    typed, given = (any(any(getattr(key, part)) for key in keys) for part in ("types", "defaults"))
    heads = ["key", *(["type"] if typed else []), *(["default"] if given else []), "meaning"]
    rows = []
    for key in keys:
        cells = ["<br>".join(f"`{name}`" for name in key.names)]
        cells += ["<br>".join(map(plain, key.types))] if typed else []
        cells += ["<br>".join(map(code, key.defaults))] if given else []
        rows.append((*cells, plain(key.text)))
    return rows_text(heads, rows)


def rows_text(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def code(text: str) -> str:
    if text in ("required", ""):
        return text
    return "`" + text.replace("|", "\\|") + "`"


def plain(text: str) -> str:
    """Text in a Markdown table: outside of backticks nothing is a tag or emphasis, nowhere is there a bar."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)
