"""Traces of a few problems as bars, for readers without JavaScript; the explorer shows all of them."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from eval.table.explorer import RuleRun, TracedModel, TracedProblem
from secateur.runtime.pictures import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, YELLOW

CLUSTER_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
OTHER_COLOUR = "#999999"
_LABEL_CHARACTERS = 200
_SHOWN_CHARACTERS = 6000
_SHOWN_BARS = 64


@dataclass(frozen=True)
class Bar:
    """One trace. Lengths are per cent of the token axis: `solid` was generated, `ghost` was saved; `cut` is a place
    on it."""

    cluster: str
    colour: str
    solid: float
    ghost: float
    cut: float | None
    voted: bool
    answer: str
    right: bool


@dataclass(frozen=True)
class Panel:
    """Traces of one model on one problem, by the first rule; `spent` by it and `full` lengths are sums of tokens over
    all of them, `left_out` is how many have no bar here."""

    model: str
    bars: list[Bar]
    left_out: int
    vote: str
    right: bool
    finished: int
    spent: int
    full: int


@dataclass(frozen=True)
class ProblemView:
    """`axis`: tokens at the right end of the axis, the same for all panels of the problem."""

    problem_id: str
    problem: str
    gold: str
    axis: int
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


def ranked(labels: Sequence[int | None]) -> list[int | None]:
    """Cluster labels replaced by the cluster's place when ordered by size, the largest first.

    >>> ranked([5, 2, 2, None])
    [1, 0, 0, None]
    """
    sizes: dict[int, int] = {}
    for label in labels:
        if label is not None:
            sizes[label] = sizes.get(label, 0) + 1
    ranks = {label: rank for rank, label in enumerate(sorted(sizes, key=lambda c: (-sizes[c], c)))}
    return [None if label is None else ranks[label] for label in labels]


def problem_views(problems: Sequence[TracedProblem]) -> list[ProblemView]:
    """What the template prints of some problems."""
    return [_problem_view(problem) for problem in problems]


def _problem_view(problem: TracedProblem) -> ProblemView:
    longest = max((length for model in problem.models.values() for length in model.n_tokens), default=0)
    axis = max(20, -(-longest // 20) * 20)
    return ProblemView(
        problem_id=printable(problem.problem_id, _LABEL_CHARACTERS),
        problem=printable(problem.problem),
        gold=printable(problem.gold, _LABEL_CHARACTERS),
        axis=axis,
        panels=[_panel(name, model, axis) for name, model in problem.models.items()],
    )


def _panel(name: str, model: TracedModel, axis: int) -> Panel:
    run, ranks = model.runs[0], ranked(model.runs[0].labels)
    shown = _in_order(model, run, ranks)[:_SHOWN_BARS]
    return Panel(
        model=printable(name, _LABEL_CHARACTERS),
        bars=[_bar(model, run, trace, ranks[trace], axis) for trace in shown],
        left_out=len(ranks) - len(shown),
        vote="none" if run.vote is None else printable(model.names[run.vote], _LABEL_CHARACTERS),
        right=run.right,
        finished=len(run.survivors),
        spent=sum(run.kept),
        full=sum(model.n_tokens),
    )


def _in_order(model: TracedModel, run: RuleRun, ranks: Sequence[int | None]) -> list[int]:
    """Traces by cluster, the largest first; in each those that vote before the others, the longest first."""
    voters, last = set(run.survivors), len(ranks)

    def key(trace: int) -> tuple[int, bool, int, int]:
        rank = ranks[trace]
        return last if rank is None else rank, trace not in voters, -model.n_tokens[trace], trace

    return sorted(range(len(ranks)), key=key)


def _bar(model: TracedModel, run: RuleRun, trace: int, rank: int | None, axis: int) -> Bar:
    kept, cut, answer = run.kept[trace], model.cut_tokens[trace], model.answers[trace]
    return Bar(
        cluster=cluster_name(rank),
        colour=CLUSTER_COLOURS[rank] if rank is not None and rank < len(CLUSTER_COLOURS) else OTHER_COLOUR,
        solid=100 * kept / axis,
        ghost=100 * (model.n_tokens[trace] - kept) / axis,
        cut=None if cut is None else 100 * cut / axis,
        voted=trace in run.survivors,
        answer="no answer" if answer is None else printable(model.names[answer], _LABEL_CHARACTERS),
        right=model.right[trace],
    )
