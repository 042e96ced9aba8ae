"""What a schedule shows of its choices: a table per round, one of all rounds at the end, a picture, and entries for
W&B: numbers over rounds, the table of candidates, samples, the picture.

The picture has accuracy and length of every candidate over the training steps of all rounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from schedules.choice import START, Figures, Selection, name_of
from schedules.records import SelectionRecord
from schedules.rounds import Round
from schedules.validation.sampling import BENCHMARK, candidate_name
from secateur.runtime.console import CsvValue, console, say
from secateur.runtime.files import JSON, read_jsonl
from secateur.runtime.pictures import PLOT_STYLE, save_png
from secateur.runtime.statistics import Bounds
from secateur.runtime.tracking import Publication
from secateur.tasks.graded import RESULTS_FILE, GradedSample, read_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Measure = Literal["pass_at_1", "mean_tokens"]
_LINE, _CHOSEN, _BELOW, _BAR = "#0072b2", "#d55e00", "#9aa5ad", "#555555"  # told apart without colours by shape
_SIZE = (7.2, 5.2)  # inches
_POINTS = {"markersize": 5, "elinewidth": 1, "capsize": 2.5, "zorder": 3}
_RING = {
    **{
        "marker": "o",
        "markersize": 11,
        "markerfacecolor": "none",
        "markeredgecolor": _CHOSEN,
        "markeredgewidth": 1.8,
    },
    **{"elinewidth": 0, "zorder": 4, "label": "chosen"},
}


@dataclass(frozen=True)
class _Span:
    """A round on the axis of steps that all rounds share: it begins at `first`, its start model's place."""

    round: Round
    record: SelectionRecord
    first: int

    @property
    def steps(self) -> list[int]:
        return [self.first + candidate.step for candidate in self.record.candidates]


def draw_rounds(path: Path, title: str, selections: Sequence[tuple[Round, SelectionRecord]]) -> None:
    """Write the picture as PNG; the file appears whole. `title` is shown as it is, never read as mathematics."""
    import matplotlib
    from matplotlib.figure import Figure

    spans = _spans(selections)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        accuracy, length = figure.subplots(2, 1, sharex=True)
        _draw_panel(accuracy, spans, "pass_at_1")
        _draw_panel(length, spans, "mean_tokens")
        _draw_bars(accuracy, spans)
        accuracy.set(ylabel="pass@1")
        accuracy.set_title(title, pad=16, wrap=True)
        length.set(ylabel="mean tokens", xlabel="optimiser steps, all rounds")
        length.set_ylim(bottom=0)
        length.yaxis.set_major_formatter("{x:,.0f}")
        handles, labels = accuracy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
        save_png(figure, path)


def _spans(selections: Sequence[tuple[Round, SelectionRecord]]) -> list[_Span]:
    spans, first = [], 0
    for round_, record in selections:
        spans.append(_Span(round_, record, first))
        first += round_.max_steps
    return spans


def _draw_bars(axes: "Axes", spans: Sequence[_Span]) -> None:
    for span in spans:
        bar = (1 - span.record.tolerance) * span.record.reference.pass_at_1
        label = "bar: the accuracy asked for" if span.first == 0 else None
        axes.hlines(bar, span.steps[0], span.steps[-1], color=_BAR, linestyle="--", label=label)


def _draw_panel(axes: "Axes", spans: Sequence[_Span], figure: Measure) -> None:
    """One of the two figures of every candidate with its interval; the choices are joined by a line."""
    for span in spans:
        if span.round.index % 2 == 0:
            axes.axvspan(span.first, span.first + span.round.max_steps, color="#f3f3f3", zorder=0)
        if figure == "pass_at_1":
            axes.annotate(
                f"limit {span.round.limit}",
                (span.first + span.round.max_steps / 2, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                color=_BAR,
            )
        _draw_candidates(axes, span, figure)


def _draw_candidates(axes: "Axes", span: _Span, figure: Measure) -> None:
    candidates = span.record.candidates
    axes.plot(span.steps, [getattr(c, figure) for c in candidates], color=_LINE, linewidth=1, alpha=0.5, zorder=2)
    feasible = [place for place, candidate in enumerate(candidates) if candidate.feasible]
    below = [place for place, candidate in enumerate(candidates) if not candidate.feasible]
    _draw_points(
        axes,
        span,
        figure,
        feasible,
        _POINTS | {"color": _LINE, "marker": "o", "label": "feasible, 95 % interval"},
    )
    _draw_points(axes, span, figure, below, _POINTS | {"color": _BELOW, "marker": "x", "label": "below the bar"})
    chosen = [place for place, c in enumerate(candidates) if c.step == span.record.chosen_step]
    _draw_points(axes, span, figure, chosen, _RING)
    ends = [span.steps[chosen[0]], span.first + span.round.max_steps]  # where the next round begins, with this model
    axes.hlines(getattr(candidates[chosen[0]], figure), *ends, color=_CHOSEN, linestyle=":", zorder=1)


def _draw_points(
    axes: "Axes", span: _Span, figure: Measure, places: Sequence[int], look: Mapping[str, object]
) -> None:
    """The candidates at `places` with their intervals. The first round alone enters the legend."""
    candidates = [span.record.candidates[place] for place in places]
    values = [getattr(candidate, figure) for candidate in candidates]
    ends = [getattr(candidate, f"{figure}_ci95") for candidate in candidates]
    below = [value - low for value, (low, _) in zip(values, ends, strict=True)]
    above = [high - value for value, (_, high) in zip(values, ends, strict=True)]
    steps = [span.steps[place] for place in places]
    label = {} if span.first == 0 else {"label": None}
    axes.errorbar(steps, values, yerr=[below, above], linestyle="none", **{**look, **label})


def show_selection(round_: Round, selection: Selection, reason: str) -> None:
    title = f"round {round_.index}, limit {round_.limit} tokens"
    raced = len({candidate.samples for candidate in selection.candidates}) > 1
    samples = ("samples",) if raced else ()  # eighty columns have no room for what is the same in all rows
    table = _table(title, "candidate", "pass@1", "95 %", "tokens", "95 %", "truncated", *samples, "feasible")
    for candidate, feasible in zip(selection.candidates, selection.feasible, strict=True):
        verdict = "yes" if feasible else "no"
        verdict = f"{verdict}, chosen" if candidate.step == selection.chosen_step else verdict
        name = "start" if candidate.step == START else name_of(candidate.step)
        table.add_row(name, *_figures(candidate), *(str(candidate.samples) for _ in samples), verdict)
    console.print(table)
    say(f"  {escape(reason)}")


def show_rounds(selections: Sequence[tuple[Round, SelectionRecord]]) -> None:
    """One row for the model that the schedule began with, one for what each round chose, and the change in all."""
    table = _table("rounds, from start to end", "limit", "chosen", "pass@1", "95 %", "tokens", "95 %", "truncated")
    first = selections[0][1].start
    table.add_row("", "start", *_figures(first))
    for round_, record in selections:
        chosen = record.chosen
        name = "start stays" if chosen.step == START else name_of(chosen.step)
        table.add_row(str(round_.limit), name, *_figures(chosen))
    console.print(table)
    last = selections[-1][1].chosen
    change = last.pass_at_1 - first.pass_at_1
    tokens = f", tokens {last.mean_tokens / first.mean_tokens - 1:+.1%}" if first.mean_tokens else ""
    say(f"  from start to end: pass@1 {change:+.3f}{tokens}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _figures(candidate: Figures) -> tuple[str, ...]:
    """pass@1, mean tokens, each with its interval, and the truncated share."""
    tokens = ",.0f" if candidate.mean_tokens >= 1000 else ".1f"
    return (
        f"{candidate.pass_at_1:.3f}",
        _interval(candidate.pass_at_1_ci95, ".3f"),
        f"{candidate.mean_tokens:{tokens}}",
        _interval(candidate.mean_tokens_ci95, tokens),
        f"{candidate.truncated_share:.1%}",
    )


def _interval(bounds: Bounds, form: str) -> str:
    return f"{bounds[0]:{form}}–{bounds[1]:{form}}"


COLUMNS = ("candidate", "verdict", "problem_id", "sample", "tokens", "gold", "completion")
PER_VERDICT = 3
_CHARACTERS = 20_000  # of a completion; a long one loses its middle


def pick_samples(folder: Path, candidate: str) -> list[list[CsvValue]]:
    """Rows of `COLUMNS`: `PER_VERDICT` of each verdict, from different problems where there are any.

    `folder` holds `results.jsonl` and the traces of one candidate (see eval/single.py).
    """
    wanted: dict[tuple[str, int], str] = {}
    for verdict in ("right", "wrong", "truncated"):
        wanted |= dict.fromkeys(_first_of(folder / RESULTS_FILE, verdict), verdict)
    rows = [
        [candidate, wanted[key], *key, line["n_tokens"], line["gold"], shorten(line["text"])]
        for key, line in _traces(folder)
        if key in wanted
    ]
    return sorted(rows, key=lambda row: (row[1], row[2], row[3]))


def _first_of(results: Path, verdict: str) -> list[tuple[str, int]]:
    found = [(one.sample, one.problem_id) for one in read_results(results) if _verdict(one) == verdict]
    return [(name, sample) for sample, name in sorted(found)[:PER_VERDICT]]  # sample 0 of every problem comes first


def _verdict(one: GradedSample) -> str:
    if one.finish_reason == "length":
        return "truncated"
    return "right" if one.correct else "wrong"


def _traces(folder: Path) -> Iterator[tuple[tuple[str, int], Mapping[str, JSON]]]:
    for path in sorted(folder.glob("traces-rank*.jsonl")):
        for _, line in read_jsonl(path):
            yield (line["problem_id"], line["sample"]), line


def shorten(text: str, characters: int = _CHARACTERS) -> str:
    """`text`, or its beginning and end with a note between.

    >>> shorten("abcdefgh", 4)
    'ab\\n… 4 characters left out …\\ngh'
    """
    if len(text) <= characters:
        return text
    half = characters // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


CANDIDATE_COLUMNS = (
    *("round", "limit", "candidate", "pass@1", "pass@1 low", "pass@1 high"),
    *("mean tokens", "mean tokens low", "mean tokens high", "truncated share", "samples", "feasible", "chosen"),
    "reason",
)


def round_publication(
    selections: Sequence[tuple[Round, SelectionRecord]], round_folder: Path, picture: Path
) -> Publication:
    """The last of `selections`, whose files lie in `round_folder`; the table holds all rounds so far."""
    round_, record = selections[-1]
    chosen = record.chosen
    rows = [row for other, selection in selections for row in candidate_rows(other, selection)]
    return Publication(
        numbers={
            "round": round_.index,
            "limit": round_.limit,
            "chosen/step": chosen.step,
            "chosen/pass_at_1": chosen.pass_at_1,
            "chosen/mean_tokens": chosen.mean_tokens,
            "chosen/truncated_share": chosen.truncated_share,
        },
        tables={
            "validation/candidates": (CANDIDATE_COLUMNS, rows),
            "validation/samples": (COLUMNS, sample_rows(record, round_folder)),
        },
        pictures={"validation/rounds": picture} if picture.is_file() else {},
        summary={f"choice/{round_.name}": record.reason},
    )


def candidate_rows(round_: Round, record: SelectionRecord) -> list[list[CsvValue]]:
    """Rows of `CANDIDATE_COLUMNS`; the reason stands beside the chosen one."""
    rows: list[list[CsvValue]] = []
    for one in record.candidates:
        chosen = one.step == record.chosen_step
        accuracy, length = (one.pass_at_1, *one.pass_at_1_ci95), (one.mean_tokens, *one.mean_tokens_ci95)
        verdict = [one.truncated_share, one.samples, one.feasible, chosen, record.reason if chosen else ""]
        rows.append([round_.index, round_.limit, name_of(one.step), *accuracy, *length, *verdict])
    return rows


def sample_rows(record: SelectionRecord, round_folder: Path) -> list[list[CsvValue]]:
    """Samples of the chosen candidate; none where it is a start model that an earlier round has sampled."""
    name = candidate_name(record.chosen_step)
    folder = round_folder / "validation" / name / BENCHMARK
    return pick_samples(folder, name) if (folder / RESULTS_FILE).is_file() else []
