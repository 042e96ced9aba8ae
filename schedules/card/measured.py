"""What eval/single.py and eval/combined.py measured of a run's final model, as the model card shows it.

Their files are told (`--single`, `--combined`), or found beside the run folder in `single/` and `combined/`. What was
told is kept in the run's card.json, `CardMemory`, so that cards written later have it as well.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from secateur.results import Row, read_table
from secateur.runtime.cards import library_versions
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json
from secateur.runtime.records import read_record, record_of, write_record
from secateur.runtime.statistics import Bounds

M = TypeVar("M")
_ALWAYS = ("single", "consensus")  # methods of a combined table that are always shown


@dataclass(frozen=True)
class SingleFigures:
    """One model on one benchmark, as eval/single.py sums it up: shares are fractions 0-1, lengths [tokens]."""

    problems: int
    samples: int
    pass_at_1: float
    pass_at_1_ci95: Bounds
    mean_tokens: float
    mean_tokens_ci95: Bounds
    truncated_share: float


@dataclass(frozen=True)
class SingleRow(SingleFigures):
    """`ours`: of the final model, else of the one it started from; `source`: where the benchmark's problems come
    from, as the config names it."""

    ours: bool
    benchmark: str
    source: str | None


@dataclass(frozen=True)
class SingleMeasured:
    """Rows, and the settings they were sampled with in `words`."""

    rows: tuple[SingleRow, ...]
    words: str


@dataclass(frozen=True)
class CombinedRow:
    """A row of the table: `method` with its judge, `tokens` per problem of everything that was spent, shares 0-1."""

    ours: bool
    method: str
    benchmark: str
    source: str | None
    n: int
    problems: int
    accuracy: float
    accuracy_ci95: Bounds
    tokens: float
    saving_net: float


@dataclass(frozen=True)
class CombinedMeasured:
    """Rows, the settings in `words`, what is recommended, and how the models are `called` there: name → whether it is
    the final one."""

    rows: tuple[CombinedRow, ...]
    words: str
    advice: tuple[str, ...]
    called: Mapping[str, bool]


@dataclass(frozen=True)
class Measured:
    """What is known of a run's final model beyond its validation."""

    single: SingleMeasured | None = None
    combined: CombinedMeasured | None = None


class Models:
    """Which models of a result file are the run's final model and the one that it started from.

    final: the folder `final/`. original: key `model` of the run. repo_id: where `final/` was pushed. told: name of
    the final model in the file, for files that were made elsewhere.
    """

    def __init__(self, final: Path, original: str, repo_id: str | None = None, told: str | None = None) -> None:
        self.final, self.original, self.repo_id, self.told = final, original, repo_id, told

    def ours(self, models: Mapping[str, str], file: Path) -> dict[str, bool]:
        """Name → whether it is the final model, of the names that are it or the original one. Raises `InputError` if
        the final one is not among them."""
        found = {name: True for name, path in models.items() if self._is_final(name, path)}
        if not found:
            listed = ", ".join(f"{name} ({folder})" for name, folder in models.items())
            raise InputError(
                f"{file}: measures none of this run's models, but {listed}; name the final one of them with --model"
            )
        return {name: False for name, path in models.items() if self._is_original(path)} | found

    def _is_final(self, name: str, path: str) -> bool:
        if self.told is not None:
            return name == self.told
        return path == self.repo_id or _same(path, self.final)

    def _is_original(self, path: str) -> bool:
        return path == self.original or _same(path, Path(self.original))


def _same(path: str, folder: Path) -> bool:
    return folder.is_dir() and Path(path).resolve() == folder.resolve()


@dataclass(frozen=True)
class _Settings:
    """What both scripts' configs say of their sampling; `problems` is one source, or benchmark → source."""

    problems: str | Mapping[str, str]
    temperature: float
    top_p: float
    max_tokens: int

    @property
    def words(self) -> str:
        return f"temperature {self.temperature}, top-p {self.top_p}, at most {self.max_tokens} tokens"

    def source(self, benchmark: str) -> str | None:
        """Where a benchmark's problems come from, as the config names it."""
        return self.problems if isinstance(self.problems, str) else self.problems.get(benchmark)


@dataclass(frozen=True)
class _SingleConfig(_Settings):
    models: Mapping[str, str]


@dataclass(frozen=True)
class _Summary:
    config: _SingleConfig
    models: Mapping[str, Mapping[str, SingleFigures]]


def read_single(path: Path, models: Models) -> SingleMeasured:
    """Rows of eval/single.py's summary.json. Raises `InputError` if it does not measure the final model."""
    summary = _part(_Summary, read_json(path), path, "summary.json of eval/single.py")
    ours = models.ours(summary.config.models, path)
    rows = [
        SingleRow(**vars(figures), ours=final, benchmark=benchmark, source=summary.config.source(benchmark))
        for name, final in ours.items()
        for benchmark, figures in summary.models.get(name, {}).items()
    ]
    return SingleMeasured(tuple(rows), summary.config.words)


def read_combined(path: Path, models: Models) -> CombinedMeasured:
    """Rows of eval/combined.py's combined.json. Raises `InputError` if it does not measure the final model."""
    table, what = read_table(path), "combined.json of eval/combined.py"
    settings = _part(_Settings, dict(table.settings), path, what)
    ours = models.ours(_part(dict[str, str], table.config.get("models"), path, what), path)
    advice = table.recommendations[0] if table.recommendations else None
    chosen = {*advice.frontier_tokens, advice.overall} if advice else set()
    rows = [
        _combined_row(row, ours[row.model], settings)
        for row in table.rows
        if row.model in ours and (row.method in _ALWAYS or row.id in chosen)
    ]
    return CombinedMeasured(tuple(rows), settings.words, advice.words if advice else (), ours)


def _part(kind: type[M], values: JSON, path: Path, what: str) -> M:
    """Part of a result file. Raises `InputError` that names the file where it is something else."""
    try:
        return record_of(kind, values, "it")
    except InputError as error:
        raise InputError(f"{path}: is no {what} ({error}); name the right file") from None


def _combined_row(row: Row, final: bool, settings: _Settings) -> CombinedRow:
    spent = row.tokens
    return CombinedRow(
        ours=final,
        method=f"{row.method} ({row.judge})" if row.judge else row.method,
        benchmark=row.benchmark,
        source=settings.source(row.benchmark),
        n=row.n,
        problems=row.problems,
        accuracy=row.accuracy,
        accuracy_ci95=row.accuracy_ci95,
        tokens=(spent.generated + spent.overrun + spent.judge_prefill + spent.judge_generated) / row.problems,
        saving_net=row.saving_net,
    )


def find_measurements(run: Path, models: Models) -> Measured:
    """The first files beside the run folder that measure its final model, if any."""
    beside = run.resolve().parent
    return Measured(
        _first(sorted(beside.glob("single/summary.json")), read_single, models),
        _first(sorted(beside.glob("combined/**/combined.json"), key=_outermost), read_combined, models),
    )


def _outermost(path: Path) -> tuple[int, str]:
    """A table of several benchmarks comes before those of each."""
    return len(path.parts), str(path)


def _first(paths: Iterable[Path], read: Callable[[Path, Models], M], models: Models) -> M | None:
    for path in paths:
        try:
            return read(path, models)
        except InputError:  # of another model, or not what its name says: nobody named it
            continue
    return None


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
