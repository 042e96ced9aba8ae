"""Writes secateur/commands.json: what `--help` of every script says, so that it need not import what it
speaks of.

    python -m tools.command_help

It is made from the same source as docs/config.md, and from the files in `configs/`: keys that more of them give come
first, and a value that one of them gives is the example.
"""

import dataclasses
import functools
import json
import typing
from collections.abc import Iterator, Mapping, Sequence

from trl import GRPOConfig

from schedules.config import ScheduleConfig
from secateur.runtime.commands import HELP_FILE, LAUNCH_ONLY, CommandHelp, Group, KeyHelp
from secateur.runtime.config import read_yaml
from secateur.runtime.console import say
from secateur.runtime.files import JSON, write_text
from secateur.runtime.process import entry_point
from tools.config_docs import (
    Key,
    all_meanings,
    default_text,
    launch_meanings,
    own_keys,
    title_of,
    type_text,
    value_text,
)
from tools.config_keys import REPOSITORY, Command, find_commands
from trainers.grpo import keys as grpo_keys

_EXAMPLE_CHARACTERS = 70
_SCHEDULE_CHECK = f"{grpo_keys.__name__}:{grpo_keys.check_command.__name__}"


def command_help(command: Command) -> CommandHelp:
    """What there is to say of a script."""
    groups = [Group(LAUNCH_ONLY, _launch_keys(command))] if command.launch_options else []
    if command.config is None:
        keys = [KeyHelp((key,), "", default, text) for key, default, text in command.arguments]
        return CommandHelp(command.purpose, False, "", "", {}, (Group("options", tuple(keys)),) if keys else ())
    groups += _groups(command.config)
    if command.config is not ScheduleConfig:
        return CommandHelp(command.purpose, True, _read_first(command), "", {}, tuple(groups))
    return CommandHelp(command.purpose, True, "", _SCHEDULE_CHECK, grpo_keys.OWNED, tuple(groups))


def _read_first(command: Command) -> str:
    """The class of keys that can be read before the command is imported: it stands in another file."""
    module, apart = command.config.__module__, command.path.removesuffix(".py").replace("/", ".")
    return "" if module == apart else f"{module}:{command.config.__name__}"


def _launch_keys(command: Command) -> tuple[KeyHelp, ...]:
    return tuple(KeyHelp((name,), "", "", text) for name, text in launch_meanings(command).items())


def _groups(config: type) -> Iterator[Group]:
    """A class's own keys first, then those that it shares with other commands."""
    given = _given(frozenset(field.name for field in dataclasses.fields(config)))
    mine = own_keys(config)
    yield Group("keys", _most_used_first(mine, given))
    left = set(all_meanings(config)) - {name for key in mine for name in key.names}
    for owner in dict.fromkeys(meaning.owner for name, meaning in all_meanings(config).items() if name in left):
        yield Group(title_of(owner), _most_used_first(list(_keys_of(config, owner, left)), given))
    if config is ScheduleConfig:
        yield Group(grpo_keys.TRL_KEYS, _most_used_first(list(_trl_keys(set(all_meanings(config)))), given))


def _keys_of(config: type, owner: type, names: set[str]) -> Iterator[Key]:
    fields, hints = {field.name: field for field in dataclasses.fields(config)}, typing.get_type_hints(config)
    told: set[str] = set()
    for name, meaning in all_meanings(config).items():
        if name in names and meaning.owner is owner and name not in told:
            same = tuple(key for key in meaning.keys if key in names)
            told |= set(same)
            defaults = tuple(default_text(fields[key]) for key in same)
            yield Key(same, tuple(type_text(hints[key]) for key in same), defaults, meaning.text)


def _trl_keys(ours: set[str]) -> Iterator[Key]:
    """What goes through to TRL as it is, in the first sentence of its own words."""
    hints = typing.get_type_hints(GRPOConfig)
    for field in dataclasses.fields(GRPOConfig):
        if field.init and field.name not in ours | grpo_keys.OWNED.keys():
            first = " ".join(field.metadata.get("help", "see TRL's GRPOConfig").split()).partition(". ")[0]
            default = (
                value_text(grpo_keys.PINNED[field.name]) if field.name in grpo_keys.PINNED else default_text(field)
            )
            yield Key((field.name,), (type_text(hints[field.name]),), (default,), first.rstrip("."))


def _most_used_first(keys: Sequence[Key], given: Mapping[str, list[JSON]]) -> tuple[KeyHelp, ...]:
    def use(key: Key) -> tuple[bool, int]:
        return "required" not in key.defaults, -max(len(given.get(name, ())) for name in key.names)

    return tuple(
        KeyHelp(
            tuple(f"--{name}" for name in key.names),
            _once(key.types),
            _once(key.defaults),
            key.text,
            _example(key, given),
        )
        for key in sorted(keys, key=use)
    )


def _once(texts: Sequence[str]) -> str:
    """One text for all keys where they agree."""
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def _example(key: Key, given: Mapping[str, list[JSON]]) -> str:
    """A line of YAML that one of our configs could hold."""
    name = max(key.names, key=lambda name: len(given.get(name, ())))
    lines = [f"{name}: {value_text(value)}" for value in given.get(name, ())]
    short = [line for line in lines if len(line) <= _EXAMPLE_CHARACTERS]
    return max(short, key=lambda line: (lines.count(line), line), default="")


@functools.cache
def _given(fields: frozenset[str]) -> dict[str, list[JSON]]:
    """Key → its values in all configs that hold no keys but these (and TRL's)."""
    known = fields | {field.name for field in dataclasses.fields(GRPOConfig)}
    found: dict[str, list[JSON]] = {}
    for path in sorted((REPOSITORY / "configs").rglob("*.yaml")):
        values = read_yaml(path)
        if values.keys() <= known:
            for key, value in values.items():
                found.setdefault(key, []).append(value)
    return found


def text() -> str:
    """The whole file, one key a line."""
    told = {command.path: command_help(command) for command in find_commands()}
    return "{\n" + ",\n".join(f" {_json(path)}: {_lines(one)}" for path, one in told.items()) + "\n}\n"


def _lines(told: CommandHelp) -> str:
    head = ", ".join(f"{_json(key)}: {_json(value)}" for key, value in vars(told).items() if key != "groups")
    return f'{{{head},\n  "groups": [{",".join(map(_group_lines, told.groups))}]}}'


def _group_lines(group: Group) -> str:
    keys = ",\n".join(f"    {_json(dataclasses.asdict(key))}" for key in group.keys)
    return f'\n   {{"title": {_json(group.title)}, "keys": [\n{keys}]}}'


def _json(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)


@entry_point
def main() -> None:
    write_text(HELP_FILE, text())
    say(f"secateur/{HELP_FILE.name}: {len(find_commands())} scripts")


if __name__ == "__main__":
    main()
