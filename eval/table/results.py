"""Every method of one model, replayed on all problems. Pure functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from eval.table import baselines, methods
from eval.table.baselines import Voters
from eval.table.config import CombinedConfig
from eval.table.deepconf import ConfidenceProfile, deepconf
from eval.table.methods import Prices, Pruned
from eval.table.problems import Outcome, ProblemRecord, blocks, mean_outcome, oracle_share, part, rng_for
from eval.table.rules import PUBLISHED
from secateur.deepprune.rule import PruneRule


@dataclass(frozen=True)
class ModelRecords:
    """One model: its problems without a judge, and once more for every judge, in the same order.

    `judge_kinds` and `judge_parameters` have the keys of `judged`; `deepprune_by` names those for DeepPrune,
    `similarity` the one for "embedding". `profiles` are the confidences of each problem's traces, empty where no
    method asks for them.
    """

    name: str
    parameters: int
    plain: list[ProblemRecord]
    judged: dict[str, list[ProblemRecord]]
    judge_parameters: dict[str, int]
    judge_kinds: dict[str, str] = field(default_factory=dict)
    deepprune_by: list[str] = field(default_factory=list)
    similarity: str | None = None
    profiles: list[list[ConfidenceProfile]] = field(default_factory=list)
    wall_s: float | None = None
    """Wall time of sampling all traces [s]; None where none were sampled."""
    prompt_tokens: float = 0.0
    """Mean length of a prompt [tokens]; 0 where no prices ask for it."""

    def part(self, chosen: np.ndarray) -> "ModelRecords":
        """As if only the `chosen` traces [m] of each problem had been sampled."""
        return replace(
            self,
            plain=[part(record, chosen) for record in self.plain],
            judged={judge: [part(record, chosen) for record in found] for judge, found in self.judged.items()},
            profiles=[[traces[place] for place in chosen] for traces in self.profiles],
            wall_s=None,
        )

    def blocks(self, n: int) -> list["ModelRecords"]:
        """The disjoint blocks of n traces: these records themselves where n is all of them."""
        stored = len(self.plain[0].traces)
        return [self] if n == stored else [self.part(chosen) for chosen in blocks(stored, n)]


@dataclass(frozen=True)
class Result:
    """One method of one model on all problems; `controls` are what it is held against, problem by problem."""

    model: str
    method: str
    judge: str | None
    prices: Prices
    outcomes: list[Outcome]
    wall_s: float | None = None
    controls: Mapping[str, list[Outcome]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Names the row within its table: model/method, and the judge where there is one."""
        return "/".join(part for part in (self.model, self.method, self.judge) if part)


def mean_result(found: Sequence[Result]) -> Result:
    """One method on several blocks of the same problems' traces: the mean, problem by problem."""
    controls = {name: _means([one.controls[name] for one in found]) for name in found[0].controls}
    return replace(found[0], outcomes=_means([one.outcomes for one in found]), controls=controls)


def _means(found: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    return [mean_outcome(outcomes) for outcomes in zip(*found, strict=True)]


def votes_of_all(found: Sequence[ModelRecords]) -> list[Outcome]:
    """What the vote of all traces of a block comes to, for every problem the mean over the blocks `found`."""
    return _means([[methods.consensus(record) for record in block.plain] for block in found])


def results_of_model(records: ModelRecords, config: CombinedConfig) -> tuple[list[Result], dict[str, list[Pruned]]]:
    """Every method of one model, and for each judge the runs in the stored order, one per problem."""
    results = [
        *_votes(records, config),
        *_sequential(records, config),
        *_confident(records, config),
        *_dissimilar(records, config),
    ]
    first_runs = {}
    for judge in records.deepprune_by:
        prices = Prices(records.parameters, records.judge_parameters[judge])
        for method, rule in config.rules.items():
            found, runs = _pruned(records, judge, prices, method, rule, config)
            results += found
            first_runs.setdefault(judge, runs)
    return results, first_runs


def _votes(records: ModelRecords, config: CombinedConfig) -> list[Result]:
    """The methods that choose no traces."""
    plain = {"single": methods.single, "consensus": methods.consensus, "oracle": methods.oracle}
    return [
        Result(
            records.name,
            name,
            None,
            Prices(records.parameters),
            [method(record) for record in records.plain],
            records.wall_s if name == "consensus" else None,
        )
        for name, method in plain.items()
        if name in config.methods
    ]


def _sequential(records: ModelRecords, config: CombinedConfig) -> list[Result]:
    """They vote over traces taken at random, so the control is the same number of tokens, not of traces."""
    runs: dict[str, Callable[[ProblemRecord], list[Voters]]] = {
        "adaptive_consistency": lambda r: baselines.adaptive_consistency(r, config.orders, config.adaptive_threshold),
        "early_stopping": lambda r: baselines.early_stopping(r, config.orders, config.early_window),
    }
    prices, results = Prices(records.parameters), []
    for name in (name for name in runs if name in config.methods):
        outcomes = _averages(records.plain, runs[name])
        controls = _controls(records.plain, outcomes, prices, config, ("consensus_equal_tokens",))
        results.append(Result(records.name, name, None, prices, outcomes, controls=controls))
    return results


def _confident(records: ModelRecords, config: CombinedConfig) -> list[Result]:
    prices, results = Prices(records.parameters), []
    for name, rule in config.deepconf_rules.items():
        outcomes = [
            baselines.average(record, deepconf(record, profiles, rule, config.orders))
            for record, profiles in zip(records.plain, records.profiles, strict=True)
        ]
        controls = _controls(records.plain, outcomes, prices, config)
        results.append(Result(records.name, name, None, prices, outcomes, controls=controls))
    return results


def _dissimilar(records: ModelRecords, config: CombinedConfig) -> list[Result]:
    judge = records.similarity
    if judge is None:
        return []
    problems, prices = records.judged[judge], Prices(records.parameters, records.judge_parameters[judge])
    outcomes = _averages(problems, lambda r: baselines.similar_dropped(r, config.orders, config.similarity_threshold))
    controls = _controls(problems, outcomes, prices, config)
    return [Result(records.name, "embedding", judge, prices, outcomes, controls=controls)]


def _pruned(
    records: ModelRecords, judge: str, prices: Prices, method: str, rule: PruneRule, config: CombinedConfig
) -> tuple[list[Result], list[Pruned]]:
    """DeepPrune with one judge by one rule; the first rule's controls of a trained judge are rows of their own."""
    problems, kind = records.judged[judge], records.judge_kinds[judge]
    runs = [methods.prune_in_orders(record, rule, config.orders) for record in problems]
    outcomes = [
        replace(methods.deepprune(record, run), oracle=oracle_share(record, [once.survivors for once in run]))
        for record, run in zip(problems, runs, strict=True)
    ]
    controls: dict[str, list[Outcome]] = {}
    if kind != "random":
        if "random_traces" in config.methods:
            controls["random_traces"] = [
                methods.random_traces(r, run, config.draws) for r, run in zip(problems, runs, strict=True)
            ]
        controls |= _controls(problems, outcomes, prices, config, ("consensus_equal_tokens",))
    results = [Result(records.name, method, judge, prices, outcomes, controls=controls)]
    if method == PUBLISHED:
        free = Prices(prices.generator)
        results += [Result(records.name, name, judge, free, control) for name, control in controls.items()]
    return results, [run[0] for run in runs]


def _averages(problems: Sequence[ProblemRecord], run: Callable[[ProblemRecord], list[Voters]]) -> list[Outcome]:
    return [baselines.average(record, run(record)) for record in problems]


def _controls(
    problems: Sequence[ProblemRecord],
    outcomes: Sequence[Outcome],
    prices: Prices,
    config: CombinedConfig,
    names: Sequence[str] = methods.COMPANIONS,
) -> dict[str, list[Outcome]]:
    """As many random traces as voted on average, and consensus over what the same net tokens buy; those of `names`
    that the config asks for."""
    found = {}
    if "random_traces" in names and "random_traces" in config.methods:
        found["random_traces"] = [
            methods.vote_of_some(record, outcome.finished, config.draws, rng_for(record, "random_traces"))
            for record, outcome in zip(problems, outcomes, strict=True)
        ]
    if "consensus_equal_tokens" in names and "consensus_equal_tokens" in config.methods:
        found["consensus_equal_tokens"] = [
            methods.consensus_equal_tokens(record, outcome, prices, config.draws)
            for record, outcome in zip(problems, outcomes, strict=True)
        ]
    return found
