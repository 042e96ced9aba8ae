"""Commands as they are shown to be copied: what was run before is what a shell and `secateur` make of the text."""

import json
import shlex
from collections.abc import Mapping

from secateur.runtime.config import parse_yaml, split_command_line
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON

PROBLEM = "What is 17 · 23?"
"""Stands in a command for a problem of the reader's own."""
_WIDTH = 88  # characters of a line
_NEXT_LINE = " \\\n"  # the shell joins what is on both sides


def written(keys: Mapping[str, JSON], command: str = "prune", program: str = "secateur") -> str:
    """`PROGRAM COMMAND` with these keys in lines for a POSIX shell; "" where they do not come back from it as they
    are, or hold characters that a page does not show.

    >>> written({"model": "my model", "n": 8})
    "secateur prune --model 'my model' --n 8"
    """
    words = [f"--{key} {shlex.quote(_value(value))}" for key, value in keys.items()]
    lines = [f"{shlex.quote(program)} {command}"]
    for word in words:
        if len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}")
    text = _NEXT_LINE.join(lines)
    return text if all(map(str.isprintable, lines)) and read_back(text) == keys else ""


def read_back(command: str) -> dict[str, JSON] | None:
    """The keys that `secateur` reads from a command; None for what it does not read."""
    try:
        return split_command_line(shlex.split(command.replace(_NEXT_LINE, " "))[2:])[1]
    except (ValueError, InputError):
        return None


def _value(value: JSON) -> str:
    """As the command line reads YAML: a text as it is, unless it would be read as something else."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        plain = parse_yaml(value) == value
    except ValueError:
        plain = False
    return value if plain else json.dumps(value, ensure_ascii=False)
