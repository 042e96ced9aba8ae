"""From the results of all methods to the rows, differences and examples of combined.json. Pure functions."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from eval.table.labels import judge_label, method_label
from eval.table.methods import BASELINES, Pruned
from eval.table.problems import Outcome, ProblemRecord
from eval.table.results import Result
from eval.table.rules import PUBLISHED
from secateur.engines.accounting import Usage, net_cost, saving_gross, saving_net
from secateur.runtime.statistics import mean_with_interval, paired_difference


def total_usage(outcomes: Sequence[Outcome]) -> Usage:
    """Sums over problems; `longest_path` becomes the mean over problems, which is what a user waits for."""
    names = [field.name for field in dataclasses.fields(Usage)]
    totals = {name: sum(getattr(outcome.usage, name) for outcome in outcomes) for name in names}
    return Usage(**totals | {"longest_path": totals["longest_path"] / len(outcomes)})


@dataclass(frozen=True)
class Reference:
    """What rows are measured against: consensus over all n traces of the base model `model`.

    `votes` has for every model what consensus over all n of its own traces comes to, problem by problem;
    `parameters` are the models' sizes.
    """

    model: str
    votes: Mapping[str, Sequence[Outcome]]
    parameters: Mapping[str, int]

    @cached_property
    def usage(self) -> Usage:
        """What it spends on all problems."""
        return total_usage(self.votes[self.model])

    @cached_property
    def full(self) -> dict[str, float]:
        """Model → what the vote of all its traces costs [multiply-accumulates]."""
        return {name: net_cost(total_usage(vote), self.parameters[name], 0) for name, vote in self.votes.items()}

    @property
    def net_tokens(self) -> float:
        """Tokens per problem of the vote itself."""
        return self.usage.generated / len(self.votes[self.model])


def saving_parts(cost: float, own_full: float, reference: float) -> dict[str, float]:
    """The net saving of a stack, divided into what shorter traces save and what fewer traces save (fractions).

    All three are net costs [multiply-accumulates]: C of the row, C_full of consensus over all n traces of the row's
    own model, C_ref of consensus over all n traces of the base model. The order is that of the stack, first the
    length blade, then the redundancy blade on the traces of the model that it made:

        intra = 1 − C_full ÷ C_ref              (the net saving of that model's own row "consensus")
        inter = (C_full − C) ÷ C_ref            (what the method adds to it)
        intra + inter = 1 − C ÷ C_ref           (the net saving of the row, exactly)

    In the other order the parts differ, since the second blade can only save what the first left over; what the
    redundancy blade saves alone stands in the base model's row of the same method.
    """
    return {"intra": 1 - own_full / reference, "inter": (own_full - cost) / reference}


def make_row(result: Result, benchmark: str, n: int, reference: Reference) -> dict[str, Any]:
    """One row of combined.json.

    `net_tokens`: everything spent per problem, the judge included, in tokens of the base model; `oracle_accuracy`:
    how often one of the traces that vote is right; `controls`: what the method is held against, each with the
    difference of the method to it, paired by problem; `saving_parts`: see there, for models other than the base.
    Null where a row has none.
    """
    usage = total_usage(result.outcomes)
    accuracy, low, high = mean_with_interval([outcome.accuracy for outcome in result.outcomes])
    full = reference.full[reference.model]
    cost = net_cost(usage, result.prices.generator, result.prices.judge)
    parts = None if result.model == reference.model else saving_parts(cost, reference.full[result.model], full)
    return {
        "id": result.id,
        "model": result.model,
        "method": result.method,
        "judge": result.judge,
        "benchmark": benchmark,
        "n": n,
        "problems": len(result.outcomes),
        "accuracy": accuracy,
        "accuracy_ci95": [low, high],
        "oracle_accuracy": _oracle_accuracy(result.outcomes),
        "finished": float(np.mean([outcome.finished for outcome in result.outcomes])),
        "tokens": {key: round(value, 3) for key, value in dataclasses.asdict(usage).items()},
        "wall_s": result.wall_s,
        "saving_gross": saving_gross(usage.generated, reference.usage.generated),
        "saving_net": saving_net(
            usage,
            generator_parameters=result.prices.generator,
            judge_parameters=result.prices.judge,
            reference_generated=reference.usage.generated,
            reference_parameters=reference.parameters[reference.model],
        ),
        "net_tokens": cost / reference.parameters[reference.model] / len(result.outcomes),
        "saving_parts": parts,
        "controls": {name: _control(result.outcomes, outcomes) for name, outcomes in result.controls.items()} or None,
    }


def _oracle_accuracy(outcomes: Sequence[Outcome]) -> float | None:
    shares = [outcome.oracle for outcome in outcomes if outcome.oracle is not None]
    return float(np.mean(shares)) if shares else None


def _control(outcomes: Sequence[Outcome], others: Sequence[Outcome]) -> dict[str, Any]:
    mean, low, high = paired_difference([o.accuracy for o in outcomes], [o.accuracy for o in others])
    return {
        "accuracy": float(np.mean([outcome.accuracy for outcome in others])),
        "generated": round(sum(outcome.usage.generated for outcome in others), 3),
        "difference": mean,
        "ci95": [low, high],
    }


def make_differences(results: Sequence[Result], base: str, benchmark: str, n: int) -> list[dict[str, Any]]:
    """DeepPrune by each judge but the random one against the base model's vote, its controls, and the baselines on
    its own model, paired by problem."""
    consensus = [result for result in results if (result.model, result.method) == (base, "consensus")]
    differences = []
    for pruned in results:
        if not pruned.method.startswith(PUBLISHED) or pruned.judge == "random":
            continue
        differences += [_difference(pruned, base, "consensus", None, result.outcomes) for result in consensus]
        differences += [
            _difference(pruned, pruned.model, name, pruned.judge, outcomes)
            for name, outcomes in pruned.controls.items()
        ]
        differences += [
            _difference(pruned, rival.model, rival.method, None, rival.outcomes)
            for rival in results
            if rival.model == pruned.model and rival.method in BASELINES
        ]
    return [difference | {"benchmark": benchmark, "n": n} for difference in differences]


def _difference(a: Result, model: str, method: str, judge: str | None, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    mean, low, high = paired_difference([o.accuracy for o in a.outcomes], [o.accuracy for o in outcomes])
    of_model = f" of {model}" if model != a.model else ""
    return {
        "label": f"{a.model}: {method_label(a.method)} ({judge_label(a.judge)}) − {method_label(method)}{of_model}",
        "a": {"model": a.model, "method": a.method, "judge": a.judge},
        "b": {"model": model, "method": method, "judge": judge},
        "difference": mean,
        "ci95": [low, high],
    }


def evenly_chosen(records: Sequence[ProblemRecord], count: int) -> list[int]:
    """Places of `count` problems spread evenly from the hardest to the easiest by their share of right traces."""
    shares = [np.mean([key in record.right for key in record.keys]) for record in records]
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
                "right": trace.key in record.right,
                "text": texts[index],
            }
        )
    names: Mapping[Any, str | None] = {
        trace.key: answer for trace, answer in zip(record.traces, answers, strict=True) if trace.key is not None
    }
    return {
        "traces": traces,
        "vote": names.get(run.key),
        "vote_right": run.key in record.right,
    }
