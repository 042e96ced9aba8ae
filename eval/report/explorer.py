"""What the report's trace explorer is told: every problem packed, and the list of problems that the page reads first.

The page's own explorer.js reads both: the list is an `Index`, a problem is a `PackedProblem` (texts.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from eval.report.bars import printable
from eval.report.texts import TextSource, TraceTexts, cut_rules, pack_problems, packed
from eval.table.explorer import TracedModel, TracedProblem, read_examples, read_explorer
from eval.table.labels import judge_label
from eval.table.registry import method_label
from secateur.deepprune.cut import REASONING_WORDS
from secateur.results import Row
from secateur.runtime.files import JSON

_LIST_CHARACTERS = 160  # of a problem in the list of problems


@dataclass(frozen=True)
class TracedBenchmark:
    """The problems of one benchmark that have something to be shown, in its run folder."""

    benchmark: str
    folder: Path
    problems: list[TracedProblem]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(name for problem in self.problems for name in problem.models))

    def lengths(self) -> dict[str, list[int]]:
        """Model → tokens of all its traces."""
        lengths: dict[str, list[int]] = {}
        for problem in self.problems:
            for name, model in problem.models.items():
                lengths.setdefault(name, []).extend(model.n_tokens)
        return lengths


@dataclass(frozen=True)
class RunSummary:
    """What a list of problems is filtered by: whether a run's vote and the consensus are right, whether pruning
    changed the answer, and the share of generated tokens that was saved (0-1)."""

    right: bool
    consensus_right: bool
    changed: bool
    saved: float


@dataclass(frozen=True)
class ListedProblem:
    """`benchmark` is a place in the list of benchmarks; `runs` has a list for every model, empty where it has no
    traces."""

    id: str
    problem: str
    benchmark: int
    runs: list[list[RunSummary]]


@dataclass(frozen=True)
class Index:
    """`runs`: by benchmark and model what its problems were decided by; `recommended`: benchmark, all together
    included → the run to begin with; `words`: those that are marked in texts."""

    models: list[str]
    benchmarks: list[str]
    runs: list[list[list[str]]]
    recommended: Mapping[str, str]
    words: list[str]
    problems: list[ListedProblem]


@dataclass(frozen=True)
class ExplorerData:
    """The packed list and the packed problems; `limit` is how many characters of a text are kept, None where all
    are."""

    index: str
    problems: list[str]
    limit: int | None

    @property
    def count(self) -> int:
        return len(self.problems)


def read_traced(folders: Mapping[str, Path]) -> list[TracedBenchmark]:
    """Benchmarks without explorer.json are left out."""
    found = [TracedBenchmark(benchmark, folder, read_explorer(folder)) for benchmark, folder in folders.items()]
    return [one for one in found if one.problems]


def text_sources(traced: Sequence[TracedBenchmark], config: Mapping[str, JSON]) -> list[TextSource]:
    """The texts of each benchmark's traces, of all models; `config` is that of the run."""
    models = list(dict.fromkeys(name for one in traced for name in one.models))
    return [_source(one, models, config) for one in traced]


def explorer_data(
    traced: Sequence[TracedBenchmark], sources: Sequence[TextSource], recommended: Mapping[str, Row]
) -> ExplorerData:
    """`sources` are those of the same benchmarks; `recommended`: benchmark → row."""
    models = list(sources[0].rules)
    problems, limit = pack_problems(sources)
    longest = max((length for source in sources for length in source.texts.lengths), default=0)
    return ExplorerData(packed(_index(traced, models, recommended)), problems, limit if longest > limit else None)


def _source(one: TracedBenchmark, models: Sequence[str], config: Mapping[str, JSON]) -> TextSource:
    texts = TraceTexts.of_run(one.folder, models, read_examples(one.folder))
    return TextSource(one.problems, texts, cut_rules(one.folder, models, config))


def link_to(problem_id: str, benchmark: str | None) -> str:
    """The address within the page at which the explorer shows a problem; `benchmark` where there are several."""
    named = {"problem": problem_id} | ({} if benchmark is None else {"benchmark": benchmark})
    return f"#{urlencode({key: printable(value, _LIST_CHARACTERS) for key, value in named.items()})}"


def _index(traced: Sequence[TracedBenchmark], models: Sequence[str], recommended: Mapping[str, Row]) -> Index:
    return Index(
        models=[printable(name, _LIST_CHARACTERS) for name in models],
        benchmarks=[printable(one.benchmark, _LIST_CHARACTERS) for one in traced],
        runs=[[_run_labels(one.problems, name) for name in models] for one in traced],
        recommended={
            printable(name, _LIST_CHARACTERS): _run_label(row.method, row.judge) for name, row in recommended.items()
        },
        words=sorted(REASONING_WORDS),
        problems=[_listed(problem, place, models) for place, one in enumerate(traced) for problem in one.problems],
    )


def _listed(problem: TracedProblem, benchmark: int, models: Sequence[str]) -> ListedProblem:
    return ListedProblem(
        id=printable(problem.problem_id, _LIST_CHARACTERS),
        problem=printable(problem.problem[:_LIST_CHARACTERS]),
        benchmark=benchmark,
        runs=[run_summaries(problem.models[name]) if name in problem.models else [] for name in models],
    )


def _run_labels(problems: Sequence[TracedProblem], model: str) -> list[str]:
    """What the model's problems were decided by; empty where it has none."""
    runs = next((problem.models[model].runs for problem in problems if model in problem.models), ())
    return [_run_label(run.method, run.judge) for run in runs]


def _run_label(method: str, judge: str | None) -> str:
    asked = f" · {judge_label(judge)}" if judge else ""
    return printable(method_label(method) + asked, _LIST_CHARACTERS)


def run_summaries(model: TracedModel) -> list[RunSummary]:
    consensus, total = model.runs[-1], sum(model.n_tokens)
    return [
        RunSummary(
            right=run.right,
            consensus_right=consensus.right,
            changed=run.vote != consensus.vote,
            saved=round(1 - sum(run.kept) / total, 4) if total else 0.0,
        )
        for run in model.runs
    ]
