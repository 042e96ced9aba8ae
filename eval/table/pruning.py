"""Methods that ask a judge, replayed on stored traces and scores, and the controls that tell what a choice is worth.

`evidence` lets finished answers and judged cuts vote together, a cut with the weight that its judge has earned.
`deepprune` follows the rule keys of the config, `deepprune_<name>` each of its `variants`: a `PruneRule` written as
flat keys. With each judge it is compared with as many random traces, and with the consensus of the fewer full traces
that the same tokens would buy.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import numpy as np

from eval.table.answers import answer_once
from eval.table.method import (
    Method,
    Outcome,
    Parameters,
    Pruned,
    ReplayKeys,
    ReplayModel,
    ReplayProblem,
    Result,
    average,
    mean_usage,
    oracle_share,
    rng_for,
    trace_orders,
)
from eval.table.votes import EQUAL_TOKENS, RANDOM_TRACES, controls_of, vote_of_some
from secateur.deepprune.answers import AnswerRule
from secateur.deepprune.evidence import EVIDENCE_RULE, EvidenceRule
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.deepprune.replay import replay
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import Usage
from secateur.runtime.config import check_types, reject_unknown
from secateur.runtime.files import JSON

PUBLISHED = "deepprune"
"""The method that follows the rule keys of a config; named variants of it are called `deepprune_<name>`."""


def method_name(variant: str) -> str:
    return f"{PUBLISHED}_{variant}"


def rule_keys() -> dict[str, str | None]:
    """Every value that makes up a `PruneRule`, and the part of it that has the value; None for its own."""
    rule, keys = PruneRule(), {}
    for part in dataclasses.fields(rule):
        inner = getattr(rule, part.name)
        if dataclasses.is_dataclass(inner):
            keys |= {field.name: part.name for field in dataclasses.fields(inner)}
        else:
            keys[part.name] = None
    return keys


def rule_fields() -> "list[tuple[str, type, dataclasses.Field]]":
    """The same values as fields of a config: (name, type, default)."""
    rule, fields = PruneRule(), []
    for key, name in rule_keys().items():
        part = rule if name is None else getattr(rule, name)
        fields.append((key, get_type_hints(type(part))[key], dataclasses.field(default=getattr(part, key))))
    return fields


RuleKeys = dataclasses.make_dataclass("RuleKeys", rule_fields(), kw_only=True)
"""The values of a rule as keys of a config; what they mean is said in secateur/deepprune/rule.py."""


def changed_rule(rule: PruneRule, values: Mapping[str, JSON], source: str) -> PruneRule:
    """`rule` with other values. Raises `InputError`, naming `source` and the key, for an unknown key, a wrong type or
    an impossible value."""
    keys = rule_keys()
    reject_unknown(list(values), list(keys), source)
    changes: dict[str, object] = {}
    for name in {keys[key] for key in values}:
        part = rule if name is None else getattr(rule, name)
        mine = check_types(type(part), {key: v for key, v in values.items() if keys[key] == name}, source)
        changes |= mine if name is None else {name: dataclasses.replace(part, **mine)}
    return dataclasses.replace(rule, **changes)


def flat_rule(rule: PruneRule) -> dict[str, JSON]:
    """All values of the rule in one mapping."""
    return {key: getattr(getattr(rule, part) if part else rule, key) for key, part in rule_keys().items()}


@dataclass(kw_only=True)
class PruningKeys(RuleKeys, ReplayKeys):
    """variants: name → values of those rules that differ, for a method `deepprune_<name>` beside deepprune; for
    example {adaptive: {start_batch: 8, lead: 3}}."""

    variants: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def prunes(self) -> bool:
        return PUBLISHED in self.methods

    @property
    def rule(self) -> PruneRule:
        return changed_rule(PruneRule(), {key: getattr(self, key) for key in rule_keys()}, "the config")

    @property
    def rules(self) -> dict[str, PruneRule]:
        """Method → rule: DeepPrune by the rule keys, then its variants."""
        if not self.prunes:
            return {}
        variants = {
            method_name(name): changed_rule(self.rule, values, f"key 'variants.{name}'")
            for name, values in self.variants.items()
        }
        return {PUBLISHED: self.rule, **variants}


def weighed_once(
    problem: ReplayProblem, rule: EvidenceRule | AnswerRule, order: Sequence[int] | None = None
) -> Pruned:
    """A judge's evidence on stored traces, or the answers alone where it has earned no weight."""
    return (answer_once if isinstance(rule, AnswerRule) else prune_once)(problem, rule, order)


def prune_once(problem: ReplayProblem, rule: PruneRule | EvidenceRule, order: Sequence[int] | None = None) -> Pruned:
    """A rule on stored traces, taken in `order`; by default as they are stored, which is what a live run does."""
    n = len(problem.traces)
    order = list(range(n)) if order is None else [int(place) for place in order]
    taken = [problem.traces[index] for index in order]
    replayed = replay(
        [trace.n_tokens for trace in taken],
        [trace.cut_tokens for trace in taken],
        [trace.key for trace in taken],
        problem.scores[np.ix_(order, order)],
        rule,
        problem.decision_seed,
        problem.judge_usage.reordered(order),
    )
    decision = replayed.decision
    labels, kept = [None] * n, [0] * n
    clusters = decision.clustering.labels(n) if decision.clustering else [None] * n
    for index, label, tokens in zip(order, clusters, replayed.kept_tokens, strict=True):
        labels[index], kept[index] = label, tokens
    survivors = sorted(order[place] for place in decision.survivors)
    return Pruned(survivors, labels, kept, replayed.key, replayed.usage, decision.judge_failure)


def prune_in_orders(problem: ReplayProblem, rule: PruneRule, orders: int) -> list[Pruned]:
    """A rule in `orders` orders of the traces."""
    return [prune_once(problem, rule, order) for order in trace_orders(problem, orders)]


def deepprune(problem: ReplayProblem, runs: Sequence[Pruned]) -> Outcome:
    """The mean over the orders in `runs`."""
    accuracy = float(np.mean([run.key in problem.right for run in runs]))
    finished = float(np.mean([len(run.survivors) for run in runs]))
    oracle = oracle_share(problem, [run.survivors for run in runs])
    return Outcome(accuracy, mean_usage([run.usage for run in runs]), finished, oracle)


def random_traces(problem: ReplayProblem, runs: Sequence[Pruned], draws: int) -> Outcome:
    """The vote of as many traces, drawn at random, as the rule finished: what its choice of traces is worth."""
    rng = rng_for(problem, RANDOM_TRACES)
    counts = Counter(len(run.survivors) for run in runs)
    outcomes = [vote_of_some(problem, count, draws, rng) for count in sorted(counts)]
    weights = [counts[count] / len(runs) for count in sorted(counts)]
    weighted = list(zip(weights, outcomes, strict=True))
    usage = Usage(
        generated=sum(w * outcome.usage.generated for w, outcome in weighted),
        longest_path=sum(w * outcome.usage.longest_path for w, outcome in weighted),
    )
    accuracy = sum(w * outcome.accuracy for w, outcome in weighted)
    return Outcome(accuracy, usage, sum(w * outcome.finished for w, outcome in weighted))


def _run(model: ReplayModel, keys: PruningKeys) -> list[Result]:
    """Every rule with every judge; the controls of the first rule with a judge are rows of their own."""
    results = []
    for judge in model.pruned_by:
        for method, rule in keys.rules.items():
            result = _pruned(model, judge, method, rule, keys)
            results.append(result)
            if method == PUBLISHED:
                free = Parameters(model.parameters)
                results += [Result(model.name, name, judge, free, found) for name, found in result.controls.items()]
    return results


def _pruned(model: ReplayModel, judge: str, method: str, rule: PruneRule, keys: PruningKeys) -> Result:
    problems = model.judged[judge]
    parameters = Parameters(model.parameters, model.judge_parameters[judge])
    runs = [prune_in_orders(problem, rule, keys.orders) for problem in problems]
    outcomes = [deepprune(problem, run) for problem, run in zip(problems, runs, strict=True)]
    controls: dict[str, list[Outcome]] = {}
    if not JUDGE_KINDS[model.judge_kinds[judge]].is_chance:
        if RANDOM_TRACES in keys.methods:
            controls[RANDOM_TRACES] = [
                random_traces(problem, run, keys.draws) for problem, run in zip(problems, runs, strict=True)
            ]
        controls |= controls_of(problems, outcomes, parameters, keys, (EQUAL_TOKENS,))
    return Result(model.name, method, judge, parameters, outcomes, controls=controls)


def _run_evidence(model: ReplayModel, keys: ReplayKeys) -> list[Result]:
    return [_evidence(model, judge, keys) for judge in model.pruned_by]


def _evidence(model: ReplayModel, judge: str, keys: ReplayKeys) -> Result:
    rule, problems = EVIDENCE_RULE.weighed(model.judge_weights.get(judge)), model.judged[judge]
    parameters = Parameters(model.parameters, model.judge_parameters[judge])
    outcomes = []
    for problem in problems:
        orders = trace_orders(problem, keys.orders)
        outcomes.append(average(problem, [weighed_once(problem, rule, order) for order in orders]))
    controls = controls_of(problems, outcomes, parameters, keys, (EQUAL_TOKENS,))
    return Result(model.name, EVIDENCE.name, judge, parameters, outcomes, controls=controls)


EVIDENCE = Method(
    "evidence",
    "judged evidence",
    "M0-7.5 7.5 0 0 7.5-7.5 0ZM0-3 3 0 0 3-3 0Z",
    _run_evidence,
    rules=lambda keys: {"evidence": EVIDENCE_RULE},
    about="finished answers and judged beginnings vote together; all stop once they are sure",
    prunes=True,
    is_ours=True,
)
DEEPPRUNE = Method(
    PUBLISHED,
    "DeepPrune",
    "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0Z",
    _run,
    PruningKeys,
    prunes=True,
    is_ours=True,
    about="a judge groups traces by their beginnings; of the largest group some run to their end and vote",
)
RANDOM_CONTROL = Method(
    RANDOM_TRACES,
    "as many random traces",
    "M-6.5-5h13L0 6.5Z",
    None,
    beside=(PUBLISHED,),
    is_bound=True,
    about="a vote of as many traces as DeepPrune finishes, taken at random: a control",
)
EQUAL_TOKENS_CONTROL = Method(
    EQUAL_TOKENS,
    "full traces, same tokens",
    "M-6.5 5h13L0-6.5Z",
    None,
    beside=(PUBLISHED, "ahead", "ahead_wait", "answers"),
    is_bound=True,
    about="a vote of the fewer whole traces that the same tokens would buy: a control",
)
