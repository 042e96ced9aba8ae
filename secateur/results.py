"""What an evaluation leaves behind for others: the table of `combined.json` as typed records, and as combined.csv.

`eval/combined.py` writes it, everything else reads it: reports, trackers, model cards, benchmarks, your own programs.

    from secateur import read_table
    for row in read_table("outputs/table").rows:
        print(row.model, row.method, row.accuracy, row.saving_net)

The CSV has one column per number, for spreadsheets and data frames.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from secateur.engines.accounting import Usage
from secateur.runtime.files import JSON
from secateur.runtime.records import as_json, read_record, write_record
from secateur.runtime.statistics import Bounds

FORMAT = 1
TABLE_FILE = "combined.json"
Verdict = Literal["holds", "loses", "cannot tell"]


@dataclass(frozen=True)
class Control:
    """What a method is compared with on the same problems: `accuracy` (0-1) and `generated` tokens, in all, of the
    control; `difference` is the method's accuracy minus the control's, paired by problem."""

    accuracy: float
    generated: float
    difference: float
    ci95: Bounds


@dataclass(frozen=True)
class SavingParts:
    """The net saving of a row divided into what shorter traces save and what fewer traces save (fractions); see
    `eval.table.rows.saving_parts`."""

    intra: float
    inter: float


@dataclass(frozen=True)
class Cost:
    """Money, in the currency of the prices given."""

    per_problem: float
    per_1000_problems: float


@dataclass(frozen=True)
class Row:
    """One method of one model on one benchmark with n traces of each problem.

    `id` is its name within the table. `judge` is the judge's name in the table, None for methods without one;
    `judge_kind` its kind (`secateur.deepprune.judges.registry`). `accuracy` (0-1) with its 95 % interval over
    problems. `oracle_accuracy` (0-1): how often one of the traces that vote is right; `finished`: how many vote, a
    mean. `tokens` are summed over the problems, except `longest_path`, which is their mean. `saving_gross`,
    `saving_net`: fractions of what the base model's consensus spends; `net_tokens`: everything spent per problem,
    the judge included, in tokens of the base model. `controls`: name → what the method is compared with. `wall_s`
    [seconds]: of a consensus that of sampling its traces, of pruning that of the live runs where all problems ran
    live. `trained_on`, `chosen_on`: whether model or judge had seen problems of the benchmark; None = not known.
    `trained_ids`, `chosen_ids`: which, where it had seen some of them and not all.
    """

    id: str
    model: str
    method: str
    judge: str | None
    benchmark: str
    n: int
    problems: int
    accuracy: float
    accuracy_ci95: Bounds
    oracle_accuracy: float | None
    finished: float
    tokens: Usage
    saving_gross: float
    saving_net: float
    net_tokens: float
    saving_parts: SavingParts | None = None
    controls: Mapping[str, Control] = field(default_factory=dict)
    wall_s: float | None = None
    trained_on: bool | None = None
    chosen_on: bool | None = None
    judge_kind: str | None = None
    cost: Cost | None = None
    trained_ids: tuple[str, ...] = ()
    chosen_ids: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, str, str | None]:
        """What stays the same over benchmarks and n."""
        return self.model, self.method, self.judge

    @property
    def generated_per_problem(self) -> float:
        return self.tokens.generated / self.problems

    @property
    def judged_per_problem(self) -> float:
        """Tokens that the judge read and generated."""
        return (self.tokens.judge_prefill + self.tokens.judge_generated) / self.problems


@dataclass(frozen=True)
class RowName:
    """Which row of a benchmark and n is meant."""

    model: str
    method: str
    judge: str | None


@dataclass(frozen=True)
class Difference:
    """The accuracy of `a` minus that of `b` (fraction), paired by problem; `label` says so in words."""

    label: str
    a: RowName
    b: RowName
    difference: float
    ci95: Bounds
    benchmark: str
    n: int


@dataclass(frozen=True)
class Considered:
    """A row that could be run, against the reference: its difference in accuracy (fraction) with the bootstrap
    interval, the wider `interval` that decides, and how many problems would tell; None where the verdict stands, or
    where no number would."""

    id: str
    verdict: Verdict
    difference: float
    ci95: Bounds
    interval: Bounds
    problems_needed: int | None


@dataclass(frozen=True)
class ModelChoice:
    """`recommended` is the id of a row, None where nothing is shown to hold; `considered` is the cheapest first."""

    recommended: str | None
    considered: tuple[Considered, ...]


@dataclass(frozen=True)
class Recommendation:
    """Which method to run on a benchmark: for each model and `overall` the cheapest that is shown to lose no more
    than `tolerance_points` [percentage points of accuracy] against `reference`, all by the ids of rows.
    `frontier_tokens`, `frontier_wall`: rows that no other beats in accuracy and net tokens, or accuracy and
    longest path."""

    benchmark: str
    tolerance_points: float
    reference: str
    per_model: Mapping[str, ModelChoice]
    overall: str | None
    frontier_tokens: tuple[str, ...]
    frontier_wall: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class LiveEquality:
    """How many live runs were equal to their replay, over all models and rules; `unequal`: which were not, and why.
    `exact` is False where an engine draws other tokens when it goes on, so that a difference is no error."""

    problems: int
    equal: int
    unequal: Mapping[str, str]
    exact: bool


@dataclass(frozen=True)
class LiveSide:
    """Live runs, or the replays of the same problems: accuracy (0-1), finished traces, a mean; `capped` traces ran
    into the cap; `tokens` are summed, but `longest_path` is a mean; `wall_s` [seconds] of the live phase."""

    accuracy: float
    finished: float
    capped: int
    tokens: Usage
    wall_s: float | None = None


@dataclass(frozen=True)
class LiveDifference:
    """Live − replay: accuracy paired by problem, answers right only live (`gained`) or only in the replay (`lost`),
    generated tokens."""

    accuracy: float
    ci95: Bounds
    gained: int
    lost: int
    generated: float


@dataclass(frozen=True)
class LiveCause:
    """One reason why live and replay differ, with its size; which fields it has is said in
    `eval.table.live_report.find_causes`."""

    cause: str
    traces: int | None = None
    generated: int | None = None
    tokens: int | None = None
    steps: float | None = None
    problems: int | None = None
    lazily: bool | None = None
    judge: Mapping[str, float] | None = None


@dataclass(frozen=True)
class LiveEntry:
    """Live runs of one model by one rule, beside the replays of the same problems, both in the stored order.

    `equal`: how many were equal token for token. `sampling_wall_s`: what sampling all n traces of these problems took
    or, where `sampling_wall_measured` is False, their share of it by tokens; None where it is not known. `words`,
    `wall_words` say it in a sentence.
    """

    benchmark: str
    model: str
    method: str
    judge: str | None
    problems: int
    equal: int
    exact: bool
    live: LiveSide
    replay: LiveSide
    difference: LiveDifference
    causes: tuple[LiveCause, ...]
    unequal: Mapping[str, str]
    sampling_wall_s: float | None
    sampling_wall_measured: bool
    words: str
    wall_words: str


@dataclass(frozen=True)
class Table:
    """All that a combined run found.

    `rows` of all benchmarks and n, those over several benchmarks together first; `n` ascends; `folders`: benchmark →
    its own run folder, relative to this one; `parameters`: model → size; `wall_s`: model → kind of work → seconds.
    `settings` decide what a row means, `config` is the whole configuration, `versions` those of the packages.
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    recommendations: tuple[Recommendation, ...]
    live_equals_replay: LiveEquality | None
    live: tuple[LiveEntry, ...]
    wall_s: Mapping[str, Mapping[str, float]]
    parameters: Mapping[str, int]
    n: tuple[int, ...]
    folders: Mapping[str, str]
    settings: Mapping[str, JSON]
    config: Mapping[str, JSON]
    versions: Mapping[str, str]

    @property
    def models(self) -> list[str]:
        """In the order of the rows; the first is the base that savings are measured against."""
        return list(dict.fromkeys(row.model for row in self.rows))

    def row(self, row_id: str | None) -> Row | None:
        return next((row for row in self.rows if row.id == row_id), None)


def write_table(folder: str | Path, table: Table) -> None:
    """Replace `<folder>/combined.json`."""
    write_record(Path(folder) / TABLE_FILE, table, FORMAT)


def read_table(path: str | Path) -> Table:
    """The table in a run folder, or in the file itself. Raises `InputError` if there is none, or of another
    format."""
    file = Path(path)
    file = file / TABLE_FILE if file.is_dir() else file
    return read_record(file, Table, FORMAT, "start eval/combined.py again, which makes it anew from what is stored")


Value = str | int | float | bool | None


def flat_row(row: Mapping[str, JSON], prefix: str = "") -> dict[str, Value]:
    """Nested keys joined by underscores; an interval `…_ci95` or `ci95` becomes `…_low` and `…_high`; ids stand in
    one cell, with blanks between.

    >>> flat_row({"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "tokens": {"generated": 7}, "cost": None})
    {'accuracy': 0.5, 'accuracy_low': 0.4, 'accuracy_high': 0.6, 'tokens_generated': 7, 'cost': None}
    """
    flat: dict[str, Value] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_row(value, f"{name}_")
        elif isinstance(value, list | tuple) and key.endswith("ids"):
            flat[name] = " ".join(value)
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
