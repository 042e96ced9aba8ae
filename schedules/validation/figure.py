"""The picture of a schedule: accuracy and length of every candidate over the training steps of all rounds."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedules.rounds import Round
from secateur.runtime.pictures import PLOT_STYLE

_LINE, _CHOSEN, _BELOW, _BAR = "#0072b2", "#d55e00", "#9aa5ad", "#555555"  # told apart without colours by shape
_SIZE = (7.2, 5.2)  # inches
_DPI = 150
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
    record: dict[str, Any]
    first: int

    @property
    def steps(self) -> list[int]:
        return [self.first + candidate["step"] for candidate in self.record["candidates"]]


def draw_rounds(path: Path, title: str, selections: Sequence[tuple[Round, dict[str, Any]]]) -> None:
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
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=_DPI)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(image.getvalue())
    os.replace(temporary, path)


def _spans(selections: Sequence[tuple[Round, dict[str, Any]]]) -> list[_Span]:
    spans, first = [], 0
    for round_, record in selections:
        spans.append(_Span(round_, record, first))
        first += round_.max_steps
    return spans


def _draw_bars(axes: Any, spans: Sequence[_Span]) -> None:
    for span in spans:
        bar = (1 - span.record["tolerance"]) * span.record["reference"]["pass_at_1"]
        label = "bar: the accuracy asked for" if span.first == 0 else None
        axes.hlines(bar, span.steps[0], span.steps[-1], color=_BAR, linestyle="--", label=label)


def _draw_panel(axes: Any, spans: Sequence[_Span], figure: str) -> None:
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


def _draw_candidates(axes: Any, span: _Span, figure: str) -> None:
    candidates = span.record["candidates"]
    axes.plot(span.steps, [c[figure] for c in candidates], color=_LINE, linewidth=1, alpha=0.5, zorder=2)
    feasible = [place for place, candidate in enumerate(candidates) if candidate["feasible"]]
    below = [place for place, candidate in enumerate(candidates) if not candidate["feasible"]]
    _draw_points(
        axes,
        span,
        figure,
        feasible,
        _POINTS | {"color": _LINE, "marker": "o", "label": "feasible, 95 % interval"},
    )
    _draw_points(axes, span, figure, below, _POINTS | {"color": _BELOW, "marker": "x", "label": "below the bar"})
    chosen = [place for place, c in enumerate(candidates) if c["step"] == span.record["chosen_step"]]
    _draw_points(axes, span, figure, chosen, _RING)
    ends = [span.steps[chosen[0]], span.first + span.round.max_steps]  # where the next round begins, with this model
    axes.hlines(candidates[chosen[0]][figure], *ends, color=_CHOSEN, linestyle=":", zorder=1)


def _draw_points(axes: Any, span: _Span, figure: str, places: Sequence[int], look: dict[str, Any]) -> None:
    """The candidates at `places` with their intervals. The first round alone enters the legend."""
    candidates = [span.record["candidates"][place] for place in places]
    values = [candidate[figure] for candidate in candidates]
    ends = [candidate.get(f"{figure}_ci95") or (candidate[figure], candidate[figure]) for candidate in candidates]
    below = [value - low for value, (low, _) in zip(values, ends, strict=True)]
    above = [high - value for value, (_, high) in zip(values, ends, strict=True)]
    steps = [span.steps[place] for place in places]
    look = look | ({} if span.first == 0 else {"label": None})
    axes.errorbar(steps, values, yerr=[below, above], linestyle="none", **look)
