"""Tables: on a terminal, and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from secateur.runtime.console import console
from secateur.runtime.files import write_text

WIDTH = 100
"""Columns of a terminal."""
CsvValue = str | int | float | bool | None


def plain_table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """A table for a terminal; all but the first `left` columns hold numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.pad_edge = False
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True, vertical="bottom")
    return table


def wide_console(width: int = WIDTH) -> Console:
    """The console. In its place one of `width` where it is no terminal: a log file reports 80 columns, yet has room
    for more."""
    narrow = console.width < width and not console.is_terminal
    return Console(width=width, highlight=False, soft_wrap=True) if narrow else console


def print_table(table: Table, width: int = WIDTH) -> None:
    wide_console(width).print(table)


def interval_text(low: float, high: float, digits: int = 3) -> str:
    """
    >>> interval_text(0.12345, 0.5)
    '0.123–0.500'
    """
    return f"{low:,.{digits}f}–{high:,.{digits}f}"


def write_csv(path: Path, rows: Sequence[Mapping[str, CsvValue]]) -> None:
    """One line per row; the columns are all keys in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
