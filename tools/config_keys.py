"""Which commands there are, what each may be told, and what every key means, read from the source."""

import ast
import dataclasses
import functools
import importlib
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schedules.config import ScheduleConfig
from secateur.runtime.errors import InputError
from trainers.dry_run.report import PLAN_OPTIONS

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


REPOSITORY = Path(__file__).resolve().parent.parent
_FOLDERS = ("schedules", "trainers", "eval", "rewards", "secateur")
_DOOR = REPOSITORY / "secateur" / "cli.py"  # leads to all the others
_BEGINNING = "@entry_point\ndef main("  # of a script that a user starts
_READER = "parse_config"  # called with a config class


@dataclass(frozen=True)
class Command:
    """A script that a user starts. `config` is the class of its keys, or `arguments` are its argparse options; some
    scripts take neither."""

    path: str
    purpose: str
    config: type | None = None
    arguments: tuple[tuple[str, str, str], ...] = ()  # (name, default, meaning)
    launch_options: tuple[str, ...] = ()  # taken off the command line before the keys are read


@functools.cache
def find_commands() -> tuple[Command, ...]:
    """All commands, by folder. Raises `InputError` for an argument without help."""
    return tuple(
        command
        for folder in _FOLDERS
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        if path != _DOOR and _BEGINNING in path.read_text(encoding="utf-8")
        for command in _commands_of(path)
    )


def _commands_of(path: Path) -> Iterator[Command]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    name = path.relative_to(REPOSITORY).as_posix()
    purpose = purpose_of(path)
    if arguments := [_argument(call, name) for call in calls if _called(call) == "add_argument"]:
        yield Command(name, purpose, arguments=tuple(arguments))
    elif config := _config_class(calls, name):
        launch_options = tuple(option for call in calls for option in _launch_option(call))
        yield Command(name, purpose, config, launch_options=launch_options)
    else:
        yield Command(name, purpose)


def purpose_of(path: Path) -> str:
    """What a script says of itself first."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _config_class(calls: list[ast.Call], name: str) -> type | None:
    for call in calls:
        if _called(call) == "read_run_config":
            return ScheduleConfig
        if _called(call) == _READER and call.args and isinstance(call.args[0], ast.Name):
            module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
            found = getattr(module, call.args[0].id, None)
            if isinstance(found, type) and dataclasses.is_dataclass(found):
                return found
    return None


def _launch_option(call: ast.Call) -> list[str]:
    """The options that a script takes for itself, in a call such as `take_options(argv, ("launcher",))`."""
    if _called(call) != "take_options":
        return []
    if ast.unparse(call.args[1]) == "PLAN_OPTIONS":
        return [f"--{name}" for name in PLAN_OPTIONS]
    return [f"--{name.value}" for name in ast.walk(call.args[1]) if isinstance(name, ast.Constant)]


def _argument(call: ast.Call, where: str) -> tuple[str, str, str]:
    keywords = {word.arg: word.value for word in call.keywords}
    name = str(ast.literal_eval(call.args[0]))
    if "help" not in keywords:
        raise InputError(f"{where}: the argument '{name}' has no help; add help=…")
    optional = name.startswith("-") and "required" not in keywords
    default = "null" if optional else "required"
    if "default" in keywords:
        default = ast.unparse(keywords["default"]).strip("'\"")
    return name, default, " ".join(str(ast.literal_eval(keywords["help"])).split())
