"""Methods that ask a scorer how probably each trace ends right (secateur/deepprune/scorer.py), replayed on stored
traces: votes weighted by it, STOP's best at the cut, the best first, STEP's worst under memory pressure.

What the scorer's head made of every trace is stored when traces are judged (work.py); what depends on a trace's
siblings is computed here, for they are others in every block of n.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from eval.table.answers import check_share
from eval.table.method import (
    Method,
    Outcome,
    Parameters,
    ReplayKeys,
    ReplayModel,
    ReplayProblem,
    Result,
    TraceReadings,
    Voters,
    average,
)
from eval.table.votes import EQUAL_TOKENS, controls_of, full_cost
from secateur.deepprune.best_first import BEST_UNTIL_AHEAD, ScoreRule, best_of_cuts, peak_tokens, worst_dropped
from secateur.deepprune.replay import replay_scored
from secateur.deepprune.scorer import CUT, END, Scorer, every_of, read_scorer
from secateur.deepprune.vote import majority
from secateur.engines.accounting import Usage
from secateur.runtime.errors import InputError


@dataclass(kw_only=True)
class ScorerKeys(ReplayKeys):
    """scorers: model → folder of its scorer (trainers/scorer.py), for score_vote, stop_best, score_order, step_worst.
    scorer_without_signal: run them although the scorer is no better than chance by its own measure, to show that it
      adds nothing; otherwise it is refused.
    stop_keep: "stop_best" lets so many traces go on from their cuts, the best.
    step_memory: "step_worst" has room for this share (0-1) of the tokens that all n traces hold at their peak.
    """

    scorers: dict[str, str] = field(default_factory=dict)
    scorer_without_signal: bool = False
    stop_keep: int = 8
    step_memory: float = 0.5


def score_vote(problem: ReplayProblem, readings: Sequence[TraceReadings], scorer: Scorer) -> Outcome:
    """All n traces; each vote weighs the probability that it is right, read at the trace's end."""
    weights = scorer.probabilities(END, [one.end for one in readings])
    key = majority(problem.keys, weights.tolist())
    usage = full_cost(problem.traces) + _head_work(scorer, END, [trace.n_tokens for trace in problem.traces])
    return average(problem, [Voters(list(range(len(problem.traces))), key, usage)])


def best_first(problem: ReplayProblem, readings: Sequence[TraceReadings], scorer: Scorer, rule: ScoreRule) -> Outcome:
    """All n traces to their cuts, then the best go on as the rule says."""
    lengths, cuts = ([getattr(trace, name) for trace in problem.traces] for name in ("n_tokens", "cut_tokens"))
    scores = scorer.probabilities(CUT, [one.cut for one in readings]).tolist()
    found = replay_scored(lengths, cuts, problem.keys, scores, rule)
    work = _head_work(scorer, CUT, [one.cut.tokens for one in readings])
    return average(problem, [Voters(found.decision.survivors, found.key, found.usage + work)])


def step_worst(
    problem: ReplayProblem, readings: Sequence[TraceReadings], scorer: Scorer, point: str, share: float
) -> Outcome:
    """All n traces in memory for `share` of their peak; the votes of those that stay weigh their scores."""
    lengths, every = [trace.n_tokens for trace in problem.traces], every_of(point)
    memory = max(1, round(share * peak_tokens(lengths)))
    kept, scores = worst_dropped(lengths, [one.every for one in readings], every, memory)
    voters = [trace for trace, tokens in enumerate(kept) if tokens == lengths[trace]]
    known = [scores[trace] for trace in voters if scores[trace] is not None]
    usual = fmean(known) if known else 1.0  # a trace that was never read weighs what the others do on average
    weights = [usual if scores[trace] is None else scores[trace] for trace in voters]
    usage = Usage(generated=sum(kept), longest_path=max(kept)) + _head_work(
        scorer, point, [place for tokens in kept for place in range(every, tokens + 1, every)]
    )
    key = majority([problem.traces[trace].key for trace in voters], weights)
    return average(problem, [Voters(voters, key, usage)])


def _head_work(scorer: Scorer, point: str, places: Sequence[int]) -> Usage:
    """What the head computes for readings at these places [tokens]; the states exist already."""
    return Usage(judge_head=sum(scorer.macs(point, place) for place in places))


Measure = Callable[[ReplayProblem, Sequence[TraceReadings], Scorer, ScorerKeys], Outcome]
"""A problem, what is known of its traces, the model's scorer, and the config → what the method comes to."""


def _vote(problem: ReplayProblem, readings: Sequence[TraceReadings], scorer: Scorer, keys: ScorerKeys) -> Outcome:
    return score_vote(problem, readings, scorer)


def _stop(problem: ReplayProblem, readings: Sequence[TraceReadings], scorer: Scorer, keys: ScorerKeys) -> Outcome:
    return best_first(problem, readings, scorer, best_of_cuts(keys.stop_keep))


def _order(problem: ReplayProblem, readings: Sequence[TraceReadings], scorer: Scorer, keys: ScorerKeys) -> Outcome:
    return best_first(problem, readings, scorer, BEST_UNTIL_AHEAD)


def _step(problem: ReplayProblem, readings: Sequence[TraceReadings], scorer: Scorer, keys: ScorerKeys) -> Outcome:
    return step_worst(problem, readings, scorer, scorer.record.running_point, keys.step_memory)


def _method(name: str, label: str, mark: str, measure: Measure, point: str | None, **kind: bool) -> Method:
    """`point` is what the scorer must have been trained for; None: any that comes every so many tokens."""

    def run(model: ReplayModel, keys: ScorerKeys) -> list[Result]:
        parameters = Parameters(model.parameters)
        pairs = zip(model.plain, model.readings, strict=True)
        outcomes = [measure(problem, readings, model.scorer, keys) for problem, readings in pairs]
        controls = controls_of(model.plain, outcomes, parameters, keys, (EQUAL_TOKENS,))
        return [Result(model.name, name, None, parameters, outcomes, controls=controls)]

    def check(keys: ScorerKeys) -> None:
        if name in keys.methods:
            _check_scorers(keys, point)

    return Method(name, label, mark, run, ScorerKeys, check=check, reads_scorer=True, **kind)


def _check_scorers(keys: ScorerKeys, point: str | None) -> None:
    """Raises `InputError` for impossible options, and for a scorer without that point or without a signal there."""
    if keys.stop_keep < 1:
        raise InputError(f"key 'stop_keep' has the value {keys.stop_keep}; it must be at least 1")
    check_share("step_memory", keys.step_memory)
    for folder in keys.scorers.values():
        record = read_scorer(folder)
        record.require(folder, point or record.running_point or "every 64", keys.scorer_without_signal)


SCORE_VOTE = _method(
    "score_vote",
    "score-weighted vote",
    "M-7-4H7L4 6H-4Z",
    _vote,
    END,
    is_ours=True,
    about="every trace votes, and weighs as much as it is probably right",
)
STOP_BEST = _method(
    "stop_best",
    "best at the cut (STOP)",
    "M-6-6H6V6H2V-2H-2V6H-6Z",
    _stop,
    CUT,
    is_rival=True,
    about="finishes the traces that look best at their cut",
)
SCORE_ORDER = _method(
    "score_order",
    "best first, until ahead",
    "M-7-2H1V-6L7 0 1 6V2H-7Z",
    _order,
    CUT,
    is_ours=True,
    about="finishes those that look best first, until one answer is ahead",
)
STEP_WORST = _method(
    "step_worst",
    "worst dropped (STEP)",
    "M-6-6H6V-2H2V6H-2V-2H-6Z",
    _step,
    None,
    is_rival=True,
    about="drops the worst running trace when memory is short",
)
