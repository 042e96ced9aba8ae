"""What was run live beside its replay over stored traces, as a table whose last column says why they differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.report.bars import printable
from eval.report.table import NONE, signed
from eval.report.views import benchmark_label, benchmark_of
from eval.table.labels import judge_label, method_label

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


def live_rows(entries: Sequence[Mapping[str, Any]]) -> list[LiveRow]:
    """From the field `live` of combined.json; tokens are means per problem."""
    return [_live_row(entry) for entry in entries]


def _live_row(entry: Mapping[str, Any]) -> LiveRow:
    sides, problems = (entry["live"], entry["replay"]), max(entry["problems"], 1)
    judge = f" · {judge_label(entry['judge'])}" if entry.get("judge") else ""
    difference, unequal = entry.get("difference") or {}, entry.get("unequal") or {}
    judged = [_judged(side) / problems for side in sides]
    walls = (entry["live"].get("wall_s"), entry.get("sampling_wall_s"))
    return LiveRow(
        benchmark=printable(benchmark_label(benchmark_of(entry)), 80),
        model=printable(entry["model"], 80),
        method=printable(method_label(entry["method"]) + judge, 80),
        problems=entry["problems"],
        equal=entry["equal"],
        accuracy=_pair("{:.3f}", (side["accuracy"] for side in sides)),
        generated=_pair("{:,.0f}", (side["generated"] / problems for side in sides)),
        judged=_pair("{:,.0f}", judged) if any(judged) else None,
        longest=_pair("{:,.0f}", (side["longest_path"] for side in sides)),
        difference=NONE if difference.get("accuracy") is None else signed(difference["accuracy"]),
        interval="{} … {}".format(*map(signed, difference["ci95"])) if difference.get("ci95") else "",
        wall=None if walls == (None, None) else _pair("{:,.1f}", walls),
        wall_words=printable(entry.get("wall_words") or "", 300),
        words=printable(entry["words"], 1000),
        unequal=[(printable(name, 120), printable(str(why), 300)) for name, why in list(unequal.items())[:_LISTED]],
        more=max(len(unequal) - _LISTED, 0),
    )


def _judged(side: Mapping[str, Any]) -> float:
    return side.get("judge_prefill", 0.0) + side.get("judge_generated", 0.0)


def _pair(form: str, values: Iterable[float | None]) -> tuple[str, str]:
    first, second = (NONE if value is None else form.format(value) for value in values)
    return first, second
