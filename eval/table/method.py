"""What a method of the table is: a way of answering with n traces, replayed on the stored traces of a model.

A new one is a file with a `Method` and a line in registry.py. Its `run` gets a `ReplayModel`, which has the traces of
all problems, and the keys of the config; it returns one `Result` per row, which has an `Outcome` per problem. Pure
data, no torch.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from secateur.deepprune.answers import AnswerRule
from secateur.deepprune.cut import ended_before_cut
from secateur.deepprune.evidence import EvidenceRule
from secateur.deepprune.probing import ProbeRule
from secateur.deepprune.scorer import Observed, Scorer
from secateur.engines.accounting import NO_JUDGE, JudgeUsage, Usage

WithoutJudge = AnswerRule | ProbeRule


@dataclass(frozen=True)
class ReplayTrace:
    """One finished trace: the key of its answer (None: it gave none) and its length [tokens]; `cut_tokens` [tokens]
    is None for a trace that ended before its cut. `forced` are the keys of the answers that were forced out of it on
    the way, and `forced_tokens` [tokens] what each took to read, None where that is not known."""

    key: Hashable | None
    n_tokens: int
    cut_tokens: int | None
    forced: tuple[Hashable | None, ...] = ()
    forced_tokens: tuple[int, ...] | None = None

    @property
    def whole(self) -> bool:
        """It ended before its cut, so that nothing more can be saved."""
        return ended_before_cut(self.n_tokens, self.cut_tokens)


@dataclass(frozen=True)
class ReplayProblem:
    """The n traces of one problem by one model, and what its judge said.

    Equal answers have equal keys; `right` are the keys of right ones, which may be none or several (50 % and 0.5 for
    a gold answer of 0.5).
    """

    problem_id: str
    right: frozenset[Hashable]
    traces: tuple[ReplayTrace, ...]
    decision_seed: int = 0
    scores: np.ndarray | None = None
    """[n, n] probability (0-1) that two traces will end in the same answer, read at their cuts."""
    judge_usage: JudgeUsage = NO_JUDGE
    probe_every: int | None = None
    """After how many tokens each time an answer was forced; None where none was."""

    @property
    def keys(self) -> list[Hashable | None]:
        return [trace.key for trace in self.traces]


@dataclass(frozen=True)
class Outcome:
    """One method on one problem: expected accuracy (0-1), expected tokens, expected number of finished traces.

    `oracle` (0-1), where traces are chosen: how often one of those that vote is right, so what the choice left over.
    """

    accuracy: float
    usage: Usage
    finished: float
    oracle: float | None = None


@dataclass(frozen=True)
class Pruned:
    """A rule on one problem in one order of its traces; traces are numbered as in the problem.

    `labels` [n] are the clusters, None where unassigned or where no judge is asked; `kept_tokens` [n] is how far each
    trace would have run.
    """

    survivors: list[int]
    labels: list[int | None]
    kept_tokens: list[int]
    key: Hashable | None
    usage: Usage
    judge_failure: str | None = None


@dataclass(frozen=True)
class ConfidenceProfile:
    """All that DeepConf (deepconf.py) asks of one trace: `mean` token confidence, and each new low of its group
    confidence, `lows` descending, with `tokens` ascending, how many were generated when it was seen. A trace
    shorter than the window has no group: it is never stopped, and its confidence is its mean, which may cost it its
    vote."""

    mean: float
    lows: np.ndarray
    tokens: np.ndarray

    @property
    def lowest(self) -> float:
        return float(self.lows[-1]) if len(self.lows) else self.mean

    def stopped_at(self, bar: float) -> int | None:
        """Tokens generated when the group confidence first lies below `bar`; None if it never does."""
        place = int(np.searchsorted(-self.lows, -bar, side="right"))
        return int(self.tokens[place]) if place < len(self.lows) else None


@dataclass(frozen=True)
class TraceReadings:
    """All that a scorer (scored.py) is told of one trace: at its `cut`, at its `end`, and P(right) (0-1) `every` so
    many tokens; () where it does not look there."""

    cut: Observed
    end: Observed
    every: tuple[float, ...] = ()


def confidence_profile(confidences: Sequence[float], window: int) -> ConfidenceProfile:
    """`confidences` [tokens], one per token of a whole trace."""
    values = np.asarray(confidences, dtype=np.float64)
    if not len(values):
        raise ValueError("a trace has at least one token")
    sums = np.concatenate([[0.0], values.cumsum()])
    groups = np.round((sums[window:] - sums[:-window]) / window, 6)  # equal confidences have equal means
    before = np.concatenate([[np.inf], np.minimum.accumulate(groups)[:-1]]) if len(groups) else groups
    places = np.flatnonzero(groups < before)
    return ConfidenceProfile(float(values.mean()), groups[places], places + window)


def part(problem: ReplayProblem, chosen: np.ndarray) -> ReplayProblem:
    """The problem as if only the `chosen` traces [m] had been sampled, in that order; the judge's usage is the
    part of the stored one that falls to them."""
    places = chosen.tolist()
    return replace(
        problem,
        traces=tuple(problem.traces[place] for place in places),
        scores=None if problem.scores is None else problem.scores[np.ix_(chosen, chosen)],
        judge_usage=problem.judge_usage.part(places),
    )


def blocks(stored: int, n: int) -> list[np.ndarray]:
    """The places [n] of each of the ⌊stored ÷ n⌋ disjoint blocks of traces, the first n traces first.

    >>> [block.tolist() for block in blocks(5, 2)]
    [[0, 1], [2, 3]]
    """
    return [np.arange(first, first + n) for first in range(0, stored - n + 1, n)]


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """One problem's expected accuracy, tokens and finished traces over draws or blocks of its traces."""
    shares = [outcome.oracle for outcome in outcomes if outcome.oracle is not None]
    return Outcome(
        float(np.mean([outcome.accuracy for outcome in outcomes])),
        mean_usage([outcome.usage for outcome in outcomes]),
        float(np.mean([outcome.finished for outcome in outcomes])),
        float(np.mean(shares)) if shares else None,
    )


@dataclass(frozen=True)
class Voters:
    """One run of a method on one problem: the traces that vote, their answer, and what was spent."""

    survivors: list[int]
    key: Hashable | None
    usage: Usage


def average(problem: ReplayProblem, runs: "Sequence[Voters | Pruned]") -> Outcome:
    """The mean over runs."""
    right = [run.key in problem.right for run in runs]
    voters = float(np.mean([len(run.survivors) for run in runs]))
    usage = mean_usage([run.usage for run in runs])
    return Outcome(float(np.mean(right)), usage, voters, oracle_share(problem, [run.survivors for run in runs]))


def mean_usage(usages: Sequence[Usage]) -> Usage:
    """Field by field the mean of usages; fields become fractional."""
    fields = [field.name for field in dataclasses.fields(Usage)]
    return Usage(**{name: float(np.mean([getattr(usage, name) for usage in usages])) for name in fields})


def oracle_share(problem: ReplayProblem, chosen: Sequence[Sequence[int]]) -> float:
    """The share of the choices of traces in which at least one is right."""
    return float(np.mean([any(problem.traces[index].key in problem.right for index in traces) for traces in chosen]))


def rng_for(problem: ReplayProblem, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the problem and the purpose, not on the order in which either is asked for."""
    return np.random.default_rng([problem.decision_seed, *purpose.encode()])


def trace_orders(problem: ReplayProblem, orders: int) -> list[list[int]]:
    """`orders` orders of the traces: the stored one first, then random ones, the same for every method."""
    rng, n = rng_for(problem, "orders"), len(problem.traces)
    return [list(range(n)), *(rng.permutation(n).tolist() for _ in range(orders - 1))]


@dataclass(frozen=True)
class Parameters:
    """Parameters of the models that spend tokens: the unit in which costs of different models can be added. `judge`
    is 0 where no judge reads tokens."""

    generator: int
    judge: int = 0


@dataclass(frozen=True)
class ReplayModel:
    """One model: its problems without a judge, and once more for every judge, in the same order.

    `judge_kinds` and `judge_parameters` have the keys of `judged`; `pruned_by` names the judges of the pruning rules,
    `similarity` the one of "embedding". `confidences` are those of each problem's traces, empty where no method asks
    for them; so are the `scorer` and the `readings` of each problem's traces. `wall_s`: wall time of sampling all
    traces [seconds], None where none were sampled. `prompt_tokens`: mean length of a prompt [tokens], 0 where no
    prices ask for it. `judge_weights`: votes (0-1) that a judge's cuts have earned; judges that were never measured
    have none."""

    name: str
    parameters: int
    plain: list[ReplayProblem]
    judged: dict[str, list[ReplayProblem]] = field(default_factory=dict)
    judge_parameters: dict[str, int] = field(default_factory=dict)
    judge_kinds: dict[str, str] = field(default_factory=dict)
    pruned_by: list[str] = field(default_factory=list)
    similarity: str | None = None
    confidences: list[list[ConfidenceProfile]] = field(default_factory=list)
    scorer: Scorer | None = None
    readings: list[list[TraceReadings]] = field(default_factory=list)
    wall_s: float | None = None
    prompt_tokens: float = 0.0
    judge_weights: dict[str, float | None] = field(default_factory=dict)

    def part(self, chosen: np.ndarray) -> "ReplayModel":
        """As if only the `chosen` traces [m] of each problem had been sampled."""
        return replace(
            self,
            plain=[part(problem, chosen) for problem in self.plain],
            judged={judge: [part(problem, chosen) for problem in found] for judge, found in self.judged.items()},
            confidences=[[traces[place] for place in chosen] for traces in self.confidences],
            readings=[[traces[place] for place in chosen] for traces in self.readings],
            wall_s=None,
        )

    def blocks(self, n: int) -> "list[ReplayModel]":
        """The disjoint blocks of n traces: this model itself where n is all of them."""
        stored = len(self.plain[0].traces)
        return [self] if n == stored else [self.part(chosen) for chosen in blocks(stored, n)]


@dataclass(frozen=True)
class Result:
    """One method of one model on all problems.

    `controls` are what it is compared with, problem by problem; `wall_s` [seconds] where it was measured.
    """

    model: str
    method: str
    judge: str | None
    parameters: Parameters
    outcomes: list[Outcome]
    wall_s: float | None = None
    controls: Mapping[str, list[Outcome]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Names the row within its table: model/method, and the judge where there is one."""
        return "/".join(part for part in (self.model, self.method, self.judge) if part)


def mean_result(found: Sequence[Result]) -> Result:
    """One method on several blocks of the same problems' traces: the mean, problem by problem."""
    if len(found) == 1:
        return found[0]
    controls = {name: mean_outcomes([one.controls[name] for one in found]) for name in found[0].controls}
    return replace(found[0], outcomes=mean_outcomes([one.outcomes for one in found]), controls=controls)


def mean_outcomes(found: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    """Problem by problem the mean over blocks."""
    if len(found) == 1:
        return list(found[0])
    return [mean_outcome(outcomes) for outcomes in zip(*found, strict=True)]


@dataclass(kw_only=True)
class ReplayKeys:
    """The keys that every method may ask.

    methods: single, consensus, ahead, ahead_wait, answers, evidence, deepprune, random_traces,
      consensus_equal_tokens, adaptive_consistency, early_stopping, consol, consol_mixture, bayes_three, certificate,
      first_ended, cannot_change, parallel_probe, mars, polr, deepconf_low, deepconf_high, embedding, oracle,
      score_vote, stop_best, score_order, step_worst.
    orders: orders of the traces that methods are averaged over which take them one after another; draws: random
      draws of the other methods.
    """

    methods: list[str] = field(
        default_factory=lambda: ["single", "consensus", "deepprune", "random_traces", "consensus_equal_tokens"]
    )
    orders: int = 20
    draws: int = 100


K = TypeVar("K", bound=ReplayKeys)


def _always(keys: ReplayKeys, n: int) -> bool:
    return True


def _no_rules(keys: ReplayKeys) -> Mapping[str, WithoutJudge | EvidenceRule]:
    return {}


def _nothing_to_check(keys: ReplayKeys) -> None:
    return None


def _any_n(keys: ReplayKeys, n: int) -> None:
    return None


@dataclass(frozen=True)
class Method:
    """All there is to know of a method.

    name: in configs and rows; label: in tables and reports; about: what it does, in a few plain words, for reports;
      mark: path of its mark in the frontier's plot, SVG, about
      14 wide around the origin.
    run: the rows of one model; None for controls, which are measured with any of the methods `beside`.
    rules: method → rule, for those that run live and are shown trace by trace; DeepPrune's are its own keys.
    keys: dataclass of the options that are its own; check: raises `InputError` for options that cannot be, whether
      it is asked for or not; require: raises it where n traces, the most that a run samples, are too few.
    runs_at: whether it can be run with n traces.
    prunes: it asks the judges of a model; reads_similarity, reads_confidences, reads_probes, reads_scorer: it needs
      scores, token confidences, forced answers or the model's scorer.
    is_bound: a bound or a control, that nobody can run by itself; is_ours: its accuracy is compared with that of
      others, paired by problem, of those that are is_rival; depends_on_n: False where every n comes to the same.
    """

    name: str
    label: str
    mark: str
    run: Callable[[ReplayModel, K], list[Result]] | None
    keys: type[ReplayKeys] = ReplayKeys
    rules: Callable[[K], Mapping[str, WithoutJudge | EvidenceRule]] = _no_rules
    check: Callable[[K], None] = _nothing_to_check
    require: Callable[[K, int], None] = _any_n
    runs_at: Callable[[K, int], bool] = _always
    beside: tuple[str, ...] = ()
    prunes: bool = False
    reads_similarity: bool = False
    reads_confidences: bool = False
    reads_probes: bool = False
    reads_scorer: bool = False
    is_bound: bool = False
    is_ours: bool = False
    is_rival: bool = False
    depends_on_n: bool = True
    about: str = ""


def one_row(
    name: str, outcome_of: Callable[[ReplayProblem], Outcome]
) -> Callable[[ReplayModel, ReplayKeys], list[Result]]:
    """The `run` of a method that asks no judge and looks at one problem after the other."""

    def run(model: ReplayModel, keys: ReplayKeys) -> list[Result]:
        return [Result(model.name, name, None, Parameters(model.parameters), list(map(outcome_of, model.plain)))]

    return run
