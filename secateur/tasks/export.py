"""Writes problems to a JSONL file: of a named set, of a drawn task, or of a CSV, Parquet or Hub set of your own.

    secateur problems aime22+aime23 data/aime2223.jsonl
    secateur problems arithmetic:test data/mine.jsonl --count 100
    secateur problems exam.csv data/exam.jsonl --problem_column Question --answer_column Key
    secateur problems openai/gsm8k data/gsm8k.jsonl --subset main --split test --problem_column question \\
        --answer_column answer --answer_from 'pattern:#### (.+)'

All commands take the file; one without answers is for `secateur prune`. The golds are not graded here: one with an
unreadable answer is what one may want to mend.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import argparse
import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from rich.markup import escape

from secateur.runtime.commands import OneLineParser
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, write_text
from secateur.runtime.hub import is_hub_id
from secateur.runtime.process import entry_point
from secateur.tasks.answers.extraction import Extract, extraction
from secateur.tasks.records import Problem
from secateur.tasks.sources import read_source

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PARQUET = ".parquet"


@dataclass(frozen=True)
class Columns:
    """Which columns hold a problem, its answer (None: nobody knows them) and its id (None: its row's number);
    `extract` takes the answer out of a worked solution (None: the column is the answer)."""

    problem: str
    answer: str | None
    id: str | None = None
    extract: Extract | None = None

    def problem_of(self, row: Mapping[str, JSON], where: str, number: int) -> Problem:
        """With the answer "" where none is known. Raises `InputError` naming the row for a column that it does not
        have or that is empty."""
        text = self._cell(row, self.problem, where)
        answer = "" if self.answer is None else self._cell(row, self.answer, where)
        if self.answer is not None and self.extract is not None and (answer := self.extract(answer) or "") == "":
            raise InputError(f"{where}: no answer found in the column '{self.answer}'; see --answer_from")
        return Problem(str(number) if self.id is None else self._cell(row, self.id, where), text, answer)

    @staticmethod
    def _cell(row: Mapping[str, JSON], column: str, where: str) -> str:
        if column not in row:
            raise InputError(f"{where}: there is no column '{column}'; there are {', '.join(map(str, row))}")
        if row[column] is None or not str(row[column]).strip():
            raise InputError(f"{where}: the column '{column}' is empty; fill it, or take the row out")
        return str(row[column]).strip()


def read_table(source: str, columns: Columns, subset: str | None, split: str, count: int | None) -> list[Problem]:
    """The first `count` problems (all if None) of a CSV, TSV or Parquet file or of a set of the Hub. Raises
    `InputError` for one that is not there, and for an id that comes twice."""
    path, found = Path(source), dict[str, Problem]()
    if path.suffix in _SEPARATORS:
        rows: Iterable[Mapping[str, JSON]] = _text_rows(path, _SEPARATORS[path.suffix])
    else:
        rows = _parquet_rows(path) if path.suffix == _PARQUET else _hub_rows(source, subset, split)
    for number, row in enumerate(islice(rows, count), start=1):
        problem = columns.problem_of(row, f"{source}, row {number}", number)
        if problem.id in found:
            raise InputError(f"{source}, row {number}: the id '{problem.id}' was used before; ids must be unique")
        found[problem.id] = problem
    if not found:
        raise InputError(f"{source}: holds no row")
    return list(found.values())


def _text_rows(path: Path, separator: str) -> Iterator[dict[str, JSON]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            yield from csv.DictReader(handle, delimiter=separator)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from None


def _parquet_rows(path: Path) -> Iterator[dict[str, JSON]]:
    from pyarrow import ArrowException, parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error})") from None


def _hub_rows(name: str, subset: str | None, split: str) -> Iterator[dict[str, JSON]]:
    from datasets import load_dataset

    if not is_hub_id(name):
        raise InputError(
            f"{name}: neither a .csv, .tsv or .parquet file that is here, nor the name of a set, owner/name"
        )
    try:
        yield from load_dataset(name, subset, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be fetched from the Hub ({str(error).splitlines()[0]})") from None


def _problems(options: argparse.Namespace) -> list[Problem]:
    if options.problem_column is None:
        if options.answer_column or options.answer_from or options.id_column:
            raise InputError("--answer_column, --answer_from and --id_column want --problem_column; give it too")
        return [one.problem for one in read_source(options.source, options.count, options.seed)]
    if options.answer_from and not options.answer_column:
        raise InputError("--answer_from takes answers out of --answer_column; give it too")
    extract = None if options.answer_from is None else extraction(options.answer_from)
    columns = Columns(options.problem_column, options.answer_column, options.id_column, extract)
    return read_table(options.source, columns, options.subset, options.split, options.count)


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Replace `path` by a JSONL file that `secateur.tasks.sources` reads, but for problems without an answer, which
    eval/prune.py alone takes."""
    told = ({key: value for key, value in asdict(one).items() if key != "answer" or value} for one in problems)
    write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in told))


@entry_point
def main() -> None:
    parser = OneLineParser()
    parser.add_argument("source", help="a set's name, a file, a drawn task's split, or several joined by +")
    parser.add_argument("path", help="the JSONL file to write")
    parser.add_argument("--count", type=int, help="only the first so many; needed for drawn tasks")
    parser.add_argument("--seed", type=int, default=0, help="what drawn problems are drawn with")
    parser.add_argument("--problem_column", help="of a CSV, TSV or Parquet file or a set of the Hub: its problems")
    parser.add_argument(
        "--answer_column",
        help="its answers, or solutions that answers are taken out of; left out where nobody knows them",
    )
    parser.add_argument("--id_column", help="its ids; by default the numbers of the rows")
    parser.add_argument(
        "--answer_from", help="takes answers out of solutions: answer (the last box), pattern:REGEX …"
    )
    parser.add_argument("--subset", help="of a set of the Hub: the name of its configuration")
    parser.add_argument("--split", default="train", help="of a set of the Hub")
    options = parser.parse_args()
    if options.count is not None and options.count < 1:
        raise InputError(f"--count has the value {options.count}; give at least 1")
    problems = _problems(options)
    write_problems(options.path, problems)
    say(f"{len(problems)} problems of {escape(options.source)} → {escape(options.path)}")


if __name__ == "__main__":
    main()
