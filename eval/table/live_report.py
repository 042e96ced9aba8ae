"""Live runs and their replays side by side, for the table: figures of both, and where the difference comes from.

Both columns are about the same problems and the stored order of their traces; a row of the table averages its replay
over orders, so it may differ from the replay here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from eval.table.config import CombinedConfig
from eval.table.live_record import TOKEN_CAUSES, LiveProblem, ProblemSide, asks_all_pairs
from eval.table.rows import rounded
from eval.table.store import WALL_REMEDY, EngineFacts, names_of_judges, read_engine, read_live
from secateur.deepprune.evidence import JudgedRule
from secateur.engines.accounting import JUDGE_COSTS
from secateur.engines.registry import engine_kind
from secateur.results import LiveCause, LiveDifference, LiveEntry, LiveEquality, LiveSide
from secateur.runtime.records import read_with_checksums
from secateur.runtime.statistics import paired_difference
from secateur.tasks.records import Problem


@dataclass(frozen=True)
class SamplingTime:
    """What is noted of the sampling of all n traces: wall time [s] of the slowest process, `tokens` made in it."""

    seconds: float
    tokens: int


@dataclass(frozen=True)
class LiveRunsOf:
    """Live runs of one model by one rule: problem id → record, how it was run, and whether the judge was asked for
    all pairs."""

    records: Mapping[str, LiveProblem]
    engine: EngineFacts
    places: int
    dtype: str
    all_pairs: bool
    sampled: SamplingTime | None

    @property
    def found(self) -> list[LiveProblem]:
        return list(self.records.values())


def live_equality(config: CombinedConfig, problems: Sequence[Problem]) -> LiveEquality | None:
    """How many live runs were equal to their replay, over all models and rules; None if none was asked for."""
    live = problems[: config.live_count(len(problems))]
    if not live:
        return None
    records = {
        (name, method, problem.id): read_live(config, name, method, problem)
        for name in config.models
        for method in config.live_rules
        for problem in live
    }
    unequal = {", ".join(key): record.difference for key, record in records.items() if not record.equal}
    exact = all(read_engine(config, name).exact for name in config.models)
    return LiveEquality(len(records), len(records) - len(unequal), unequal, exact)


def live_entries(config: CombinedConfig, problems: Sequence[Problem], benchmark: str) -> list[LiveEntry]:
    """One entry per model and rule that ran live; [] if nothing did.

    `config` is that of one benchmark's run folder, `problems` all of its problems in their order.
    """
    live = problems[: config.live_count(len(problems))]
    entries = []
    for model in config.models if live else ():
        engine = read_engine(config, model)
        sampled = sampling_time(Path(config.output_dir) / model)
        for method, rule in config.live_rules.items():
            records = {problem.id: read_live(config, model, method, problem) for problem in live}
            all_pairs = asks_all_pairs(rule, next(iter(records.values())).traces)
            runs = LiveRunsOf(records, engine, config.rows, config.dtype, all_pairs, sampled)
            judge = names_of_judges(config, model)[0] if isinstance(rule, JudgedRule) else None
            entries.append(live_entry(runs, benchmark, model, method, judge))
    return entries


def live_entry(runs: LiveRunsOf, benchmark: str, model: str, method: str, judge: str | None) -> LiveEntry:
    """Live and replay of some problems beside each other."""
    found = runs.found
    live, replayed = (_side(found, side) for side in (_live, _replay))
    live = replace(live, wall_s=phase_seconds(found))
    seconds, measured = _sampling(found, runs.sampled)
    entry = LiveEntry(
        benchmark=benchmark,
        model=model,
        method=method,
        judge=judge,
        problems=len(found),
        equal=sum(record.equal for record in found),
        exact=runs.engine.exact,
        live=live,
        replay=replayed,
        difference=_difference(found, live, replayed),
        causes=tuple(find_causes(runs)),
        unequal={name: record.difference for name, record in runs.records.items() if not record.equal},
        sampling_wall_s=seconds,
        sampling_wall_measured=measured,
        words="",
        wall_words="",
    )
    places = max(runs.places, max(record.traces for record in found))
    return replace(entry, words=explain(entry, runs.dtype), wall_words=wall_words(entry, places))


def _live(record: LiveProblem) -> ProblemSide:
    return record.live


def _replay(record: LiveProblem) -> ProblemSide:
    return record.replay


def _side(found: Sequence[LiveProblem], side_of: Callable[[LiveProblem], ProblemSide]) -> LiveSide:
    sides = [side_of(record) for record in found]
    tokens = rounded(reduce(add, (side.tokens for side in sides)))
    return LiveSide(
        accuracy=_mean(side.right for side in sides),
        finished=_mean(side.finished for side in sides),
        capped=sum(side.capped for side in sides),
        tokens=replace(tokens, longest_path=_mean(side.tokens.longest_path for side in sides)),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _difference(found: Sequence[LiveProblem], live: LiveSide, replayed: LiveSide) -> LiveDifference:
    pairs = [(record.live.right, record.replay.right) for record in found]
    mean, low, high = paired_difference([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    return LiveDifference(
        accuracy=mean,
        ci95=(low, high),
        gained=sum(a and not b for a, b in pairs),
        lost=sum(b and not a for a, b in pairs),
        generated=live.tokens.generated - replayed.tokens.generated,
    )


def find_causes(runs: LiveRunsOf) -> list[LiveCause]:
    """What makes live and replay differ, each with its measured size; causes of size zero are left out.

    before_cut, after_cut, cap, choice (see eval/table/live_record.py): `traces`, and `generated` tokens more than in
    the replay, which add up to the whole difference. overrun: `tokens` computed after a stop. hidden: a server does
    not tell all of these. steps: how much longer the longest path is, a mean. judge: what it cost more than in the
    replay, and whether it was asked `lazily`, pair by pair, where the replay pays the mean price of every pair that
    the rule looks at. judge_failed: `problems` in which it failed in only one of both.
    """
    found = runs.found
    causes = _token_causes(found) + _overrun(found, runs.engine)
    steps = _gap(found, "longest_path") / len(found)
    causes += [LiveCause("steps", steps=steps)] if steps else []
    costs = {key: round(_gap(found, key), 3) for key in JUDGE_COSTS}
    causes += [LiveCause("judge", lazily=not runs.all_pairs, judge=costs)] if any(costs.values()) else []
    failed = sum(bool(record.live.judge_failure) != bool(record.replay.judge_failure) for record in found)
    return causes + ([LiveCause("judge_failed", problems=failed)] if failed else [])


def _token_causes(found: Sequence[LiveProblem]) -> list[LiveCause]:
    causes = []
    for cause in TOKEN_CAUSES:
        traces = sum(record.causes[cause].traces for record in found)
        generated = sum(record.causes[cause].generated for record in found)
        causes += [LiveCause(cause, traces=traces, generated=generated)] if traces or generated else []
    return causes


def _overrun(found: Sequence[LiveProblem], engine: EngineFacts) -> list[LiveCause]:
    tokens = int(sum(record.live.tokens.overrun for record in found))
    causes = [LiveCause("overrun", tokens=tokens)] if tokens else []
    return causes + ([LiveCause("hidden")] if engine_kind(engine.engine).hides_overrun else [])


def _gap(found: Sequence[LiveProblem], field: str) -> float:
    """Live − replay of a field of the usage, summed over problems."""
    return sum(getattr(record.live.tokens, field) - getattr(record.replay.tokens, field) for record in found)


def phase_seconds(found: Iterable[LiveProblem]) -> float:
    """Wall time of the live phase of these problems [s]: the slowest process's; launches add up, and what a killed
    one had not finished is not in it."""
    own: dict[int, float] = {}
    for record in found:
        own[record.wall.rank] = own.get(record.wall.rank, 0.0) + record.wall.phase_s
    return round(max(own.values()), 3)


def sampling_time(folder: Path) -> SamplingTime | None:
    """From the notes in a model's folder; None where nothing was sampled."""
    seconds: dict[Path, float] = {}
    tokens = 0
    for path in sorted(folder.glob("wall-rank*.jsonl")):
        for _, line in read_with_checksums(path, WALL_REMEDY):
            if line["what"] == "sampling":
                seconds[path] = seconds.get(path, 0.0) + line["seconds"]
                tokens += line["tokens"]
    return SamplingTime(max(seconds.values()), tokens) if tokens else None


def _sampling(found: Sequence[LiveProblem], sampled: SamplingTime | None) -> tuple[float | None, bool]:
    """Seconds of sampling all traces of these problems, and whether they were measured rather than shared out."""
    if sampled is None:
        return None, False
    tokens = sum(record.stored_tokens for record in found)
    return round(sampled.seconds * tokens / sampled.tokens, 3), tokens == sampled.tokens


def explain(entry: LiveEntry, dtype: str) -> str:
    """Why live and replay differ, each cause with its size, in a sentence without any text of a model.

    `dtype`: what the model ran in; an exact engine keeps its promise to the last token in float64 only.
    """
    causes = "; ".join(_say(cause, entry.exact) for cause in entry.causes)
    if entry.equal == entry.problems:
        promise = "" if entry.exact else ", which this engine does not promise"
        return f"equal token for token{promise}" + (f"; {causes}" if causes else "")
    differ = f"{entry.problems - entry.equal} of {entry.problems} problems differ"
    fault = _fault(dtype) if entry.exact else ""
    return f"{differ}{fault}: {causes or 'not in tokens'}; in all {_total(entry)}"


def _fault(dtype: str) -> str:
    if dtype == "float64":
        return ", which is an error: this engine draws the same tokens in any batch"
    return f", as in {dtype} another batch rounds differently and now and then flips a drawn token"


def _total(entry: LiveEntry) -> str:
    difference, replayed = entry.difference, entry.replay.tokens.generated
    share = f" ({_signed(100 * difference.generated / replayed, '.1f')} %)" if replayed else ""
    flips = f"{difference.gained} answers right only live, {difference.lost} only in the replay"
    return f"{_signed(difference.generated)} generated tokens{share}, {flips}"


def _say(cause: LiveCause, exact: bool) -> str:
    if cause.cause == "overrun":
        return f"{cause.tokens:,} tokens of overrun, computed in steps that were under way when a trace was stopped"
    if cause.cause == "hidden":
        return "what the server computed after its streams were closed is not told"
    if cause.cause == "steps":
        path = f"the longest path differs by {_signed(cause.steps, ',.1f')} steps per problem"
        return f"{path}, as lengths differ or the engine does not move every trace in every step"
    if cause.cause == "judge":
        return _say_judge(cause)
    if cause.cause == "judge_failed":
        return f"the judge failed in only one of both on {cause.problems} problems, whose traces then all ran on"
    return f"{_REASONS[cause.cause, exact]} ({cause.traces:,} traces, {_signed(cause.generated)} tokens)"


_REASONS = {
    ("before_cut", True): "other tokens before the cut",
    ("before_cut", False): "the engine draws other tokens before the cut, where another batch rounds differently",
    ("after_cut", True): "other tokens behind the cut",
    ("after_cut", False): "the engine draws other tokens when a trace goes on behind its cut",
    ("cap", True): "traces run into the cap in only one of both",
    ("cap", False): "traces that go on with other tokens run into the cap in only one of both",
    ("choice", True): "other traces are chosen to go on",
    ("choice", False): "as cuts or votes differ, other traces are chosen to go on",
}


def _say_judge(cause: LiveCause) -> str:
    named = {"read": "judge_prefill", "taken from its cache": "judge_cached", "generated": "judge_generated"}
    sizes = [f"{_signed(cause.judge[key])} judge tokens {what}" for what, key in named.items() if cause.judge[key]]
    if cause.judge["judge_head"]:
        sizes.append(f"{_signed(cause.judge['judge_head'], '.3g')} multiply-accumulates of its head")
    reason = (
        "the live judge is asked for pairs as they are needed, the replay pays their mean price"
        if cause.lazily
        else "the judge reads other cuts"
    )
    return f"{reason} ({', '.join(sizes)})"


def _signed(value: float, style: str = ",.0f") -> str:
    return f"{value:+{style}}".replace("-", "−")


def wall_words(entry: LiveEntry, places: int) -> str:
    """What the wall-clock times of an entry are of, and how far they can be compared."""
    live = (
        f"live: {entry.live.wall_s:,.1f} s until the last vote, the judge included; problems share up to "
        f"{places} places of an engine"
    )
    seconds = entry.sampling_wall_s
    if seconds is None:
        return f"{live}; how long sampling all their traces took is not noted"
    if entry.sampling_wall_measured:
        return (
            f"{live}; sampling all traces of the same problems took {seconds:,.1f} s; both without opening the engine"
        )
    return (
        f"{live}; sampling all their traces is put at {seconds:,.1f} s, their share by tokens of a phase "
        "that had more problems to fill the places with"
    )
