"""The benchmarks of a run: a name for each source of problems, and numbers that may differ between them."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from secateur.runtime.errors import InputError
from secateur.tasks.records import Problem
from secateur.tasks.sources import check_problems, load_problems

Problems = dict[str, list[Problem]]
Counts = int | dict[str, int] | None
"""One number for all benchmarks, or benchmark → number."""


def stem_of(path: str | Path) -> str:
    """The name of a JSONL file without its endings.

    >>> stem_of("traces/math.jsonl.gz")
    'math'
    """
    return Path(path).name.removesuffix(".gz").removesuffix(".jsonl")


def benchmark_name(source: str) -> str:
    """The benchmark that a lone source is.

    >>> benchmark_name("data/aime24.jsonl"), benchmark_name("arithmetic:test"), benchmark_name("aime22+aime23")
    ('aime24', 'arithmetic_test', 'aime22+aime23')
    """
    return re.sub(r"[^\w.+-]+", "_", stem_of(source)).strip("_.") or "problems"


def sources_of(problems: str | dict[str, str]) -> dict[str, str]:
    """Benchmark → source, from key `problems`."""
    return problems if isinstance(problems, dict) else {benchmark_name(problems): problems}


def check_folder_names(key: str, names: Iterable[str]) -> None:
    """Raise `InputError` for a name in a config's `key` that cannot name a folder."""
    for name in names:
        if not _FOLDER.fullmatch(name):
            raise InputError(
                f"key '{key}' has the name '{name}': a folder is called by it, so letters, digits, '_', '.', '+' and "
                "'-' are wanted; give another, as in {base: <path>}"
            )


_FOLDER = re.compile(r"\w[\w.+-]*")


def check_names(benchmarks: Collection[str], reserved: Collection[str]) -> None:
    """Raise `InputError` unless there is a benchmark and every name can name a folder and is not `reserved`."""
    if not benchmarks:
        raise InputError("key 'problems' names no benchmark; give at least one, for example {aime24: aime24}")
    for name in benchmarks:
        if name in reserved or not _FOLDER.fullmatch(name):
            raise InputError(
                f"key 'problems' calls a benchmark '{name}': the name of a folder is wanted, not this; give it "
                "another, as in {mine: <its source>}"
            )


def check_counts(key: str, value: Counts, benchmarks: Collection[str], all_needed: bool = False) -> None:
    """Raise `InputError` for a number below 1, a benchmark that is not there or, if `all_needed`, one without."""
    numbers = value if isinstance(value, dict) else dict.fromkeys(benchmarks, value)
    for name, number in numbers.items():
        if name not in benchmarks:
            raise InputError(f"key '{key}' names the benchmark '{name}', which key 'problems' does not have")
        if number is not None and number < 1:
            raise InputError(f"key '{key}' has the value {value}; it must be at least 1")
    if all_needed and (missing := [name for name in benchmarks if name not in numbers]):
        raise InputError(f"key '{key}' has no number for the benchmark '{missing[0]}'; add it")


def count_of(value: Counts, benchmark: str) -> int | None:
    """The number of one benchmark; None where none is given."""
    return value.get(benchmark) if isinstance(value, dict) else value


def all_of(problems: Problems) -> list[Problem]:
    """The problems of all benchmarks."""
    return [problem for of_one in problems.values() for problem in of_one]


def check_benchmarks(sources: Mapping[str, str], count: Counts, key: str = "problem_count") -> None:
    """Raise `InputError` for a source that is not there or cannot be read; no set is loaded."""
    for name, source in sources.items():
        check_problems(source, count_of(count, name), key)


def load_benchmarks(
    sources: Mapping[str, str], count: Counts, seed: int, parts: Mapping[str, Collection[str]] | None = None
) -> Problems:
    """The problems of every benchmark; of one that `parts` names only those with its ids. Raises `InputError` for a
    source that cannot be read, and for too few problems."""
    return {
        name: _part(name, source, (parts or {})[name], count_of(count, name), seed)
        if name in (parts or {})
        else load_problems(source, count_of(count, name), seed)
        for name, source in sources.items()
    }


def _part(benchmark: str, source: str, ids: Collection[str], count: int | None, seed: int) -> list[Problem]:
    found = [problem for problem in load_problems(source, seed=seed) if problem.id in ids]
    if not found or (count is not None and count > len(found)):
        raise InputError(f"{source}: has {len(found)} problems of '{benchmark}', but {count or 'some'} are wanted")
    return found[:count]
