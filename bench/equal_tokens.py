"""The bar that matters: DeepPrune against consensus over the fewer full traces that the same net tokens buy.

    python bench/equal_tokens.py --run outputs/demo/combined --n 16 32 64 [--draws 8] [--note "machine, date, task"]

Replays rules on a finished eval/combined.py run with many traces per problem; no model is needed. For an n below the
stored number, random subsets of the stored traces are taken, for the stored number random orders of them; all
methods meet the same ones. The fewer full traces are drawn from all that are stored. Differences are paired by
problem, their intervals are bootstrap intervals over problems. Adaptive-Consistency, which asks finished answers
instead of cuts whether it may stop, has the same kind of control.

Mixes weigh problems by how contested they are, which is the share of their stored traces with the right answer.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.equal_tokens_report import BenchResult, BenchRow, MethodFigures, Mix, write_report
from eval.studies.rule_sweep import StoredRun, load_run
from eval.table.answers import adaptive_consistency, answer_in_orders
from eval.table.method import Outcome, Parameters, ReplayProblem, average, mean_outcome, part, rng_for
from eval.table.pruning import changed_rule, deepprune, prune_once
from eval.table.votes import consensus, consensus_equal_tokens, single, vote_of_some
from secateur.deepprune.rule import ADAPTIVE_RULE, PruneRule
from secateur.engines.accounting import net_cost
from secateur.runtime.console import progress, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.process import entry_point
from secateur.runtime.statistics import paired_difference

PUBLISHED_RULE = PruneRule()
_CHANGES: dict[str, tuple[PruneRule, dict[str, JSON]]] = {
    "published": (PUBLISHED_RULE, {}),
    "K2 3": (PUBLISHED_RULE, {"largest": 3}),
    "soft, K2 6": (PUBLISHED_RULE, {"policy": "soft", "largest": 6}),
    "stop when decided": (PUBLISHED_RULE, {"stop_when_decided": True}),
    "lead 3": (PUBLISHED_RULE, {"lead": 3}),
    "adaptive .95": (ADAPTIVE_RULE, {}),
    "adaptive .99": (ADAPTIVE_RULE, {"start_confidence": 0.99}),
}
RULES = {name: changed_rule(rule, values, f"rule '{name}'") for name, (rule, values) in _CHANGES.items()}
SEQUENTIAL = "Adaptive-Consistency"
CONTESTED = 0.6  # share of right answers below which a problem is contested
MIXES: dict[str, tuple[float, float | None]] = {
    "as stored": (CONTESTED, None),
    "half contested": (CONTESTED, 0.5),
    "contested": (CONTESTED, 1.0),
    "below one half": (0.5, 1.0),
}
"""Name → the share of right answers below which a problem is on the hard side, and the weight of that side (0-1);
None weighs all problems alike."""
_FIRST = 64  # traces of a batch-starting rule that are looked at first
_FEWEST = 2  # draws


def prune(record: ReplayProblem, rule: PruneRule, chosen: np.ndarray) -> Outcome:
    """One run on the chosen traces. Where traces start in batches, those that are never started change nothing, so
    they are left out as long as the first ones are enough."""
    sizes = [size for size in (_FIRST, 4 * _FIRST) if size < len(chosen)] if rule.start.start_batch else []
    for size in [*sizes, len(chosen)]:
        taken = part(record, chosen[:size])
        run = prune_once(taken, rule)
        if sum(tokens > 0 for tokens in run.kept_tokens) < size:
            break
    return deepprune(taken, [run])


def ask_in_turn(record: ReplayProblem, chosen: np.ndarray) -> Outcome:
    """Adaptive-Consistency on the chosen traces, one after another."""
    taken = part(record, chosen)
    return average(taken, answer_in_orders(taken, adaptive_consistency(), orders=1))


@dataclass(frozen=True)
class Contender:
    """`run` answers one problem with the chosen traces; `reads_all` cuts of them, so its time grows with n."""

    run: Callable[[ReplayProblem, np.ndarray], Outcome]
    reads_all: bool
    judged: bool = True

    def draws(self, draws: int, n: int) -> int:
        """Halved with every doubling of n beyond `_FIRST`, where time matters."""
        return max(min(draws, _FEWEST), draws * _FIRST // n) if self.reads_all and n > _FIRST else draws


def all_contenders() -> dict[str, Contender]:
    """What is compared with consensus, by name."""
    found = {
        name: Contender(lambda record, chosen, rule=rule: prune(record, rule, chosen), not rule.start.start_batch)
        for name, rule in RULES.items()
    }
    return found | {SEQUENTIAL: Contender(ask_in_turn, False, judged=False)}


@dataclass(frozen=True)
class MeasuredProblem:
    """One problem at one n: accuracy (0-1) of the consensus of n traces, their tokens, and every contender by
    name."""

    consensus: float
    tokens: float
    methods: Mapping[str, MethodFigures]


def measure_problem(
    problem: ReplayProblem, parameters: Parameters, n: int, draws: int, votes: int
) -> MeasuredProblem:
    """All contenders meet the same subsets of the problem's traces."""
    rng = rng_for(problem, f"equal_tokens {n}")
    chosen = [rng.permutation(len(problem.traces))[:n] for _ in range(draws)]
    found = {}
    for name, method in all_contenders().items():
        own = parameters if method.judged else Parameters(parameters.generator)
        runs = [method.run(problem, traces) for traces in chosen[: method.draws(draws, n)]]
        found[name] = _figures(problem, mean_outcome(runs), own, votes)
    full = vote_of_some(problem, n, votes, rng_for(problem, "consensus"))
    mean_length = float(np.mean([trace.n_tokens for trace in problem.traces]))
    return MeasuredProblem(full.accuracy, n * mean_length, found)


def _figures(problem: ReplayProblem, outcome: Outcome, parameters: Parameters, votes: int) -> MethodFigures:
    equal = consensus_equal_tokens(problem, outcome, parameters, votes)
    net = net_cost(outcome.usage, parameters.generator, parameters.judge) / parameters.generator
    return MethodFigures(outcome.accuracy, net, outcome.finished, equal.accuracy, equal.finished)


def mix_weights(shares: Sequence[float], bar: float, hard_weight: float | None) -> np.ndarray | None:
    """[problems] with mean 1; None if the mix needs problems on a side of the bar that has none."""
    hard = np.asarray(shares) < bar
    if hard_weight is None:
        return np.ones(len(hard))
    sides = [(hard, hard_weight), (~hard, 1 - hard_weight)]
    if any(weight and not side.any() for side, weight in sides):
        return None
    return len(hard) * sum(side * (weight / max(int(side.sum()), 1)) for side, weight in sides)


@dataclass(frozen=True)
class WeighedMix:
    """Problems measured at one n, and how much each counts [problems], with mean 1."""

    name: str
    n: int
    found: Sequence[MeasuredProblem]
    weights: np.ndarray

    def mean(self, values: Sequence[float]) -> float:
        return float(np.average(values, weights=self.weights))

    def row(self, method: str) -> BenchRow:
        """Weights multiply both sides of a pair, so its difference stays paired; which problems are in the mix is
        left to chance by the bootstrap too."""
        figures, inside = [problem.methods[method] for problem in self.found], self.weights > 0
        means = {key: self.mean([getattr(one, key) for one in figures]) for key in vars(figures[0])}
        scale = self.weights[inside] / self.weights[inside].mean()
        a, b = np.array([(one.accuracy, one.equal_accuracy) for one in figures]).T
        difference, low, high = paired_difference(a[inside] * scale, b[inside] * scale)
        return BenchRow(
            **means,
            mix=self.name,
            n=self.n,
            consensus=self.mean([problem.consensus for problem in self.found]),
            method=method,
            difference=difference,
            ci95=(low, high),
            net_share=means["net_tokens"] / self.mean([problem.tokens for problem in self.found]),
        )


def usable_mixes(shares: Sequence[float]) -> dict[str, np.ndarray]:
    """The weights of all mixes that the problems allow; the stored one always."""
    found = {name: mix_weights(shares, bar, weight) for name, (bar, weight) in MIXES.items()}
    for name, weights in found.items():
        if weights is None:
            say(f"without the mix '{name}': the run has no problem for one side of it")
    return {name: weights for name, weights in found.items() if weights is not None}


def measure(run: StoredRun, sizes: Sequence[int], draws: int, note: str = "") -> BenchResult:
    """All mixes, sizes and contenders."""
    shares = [single(problem).accuracy for problem in run.problems]
    mixes, rows = usable_mixes(shares), []
    with progress("problems × n", len(sizes) * len(run.problems)) as shown:
        for n in sizes:
            found = []
            for problem in run.problems:
                found.append(measure_problem(problem, run.parameters, n, draws, run.draws))
                shown.advance(note=f"n = {n}")
            for name, weights in mixes.items():
                mix = WeighedMix(name, n, found, weights)
                rows += [mix.row(method) for method in all_contenders()]
    majority = [consensus(problem).accuracy for problem in run.problems]
    return BenchResult(
        rows=tuple(rows),
        mixes={name: _mix(weights, majority, shares) for name, weights in mixes.items()},
        model=run.model,
        judge=run.judge,
        stored=run.n,
        problems=len(run.problems),
        sizes=tuple(sizes),
        draws=draws,
        votes=run.draws,
        note=note,
    )


def _mix(weights: np.ndarray, majority: Sequence[float], shares: Sequence[float]) -> Mix:
    means = (float(np.average(values, weights=weights)) for values in (majority, shares))
    return Mix(int((weights > 0).sum()), *means)


def check_sizes(sizes: Sequence[int], stored: int) -> list[int]:
    """Ascending, each once."""
    for n in sizes:
        if not 2 <= n <= stored:
            raise InputError(f"--n: {n} is not between 2 and the {stored} traces per problem that the run has")
    return sorted(set(sizes))


def run_bench(run: StoredRun, folder: Path, sizes: Sequence[int], draws: int, note: str = "") -> BenchResult:
    """Measure, and write everything into `folder`."""
    if draws < 1:
        raise InputError(f"--draws: {draws}; give at least 1")
    result = measure(run, check_sizes(sizes, run.n), draws, note)
    write_report(result, folder)
    return result


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="output folder of eval/combined.py")
    parser.add_argument("--model")
    parser.add_argument("--judge")
    parser.add_argument("--n", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--draws", type=int, default=8, help="subsets per problem")
    parser.add_argument("--note", default="", help="what the figures were made with, for the report")
    parser.add_argument("--out", default="bench")
    options = parser.parse_args()
    run = load_run(options.run, model=options.model, judge=options.judge)
    run_bench(run, Path(options.out), options.n, options.draws, options.note)


if __name__ == "__main__":
    main()
