"""The problems of a planned run; where a published set is out of reach, only how many it has."""

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.errors import InputError
from tasks.hub import HUB_SETS
from tasks.load import load_problems, split_source
from tasks.records import Problem


@dataclass(frozen=True)
class PlannedSet:
    """`read` is False for problems that stand for those of a set that could not be read: without text."""

    problems: list[Problem]
    read: bool = True
    note: str | None = None


def planned_sets(sources: Mapping[str, str], counts: Mapping[str, int | None], seed: int) -> dict[str, PlannedSet]:
    """Name → problems. Raises `InputError` for what the run would refuse, other than the Hub being out of reach."""
    return {name: _planned_set(source, counts.get(name), seed) for name, source in sources.items()}


def _planned_set(source: str, count: int | None, seed: int) -> PlannedSet:
    try:
        return PlannedSet(load_problems(source, count, seed))
    except InputError:
        sizes = [HUB_SETS[part].count if part in HUB_SETS else None for part in split_source(source)]
        if None in sizes:
            raise
        most = sum(size[-1] for size in sizes if size)
        if count is not None and count > most:
            raise
        about = "" if all(len(size) == 1 for size in sizes if size) else "at most "
        note = f"{source} is out of reach, so it was not read; it holds {about}{most} problems"
        standing = [Problem(f"{source} {number}", "", "") for number in range(count or most)]
        return PlannedSet(standing, False, note)
