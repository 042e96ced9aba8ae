"""What a run shows while it works: one console, progress on the main process only, tables, and the facts as JSONL."""

import csv
import io
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, append_jsonl, read_jsonl, repair_torn_tail, write_text
from secateur.runtime.process import current_ranks

console = Console(stderr=False, highlight=False, soft_wrap=True)
_PLAIN_INTERVAL_S = 10.0  # a log file wants a line now and then, not a bar that redraws itself


def say(message: str) -> None:
    """Print on the main process; rich markup is read, so pass text from outside through `rich.markup.escape`."""
    if current_ranks().is_main:
        console.print(message)


def say_end(open_it: str | Path, command: str) -> None:
    """What to look at now that a run has ended, and a command to run next, "" for none."""
    say(f"open: [bold]{escape(str(open_it))}[/bold]")
    if command:
        say(f"next: {escape(command)}")


class ProgressReporter:
    """Counts done units of `total`; `note` is shown behind the bar (for example "reward 0.61")."""

    def __init__(self, description: str, total: int, bar: Progress | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self._bar, self._shown_at = bar, time.monotonic()
        self._task = bar.add_task(description, total=total, note="") if bar else None

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, note=note)
        elif current_ranks().is_main and self._is_due():
            self._shown_at = time.monotonic()
            console.print(f"  {self.description}: {self.done}/{self.total} {note}".rstrip(), markup=False)

    def _is_due(self) -> bool:
        return self.done >= self.total or time.monotonic() - self._shown_at >= _PLAIN_INTERVAL_S


@contextmanager
def progress(description: str, total: int) -> Iterator[ProgressReporter]:
    """A progress bar on a terminal, a line every ten seconds elsewhere, nothing on other ranks."""
    if not (current_ranks().is_main and console.is_terminal):
        yield ProgressReporter(description, total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console) as bar:
        yield ProgressReporter(description, total, bar)


class MetricLog:
    """Appends one JSON object per event to `path` (main process only), each with a wall-clock time in seconds."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, **values: JSON) -> None:
        if current_ranks().is_main:
            append_jsonl(self.path, [{"time": round(time.time(), 3), **values}])

    def forget_after(self, step: int, training: str | None = None) -> None:
        """Drop what is said about steps after `step`, which are done again; of one `training` where a log holds
        several."""
        if not current_ranks().is_main or not self.path.is_file():
            return
        repair_torn_tail(self.path)
        lines = [
            json.dumps(record, ensure_ascii=False)
            for number, record in read_jsonl(self.path)
            if self._step_of(record, number) <= step or training not in (None, record.get("training"))
        ]
        write_text(self.path, "".join(f"{line}\n" for line in lines))

    def _step_of(self, record: Mapping[str, JSON], number: int) -> float:
        step = record.get("step")
        if not isinstance(step, int | float):
            raise InputError(f"{self.path}, line {number}: names no 'step'; mend or delete the line")
        return step


def use_one_torch_thread() -> None:
    """Two threads on two busy cores ran nine times slower than one; the launcher's OMP_NUM_THREADS wins if set."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def silence_libraries() -> None:
    """Their notes about experimental features and defaults are not the user's to act on; errors still come."""
    import transformers

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


WIDTH = 100
"""Columns of a terminal."""
CsvValue = str | int | float | bool | None


def plain_table(title: str, columns: Sequence[str] = (), left: int = 1) -> Table:
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


def _no_formula(value: CsvValue) -> CsvValue:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_csv(path: Path, rows: Sequence[Mapping[str, CsvValue]]) -> None:
    """One line per row; the columns are all keys in the order of their first appearance. A text that a spreadsheet
    would take for a formula gets an apostrophe in front."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: _no_formula(value) for key, value in row.items()} for row in rows])
    write_text(path, buffer.getvalue())
