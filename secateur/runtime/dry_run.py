"""What every dry run shares: the keys that ask for one, its tables on the terminal, and numbers in words."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
from rich import box
from rich.markup import escape
from rich.table import Table

from secateur.runtime.console import console, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.launch_file import LaunchFile, read_launch_file
from secateur.runtime.process import current_ranks

_GIB = 1 << 30


@dataclass(kw_only=True)
class PlanKeys:
    """What is asked of a dry run; a real run never looks at these keys, nor are they kept with its results.

    dry_run: print what the run would do, need and cost, and what of it is done; nothing is loaded or written.
    accelerate_config: the launch that is planned, an accelerate config; by default the one that the dry run itself
      was started with.
    gpu_memory_gib: memory of one GPU [GiB]; 79 for a card sold as 80 GB.
    tokens_per_second: what one process (one engine) gets through, for the hours; without it, and where nothing was
      measured, they are given for 1,000 tokens a second.
    """

    dry_run: bool = False
    accelerate_config: str | None = None
    gpu_memory_gib: float = 79.0
    tokens_per_second: float | None = None

    def check_plan(self) -> None:
        """Raises `InputError` for a value that nothing can be planned with, or that a real run would pass over."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in PLAN_KEYS or value == field.default:
                continue
            if not self.dry_run:
                raise InputError(f"key '{field.name}' has the value {value}: a dry run alone reads it; leave it out")
            if isinstance(value, (int, float)) and value <= 0:
                raise InputError(f"key '{field.name}' has the value {value}; it must be above 0")

    def planned_launch(self) -> LaunchFile:
        """The launch that is planned."""
        if self.accelerate_config is not None:
            return read_launch_file(self.accelerate_config)
        processes = current_ranks().world_size
        machines = max(1, processes // int(os.environ.get("LOCAL_WORLD_SIZE", str(processes))))
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0"))
        offloads = [os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part}_DEVICE") for part in ("OPTIMIZER", "PARAM")]
        offloaded = [stage > 0 and device not in (None, "none") for device in offloads]
        mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true")
        return LaunchFile("the launch of this dry run", processes, machines, stage, *offloaded, mixed, on_cpu)


@dataclass(kw_only=True)
class SamplingPlanKeys(PlanKeys):
    """Lengths that a dry run cannot know.

    mean_tokens, mean_cut_tokens: expected mean length of a trace, and of its part up to the cut [tokens]; by default
      what was measured on traces of the same models, else half the cap and, for cuts at words, the whole trace.
    """

    mean_tokens: float | None = None
    mean_cut_tokens: float | None = None


PLAN_KEYS = tuple(field.name for field in fields(SamplingPlanKeys))
"""Keys that a dry run alone reads."""


def without_plan_keys(values: Mapping[str, JSON]) -> dict[str, JSON]:
    """A config's values as they are kept with its results."""
    return {key: value for key, value in values.items() if key not in PLAN_KEYS}


def device_bytes(launch: LaunchFile, gpu_gib: float, on_cpu: bool) -> float:
    """Memory that one process of a launch has: of its GPU, or on CPUs its share of this machine's [bytes]."""
    if not on_cpu:
        return gpu_gib * _GIB
    return psutil.virtual_memory().total / max(1, launch.processes // launch.machines)


def device_words(on_cpu: bool) -> str:
    """Whose memory a plan speaks of."""
    return "host memory of a process" if on_cpu else "memory of a GPU"


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
