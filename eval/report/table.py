"""The tables of the report: the results, with values to sort by; and live runs beside their replay."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from eval.report.bars import printable
from eval.report.frontier import longest_path
from eval.report.views import benchmark_label
from eval.table.labels import judge_label, marks, row_notes
from eval.table.registry import method_label
from eval.table.votes import EQUAL_TOKENS
from secateur.results import Control, LiveEntry, LiveSide, Row
from secateur.runtime.pictures import model_colours

NONE = "–"
SortValue = float | str | None
_WORDS = 80  # characters of a name


@dataclass(frozen=True)
class Column:
    """`text` says what is shown and `value` what is sorted by (None comes last); `about` explains
    the heading, `more` a cell. `grid`: needed only where rows of several benchmarks or n stand together; `detail`:
    for those who ask for every column."""

    label: str
    about: str
    value: Callable[[Row], SortValue]
    text: Callable[[Row], str]
    words: bool = False
    more: Callable[[Row], str] = lambda row: ""
    grid: bool = False
    detail: bool = False


@dataclass(frozen=True)
class TableCell:
    """`more` shows under the pointer."""

    text: str
    value: SortValue
    more: str


@dataclass(frozen=True)
class TableRow:
    """`main`: recommended; `marks` stand behind the method's name and `note` explains them; `words` is what the
    filter looks through; `benchmark` and `n` say in which view of the page it is."""

    benchmark: str
    n: int
    cells: list[TableCell]
    colour: str
    main: bool
    marks: str
    note: str
    words: str


def signed(value: float, digits: int = 3) -> str:
    """A difference with a real minus sign, and without "−0.000"."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f} %".replace("-", "−")


def _number(label: str, about: str, value: Callable[[Row], float | None], form: str) -> Column:
    def text(row: Row) -> str:
        found = value(row)
        return NONE if found is None else form.format(found)

    return Column(label, about, value, text)


def _share(label: str, about: str, value: Callable[[Row], float | None]) -> Column:
    return Column(label, about, value, lambda row: percent(value(row)))


def _name(label: str, about: str, name: Callable[[Row], str]) -> Column:
    """A column of words; an empty name is none."""

    def shown(row: Row) -> str:
        return printable(name(row), _WORDS)

    return Column(label, about, lambda r: shown(r) or None, lambda r: shown(r) or NONE, words=True)


def _judged(row: Row) -> float | None:
    return row.judged_per_problem if row.judge else None


def _control(row: Row) -> Control | None:
    return row.controls.get(EQUAL_TOKENS)


def _to_control(row: Row) -> float | None:
    control = _control(row)
    return None if control is None else control.difference


def _control_interval(row: Row) -> str:
    control = _control(row)
    return "" if control is None else "95 % interval {} … {}, paired by problem".format(*map(signed, control.ci95))


def _intra(row: Row) -> float | None:
    return None if row.saving_parts is None else row.saving_parts.intra


def _inter(row: Row) -> float | None:
    return None if row.saving_parts is None else row.saving_parts.inter


def _cost(row: Row) -> float | None:
    return None if row.cost is None else row.cost.per_1000_problems


def _grid_columns(rows: Sequence[Row]) -> list[Column]:
    """Where there are several benchmarks, or several n."""
    found = [
        _name("benchmark", "which problems", lambda r: benchmark_label(r.benchmark)),
        _number("n", "traces per problem", lambda r: r.n, "{}"),
    ]
    return [replace(column, grid=True) for column in found if len({column.value(row) for row in rows}) > 1]


def _first_columns(rows: Sequence[Row]) -> list[Column]:
    return [
        _name("method", "how the answer is found", lambda r: method_label(r.method)),
        _name("model", "which model made the traces", lambda r: r.model),
        _name("judge", "what tells which traces will end in the same answer", lambda r: judge_label(r.judge)),
        *_grid_columns(rows),
        _number("accuracy", "share of problems answered rightly (0 to 1)", lambda r: r.accuracy, "{:.3f}"),
        Column(
            "95 % interval", "of the accuracy: bootstrap over problems", lambda r: r.accuracy_ci95[0],
            lambda r: "{:.3f}–{:.3f}".format(*r.accuracy_ci95),
        ),
        _number("tokens for an answer", "everything computed for it, a mean; the judge's work in tokens of the base "
                "model", lambda r: r.net_tokens, "{:,.0f}"),
        _share("saved", "of the tokens of the base model's consensus, everything counted", lambda r: r.saving_net),
        _number("tokens to wait for", "generated one after another, a mean", longest_path, "{:,.0f}"),
    ]  # fmt: skip


def columns(rows: Sequence[Row]) -> list[Column]:
    """Those for which at least one row has something to say."""
    found = [
        _number("seconds", "wall clock where all problems were run", lambda r: r.wall_s, "{:,.1f}"),
        _number("cost of 1,000", "money for 1,000 problems, by the prices given", _cost, "{:,.4g}"),
        *(replace(column, detail=True) for column in _details()),
    ]
    return [*_first_columns(rows), *(c for c in found if any(c.value(row) not in (None, 0.0) for row in rows))]


def _details() -> list[Column]:
    return [
        _number("traces finished", "that vote, a mean", lambda r: r.finished, "{:.1f}"),
        _number("tokens generated", "without the judge's work, a mean per problem", lambda r: r.generated_per_problem,
                "{:,.0f}"),
        _number("judge tokens", "read and generated by the judge, a mean per problem", _judged, "{:,.0f}"),
        _share("saved gross", "of generated tokens only", lambda r: r.saving_gross),
        _number("a voter is right", "share of problems where the choice of traces left a right answer for the vote",
                lambda r: r.oracle_accuracy, "{:.3f}"),
        Column(
            "against same tokens", "difference in accuracy to consensus over the fewer full traces that the same "
            "tokens would buy", _to_control, lambda r: NONE if _control(r) is None else signed(_to_control(r)),
            more=_control_interval,
        ),
        _share("inside traces", "the part of what is saved that shorter traces make", _intra),
        _share("across traces", "the part of what is saved that pruning traces makes", _inter),
    ]  # fmt: skip


def table_rows(
    rows: Sequence[Row], shown: Sequence[Column], recommended: Collection[str | None] = ()
) -> list[TableRow]:
    """`recommended`: ids of the rows that stand out."""
    colours = model_colours(list(dict.fromkeys(row.model for row in rows)))
    return [
        TableRow(
            row.benchmark,
            row.n,
            [TableCell(column.text(row), column.value(row), column.more(row)) for column in shown],
            colours[row.model],
            row.id in recommended,
            marks(row),
            "; ".join(row_notes(row)),
            " ".join(column.text(row) for column in shown if column.words).lower(),
        )
        for row in rows
    ]


_LISTED = 40  # problems that differ, by name


@dataclass(frozen=True)
class LiveRow:
    """One benchmark, model and method. Pairs are (live, replay), but for `wall`: seconds of the live run and of
    sampling all traces, as `wall_words` explains. `unequal` are (problem id, reason); `more` is how many are not
    listed."""

    benchmark: str
    model: str
    method: str
    problems: int
    equal: int
    accuracy: tuple[str, str]
    generated: tuple[str, str]
    judged: tuple[str, str] | None
    longest: tuple[str, str]
    difference: str
    interval: str
    wall: tuple[str, str] | None
    wall_words: str
    words: str
    unequal: list[tuple[str, str]]
    more: int


def live_rows(entries: Sequence[LiveEntry]) -> list[LiveRow]:
    """Tokens are means per problem."""
    return [_live_row(entry) for entry in entries]


def _live_row(entry: LiveEntry) -> LiveRow:
    sides, problems = (entry.live, entry.replay), entry.problems
    judge = f" · {judge_label(entry.judge)}" if entry.judge else ""
    judged = [_judge_tokens(side) / problems for side in sides]
    walls = (entry.live.wall_s, entry.sampling_wall_s)
    return LiveRow(
        benchmark=printable(benchmark_label(entry.benchmark), 80),
        model=printable(entry.model, 80),
        method=printable(method_label(entry.method) + judge, 80),
        problems=problems,
        equal=entry.equal,
        accuracy=_pair("{:.3f}", (side.accuracy for side in sides)),
        generated=_pair("{:,.0f}", (side.tokens.generated / problems for side in sides)),
        judged=_pair("{:,.0f}", judged) if any(judged) else None,
        longest=_pair("{:,.0f}", (side.tokens.longest_path for side in sides)),
        difference=signed(entry.difference.accuracy),
        interval="{} … {}".format(*map(signed, entry.difference.ci95)),
        wall=None if walls == (None, None) else _pair("{:,.1f}", walls),
        wall_words=printable(entry.wall_words, 300),
        words=printable(entry.words, 1000),
        unequal=[(printable(name, 120), printable(why, 300)) for name, why in list(entry.unequal.items())[:_LISTED]],
        more=max(len(entry.unequal) - _LISTED, 0),
    )


def _judge_tokens(side: LiveSide) -> float:
    return side.tokens.judge_prefill + side.tokens.judge_generated


def _pair(form: str, values: Iterable[float | None]) -> tuple[str, str]:
    first, second = (NONE if value is None else form.format(value) for value in values)
    return first, second
