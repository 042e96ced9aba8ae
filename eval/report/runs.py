"""Several runs side by side in one page, finished or going on: tables, schedules, and folders that hold both.

What cannot be read yet, or at all, is said in the run's column, and never left out in silence.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from eval.report.answer import Answer, answers
from eval.report.bars import printable
from eval.report.page import page_parts, render_template
from eval.report.schedule_answer import schedule_answer
from eval.report.training import RoundChoice, round_figures, running_round
from eval.report.views import benchmark_label
from schedules.records import finished_rounds
from secateur.results import TABLE_FILE, Table, read_table
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, held_by, read_json

_SETTINGS, _ROUNDS = "settings.json", "rounds"
_SAME_PROBLEMS = ("problems", "problem_count", "seed")
"""Settings that say which problems a table is about."""
_AFTERWARDS = "The table was made before the last traces: the same command, started again, makes it anew."


@dataclass(frozen=True)
class Run:
    """What lies in a folder so far. `table_folder` and `schedule` are in it, or it itself; `holder` is who works in
    it now; `progress` and `faults` are sentences."""

    path: Path
    table: Table | None
    table_folder: Path | None
    schedule: Path | None
    holder: str | None
    progress: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def name(self) -> str:
        return printable(str(self.path), 200)


@dataclass(frozen=True)
class DrawnRun:
    """A column of the page."""

    name: str
    state: str
    answers: list[Answer]
    choices: list[RoundChoice]
    figures: list[Markup]
    progress: list[str]
    faults: list[str]


def read_run(path: Path) -> Run:
    """Raises `InputError` where there is no table and no schedule, begun or done."""
    folder, schedule = _table_folder(path), _schedule(path)
    holder = _holder([path, *([folder] if folder else []), *([schedule, schedule / _ROUNDS] if schedule else [])])
    if folder is None and schedule is None and holder is None:
        raise InputError(f"{path}: no table ({TABLE_FILE}) and no schedule ({_ROUNDS}/) there, begun or done")
    table, faults = None, []
    if folder is not None and (folder / TABLE_FILE).is_file():
        try:
            table = read_table(folder)
        except InputError as error:
            faults.append(str(error))
    progress = _stages(path)
    try:
        progress += [*(_trained(schedule) if schedule else []), *(_sampled(folder) if folder else [])]
    except InputError as error:
        faults.append(str(error))
    if folder is not None and table is not None:
        progress = [_AFTERWARDS, *progress] if _is_older(folder) else []
    return Run(path, table, folder, schedule, holder, tuple(progress), tuple(faults))


def _is_older(folder: Path) -> bool:
    """Whether the table was made before the last of its traces."""
    made = (folder / TABLE_FILE).stat().st_mtime
    return any(file.stat().st_mtime > made for file in _trace_files(folder))


def _table_folder(path: Path) -> Path | None:
    """The folder itself, or the newest below `combined/` of a whole run."""
    places = [path, *sorted(path.glob("combined/*"), key=lambda place: place.stat().st_mtime, reverse=True)]
    done = [place for place in places if (place / TABLE_FILE).is_file()]
    begun = [place for place in places if (place / _SETTINGS).is_file() and any(_trace_files(place))]
    return next(iter([*done, *begun]), None)


def _schedule(path: Path) -> Path | None:
    return next((place for place in (path, path / "thinkprune") if (place / _ROUNDS).is_dir()), None)


def _holder(folders: Sequence[Path]) -> str | None:
    return next(filter(None, map(held_by, folders)), None)


def _trace_files(folder: Path) -> Iterator[Path]:
    """Those of every model, in a run of one benchmark and in one of several."""
    for pattern in ("*/traces/traces-rank*.jsonl", "*/*/traces/traces-rank*.jsonl"):
        yield from sorted(folder.glob(pattern))


def _sampled(folder: Path) -> list[str]:
    """How many traces of each model there are; of how many, where the settings say so."""
    counts: dict[Path, int] = {}
    for file in _trace_files(folder):
        model = file.parent.parent
        counts[model] = counts.get(model, 0) + file.read_bytes().count(b"\n")
    return [_traces_of(model, found, folder) for model, found in counts.items()]


def _traces_of(model: Path, found: int, folder: Path) -> str:
    settings = read_json(model.parent / _SETTINGS) if (model.parent / _SETTINGS).is_file() else {}
    problems, n = _asked(settings), settings.get("n")
    wanted = f" of {problems * n:,}" if problems is not None and isinstance(n, int) else ""
    return f"{model.relative_to(folder)}: {found:,}{wanted} traces"


def _asked(settings: Mapping[str, JSON]) -> int | None:
    """How many problems a table is about; None where only its sources would tell."""
    count, source = settings.get("problem_count"), Path(str(settings.get("problems")))
    if count is None and source.is_file():
        return sum(bool(line.strip()) for line in source.read_bytes().splitlines())
    return count if isinstance(count, int) else None


def _stages(path: Path) -> list[str]:
    """Which stages of a whole run are done, in their order."""
    done = sorted((path / "stages").glob("*.json"), key=lambda file: file.stat().st_mtime)
    return [f"Done so far: {', '.join(file.stem for file in done)}."] if done else []


def _trained(schedule: Path) -> list[str]:
    one = running_round(schedule)
    return [] if one is None else [one.words()]


def same_problems(tables: Sequence[Table]) -> bool:
    """Whether the tables are about the same problems, so that their figures may be compared."""
    asked = [{key: table.settings.get(key) for key in _SAME_PROBLEMS} for table in tables]
    return all(one == asked[0] for one in asked)


def render_runs(runs: Sequence[Run], reload_s: int = 0) -> str:
    """The page; with `reload_s` it loads itself anew after so many seconds, again and again."""
    drawn = [_drawn(run) for run in runs]
    tables = [run.table for run in runs if run.table is not None]
    return render_template(
        "runs.html.j2",
        page=page_parts(("report.js",)),
        runs=drawn,
        lines=[(one.name, answer, benchmark_label(answer.benchmark)) for one in drawn for answer in one.answers],
        comparable=same_problems(tables) if tables else True,
        reload_s=reload_s,
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _drawn(run: Run) -> DrawnRun:
    faults, figures, told = list(run.faults), None, answers(run.table) if run.table else []
    try:
        figures = round_figures(run.schedule, f"of {run.name}")
        if run.schedule is not None and run.table is None and (rounds := finished_rounds(run.schedule)):
            told = [schedule_answer(run.schedule, rounds)]
    except InputError as error:
        faults.append(str(error))
    return DrawnRun(
        name=run.name,
        state=_state(run),
        answers=told,
        choices=figures.choices if figures else [],
        figures=[figures.lengths, figures.accuracy] if figures else [],
        progress=[printable(line, 300) for line in run.progress],
        faults=[printable(line, 300) for line in faults],
    )


def _state(run: Run) -> str:
    if run.holder is not None:
        return printable(f"Goes on: {run.holder}", 200)
    whole = run.table is not None or (run.schedule is not None and (run.schedule / "final").is_dir())
    return "Done." if whole else "Nobody works on it."
