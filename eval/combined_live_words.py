"""What makes a live run and its replay differ, in a sentence of plain text without any text of a model. Pure."""

from collections.abc import Mapping
from typing import Any

Cause = Mapping[str, Any]


def explain(entry: Mapping[str, Any], dtype: str) -> str:
    """Why live and replay of an entry of eval/combined_live_summary.py differ, each cause with its size.

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
