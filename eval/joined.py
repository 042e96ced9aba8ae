"""The rows of several finished combined runs in one table, if they were made with the same settings.

    python eval/joined.py --runs [outputs/demo/combined/linear_own_states, outputs/demo/combined/pairwise]

For judges or models that were run apart. Rows with other settings are refused, and so are two rows of one name whose
figures differ: those were made by different models or from different traces.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape

from eval.table.settings import check_joinable
from eval.table.terminal import print_results
from secateur.results import TABLE_FILE, Difference, Row, Table, read_table, rows_as_csv
from secateur.runtime.config import parse_config
from secateur.runtime.console import console, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_text
from secateur.runtime.process import entry_point
from secateur.runtime.records import as_json

Runs = Mapping[str, Table]
"""File → the table in it."""
_FIGURES = ("accuracy", "tokens", "saving_net")


@dataclass(kw_only=True)
class JoinedConfig:
    """runs: output folders of eval/combined.py, each with its combined.json.
    csv: a file that gets the rows as well.
    """

    runs: list[str]
    csv: str | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("key 'runs' is empty; name the output folders of eval/combined.py")
        for run in self.runs:
            if not (Path(run) / TABLE_FILE).is_file():
                raise InputError(f"key 'runs' names '{run}': no combined.json there; finish eval/combined.py first")


def join(paths: Sequence[Path]) -> Table:
    """The rows and differences of all runs, each once, by their combined.json; what is said of a single run is left
    out. Raises `InputError` for rows that do not belong together."""
    runs = {str(path): read_table(path) for path in paths}
    check_joinable([(where, table.settings) for where, table in runs.items()])
    _check_same_base(runs)
    rows: dict[tuple[object, ...], Row] = {}
    differences: dict[tuple[object, ...], Difference] = {}
    for where, table in runs.items():
        for row in table.rows:
            _check_same_row(rows.setdefault((row.benchmark, row.n, row.series), row), row, where)
        for one in table.differences:
            differences.setdefault((one.benchmark, one.n, one.label), one)
    return replace(
        next(iter(runs.values())),
        rows=_in_order(list(rows.values())),
        differences=tuple(differences.values()),
        recommendations=(),
        live_equals_replay=None,
        live=(),
        wall_s={},
        parameters={name: size for table in runs.values() for name, size in table.parameters.items()},
        n=tuple(sorted({row.n for row in rows.values()})),
        folders={},
    )


def _in_order(rows: Sequence[Row]) -> tuple[Row, ...]:
    """By benchmark and model as they come first, the largest n before the others."""
    benchmarks, models = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("benchmark", "model"))
    return tuple(sorted(rows, key=lambda row: (benchmarks.index(row.benchmark), -row.n, models.index(row.model))))


def _check_same_base(runs: Runs) -> None:
    """Raise `InputError` unless all savings are compared with the consensus of one model."""
    (first, base), *others = ((where, next(iter(table.config["models"]))) for where, table in runs.items())
    for where, other in others:
        if other != base:
            raise InputError(
                f"{where}: its savings are measured against the model '{other}', those of {first} against "
                f"'{base}'; leave it out, or make it again with the same model first in key 'models'"
            )


def _check_same_row(one: Row, other: Row, where: str) -> None:
    name = "/".join(part for part in other.series if part)
    for key in _FIGURES:
        if getattr(one, key) != getattr(other, key):
            raise InputError(
                f"{where}, {other.benchmark} with n = {other.n}: the row '{name}' has {key} "
                f"{as_json(getattr(other, key))}, in another of the runs {as_json(getattr(one, key))}, so it is not "
                "the same; leave one of the runs out, or give its model another name in key 'models'"
            )


@entry_point
def main() -> None:
    config = parse_config(JoinedConfig)
    table = join([Path(run) / TABLE_FILE for run in config.runs])
    print_results(table, console)
    if config.csv:
        write_text(config.csv, rows_as_csv(table.rows))
        say(f"rows: {escape(config.csv)}")


if __name__ == "__main__":
    main()
