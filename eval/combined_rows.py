"""From the records of all problems to the rows, differences and examples of combined.json. Pure functions."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepprune.judges.untrained import UNTRAINED
from engines.accounting import TokenLedger, saving_gross, saving_net
from eval import methods
from eval.combined_config import CombinedConfig
from eval.methods import Outcome, Prices, ProblemRecord, Pruned
from eval.scores import mean_with_interval, paired_difference
from eval.table import METHOD_LABELS, judge_label


@dataclass(frozen=True)
class ModelRecords:
    """One model: its problems without a judge, and once more for every judge, in the same order."""

    name: str
    parameters: int
    plain: list[ProblemRecord]
    judged: dict[str, list[ProblemRecord]]
    judge_parameters: dict[str, int]
    wall_s: float | None = None
    """Wall time of sampling all traces [s]; None where none were sampled."""


@dataclass(frozen=True)
class Result:
    """One method of one model on all problems."""

    model: str
    method: str
    judge: str | None
    prices: Prices
    outcomes: list[Outcome]
    wall_s: float | None = None


def total_ledger(outcomes: Sequence[Outcome]) -> TokenLedger:
    """Sums over problems; `longest_trace` becomes the mean over problems, which is what a user waits for."""
    names = [field.name for field in dataclasses.fields(TokenLedger)]
    totals = {name: sum(getattr(outcome.ledger, name) for outcome in outcomes) for name in names}
    return TokenLedger(**totals | {"longest_trace": totals["longest_trace"] / len(outcomes)})


def results_of_model(records: ModelRecords, config: CombinedConfig) -> tuple[list[Result], dict[str, list[Pruned]]]:
    """Every method of one model, and for each judge the runs in the stored order, one per problem."""
    plain = {"single": methods.single, "consensus": methods.consensus, "oracle": methods.oracle}
    results = []
    for name, method in plain.items():
        if name in config.methods:
            wall = records.wall_s if name == "consensus" else None
            outcomes = [method(record) for record in records.plain]
            results.append(Result(records.name, name, None, Prices(records.parameters), outcomes, wall))
    first_runs = {}
    for judge, problems in records.judged.items():
        judged, runs = _results_of_judge(records, judge, problems, config)
        results += judged
        first_runs[judge] = runs
    return results, first_runs


def _results_of_judge(
    records: ModelRecords, judge: str, problems: Sequence[ProblemRecord], config: CombinedConfig
) -> tuple[list[Result], list[Pruned]]:
    prices = Prices(records.parameters, records.judge_parameters[judge])
    runs = [methods.prune_in_orders(record, config.rule, config.orders) for record in problems]
    pruned = [methods.deepprune(record, run) for record, run in zip(problems, runs, strict=True)]
    results = [Result(records.name, "deepprune", judge, prices, pruned)]
    if judge not in UNTRAINED:
        free = Prices(records.parameters)
        if "random_traces" in config.methods:
            outcomes = [methods.random_traces(r, run, config.draws) for r, run in zip(problems, runs, strict=True)]
            results.append(Result(records.name, "random_traces", judge, free, outcomes))
        if "consensus_equal_tokens" in config.methods:
            outcomes = [
                methods.consensus_equal_tokens(record, outcome, prices, config.draws)
                for record, outcome in zip(problems, pruned, strict=True)
            ]
            results.append(Result(records.name, "consensus_equal_tokens", judge, free, outcomes))
    return results, [run[0] for run in runs]


def make_row(result: Result, n: int, reference: TokenLedger, reference_parameters: int) -> dict[str, Any]:
    """One row of combined.json; `reference` is what consensus over all n of the base model generated."""
    ledger = total_ledger(result.outcomes)
    accuracy, low, high = mean_with_interval([outcome.accuracy for outcome in result.outcomes])
    return {
        "model": result.model,
        "method": result.method,
        "judge": result.judge,
        "n": n,
        "problems": len(result.outcomes),
        "accuracy": accuracy,
        "accuracy_ci95": [low, high],
        "finished": float(np.mean([outcome.finished for outcome in result.outcomes])),
        "tokens": {key: round(value, 3) for key, value in dataclasses.asdict(ledger).items()},
        "wall_s": result.wall_s,
        "saving_gross": saving_gross(ledger.generated, reference.generated),
        "saving_net": saving_net(
            ledger,
            generator_parameters=result.prices.generator,
            judge_parameters=result.prices.judge,
            reference_generated=reference.generated,
            reference_parameters=reference_parameters,
        ),
    }


def make_differences(results: Sequence[Result], base: str) -> list[dict[str, Any]]:
    """DeepPrune of each trained judge against what it must be held against, paired by problem."""
    found = {(result.model, result.method, result.judge): result for result in results}
    differences = []
    for pruned in results:
        if pruned.method != "deepprune" or pruned.judge in UNTRAINED:
            continue
        others = [
            found.get((base, "consensus", None)),
            found.get((pruned.model, "random_traces", pruned.judge)),
            found.get((pruned.model, "consensus_equal_tokens", pruned.judge)),
        ]
        differences += [_difference(pruned, other) for other in others if other is not None]
    return differences


def _difference(a: Result, b: Result) -> dict[str, Any]:
    mean, low, high = paired_difference([o.accuracy for o in a.outcomes], [o.accuracy for o in b.outcomes])
    of_model = f" of {b.model}" if b.model != a.model else ""
    return {
        "label": f"{a.model}: DeepPrune ({judge_label(a.judge)}) − {METHOD_LABELS[b.method]}{of_model}",
        "a": {"model": a.model, "method": a.method, "judge": a.judge},
        "b": {"model": b.model, "method": b.method, "judge": b.judge},
        "difference": mean,
        "ci95": [low, high],
    }


def evenly_chosen(records: Sequence[ProblemRecord], count: int) -> list[int]:
    """Places of `count` problems spread evenly from the hardest to the easiest by their share of right traces."""
    shares = [np.mean([key == record.gold for key in record.keys]) for record in records]
    order = sorted(range(len(records)), key=lambda index: (shares[index], index))
    if count >= len(order):
        return order
    return [order[round(place)] for place in np.linspace(0, len(order) - 1, count)] if count else []


def example_panel(
    record: ProblemRecord, run: Pruned, texts: Sequence[str], answers: Sequence[str | None]
) -> dict[str, Any]:
    """Every trace of one problem by one model, as the report draws it."""
    survivors = set(run.survivors)
    traces = []
    for index, trace in enumerate(record.traces):
        pruned = run.kept_tokens[index] < trace.n_tokens
        traces.append(
            {
                "sample": index,
                "n_tokens": trace.n_tokens,
                "cut_tokens": trace.cut_tokens,
                "status": "pruned" if pruned else "finished",
                "voted": index in survivors,
                "cluster": run.labels[index],
                "answer": answers[index],
                "right": trace.key is not None and trace.key == record.gold,
                "text": texts[index],
            }
        )
    names: Mapping[Any, str | None] = {
        trace.key: answer for trace, answer in zip(record.traces, answers, strict=True) if trace.key is not None
    }
    return {
        "traces": traces,
        "vote": names.get(run.key),
        "vote_right": run.key is not None and run.key == record.gold,
    }
