"""Every trace of a few problems as a bar: what the report draws, worked out here so that the template only prints."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.figures import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, YELLOW

CLUSTER_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
OTHER_COLOUR = "#999999"
_LABEL_CHARACTERS = 200
_SHOWN_CHARACTERS = 6000  # of one trace: a report is read by people


@dataclass(frozen=True)
class Bar:
    """One trace. Lengths are shares (0-100) of the token axis: `solid` was generated, `ghost` was saved."""

    sample: int
    cluster: str
    colour: str
    solid: float
    ghost: float
    cut: float | None
    pruned: bool
    voted: bool
    answer: str
    right: bool
    n_tokens: int
    spent_tokens: int
    text: str


@dataclass(frozen=True)
class Panel:
    """All traces of one model on one problem; `spent` and `full` are sums of tokens."""

    model: str
    bars: list[Bar]
    vote: str
    right: bool
    finished: int
    clusters: int
    spent: int
    full: int

    @property
    def saving(self) -> float:
        return 1.0 - self.spent / self.full


@dataclass(frozen=True)
class ProblemView:
    problem_id: str
    problem: str
    gold: str
    axis: int
    """Tokens at the right end of the axis, the same for all panels of the problem."""
    panels: list[Panel]


def printable(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """Text that a page can hold: lone surrogates and control characters replaced, a flood cut off and said so."""
    shown = text[:limit].encode("utf-8", "replace").decode("utf-8")
    shown = "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "�" for c in shown)
    left_out = len(text) - limit
    return f"{shown}\n[… {left_out:,} more characters]" if left_out > 0 else shown


def cluster_name(rank: int | None) -> str:
    """A, B, … Z, AA, …; an en dash for a trace that was never assigned."""
    if rank is None:
        return "–"
    name = chr(ord("A") + rank % 26)
    return name if rank < 26 else cluster_name(rank // 26 - 1) + name


def _ranks(traces: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Place of each cluster when ordered by size, the largest first."""
    sizes: dict[int, int] = {}
    for trace in traces:
        if trace["cluster"] is not None:
            sizes[trace["cluster"]] = sizes.get(trace["cluster"], 0) + 1
    return {cluster: rank for rank, cluster in enumerate(sorted(sizes, key=lambda c: (-sizes[c], c)))}


def _bar(trace: Mapping[str, Any], rank: int | None, axis: int) -> Bar:
    spent = trace["cut_tokens"] if trace["status"] == "pruned" else trace["n_tokens"]
    cut = trace["cut_tokens"]
    return Bar(
        sample=trace["sample"],
        cluster=cluster_name(rank),
        colour=CLUSTER_COLOURS[rank] if rank is not None and rank < len(CLUSTER_COLOURS) else OTHER_COLOUR,
        solid=100 * spent / axis,
        ghost=100 * (trace["n_tokens"] - spent) / axis,
        cut=None if cut is None else 100 * cut / axis,
        pruned=trace["status"] == "pruned",
        voted=trace["voted"],
        answer=printable(trace["answer"] or "no answer", _LABEL_CHARACTERS),
        right=trace["right"],
        n_tokens=trace["n_tokens"],
        spent_tokens=spent,
        text=printable(trace["text"]),
    )


def _panel(model: str, panel: Mapping[str, Any], axis: int) -> Panel:
    traces = panel["traces"]
    ranks = _ranks(traces)
    last = len(ranks)
    ordered = sorted(
        traces, key=lambda t: (ranks.get(t["cluster"], last), not t["voted"], -t["n_tokens"], t["sample"])
    )
    bars = [_bar(trace, ranks.get(trace["cluster"]), axis) for trace in ordered]
    return Panel(
        model=model,
        bars=bars,
        vote=printable(panel["vote"] or "none", _LABEL_CHARACTERS),
        right=panel["vote_right"],
        finished=sum(bar.voted for bar in bars),
        clusters=len(ranks),
        spent=sum(bar.spent_tokens for bar in bars),
        full=sum(bar.n_tokens for bar in bars),
    )


def problem_views(examples: Sequence[Mapping[str, Any]]) -> list[ProblemView]:
    """From examples.json of a combined run to what the template prints."""
    views = []
    for example in examples:
        lengths = [trace["n_tokens"] for panel in example["panels"].values() for trace in panel["traces"]]
        axis = max(20, -(-max(lengths) // 20) * 20)
        panels = [_panel(model, panel, axis) for model, panel in example["panels"].items()]
        views.append(
            ProblemView(
                problem_id=printable(example["problem_id"], _LABEL_CHARACTERS),
                problem=printable(example["problem"]),
                gold=printable(example["gold"], _LABEL_CHARACTERS),
                axis=axis,
                panels=panels,
            )
        )
    return views
