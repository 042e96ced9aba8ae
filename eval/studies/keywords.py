"""How often keywords of reasoning occur in traces: what counts as one, rates with intervals, and what changed.

ThinkPrune's own list of words is published nowhere (arXiv 2504.01296 shows a figure, its code has no such script), so
ours, `KEYWORDS`, and its rules are ours alone:
- case plays no part; a keyword begins and ends where no letter stands beside it: "waiting" is no "wait";
- the words of a phrase are joined by blanks, one hyphen, or a comma and blanks: "But, wait" is a "but wait", while
  "but. Wait" is not;
- keywords do not overlap: where two begin at the same place the longer one counts, else the earlier one. "But wait"
  is one "but wait" and no "wait";
- "hmm" stands for "hm" with any number of further m.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.markup import escape

from eval.studies.traces import ReadProblem, common_problems, tokens_of
from secateur.runtime.console import CsvValue, interval_text, plain_table, print_table, say, write_csv
from secateur.runtime.errors import InputError
from secateur.runtime.pictures import PLOT_STYLE, model_colours, save_png
from secateur.runtime.records import read_record, write_record
from secateur.runtime.statistics import Bounds, ratio_interval, ratio_with_interval

KEYWORDS = (
    "wait",
    "but wait",
    "hmm",
    "alternatively",
    "another way",
    "however",
    "maybe",
    "perhaps",
    "actually",
    "hold on",
    "let me check",
    "let me double check",
    "let me verify",
    "let me redo",
    "verify",
    "again",
)
_LETTER = r"[^\W\d_]"


class KeywordCounter:
    """Counts `keywords` in texts by the rules at the top. Raises `InputError` for an empty or doubled keyword."""

    def __init__(self, keywords: Sequence[str] = KEYWORDS) -> None:
        self.keywords = [" ".join(keyword.lower().split()) for keyword in keywords]
        for keyword in self.keywords:
            if not keyword or self.keywords.count(keyword) > 1:
                raise InputError(f"key 'keywords' holds '{keyword}': every keyword needs letters and its own entry")
        ordered = sorted(self.keywords, key=len, reverse=True)
        parts = (f"(?P<k{self.keywords.index(keyword)}>{_expression(keyword)})" for keyword in ordered)
        self._pattern = re.compile(rf"(?<!{_LETTER})(?:{'|'.join(parts)})(?!{_LETTER})", re.IGNORECASE)

    def count(self, text: str) -> Counter[str]:
        """
        >>> sorted(KeywordCounter(["wait", "but wait"]).count("Wait. But wait, waiting... but, WAIT").items())
        [('but wait', 2), ('wait', 1)]
        """
        groups = (match.lastgroup for match in self._pattern.finditer(text))
        return Counter(self.keywords[int(group[1:])] for group in groups if group)


def _expression(keyword: str) -> str:
    words = ("hm+" if word == "hmm" else re.escape(word) for word in keyword.split(" "))
    return r"(?:,?\s+|-)".join(words)


_FORMAT = 1
_FILE = "keywords.json"
_RATES = ("per_1000_tokens", "per_trace")
Ratio = tuple[float, float | None, float | None]
"""after / before with its 95 % interval; a bound is None where it is infinite."""


@dataclass(frozen=True)
class Rates:
    """How often one keyword occurs, with 95 % intervals over problems."""

    count: int
    per_1000_tokens: float
    per_1000_tokens_ci95: Bounds
    per_trace: float
    per_trace_ci95: Bounds


@dataclass(frozen=True)
class Ratios:
    """Of one keyword's rates; None where it does not occur before."""

    per_1000_tokens: Ratio | None
    per_trace: Ratio | None


@dataclass(frozen=True)
class ModelRates:
    """`traces` and `tokens` are sums; `rates` by keyword."""

    problems: int
    traces: int
    tokens: int
    rates: Mapping[str, Rates]


@dataclass(frozen=True)
class ModelRatios:
    """One model beside the first, by keyword; `paired`: both are of the same problems, which were then drawn
    together."""

    paired: bool
    ratios: Mapping[str, Ratios]


@dataclass(frozen=True)
class KeywordReport:
    """All of keywords.json. `traces`: model → where they lie; `ratios` of each model but the first to the first."""

    traces: Mapping[str, str]
    keywords: tuple[str, ...]
    models: Mapping[str, ModelRates]
    ratios: Mapping[str, ModelRatios]

    @property
    def written(self) -> list[str]:
        """The keywords that occur at all."""
        rates = [entry.rates for entry in self.models.values()]
        return [keyword for keyword in self.keywords if any(rate[keyword].count for rate in rates)]


@dataclass(frozen=True)
class ModelCounts:
    """One model's traces: `counts` [problems, keywords], `tokens` [problems] and `traces` [problems] are sums over
    the traces of a problem."""

    counts: np.ndarray
    tokens: np.ndarray
    traces: np.ndarray

    def rates(self, index: int) -> Rates:
        """How often keyword `index` occurs."""
        per_token = ratio_with_interval(1000 * self.counts[:, index], self.tokens)
        per_trace = ratio_with_interval(self.counts[:, index], self.traces)
        count = int(self.counts[:, index].sum())
        return Rates(count, per_token[0], per_token[1:], per_trace[0], per_trace[1:])


def count_traces(problems: Sequence[ReadProblem], counter: KeywordCounter) -> ModelCounts:
    """Raises `InputError` for a trace whose number of tokens is not known."""
    rows, tokens, traces = [], [], []
    for entry in problems:
        found = sum((counter.count(trace.text) for trace in entry.traces), Counter())
        rows.append([found[keyword] for keyword in counter.keywords])
        tokens.append(sum(tokens_of(trace) for trace in entry.traces))
        traces.append(len(entry.traces))
    return ModelCounts(np.array(rows, dtype=np.float64), np.array(tokens), np.array(traces))


def compare(before: ModelCounts, after: ModelCounts, index: int, paired: bool) -> Ratios:
    """after / before of both rates of keyword `index`; `paired`: of the same problems in the same order."""

    def ratio(below: np.ndarray, first: np.ndarray) -> Ratio | None:
        found = ratio_interval((after.counts[:, index], below), (before.counts[:, index], first), paired)
        if found is None:
            return None
        value, low, high = (number if math.isfinite(number) else None for number in found)
        return value, low, high

    return Ratios(ratio(after.tokens, before.tokens), ratio(after.traces, before.traces))


def measure(
    traces: Mapping[str, str], sources: Mapping[str, Sequence[ReadProblem]], counter: KeywordCounter
) -> KeywordReport:
    """`sources`: model → its traces, which lie where `traces` says; the first is what the others are compared
    with."""
    counted = {name: count_traces(problems, counter) for name, problems in sources.items()}
    first, *others = sources
    ratios = {name: _compare_models(sources[first], sources[name], counter) for name in others}
    models = {name: _model_rates(counts, counter.keywords) for name, counts in counted.items()}
    return KeywordReport(dict(traces), tuple(counter.keywords), models, ratios)


def _model_rates(counts: ModelCounts, keywords: Sequence[str]) -> ModelRates:
    rates = {keyword: counts.rates(index) for index, keyword in enumerate(keywords)}
    return ModelRates(len(counts.traces), int(counts.traces.sum()), int(counts.tokens.sum()), rates)


def _compare_models(
    first: Sequence[ReadProblem], other: Sequence[ReadProblem], counter: KeywordCounter
) -> ModelRatios:
    sides = common_problems(first, other)
    before, after = (count_traces(side, counter) for side in sides or (first, other))
    ratios = {
        keyword: compare(before, after, index, sides is not None) for index, keyword in enumerate(counter.keywords)
    }
    return ModelRatios(sides is not None, ratios)


def write(report: KeywordReport, folder: Path) -> None:
    """Replace keywords.json and keywords.csv in `folder`."""
    write_record(folder / _FILE, report, _FORMAT)
    write_csv(folder / "keywords.csv", csv_rows(report))


def read_keywords(folder: str | Path) -> KeywordReport:
    """Raises `InputError` for a folder without keywords.json, or with one of another format."""
    return read_record(Path(folder) / _FILE, KeywordReport, _FORMAT, "start eval/keywords.py again")


def csv_rows(report: KeywordReport) -> list[dict[str, CsvValue]]:
    """One row per model and keyword."""
    rows = []
    for model, entry in report.models.items():
        ratios = report.ratios[model].ratios if model in report.ratios else {}
        for keyword, rates in entry.rates.items():
            row: dict[str, CsvValue] = {"model": model, "keyword": keyword, "count": rates.count}
            rows.append(row | _rate_cells(rates, ratios.get(keyword)))
    return rows


def _rate_cells(rates: Rates, ratios: Ratios | None) -> dict[str, CsvValue]:
    cells: dict[str, CsvValue] = {}
    for key in _RATES:
        low, high = getattr(rates, f"{key}_ci95")
        ratio = getattr(ratios, key) if ratios else None
        cells |= {key: getattr(rates, key), f"{key}_low": low, f"{key}_high": high}
        cells |= {f"{key}_ratio": ratio[0] if ratio else ""}
    return cells


def show(report: KeywordReport) -> None:
    """Print occurrences per 1,000 tokens, and each model's ratio to the first."""
    columns = ["keyword"]
    for name in report.models:
        columns += [f"{name}\nper 1,000", "95 %"]
    columns += [f"{name}\nratio" for name in report.ratios]
    table = plain_table("", [escape(column) for column in columns])
    for keyword in report.written:
        table.add_row(*_shown_cells(report, keyword))
    print_table(table)
    if missing := [keyword for keyword in report.keywords if keyword not in report.written]:
        say(f" written by nobody: {escape(', '.join(missing))}")


def _shown_cells(report: KeywordReport, keyword: str) -> list[str]:
    cells = [escape(keyword)]
    for entry in report.models.values():
        rates = entry.rates[keyword]
        cells += [f"{rates.per_1000_tokens:.2f}", interval_text(*rates.per_1000_tokens_ci95, digits=2)]
    for entry in report.ratios.values():
        found = entry.ratios[keyword].per_1000_tokens
        cells.append("–" if found is None else f"×{found[0]:.2f}")
    return cells


def draw(report: KeywordReport, path: Path) -> None:
    """Bars per keyword and model, occurrences per 1,000 tokens and per trace, those that nobody writes left out."""
    models = list(report.models.values())
    highest = {word: max(one.rates[word].per_1000_tokens for one in models) for word in report.keywords}
    written = sorted(report.written, key=highest.__getitem__)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(9.0, 1.6 + 0.28 * max(1, len(written)) * max(1, len(models))), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, key in zip(panels, _RATES, strict=True):
            _draw_rates(axes, report, key, written)
        panels[0].set_yticks(range(len(written)), written)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        save_png(figure, path)


def _draw_rates(axes: Axes, report: KeywordReport, key: str, written: Sequence[str]) -> None:
    colours, count = model_colours(list(report.models)), len(report.models)
    height = 0.8 / count
    for number, (model, entry) in enumerate(report.models.items()):
        rates = [entry.rates[keyword] for keyword in written]
        values = [getattr(rate, key) for rate in rates]
        bounds = [getattr(rate, f"{key}_ci95") for rate in rates]
        error = [
            [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)],
            [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)],
        ]
        places = np.arange(len(written)) + height * ((count - 1) / 2 - number)
        style = {"xerr": error, "color": colours[model], "label": model, "error_kw": {"elinewidth": 0.9}}
        axes.barh(places, values, height * 0.92, **style)
    axes.set_xlabel(key.replace("_", " ").replace("1000", "1,000"))
    axes.grid(axis="y", visible=False)
    axes.margins(y=0.02)
