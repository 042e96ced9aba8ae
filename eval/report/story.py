"""One problem told side by side: a text of the reference and one of what is recommended.

Not the best case: of the problems that both answer rightly, the one whose saving is the median; and of the traces
that voted for the answer, the one whose length is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.report.answer import benchmarks_of, rows_of
from eval.report.bars import printable
from eval.report.explorer import TracedBenchmark, link_to
from eval.report.texts import TextSource, shortened
from eval.table.explorer import RuleRun, TracedModel, TracedProblem
from eval.table.labels import row_label
from secateur.results import Recommendation, Row, Table

_CHARACTERS = 3000  # of a text
_PROBLEM_CHARACTERS = 1200


@dataclass(frozen=True)
class Side:
    """`text` is one trace of `tokens`; `spent` by all of the problem's traces, of which `finished` of `n` voted."""

    name: str
    text: str
    tokens: int
    spent: int
    finished: int
    n: int
    answer: str
    right: bool


@dataclass(frozen=True)
class Story:
    """`chosen` says why this problem, `link` is where the explorer shows it; `benchmark` is that of the
    recommendation."""

    benchmark: str
    problem_id: str
    problem: str
    gold: str
    chosen: str
    link: str
    before: Side
    after: Side


@dataclass(frozen=True)
class _Told:
    """A problem, and what the reference and the recommended row did with it."""

    source: TextSource
    link: str
    problem: TracedProblem
    before: RuleRun
    after: RuleRun

    @property
    def spent_share(self) -> float:
        return sum(self.after.kept) / max(sum(self.before.kept), 1)

    @property
    def both_right(self) -> bool:
        return self.before.right and self.after.right


def stories(table: Table, traced: Sequence[TracedBenchmark], sources: Sequence[TextSource]) -> list[Story]:
    """One for each benchmark whose recommendation is not the reference, as far as the explorer shows what it did and
    the texts are there; `sources` are those of the traced benchmarks."""
    pairs = list(zip(traced, sources, strict=True))
    found = [_story(table, advice, pairs) for advice in table.recommendations]
    return [one for one in found if one is not None and one.before.text and one.after.text]


def _story(
    table: Table, advice: Recommendation, traced: Sequence[tuple[TracedBenchmark, TextSource]]
) -> Story | None:
    pair = rows_of(table, advice)
    if pair is None or pair[0] is pair[1]:
        return None
    wanted = benchmarks_of(table, pair[0])
    of_one = [(each, source) for each, source in traced if each.benchmark in wanted]
    told = [one for each, source in of_one for one in _told(each, source, len(traced) > 1, *pair)]
    right = [one for one in told if one.both_right]
    if not told:
        return None
    ordered = sorted(right or told, key=lambda one: (one.spent_share, one.problem.problem_id))
    return _as_story(ordered[len(ordered) // 2], *pair, len(right))


def _told(one: TracedBenchmark, source: TextSource, several: bool, chosen: Row, reference: Row) -> list[_Told]:
    found, benchmark = [], one.benchmark if several else None
    for problem in one.problems:
        before, after = run_of(problem, reference), run_of(problem, chosen)
        if before is not None and after is not None:
            found.append(_Told(source, link_to(problem.problem_id, benchmark), problem, before, after))
    return found


def run_of(problem: TracedProblem, row: Row) -> RuleRun | None:
    """What the row's method did with a problem; None where the explorer does not show it."""
    model = problem.models.get(row.model)
    runs = [] if model is None else model.runs
    return next((run for run in runs if (run.method, run.judge) == (row.method, row.judge)), None)


def _as_story(told: _Told, chosen: Row, reference: Row, right: int) -> Story:
    many = f"of the {right:,} problems that both answer rightly" if right else "of all, as they answer none rightly"
    return Story(
        benchmark=chosen.benchmark,
        problem_id=printable(told.problem.problem_id, 120),
        problem=printable(told.problem.problem, _PROBLEM_CHARACTERS),
        gold=printable(told.problem.gold, 120),
        chosen=f"No best case: {many}, the one with the median saving.",
        link=told.link,
        before=_side(told, reference, told.before),
        after=_side(told, chosen, told.after),
    )


def _side(told: _Told, row: Row, run: RuleRun) -> Side:
    model = told.problem.models[row.model]
    trace = _median_voter(model, run)
    text = told.source.texts.of(told.problem.problem_id, row.model, len(model.n_tokens))[trace]
    return Side(
        name=printable(row_label(row), 120),
        text=shortened(text, _CHARACTERS),
        tokens=model.n_tokens[trace],
        spent=sum(run.kept),
        finished=len(run.survivors),
        n=len(model.n_tokens),
        answer="none" if run.vote is None else printable(model.names[run.vote], 120),
        right=run.right,
    )


def _median_voter(model: TracedModel, run: RuleRun) -> int:
    """Of the traces that gave the answer; of all that voted, or of all, where there are none."""
    voters = [trace for trace in run.survivors if run.vote is not None and model.answers[trace] == run.vote]
    traces = sorted(voters or run.survivors or range(len(model.n_tokens)), key=lambda trace: model.n_tokens[trace])
    return traces[len(traces) // 2]
