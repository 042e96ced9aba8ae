"""card.json: what a run's model card knows beyond the other files of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from schedules.card.measured import Measured
from secateur.runtime.records import read_record, write_record
from secateur.runtime.versions import library_versions

FILE, FORMAT = "card.json", 1


@dataclass(frozen=True, kw_only=True)
class CardMemory(Measured):
    """`versions` of the packages at the end of training; `single`, `combined`: measurements that were told."""

    versions: Mapping[str, str]


def remember(run: Path, told: Measured, packages: Sequence[str]) -> CardMemory:
    """The run's card.json with what is told now in the place of what was told before. The versions, those of
    `packages`, are of the first call."""
    path = run / FILE
    if path.is_file():
        known = read_record(path, CardMemory, FORMAT, "delete it and write the card again, with what was told")
    else:
        known = CardMemory(versions=library_versions(packages))
    now = replace(known, single=told.single or known.single, combined=told.combined or known.combined)
    if now != known or not path.is_file():
        write_record(path, now, FORMAT)
    return now
