"""What was run live beside its replay over stored traces, as a table whose last column says why they differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.report.bars import printable
from eval.report.table import NONE, signed
from eval.report.views import benchmark_label
from eval.table.labels import judge_label
from eval.table.registry import method_label
from secateur.results import LiveEntry, LiveSide

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
    judged = [_judged(side) / problems for side in sides]
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


def _judged(side: LiveSide) -> float:
    return side.tokens.judge_prefill + side.tokens.judge_generated


def _pair(form: str, values: Iterable[float | None]) -> tuple[str, str]:
    first, second = (NONE if value is None else form.format(value) for value in values)
    return first, second
