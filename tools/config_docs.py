"""Writes docs/config.md: every key of every command with its type, its default and its meaning.

    python -m tools.config_docs

All of it is read from the source, so the page is made anew whenever a key changes; a test holds it to that. A key
whose meaning is written nowhere ends the command: see tools/config_keys.py for where it can stand.
"""

import dataclasses
import enum
import inspect
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from trl import GRPOConfig

from eval.table.pruning import rule_keys
from rewards.registry import REWARDS
from schedules.config import ScheduleConfig
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.deepprune.rule import PruneRule
from secateur.engines.registry import ENGINES, SET_HERE, engine_class, engine_kind
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, write_text
from secateur.runtime.process import entry_point
from tools.config_keys import REPOSITORY, Command, Meaning, entries, find_commands, meanings_of
from trainers.dry_run.report import PLAN_OPTIONS
from trainers.grpo import keys as grpo_keys


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
    """A type as it is written in YAML's words: `Literal` and enumerations by their values, `None` as null."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(value_text(value) for value in inner)
    if origin in (types.UnionType, typing.Union):
        named = any(_is_choice(one) for one in inner)  # by its values, which are texts
        return " or ".join(type_text(one) for one in inner if not (named and one is str))
    if _is_choice(hint):
        return ", ".join(one.value for one in hint)
    if hint is type(None):
        return "null"
    if hint is JSON:
        return "JSON"
    if origin is not None and inner:
        named = ", ".join(type_text(one) for one in inner if one is not ...)
        return f"{origin.__name__.lower()}[{named}]"
    return str(getattr(hint, "__name__", hint))


def _is_choice(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


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


PAGE = REPOSITORY / "docs" / "config.md"
_HEAD = """# Every key

Made by `python -m tools.config_docs` from the source; do not edit it by hand.

A config is one YAML file, `--config FILE`. Each key can be overridden on the command line: `--n 32`, a list as
`--limits 4000 3000`, a mapping in quotes as `--models '{base: FOLDER}'`. An unknown key, a wrong type or an
impossible value ends the run before a model is loaded. `--help` prints the keys of a command. *Required* means that
there is no default.
"""
LAUNCH_OPTIONS = {
    "--accelerate_config": "the launch config of accelerate, a file of `configs/accelerate/`; required",
    "--launcher": "words in front of every launch that start it on all machines (docs/training.md)",
    "--num_processes": "how many processes, in the place of the number in the launch config",
}
_RULE = "The rule"
_SHARED = {
    "SamplingKeys": "Every script that samples",
    "EngineKeys": "The engine",
    "PlanKeys": "The dry run",
    "SamplingPlanKeys": "The dry run of scripts that sample",
    "JudgeKeys": "What a judge is made from",
    **{kind.keys.__name__: f"Judges of kind `{kind.name}`" for kind in JUDGE_KINDS.values() if kind.keys},
}


def page() -> str:
    """The whole page. Raises `InputError` that names every key without a meaning."""
    commands = find_commands()
    sections = list(_sections(commands))
    contents = "\n".join(f"- [{title}](#{slug(title)}): {purpose}" for title, purpose, _ in sections)
    bodies = "\n\n".join(f"## {title}\n\n{body}" for title, _, body in sections)
    return f"{_HEAD}\n{contents}\n\n{bodies}\n"


def _sections(commands: Sequence[Command]) -> Iterator[tuple[str, str, str]]:
    """(heading, what it is in a line, text) of every section."""
    titles = _titles(commands)
    for config, title in titles.items():
        mine = [command for command in commands if command.config is config]
        yield title, plain(mine[0].purpose), _command_text(mine, titles)
        if config is ScheduleConfig:
            yield "TRL's keys", "what a training config may also hold, and what not", _trl_text()
            yield "Rewards", "`reward_options` of each `reward`", _reward_text()
    for command in commands:
        if command.arguments:
            rows = [Key((name,), ("",), (default,), text) for name, default, text in command.arguments]
            yield f"`{command.path}`", plain(command.purpose), table(rows)
    for shared, title in _shared(titles).items():
        yield title, _intro(shared), table(own_keys(shared))
    yield "Engine options", "`engine_options` of each `engine`", _engine_text()
    yield _RULE, "what a judge's scores become: in a config, in `variants` and in a sweep", table(_rule_keys())


def _titles(commands: Sequence[Command]) -> dict[type, str]:
    """Config class → heading: the commands that take it."""
    found: dict[type, list[str]] = {}
    for command in commands:
        if command.config is not None:
            found.setdefault(command.config, []).append(f"`{command.path}`")
    return {config: ", ".join(paths) for config, paths in found.items()}


def _shared(commands: Mapping[type, str]) -> dict[type, str]:
    """Base classes of configs that are no command's own → heading."""
    bases = dict.fromkeys(base for config in commands for base in config.__mro__ if dataclasses.is_dataclass(base))
    named = {base: title_of(base) for base in bases if base not in commands}
    return {base: title for base, title in named.items() if not title.startswith("_")}


def title_of(shared: type) -> str:
    """The heading above keys that several commands share."""
    return _RULE if shared in _rule_parts() else _SHARED.get(shared.__name__, shared.__name__)


def _command_text(commands: Sequence[Command], titles: Mapping[type, str]) -> str:
    config = commands[0].config
    assert config is not None
    parts = [table(own_keys(config))]
    if others := _borrowed_from(config, titles):
        parts.append(f"And the keys of {', '.join(f'[{title}](#{slug(title)})' for title in others)}.")
    for command in commands:
        if command.launch_options:
            rows = [Key((name,), ("",), ("",), text) for name, text in launch_meanings(command).items()]
            parts += [f"On the command line of `{command.path}` only:", table(rows)]
    return "\n\n".join(part for part in parts if part)


def _intro(config: type) -> str:
    """What the docstring says before its first entry."""
    text = inspect.getdoc(config) or ""
    first, keys = text.partition("\n\n")[0], [field.name for field in dataclasses.fields(config)]
    return "" if entries(first, keys) or text.startswith(f"{config.__name__}(") else plain(" ".join(first.split()))


def launch_meanings(command: Command) -> dict[str, str]:
    """Option → what it is for; a launch of a schedule may be told of another launch, which it plans."""
    planned = {f"--{name}": text for name, text in PLAN_OPTIONS.items()}
    meanings = planned if set(command.launch_options) <= planned.keys() else LAUNCH_OPTIONS
    return {name: meanings[name] for name in command.launch_options}


def own_keys(config: type) -> list[Key]:
    """The keys that a class brings or explains itself."""
    said, hints = all_meanings(config), typing.get_type_hints(config)
    fields = {field.name: field for field in dataclasses.fields(config) if field.init}
    mine = [name for name in fields if said[name].owner is config or name in vars(config).get("__annotations__", {})]
    rows: dict[tuple[str, ...], Key] = {}
    for name in mine:
        names = tuple(key for key in said[name].keys if key in mine)
        types_ = tuple(type_text(hints[key]) for key in names)
        rows.setdefault(names, Key(names, types_, tuple(default_text(fields[key]) for key in names), said[name].text))
    return list(rows.values())


def _borrowed_from(config: type, titles: Mapping[type, str]) -> list[str]:
    """Headings of the sections that have the other keys of a class."""
    mine = {name for key in own_keys(config) for name in key.names}
    owners = [meaning.owner for name, meaning in all_meanings(config).items() if name not in mine]
    rule = dict.fromkeys(_rule_parts(), _RULE)
    known = {**titles, **_shared(titles), **rule}
    return list(dict.fromkeys(known[owner] for owner in owners))


def all_meanings(config: type) -> dict[str, Meaning]:
    """Key → meaning of all fields. Raises `InputError` where one has none."""
    names = [field.name for field in dataclasses.fields(config) if field.init]
    found = meanings_of(config)
    if set(rule_keys()) <= set(names):
        found = _rule_meanings() | found
    return _complete(config, names, found)


def _complete(owner: type, names: Iterable[str], found: dict[str, Any]) -> dict[str, Any]:
    if missing := [name for name in names if name not in found]:
        raise InputError(
            f"{owner.__module__}.{owner.__name__}: nothing says what these keys mean: {', '.join(missing)}; "
            f"add a line `{missing[0]}: text` to the docstring of the class"
        )
    return found


def _rule_meanings() -> dict[str, Meaning]:
    return {key: meaning for part in _rule_parts() for key, meaning in meanings_of(part).items()}


def _rule_parts() -> list[type]:
    rule = PruneRule()
    inner = [type(getattr(rule, field.name)) for field in dataclasses.fields(rule)]
    return [part for part in inner if dataclasses.is_dataclass(part)] + [PruneRule]


def _rule_keys() -> list[Key]:
    keys = set(rule_keys())
    rows = []
    for part in _rule_parts():
        names = [field.name for field in dataclasses.fields(part) if field.name in keys]
        said, hints = _complete(part, names, meanings_of(part)), typing.get_type_hints(part)
        fields = {field.name: field for field in dataclasses.fields(part)}
        rows += [Key((n,), (type_text(hints[n]),), (default_text(fields[n]),), said[n].text) for n in names]
    return rows


def _engine_text() -> str:
    return "\n\n".join(f"`engine: {kind}`\n\n{table(list(_engine_keys(kind)))}" for kind in ENGINES)


def _engine_keys(kind: str) -> Iterator[Key]:
    chosen, address = engine_class(kind), engine_kind(kind).address_option
    hints = typing.get_type_hints(chosen.__init__)
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(chosen.__init__).parameters.items()
        if name == address or (parameter.kind is parameter.KEYWORD_ONLY and name not in SET_HERE)
    }
    said = dict(entries(chosen.__doc__ or "", list(options)))
    texts = _complete(chosen, options, {key: text for keys, text in said.items() for key in keys})
    for name, default in options.items():
        yield Key((name,), (type_text(hints[name]),), (value_text(default),), texts[name])


def _reward_text() -> str:
    owners: dict[type, list[str]] = {}
    for name, spec in REWARDS.items():
        for owner in spec.options.__mro__:
            if dataclasses.is_dataclass(owner):
                owners.setdefault(owner, []).append(f"`{name}`")
    parts = []
    for owner, names in sorted(owners.items(), key=lambda item: -len(item[1])):
        whose = "every reward" if len(names) == len(REWARDS) else ", ".join(names)
        if rows := own_keys(owner):
            parts.append(f"Of {whose}:\n\n{table(rows)}")
    return "What each reward is: [rewards.md](rewards.md).\n\n" + "\n\n".join(parts)


def _trl_text() -> str:
    theirs = {field.name: default_text(field) for field in dataclasses.fields(GRPOConfig) if field.init}
    ours = {key: value_text(value) for key, value in grpo_keys.PINNED.items()}
    differ = [key for key in ours if ours[key] != theirs[key]]
    same = ", ".join(f"`{key}: {ours[key]}`" for key in ours if key not in differ)
    why = _comments_above(differ)
    return "\n\n".join(
        [
            "Every other key of a training config is one of TRL's `GRPOConfig` and goes through as it is. These have "
            "another default here:",
            rows_text(
                ("key", "default here", "TRL's", "why"), [(f"`{k}`", ours[k], theirs[k], why[k]) for k in differ]
            ),
            f"These have TRL's own, held fast against a change of versions: {same}.",
            "`vllm_max_model_length` is `max_prompt_tokens` and the largest limit, and may not be less. `hub_token` "
            "is sent to the Hub and written nowhere.",
            "These cannot be set:",
            rows_text(("key", "why, and what to set"), [(f"`{k}`", plain(v)) for k, v in grpo_keys.OWNED.items()]),
        ]
    )


def _comments_above(keys: Iterable[str]) -> dict[str, str]:
    """Key of `PINNED` → the comment that stands in the line above it in the source."""
    lines = inspect.getsource(grpo_keys).splitlines()
    found = {}
    for key in keys:
        place = next(index for index, line in enumerate(lines) if line.startswith(f'    "{key}": ') and index)
        above = lines[place - 1].strip()
        found[key] = plain(above.lstrip("# ").rstrip(".")) if above.startswith("#") else ""
    return found


@entry_point
def main() -> None:
    write_text(PAGE, page())
    say(f"docs/config.md: {page().count(chr(10)):,} lines")


if __name__ == "__main__":
    main()
