"""What of a run is looked at together: the rows of one benchmark and one n, which are all held against the same vote.

A run on one source with one n has a single view, and then the page offers no choice. Files of earlier versions name
no benchmark; theirs is called "".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.table.labels import ALL

Row = Mapping[str, Any]
_ALL_LABEL = "all together"


@dataclass(frozen=True)
class View:
    """Rows of one benchmark, by its name, with `n` traces per problem; all have the same number of `problems`."""

    benchmark: str
    n: int
    rows: list[Row]

    @property
    def problems(self) -> int:
        return self.rows[0]["problems"]

    @property
    def key(self) -> str:
        """For the ids of what is drawn of it."""
        return f"{self.benchmark}-{self.n}"


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
        """(benchmark, how it is called); a benchmark of that name in a run on one source is no sum of others."""
        return [(name, benchmark_label(name)) for name in self.benchmarks]

    def of(self, benchmark: str) -> list[View]:
        """Views of a benchmark, the smallest n first."""
        return sorted((view for view in self.views if view.benchmark == benchmark), key=lambda view: view.n)


def benchmark_label(name: str) -> str:
    return _ALL_LABEL if name == ALL else name


def benchmark_of(entry: Mapping[str, Any]) -> str:
    return str(entry.get("benchmark") or "")


def grid_of(rows: Sequence[Row]) -> Grid:
    """All views of a run, all benchmarks together and the largest n first."""
    benchmarks = sorted(dict.fromkeys(benchmark_of(row) for row in rows), key=lambda name: name != ALL)
    ns = sorted({row["n"] for row in rows}, reverse=True)
    pairs = [(benchmark, n) for benchmark in benchmarks for n in ns]
    views = [View(*pair, [row for row in rows if (benchmark_of(row), row["n"]) == pair]) for pair in pairs]
    return Grid(benchmarks, ns, [view for view in views if view.rows])


def recommendations(combined: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Benchmark → what is recommended for it, over all n; empty where a run recommends nothing."""
    found = combined.get("recommendations") or [combined.get("recommendation") or {}]
    named = {benchmark_of(entry): entry for entry in found if entry}
    if len(named) == 1:  # of one benchmark: whatever the rows call it
        (entry,) = named.values()
        return {benchmark_of(row): entry for row in combined["rows"]}
    return named


def run_folders(combined: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Benchmark → the folder with its explorer.json and its traces."""
    named = combined.get("folders") or {"": "."}
    return {benchmark: folder / place for benchmark, place in named.items()}
