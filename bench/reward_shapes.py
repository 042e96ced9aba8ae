"""Draws docs/rewards.png: rewards against the length of the completion.

    python bench/reward_shapes.py [FILE.png] [--rewards hard_limit alp] [--limit 4000] [--target 2000]

Rewards that compare completions need others to compare with: here seven, `Setting.others`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rewards.completion import Completion
from rewards.registry import REWARDS, make_options, reward_group
from secateur.runtime.console import say
from secateur.runtime.pictures import PLOT_STYLE

COLUMNS, POINTS = 4, 200
# A beta at which the eye sees the slope; the published one is 1e-7.
SHOWN_OPTIONS = {"alp": {"beta": 1e-4}}
RIGHT, WRONG, CUT_OFF = "#0072b2", "#d55e00", "#000000"  # Okabe & Ito


@dataclass(frozen=True)
class Setting:
    """`limit` of a round, and the `target` of rewards that have one [tokens]."""

    limit: int
    target: int

    @property
    def others(self) -> list[Completion]:
        """What a completion is compared with: five right ones, a short wrong one, and one cut off."""
        right = [Completion(True, self.limit * part // 8, target=self.target) for part in (2, 3, 4, 5, 6)]
        short = Completion(False, self.limit * 3 // 10, target=self.target)
        return [*right, short, Completion(False, self.limit, True, self.target)]

    @property
    def lengths(self) -> list[int]:
        return [max(1, self.limit * point // POINTS) for point in range(1, POINTS + 1)]

    def reward(self, name: str, completion: Completion) -> float:
        """Its reward beside the others."""
        options = make_options(name, SHOWN_OPTIONS.get(name, {}))
        value = reward_group(name, [completion, *self.others], self.limit, options)[0]
        assert value is not None, "no filter is set"
        return value

    def curve(self, name: str, right: bool) -> list[float]:
        """Rewards of a finished completion at each of `lengths`."""
        return [self.reward(name, Completion(right, length, target=self.target)) for length in self.lengths]


def draw(axes: Axes, name: str, setting: Setting) -> None:
    axes.plot(setting.lengths, setting.curve(name, True), color=RIGHT, label="right")
    axes.plot(setting.lengths, setting.curve(name, False), color=WRONG, linestyle="--", label="wrong")
    cut_off = setting.reward(name, Completion(False, setting.limit, True, setting.target))
    label = "truncated (counts as wrong)"
    axes.plot([setting.limit], [cut_off], "x", color=CUT_OFF, clip_on=False, zorder=3, label=label)
    shown = "".join(f", {key} {value:g}" for key, value in SHOWN_OPTIONS.get(name, {}).items())
    axes.set_title(name + shown, loc="left", fontsize=9)
    axes.set_xlim(0, setting.limit)
    axes.set_xticks(range(0, setting.limit + 1, max(1, setting.limit // 4)))


def draw_all(names: Sequence[str], setting: Setting, path: Path) -> None:
    """One small plot per reward, with its own scale; the last place is the legend's."""
    rows = -(-(len(names) + 1) // COLUMNS)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(9.6, 2.2 * rows), layout="constrained")
        grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        for axes, name in zip(grid, names, strict=False):
            draw(axes, name, setting)
        for axes in grid[len(names) :]:
            axes.axis("off")
        figure.supxlabel("length of the completion [tokens]", fontsize=9)
        figure.supylabel("reward", fontsize=9)
        handles, labels = grid[0].get_legend_handles_labels()
        grid[-1].legend(handles, labels, loc="center left")
        figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("docs/rewards.png"), metavar="FILE.png")
    parser.add_argument("--rewards", nargs="+", choices=list(REWARDS), default=list(REWARDS), metavar="NAME")
    parser.add_argument("--limit", type=int, default=4000, help="[tokens]")
    parser.add_argument("--target", type=int, help="of rewards that have one [tokens]; half the limit by default")
    options = parser.parse_args()
    target = options.limit // 2 if options.target is None else options.target
    if not 1 <= target <= options.limit:
        parser.error(f"--limit {options.limit} --target {target}: wanted is 1 ≤ target ≤ limit")
    draw_all(options.rewards, Setting(options.limit, target), options.file)
    say(f"picture: {options.file}")


if __name__ == "__main__":
    main()
