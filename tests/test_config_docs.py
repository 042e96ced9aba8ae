"""docs/config.md: complete, current, and made from what the classes say."""

import dataclasses
import doctest
from dataclasses import dataclass
from pathlib import Path

import pytest

from secateur.runtime.errors import InputError
from tools import config_docs, config_keys
from tools.config_keys import find_commands


@pytest.fixture(scope="module")
def page() -> str:
    return config_docs.page()


def test_the_page_is_current(page: str, repository: Path) -> None:
    current = (repository / "docs" / "config.md").read_text(encoding="utf-8") == page
    assert current, "docs/config.md is not what the config classes say: run `python -m tools.config_docs`"


def test_every_key_of_every_command_is_there(page: str) -> None:
    commands = find_commands()
    assert {"schedules/run.py", "trainers/judge.py", "eval/combined.py"} <= {command.path for command in commands}
    for command in commands:
        takes_keys = command.config is not None or command.arguments
        assert not takes_keys or f"## `{command.path}`" in page or f", `{command.path}`" in page
        names = [field.name for field in dataclasses.fields(command.config) if field.init] if command.config else []
        for name in [*names, *command.launch_options, *(name for name, _, _ in command.arguments)]:
            assert f"`{name}`" in page, f"{command.path}: {name}"


def test_all_rows_are_whole(page: str) -> None:
    """As many cells as the head of their table has, none of them empty but the reasons of TRL's defaults."""
    width = 0
    for line in page.splitlines():
        cells = line.replace("\\|", "").split("|")[1:-1]
        width = 0 if not cells else width or len(cells)
        assert len(cells) == width, line
        assert all(cell.strip() for cell in cells[:-1]), line


def test_a_key_without_a_meaning_is_refused() -> None:
    @dataclass
    class Silent:
        """spoken: it says so."""

        spoken: int = 0
        silent: int = 0

    with pytest.raises(InputError, match=r"nothing says what these keys mean: silent; add a line `silent: text`"):
        config_docs.own_keys(Silent)


def test_what_is_said_where() -> None:
    @dataclass
    class Base:
        """What it is.

        a, b: two numbers,
          on two lines; size_*: all sizes.
        A sentence about a: nothing of it is an entry.
        """

        a: int = 0
        b: int = 0
        size_x: int = 0  # beside, but the docstring has said it
        c: int = 0  # beside

    @dataclass
    class Derived(Base):
        """b: another number."""

        d: int = 0
        """Below."""

    said = {key: meaning.text for key, meaning in config_keys.meanings_of(Derived).items()}
    assert said == {
        "a": "two numbers, on two lines",
        "b": "another number",
        "size_x": "all sizes",
        "c": "beside",
        "d": "Below",
    }
    assert not doctest.testmod(config_keys).failed
