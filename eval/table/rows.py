"""From the results of all methods to the rows and differences of the table. Pure functions."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from eval.table.labels import judge_label
from eval.table.method import Outcome, Result
from eval.table.provenance import Ids, Seen, any_of
from eval.table.registry import method_label, method_of
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.engines.accounting import Usage, net_cost, saving_gross, saving_net
from secateur.results import Control, Cost, Difference, Row, RowName, SavingParts
from secateur.runtime.statistics import mean_with_interval, paired_difference


def total_usage(outcomes: Sequence[Outcome]) -> Usage:
    """Sums over problems; `longest_path` becomes the mean over problems, which is what a user waits for."""
    names = [field.name for field in dataclasses.fields(Usage)]
    totals = {name: sum(getattr(outcome.usage, name) for outcome in outcomes) for name in names}
    return Usage(**totals | {"longest_path": totals["longest_path"] / len(outcomes)})


@dataclass(frozen=True)
class BaseConsensus:
    """What all savings are measured against: the consensus of all n traces of the base model `model`.

    `votes` has for every model what the consensus of all n of its own traces comes to, problem by problem;
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
        """Model → what the consensus of all its traces costs [multiply-accumulates]."""
        return {name: net_cost(total_usage(vote), self.parameters[name], 0) for name, vote in self.votes.items()}

    @property
    def net_tokens(self) -> float:
        """Tokens per problem of the vote itself."""
        return self.usage.generated / len(self.votes[self.model])


def saving_parts(cost: float, own_full: float, reference: float) -> SavingParts:
    """The net saving of a stack, divided into what shorter traces save and what fewer traces save (fractions).

    All three are net costs [multiply-accumulates]: C of the row, C_full of the consensus of all n traces of the row's
    own model, C_ref of the consensus of all n traces of the base model. The order is that of the stack, first length
    pruning, then redundancy pruning on the traces of the model that it made:

        intra = 1 − C_full ÷ C_ref              (the net saving of that model's own row "consensus")
        inter = (C_full − C) ÷ C_ref            (what the method adds to it)
        intra + inter = 1 − C ÷ C_ref           (the net saving of the row, exactly)

    In the other order the parts differ, since the second can only save what the first left over; what redundancy
    pruning saves alone stands in the base model's row of the same method.
    """
    return SavingParts(1 - own_full / reference, (own_full - cost) / reference)


def make_row(
    result: Result,
    row_id: str,
    benchmark: str,
    n: int,
    reference: BaseConsensus,
    *,
    seen: Seen,
    judge_kind: str | None = None,
    cost: Cost | None = None,
) -> Row:
    """One row of the table; `row_id` is its name there."""
    usage = total_usage(result.outcomes)
    accuracy, low, high = mean_with_interval([outcome.accuracy for outcome in result.outcomes])
    full = reference.full[reference.model]
    spent = net_cost(usage, result.parameters.generator, result.parameters.judge)
    own = result.model == reference.model
    return Row(
        id=row_id,
        model=result.model,
        method=result.method,
        judge=result.judge,
        benchmark=benchmark,
        n=n,
        problems=len(result.outcomes),
        accuracy=accuracy,
        accuracy_ci95=(low, high),
        oracle_accuracy=_oracle_accuracy(result.outcomes),
        finished=float(np.mean([outcome.finished for outcome in result.outcomes])),
        tokens=rounded(usage),
        saving_gross=saving_gross(usage.generated, reference.usage.generated),
        saving_net=saving_net(
            usage,
            generator_parameters=result.parameters.generator,
            judge_parameters=result.parameters.judge,
            reference_generated=reference.usage.generated,
            reference_parameters=reference.parameters[reference.model],
        ),
        net_tokens=spent / reference.parameters[reference.model] / len(result.outcomes),
        saving_parts=None if own else saving_parts(spent, reference.full[result.model], full),
        controls={name: _control(result.outcomes, outcomes) for name, outcomes in result.controls.items()},
        wall_s=result.wall_s,
        trained_on=any_of(seen.trained),
        chosen_on=any_of(seen.chosen),
        trained_ids=_some(seen.trained, len(result.outcomes)),
        chosen_ids=_some(seen.chosen, len(result.outcomes)),
        judge_kind=judge_kind,
        cost=cost,
    )


def _some(ids: Ids | None, problems: int) -> Ids:
    """The ids where they are some of the benchmark's problems, not all."""
    return ids if ids and len(ids) < problems else ()


def rounded(usage: Usage) -> Usage:
    """As it is written: a thousandth of a token is enough."""
    return Usage(**{key: round(value, 3) for key, value in dataclasses.asdict(usage).items()})


def _oracle_accuracy(outcomes: Sequence[Outcome]) -> float | None:
    shares = [outcome.oracle for outcome in outcomes if outcome.oracle is not None]
    return float(np.mean(shares)) if shares else None


def _control(outcomes: Sequence[Outcome], others: Sequence[Outcome]) -> Control:
    mean, low, high = paired_difference([o.accuracy for o in outcomes], [o.accuracy for o in others])
    return Control(
        accuracy=float(np.mean([outcome.accuracy for outcome in others])),
        generated=round(sum(outcome.usage.generated for outcome in others), 3),
        difference=mean,
        ci95=(low, high),
    )


def make_differences(
    results: Sequence[Result], base: str, judge_kinds: Mapping[tuple[str, str], str], benchmark: str, n: int
) -> list[Difference]:
    """Every method of ours, by each judge but the one at chance, against the base model's consensus, its controls,
    and the rivals on its own model, paired by problem. `judge_kinds`: (model, judge) → kind."""
    consensus = [result for result in results if (result.model, result.method) == (base, "consensus")]
    differences = []
    for pruned in results:
        if not method_of(pruned.method).is_ours or _is_at_chance(pruned, judge_kinds):
            continue
        others = [(RowName(base, "consensus", None), result.outcomes) for result in consensus]
        others += [
            (RowName(pruned.model, name, pruned.judge), outcomes) for name, outcomes in pruned.controls.items()
        ]
        others += [
            (RowName(rival.model, rival.method, None), rival.outcomes)
            for rival in results
            if rival.model == pruned.model and method_of(rival.method).is_rival
        ]
        differences += [_difference(pruned, name, outcomes, benchmark, n) for name, outcomes in others]
    return differences


def _is_at_chance(result: Result, judge_kinds: Mapping[tuple[str, str], str]) -> bool:
    return result.judge is not None and JUDGE_KINDS[judge_kinds[result.model, result.judge]].is_chance


def _difference(a: Result, b: RowName, outcomes: Sequence[Outcome], benchmark: str, n: int) -> Difference:
    mean, low, high = paired_difference([o.accuracy for o in a.outcomes], [o.accuracy for o in outcomes])
    of_model = f" of {b.model}" if b.model != a.model else ""
    judge = "" if a.judge is None else f" ({judge_label(a.judge)})"
    return Difference(
        label=f"{a.model}: {method_label(a.method)}{judge} − {method_label(b.method)}{of_model}",
        a=RowName(a.model, a.method, a.judge),
        b=b,
        difference=mean,
        ci95=(low, high),
        benchmark=benchmark,
        n=n,
    )
