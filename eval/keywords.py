"""How often models write "wait", "but wait", "alternatively" …: before and after pruning, side by side.

    python eval/keywords.py --traces '{base: outputs/single/base, pruned: outputs/single/pruned}' \\
        --output_dir outputs/keywords

The first model is "before", every other one is compared with it. ThinkPrune's own list of words is published nowhere
(arXiv 2504.01296 shows a figure, its code has no such script), so ours, `KEYWORDS`, and its rules are ours alone:
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
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.markup import escape

from eval.studies.common import (
    TracedProblem,
    check_traces_key,
    common_problems,
    interval_text,
    model_colours,
    plain_table,
    print_table,
    read_model_traces,
    save_png,
    tokens_of,
    write_csv,
)
from secateur.engines.models import load_tokenizer
from secateur.runtime.config import parse_config
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_json
from secateur.runtime.pictures import PLOT_STYLE
from secateur.runtime.process import entry_point
from secateur.runtime.statistics import ratio_interval, ratio_with_interval

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


@dataclass(frozen=True)
class ModelCounts:
    """One model's traces: `counts` [problems, keywords], `tokens` [problems] and `traces` [problems] are sums over
    the traces of a problem."""

    counts: np.ndarray
    tokens: np.ndarray
    traces: np.ndarray

    def rates(self, index: int) -> dict[str, Any]:
        """How often keyword `index` occurs, with 95 % intervals over problems."""
        per_token = ratio_with_interval(1000 * self.counts[:, index], self.tokens)
        per_trace = ratio_with_interval(self.counts[:, index], self.traces)
        return {
            "count": int(self.counts[:, index].sum()),
            "per_1000_tokens": per_token[0],
            "per_1000_tokens_ci95": per_token[1:],
            "per_trace": per_trace[0],
            "per_trace_ci95": per_trace[1:],
        }


def count_traces(problems: Sequence[TracedProblem], counter: KeywordCounter) -> ModelCounts:
    """Raises `InputError` for a trace whose number of tokens is not known."""
    rows, tokens, traces = [], [], []
    for entry in problems:
        found = sum((counter.count(trace.text) for trace in entry.traces), Counter())
        rows.append([found[keyword] for keyword in counter.keywords])
        tokens.append(sum(tokens_of(trace) for trace in entry.traces))
        traces.append(len(entry.traces))
    return ModelCounts(np.array(rows, dtype=np.float64), np.array(tokens), np.array(traces))


def compare(before: ModelCounts, after: ModelCounts, index: int, paired: bool) -> dict[str, Any]:
    """after / before of both rates as (ratio, low, high), None where the keyword does not occur before, and a bound
    None where it is infinite; `paired`: of the same problems in the same order, which are then drawn together."""
    pairs = {"per_1000_tokens": (before.tokens, after.tokens), "per_trace": (before.traces, after.traces)}
    found: dict[str, Any] = {}
    for name, (first, below) in pairs.items():
        interval = ratio_interval((after.counts[:, index], below), (before.counts[:, index], first), paired)
        found[name] = interval and [value if math.isfinite(value) else None for value in interval]
    return found


def measure(sources: Mapping[str, Sequence[TracedProblem]], counter: KeywordCounter) -> dict[str, Any]:
    """The content of keywords.json: `models` and, of each but the first, `ratios` to the first."""
    names = list(sources)
    first = names[0]
    counted = {name: count_traces(problems, counter) for name, problems in sources.items()}
    report: dict[str, Any] = {"keywords": counter.keywords, "models": {}, "ratios": {}}
    for name, counts in counted.items():
        rates = {keyword: counts.rates(index) for index, keyword in enumerate(counter.keywords)}
        sizes = {
            "problems": len(counts.traces),
            "traces": int(counts.traces.sum()),
            "tokens": int(counts.tokens.sum()),
        }
        report["models"][name] = sizes | {"rates": rates}
    for name in names[1:]:
        sides = common_problems(sources[first], sources[name])
        before, after = (counted[first], counted[name])
        if sides is not None:
            before, after = (count_traces(side, counter) for side in sides)
        ratios = {
            keyword: compare(before, after, index, sides is not None)
            for index, keyword in enumerate(counter.keywords)
        }
        report["ratios"][name] = {"paired": sides is not None, "ratios": ratios}
    return report


def csv_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per model and keyword."""
    rows = []
    for model, entry in report["models"].items():
        for keyword, rates in entry["rates"].items():
            row = {"model": model, "keyword": keyword, "count": rates["count"]}
            for key in ("per_1000_tokens", "per_trace"):
                low, high = rates[f"{key}_ci95"]
                row |= {key: rates[key], f"{key}_low": low, f"{key}_high": high}
                found = report["ratios"].get(model, {}).get("ratios", {}).get(keyword, {}).get(key)
                row |= {f"{key}_ratio": found[0] if found else ""}
            rows.append(row)
    return rows


def show(report: Mapping[str, Any]) -> None:
    """Print occurrences per 1,000 tokens, and each model's ratio to the first."""
    columns = ["keyword"]
    for name in report["models"]:
        columns += [f"{name}\nper 1,000", "95 %"]
    columns += [f"{name}\nratio" for name in report["ratios"]]
    table = plain_table("", [escape(column) for column in columns])
    written = written_keywords(report)
    for keyword in written:
        cells = [escape(keyword)]
        for entry in report["models"].values():
            rates = entry["rates"][keyword]
            cells += [f"{rates['per_1000_tokens']:.2f}", interval_text(*rates["per_1000_tokens_ci95"], digits=2)]
        for entry in report["ratios"].values():
            found = entry["ratios"][keyword]["per_1000_tokens"]
            cells.append("–" if found is None else f"×{found[0]:.2f}")
        table.add_row(*cells)
    print_table(table)
    if missing := [keyword for keyword in report["keywords"] if keyword not in written]:
        say(f" written by nobody: {escape(', '.join(missing))}")


def written_keywords(report: Mapping[str, Any]) -> list[str]:
    """Those that occur at all."""
    rates = [entry["rates"] for entry in report["models"].values()]
    return [keyword for keyword in report["keywords"] if any(rate[keyword]["count"] for rate in rates)]


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Bars per keyword and model, occurrences per 1,000 tokens and per trace, those that nobody writes left out."""
    rates = {model: entry["rates"] for model, entry in report["models"].items()}
    highest = {word: max(rate[word]["per_1000_tokens"] for rate in rates.values()) for word in report["keywords"]}
    written = sorted(written_keywords(report), key=highest.__getitem__)
    colours, height = model_colours(list(rates)), 0.8 / len(rates)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(9.0, 1.6 + 0.28 * max(1, len(written)) * max(1, len(rates))), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, key in zip(panels, ("per_1000_tokens", "per_trace"), strict=True):
            for number, model in enumerate(rates):
                values = [rates[model][keyword][key] for keyword in written]
                bounds = [rates[model][keyword][f"{key}_ci95"] for keyword in written]
                error = [
                    [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)],
                    [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)],
                ]
                places = np.arange(len(written)) + height * ((len(rates) - 1) / 2 - number)
                axes.barh(
                    places,
                    values,
                    height * 0.92,
                    xerr=error,
                    color=colours[model],
                    label=model,
                    error_kw={"elinewidth": 0.9},
                )
            axes.set_xlabel(key.replace("_", " ").replace("1000", "1,000"))
            axes.grid(axis="y", visible=False)
            axes.margins(y=0.02)
        panels[0].set_yticks(range(len(written)), written)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        save_png(figure, path)


@dataclass(kw_only=True)
class KeywordsConfig:
    """What is read.

    traces: model → trace folder, folder of trace folders (`outputs/single/<model>`), or file of traces; the first
      model is what the others are compared with.
    output_dir: gets keywords.json, keywords.csv and keywords.png.
    keywords: in the place of the list in eval/keywords.py.
    tokenizer: folder or Hub id that counts the tokens of traces in files.
    """

    traces: dict[str, str]
    output_dir: str = "outputs/keywords"
    keywords: list[str] | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        check_traces_key(self.traces)
        KeywordCounter(self.keywords or KEYWORDS)


@entry_point
def main() -> None:
    config = parse_config(KeywordsConfig)
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer)
    sources = {name: read_model_traces(name, path, tokenizer) for name, path in config.traces.items()}
    report = measure(sources, KeywordCounter(config.keywords or KEYWORDS))
    folder = Path(config.output_dir)
    write_json(folder / "keywords.json", {"traces": config.traces} | report)
    write_csv(folder / "keywords.csv", csv_rows(report))
    show(report)
    draw(report, folder / "keywords.png")
    say(f"figures: {escape(str(folder))}/keywords.json, keywords.csv, keywords.png")


if __name__ == "__main__":
    main()
