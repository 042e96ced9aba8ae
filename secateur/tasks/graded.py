"""Verdicts on traces as a file beside them: one line per sample, each with its checksum."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secateur.runtime.files import write_text
from secateur.runtime.records import as_json, read_with_checksums, record_of, with_checksum

RESULTS_FILE = "results.jsonl"
REMEDY = "delete the file, and its traces are graded again"


@dataclass(frozen=True)
class GradedSample:
    """The verdict on one trace. `n_tokens` counts the whole output, end token included."""

    problem_id: str
    sample: int
    correct: bool
    n_tokens: int
    finish_reason: str


def write_results(path: Path, results: Iterable[GradedSample]) -> None:
    """Replace `path` by these."""
    lines = (json.dumps(with_checksum(as_json(one)), ensure_ascii=False) for one in results)
    write_text(path, "".join(line + "\n" for line in lines))


def read_results(path: Path) -> Iterator[GradedSample]:
    """Raises `InputError` naming file and line for one that was changed since, or is no such line."""
    for number, line in read_with_checksums(path, REMEDY):
        yield record_of(GradedSample, line, f"{path}, line {number}")
