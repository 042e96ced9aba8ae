"""What is run live and what became of it: a problem's job and task, the records of its traces and of its end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from secateur.deepprune.best_first import ScoreRule
from secateur.deepprune.evidence import Rule
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.policy import Decision, decision_seed
from secateur.deepprune.scorer import Scorer
from secateur.engines.accounting import Usage
from secateur.engines.base import Engine, SamplingSpec, fit_to_context, trace_seed
from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import AnswerGroups
from secateur.tasks.answers.extraction import Extract
from secateur.tasks.answers.kinds import Groups


@dataclass(frozen=True)
class ProblemJob:
    """One problem to run: a sampling seed for each of its n traces, and one for its decision. `voteless`: its text is
    wanted, not an answer, so that one trace is enough."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    decision_seed: int
    voteless: bool = False

    def __post_init__(self) -> None:
        if len(self.seeds) < (1 if self.voteless else 2):
            raise InputError(
                f"n = {len(self.seeds)}: pruning compares traces of one problem; sample at least 2 of each"
            )

    @classmethod
    def sampled(
        cls, problem_id: str, prompt_ids: Sequence[int], n: int, base_seed: int, voteless: bool = False
    ) -> "ProblemJob":
        """n traces with the seeds that every other run of this problem with `base_seed` uses."""
        seeds = tuple(trace_seed(base_seed, problem_id, sample) for sample in range(n))
        return cls(problem_id, tuple(prompt_ids), seeds, decision_seed(base_seed, problem_id), voteless)


@dataclass(frozen=True)
class ProblemTask:
    """A problem with all that it is run by. `extract` takes the answer out of a text, `groups` makes empty groups of
    answers. It is stopped once its traces have generated `token_budget` [tokens] or `deadline` has come [seconds of
    `time.monotonic`]; None: never."""

    job: ProblemJob
    spec: SamplingSpec
    judge: Judge | Scorer | None
    rule: Rule | ScoreRule
    extract: Extract
    groups: Callable[[], Groups] = AnswerGroups
    token_budget: int | None = None
    deadline: float | None = None

    @property
    def first(self) -> int:
        """Places in the engine that it takes at once."""
        return self.rule.first(len(self.job.seeds))

    def longest(self, engine: Engine) -> int:
        """Tokens that a trace of it may come to in this engine, the prompt included."""
        prompt = self.job.prompt_ids
        return len(prompt) + fit_to_context(engine, prompt, self.spec).max_tokens


@dataclass(frozen=True)
class TraceResult:
    """What became of one trace.

    `status`: "whole" ended before its cut, "finished" ran to its end after it, "pruned" was stopped, at its cut or,
    under overlap or by a policy that had seen enough, after it; "unstarted" was not needed. `cut_tokens` [tokens]
    were generated when it came to its cut (all, if whole), None where the rule has no cuts; `cluster` is None where
    unassigned; `finish_reason` is "stop" or "length", None if pruned. `probes` are the answers that were forced out
    of it at its marks, None for none, and `probe_tokens` [tokens] what each took to read."""

    token_ids: tuple[int, ...]
    text: str
    status: Literal["whole", "finished", "pruned", "unstarted"]
    cut_tokens: int | None
    cluster: int | None
    finish_reason: str | None
    probes: tuple[str | None, ...] = ()
    probe_tokens: tuple[int, ...] = ()


NEVER_STARTED = TraceResult((), "", "unstarted", 0, None, None)
Ended = Literal["decided", "token_budget", "deadline"]
"""What ended a problem: its rule, or the one of its two limits that it came to."""


@dataclass(frozen=True)
class LiveResult:
    """One problem's run: its traces in the order of the job's seeds, the vote's answer, and every token spent.

    `votes`: answer → traces that voted for it, the most first; `text`: the shortest finished trace that voted
    for the answer, None if none did. Where a limit `ended` it, those that had finished voted, with one vote each. Of
    the prompt, read for every trace, `cached_tokens` were found in the engine's cache."""

    problem_id: str
    traces: list[TraceResult]
    decision: Decision
    answer: str | None
    usage: Usage
    votes: Mapping[str, int] = field(default_factory=dict)
    text: str | None = None
    ended: Ended = "decided"
    cached_tokens: int = 0
