"""Draws docs/rewards.png: every reward against the length of the completion, at a limit of 4000 tokens.

    python bench/reward_shapes.py [FILE.png]

Rewards that compare completions need others to compare with: here seven, `OTHERS`. Rewards with a target have 2000.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rewards.completion import Completion
from rewards.registry import REWARDS, make_options, reward_group
from secateur.runtime.console import say
from secateur.runtime.pictures import PLOT_STYLE

LIMIT, TARGET = 4000, 2000
OTHERS = [Completion(True, length, target=TARGET) for length in (1000, 1500, 2000, 2500, 3000)]
OTHERS += [Completion(False, 1200, target=TARGET), Completion(False, LIMIT, True, TARGET)]
LENGTHS = range(20, LIMIT + 1, 20)
# A beta at which the eye sees the slope; the published one is 1e-7.
SHOWN_OPTIONS = {"alp": {"beta": 1e-4}}
RIGHT, WRONG, CUT_OFF = "#0072b2", "#d55e00", "#000000"  # Okabe & Ito


def reward_of(name: str, completion: Completion) -> float:
    """Its reward beside `OTHERS`."""
    value = reward_group(name, [completion, *OTHERS], LIMIT, make_options(name, SHOWN_OPTIONS.get(name, {})))[0]
    assert value is not None, "no filter is set"
    return value


def curve(name: str, right: bool) -> list[float]:
    """Rewards of a finished completion at each of `LENGTHS`."""
    return [reward_of(name, Completion(right, length, target=TARGET)) for length in LENGTHS]


def draw(axes: Axes, name: str) -> None:
    axes.plot(LENGTHS, curve(name, True), color=RIGHT, label="right")
    axes.plot(LENGTHS, curve(name, False), color=WRONG, linestyle="--", label="wrong")
    cut_off = reward_of(name, Completion(False, LIMIT, True, TARGET))
    axes.plot([LIMIT], [cut_off], "x", color=CUT_OFF, clip_on=False, zorder=3, label="truncated (counts as wrong)")
    shown = "".join(f", {key} {value:g}" for key, value in SHOWN_OPTIONS.get(name, {}).items())
    axes.set_title(name + shown, loc="left", fontsize=9)
    axes.set_xlim(0, LIMIT)
    axes.set_xticks(range(0, LIMIT + 1, 1000))


def draw_all(names: Sequence[str], path: Path) -> None:
    """One small plot per reward, with its own scale."""
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(9.6, 6.6), layout="constrained")
        grid = figure.subplots(3, 4).flatten()
        for axes, name in zip(grid, names, strict=False):
            draw(axes, name)
        for axes in grid[len(names) :]:
            axes.axis("off")
        figure.supxlabel("length of the completion [tokens]", fontsize=9)
        figure.supylabel("reward", fontsize=9)
        handles, labels = grid[0].get_legend_handles_labels()
        grid[-1].legend(handles, labels, loc="center left")
        figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/rewards.png")
    draw_all(list(REWARDS), path)
    say(f"picture: {path}")


if __name__ == "__main__":
    main()
