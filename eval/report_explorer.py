"""What the report's trace explorer is told about every problem: its traces, and what each rule did with them.

A combined run leaves it as `explorer.json`, a list of problems: `{problem_id, problem, gold, models}`, where
`models` maps names to `{n_tokens, cut_tokens, names, answers, right, runs}`. All lists but `names` and `runs` have
one entry per trace, `answers` are places in `names`, and each of `runs` is
`{method, judge, labels, kept, survivors, vote, right}`; the last one is the vote of all traces. Lengths are in
tokens. Texts stay in the trace folders (report_texts.py).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepprune.decide import PruneRule
from deepprune.vote import majority
from eval.methods import Pruned, prune_once
from eval.records import ProblemRecord
from eval.rules import PUBLISHED
from runtime.files import read_json, write_text
from tasks.records import Problem

if TYPE_CHECKING:
    from eval.combined_results import ModelRecords

FILE = "explorer.json"
FULL_VOTE = "consensus"


def write_explorer(
    folder: str | Path,
    problems: Sequence[Problem],
    rules: Mapping[str, PruneRule],
    records: Mapping[str, "ModelRecords"],
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
    records: "ModelRecords", index: int, answers: Sequence[str | None], rules: Mapping[str, PruneRule]
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
    method: str, judge: str, run: Pruned, places: Mapping[Any, int], record: ProblemRecord
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
