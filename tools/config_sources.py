"""Which commands there are and what each may be told, read from the source: config classes and argparse options."""

import ast
import dataclasses
import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InputError
from schedules.config import ScheduleConfig

REPOSITORY = Path(__file__).resolve().parent.parent
_FOLDERS = ("schedules", "trainers", "eval", "deepprune", "tasks")
_READERS = ("parse_config", "HfArgumentParser")  # called with a config class


@dataclass(frozen=True)
class Command:
    """A script that a user starts. `config` is the class of its keys, or `arguments` are its argparse options."""

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
        for command in _commands_of(path)
    )


def _commands_of(path: Path) -> Iterator[Command]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    name = path.relative_to(REPOSITORY).as_posix()
    purpose = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
    if arguments := [_argument(call, name) for call in calls if _called(call) == "add_argument"]:
        yield Command(name, purpose, arguments=tuple(arguments))
    elif config := _config_class(calls, name):
        launch_options = tuple(option for call in calls for option in _launch_option(call))
        yield Command(name, purpose, config, launch_options=launch_options)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _config_class(calls: list[ast.Call], name: str) -> type | None:
    for call in calls:
        if _called(call) == "read_run_config":
            return ScheduleConfig
        if _called(call) in _READERS and call.args and isinstance(call.args[0], ast.Name):
            module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
            found = getattr(module, call.args[0].id, None)
            if isinstance(found, type) and dataclasses.is_dataclass(found):
                return found
    return None


def _launch_option(call: ast.Call) -> list[str]:
    """The `--option` that a script takes for itself, in a call such as `_take_option(argv, "--launcher")`."""
    if _called(call) != "_take_option":
        return []
    return [arg.value for arg in call.args if isinstance(arg, ast.Constant)]


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
