"""How plans look on the terminal: tables, sizes, and whether the disk has room."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from runtime.console import console, say
from runtime.ranks import current_ranks

_GIB = 1 << 30


def plan_table(*columns: str) -> Table:
    """Numbers to the right; `columns` may be empty strings."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def facts_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Name and words, both to the left; long words wrap. Cells are rich markup."""
    table = plan_table("", "")
    table.columns[1].justify, table.columns[1].no_wrap, table.columns[1].overflow = "left", False, "fold"
    for row in rows:
        table.add_row(*row)
    return table


def show_table(table: Table) -> None:
    """Print it on the main process."""
    if current_ranks().is_main:
        console.print(table)


def show_sizes(title: str, items: Iterable[tuple[str, float]], last: str) -> float:
    """Print a table of sizes [bytes] and, as `last`, their sum; returns it."""
    table, total = plan_table(title, ""), 0.0
    for name, count in items:
        table.add_row(escape(name), size_words(count))
        total += count
    table.add_section()
    table.add_row(f"[bold]{last}[/bold]", f"[bold]{size_words(total)}[/bold]")
    show_table(table)
    return total


def show_disk_room(output_dir: str, needed: float, remedy: str) -> None:
    """Say whether the disk of `output_dir` has `needed` bytes left, and if not, `remedy`."""
    target = Path(output_dir).resolve()
    folder = next(path for path in (target, *target.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    verdict = "[green]enough[/green]" if free >= needed else f"[red]not enough[/red]; {remedy}"
    say(f"  {size_words(free)} are free at {escape(str(folder))}: {verdict}")


def millions(count: float) -> str:
    """
    >>> millions(1_474_560_000), millions(12_345)
    ('1,475 M', '0.01 M')
    """
    value = count / 1e6
    return f"{value:,.0f} M" if value >= 10 else f"{value:.2f} M"


def hours_words(hours: float) -> str:
    """
    >>> hours_words(0.25), hours_words(1234.5)
    ('15.0 min', '1,234.5 h')
    """
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def size_words(count: float) -> str:
    """
    >>> size_words(1.5 * 2**30), size_words(3 * 2**20), size_words(4000)
    ('1.5 GiB', '3.0 MiB', '3.9 KiB')
    """
    if count >= _GIB / 10:
        return f"{count / _GIB:,.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else f"{count / 1024:.1f} KiB"
