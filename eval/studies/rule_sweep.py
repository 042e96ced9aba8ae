"""A rule sweep: which rules are tried on the stored traces and scores of a combined run, what each scores and costs,
and where its cells are kept. No model runs."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.table.assemble import ModelTraces
from eval.table.config import CombinedConfig
from eval.table.method import Outcome, Parameters, ReplayProblem, rng_for
from eval.table.pruning import changed_rule, deepprune, flat_rule, prune_in_orders
from eval.table.votes import EQUAL_TOKENS, consensus, consensus_equal_tokens, vote_of_some
from secateur.deepprune.clustering import cluster_traces
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import net_cost
from secateur.results import TABLE_FILE, read_table
from secateur.runtime.config import check_types
from secateur.runtime.console import progress
from secateur.runtime.errors import InputError
from secateur.runtime.files import (
    JSON,
    append_jsonl,
    has_content,
    read_json,
    read_jsonl,
    repair_torn_tail,
    write_json,
)
from secateur.runtime.process import current_ranks
from secateur.runtime.records import as_json, read_record, record_of, write_record
from secateur.runtime.statistics import Bounds, mean_with_interval, paired_difference
from secateur.tasks.sources import load_problems

SWEEP, FIXED = "key 'sweep'", "key 'fixed'"
SWEEP_FILE = "sweep.json"
_CELLS = "cells-rank*.jsonl"
_FORMAT = 1
Values = Mapping[str, Sequence[JSON]]
"""Field of the rule → values to try."""
FlatRule = Mapping[str, JSON]


@dataclass(frozen=True)
class StoredRun:
    """The part of a combined run that is swept: the problems of one model as one judge scored them, n traces each.
    `rule` is the default that others are compared with; `fingerprint` tells the run's results from others."""

    model: str
    judge: str
    problems: list[ReplayProblem]
    parameters: Parameters
    rule: PruneRule
    orders: int
    draws: int
    n: int
    fingerprint: str


def load_run(
    folder: str,
    *,
    model: str | None = None,
    judge: str | None = None,
    fixed: FlatRule | None = None,
    orders: int | None = None,
    draws: int | None = None,
) -> StoredRun:
    """Traces, scores and settings of the run in `folder`; by default its base model, its first judge, and its rule,
    orders and draws. `fixed`: values of the rule that are other than the run's. Raises `InputError` if the run is
    unfinished, or lacks the model or judge."""
    run = _config_of(folder)
    model = model or run.base
    if model not in run.models:
        raise InputError(f"key 'model' has the value '{model}'; the run has {', '.join(run.models)}")
    found = ModelTraces(run, model, load_problems(run.problems, run.problem_count, run.seed)).replay_model()
    judge = judge or found.pruned_by[0]
    if judge not in found.judged:
        raise InputError(f"key 'judge' has the value '{judge}'; the run's judges are {', '.join(found.judged)}")
    return StoredRun(
        model=model,
        judge=judge,
        problems=found.judged[judge],
        parameters=Parameters(found.parameters, found.judge_parameters[judge]),
        rule=changed_rule(run.rule, fixed or {}, FIXED),
        orders=orders or run.orders,
        draws=draws or run.draws,
        n=run.largest_n,
        fingerprint=hashlib.sha256((Path(folder) / TABLE_FILE).read_bytes()).hexdigest()[:16],
    )


def _config_of(folder: str) -> CombinedConfig:
    path = Path(folder) / TABLE_FILE
    if not path.is_file():
        raise InputError(f"key 'run' has the value '{folder}': no combined.json there; finish eval/combined.py first")
    stored = check_types(CombinedConfig, dict(read_table(path).config), str(path))
    if isinstance(stored["problems"], dict):
        folders = ", ".join(str(Path(folder) / name) for name in stored["problems"])
        raise InputError(
            f"key 'run' has the value '{folder}', a run on named benchmarks; give the folder of one: {folders}"
        )
    run = CombinedConfig(**stored | {"output_dir": folder})
    if not run.prunes:
        raise InputError(f"{path}: 'deepprune' was not among its methods, so there are no scores to replay")
    return run


def rules_to_try(rule: PruneRule, sweep: Values, grid: bool) -> list[PruneRule]:
    """`rule` itself, then every combination (`grid`) or one key at a time; each rule once."""
    if grid:
        chosen = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    else:
        chosen = [{key: value} for key, values in sweep.items() for value in values]
    return list(dict.fromkeys([rule, *(changed_rule(rule, values, SWEEP) for values in chosen)]))


@dataclass(frozen=True)
class FullConsensus:
    """What every cell is compared with: the consensus of all n traces of the same model. `accuracies` problem by
    problem (0-1), `tokens` generated per problem, a mean."""

    accuracies: list[float]
    tokens: float

    @property
    def accuracy(self) -> float:
        return sum(self.accuracies) / len(self.accuracies)


def full_consensus(problems: Sequence[ReplayProblem]) -> FullConsensus:
    outcomes = [consensus(problem) for problem in problems]
    return FullConsensus([o.accuracy for o in outcomes], _mean([o.usage.generated for o in outcomes]))


@dataclass(frozen=True)
class CurvePoint:
    """The vote of `count` full traces: tokens per problem and accuracy (0-1)."""

    count: int
    tokens: float
    accuracy: float


def consensus_curve(problems: Sequence[ReplayProblem], draws: int) -> tuple[CurvePoint, ...]:
    """Votes of fewer full traces, by powers of two up to n."""
    n = len(problems[0].traces)
    counts = [*itertools.takewhile(lambda count: count < n, (2**power for power in range(n))), n]
    return tuple(_curve_point(problems, count, draws) for count in counts)


def _curve_point(problems: Sequence[ReplayProblem], count: int, draws: int) -> CurvePoint:
    outcomes = [vote_of_some(problem, count, draws, rng_for(problem, EQUAL_TOKENS)) for problem in problems]
    tokens, accuracy = _mean([o.usage.generated for o in outcomes]), _mean([o.accuracy for o in outcomes])
    return CurvePoint(count, tokens, accuracy)


@dataclass(frozen=True)
class PairedDifference:
    """Of accuracies (0-1), paired by problem."""

    difference: float
    ci95: Bounds


@dataclass(frozen=True)
class RuleCell:
    """One rule on all problems.

    Tokens are means per problem; `net_tokens` counts everything, the judge's work as tokens of the generator. Savings
    are fractions of what `FullConsensus` spends, which `to_consensus` is the difference to; `equal_tokens_accuracy`
    is that of consensus over the fewer full traces that the net tokens would buy. `compared_pairs` are those that the
    clustering looks at, a mean; the judge's cost is that of the run, which scored all pairs. `accuracies` problem by
    problem, for differences between cells.
    """

    rule: FlatRule
    accuracy: float
    accuracy_ci95: Bounds
    finished: float
    generated: float
    net_tokens: float
    longest_path: float
    saving_gross: float
    saving_net: float
    compared_pairs: float
    to_consensus: PairedDifference
    equal_tokens_accuracy: float
    to_equal_tokens: PairedDifference
    accuracies: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RuleSweepRow(RuleCell):
    """A cell beside the others: `pareto`: no other one is as accurate and as cheap, and better in one of the two;
    `to_default`: its accuracy minus that of the first one."""

    pareto: bool
    to_default: PairedDifference


@dataclass(frozen=True)
class ConsensusFigures:
    """Accuracy (0-1) and tokens per problem."""

    accuracy: float
    tokens: float


@dataclass(frozen=True)
class RuleSweep:
    """All of sweep.json: the default rule's row first; `fewer_full_traces` what fewer traces without any pruning
    come to; `config` as the user gave it."""

    rows: tuple[RuleSweepRow, ...]
    model: str
    judge: str
    n: int
    problems: int
    consensus: ConsensusFigures
    fewer_full_traces: tuple[CurvePoint, ...]
    default: FlatRule
    orders: int
    draws: int
    config: Mapping[str, JSON]
    parameters: Parameters


def write_rule_sweep(folder: str | Path, sweep: RuleSweep) -> None:
    """Replace `<folder>/sweep.json`."""
    write_record(Path(folder) / SWEEP_FILE, sweep, _FORMAT)


def read_rule_sweep(folder: str | Path) -> RuleSweep:
    """Raises `InputError` for a folder without sweep.json, or with one of another format."""
    return read_record(Path(folder) / SWEEP_FILE, RuleSweep, _FORMAT, "start eval/rule_sweep.py again")


def measure(run: StoredRun, rule: PruneRule, full: FullConsensus) -> RuleCell:
    """One rule on the run's traces."""
    problems, parameters = run.problems, run.parameters
    pruned = [deepprune(problem, prune_in_orders(problem, rule, run.orders)) for problem in problems]
    equal = [
        consensus_equal_tokens(problem, outcome, parameters, run.draws).accuracy
        for problem, outcome in zip(problems, pruned, strict=True)
    ]
    net = _mean([net_cost(o.usage, parameters.generator, parameters.judge) / parameters.generator for o in pruned])
    return _cell(rule, pruned, equal, net, _mean([_compared_pairs(problem, rule) for problem in problems]), full)


def _cell(
    rule: PruneRule, pruned: Sequence[Outcome], equal: Sequence[float], net: float, pairs: float, full: FullConsensus
) -> RuleCell:
    generated = _mean([outcome.usage.generated for outcome in pruned])
    accuracies = [outcome.accuracy for outcome in pruned]
    accuracy, low, high = mean_with_interval(accuracies)
    return RuleCell(
        rule=flat_rule(rule),
        accuracy=accuracy,
        accuracy_ci95=(low, high),
        finished=_mean([outcome.finished for outcome in pruned]),
        generated=generated,
        net_tokens=net,
        longest_path=_mean([outcome.usage.longest_path for outcome in pruned]),
        saving_gross=1 - generated / full.tokens,
        saving_net=1 - net / full.tokens,
        compared_pairs=pairs,
        to_consensus=_difference(accuracies, full.accuracies),
        equal_tokens_accuracy=_mean(equal),
        to_equal_tokens=_difference(accuracies, equal),
        accuracies=tuple(round(value, 6) for value in accuracies),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    mean, low, high = paired_difference(a, b)
    return PairedDifference(mean, (low, high))


def _compared_pairs(problem: ReplayProblem, rule: PruneRule) -> int:
    """Pairs that the clustering compares in the stored order; none where the judge failed."""
    if not np.isfinite(problem.scores).all():
        return 0
    return cluster_traces(problem.scores, rule.cluster, problem.decision_seed).comparisons


def beside_each_other(cells: Sequence[RuleCell]) -> tuple[RuleSweepRow, ...]:
    """The first one is the default."""
    return tuple(
        RuleSweepRow(
            **vars(cell),
            pareto=not any(_dominates(other, cell) for other in cells),
            to_default=_difference(cell.accuracies, cells[0].accuracies),
        )
        for cell in cells
    )


def _dominates(a: RuleCell, b: RuleCell) -> bool:
    better = a.accuracy > b.accuracy or a.net_tokens < b.net_tokens
    return better and a.accuracy >= b.accuracy and a.net_tokens <= b.net_tokens


class StoredCells:
    """The cells on disk: `cells-rank<r>.jsonl`, one line each, and the settings they belong to. Raises `InputError`
    for a folder with cells of other settings."""

    def __init__(self, folder: Path, run: StoredRun) -> None:
        self.folder, self.run, self.settings = folder, run, _settings(run)
        path = folder / "settings.json"
        stored = read_json(path) if path.is_file() and has_content(folder, _CELLS) else self.settings
        for key, wanted in self.settings.items():
            if stored.get(key) != wanted:
                raise InputError(
                    f"{folder}: its cells have {key} = {stored.get(key)!r}, this sweep has {wanted!r}; "
                    "give another 'output_dir', or delete the folder"
                )

    def read(self) -> dict[str, RuleCell]:
        """By `rule_key`."""
        lines = [
            (f"{path}, line {number}", line)
            for path in sorted(self.folder.glob(_CELLS))
            for number, line in read_jsonl(path)
        ]
        return {rule_key(line["rule"]): record_of(RuleCell, line, where) for where, line in lines}

    def compute(self, rules: Sequence[PruneRule]) -> None:
        """This process's share of the cells that are missing."""
        path = self.folder / f"cells-rank{current_ranks().rank}.jsonl"
        repair_torn_tail(path)
        if current_ranks().is_main:
            write_json(self.folder / "settings.json", self.settings)
        done = self.read()
        todo = [rule for rule in current_ranks().shard(rules) if rule_key(flat_rule(rule)) not in done]
        if not todo:
            return
        full = full_consensus(self.run.problems)
        with progress(f"rules{current_ranks().note}", len(todo)) as shown:
            for rule in todo:
                cell = measure(self.run, rule, full)
                append_jsonl(path, [as_json(cell)])
                shown.advance(note=f"accuracy {cell.accuracy:.3f} · net saving {cell.saving_net:.1%}")


def rule_key(rule: FlatRule) -> str:
    """The same for the same values."""
    return json.dumps(rule, sort_keys=True)


def _settings(run: StoredRun) -> dict[str, JSON]:
    """What stored cells must have been computed with."""
    about = {"model": run.model, "judge": run.judge, "orders": run.orders, "draws": run.draws}
    return {"run": run.fingerprint} | about


def gather(run: StoredRun, rules: Sequence[PruneRule], stored: StoredCells, config: Mapping[str, JSON]) -> RuleSweep:
    """All cells of the sweep, which must be done."""
    found, full = stored.read(), full_consensus(run.problems)
    return RuleSweep(
        rows=beside_each_other([found[rule_key(flat_rule(rule))] for rule in rules]),
        model=run.model,
        judge=run.judge,
        n=run.n,
        problems=len(run.problems),
        consensus=ConsensusFigures(full.accuracy, full.tokens),
        fewer_full_traces=consensus_curve(run.problems, run.draws),
        default=flat_rule(run.rule),
        orders=run.orders,
        draws=run.draws,
        config=config,
        parameters=run.parameters,
    )
