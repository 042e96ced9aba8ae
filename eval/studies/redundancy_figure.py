"""Picture of a redundancy report: every problem as a bar, split into the shares of its answers."""

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from secateur.runtime.files import write_text
from secateur.runtime.pictures import BLUE, GREEN, ORANGE, SKY

if TYPE_CHECKING:
    from eval.redundancy import ProblemAnswers, Redundancy

_OTHERS, _NONE = "#9a9a9a", "#dcdcdc"
_COLUMNS = 2
_TITLE_WIDTH = 64  # characters


def _parts(problem: "ProblemAnswers") -> list[tuple[float, str]]:
    """(share of the traces, colour) from the bottom up; they sum to 1."""
    counts = [count for _, count in problem.answers]
    first = (counts[0] if counts else 0, GREEN if problem.right else ORANGE)
    rest = [(counts[1] if len(counts) > 1 else 0, BLUE), (counts[2] if len(counts) > 2 else 0, SKY)]
    tail = [(sum(counts[3:]), _OTHERS), (problem.none, _NONE)]
    return [(count / problem.traces, colour) for count, colour in (first, *rest, *tail)]


def _panel(axes: Axes, report: "Redundancy") -> None:
    problems = sorted(report.answers, key=lambda problem: -problem.majority_share)
    bottoms = [0.0] * len(problems)
    for layer in zip(*(_parts(problem) for problem in problems), strict=True):
        heights = [share for share, _ in layer]
        axes.bar(range(len(problems)), heights, 1.0, bottoms, color=[colour for _, colour in layer], linewidth=0)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    title = f"{report.model}, {report.set}: {report.same_answer_pairs:.0%} of pairs agree"
    axes.set_title(textwrap.fill(title, _TITLE_WIDTH), fontsize=9)
    axes.set_xlabel("problems, by share of the most frequent answer", fontsize=8)
    axes.set_ylabel("share of traces", fontsize=8)
    axes.set_xlim(-0.5, len(problems) - 0.5)
    axes.set_ylim(0, 1)
    axes.set_xticks([])


def draw(reports: Sequence["Redundancy"], folder: Path) -> None:
    """Write `redundancy.png` and `redundancy.svg`, a panel per report."""
    columns = min(_COLUMNS, len(reports))
    rows = math.ceil(len(reports) / columns)
    with matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "redundancy"}):
        figure = Figure(figsize=(5.2 * columns, 2.9 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, report in zip(panels, reports, strict=False):  # the last row may have an empty place
            _panel(axes, report)
        for axes in panels[len(reports) :]:
            axes.set_axis_off()
        names = {"most frequent, right": GREEN, "most frequent, wrong": ORANGE, "second": BLUE, "third": SKY}
        names |= {"others": _OTHERS, "no answer": _NONE}
        handles = [Patch(color=colour, label=name) for name, colour in names.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=6 if columns > 1 else 3, fontsize=8)
        text, image = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        figure.savefig(image, format="png", dpi=150)
    write_text(folder / "redundancy.svg", text.getvalue())
    temporary = folder / ".redundancy.png.tmp"
    temporary.write_bytes(image.getvalue())
    temporary.replace(folder / "redundancy.png")
