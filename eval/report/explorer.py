"""What the report's trace explorer is told about every problem: its traces, and what each rule did with them.

A combined run leaves it as `explorer.json`, a list of problems: `{problem_id, problem, gold, models}`, where
`models` maps names to `{n_tokens, cut_tokens, names, answers, right, runs}`. All lists but `names` and `runs` have
one entry per trace, `answers` are places in `names`, and each of `runs` is
`{method, judge, labels, kept, survivors, vote, right}`; the last one is the vote of all traces. Lengths are in
tokens. Texts stay in the trace folders (report_texts.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.report.bars import printable
from eval.report.texts import Source, TraceTexts, cut_rules, pack_problems, packed
from eval.table.labels import judge_label, method_label
from eval.table.methods import Pruned, prune_once
from eval.table.problems import ReplayProblem
from eval.table.rules import PUBLISHED
from secateur.deepprune.cut import REASONING_WORDS
from secateur.deepprune.rule import PruneRule
from secateur.deepprune.vote import majority
from secateur.runtime.files import read_json, write_text
from secateur.tasks.records import Problem

if TYPE_CHECKING:
    from eval.table.results import ReplayModel

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


FILE = "explorer.json"
FULL_VOTE = "consensus"


def write_explorer(
    folder: str | Path,
    problems: Sequence[Problem],
    rules: Mapping[str, PruneRule],
    records: Mapping[str, "ReplayModel"],
    answers: Mapping[str, Sequence[Sequence[str | None]]],
) -> None:
    """Replace `explorer.json` in `folder`. `records` and `answers` are by model; the latter [problems][traces]."""
    lines = []
    for index, problem in enumerate(problems):
        models = {name: _model_record(found, index, answers[name][index], rules) for name, found in records.items()}
        line = {"problem_id": problem.id, "problem": problem.problem, "gold": problem.answer, "models": models}
        lines.append(json.dumps(line))
    write_text(Path(folder) / FILE, "[\n" + ",\n".join(lines) + "\n]\n")


def _model_record(
    records: "ReplayModel", index: int, answers: Sequence[str | None], rules: Mapping[str, PruneRule]
) -> dict[str, Any]:
    plain = records.plain[index]
    first = {}
    for key, answer in zip(plain.keys, answers, strict=True):
        if key is not None:
            first.setdefault(key, answer)
    places = {key: place for place, key in enumerate(first)}
    runs = [
        _run_record(method, judge, prune_once(records.judged[judge][index], rule), places, plain)
        for judge in records.deepprune_by
        for method, rule in rules.items()
    ]
    return _with_full_vote(
        {
            "n_tokens": [trace.n_tokens for trace in plain.traces],
            "cut_tokens": [trace.cut_tokens for trace in plain.traces],
            "names": list(first.values()),
            "answers": [places.get(key) for key in plain.keys],
            "right": [key in plain.right for key in plain.keys],
            "runs": runs,
        }
    )


def _run_record(
    method: str, judge: str, run: Pruned, places: Mapping[Any, int], record: ReplayProblem
) -> dict[str, Any]:
    return {
        "method": method,
        "judge": judge,
        "labels": run.labels,
        "kept": run.kept_tokens,
        "survivors": run.survivors,
        "vote": places.get(run.key),
        "right": run.key in record.right,
    }


def _with_full_vote(model: dict[str, Any]) -> dict[str, Any]:
    """Adds the vote of all traces, which every rule is held against."""
    n, vote = len(model["n_tokens"]), majority(model["answers"])
    run = {
        "method": FULL_VOTE,
        "judge": None,
        "labels": [None] * n,
        "kept": model["n_tokens"],
        "survivors": list(range(n)),
        "vote": vote,
        "right": vote is not None and model["right"][model["answers"].index(vote)],
    }
    return model | {"runs": [*model["runs"], run]}


def read_explorer(folder: str | Path) -> list[dict[str, Any]]:
    """The problems of a combined run; of a run that left only its examples, those. Empty where there is neither."""
    folder = Path(folder)
    if (folder / FILE).is_file():
        return read_json(folder / FILE)
    examples = folder / "examples.json"
    return [_from_example(example) for example in read_json(examples)] if examples.is_file() else []


def example_texts(folder: str | Path) -> dict[tuple[str, str], list[str]]:
    """(model, problem id) → the texts in examples.json, where it is there."""
    path = Path(folder) / "examples.json"
    return {
        (model, example["problem_id"]): [trace["text"] for trace in panel["traces"]]
        for example in (read_json(path) if path.is_file() else [])
        for model, panel in example["panels"].items()
    }


def _from_example(example: Mapping[str, Any]) -> dict[str, Any]:
    models = {name: _from_panel(panel) for name, panel in example["panels"].items()}
    return {key: example[key] for key in ("problem_id", "problem", "gold")} | {"models": models}


def _from_panel(panel: Mapping[str, Any]) -> dict[str, Any]:
    traces = panel["traces"]
    names = list(dict.fromkeys(trace["answer"] for trace in traces if trace["answer"] is not None))
    places = {name: place for place, name in enumerate(names)}
    run = {
        "method": PUBLISHED,
        "judge": None,
        "labels": [trace["cluster"] for trace in traces],
        "kept": [t["cut_tokens"] if t["status"] == "pruned" else t["n_tokens"] for t in traces],
        "survivors": [index for index, trace in enumerate(traces) if trace["voted"]],
        "vote": places.get(panel["vote"]),
        "right": panel["vote_right"],
    }
    return _with_full_vote(
        {
            "n_tokens": [trace["n_tokens"] for trace in traces],
            "cut_tokens": [trace["cut_tokens"] for trace in traces],
            "names": names,
            "answers": [places.get(trace["answer"]) for trace in traces],
            "right": [trace["right"] for trace in traces],
            "runs": [run],
        }
    )


def summary_of(record: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Model → per run what a list of problems can be filtered by: whether its vote and that of all traces are right,
    whether pruning changed the answer, and the share of generated tokens that was saved (0-1)."""
    found = {}
    for name, model in record["models"].items():
        full, total = model["runs"][-1], sum(model["n_tokens"])
        found[name] = [
            {
                "right": run["right"],
                "full": full["right"],
                "changed": run["vote"] != full["vote"],
                "saved": round(1 - sum(run["kept"]) / total, 4) if total else 0.0,
            }
            for run in model["runs"]
        ]
    return found
