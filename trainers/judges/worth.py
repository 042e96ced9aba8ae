"""What a judge is worth: how many votes a judged cut may have, and what the judged rule adds to `ahead`, on the
development problems, where the weight is chosen as well. It says so in words.

A judge is not asked (weight 0) where it puts pairs together no better than chance within their problems, and where
the judged rule, replayed, answers worse than `ahead` or saves nothing over it once the judge's own work is paid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.deepprune.evidence import EVIDENCE_RULE
from secateur.deepprune.judges import metrics
from secateur.deepprune.judges.base import Judge, VectorJudge
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.deepprune.judges.record import AddsOverAhead, Estimate, WithinProblems, Worth
from secateur.deepprune.replay import replay, replay_answers
from secateur.deepprune.rule import ClusterRule
from secateur.engines.accounting import JudgeUsage, Usage, net_cost
from secateur.runtime.statistics import paired_difference, ratio_with_interval
from trainers.judges.config import JudgeConfig
from trainers.judges.trainee import score_shards

ORDERS = 16
"""Of the traces of each development problem, over which the rules are averaged."""


MOST_LOST = 0.005
"""Accuracy (fraction 0-1) that the judged rule may lose against `ahead` on the development problems."""


@dataclass(frozen=True, eq=False)
class ScoredProblem:
    """A development problem with the judge's scores [n, n] of its cuts, and what they cost."""

    problem: LabelledProblem
    scores: np.ndarray
    cost: JudgeUsage


@dataclass(frozen=True)
class Spent:
    """A rule on one problem, means over orders: accuracy (0-1) and all that was spent [multiply-accumulates]."""

    accuracy: float
    cost: float


def measure_worth(judge: Judge, within: WithinProblems, data: JudgeData, config: JudgeConfig) -> Worth:
    """Of a judge that is calibrated; `within` are its figures on the test problems."""
    scored = _score(judge, _whole_problems(config, data.dev))
    parameters = _generator_parameters(config)
    kappa = _kappa(scored)
    added = None
    if kappa.ci95[0] > 0:
        added = _adds(scored, min(1.0, kappa.value), judge.parameters, parameters)
    pays = added is not None and added.saving.ci95[0] > 0 and added.accuracy.value >= -MOST_LOST
    weight = min(1.0, kappa.value) if pays else 0.0
    return Worth(
        weight=weight,
        kappa=kappa,
        adds_over_ahead=added,
        oracle=_adds([_all_knowing(one) for one in scored], 1.0, 0, parameters),
        verdict=verdict(weight, added, within),
    )


def verdict(weight: float, added: AddsOverAhead | None, within: WithinProblems) -> str:
    """The worth of a judge in a sentence. Whether it is at chance is found on the development problems."""
    auroc = "" if within.value is None else f" (AUROC within problems {within.value:.2f})"
    if added is None:
        tested = "" if within.value is None else f" (AUROC within problems {within.value:.2f} on the test problems)"
        return f"no better than chance within the development problems{tested}: running without it"
    points = f"{100 * added.accuracy.value:+.1f} points ({_points(added.accuracy)})"
    saves = f"{100 * added.saving.value:+.0f} % of what ahead spends ({_points(added.saving)}) at {points}"
    if not weight:
        return f"knows something within problems{auroc}, but it does not pay: saves {saves}; running without it"
    return (
        f"a judged cut counts {weight:.2f} of a vote{auroc}: saves {saves} on {added.problems} development problems"
    )


def _points(estimate: Estimate) -> str:
    low, high = (f"{100 * bound:+.1f}" for bound in estimate.ci95)
    return f"{low} … {high}"


def _whole_problems(config: JudgeConfig, problems: Sequence[LabelledProblem]) -> Sequence[LabelledProblem]:
    """Problems with all pairs of their traces, for a judge that reads every pair about as many as `dev_pairs`."""
    problems = [problem for problem in problems if len(problem.cuts) > 1]
    if config.judge_kind.compares != "pairs":
        return problems
    pairs = np.cumsum([len(problem.cuts) * (len(problem.cuts) - 1) // 2 for problem in problems])
    return problems[: max(1, int(np.searchsorted(pairs, config.dev_pairs, side="right")))]


def _score(judge: Judge, problems: Sequence[LabelledProblem]) -> list[ScoredProblem]:
    def score(problem: LabelledProblem) -> ScoredProblem:
        scores = judge.score(problem.cuts)
        everything, cuts = judge.usage, (Usage(),) * len(problem.cuts)
        if isinstance(judge, VectorJudge):
            cuts = tuple(judge.read(cut)[1] for cut in problem.cuts)
        return ScoredProblem(problem, scores, JudgeUsage(everything, cuts))

    return score_shards(problems, score)


def _generator_parameters(config: JudgeConfig) -> int | None:
    """None where the model that the traces are of is not named, or not at hand."""
    from transformers import AutoConfig

    from secateur.engines.model_files import count_parameters

    name = config.model if config.judge_kind.reads_states else config.generator
    return count_parameters(AutoConfig.from_pretrained(name)) if name and Path(name).is_dir() else None


def _kappa(scored: Sequence[ScoredProblem]) -> Estimate:
    """Over the pairs of unfinished cuts, since only those vote."""
    labels, scores, owners = [], [], []
    for number, one in enumerate(scored):
        pairs = one.problem.pairs
        chosen = pairs.unfinished
        labels.append(pairs.labels[chosen])
        scores.append(one.scores[pairs.first[chosen], pairs.second[chosen]])
        owners.append(np.full(int(chosen.sum()), number))
    columns = (np.concatenate(column) for column in (labels, scores, owners))
    return metrics.kappa(*columns, threshold=ClusterRule().tau)


def _adds(
    scored: Sequence[ScoredProblem], weight: float, judge_parameters: int, parameters: int | None
) -> AddsOverAhead:
    """Without `parameters` of the generator a token that the judge reads counts like one that is generated."""
    generator = parameters or judge_parameters or 1
    ahead = [_ahead(one.problem, generator) for one in scored]
    judged = [_judged(one, weight, generator, judge_parameters) for one in scored]
    saving, accuracy = _less(judged, ahead)
    return AddsOverAhead(
        saving=saving, accuracy=accuracy, problems=len(scored), n=max(len(one.problem.cuts) for one in scored)
    )


def _less(rule: Sequence[Spent], ahead: Sequence[Spent]) -> tuple[Estimate, Estimate]:
    """What a rule saves of what `ahead` spends (share), and its accuracy less that of `ahead`."""
    costs = [one.cost for one in ahead]
    saving = ratio_with_interval([b - a.cost for a, b in zip(rule, costs, strict=True)], costs)
    accuracy = paired_difference([one.accuracy for one in rule], [one.accuracy for one in ahead])
    return Estimate(saving[0], saving[1:]), Estimate(accuracy[0], accuracy[1:])


def _all_knowing(one: ScoredProblem) -> ScoredProblem:
    """As a judge for nothing that knows the answers scores it; a trace without one resembles nobody."""
    keys = np.array([-1 - place if key is None else key for place, key in enumerate(one.problem.keys)])
    return ScoredProblem(one.problem, (keys[:, None] == keys[None, :]).astype(float), JudgeUsage())


def _orders(problem: LabelledProblem) -> list[np.ndarray]:
    rng = np.random.default_rng([*problem.id.encode()])
    return [rng.permutation(len(problem.cuts)) for _ in range(ORDERS)]


def _ahead(problem: LabelledProblem, generator: int) -> Spent:
    runs = []
    for order in _orders(problem):
        lengths, keys = ([values[place] for place in order] for values in (problem.lengths, problem.keys))
        runs.append(replay_answers(lengths, keys, EVIDENCE_RULE.answers))
    return _mean(problem, [(run.key, net_cost(run.usage, generator, 0)) for run in runs])


def _judged(one: ScoredProblem, weight: float, generator: int, judge_parameters: int) -> Spent:
    problem, rule = one.problem, EVIDENCE_RULE.weighed(weight)
    runs = []
    for order in _orders(problem):
        lengths, keys = ([values[place] for place in order] for values in (problem.lengths, problem.keys))
        cuts = [None if problem.whole[place] else len(problem.cuts[place].token_ids) for place in order]
        own = one.scores[np.ix_(order, order)]
        runs.append(replay(lengths, cuts, keys, own, rule, 0, one.cost.reordered(order)))
    return _mean(problem, [(run.key, net_cost(run.usage, generator, judge_parameters)) for run in runs])


def _mean(problem: LabelledProblem, runs: Sequence[tuple[int | None, float]]) -> Spent:
    right = float(np.mean([key in problem.right for key, _ in runs]))
    return Spent(right, float(np.mean([cost for _, cost in runs])))
