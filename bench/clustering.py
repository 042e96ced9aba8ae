"""Clustering alone, and replay, on synthetic traces and a judge that takes no time.

    python bench/clustering.py [--n 64 512 4096] [--problems 30]

The judge says .8 (± .1) for traces of one group and .2 (± .1) otherwise; there are 40 groups, K is 32, and traces
beyond it join the best cluster, so that none is left out. Scores are computed for the pairs that are asked, in blocks
of 32 traces; no matrix of all pairs exists. "rule" counts the pairs that the rule looks at read one trace after the
other, "asked" those that had to be scored. Time is this process's own processor time, memory the peak of what Python
and numpy allocated in a second run.
"""

import argparse
import time
import tracemalloc

import numpy as np
from rich.table import Table

from secateur.deepprune.clustering import cluster_asking
from secateur.deepprune.replay import replay
from secateur.deepprune.rule import ClusterRule, PruneRule
from secateur.runtime.console import console
from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point

GROUPS, ORDERS, REPLAYED = 40, 20, 64


class SyntheticJudge:
    """Scores pairs [pairs, 2] from the groups of their traces and a number of each trace; counts what it is asked."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(0)
        self.groups, self.noise = rng.integers(0, GROUPS, n), rng.random(n)
        self.pairs = self.calls = 0

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        self.pairs, self.calls = self.pairs + len(pairs), self.calls + 1
        a, b = pairs[:, 0], pairs[:, 1]
        tilt = (self.noise[a] + self.noise[b]) / 10 - 0.1
        return np.where(self.groups[a] == self.groups[b], 0.8, 0.2) + tilt


def measure(n: int, compared: int) -> list[str]:
    rule, judge = ClusterRule(compared=compared, overflow="join_best"), SyntheticJudge(n)
    began = time.process_time()
    clustering = cluster_asking(n, judge, rule, seed=0)
    seconds = time.process_time() - began
    tracemalloc.start()
    cluster_asking(n, SyntheticJudge(n), rule, seed=0)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    numbers = (n, compared, f"{seconds:.3f}", f"{peak:.1f}", len(clustering.clusters))
    return list(map(str, (*numbers, clustering.comparisons, judge.pairs, judge.calls)))


def replayed_traces_per_second(problems: int) -> float:
    """Whole replays, clustering to vote, of `REPLAYED` traces in `ORDERS` orders of each problem."""
    rng, spent = np.random.default_rng(0), 0.0
    for problem in range(problems):
        groups = rng.choice(6, REPLAYED, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
        noise = rng.normal(0, 0.2, (REPLAYED, REPLAYED))
        scores = np.clip(np.where(groups[:, None] == groups, 0.75, 0.25) + (noise + noise.T) / 2, 0, 1)
        lengths, cuts = rng.integers(150, 400, REPLAYED), rng.integers(50, 200, REPLAYED)
        began = time.process_time()
        for _ in range(ORDERS):
            order = rng.permutation(REPLAYED)
            replay(
                lengths[order].tolist(),
                cuts[order].tolist(),
                groups[order].tolist(),
                scores[np.ix_(order, order)],
                PruneRule(),
                problem,
            )
        spent += time.process_time() - began
    return problems * ORDERS * REPLAYED / spent


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[64, 512, 4096], help="traces")
    parser.add_argument("--problems", type=int, default=30, help="problems of the replay")
    options = parser.parse_args()
    if min(options.n) < 2 or options.problems < 1:
        raise InputError("--n counts traces (2 or more), --problems problems (1 or more)")
    measure(64, 10)  # warm-up
    table = Table("n", "K1", "cpu s", "peak MiB", "clusters", "rule", "asked", "calls")
    for n in options.n:
        for compared in (10, 3):
            table.add_row(*measure(n, compared))
    console.print(table)
    console.print(f"replay: {replayed_traces_per_second(options.problems):,.0f} traces/s (n = 64, {ORDERS} orders)")


if __name__ == "__main__":
    main()
