"""What the analyses of a model's traces share: reading traces, claiming a folder, tables, CSV and pictures."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from eval.report.charts import MODEL_COLOURS, SPARE_COLOURS
from eval.table.terminal import WIDTH
from eval.traces.foreign import read_foreign
from secateur.deepprune.cut import CutRule
from secateur.engines.trace_folder import read_trace_folder
from secateur.runtime.console import console
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json, write_text
from secateur.tasks.records import Problem, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TracedProblem:
    """One problem of one benchmark with a model's traces of it."""

    benchmark: str
    problem: Problem
    traces: list[Trace]

    @property
    def key(self) -> tuple[str, str]:
        return self.benchmark, self.problem.id


def read_model_traces(
    name: str, path: str | Path, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> list[TracedProblem]:
    """The traces of model `name` at `path`: a trace folder, a folder of trace folders (one per benchmark, as
    eval/single.py leaves them), or a `.jsonl[.gz]` file of traces made elsewhere, whose tokens `tokenizer` counts; of
    a file with several models those that it calls `name`. Raises `InputError` for anything else.
    """
    path = Path(path)
    if not path.is_dir():
        return _from_file(name, path, tokenizer)
    folders = [path] if list(path.glob("traces*.jsonl")) else sorted(p.parent for p in path.glob("*/settings.json"))
    if not folders:
        raise InputError(f"key 'traces.{name}' has the value '{path}': neither traces there nor folders of traces")
    return [
        TracedProblem(folder.name, entry.problem, [stored.trace for stored in entry.traces])
        for folder in folders
        for entry in read_trace_folder(folder)
    ]


def _from_file(name: str, path: Path, tokenizer: "PreTrainedTokenizerBase | None") -> list[TracedProblem]:
    models = read_foreign(path, CutRule(), tokenizer)
    if len(models) > 1 and name not in models:
        raise InputError(
            f"{path}: holds the traces of {', '.join(models)}; key 'traces' must call its model by one of these names"
        )
    entries = models.get(name) or next(iter(models.values()))
    benchmark = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return [TracedProblem(benchmark, entry.problem, [s.trace for s in entry.traces]) for entry in entries]


def check_traces_key(traces: Mapping[str, str]) -> None:
    """Raises `InputError` for no model and for a path that is not there."""
    if not traces:
        raise InputError("key 'traces' is empty; give for example {base: outputs/single/base}")
    for name, path in traces.items():
        if not Path(path).exists():
            raise InputError(f"key 'traces.{name}' has the value '{path}': no such folder or file")


def tokens_of(trace: Trace) -> int:
    """Length [tokens]; raises `InputError` where it is not known."""
    if trace.n_tokens is None:
        raise InputError(
            f"sample {trace.sample} of '{trace.problem_id}' does not say how many tokens it has; give key 'tokenizer'"
        )
    return trace.n_tokens


def common_problems(
    first: Sequence[TracedProblem], other: Sequence[TracedProblem]
) -> tuple[list[TracedProblem], list[TracedProblem]] | None:
    """Both sides in the same order if they are about the same problems, so that they can be compared in pairs."""
    by_key = {entry.key: entry for entry in other}
    if by_key.keys() != {entry.key for entry in first}:
        return None
    return list(first), [by_key[entry.key] for entry in first]


def claim_folder(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Begin `folder` with `settings`, or go on with it; one begun with others raises `InputError`, untouched."""
    path, wanted = Path(folder) / "settings.json", json.loads(json.dumps(settings))
    if not path.is_file():
        write_json(path, wanted)
        return
    found = read_json(path)
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise InputError(
                f"{path}: key '{key}' is {found.get(key)!r} there and {wanted.get(key)!r} now, so the results would "
                "not belong together; give another output folder"
            )


def plain_table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """A table for a terminal of 100 columns; all but the first `left` columns hold numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    table.pad_edge = False
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True, vertical="bottom")
    return table


def print_table(table: Table) -> None:
    """A log file reports 80 columns, yet has room for more."""
    narrow = console.width < WIDTH and not console.is_terminal
    (Console(width=WIDTH, highlight=False, soft_wrap=True) if narrow else console).print(table)


def interval_text(low: float, high: float, digits: int = 3) -> str:
    """
    >>> interval_text(0.12345, 0.5)
    '0.123–0.500'
    """
    return f"{low:,.{digits}f}–{high:,.{digits}f}"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per row; the columns are all keys in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def save_png(figure: Figure, path: Path) -> None:
    """Replace a picture atomically."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(image.getvalue())
    temporary.replace(path)


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """The report's colours for the names it knows, further ones in turn for the others."""
    spare = [name for name in names if name not in MODEL_COLOURS]
    others = {name: SPARE_COLOURS[index % len(SPARE_COLOURS)] for index, name in enumerate(spare)}
    return {name: MODEL_COLOURS.get(name) or others[name] for name in names}
