"""How often the 95 % intervals of the tables cover the truth, by the number of problems, on simulated evaluations.

    python bench/intervals.py [--simulations 1000]

Three kinds of figures: pass@1 over 16 samples of a problem; votes, right or wrong, of which 85 % or 93 % are right;
paired differences of two methods that disagree on 15 % of the problems. For the last, `cautious` is the interval that
a recommendation is decided by (eval/table/recommend.py).
"""

import argparse
from collections.abc import Callable

import numpy as np
from rich import box
from rich.table import Table

from eval.table.recommend import Option, compare
from secateur.runtime.console import console
from secateur.runtime.statistics import mean_with_interval

PROBLEMS = (15, 30, 60, 120, 250)
_LOSSES, _CHANCES = (-1.0, -0.5, 0.5, 1.0), (0.35, 0.25, 0.2, 0.2)
Draw = Callable[[np.random.Generator, int], np.ndarray]


def pass_rates(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.binomial(16, rng.beta(0.8, 1.2, count)) / 16


def votes(share: float) -> Draw:
    return lambda rng, count: (rng.random(count) < share).astype(float)


def rare_differences(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.where(rng.random(count) < 0.15, rng.choice(_LOSSES, count, p=_CHANCES), 0.0)


def cautious(values: np.ndarray) -> tuple[float, float]:
    """The bounds that decide, where the differences to a reference are `values`."""
    reference = list((values <= 0).astype(float))
    accuracies = [a + b for a, b in zip(reference, values, strict=True)]
    found = compare(Option("", "", "", accuracies, 0.0, 0.0, 0.0), reference, 0.03)
    return found.interval


def covered(draw: Draw, truth: float, count: int, simulations: int, bounds: Callable) -> float:
    """Share of simulated evaluations of `count` problems whose interval holds the truth."""
    rng, hits = np.random.default_rng(count), 0
    for seed in range(simulations):
        low, high = bounds(draw(rng, count), seed)
        hits += low - 1e-12 <= truth <= high + 1e-12
    return hits / simulations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    simulations = parser.parse_args().simulations
    difference = 0.15 * float(np.dot(_LOSSES, _CHANCES))

    def table_interval(values: np.ndarray, seed: int) -> tuple[float, float]:
        return mean_with_interval(values, seed=seed)[1:]

    kinds = {
        "pass@1": (pass_rates, 0.4, table_interval),
        "votes, 85 %": (votes(0.85), 0.85, table_interval),
        "votes, 93 %": (votes(0.93), 0.93, table_interval),
        "difference": (rare_differences, difference, table_interval),
        "difference, cautious": (rare_differences, difference, lambda values, seed: cautious(values)),
    }
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("of 95 %, by problems", no_wrap=True)
    for count in PROBLEMS:
        table.add_column(str(count), justify="right")
    for name, (draw, truth, bounds) in kinds.items():
        shares = [covered(draw, truth, count, simulations, bounds) for count in PROBLEMS]
        table.add_row(name, *(f"{100 * share:.1f} %" for share in shares))
    console.print(table)


if __name__ == "__main__":
    main()
