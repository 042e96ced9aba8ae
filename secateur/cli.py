"""`secateur`, one command: its subcommands are the scripts of this project, which go on working by themselves.

    secateur train --config FILE --model MODEL …     # is python schedules/run.py …
    secateur plan table --config FILE                # its tokens, hours and memory, and nothing is run
    secateur ls outputs                              # what lies there, with its headline figures
    secateur doctor                                  # whether what is installed and found here belongs together

Help and mistakes are answered before anything heavy is imported (secateur/runtime/commands.py).
"""

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from secateur.runtime.commands import (
    HELP,
    BookFormatter,
    CommandHelp,
    OneLineParser,
    add_keys,
    check_words,
    escaped,
    read_help,
    words_of,
)
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point

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
_SHELLS = ("bash", "zsh", "tcsh")
_SHORTLY = """\
Cuts the tokens that long-thinking language models waste. `secateur COMMAND --help` explains all keys of a command.

  secateur doctor                                           is all here that I need?
  secateur prune --model MODEL --problem "What is 6 · 7?"   one answer of many pruned traces
  secateur serve --model MODEL                              the same behind OpenAI's interface, for many callers
  secateur plan train --config FILE …                       tokens, hours and memory, before it runs
  secateur report outputs/demo                              the page of a run; several stand side by side
  secateur ls outputs                                       what is there, and what it came to"""


def parser_of(said: Mapping[str, CommandHelp]) -> argparse.ArgumentParser:
    """The whole command, for help and for completion; what its options hold is read by the scripts."""
    parser = OneLineParser("secateur", description=_SHORTLY, formatter_class=BookFormatter)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, told in said.items():
        words = words_of(f"secateur {name}", told, f"\n\nThe same as python {COMMANDS[name]}.")
        add_keys(commands.add_parser(name, help=escaped(told.purpose), **words), told)
    plans = commands.add_parser(_PLAN, help="tokens, hours and memory of another command; runs nothing")
    plans.add_argument(
        "planned", choices=[name for name, told in said.items() if told.plans], help="its keys follow as they are"
    )
    shells = commands.add_parser(_COMPLETION, help="a script that completes commands and keys in your shell")
    shells.add_argument(
        "shell", choices=_SHELLS, help='for example: eval "$(secateur completion bash)"; fish has none'
    )
    return parser


def _run(name: str, words: Sequence[str], told: CommandHelp) -> None:
    """Keys and values are read before the command is imported, which takes seconds: it reads them once more."""
    check_words(told, words)
    module = import_module(COMMANDS[name].removesuffix(".py").replace("/", "."))
    sys.argv = [COMMANDS[name], *words]
    module.main()


@entry_point
def main() -> None:
    words = sys.argv[1:]
    known = read_help()
    said = {name: known[script] for name, script in COMMANDS.items()}
    if words[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"secateur {version('secateur')}")
    elif not words or words[0] in HELP:
        parser_of(said).print_help()
    elif words[0] not in (*said, _PLAN, _COMPLETION):
        raise InputError(f"command line: no command '{words[0]}'; {_remedy(words[0], [*said, _PLAN, _COMPLETION])}")
    elif HELP & set(words) or words[0] == _COMPLETION:
        _answer(words, said)
    elif words[0] == _PLAN:
        _plan(words[1:], said)
    else:
        _run(words[0], words[1:], said[words[0]])


def _answer(words: list[str], said: Mapping[str, CommandHelp]) -> None:
    """Help, or what completes commands and keys in a shell."""
    parser = parser_of(said)
    if words[0] == _COMPLETION and words[1:] and words[1] not in (*_SHELLS, *HELP):
        raise InputError(f"command line: no completion for '{words[1]}'; there is one for {', '.join(_SHELLS)}")
    options = parser.parse_args([*words[:1], "--help"] if HELP & set(words) else words[:2])
    if options.command == _COMPLETION:
        import shtab

        print(shtab.complete(parser, options.shell))


def _plan(words: list[str], said: Mapping[str, CommandHelp]) -> None:
    planned = [name for name, told in said.items() if told.plans]
    if not words or words[0] not in planned:
        raise InputError(f"command line: '{_PLAN}' wants the command that is to be planned: {', '.join(planned)}")
    _run(words[0], [*words[1:], "--dry_run", "true"], said[words[0]])


def _remedy(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"


if __name__ == "__main__":
    main()
