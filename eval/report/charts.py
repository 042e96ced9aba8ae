"""The report's charts as SVG text that follows the page's light or dark colours. Lengths in tokens, shares 0-1."""

import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from secateur.deepprune.judges.calibration import ReliabilityBin
from secateur.runtime.pictures import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, model_colours

# Written by matplotlib as plain colours, replaced by the page's own afterwards.
_INK, _RULE, _GROUND = "#0a0b0c", "#0a0b0d", "#0a0b0e"
_PAGE_COLOURS = {_INK: "currentColor", _RULE: "var(--rule)", _GROUND: "var(--card)"}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from outside: "$" is a dollar
    "font.size": 9.5,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}
_SIZE = (4.7, 3.0)  # inches: readable at the width of a telephone, where the page shows it one to one


@dataclass(frozen=True)
class CheckpointPoint:
    """A checkpoint measured on the validation problems; `step` counts from the first step of the first round."""

    step: int
    pass_at_1: float
    mean_tokens: float
    chosen: bool


@dataclass(frozen=True)
class RoundRecord:
    """One round: its limit [tokens], training logs as (step, value), and its candidates."""

    number: int
    limit: int
    first_step: int
    last_step: int
    lengths: list[tuple[int, float]]
    rewards: list[tuple[int, float]]
    candidates: list[CheckpointPoint]


@dataclass(frozen=True)
class RocCurve:
    """`points` are (false positive rate, true positive rate), both 0-1; `main` is the judge that was used."""

    label: str
    points: Sequence[tuple[float, float]]
    auroc: float
    main: bool = False


def _to_svg(figure: Figure, title: str) -> str:
    """`title` is what a screen reader says; it keeps the ids of one chart apart from those of the others."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata={"Date": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, page_colour in _PAGE_COLOURS.items():
        svg = svg.replace(colour, page_colour)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' style="([^"]*)"', _as_attributes, svg)
    prefix = "f" + hashlib.sha256(title.encode()).hexdigest()[:6]
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def _as_attributes(style: re.Match[str]) -> str:
    """Style as presentation attributes: the page's policy forbids inline style. The font is the page's own."""
    found = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", style.group(1))
    pairs = [part.split(":", 1) for part in found.split(";") if ":" in part]
    return "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs if name.strip() != "font-family")


def _axes(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size)
    return figure, figure.subplots()


def _mark_rounds(axes: Axes, rounds: Sequence[RoundRecord]) -> None:
    for record in rounds:
        if record.number > 1:
            axes.axvline(record.first_step, color=_RULE, linewidth=1.2)
        axes.text(
            (record.first_step + record.last_step) / 2,
            1.02,
            f"round {record.number}",
            ha="center",
            va="bottom",
            transform=axes.get_xaxis_transform(),
            fontsize=8.5,
        )
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot_candidates(axes: Axes, rounds: Sequence[RoundRecord], value: str) -> None:
    for record in rounds:
        for point in record.candidates:
            if record.number > 1 and point.step == record.first_step:
                continue  # the start model is what the round before chose, and is drawn there
            place = point.step, getattr(point, value)
            fill = GREEN if point.chosen else _GROUND
            axes.plot(*place, "o", markersize=5, markeredgecolor=GREEN, color=fill, zorder=4)
            if point.chosen:
                axes.plot(*place, "o", markersize=12, color=GREEN, fillstyle="none", zorder=4)


def _legend(axes: Axes, what: str) -> None:
    axes.plot([], [], color=SKY, linewidth=1.6, label=what)
    axes.plot([], [], "o", color=_GROUND, markeredgecolor=GREEN, markersize=5, label="checkpoint, validated")
    axes.plot([], [], "o", color=GREEN, markersize=7, label="chosen")


def length_over_rounds(rounds: Sequence[RoundRecord], of: str = "") -> str:
    """Mean length in training and of every validated checkpoint, under the limits; `of` says of which run."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": "length"}):
        figure, axes = _axes()
        for record in rounds:
            axes.plot(*zip(*record.lengths, strict=True), color=SKY, linewidth=1.6) if record.lengths else None
            axes.hlines(
                record.limit, record.first_step, record.last_step, color=RED, linewidth=1.4, linestyle=(0, (4, 2))
            )
        _plot_candidates(axes, rounds, "mean_tokens")
        _mark_rounds(axes, rounds)
        axes.plot([], [], color=RED, linewidth=1.4, linestyle=(0, (4, 2)), label="limit")
        _legend(axes, "training, limit in force")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("mean tokens")
        axes.legend(fontsize=8.5, loc="lower left")
        return _to_svg(figure, f"Mean length over the rounds {of}".strip())


def accuracy_over_rounds(rounds: Sequence[RoundRecord], of: str = "") -> str:
    """Reward in training and pass@1 of every validated checkpoint; `of` says of which run."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": "accuracy"}):
        figure, axes = _axes()
        for record in rounds:
            axes.plot(*zip(*record.rewards, strict=True), color=SKY, linewidth=1.6) if record.rewards else None
        _plot_candidates(axes, rounds, "pass_at_1")
        _mark_rounds(axes, rounds)
        _legend(axes, "reward in training")
        axes.set_ylim(0, 1)
        axes.set_ylabel("pass@1, reward")
        axes.legend(fontsize=8.5, loc="lower right")
        return _to_svg(figure, f"Accuracy over the rounds {of}".strip())


def length_histograms(lengths: Mapping[str, Sequence[int]], of: str = "") -> str:
    """Distribution of trace lengths [tokens] of each model, on the same axis; `of` says of which problems."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": f"lengths {of}"}):
        figure, axes = _axes()
        longest, colours = max(max(values) for values in lengths.values()), model_colours(list(lengths))
        for model, values in lengths.items():
            mean, weights = sum(values) / len(values), [1 / len(values)] * len(values)
            bins = {"bins": 40, "range": (0, longest), "weights": weights, "color": colours[model]}
            axes.hist(values, **bins, alpha=0.3, histtype="stepfilled", label=f"{model}: mean {mean:,.0f}")
            axes.hist(values, **bins, linewidth=1.3, histtype="step")
            axes.axvline(mean, color=colours[model], linewidth=1.6, linestyle=(0, (1, 1.5)))
        axes.set_xlabel("tokens per trace")
        axes.set_ylabel("share of traces")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
        axes.legend(fontsize=9)
        return _to_svg(figure, f"Trace lengths {of}".strip())


def roc(curves: Sequence[RocCurve], name: str) -> str:
    """ROC of a judge beside its baselines; positive = same answer."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure, axes = _axes((4.7, 3.6))
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1.2)
        spare = iter((ORANGE, PURPLE, SKY, RED, BLUE) * 3)
        dashes = iter(("-", "--", "-.", ":") * 4)
        for curve in sorted(curves, key=lambda curve: -curve.auroc):
            colour = GREEN if curve.main else next(spare)
            axes.plot(
                *zip(*curve.points, strict=True),
                color=colour,
                linewidth=2.6 if curve.main else 1.5,
                linestyle="-" if curve.main else next(dashes),
                label=f"{curve.label} {curve.auroc:.3f}",
                zorder=3 if curve.main else 2,
            )
        axes.set(
            xlim=(0, 1), ylim=(0, 1.01), xlabel="different pairs taken for the same", ylabel="same pairs recognised"
        )
        axes.legend(fontsize=8.5, loc="lower right", title="AUROC", title_fontsize=8.5)
        return _to_svg(figure, f"ROC of the {name}")


def reliability(bins: Sequence[ReliabilityBin], name: str) -> str:
    """A judge's calibration: of the pairs that got about the same probability, how many have the same answer."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": f"reliability {name}"}):
        figure, axes = _axes((4.7, 3.6))
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1.2)
        most = max(one.pairs for one in bins)
        axes.plot(
            [one.mean_score for one in bins], [one.same_answer_share for one in bins], color=GREEN, linewidth=1.3
        )
        for one in bins:
            place, size = (one.mean_score, one.same_answer_share), 4 + 10 * (one.pairs / most) ** 0.5
            axes.plot(*place, "o", color=GREEN, markersize=size, markeredgecolor=_GROUND)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="probability that the judge gave")
        axes.set_ylabel("pairs with the same answer")
        return _to_svg(figure, f"Reliability of the {name}")
