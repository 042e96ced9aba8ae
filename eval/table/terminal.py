"""The one table, in a terminal of 100 columns: the rows, each benchmark and each n in short, live runs and advice."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from eval.table.labels import ALL, is_chance, judge_label, mark_notes, marks, planted_errors_note
from eval.table.registry import method_label, method_of
from secateur.results import Difference, LiveEntry, Row, Table
from secateur.runtime.console import WIDTH, plain_table

_ACROSS = 4  # benchmarks, or n, beside each other
_COST_WIDTH = 12  # more columns where costs are shown
Place = str | int


def print_results(table: Table, console: Console) -> None:
    """The table of the largest n, of all benchmarks together where there are several; each benchmark and each n in
    short; the paired differences, live runs, the recommendation and what the columns mean."""
    rows = table.rows
    width = WIDTH + (_COST_WIDTH if _has_costs(rows) else 0)
    if console.width < width and not console.is_terminal:  # a log file reports 80 columns, yet has room for more
        console = Console(file=console.file, width=width, highlight=False, soft_wrap=True)
    benchmark, n = rows[0].benchmark, max(row.n for row in rows)
    main = [row for row in rows if (row.benchmark, row.n) == (benchmark, n)]
    several = any(row.benchmark != benchmark for row in rows)
    console.print(results_table(main, f"{escape(benchmark)}: " if several else ""))
    for part in (*benchmark_tables(rows, n), *size_tables(rows, benchmark)):
        console.print(part)
    _print_differences([one for one in table.differences if (one.benchmark, one.n) == (benchmark, n)], console)
    _print_live(table, console)
    for line in _advice(table):
        console.print(textwrap.fill(escape(line), WIDTH, initial_indent=" → ", subsequent_indent="   "))
    for line in _notes(table):
        console.print(textwrap.fill(line, WIDTH), style="dim")


def results_table(rows: Sequence[Row], title: str = "") -> Grid:
    """One line per model, method and judge; tokens are means per problem."""
    first = rows[0]
    grid = plain_table(f"{title}{first.problems} problems, n = {first.n} traces each")
    for name in ("method", "judge"):
        grid.add_column(name, overflow="fold")  # names give way to figures
    numbers = _numbers(rows)
    for name in numbers:
        grid.add_column(name, justify="right", no_wrap=True)
    model = None
    for row in rows:
        if row.model != model:
            model = row.model
            _add_model(grid, model)
        style = "green" if method_of(row.method).prunes and not is_chance(row) else None
        names = escape(method_label(row.method)) + marks(row), escape(judge_label(row.judge))
        grid.add_row(*names, *(text(row) for text in numbers.values()), style=style)
    return grid


def _numbers(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Heading → what stands in a row. Costs take the room of the judge's tokens where no judge reads any."""
    costs = _has_costs(rows)
    columns: dict[str, Callable[[Row], str]] = {
        "acc.": lambda row: f"{row.accuracy:.3f}",
        "95 % CI": lambda row: "{:.3f}–{:.3f}".format(*row.accuracy_ci95),
        "done": lambda row: f"{row.finished:.1f}",
        "tokens": lambda row: f"{row.generated_per_problem:,.0f}",
    }
    if not costs or any(row.judged_per_problem for row in rows):
        columns["judge\ntokens"] = lambda row: f"{row.judged_per_problem:,.0f}" if row.judged_per_problem else ""
    columns["longest\npath"] = lambda row: f"{row.tokens.longest_path:,.0f}"
    columns["saved\nnet"] = lambda row: f"{100 * row.saving_net:.1f} %"
    if costs:
        columns["cost of\n1,000"] = lambda row: "–" if row.cost is None else _money(row.cost.per_1000_problems)
    return columns


def _money(cost: float) -> str:
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.3g}"


def _has_costs(rows: Sequence[Row]) -> bool:
    return any(row.cost is not None for row in rows)


def benchmark_tables(rows: Sequence[Row], n: int) -> Iterator[Grid]:
    """Accuracy and net saving on each benchmark at one n; nothing where there is only one."""
    names = [name for name in dict.fromkeys(row.benchmark for row in rows) if name != ALL]
    shown = [row for row in rows if row.n == n and not _is_control(row)]
    if len(names) < 2 or not shown:
        return
    titles: dict[Place, str] = {name: _heading(name, shown) for name in names}
    title = f"each benchmark, n = {n}: accuracy, saved net"
    yield from _side_by_side(title, shown, lambda row: row.benchmark, titles, _accuracy_and_saving)


def size_tables(rows: Sequence[Row], benchmark: str) -> Iterator[Grid]:
    """Accuracy and net tokens of one benchmark over n; nothing where there is only one."""
    shown = [row for row in rows if row.benchmark == benchmark and not _is_control(row)]
    sizes = sorted({row.n for row in shown})
    if len(sizes) < 2:
        return
    title = f"{escape(benchmark)}, over n: accuracy, net tokens per problem"
    titles: dict[Place, str] = {n: f"n = {n}" for n in sizes}
    yield from _side_by_side(title, shown, lambda row: row.n, titles, _accuracy_and_tokens)


def _is_control(row: Row) -> bool:
    return bool(method_of(row.method).beside) or is_chance(row)


def _heading(name: str, rows: Iterable[Row]) -> str:
    problems = next(row.problems for row in rows if row.benchmark == name)
    return f"{escape(name)}\n{problems} problems"


def _accuracy_and_saving(row: Row) -> str:
    """Marked by itself: what a model or a judge was trained on differs between benchmarks."""
    return f"{row.accuracy:.3f}{marks(row)} {100 * row.saving_net:6.1f} %"


def _accuracy_and_tokens(row: Row) -> str:
    return f"{row.accuracy:.3f}{marks(row)} {row.net_tokens:8,.0f}"


def _side_by_side(
    title: str,
    rows: Sequence[Row],
    place_of: Callable[[Row], Place],
    titles: Mapping[Place, str],
    text: Callable[[Row], str],
) -> Iterator[Grid]:
    """A line per model, method and judge; `titles`: place → heading of its column, a few in each table."""
    found = {(row.series, place_of(row)): row for row in rows}
    lines = list(dict.fromkeys(row.series for row in rows))
    places, most = list(titles), _ACROSS - any(map(marks, rows))  # which take room
    for first in range(0, len(places), most):
        across = places[first : first + most]
        grid = plain_table(title)
        for name in ("method", "judge"):
            grid.add_column(name, overflow="fold")  # names give way to figures
        for place in across:
            grid.add_column(titles[place], justify="right", no_wrap=True)
        model = None
        for series in lines:
            if series[0] != model:
                model = series[0]
                _add_model(grid, model)
            cells = (found.get((series, place)) for place in across)
            names = escape(method_label(series[1])), escape(judge_label(series[2]))
            grid.add_row(*names, *("–" if cell is None else text(cell) for cell in cells))
        yield grid


def _add_model(grid: Grid, model: str) -> None:
    """A heading of its own for the lines of one model."""
    grid.add_section()
    grid.add_row(f"[bold]{escape(model)}[/bold]", *[""] * (len(grid.columns) - 1))


def _print_differences(found: Iterable[Difference], console: Console) -> None:
    grid = plain_table("")
    grid.add_column("difference of accuracies, paired by problem", overflow="fold")
    grid.add_column("95 % CI", justify="right", no_wrap=True)
    for difference in found:
        if not method_of(difference.b.method).is_rival:  # the report has those as well
            numbers = (difference.difference, *difference.ci95)
            value, low, high = (f"{round(x, 3) + 0.0:+.3f}" for x in numbers)
            grid.add_row(escape(difference.label), f"{value}  {low} … {high}")
    if grid.row_count:
        console.print(grid)


def _print_live(table: Table, console: Console) -> None:
    equality, entries = table.live_equals_replay, table.live
    if entries:
        console.print(live_table(entries))
    if equality and equality.exact:
        console.print(f" live = replay: {equality.equal} of {equality.problems} problems, token for token")
    for line in live_words([entry for entry in entries if not entry.exact or entry.equal < entry.problems]):
        console.print(textwrap.fill(escape(line), WIDTH, initial_indent=" ", subsequent_indent="   "))


def live_table(entries: Sequence[LiveEntry]) -> Grid:
    """Live runs beside the replays of the same problems; tokens are means per problem."""
    several = len({entry.benchmark for entry in entries}) > 1
    grid = plain_table("live beside replay, the same problems")
    for name in (*(["benchmark"] if several else []), "model", "method"):
        grid.add_column(name, overflow="fold")  # names give way to figures
    for name in ("equal", "acc.\nlive", "\nreplay", "tokens\nlive", "\nreplay", "longest\nlive", "path\nreplay"):
        grid.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        names = [escape(entry.benchmark)] if several else []
        names += [escape(entry.model), escape(method_label(entry.method))]
        grid.add_row(*names, f"{entry.equal} of {entry.problems}", *_live_numbers(entry))
    return grid


def _live_numbers(entry: LiveEntry) -> list[str]:
    sides = (entry.live, entry.replay)
    return [
        *(f"{side.accuracy:.3f}" for side in sides),
        *(f"{side.tokens.generated / entry.problems:,.0f}" for side in sides),
        *(f"{side.tokens.longest_path:,.0f}" for side in sides),
    ]


def live_words(entries: Sequence[LiveEntry]) -> list[str]:
    """What explains the differences: each sentence once, with those it is about."""
    about: dict[str, list[str]] = {}
    several = len({entry.benchmark for entry in entries}) > 1
    for entry in entries:
        names = [*([entry.benchmark] if several else []), entry.model, method_label(entry.method)]
        about.setdefault(entry.words, []).append(", ".join(names))
    return [f"live, {'; '.join(names)}: {words}" for words, names in about.items()]


def _advice(table: Table) -> list[str]:
    """The words of the first recommendation, and the last, which is the upshot, of each benchmark's own."""
    if not table.recommendations:  # rows of several runs
        return []
    first, *others = table.recommendations
    return [*first.words, *(f"{other.benchmark}: {other.words[-1]}" for other in others if other.words)]


def _notes(table: Table) -> list[str]:
    planted = planted_errors_note(table.config)
    return [
        "done: traces that vote; tokens: generated per problem; longest path: tokens that have to be generated one "
        "after another; saved: against the base model's consensus of all n, judge included, in its FLOPs.",
        *(["–: a method that takes more traces than that n."] if _lacks_methods(table.rows) else []),
        *mark_notes(table.rows),
        *([planted] if planted else []),
    ]


def _lacks_methods(rows: Sequence[Row]) -> bool:
    """Whether a smaller n lacks a method that the largest has."""
    sizes = {row.n for row in rows}
    return any({row.n for row in rows if row.method == name} != sizes for name in {row.method for row in rows})
