"""What a live run of one problem came to beside its replay, and where their tokens part. Pure functions.

The difference in generated tokens is divided, trace by trace and without a rest, into four causes:

- before_cut: the first phase of the trace, up to its cut or an end before that, has other tokens or another length;
- after_cut: the trace went on in both, or in neither, and its tokens behind the cut differ;
- cap: the trace went on in both, but ran into the cap on tokens in only one;
- choice: the trace went on, or was started at all, in only one of them.

Where a rule has no cuts, everything is behind them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from secateur.deepprune.evidence import EvidenceRule, JudgedRule, Rule
from secateur.deepprune.gathering import ALL_PAIRS
from secateur.deepprune.job import LiveResult, TraceResult
from secateur.deepprune.replay import Replay
from secateur.engines.accounting import Usage
from secateur.engines.trace_folder import StoredTrace
from secateur.tasks.answers.equality import grade_answers, group_answers

FORMAT = 1
TOKEN_CAUSES = ("before_cut", "after_cut", "cap", "choice")


@dataclass(frozen=True)
class TraceSpan:
    """How far a trace ran: `reach` [tokens] until its cut, or its end before that, `length` [tokens] in all."""

    reach: int
    length: int
    finished: bool
    capped: bool

    @classmethod
    def of_live(cls, trace: TraceResult) -> "TraceSpan":
        finished = trace.finish_reason is not None
        return cls(trace.cut_tokens or 0, len(trace.token_ids), finished, trace.finish_reason == "length")

    @classmethod
    def of_replay(cls, stored: StoredTrace, kept: int, cuts: bool) -> "TraceSpan":
        """`kept` [tokens] is how far the replay let the stored trace run; without `cuts` all of it is behind them."""
        length, cut = stored.trace.n_tokens, stored.cut_tokens if cuts else 0
        reach = length if cut is None else min(cut, length)
        finished = kept == length
        return cls(min(reach, kept), kept, finished, finished and stored.trace.finish_reason == "length")

    @property
    def went_on(self) -> bool:
        """Beyond its cut to its end, so that it could vote."""
        return self.finished and self.length > self.reach


@dataclass(frozen=True)
class ProblemSide:
    """One problem's live run, or its replay: the answer and whether it is right, traces that finished and that ran
    into the cap, all that was spent, and why the judge failed."""

    answer: str | None
    right: bool
    finished: int
    capped: int
    judge_failure: str | None
    tokens: Usage


@dataclass(frozen=True)
class CauseSize:
    """Traces that show a cause, and the tokens that the live run generated more than the replay because of it."""

    traces: int
    generated: int


@dataclass(frozen=True)
class LiveWall:
    """`problem_s`: seconds from the problem's first token to its vote; `phase_s`: the seconds by which it made the
    live phase longer, since problems share the engine; `rank`: the process that ran it."""

    problem_s: float
    phase_s: float
    rank: int


@dataclass(frozen=True)
class LiveProblem:
    """What a live run of one problem came to beside its replay: whether both are equal and, if not, their first
    difference; `causes` as `token_causes` counts them; `traces`: their number n, `stored_tokens`: all that these had.
    `settings` fix what it was made with."""

    settings: str
    equal: bool
    difference: str | None
    live: ProblemSide
    replay: ProblemSide
    causes: Mapping[str, CauseSize]
    traces: int
    stored_tokens: int
    wall: LiveWall


def token_causes(
    live: LiveResult, replayed: Replay, stored: Sequence[StoredTrace], cuts: bool = True
) -> dict[str, CauseSize]:
    """The size of each cause; the tokens of all causes add up to the whole difference."""
    traces, generated = Counter(), Counter()
    for ran, trace, kept in zip(live.traces, stored, replayed.kept_tokens, strict=True):
        a, b = TraceSpan.of_live(ran), TraceSpan.of_replay(trace, kept, cuts)
        later = _later_cause(a, b)
        started_in_one = (a.length == 0) != (b.length == 0)
        first = 0 if started_in_one else a.reach - b.reach
        before = not started_in_one and ran.token_ids[: a.reach] != trace.trace.token_ids[: b.reach]
        rest = a.length - b.length - first
        generated["before_cut"] += first
        traces["before_cut"] += before
        generated[later] += rest
        same_rest = ran.token_ids[a.reach :] == trace.trace.token_ids[b.reach : b.length]
        traces[later] += rest != 0 or (not before and not same_rest)
    return {cause: CauseSize(traces[cause], generated[cause]) for cause in TOKEN_CAUSES}


def _later_cause(live: TraceSpan, replayed: TraceSpan) -> str:
    """What a difference behind the cut is put down to."""
    if live.went_on != replayed.went_on or (live.length == 0) != (replayed.length == 0):
        return "choice"
    return "cap" if live.went_on and live.capped != replayed.capped else "after_cut"


def asks_all_pairs(rule: Rule, n: int) -> bool:
    """Whether the live judge compares everybody with everybody, as the stored scores do; else it is asked for fewer
    pairs than they hold. Where there is no judge nothing is left out either."""
    if not isinstance(rule, JudgedRule):
        return True
    if isinstance(rule, EvidenceRule):
        return False
    return rule.mode == "barrier" and not rule.start.start_batch and n <= ALL_PAIRS


def first_difference(
    live: LiveResult, replayed: Replay, stored: Sequence[StoredTrace], all_pairs: bool
) -> str | None:
    """What a live run and a replay of its problem disagree about; None if nothing. `all_pairs`: see `asks_all_pairs`;
    without it the costs of the judge are not compared. What a probe reads of its trace is not: that depends on the
    engine's cache, and the replay's has everything."""
    for index, (ran, trace, kept) in enumerate(zip(live.traces, stored, replayed.kept_tokens, strict=True)):
        if ran.token_ids != trace.trace.token_ids[: len(ran.token_ids)]:
            return f"trace {index} has other tokens"
        if len(ran.token_ids) != kept:
            return f"trace {index} ran for {len(ran.token_ids)} tokens, {kept} in the replay"
        if ran.finish_reason is not None and ran.text != trace.trace.text:
            return f"trace {index} has another text"
    if live.decision.survivors != replayed.decision.survivors:
        return "the survivors differ"
    spent, foreseen = (replace(x.usage, probe_prefill=0, probe_cached=0) for x in (live, replayed))
    if not all_pairs:
        spent, foreseen = (Usage(x.generated, x.overrun, longest_path=x.longest_path) for x in (spent, foreseen))
    return None if spent == foreseen else f"the costs differ: {spent} and {foreseen}"


def compare(
    live: LiveResult,
    replayed: Replay,
    replayed_answer: str | None,
    stored: Sequence[StoredTrace],
    gold: str,
    rule: Rule,
    *,
    settings: str,
    wall: LiveWall,
) -> LiveProblem:
    """The record of one problem."""
    difference = _answers_differ(live.answer, replayed_answer)
    difference = difference or first_difference(live, replayed, stored, asks_all_pairs(rule, len(stored)))
    spans = [TraceSpan.of_live(trace) for trace in live.traces]
    cuts = isinstance(rule, JudgedRule)
    again = [TraceSpan.of_replay(trace, kept, cuts) for trace, kept in zip(stored, replayed.kept_tokens, strict=True)]
    failures = live.decision.judge_failure, replayed.decision.judge_failure
    return LiveProblem(
        settings=settings,
        equal=difference is None,
        difference=difference,
        live=_side(live.answer, gold, spans, live.usage, failures[0]),
        replay=_side(replayed_answer, gold, again, replayed.usage, failures[1]),
        causes=token_causes(live, replayed, stored, cuts),
        traces=len(stored),
        stored_tokens=sum(trace.trace.n_tokens for trace in stored),
        wall=wall,
    )


def _answers_differ(live: str | None, replayed: str | None) -> str | None:
    same = len(set(group_answers([live, replayed]))) == 1
    return None if same else f"the answers differ: {live} and {replayed}"


def _side(
    answer: str | None, gold: str, spans: Sequence[TraceSpan], usage: Usage, failure: str | None
) -> ProblemSide:
    return ProblemSide(
        answer,
        bool(grade_answers([answer], [gold])[0]),
        sum(span.finished for span in spans),
        sum(span.capped for span in spans),
        failure,
        usage,
    )
