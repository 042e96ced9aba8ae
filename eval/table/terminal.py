"""The one table, in a terminal of 100 columns."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.table.labels import ALL, judge_label, mark_notes, marks, method_label, planted_errors_note
from eval.table.methods import BASELINES, COMPANIONS
from secateur.runtime.tables import WIDTH

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
        *(f"{side['longest_path']:,.0f}" for side in sides),
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


_COST_WIDTH = 12  # more columns where costs are shown


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _money(cost: float) -> str:
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.3g}"


def _judged(row: Mapping[str, Any]) -> float:
    return row["tokens"]["judge_prefill"] + row["tokens"]["judge_generated"]


def _has_costs(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any("cost" in row for row in rows)


def _numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Heading → what stands in a row. Costs take the room of the judge's tokens where no judge reads any."""
    costs = _has_costs(rows)
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "acc.": lambda row: f"{row['accuracy']:.3f}",
        "95 % CI": lambda row: "{:.3f}–{:.3f}".format(*row["accuracy_ci95"]),
        "done": lambda row: f"{row['finished']:.1f}",
        "tokens": lambda row: f"{row['tokens']['generated'] / row['problems']:,.0f}",
    }
    if not costs or any(_judged(row) for row in rows):
        columns["judge\ntokens"] = lambda row: f"{_judged(row) / row['problems']:,.0f}" if _judged(row) else ""
    columns["longest\npath"] = lambda row: f"{row['tokens']['longest_path']:,.0f}"
    columns["saved\nnet"] = lambda row: _percent(row["saving_net"])
    if costs:
        columns["cost of\n1,000"] = lambda row: _money(row["cost"]["per_1000_problems"]) if "cost" in row else "–"
    return columns


def results_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """One line per model, method and judge; tokens are means per problem."""
    first = rows[0]
    table = plain_table(f"{title}{first['problems']} problems, n = {first['n']} traces each")
    for name in ("method", "judge"):
        table.add_column(name, no_wrap=True)
    numbers = _numbers(rows)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    model = None
    for row in rows:
        if row["model"] != model:
            model = row["model"]
            add_model(table, model)
        style = "green" if row["method"].startswith("deepprune") and row["judge"] != "random" else None
        names = escape(method_label(row["method"])) + marks(row), escape(judge_label(row["judge"]))
        table.add_row(*names, *(text(row) for text in numbers.values()), style=style)
    return table


def print_results(combined: Mapping[str, Any], console: Console) -> None:
    """The table of the largest n, of all benchmarks together where there are several; each benchmark and each n in
    short; the paired differences, live runs, the recommendation and what the columns mean."""
    rows = combined["rows"]
    width = WIDTH + (_COST_WIDTH if _has_costs(rows) else 0)
    if console.width < width and not console.is_terminal:  # a log file reports 80 columns, yet has room for more
        console = Console(file=console.file, width=width, highlight=False, soft_wrap=True)
    benchmark, n = benchmark_of(rows[0]), max(row["n"] for row in rows)
    main = [row for row in rows if (benchmark_of(row), row["n"]) == (benchmark, n)]
    several = any(benchmark_of(row) != benchmark for row in rows)
    console.print(results_table(main, f"{escape(str(benchmark))}: " if several else ""))
    for table in (*benchmark_tables(rows, n), *size_tables(rows, benchmark)):
        console.print(table)
    _print_differences(combined["differences"], (benchmark, n), console)
    _print_live(combined, console)
    for line in _advice(combined):
        console.print(textwrap.fill(escape(line), WIDTH, initial_indent=" → ", subsequent_indent="   "))
    for line in _notes(combined):
        console.print(textwrap.fill(line, WIDTH), style="dim")


def _print_differences(found: Iterable[Mapping[str, Any]], shown: tuple[str | None, int], console: Console) -> None:
    table = plain_table("")
    table.add_column("difference of accuracies, paired by problem", no_wrap=True)
    table.add_column("95 % CI", justify="right", no_wrap=True)
    for difference in found:
        if (difference.get("benchmark", shown[0]), difference.get("n", shown[1])) != shown:
            continue
        if difference["b"]["method"] not in BASELINES:  # the report has those as well
            low, high = difference["ci95"]
            value, low, high = (f"{round(x, 3) + 0.0:+.3f}" for x in (difference["difference"], low, high))
            table.add_row(escape(difference["label"]), f"{value}  {low} … {high}")
    if table.row_count:
        console.print(table)


def _print_live(combined: Mapping[str, Any], console: Console) -> None:
    live, entries = combined["live_equals_replay"], combined.get("live") or []
    if entries:
        console.print(live_table(entries))
    if live and live.get("exact", True):
        console.print(f" live = replay: {live['equal']} of {live['problems']} problems, token for token")
    elif live and not entries:
        console.print(
            f" live: {live['problems']} problems, {live['equal']} of them as replayed; this engine is not exact"
        )
    for line in live_words([entry for entry in entries if not entry["exact"] or entry["equal"] < entry["problems"]]):
        console.print(textwrap.fill(escape(line), WIDTH, initial_indent=" ", subsequent_indent="   "))


def _advice(combined: Mapping[str, Any]) -> list[str]:
    """The words of the first recommendation, and the last, which is the upshot, of each benchmark's own."""
    first, *others = combined.get("recommendations") or [combined.get("recommendation") or {}]
    upshots = (f"{other['benchmark']}: {other['words'][-1]}" for other in others if other["words"])
    return [*first.get("words", []), *upshots]


def _notes(combined: Mapping[str, Any]) -> list[str]:
    rows, planted = combined["rows"], planted_errors_note(combined["config"])
    return [
        "done: traces that vote; tokens: generated per problem; longest path: tokens that have to be generated one "
        "after another; saved: against the base model's vote of all n, judge included, in the base model's FLOPs.",
        *(["–: DeepConf's warm-up takes as many traces as that n, or more."] if _without_deepconf(rows) else []),
        *mark_notes(rows),
        *([planted] if planted else []),
    ]


def _without_deepconf(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a smaller n lacks what the largest has."""
    sizes = {row["n"] for row in rows if row["method"].startswith("deepconf")}
    return bool(sizes) and sizes != {row["n"] for row in rows}
