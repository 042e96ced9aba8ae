"""What of a run is looked at together: the rows of one benchmark and one n, all compared with the same consensus.

A run on one source with one n has a single view, and then the page offers no choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.table.labels import ALL
from secateur.results import Recommendation, Row, Table

_ALL_LABEL = "all together"


@dataclass(frozen=True)
class View:
    """Rows of one benchmark, by its name, with `n` traces per problem; all have the same number of `problems`."""

    benchmark: str
    n: int
    rows: Sequence[Row]

    @property
    def problems(self) -> int:
        return self.rows[0].problems


@dataclass(frozen=True)
class Grid:
    """`benchmarks` and `ns` as they are offered; the first view is what a reader sees first."""

    benchmarks: list[str]
    ns: list[int]
    views: list[View]

    @property
    def several_benchmarks(self) -> bool:
        return len(self.benchmarks) > 1

    @property
    def several_n(self) -> bool:
        return len(self.ns) > 1

    @property
    def options(self) -> list[tuple[str, str]]:
        """(benchmark, how it is called)."""
        return [(name, benchmark_label(name)) for name in self.benchmarks]

    def of(self, benchmark: str) -> list[View]:
        """Views of a benchmark, the smallest n first."""
        return sorted((view for view in self.views if view.benchmark == benchmark), key=lambda view: view.n)


def benchmark_label(name: str) -> str:
    return _ALL_LABEL if name == ALL else name


def grid_of(rows: Sequence[Row]) -> Grid:
    """All views of a run, all benchmarks together and the largest n first."""
    benchmarks = sorted(dict.fromkeys(row.benchmark for row in rows), key=lambda name: name != ALL)
    ns = sorted({row.n for row in rows}, reverse=True)
    pairs = [(benchmark, n) for benchmark in benchmarks for n in ns]
    views = [View(*pair, [row for row in rows if (row.benchmark, row.n) == pair]) for pair in pairs]
    return Grid(benchmarks, ns, [view for view in views if view.rows])


def recommendations(table: Table) -> Mapping[str, Recommendation]:
    """Benchmark → what is recommended for it, over all n."""
    return {advice.benchmark: advice for advice in table.recommendations}


def recommended_ids(table: Table) -> set[str | None]:
    """Ids of the rows that are recommended, overall or for a model."""
    choices = [choice for advice in table.recommendations for choice in advice.per_model.values()]
    return {advice.overall for advice in table.recommendations} | {choice.recommended for choice in choices}


def run_folders(table: Table, folder: Path) -> dict[str, Path]:
    """Benchmark → the folder with its explorer.json and its traces."""
    return {benchmark: folder / place for benchmark, place in table.folders.items()}
