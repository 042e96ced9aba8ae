"""Live runs and their replays side by side, for combined.json: figures of both, and where the difference comes from.

Both columns are about the same problems and the stored order of their traces; a row of the table averages its replay
over orders, so it may differ from the replay here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from eval.table.config import CombinedConfig
from eval.table.live import TOKEN_CAUSES, asks_all_pairs
from eval.table.store import judge_labels, read_engine, read_live
from secateur.engines.accounting import JUDGE_COSTS, Usage
from secateur.engines.registry import engine_kind
from secateur.runtime.files import read_jsonl
from secateur.runtime.statistics import paired_difference
from secateur.tasks.records import Problem

Cause = Mapping[str, Any]


def explain(entry: Mapping[str, Any], dtype: str) -> str:
    """Why live and replay of an entry of eval/table/live_report.py differ, each cause with its size.

    `dtype`: what the model ran in; an exact engine keeps its promise to the last token in float64 only.
    """
    causes = "; ".join(_say(cause, entry["exact"]) for cause in entry["causes"])
    if entry["equal"] == entry["problems"]:
        promise = "" if entry["exact"] else ", which this engine does not promise"
        return f"equal token for token{promise}" + (f"; {causes}" if causes else "")
    differ = f"{entry['problems'] - entry['equal']} of {entry['problems']} problems differ"
    fault = _fault(dtype) if entry["exact"] else ""
    return f"{differ}{fault}: {causes or 'not in tokens'}; in all {_total(entry)}"


def _fault(dtype: str) -> str:
    if dtype == "float64":
        return ", which is an error: this engine draws the same tokens in any batch"
    return f", as in {dtype} another batch rounds differently and now and then flips a drawn token"


def _total(entry: Mapping[str, Any]) -> str:
    difference, replayed = entry["difference"], entry["replay"]["generated"]
    share = f" ({_signed(100 * difference['generated'] / replayed, '.1f')} %)" if replayed else ""
    flips = f"{difference['gained']} answers right only live, {difference['lost']} only in the replay"
    return f"{_signed(difference['generated'])} generated tokens{share}, {flips}"


def _say(cause: Cause, exact: bool) -> str:
    name = cause["cause"]
    if name == "overrun":
        return (
            f"{cause['tokens']:,} tokens of overrun, computed in steps that were under way when a trace was stopped"
        )
    if name == "hidden":
        return "what the server computed after its streams were closed is not told"
    if name == "steps":
        path = f"the longest path differs by {_signed(cause['steps'], ',.1f')} steps per problem"
        return f"{path}, as lengths differ or the engine does not move every trace in every step"
    if name == "judge":
        return _say_judge(cause)
    if name == "judge_failed":
        return f"the judge failed in only one of both on {cause['problems']} problems, whose traces then all ran on"
    size = f"{cause['traces']:,} traces, {_signed(cause['generated'])} tokens"
    return f"{_REASONS[name, exact]} ({size})"


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


def _say_judge(cause: Cause) -> str:
    named = {"read": "judge_prefill", "taken from its cache": "judge_cached", "generated": "judge_generated"}
    sizes = [f"{_signed(cause[key])} judge tokens {what}" for what, key in named.items() if cause[key]]
    if cause["judge_head"]:
        sizes.append(f"{_signed(cause['judge_head'], '.3g')} multiply-accumulates of its head")
    reason = (
        "the live judge is asked for pairs as they are needed, the replay pays their mean price"
        if cause["lazily"]
        else "the judge reads other cuts"
    )
    return f"{reason} ({', '.join(sizes)})"


def _signed(value: float, style: str = ",.0f") -> str:
    return f"{value:+{style}}".replace("-", "−")


def wall_words(entry: Mapping[str, Any], places: int) -> str:
    """What the wall-clock times of an entry are of, and how far they can be compared."""
    live = (
        f"live: {entry['live']['wall_s']:,.1f} s until the last vote, the judge included; problems share up to "
        f"{places} places of an engine"
    )
    seconds = entry["sampling_wall_s"]
    if seconds is None:
        return f"{live}; how long sampling all their traces took is not noted"
    if entry["sampling_wall_measured"]:
        return (
            f"{live}; sampling all traces of the same problems took {seconds:,.1f} s; both without opening the engine"
        )
    return (
        f"{live}; sampling all their traces is put at {seconds:,.1f} s, their share by tokens of a phase "
        "that had more problems to fill the places with"
    )


Records = dict[str, dict[str, Any]]  # problem id → what `eval.table.live.compare` says, and `wall`


@dataclass(frozen=True)
class EngineFacts:
    """`name` and `exact` of the engine as in engine.json, the traces it was given at once, what the model ran in."""

    name: str
    exact: bool
    places: int
    dtype: str


@dataclass(frozen=True)
class SamplingTime:
    """What is noted of the sampling of all n traces: wall time [s] of the slowest process, `tokens` made in it."""

    seconds: float
    tokens: int


def live_entries(config: CombinedConfig, problems: Sequence[Problem], benchmark: str) -> list[dict[str, Any]]:
    """One entry per model and method that ran live; [] if nothing did.

    `config` is that of one benchmark's run folder, `problems` all of its problems in their order. See `live_entry`;
    `benchmark`, `model`, `method` and `judge` say which one it is.
    """
    live = problems[: config.live_count(len(problems))]
    entries = []
    for model in config.models if live else ():
        about = read_engine(config, model)
        facts = EngineFacts(about["engine"], about["exact"], config.rows, config.dtype)
        sampled = sampling_time(Path(config.output_dir) / model)
        for method, rule in config.rules.items():
            records = {problem.id: read_live(config, model, method, problem) for problem in live}
            name = {"benchmark": benchmark, "model": model, "method": method, "judge": judge_labels(config, model)[0]}
            all_pairs = asks_all_pairs(rule, next(iter(records.values()))["traces"])
            entries.append(name | live_entry(records, facts, all_pairs, sampled))
    return entries


def live_entry(
    records: Records, facts: EngineFacts, all_pairs: bool, sampled: SamplingTime | None = None
) -> dict[str, Any]:
    """Live and replay of some problems beside each other.

    `live` and `replay`: accuracy (0-1); finished traces and longest_path [steps], means; capped traces; every other
    field of `Usage`, sums; wall_s of the live phase. `difference`: live − replay, accuracy paired by problem.
    `causes`: see `find_causes`. `sampling_wall_s`: what sampling all n traces of these problems took, or, where
    `sampling_wall_measured` is False, their share of it by tokens; None where it is not known. `words` and
    `wall_words` say all that in a sentence. `all_pairs`: see `eval.table.live.asks_all_pairs`.
    """
    found = list(records.values())
    live, replayed = (_column(found, side) for side in ("live", "replay"))
    live["wall_s"], replayed["wall_s"] = phase_seconds(found), None
    causes = find_causes(found, all_pairs, facts)
    entry = {
        "problems": len(found),
        "equal": sum(record["equal"] for record in found),
        "exact": facts.exact,
        "live": live,
        "replay": replayed,
        "difference": _difference(found, live, replayed),
        "causes": causes,
        "unequal": {name: record["difference"] for name, record in records.items() if not record["equal"]},
        **_sampling(found, sampled),
    }
    places = max(facts.places, max(record["traces"] for record in found))
    return entry | {"words": explain(entry, facts.dtype), "wall_words": wall_words(entry, places)}


def _column(found: Sequence[dict[str, Any]], side: str) -> dict[str, Any]:
    usages = [record[side]["usage"] for record in found]
    sums = {field.name: sum(usage[field.name] for usage in usages) for field in fields(Usage)}
    return {
        "accuracy": _mean(record[side]["right"] for record in found),
        "finished": _mean(record[side]["finished"] for record in found),
        "capped": sum(record[side]["capped"] for record in found),
        **{name: round(value, 3) for name, value in sums.items()},
        "longest_path": _mean(usage["longest_path"] for usage in usages),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _difference(found: Sequence[dict[str, Any]], live: dict[str, Any], replayed: dict[str, Any]) -> dict[str, Any]:
    pairs = [(record["live"]["right"], record["replay"]["right"]) for record in found]
    mean, low, high = paired_difference([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    return {
        "accuracy": mean,
        "ci95": [low, high],
        "gained": sum(a and not b for a, b in pairs),
        "lost": sum(b and not a for a, b in pairs),
        "generated": live["generated"] - replayed["generated"],
    }


def find_causes(found: Sequence[dict[str, Any]], all_pairs: bool, facts: EngineFacts) -> list[dict[str, Any]]:
    """What makes live and replay differ, each with its measured size; causes of size zero are left out.

    before_cut, after_cut, cap, choice (see eval/table/live.py): `traces`, and `generated` tokens more than
    in the replay, which add up to the whole difference. overrun: `tokens` computed after a stop. hidden: a server
    does not tell all of these. steps: how much longer the longest path is, a mean. judge: what it cost more than in
    the replay, and whether it was asked `lazily`, pair by pair, where the replay pays the mean price of every pair
    that the rule looks at. judge_failed: `problems` in which it failed in only one of both.
    """
    causes: list[dict[str, Any]] = []
    for cause in TOKEN_CAUSES:
        sizes = {key: sum(record["causes"][cause][key] for record in found) for key in ("traces", "generated")}
        causes += [{"cause": cause, **sizes}] if any(sizes.values()) else []
    causes += _overrun(found, facts)
    steps = _gap(found, lambda side: side["usage"]["longest_path"]) / len(found)
    causes += [{"cause": "steps", "steps": steps}] if steps else []
    costs = {key: round(_gap(found, lambda side, key=key: side["usage"][key]), 3) for key in JUDGE_COSTS}
    causes += [{"cause": "judge", "lazily": not all_pairs, **costs}] if any(costs.values()) else []
    failed = sum(bool(record["live"]["judge_failure"]) != bool(record["replay"]["judge_failure"]) for record in found)
    return causes + ([{"cause": "judge_failed", "problems": failed}] if failed else [])


def _overrun(found: Sequence[dict[str, Any]], facts: EngineFacts) -> list[dict[str, Any]]:
    tokens = sum(record["live"]["usage"]["overrun"] for record in found)
    causes: list[dict[str, Any]] = [{"cause": "overrun", "tokens": tokens}] if tokens else []
    return causes + ([{"cause": "hidden"}] if engine_kind(facts.name).hides_overrun else [])


def _gap(found: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    """Live − replay, summed over problems."""
    return sum(value(record["live"]) - value(record["replay"]) for record in found)


def phase_seconds(found: Iterable[dict[str, Any]]) -> float:
    """Wall time of the live phase of these problems [s]: the slowest process's; launches add up, and what a killed
    one had not finished is not in it."""
    own: dict[int, float] = {}
    for record in found:
        wall = record["wall"]
        own[wall["rank"]] = own.get(wall["rank"], 0.0) + wall["phase_s"]
    return round(max(own.values()), 3)


def sampling_time(folder: Path) -> SamplingTime | None:
    """From the notes in a model's folder; None where one does not say how many tokens it is about."""
    seconds: dict[Path, float] = {}
    tokens = 0
    for path in sorted(folder.glob("wall-rank*.jsonl")):
        for _, line in read_jsonl(path):
            if line["what"] != "sampling":
                continue
            if "tokens" not in line:
                return None
            seconds[path] = seconds.get(path, 0.0) + line["seconds"]
            tokens += line["tokens"]
    return SamplingTime(max(seconds.values()), tokens) if tokens else None


def _sampling(found: Sequence[dict[str, Any]], sampled: SamplingTime | None) -> dict[str, Any]:
    if sampled is None:
        return {"sampling_wall_s": None, "sampling_wall_measured": False}
    tokens = sum(record["stored_tokens"] for record in found)
    seconds = round(sampled.seconds * tokens / sampled.tokens, 3)
    return {"sampling_wall_s": seconds, "sampling_wall_measured": tokens == sampled.tokens}
