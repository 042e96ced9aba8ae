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
from typing import Any

import numpy as np

from bench.equal_tokens_report import write_report
from deepprune.decide import ADAPTIVE_RULE, PruneRule
from engines.accounting import net_cost
from eval import baselines, methods
from eval.methods import Prices
from eval.records import Outcome, ProblemRecord, mean_outcome, part, rng_for
from eval.rule_sweep import RuleSweepConfig, StoredRun, load_run
from eval.rules import changed_rule
from runtime.console import console, progress, say
from runtime.errors import InputError, entry_point
from runtime.intervals import paired_difference

PUBLISHED = PruneRule()
_CHANGES: dict[str, tuple[PruneRule, dict[str, Any]]] = {
    "published": (PUBLISHED, {}),
    "K2 3": (PUBLISHED, {"largest": 3}),
    "soft, K2 6": (PUBLISHED, {"policy": "soft", "largest": 6}),
    "stop when decided": (PUBLISHED, {"stop_when_decided": True}),
    "lead 3": (PUBLISHED, {"lead": 3}),
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


def prune(record: ProblemRecord, rule: PruneRule, chosen: np.ndarray) -> Outcome:
    """One run on the chosen traces. Where traces start in batches, those that are never started change nothing, so
    they are left out as long as the first ones are enough."""
    sizes = [size for size in (_FIRST, 4 * _FIRST) if size < len(chosen)] if rule.start.start_batch else []
    for size in [*sizes, len(chosen)]:
        taken = part(record, chosen[:size])
        run = methods.prune_once(taken, rule)
        if sum(tokens > 0 for tokens in run.kept_tokens) < size:
            break
    return methods.deepprune(taken, [run])


def ask_in_turn(record: ProblemRecord, chosen: np.ndarray) -> Outcome:
    """Adaptive-Consistency on the chosen traces, one after another."""
    taken = part(record, chosen)
    return baselines.average(taken, baselines.adaptive_consistency(taken, orders=1))


@dataclass(frozen=True)
class Method:
    """`run` answers one problem with the chosen traces; `reads_all` cuts of them, so its time grows with n."""

    run: Callable[[ProblemRecord, np.ndarray], Outcome]
    reads_all: bool
    judged: bool = True

    def draws(self, draws: int, n: int) -> int:
        """Halved with every doubling of n beyond `_FIRST`, where time matters."""
        return max(min(draws, _FEWEST), draws * _FIRST // n) if self.reads_all and n > _FIRST else draws


def all_methods() -> dict[str, Method]:
    """What is held against consensus, by name."""
    found = {
        name: Method(lambda record, chosen, rule=rule: prune(record, rule, chosen), not rule.start.start_batch)
        for name, rule in RULES.items()
    }
    return found | {SEQUENTIAL: Method(ask_in_turn, False, judged=False)}


def measure_problem(record: ProblemRecord, prices: Prices, n: int, draws: int, votes: int) -> dict[str, Any]:
    """One problem at one n: its consensus over n traces, and per method accuracy, net tokens, finished traces, and
    the accuracy and number of the full traces for the same net tokens."""
    rng = rng_for(record, f"equal_tokens {n}")
    chosen = [rng.permutation(len(record.traces))[:n] for _ in range(draws)]
    mean_length = float(np.mean([trace.n_tokens for trace in record.traces]))
    found = {}
    for name, method in all_methods().items():
        outcome = mean_outcome([method.run(record, traces) for traces in chosen[: method.draws(draws, n)]])
        own = prices if method.judged else Prices(prices.generator)
        equal = methods.consensus_equal_tokens(record, outcome, own, votes)
        found[name] = {
            "accuracy": outcome.accuracy,
            "net_tokens": net_cost(outcome.ledger, own.generator, own.judge) / own.generator,
            "finished": outcome.finished,
            "equal_accuracy": equal.accuracy,
            "equal_traces": equal.finished,
        }
    full = methods.vote_of_some(record, n, votes, rng_for(record, "consensus"))
    return {"consensus": full.accuracy, "tokens": n * mean_length, "methods": found}


def mix_weights(shares: Sequence[float], bar: float, hard_weight: float | None) -> np.ndarray | None:
    """[problems] with mean 1; None if the mix needs problems on a side of the bar that has none."""
    hard = np.asarray(shares) < bar
    if hard_weight is None:
        return np.ones(len(hard))
    sides = [(hard, hard_weight), (~hard, 1 - hard_weight)]
    if any(weight and not side.any() for side, weight in sides):
        return None
    return len(hard) * sum(side * (weight / max(int(side.sum()), 1)) for side, weight in sides)


def summary(found: Sequence[Mapping[str, Any]], weights: np.ndarray, name: str) -> dict[str, Any]:
    """One method on one mix at one n. Weights multiply both sides of a pair, so its difference stays paired; which
    problems are in the mix is left to chance by the bootstrap too."""
    rows, inside = [problem["methods"][name] for problem in found], weights > 0
    values = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    means = {key: float(np.average(value, weights=weights)) for key, value in values.items()}
    scale = weights[inside] / weights[inside].mean()
    a, b = (values[key][inside] * scale for key in ("accuracy", "equal_accuracy"))
    difference, low, high = paired_difference(a, b)
    full_tokens = np.average([problem["tokens"] for problem in found], weights=weights)
    return means | {
        "method": name,
        "difference": difference,
        "ci95": [low, high],
        "net_share": means["net_tokens"] / float(full_tokens),
    }


def usable_mixes(shares: Sequence[float]) -> dict[str, np.ndarray]:
    """The weights of all mixes that the problems allow; the stored one always."""
    found = {name: mix_weights(shares, bar, weight) for name, (bar, weight) in MIXES.items()}
    for name, weights in found.items():
        if weights is None:
            say(f"without the mix '{name}': the run has no problem for one side of it")
    return {name: weights for name, weights in found.items() if weights is not None}


def measure(run: StoredRun, sizes: Sequence[int], draws: int) -> dict[str, Any]:
    """All mixes, sizes and methods: `rows`, and what the mixes are."""
    records = run.records
    shares = [methods.single(record).accuracy for record in records]
    majority = np.array([methods.consensus(record).accuracy for record in records])
    mixes, rows = usable_mixes(shares), []
    with progress("problems × n", len(sizes) * len(records)) as shown:
        for n in sizes:
            found = []
            for record in records:
                found.append(measure_problem(record, run.prices, n, draws, run.draws))
                shown.advance(note=f"n = {n}")
            full = [problem["consensus"] for problem in found]
            for mix, weights in mixes.items():
                place = {"mix": mix, "n": n, "consensus": float(np.average(full, weights=weights))}
                rows += [place | summary(found, weights, name) for name in all_methods()]
    about = {
        mix: {
            "problems": int((weights > 0).sum()),
            "majority_of_all": float(np.average(majority, weights=weights)),
            "right_share": float(np.average(shares, weights=weights)),
        }
        for mix, weights in mixes.items()
    }
    return {"rows": rows, "mixes": about}


def check_sizes(sizes: Sequence[int], stored: int) -> list[int]:
    """Ascending, each once."""
    for n in sizes:
        if not 2 <= n <= stored:
            raise InputError(f"--n: {n} is not between 2 and the {stored} traces per problem that the run has")
    return sorted(set(sizes))


def run_bench(config: RuleSweepConfig, sizes: Sequence[int], draws: int, note: str = "") -> dict[str, Any]:
    """Load, measure, and write everything into `config.output_dir`."""
    if draws < 1:
        raise InputError(f"--draws: {draws}; give at least 1")
    run = load_run(config)
    sizes = check_sizes(sizes, run.n)
    result = measure(run, sizes, draws)
    about = {"model": run.model, "judge": run.judge, "stored": run.n, "problems": len(run.records)}
    result |= about | {"sizes": sizes, "draws": draws, "votes": run.draws, "note": note}
    write_report(result, Path(config.output_dir), console)
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
    # the loader is that of the sweep; which key it would sweep does not matter
    config = RuleSweepConfig(
        run=options.run, output_dir=options.out, sweep={"tau": [0.5]}, model=options.model, judge=options.judge
    )
    run_bench(config, options.n, options.draws, options.note)


if __name__ == "__main__":
    main()
