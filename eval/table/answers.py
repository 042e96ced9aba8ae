"""Methods that look at answers alone, finished or forced, replayed on stored traces by the policies that run live.

Each is a rule of stopping and one of starting (secateur/deepprune/stopping.py, starting.py). `ahead` is ours; most of
the others are published. `answers` takes any combination that a config names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.table.method import (
    Method,
    Parameters,
    Pruned,
    ReplayKeys,
    ReplayModel,
    ReplayProblem,
    ReplayTrace,
    Result,
    WithoutJudge,
    average,
    trace_orders,
)
from eval.table.votes import EQUAL_TOKENS, controls_of
from secateur.deepprune.answers import FEWEST_TOKENS, SHORTEST_WAIT, AnswerRule, answer_rule
from secateur.deepprune.probing import (
    Mars,
    ParallelProbe,
    ProbedTraces,
    SwitchRates,
    read_switch_rates,
)
from secateur.deepprune.replay import Replay, replay_answers, replay_probes
from secateur.deepprune.starting import AllAtOnce, MissingWaves, Pool, Waves
from secateur.deepprune.stopping import (
    BetaPosterior,
    CannotChange,
    FirstEnded,
    MajorityCertificate,
    MixtureSprt,
    Sprt,
    TopThreePosterior,
    WindowAgrees,
)
from secateur.runtime.errors import InputError
from secateur.tasks.prompts import FORCING, check_forcing

ANSWERS = "answers"
"""The method whose rules a config names; each has a row `answers_<name>`."""


def answer_once(problem: ReplayProblem, rule: WithoutJudge, order: Sequence[int] | None = None) -> Pruned:
    """A rule on the stored traces, taken in `order`; by default as they are stored, which is what a live run does."""
    n = len(problem.traces)
    order = range(n) if order is None else order
    taken = [problem.traces[index] for index in order]
    found = _replayed(taken, problem.probe_every, rule)
    kept = [0] * n
    for index, tokens in zip(order, found.kept_tokens, strict=True):
        kept[index] = tokens
    survivors = sorted(order[place] for place in found.decision.survivors)
    return Pruned(survivors, [None] * n, kept, found.key, found.usage)


def _replayed(traces: Sequence[ReplayTrace], every: int | None, rule: WithoutJudge) -> Replay:
    if isinstance(rule, AnswerRule):
        return replay_answers([trace.n_tokens for trace in traces], [trace.key for trace in traces], rule)
    return replay_probes(probed(traces, every), rule)


def probed(traces: Sequence[ReplayTrace], every: int | None) -> ProbedTraces:
    """The forced answers of the traces of one problem, every so many tokens."""
    read = [trace.forced_tokens for trace in traces]
    return ProbedTraces(
        [trace.key for trace in traces],
        [trace.n_tokens for trace in traces],
        [trace.forced for trace in traces],
        every,
        None if None in read else read,
    )


def answer_in_orders(problem: ReplayProblem, rule: WithoutJudge, orders: int) -> list[Pruned]:
    """A rule in `orders` orders of the traces."""
    return [answer_once(problem, rule, order) for order in trace_orders(problem, orders)]


def answers_row(model: ReplayModel, name: str, rule: WithoutJudge, keys: ReplayKeys) -> Result:
    """The row `name`. Traces are taken at random, so its control is the same number of tokens, not of traces."""
    parameters = Parameters(model.parameters)
    outcomes = [average(problem, answer_in_orders(problem, rule, keys.orders)) for problem in model.plain]
    controls = controls_of(model.plain, outcomes, parameters, keys, (EQUAL_TOKENS,))
    return Result(model.name, name, None, parameters, outcomes, controls=controls)


@dataclass(kw_only=True)
class AdaptiveConsistencyKeys(ReplayKeys):
    """adaptive_threshold: Adaptive-Consistency stops once the majority stays with this probability (0-1)."""

    adaptive_threshold: float = 0.95


@dataclass(kw_only=True)
class EarlyStoppingKeys(ReplayKeys):
    """early_window: early stopping: so many answers in a row that agree."""

    early_window: int = 5


@dataclass(kw_only=True)
class AnswersKeys(ReplayKeys):
    """answers: name → a rule of stopping and starting, for a method `answers_<name>`; for example
    {pool: {stop: lead, lead: 3, start: pool, size: 8}}. The names are in secateur/deepprune/answers.py."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def answer_rules(self) -> dict[str, AnswerRule]:
        """Method → rule."""
        return {
            f"{ANSWERS}_{name}": answer_rule(values, f"key 'answers.{name}'") for name, values in self.answers.items()
        }


Run = Callable[[ReplayModel, ReplayKeys], list[Result]]


@dataclass(kw_only=True)
class ProbeKeys(ReplayKeys):
    """probe_every, probe_tokens: tokens between two forced answers, and the most that one reads; probe_forcing: what
      is put behind a trace to force it: boxed, or plain for the embedded model (secateur/tasks/prompts.py).
    probe_stable, probe_patience, probe_warm_up: Parallel-Probe, counted in forced answers: all stop when the
      majority has been the same for so many more, a trace when it has differed for so many, from the warm-up on.
    mars_gamma, mars_delta: the MARS-like stop: 1 is the worst case, 0.5 the mildest; bound of its error (0-1), null
      for none.
    mars_rates: file of switch rates, the switch_rates.json of a run on other problems; null for a coin toss each.
    """

    probe_every: int = 500
    probe_tokens: int = 32
    probe_forcing: str = "boxed"
    probe_stable: int = 40
    probe_patience: int = 7
    probe_warm_up: int = 15
    mars_gamma: float = 1.0
    mars_delta: float | None = None
    mars_rates: str | None = None

    @property
    def parallel_probe(self) -> ParallelProbe:
        stable, patience, warm_up = self.probe_stable, self.probe_patience, self.probe_warm_up
        return ParallelProbe(**self._probes, stable=stable, patience=patience, warm_up=warm_up)

    @property
    def mars(self) -> Mars:
        rates = SwitchRates() if self.mars_rates is None else read_switch_rates(self.mars_rates)
        return Mars(**self._probes, gamma=self.mars_gamma, delta=self.mars_delta, rates=rates)

    @property
    def _probes(self) -> dict[str, Any]:
        check_forcing("probe_forcing", self.probe_forcing)
        return {"every": self.probe_every, "tokens": self.probe_tokens, "forcing": FORCING[self.probe_forcing]}


def _check_probes(keys: ProbeKeys) -> None:
    _ = keys.parallel_probe, keys.mars


def _row_of(name: str, rule: AnswerRule) -> Run:
    return lambda model, keys: [answers_row(model, name, rule, keys)]


def _adaptive(model: ReplayModel, keys: AdaptiveConsistencyKeys) -> list[Result]:
    return [answers_row(model, ADAPTIVE_CONSISTENCY.name, adaptive_consistency(keys.adaptive_threshold), keys)]


def _early(model: ReplayModel, keys: EarlyStoppingKeys) -> list[Result]:
    return [answers_row(model, EARLY_STOPPING.name, early_stopping(keys.early_window), keys)]


def _named(model: ReplayModel, keys: AnswersKeys) -> list[Result]:
    return [answers_row(model, name, rule, keys) for name, rule in keys.answer_rules.items()]


def adaptive_consistency(threshold: float = 0.95) -> AnswerRule:
    """Adaptive-Consistency (arXiv 2305.11860): one trace after another."""
    return AnswerRule(BetaPosterior(threshold), Waves(1))


def early_stopping(window: int = 5) -> AnswerRule:
    """Early-stopping self-consistency (arXiv 2401.10480): windows one after another, full ones only."""
    return AnswerRule(WindowAgrees(window), Waves(window, only_full=True))


def check_share(key: str, value: float) -> None:
    """Raise `InputError` unless a key's value is a share above 0, at most 1."""
    if not 0 < value <= 1:
        raise InputError(f"key '{key}' has the value {value}; write a number above 0, at most 1")


def _check_window(keys: EarlyStoppingKeys) -> None:
    if keys.early_window < 1:
        raise InputError(f"key 'early_window' has the value {keys.early_window}; it must be at least 1")


def _check_rules(keys: AnswersKeys) -> None:
    if ANSWERS in keys.methods and not keys.answer_rules:
        raise InputError("key 'answers' is empty, but 'methods' has answers; name a rule, or leave that method out")


def _published(name: str, label: str, mark: str, about: str) -> Method:
    return Method(name, label, mark, _row_of(name, PUBLISHED_RULES[name]), is_rival=True, about=about)


def _preset(name: str, label: str, mark: str, rule: AnswerRule, about: str) -> Method:
    """A rule of ours, which runs live as well."""
    return Method(name, label, mark, _row_of(name, rule), rules=lambda keys: {name: rule}, is_ours=True, about=about)


_PLUS = "M-2-6.5h4v4.5h4.5v4h-4.5v4.5h-4v-4.5h-4.5v-4h4.5Z"
_CROSS = "M-6-3.5-3.5-6 0-2.5 3.5-6 6-3.5 2.5 0 6 3.5 3.5 6 0 2.5-3.5 6-6 3.5-2.5 0Z"
_AHEAD = "a few traces start, more as far as their answers differ; all stop once one answer is ahead"
AHEAD = _preset("ahead", "ahead", "M7 0-5.5 6.5-2.5 0-5.5-6.5Z", FEWEST_TOKENS, _AHEAD)
AHEAD_WAIT = _preset(
    "ahead_wait",
    "ahead, shortest wait",
    "M-7 0 5.5-6.5 2.5 0 5.5 6.5Z",
    SHORTEST_WAIT,
    f"{_AHEAD}; more run side by side, so that nobody waits longer",
)
NAMED_RULES = Method(
    ANSWERS,
    ANSWERS,
    "M-6 0-3-5.5h6L6 0 3 5.5h-6Z",
    _named,
    AnswersKeys,
    lambda keys: keys.answer_rules,
    _check_rules,
    is_ours=True,
    about="traces start and stop by finished answers, as the config says",
)
ADAPTIVE_CONSISTENCY = Method(
    "adaptive_consistency",
    "adaptive consistency",
    _PLUS,
    _adaptive,
    AdaptiveConsistencyKeys,
    check=lambda keys: check_share("adaptive_threshold", keys.adaptive_threshold),
    is_rival=True,
    about="one trace after another until the majority will probably stay",
)
EARLY_STOPPING = Method(
    "early_stopping",
    "early stopping",
    _CROSS,
    _early,
    EarlyStoppingKeys,
    check=_check_window,
    is_rival=True,
    about="a few traces at a time until all of such a few agree",
)
PUBLISHED_RULES: Mapping[str, AnswerRule] = {
    "consol": AnswerRule(Sprt(), MissingWaves()),
    "consol_mixture": AnswerRule(MixtureSprt(), MissingWaves()),
    "bayes_three": AnswerRule(TopThreePosterior(), Waves(1)),
    "certificate": AnswerRule(MajorityCertificate(), Waves(1)),
    "first_ended": AnswerRule(FirstEnded(5), Pool(8)),
    "cannot_change": AnswerRule(CannotChange(), AllAtOnce()),
}
"""Method → rule, of those without keys of their own."""
_CONSOL = "traces start until a sequential test tells the first answer from the second"
CONSOL = _published("consol", "ConSol", "M0-7 2-2 7 0 2 2 0 7-2 2-7 0-2-2Z", _CONSOL)
CONSOL_MIXTURE = _published(
    "consol_mixture", "ConSol, mixture", "M0-7 2-2 7 0 2 2 0 7-2 2-7 0-2-2Z", f"{_CONSOL}, of many alternatives"
)
BAYES_THREE = _published(
    "bayes_three",
    "Bayes, top three",
    "M-6.5 3.5 0-7.5 6.5 3.5Z",
    "one trace after another until the first of three answers is probably the most frequent",
)
CERTIFICATE = _published(
    "certificate",
    "majority certificate",
    "M-6-6H6V1L0 7-6 1Z",
    "one trace after another until the majority is certified",
)
FIRST_ENDED = _published(
    "first_ended", "first 5 to end", "M-7-5H3L7 0 3 5H-7Z", "a vote of the first five traces that end"
)
CANNOT_CHANGE = _published(
    "cannot_change",
    "cannot change",
    "M-5-6.5h10v5h-3v8h-4v-8h-3Z",
    "all traces start, and stop once the rest cannot change the vote",
)
PARALLEL_PROBE = Method(
    "parallel_probe",
    "Parallel-Probe",
    "M-7-2H-2V-7H2V7H-2V2H-7Z",
    lambda model, keys: [answers_row(model, "parallel_probe", keys.parallel_probe, keys)],
    ProbeKeys,
    lambda keys: {"parallel_probe": keys.parallel_probe},
    _check_probes,
    reads_probes=True,
    is_rival=True,
    about="forces answers out of running traces, and stops all once their majority stays the same",
)
MARS = Method(
    "mars",
    "MARS-like",
    "M7-2H2V-7H-2V7H2V2H7Z",
    lambda model, keys: [answers_row(model, "mars", keys.mars, keys)],
    ProbeKeys,
    lambda keys: {"mars": keys.mars},
    reads_probes=True,
    is_rival=True,
    about="forces answers out of running traces, and stops all once the majority can hardly turn",
)
