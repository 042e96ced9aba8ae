"""What every key of a config means, read from the source: docstrings, `key: text` lines of the class, comments.

The first of these that says something counts: a string below the field; a `key: text` entry in the docstring of the
class (`a, b: text` is of both, `validation_*: text` of all that no entry of their own names); a comment on the
field's line. What a class leaves out is looked for in its bases.
"""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_NAME = r"`?[a-z_][a-z0-9_]*(?:_\*|_…)?`?"
_ENTRY = re.compile(rf"(?:^|(?<=[.;] )|(?<=\n))({_NAME}(?:, {_NAME})*): ")


@dataclass(frozen=True)
class Meaning:
    """`text` says what `keys` are for; `owner` is the class that says so."""

    keys: tuple[str, ...]
    text: str
    owner: type


def meanings_of(cls: type) -> dict[str, Meaning]:
    """Key → meaning, for all fields of a dataclass that have one; a class overrides its bases."""
    keys = [field.name for field in dataclasses.fields(cls) if field.init]
    found: dict[str, Meaning] = {}
    for owner in cls.__mro__:
        if owner is object or "__dataclass_fields__" not in vars(owner):
            continue
        for meaning in _own_meanings(owner, keys):
            left = tuple(key for key in meaning.keys if key not in found)
            found |= {key: dataclasses.replace(meaning, keys=left) for key in left}
    return found


def entries(docstring: str, keys: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """The `key: text` entries of a docstring that are about `keys`: [(the keys of the entry, text)].

    An entry begins a line, or follows a full stop or a semicolon. It ends where the next one begins, at an empty line
    and at a line that begins at the margin.

    >>> entries("What it is.\\n\\na, b: two\\n  numbers. c: one.\\nMore.", ["a", "b", "c"])
    [(('a', 'b'), 'two numbers'), (('c',), 'one')]
    """
    text = inspect.cleandoc(docstring)
    starts = [(match, named) for match in _ENTRY.finditer(text) if (named := _named(match[1], keys))]
    ends = [match.start() for match, _ in starts][1:] + [len(text)] * bool(starts)
    raw = [(named, text[match.end() : end]) for (match, named), end in zip(starts, ends, strict=True)]
    explicit = {key for named, _ in raw for key in named if not isinstance(key, _Wild)}
    return [
        (tuple(str(key) for key in named if not (isinstance(key, _Wild) and key in explicit)), _tidy(body))
        for named, body in raw
    ]


class _Wild(str):
    """A key that an entry names by its beginning only."""


def _named(words: str, keys: Sequence[str]) -> list[str]:
    """The keys of an entry's head; [] if one of its words is no key, so that it is prose."""
    named: list[str] = []
    for word in (word.strip("`") for word in words.split(", ")):
        stem = re.sub(r"(\*|…)$", "", word)
        wanted = [word] if word in keys else [_Wild(key) for key in keys if stem != word and key.startswith(stem)]
        if not wanted:
            return []
        named += wanted
    return named


def _tidy(body: str) -> str:
    """One line: what follows an empty line or a line at the margin is no part of an entry."""
    first, *rest = body.split("\n")
    kept = [first]
    for line in rest:
        if not line.startswith(" "):
            break
        kept.append(line)
    return " ".join(" ".join(kept).split()).rstrip(" .;")


def _own_meanings(owner: type, keys: Sequence[str]) -> list[Meaning]:
    below, beside = _written_at_fields(owner)
    docstring = vars(owner).get("__doc__") or ""
    said = [Meaning((key,), text, owner) for key, text in below.items()]
    said += [Meaning(named, text, owner) for named, text in entries(docstring, keys)]
    said += [Meaning((key,), text, owner) for key, text in beside.items()]
    return [meaning for meaning in said if meaning.text]


def _written_at_fields(owner: type) -> tuple[dict[str, str], dict[str, str]]:
    """Field → the string below it, and field → the comment on its line; {} for classes made without source."""
    try:
        source = textwrap.dedent(inspect.getsource(owner))
    except (OSError, TypeError):
        return {}, {}
    body = ast.parse(source).body[0].body
    comments = _comments(source)
    below, beside = {}, {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign):
            continue
        key = ast.unparse(statement.target)
        if statement.end_lineno in comments:
            beside[key] = comments[statement.end_lineno]
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            below[key] = " ".join(str(following.value.value).split()).rstrip(".")
    return below, beside


def _comments(source: str) -> Mapping[int, str]:
    """Line → comment that stands on it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
