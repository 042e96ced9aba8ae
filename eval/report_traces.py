"""The trace explorer's data in the page: problems of every benchmark packed one by one, and the list of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepprune.cut import REASONING_WORDS
from eval.report_explorer import example_texts, read_explorer, summary_of
from eval.report_texts import Source, TraceTexts, cut_rules, pack_problems, packed
from eval.table_labels import judge_label, method_label
from eval.trace_view import printable

_LIST_CHARACTERS = 160  # of a problem in the list of problems
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Traced:
    """The problems of one benchmark that have something to be shown, in its run folder."""

    benchmark: str
    folder: Path
    records: list[dict[str, Any]]

    def lengths(self) -> dict[str, list[int]]:
        """Model → tokens of all its traces."""
        lengths: dict[str, list[int]] = {}
        for record in self.records:
            for name, model in record["models"].items():
                lengths.setdefault(name, []).extend(model["n_tokens"])
        return lengths


def read_traced(folders: Mapping[str, Path]) -> list[Traced]:
    """Benchmarks without explorer.json and without examples are left out."""
    found = [Traced(benchmark, folder, read_explorer(folder)) for benchmark, folder in folders.items()]
    return [traced for traced in found if traced.records]


def explorer_data(traced: Sequence[Traced], config: Mapping[str, Any]) -> dict[str, Any]:
    """The packed problems, and the packed list of them that the page reads first; `limit` is how many characters of a
    text are kept, None where all are."""
    models = list(dict.fromkeys(name for one in traced for record in one.records for name in record["models"]))
    sources = [
        Source(
            one.records,
            TraceTexts.of_run(one.folder, models, example_texts(one.folder)),
            cut_rules(one.folder, models, config),
        )
        for one in traced
    ]
    problems, limit = pack_problems(sources)
    index = {
        "models": [printable(name, _LIST_CHARACTERS) for name in models],
        "benchmarks": [printable(one.benchmark, _LIST_CHARACTERS) for one in traced],
        "runs": [[_run_labels(one.records, name) for name in models] for one in traced],
        "words": sorted(REASONING_WORDS),
        "problems": [
            _listed(record, place, models) for place, one in enumerate(traced) for record in one.records
        ],
    }  # fmt: skip
    longest = max((length for source in sources for length in source.texts.lengths), default=0)
    shortest = limit if longest > limit else None
    return {"index": packed(index), "problems": problems, "limit": shortest, "count": len(problems)}


def _listed(record: Record, benchmark: int, models: Sequence[str]) -> dict[str, Any]:
    """A problem in the list; `benchmark` is a place in the list of benchmarks."""
    summary = summary_of(record)
    return {
        "id": printable(record["problem_id"], _LIST_CHARACTERS),
        "problem": printable(record["problem"][:_LIST_CHARACTERS]),
        "benchmark": benchmark,
        "runs": [summary.get(name, []) for name in models],
    }


def _run_labels(records: Sequence[Record], model: str) -> list[str]:
    """What the model's problems were decided by; empty where it has none."""
    runs = next((record["models"][model]["runs"] for record in records if model in record["models"]), [])
    return [_run_label(run) for run in runs]


def _run_label(run: Mapping[str, Any]) -> str:
    judge = f" · {judge_label(run['judge'])}" if run["judge"] else ""
    return printable(method_label(run["method"]) + judge, _LIST_CHARACTERS)
