"""What a terminal of 100 columns shows beside the one table: each benchmark, each n, live runs and their replays."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from eval.methods import COMPANIONS
from eval.table_labels import ALL, judge_label, marks, method_label

Row = Mapping[str, Any]
_ACROSS = 4  # benchmarks, or n, beside each other


def benchmark_of(row: Row) -> str | None:
    """None in files from before there were several."""
    return row.get("benchmark")


def benchmark_tables(rows: Sequence[Row], n: int) -> Iterator[Table]:
    """Accuracy and net saving on each benchmark at one n; nothing where there is only one."""
    names = [name for name in dict.fromkeys(benchmark_of(row) for row in rows) if name != ALL]
    shown = [row for row in rows if row["n"] == n and not _is_control(row)]
    if len(names) < 2 or not shown:
        return
    titles = {name: _heading(name, shown) for name in names}
    title = f"each benchmark, n = {n}: accuracy, saved net"
    yield from _side_by_side(title, shown, benchmark_of, titles, _accuracy_and_saving)


def size_tables(rows: Sequence[Row], benchmark: str | None) -> Iterator[Table]:
    """Accuracy and net tokens of one benchmark over n; nothing where there is only one."""
    shown = [row for row in rows if benchmark_of(row) == benchmark and not _is_control(row)]
    sizes = sorted({row["n"] for row in shown})
    if len(sizes) < 2:
        return
    of = f"{escape(str(benchmark))}, over n" if benchmark else "over n"
    title = f"{of}: accuracy, net tokens per problem"
    yield from _side_by_side(title, shown, lambda row: row["n"], {n: f"n = {n}" for n in sizes}, _accuracy_and_tokens)


def live_table(entries: Sequence[Row]) -> Table:
    """Live runs beside the replays of the same problems; tokens are means per problem."""
    several = len({entry["benchmark"] for entry in entries}) > 1
    table = plain_table("live beside replay, the same problems")
    for name in (*(["benchmark"] if several else []), "model", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("equal", "acc.\nlive", "\nreplay", "tokens\nlive", "\nreplay", "longest\nlive", "path\nreplay"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        names = [escape(entry["benchmark"])] if several else []
        names += [escape(entry["model"]), escape(method_label(entry["method"]))]
        table.add_row(*names, f"{entry['equal']} of {entry['problems']}", *_live_numbers(entry))
    return table


def _live_numbers(entry: Row) -> list[str]:
    sides, problems = (entry["live"], entry["replay"]), entry["problems"]
    return [
        *(f"{side['accuracy']:.3f}" for side in sides),
        *(f"{side['generated'] / problems:,.0f}" for side in sides),
        *(f"{side['longest_trace']:,.0f}" for side in sides),
    ]


def live_words(entries: Sequence[Row]) -> list[str]:
    """What explains the differences: each sentence once, with those it is about."""
    about: dict[str, list[str]] = {}
    several = len({entry["benchmark"] for entry in entries}) > 1
    for entry in entries:
        names = [*([entry["benchmark"]] if several else []), entry["model"], method_label(entry["method"])]
        about.setdefault(entry["words"], []).append(", ".join(names))
    return [f"live, {'; '.join(names)}: {words}" for words, names in about.items()]


def _is_control(row: Row) -> bool:
    return row["method"] in COMPANIONS or row["judge"] == "random"


def _heading(name: str | None, rows: Iterable[Row]) -> str:
    problems = next(row["problems"] for row in rows if benchmark_of(row) == name)
    return f"{escape(str(name))}\n{problems} problems"


def _accuracy_and_saving(row: Row) -> str:
    """Marked by itself: what a model or a judge was trained on differs between benchmarks."""
    return f"{row['accuracy']:.3f}{marks(row)} {100 * row['saving_net']:6.1f} %"


def _accuracy_and_tokens(row: Row) -> str:
    """Rows from before there were several n do not say their net tokens."""
    tokens = f"{row['net_tokens']:8,.0f}" if "net_tokens" in row else f"{'–':>8}"
    return f"{row['accuracy']:.3f}{marks(row)} {tokens}"


def _side_by_side(
    title: str,
    rows: Sequence[Row],
    place_of: Callable[[Row], Any],
    titles: Mapping[Any, str],
    text: Callable[[Row], str],
) -> Iterator[Table]:
    """A line per model, method and judge; `titles`: place → heading of its column, a few in each table."""
    found = {(row["model"], row["method"], row["judge"], place_of(row)): row for row in rows}
    lines = list(dict.fromkeys(key[:3] for key in found))
    places, most = list(titles), _ACROSS - any(map(marks, rows))  # which take room
    for first in range(0, len(places), most):
        across = places[first : first + most]
        table = plain_table(title)
        for name in ("method", "judge"):
            table.add_column(name, no_wrap=True)
        for place in across:
            table.add_column(titles[place], justify="right", no_wrap=True)
        model = None
        for key in lines:
            if key[0] != model:
                model = key[0]
                add_model(table, model)
            cells = (found.get((*key, place)) for place in across)
            names = escape(method_label(key[1])), escape(judge_label(key[2]))
            table.add_row(*names, *("–" if cell is None else text(cell) for cell in cells))
        yield table


def add_model(table: Table, model: str) -> None:
    """A heading of its own for the lines of one model."""
    table.add_section()
    table.add_row(f"[bold]{escape(model)}[/bold]", *[""] * (len(table.columns) - 1))


def plain_table(title: str) -> Table:
    """Without lines between rows and columns."""
    return Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, title=title, title_justify="left", pad_edge=False
    )
