"""The cells of a rule sweep: which rules are tried, what each scores and costs on stored traces. Pure functions."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.table.method import Parameters
from eval.table.problems import ReplayProblem, rng_for
from eval.table.pruning import deepprune, prune_in_orders
from eval.table.rules import changed_rule, flat_rule
from eval.table.votes import EQUAL_TOKENS, consensus, consensus_equal_tokens, vote_of_some
from secateur.deepprune.clustering import cluster_traces
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import net_cost
from secateur.runtime.statistics import mean_with_interval, paired_difference

SWEEP = "key 'sweep'"


def cells(rule: PruneRule, sweep: Mapping[str, Sequence[Any]], grid: bool) -> list[PruneRule]:
    """`rule` itself, then every combination (`grid`) or one key at a time; each rule once."""
    if grid:
        chosen = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    else:
        chosen = [{key: value} for key, values in sweep.items() for value in values]
    return list(dict.fromkeys([rule, *(changed_rule(rule, values, SWEEP) for values in chosen)]))


@dataclass(frozen=True)
class FullConsensus:
    """What every cell is compared with: the consensus of all n traces of the same model, problem by problem."""

    accuracies: list[float]
    tokens: float
    """Generated per problem, the mean over problems."""


def full_consensus(problems: Sequence[ReplayProblem]) -> FullConsensus:
    outcomes = [consensus(record) for record in problems]
    return FullConsensus([o.accuracy for o in outcomes], float(np.mean([o.usage.generated for o in outcomes])))


def consensus_curve(records: Sequence[ReplayProblem], draws: int) -> list[dict[str, float]]:
    """Votes of fewer full traces: count, tokens per problem, accuracy, by powers of two up to n."""
    n = len(records[0].traces)
    curve = []
    for count in [*itertools.takewhile(lambda c: c < n, (2**power for power in range(n))), n]:
        outcomes = [vote_of_some(r, count, draws, rng_for(r, EQUAL_TOKENS)) for r in records]
        tokens = float(np.mean([outcome.usage.generated for outcome in outcomes]))
        curve.append({"count": count, "tokens": tokens, "accuracy": float(np.mean([o.accuracy for o in outcomes]))})
    return curve


def measure(
    records: Sequence[ReplayProblem],
    rule: PruneRule,
    full: FullConsensus,
    parameters: Parameters,
    orders: int,
    draws: int,
) -> dict[str, Any]:
    """One cell as it goes into sweep.json.

    Tokens are means per problem; `net_tokens` counts everything, the judge's work as tokens of the generator.
    `compared_pairs` are those the clustering looks at; the judge's cost is that of the run, which scored all pairs.
    """
    pruned = [deepprune(record, prune_in_orders(record, rule, orders)) for record in records]
    equal = [
        consensus_equal_tokens(record, outcome, parameters, draws)
        for record, outcome in zip(records, pruned, strict=True)
    ]
    net = _mean([net_cost(o.usage, parameters.generator, parameters.judge) / parameters.generator for o in pruned])
    generated = _mean([outcome.usage.generated for outcome in pruned])
    accuracies = [outcome.accuracy for outcome in pruned]
    accuracy, low, high = mean_with_interval(accuracies)
    return {
        "rule": flat_rule(rule),
        "accuracy": accuracy,
        "accuracy_ci95": [low, high],
        "finished": _mean([outcome.finished for outcome in pruned]),
        "generated": generated,
        "net_tokens": net,
        "longest_path": _mean([outcome.usage.longest_path for outcome in pruned]),
        "saving_gross": 1 - generated / full.tokens,
        "saving_net": 1 - net / full.tokens,
        "compared_pairs": _mean([_compared_pairs(record, rule) for record in records]),
        "to_consensus": _difference(accuracies, full.accuracies),
        "equal_tokens_accuracy": _mean([outcome.accuracy for outcome in equal]),
        "to_equal_tokens": _difference(accuracies, [outcome.accuracy for outcome in equal]),
        "accuracies": [round(value, 6) for value in accuracies],
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _difference(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    mean, low, high = paired_difference(a, b)
    return {"difference": mean, "ci95": [low, high]}


def _compared_pairs(record: ReplayProblem, rule: PruneRule) -> int:
    """Pairs that the clustering compares in the stored order; none where the judge failed."""
    if not np.isfinite(record.scores).all():
        return 0
    return cluster_traces(record.scores, rule.cluster, record.decision_seed).comparisons


def mark_front(rows: Sequence[dict[str, Any]]) -> None:
    """Set `pareto` of each row: no other one is as accurate and as cheap, and better in one of the two."""
    for row in rows:
        row["pareto"] = not any(_dominates(other, row) for other in rows)


def _dominates(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    better = a["accuracy"] > b["accuracy"] or a["net_tokens"] < b["net_tokens"]
    return better and a["accuracy"] >= b["accuracy"] and a["net_tokens"] <= b["net_tokens"]


def against_default(rows: Sequence[dict[str, Any]]) -> None:
    """Set `to_default` of each row: its accuracy minus that of the first one, paired by problem."""
    for row in rows:
        row["to_default"] = _difference(row["accuracies"], rows[0]["accuracies"])
