"""One YAML file, one run: keys are dataclass fields, each can be overridden on the command line (TRL's convention).

Unknown keys and wrong types end the run here, before a model is loaded.
Things of a user's own are named in a config as `package.module:Name`.
"""

import dataclasses
import difflib
import importlib
import math
import os
import re
import sys
import types
import typing
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, write_text

C = TypeVar("C")
LEFT_OUT = "(left out)"
_SEEDS = 4_000_000_000
_BEGIN, _END = "# Written by secateur, to its last line of three dots.\n", "\n...\n"
_SECRET = ("token", "_key", "apikey", "password", "secret", "authorization")  # that names of keys end with


def write_yaml(path: str | Path, values: Mapping[str, JSON]) -> None:
    """Replace `path`, whose ends are marked: YAML that is cut off would otherwise read as fewer keys."""
    write_text(path, _BEGIN + yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, explicit_end=True))


def read_yaml(path: str | Path, remedy: str = "restore it from a copy") -> dict[str, JSON]:
    """Raises `InputError` for a file that is missing, holds no keys and values, or was cut off since `write_yaml`."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such config file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.startswith(_BEGIN) and not text.endswith(_END):
            raise InputError(f"{path}: was cut off since it was written; {remedy}")
        value = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"{path}: not YAML ({error})") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected keys and values, found a {type(value).__name__}")
    return _at_home(value)


def read_written_yaml(path: str | Path, remedy: str) -> dict[str, JSON]:
    """`read_yaml` of a file that `write_yaml` wrote, which was never empty."""
    values = read_yaml(path, remedy)
    if not values:
        raise InputError(f"{path}: was cut off since it was written; {remedy}")
    return values


class _PlainNumbers(yaml.SafeLoader):
    """YAML 1.1 takes 042 for 34 and 12:30 for 750: here the first is refused and the second is text. Of a key that is
    there twice it takes the last: refused as well."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | str:
        text = self.construct_scalar(node)
        digits = text.lstrip("+-")
        if digits.startswith("0") and digits.replace("_", "").isdecimal() and digits.strip("0_"):
            raise ValueError(f"{text} would be read as an octal number; write {digits.lstrip('0_')}")
        return text if ":" in text else super().construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, JSON]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise ValueError(
                    f"the key '{key.value}' is there twice, in line {lines[key.value]} and {line}; keep one"
                )
            lines[str(key.value)] = line
        return super().construct_mapping(node, deep)


_PlainNumbers.add_constructor("tag:yaml.org,2002:int", _PlainNumbers.construct_yaml_int)


def parse_yaml(text: str) -> JSON:
    """Raises `ValueError` for what is no YAML, is nested too deep, or has a number that is not what it looks like."""
    try:
        return yaml.load(text, _PlainNumbers)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ValueError(f"{error.problem}{f', line {mark.line + 1}' if mark and mark.line else ''}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _at_home(value: JSON) -> JSON:
    """Texts that begin with `~/` are paths in the user's folder: written out here, for not all who read them would,
    and a run would lie in two places."""
    if isinstance(value, dict):
        return {key: _at_home(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_at_home(entry) for entry in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def reject_unknown(keys: Sequence[str], known: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            listed = f"known keys: {', '.join(sorted(known))}" if known else "there are none here; --help says more"
            remedy = f"did you mean '{near[0]}'?" if near else listed
            raise InputError(f"{where}: unknown key '{key}'; {remedy}")


def check_types(cls: type, values: Mapping[str, JSON], where: str) -> dict[str, Any]:
    """`values` with every entry converted to the declared type of its field, or `InputError` naming the key."""
    hints = typing.get_type_hints(cls)
    checked = {}
    for key, value in values.items():
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(_as_wanted(value, hints[key]))
            _require_finite(checked[key])
        except ValueError as error:  # a ValidationError is one
            raise InputError(
                f"{where}: key '{key}' has the value {value!r}: {_expected(hints[key], error)}{_example(hints[key])}"
            ) from None
    return checked


def _require_finite(value: JSON) -> None:
    """Raises `ValueError` for a number that is none or has no end: it would pass every later comparison, or none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number with an end")
    for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _require_finite(entry)


def _expected(hint: object, error: ValueError) -> str:
    """What a key takes, and what is wrong with the value that it got."""
    if typing.get_origin(hint) is typing.Literal:
        return f"choose one of {', '.join(map(str, typing.get_args(hint)))}"
    wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
    return f"expected {wanted} ({reason})"


def _as_wanted(value: JSON, hint: object) -> JSON:
    """A lone value where nothing but a list is taken becomes a list of one: `--limits 200`. Raises `ValueError` for
    yes or no where a number is wanted: pydantic takes them for 1 and 0; and for several words where one is."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = {typing.get_origin(part) or part for part in (typing.get_args(hint) if union else (hint,))}
    if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
        raise ValueError("a number, not yes or no")
    if isinstance(value, list) and kinds <= {str, int, float, bool, type(None)}:
        raise ValueError("one value: on the command line in quotes if it has blanks, and a key begins with --")
    lone = value is not None and not isinstance(value, list | dict)
    return [value] if lone and kinds <= {list, tuple, type(None)} else value


def _example(hint: object) -> str:
    """How lists and mappings are written, for keys that take nothing else."""
    kinds = {typing.get_origin(part) or part for part in typing.get_args(hint) or (hint,)}
    kinds = {typing.get_origin(hint)} if typing.get_origin(hint) in (list, dict) else kinds
    if list in kinds:
        return "; a list is written [a, b], on the command line --key a b"
    return "; a mapping is written {name: value}, on the command line in quotes" if dict in kinds else ""


def split_command_line(argv: Sequence[str]) -> tuple[str | None, dict[str, JSON]]:
    """`--config FILE --key value …` → (FILE, {key: value}); values are read as YAML scalars, several as a list."""
    path, overrides, index = None, {}, 0
    while index < len(argv):
        if not argv[index].startswith("--"):
            raise InputError(f"command line: unexpected '{argv[index]}'; write --key value")
        key, equals, inline = argv[index][2:].partition("=")
        index += 1
        values = [inline] if equals else []
        while not equals and index < len(argv) and not argv[index].startswith("--"):
            values.append(argv[index])
            index += 1
        if not values:
            raise InputError(f"command line: --{key} has no value; write --{key} value")
        if key == "config":
            if len(values) > 1:
                raise InputError(f"command line: --config takes one file, not {values}; write --key value")
            path = values[0]
        else:
            parsed = [_read_value(key, value) for value in values]
            overrides[key] = parsed[0] if len(parsed) == 1 else parsed
    return path, overrides


def take_options(argv: Sequence[str], names: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """`argv` without `--name VALUE` and `--name=VALUE` of `names`, and these values as they were typed.

    >>> take_options(["--seed", "1", "--launcher=srun -N 2"], ["launcher"])
    (['--seed', '1'], {'launcher': 'srun -N 2'})
    """
    left, taken, words = list[str](), dict[str, str](), iter(argv)
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key not in names:
            left.append(word)
            continue
        value = value if equals else next(words, "--")
        if value.startswith("--"):
            raise InputError(f"command line: --{key} has no value; write --{key} value")
        taken[key] = value
    return left, taken


def _read_value(key: str, text: str) -> JSON:
    try:
        return _at_home(parse_yaml(text))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"command line: --{key} has the value '{text:.80}', which is not YAML ({reason}); quote it twice if it "
            "is text"
        ) from None


def parse_config(cls: type[C], argv: Sequence[str] | None = None) -> C:
    """Build the dataclass `cls` from `--config FILE` and overrides; its `__post_init__` checks combinations.

    A `ValueError` from `__post_init__` becomes an `InputError` naming the file.
    """
    argv = sys.argv[1:] if argv is None else argv
    path, overrides = split_command_line(argv)
    values = read_yaml(path) if path else {}
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    where = str(path) if path else "command line"
    reject_unknown(list(values), known, where)
    reject_unknown(list(overrides), known, "command line")
    merged = check_types(cls, values, where) | check_types(cls, overrides, "command line")
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.init
        and field.name not in merged
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: key '{missing[0]}' is required and not given; add it or pass --{missing[0]}")
    try:
        return cls(**merged)
    except InputError as error:
        raise InputError(f"{blamed(str(error), overrides, where)}: {error}") from None


def blamed(message: str, overrides: Mapping[str, JSON], where: str) -> str:
    """Where the key that a message names first was given."""
    named = re.search(r"(?:key )?'([a-z_]+)", message)
    return "command line" if named and named[1] in overrides else where


def check_seed(seed: int) -> None:
    """Raises `InputError` for a seed that numpy does not take, or would not once rounds have added to it."""
    if not 0 <= seed < _SEEDS:
        raise InputError(f"key 'seed' has the value {seed}; give a whole number from 0 to below {_SEEDS:,}")


def without_secrets(value: JSON) -> JSON:
    """Nested keys whose names end like a secret's keep their name only.

    >>> without_secrets({"a": 1, "init": [{"hub_token": "x", "token": "y", "max_tokens": 9}]})
    {'a': 1, 'init': [{'hub_token': '(left out)', 'token': '(left out)', 'max_tokens': 9}]}
    """
    if isinstance(value, Mapping):
        return {
            key: LEFT_OUT if str(key).lower().endswith(_SECRET) else without_secrets(entry)
            for key, entry in value.items()
        }
    return [without_secrets(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def is_dotted(name: str) -> bool:
    """Whether a value of a config names something to import, rather than one of ours.

    >>> is_dotted("my_package.rewards:SHORT"), is_dotted("hard_limit")
    (True, False)
    """
    return ":" in name


def import_named(path: str, key: str) -> object:
    """What `package.module:Name` stands for. Raises `InputError`, naming the config's `key`, for a module that cannot
    be imported and for a name that it does not have."""
    module_name, _, name = path.partition(":")
    where = f"key '{key}' has the value '{path}'"
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{where}: the module '{module_name}' cannot be imported ({error}); write package.module:Name, and "
            "install the package or put its folder on PYTHONPATH"
        ) from None
    if not hasattr(module, name):
        raise InputError(f"{where}: the module '{module_name}' has no '{name}'; write package.module:Name")
    return getattr(module, name)
