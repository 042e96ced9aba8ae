"""`secateur`, one command: its subcommands are the scripts of this project, which go on working by themselves.

    secateur train --config FILE --model MODEL …     # is python schedules/run.py …
    secateur plan table --config FILE                # its tokens, hours and memory, and nothing is run
    secateur ls outputs                              # what lies there, with its headline figures
    secateur doctor                                  # whether what is installed and found here belongs together

Help and mistyped keys are answered from `commands.json`, which `python -m tools.command_help` makes of the source,
before anything heavy is imported.
"""

import argparse
import difflib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point

HELP_FILE = Path(__file__).with_name("commands.json")
COMMANDS: Mapping[str, str] = {
    "train": "schedules/run.py",
    "tune": "trainers/format_tuning.py",
    "traces": "eval/collect_traces.py",
    "judge": "trainers/judge.py",
    "scorer": "trainers/scorer.py",
    "single": "eval/single.py",
    "table": "eval/combined.py",
    "prune": "eval/prune.py",
    "serve": "eval/serve.py",
    "check-reward": "rewards/check.py",
    "problems": "secateur/tasks/export.py",
    "report": "eval/report_runs.py",
    "ls": "eval/ls.py",
    "doctor": "secateur/doctor.py",
}
"""Subcommand → the script that it is."""
_PLAN, _COMPLETION = "plan", "completion"
_HELP, _DRY_RUN = {"--help", "-h"}, "--dry_run"
_SHELLS = ("bash", "zsh", "tcsh")
_SHORTLY = """\
Cuts the tokens that long-thinking language models waste. `secateur COMMAND --help` explains all keys of a command.

  secateur doctor                                           is all here that I need?
  secateur prune --model MODEL --problem "What is 6 · 7?"   one answer of many pruned traces
  secateur serve --model MODEL                              the same behind OpenAI's interface, for many callers
  secateur plan train --config FILE …                       tokens, hours and memory, before it runs
  secateur report outputs/demo                              the page of a run; several stand side by side
  secateur ls outputs                                       what is there, and what it came to"""


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
    where its keys are not all in one, or it has to be imported whole for it."""

    purpose: str
    takes_config: bool
    config: str
    groups: Sequence[Group]

    @property
    def keys(self) -> list[str]:
        return [name for group in self.groups for key in group.keys for name in key.names]

    @property
    def plans(self) -> bool:
        """Whether it can say beforehand what it will take."""
        return _DRY_RUN in self.keys


def read_help() -> dict[str, CommandHelp]:
    """Subcommand → what there is to say of it."""
    return {
        name: CommandHelp(
            said["purpose"],
            said["takes_config"],
            said["config"],
            [Group(group["title"], [KeyHelp(**key) for key in group["keys"]]) for group in said["groups"]],
        )
        for name, said in json.loads(HELP_FILE.read_text(encoding="utf-8")).items()
    }


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Lines are no longer than those of a book."""

    def __init__(self, prog: str, indent: int = 14) -> None:
        super().__init__(prog, max_help_position=indent, width=min(100, shutil.get_terminal_size().columns))


class _KeysFormatter(_Formatter):
    """Several names of one option are followed by one placeholder."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, indent=6)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


def parser_of(said: Mapping[str, CommandHelp]) -> argparse.ArgumentParser:
    """The whole command, for help and for completion; what its options hold is read by the scripts."""
    parser = argparse.ArgumentParser("secateur", description=_SHORTLY, formatter_class=_Formatter)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, told in said.items():
        _add_keys(commands.add_parser(name, help=_escaped(told.purpose), **_words_of(name, told)), told)
    plans = commands.add_parser(_PLAN, help="tokens, hours and memory of another command; runs nothing")
    plans.add_argument(
        "planned", choices=[name for name, told in said.items() if told.plans], help="its keys follow as they are"
    )
    shells = commands.add_parser(_COMPLETION, help="a script that completes commands and keys in your shell")
    shells.add_argument("shell", choices=_SHELLS, help='for example: eval "$(secateur completion bash)"')
    return parser


def _words_of(name: str, told: CommandHelp) -> dict[str, Any]:
    return {
        "description": f"{told.purpose}\n\nThe same as python {COMMANDS[name]}.",
        "usage": f"secateur {name} {'[--config FILE.yaml] [--key value …]' if told.takes_config else '…'}",
        "formatter_class": _KeysFormatter,
    }


def _add_keys(parser: argparse.ArgumentParser, told: CommandHelp) -> None:
    if told.takes_config:
        parser.add_argument("--config", metavar="FILE.yaml", help="holds keys, one a line, as in configs/")
    for group in told.groups:
        section = parser.add_argument_group(group.title)
        for key in group.keys:
            several = "+" if key.names[0].startswith("-") else "*"
            section.add_argument(*key.names, metavar=_placeholder(key), nargs=several, help=_escaped(key.words()))


def _placeholder(key: KeyHelp) -> str:
    return "VALUE" if key.names[0].startswith("-") else key.names[0].upper()


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _check_keys(name: str, words: Sequence[str], said: Mapping[str, CommandHelp]) -> None:
    """Raises `InputError` for a key that the command does not have, before the command is imported."""
    from secateur.runtime.config import reject_unknown

    given = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    known = [key[2:] for key in said[name].keys if key.startswith("--")]
    reject_unknown(given, [*known, *(["config"] if said[name].takes_config else [])], "command line")


def _run(name: str, words: Sequence[str], said: Mapping[str, CommandHelp]) -> None:
    """Keys and values are read before the command is imported, which takes seconds: it reads them once more."""
    _check_keys(name, words, said)
    if said[name].config:
        from secateur.runtime.config import import_named, parse_config

        parse_config(import_named(said[name].config, "config"), words)
    module = import_module(COMMANDS[name].removesuffix(".py").replace("/", "."))
    sys.argv = [COMMANDS[name], *words]
    module.main()


@entry_point
def main() -> None:
    words = sys.argv[1:]
    said = read_help()
    if words[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"secateur {version('secateur')}")
    elif not words or _HELP & set(words) or words[0] == _COMPLETION:
        _answer(words or ["--help"], said)
    elif words[0] == _PLAN:
        _plan(words[1:], said)
    elif words[0] not in said:
        raise InputError(f"command line: no command '{words[0]}'; {_remedy(words[0], [*said, _PLAN, _COMPLETION])}")
    else:
        _run(words[0], words[1:], said)


def _answer(words: list[str], said: Mapping[str, CommandHelp]) -> None:
    """Help, or what completes commands and keys in a shell."""
    parser = parser_of(said)
    if words[0] == _COMPLETION and words[1:] and words[1] not in (*_SHELLS, *_HELP):
        raise InputError(f"command line: no completion for '{words[1]}'; there is one for {', '.join(_SHELLS)}")
    options = parser.parse_args([*words[:1], "--help"] if _HELP & set(words) else words[:2])
    if options.command == _COMPLETION:
        import shtab

        print(shtab.complete(parser, options.shell))


def _plan(words: list[str], said: Mapping[str, CommandHelp]) -> None:
    planned = [name for name, told in said.items() if told.plans]
    if not words or words[0] not in planned:
        raise InputError(f"command line: '{_PLAN}' wants the command that is to be planned: {', '.join(planned)}")
    _run(words[0], [*words[1:], _DRY_RUN, "true"], said)


def _remedy(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"


if __name__ == "__main__":
    main()
