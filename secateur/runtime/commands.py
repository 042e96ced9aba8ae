"""What every script may be told: its help and its mistaken keys are answered from `commands.json`, in a moment.

A script asks `answer_early` before it imports what takes seconds. `python -m tools.command_help` makes the file of
the source: of docstrings, types, defaults and the files in `configs/`.
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

from secateur.runtime.errors import InputError
from secateur.runtime.process import current_ranks, entry_point

HELP_FILE = Path(__file__).parent.parent / "commands.json"
LAUNCH_ONLY = "on the command line only"
"""How the help heads the options that a script takes for itself, before keys are read."""
HELP = frozenset({"--help", "-h"})
_DRY_RUN = "--dry_run"


@dataclass(frozen=True)
class KeyHelp:
    """Keys that are explained together, as they stand on a command line; `example` is a line of YAML, "" for none."""

    names: Sequence[str]
    type: str
    default: str
    text: str
    example: str = ""

    def words(self) -> str:
        given = {"": "", "required": "required"}.get(self.default, f"default {self.default}")
        told = "; ".join(part for part in (self.type, given, f"e.g. {self.example}" if self.example else "") if part)
        return f"{self.text} ({told})" if told else self.text


@dataclass(frozen=True)
class Group:
    title: str
    keys: Sequence[KeyHelp]


@dataclass(frozen=True)
class CommandHelp:
    """`takes_config`: its keys may also stand in a file. `config`: the class of its keys, as package.module:Class; ""
    where its keys are not all in one, or it has to be imported whole for it. `check`: in its place a function of the
    help and the words of a command line, as package.module:function. `barred`: key → why it cannot be set."""

    purpose: str
    takes_config: bool
    config: str
    check: str
    barred: Mapping[str, str]
    groups: Sequence[Group]

    @property
    def keys(self) -> list[str]:
        return [name for group in self.groups for key in group.keys for name in key.names]

    def names_under(self, title: str) -> list[str]:
        """The keys of a group."""
        return [name for group in self.groups if group.title == title for key in group.keys for name in key.names]

    @property
    def plans(self) -> bool:
        """Whether it can say beforehand what it will take."""
        return _DRY_RUN in self.keys


def read_help() -> dict[str, CommandHelp]:
    """Script, as a path within the repository → what there is to say of it."""
    return {
        script: CommandHelp(
            said["purpose"],
            said["takes_config"],
            said["config"],
            said["check"],
            said["barred"],
            [Group(group["title"], [KeyHelp(**key) for key in group["keys"]]) for group in said["groups"]],
        )
        for script, said in json.loads(HELP_FILE.read_text(encoding="utf-8")).items()
    }


@runtime_checkable
class NamesInputs(Protocol):
    """Keys that name what a run reads."""

    def check_inputs(self) -> None:
        """Raise `InputError` for what is not there; called before anything heavy is imported."""


class BookFormatter(argparse.RawDescriptionHelpFormatter):
    """Lines are no longer than those of a book."""

    def __init__(self, prog: str, indent: int = 14) -> None:
        super().__init__(prog, max_help_position=indent, width=min(100, shutil.get_terminal_size().columns))


class _KeysFormatter(BookFormatter):
    """Several names of one option are followed by one placeholder."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, indent=6)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


class OneLineParser(argparse.ArgumentParser):
    """For scripts whose words are no keys of a config: a mistake is one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"command line: {message}; --help explains them all")


def words_of(command: str, told: CommandHelp, more: str = "") -> dict[str, object]:
    """What `argparse` wants to know of a command before its keys."""
    return {
        "description": told.purpose + more,
        "usage": f"{command} {'[--config FILE.yaml] [--key value …]' if told.takes_config else '…'}",
        "formatter_class": _KeysFormatter,
    }


def add_keys(parser: argparse.ArgumentParser, told: CommandHelp) -> None:
    if told.takes_config:
        parser.add_argument("--config", metavar="FILE.yaml", help="holds keys, one a line, as in configs/")
    for group in told.groups:
        section = parser.add_argument_group(group.title)
        for key in group.keys:
            several = "+" if key.names[0].startswith("-") else "*"
            section.add_argument(*key.names, metavar=_placeholder(key), nargs=several, help=escaped(key.words()))


def _placeholder(key: KeyHelp) -> str:
    return "VALUE" if key.names[0].startswith("-") else key.names[0].upper()


def escaped(text: str) -> str:
    """For argparse, which formats its help with %."""
    return text.replace("%", "%%")


def check_words(told: CommandHelp, words: Sequence[str]) -> None:
    """Raises `InputError` for keys that a command does not take and, where its class of keys can be loaded alone, for
    values that cannot be or name what is not there."""
    from secateur.runtime.config import import_named, parse_config, read_yaml, split_command_line

    _check_names(told, [word[2:].partition("=")[0] for word in words if word.startswith("--")], "command line")
    if told.config:
        config = parse_config(import_named(told.config, "config"), words)
        if isinstance(config, NamesInputs):
            config.check_inputs()
    elif told.takes_config and (path := split_command_line(words)[0]):
        _check_names(told, list(read_yaml(path)), path)
    if told.check:
        import_named(told.check, "check")(told, words)


def _check_names(told: CommandHelp, given: Sequence[str], where: str) -> None:
    from secateur.runtime.config import reject_unknown

    for key in given:
        if key in told.barred:
            raise InputError(f"{where}: key '{key}' cannot be set: {told.barred[key]}")
    known = [key[2:] for key in told.keys if key.startswith("--")]
    reject_unknown(given, [*known, *(["config"] if told.takes_config else [])], where)


def answer_early(file: str) -> None:
    """For a script, before it imports what takes seconds: `--help` is answered and a mistake ends it, as if
    `entry_point` had done so. `file` is its `__file__`, whose folder need not be that of this package."""
    # On CPUs it asks for a faster kernel on every import of peft or TRL, whether 4 bits are wanted or not.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    entry_point(lambda: _answer(Path(file).resolve().as_posix(), sys.argv[1:]))()


def _answer(path: str, words: Sequence[str]) -> None:
    script, told = next(known for known in read_help().items() if path.endswith(f"/{known[0]}"))
    if not HELP & set(words):
        check_words(told, words)
        return
    if current_ranks().is_main:
        parser = argparse.ArgumentParser(**words_of(f"python {script}", told))
        add_keys(parser, told)
        parser.print_help()
    raise SystemExit(0)
