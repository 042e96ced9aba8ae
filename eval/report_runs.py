"""Makes the report of a run anew from what it left, or puts several runs side by side; may follow those that go on.

    python eval/report_runs.py outputs/demo                     # writes outputs/demo/report.html
    python eval/report_runs.py outputs/a outputs/b              # writes runs.html here
    python eval/report_runs.py --watch outputs/real/thinkprune  # the page loads itself anew until the run ends

A run is the folder of a table, of a schedule, or of `make demo` and `make real`, which hold both. Nothing is computed
and nothing in the folder is changed but report.html.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import time
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from eval.report.page import ReportInputs, write_report
from eval.report.runs import Run, read_run, render_runs
from eval.run_summary import SUMMARY_FILE, held_out_lengths, read_run_summary
from secateur.deepprune.judges.record import METRICS_FILE
from secateur.results import Table
from secateur.runtime.commands import OneLineParser
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_text
from secateur.runtime.process import entry_point


@dataclass(frozen=True)
class Options:
    """`every` [seconds] between two looks at runs that go on."""

    runs: tuple[Path, ...]
    output: Path
    watch: bool
    every: int


def parse_options() -> Options:
    parser = OneLineParser()
    parser.add_argument("runs", nargs="+", type=Path, help="folders of tables, schedules or whole runs")
    parser.add_argument(
        "--output", type=Path, help="the page; by default report.html in the run, runs.html for several"
    )
    parser.add_argument(
        "--watch", action="store_true", help="write it anew until all runs have ended; Ctrl+C ends it"
    )
    parser.add_argument("--every", type=int, default=5, help="seconds between two looks with --watch")
    given = parser.parse_args()
    if given.every < 1:
        raise InputError(f"command line: key 'every' has the value {given.every}; give 1 or more seconds")
    for run in given.runs:
        if not run.exists():
            raise InputError(f"{run}: no such folder; give that of a table, a schedule or a whole run")
    alone = given.runs[0] / "report.html" if len(given.runs) == 1 else Path("runs.html")
    return Options(tuple(given.runs), given.output or alone, given.watch, given.every)


def write_page(runs: list[Run], output: Path, reload_s: int) -> None:
    """All that a lone table can be shown of, unless it goes on; several runs side by side."""
    table = runs[0].table
    if len(runs) == 1 and table is not None and table.rows and not reload_s:
        write_report(report_inputs(runs[0]), output)
    else:
        write_text(output, render_runs(runs, reload_s))


def report_inputs(run: Run) -> ReportInputs:
    """A table, and of a whole run what its other stages left."""
    if run.path == run.table_folder or not (run.path / SUMMARY_FILE).is_file():
        return ReportInputs(run.table_folder, thinkprune=run.schedule)
    summary = read_run_summary(run.path)
    return ReportInputs(
        run.table_folder,
        thinkprune=run.schedule,
        judges=first_judges(run.table),
        lengths=held_out_lengths(run.path, summary.one_trace),
        one_trace=summary.one_trace,
        wall_s=summary.wall_s,
    )


def first_judges(table: Table) -> dict[str, Path]:
    """Model → folder of the first of its judges, where that was measured and still lies there."""
    named = {name: [one] if isinstance(one, str) else one for name, one in table.config["judges"].items()}
    found = {name: Path(judges[0]) for name, judges in named.items() if judges}
    return {name: folder for name, folder in found.items() if (folder / METRICS_FILE).is_file()}


def follow(options: Options) -> None:
    """Write the page whenever something has changed, until nobody works on any of the runs."""
    seen: list[Run] = []
    while True:
        runs = [read_run(path) for path in options.runs]
        going_on = any(run.holder for run in runs)
        if runs != seen or not going_on:
            write_page(runs, options.output, options.every if going_on else 0)
        if not going_on:
            say(f"nobody works on {'it' if len(runs) == 1 else 'them'}: the page is whole, and watching ends")
            return
        if not seen:
            say(f"watching, page: {escape(str(options.output))}; Ctrl+C ends it, and the runs go on")
        seen = runs
        time.sleep(options.every)


@entry_point
def main() -> None:
    options = parse_options()
    if options.watch:
        follow(options)
    else:
        write_page([read_run(path) for path in options.runs], options.output, 0)
    say(f"report: {escape(str(options.output))}")


if __name__ == "__main__":
    main()
