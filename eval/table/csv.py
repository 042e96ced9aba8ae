"""combined.csv: the rows of the table with one column per number, for spreadsheets and data frames."""

import csv
import io
from collections.abc import Mapping, Sequence

from secateur.results import Difference, Row
from secateur.runtime.files import JSON
from secateur.runtime.records import as_json

Value = str | int | float | bool | None


def flat_row(row: Mapping[str, JSON], prefix: str = "") -> dict[str, Value]:
    """Nested keys joined by underscores; an interval `…_ci95` or `ci95` becomes `…_low` and `…_high`.

    >>> flat_row({"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "tokens": {"generated": 7}, "cost": None})
    {'accuracy': 0.5, 'accuracy_low': 0.4, 'accuracy_high': 0.6, 'tokens_generated': 7, 'cost': None}
    """
    flat: dict[str, Value] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_row(value, f"{name}_")
        elif isinstance(value, list | tuple):
            stem = name.removesuffix("ci95").removesuffix("_")
            flat |= {f"{stem}_low": value[0], f"{stem}_high": value[1]}
        else:
            flat[name] = value
    return flat


def flat_table(records: Sequence[Row] | Sequence[Difference]) -> tuple[list[str], list[list[Value]]]:
    """Columns, and one list of values per record; what a record does not have is None."""
    rows = [as_json(record) for record in records]
    flat = [flat_row(row) for row in rows]
    nested = {key for row in rows for key, value in row.items() if isinstance(value, Mapping)}
    columns = [key for key in dict.fromkeys(key for row in flat for key in row) if key not in nested]
    return columns, [[row.get(column) for column in columns] for row in flat]


def rows_as_csv(rows: Sequence[Row]) -> str:
    """A header and one line per row; what a row does not have stays empty, as does null."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns, lines = flat_table(rows)
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()
