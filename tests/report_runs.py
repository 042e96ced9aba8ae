"""Small combined runs as the report finds them on disk, with texts that try to do harm."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur.runtime.files import append_jsonl, write_json

HOSTILE = (
    "<script>document.title='owned'</script>",
    "</textarea></pre></details><h1>owned</h1><img src=x onerror=alert(1)>",
    "\u202egnp.exe \u2066right to left\u2069",
    "{{ 7 * 7 }} {% raw %} ${7*7} $x_1$ &amp; &lt;",
    "null \x00 bell \x07 escape \x1b[31m",
    "lone surrogate \ud800 here",
)


def make_row(model: str, method: str, judge: str | None, accuracy: float, saving: float) -> dict[str, Any]:
    return {
        "model": model,
        "method": method,
        "judge": judge,
        "n": 4,
        "problems": 12,
        "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.1, accuracy + 0.1],
        "finished": 2.5,
        "tokens": {
            "generated": 1000.0, "overrun": 0, "judge_prefill": 10, "judge_cached": 0, "judge_generated": 0,
            "judge_head": 99, "longest_path": 80.5,
        },
        "wall_s": None,
        "saving_gross": saving + 0.01,
        "saving_net": saving,
    }  # fmt: skip


def make_combined(folder: Path, texts: list[str], problems: str = "mine.jsonl", model: str = "pruned") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        make_row(name, method, judge, 0.6 + 0.1 * index - 0.05 * second, saving + second * (1 - saving) / 2)
        for second, name in enumerate(("base", model))
        for index, (method, judge, saving) in enumerate(
            [
                ("single", None, 0.98),
                ("consensus", None, 0.0),
                ("deepprune", "linear", 0.7),
                ("deepprune", "random", 0.7),
            ]
        )
    ]
    difference = {"label": f"{model}: DeepPrune − other", "difference": 0.02, "ci95": [-0.01, 0.05]}
    combined = {
        "rows": rows,
        "differences": [difference],
        "live_equals_replay": {"problems": 2, "equal": 2, "unequal": {}},
        "config": {"problems": problems, "orders": 3},
        "versions": {"torch": "2"},
    }
    write_json(folder / "combined.json", combined)
    panel = {
        "traces": [
            {
                "sample": index, "n_tokens": 50 + index, "cut_tokens": 10 if index % 2 else None,
                "status": "pruned" if index % 2 else "finished", "voted": not index % 2, "cluster": index % 3 or None,
                "answer": text, "right": index == 0, "text": text,
            }
            for index, text in enumerate(texts)
        ],
        "vote": texts[0],
        "vote_right": True,
    }  # fmt: skip
    example = {
        "problem_id": texts[0],
        "problem": texts[-1],
        "gold": texts[0],
        "panels": {"base": panel, model: panel},
    }

    # Written as a foreign tool might: JSON allows lone surrogates as escapes.
    (folder / "examples.json").write_text(json.dumps([example]))
    return folder


def make_rounds(folder: Path) -> Path:
    for number, limit in ((2, 100), (1, 200), (10, 50)):
        path = folder / "rounds" / f"{number}-limit-{limit}"
        append_jsonl(path / "train.jsonl", [{"step": 1, "reward": 0.5, "completions/mean_length": 90.0, "loss": 0}])
        candidates = [
            {"step": step, "pass_at_1": 0.5, "mean_tokens": 90.0 - step, "truncated_share": 0.0, "feasible": True}
            for step in (0, 2)
        ]
        selection = {"limit": limit, "candidates": candidates, "chosen_step": 2, "reason": "<i>shortest</i>"}
        write_json(path / "selection.json", selection)
    (folder / "rounds" / "11-limit-40").mkdir()
    return folder


def make_stored(folder: Path, problems: int, n: int, text_of: Callable[[int, int], str], model: str = "base") -> Path:
    """A combined run of one model with its trace folder and explorer.json, as eval/combined.py leaves them.

    Every third trace is stopped after 40 tokens by the rule `deepprune`; `adaptive` never starts the last one.
    """
    make_combined(folder, ["unused"])
    (folder / "examples.json").unlink()
    write_json(folder / model / "traces" / "settings.json", {"cut": {"kind": "words", "k": 3}})
    lines, records = [], []
    for number in range(problems):
        name = f"p{number}"
        lengths = [100 + (37 * sample + number) % 60 for sample in range(n)]
        kept = [40 if sample % 3 == 1 else lengths[sample] for sample in range(n)]
        late = [*kept[:-1], 0]
        answers = [sample % 2 if number % 2 else 0 for sample in range(n)]
        runs = [
            _run("deepprune", [s % 3 for s in range(n)], kept, lengths, 1 if number % 2 else 0),
            _run("deepprune_adaptive", [s % 2 for s in range(n)], late, lengths, 0),
            _run("consensus", [None] * n, lengths, lengths, 0) | {"judge": None},
        ]
        traced = {
            "n_tokens": lengths, "cut_tokens": [40] * n, "names": ["seven", "eight"], "answers": answers,
            "right": [answer == 0 for answer in answers], "runs": runs,
        }  # fmt: skip
        problem = {"problem_id": name, "problem": f"Question {number}?", "gold": "seven"}
        records.append(problem | {"models": {model: traced}})
        lines += [problem | {"sample": sample, "text": text_of(number, sample)} for sample in range(n)]
    append_jsonl(folder / model / "traces" / "traces-rank0.jsonl", lines)
    write_json(folder / "explorer.json", records)
    return folder


def make_grid(folder: Path, ns: tuple[int, ...] = (4, 12)) -> Path:
    """A run of two benchmarks, whose problems have the same ids, with several n: what eval/combined.py leaves."""
    benchmarks, rows, differences = ("alpha", "beta"), [], []
    for name in benchmarks:
        make_stored(folder / name, 3, max(ns), lambda _, sample, name=name: f"{name} wait {sample} so then but")
    for place, name in enumerate(("all", *benchmarks)):
        for n in ns:
            where = {"benchmark": name, "n": n, "problems": 6 if name == "all" else 3}
            for model in ("base", "pruned"):
                kinds = (("single", None, 0.9), ("consensus", None, 0.0), ("deepprune", "linear", 0.5 + n / 40))
                for method, judge, saving in kinds:
                    row = make_row(model, method, judge, 0.5 + n / 40 + place / 100, saving)
                    rows.append(row | where | {"id": f"{name}:{model}/{method}/n={n}"})
            differences.append(where | {"label": f"{name}, {n}", "difference": 0.1, "ci95": [0.0, 0.2]})
    side = {"accuracy": 0.5, "generated": 300.0, "longest_path": 90.0, "wall_s": 1.5}
    live = {
        "model": "pruned", "method": "deepprune", "judge": "linear", "problems": 3, "equal": 2, "exact": True,
        "live": side, "replay": side | {"generated": 270.0, "wall_s": None}, "unequal": {"<i>p0</i>": "other <b>"},
        "difference": {"accuracy": 0.0, "ci95": [-0.1, 0.1]}, "words": "the judge was asked <u>lazily</u>",
    }  # fmt: skip
    advice = [{"benchmark": name, "words": [f"pruned: best of {name}."]} for name in ("all", *benchmarks)]
    combined = {
        "rows": rows,
        "differences": differences,
        "recommendation": advice[0],
        "recommendations": advice,
        "live_equals_replay": None,
        "live": [live | {"benchmark": name} for name in benchmarks],
        "folders": {name: name for name in benchmarks},
        "n": list(ns),
        "config": {"problems": {name: f"{name}.jsonl" for name in benchmarks}, "orders": 3},
        "versions": {},
    }
    write_json(folder / "combined.json", combined)
    return folder


def _run(method: str, labels: list[Any], kept: list[int], lengths: list[int], vote: int) -> dict[str, Any]:
    survivors = [trace for trace, tokens in enumerate(kept) if tokens == lengths[trace]]
    return {
        "method": method, "judge": "linear", "labels": labels, "kept": kept, "survivors": survivors, "vote": vote,
        "right": vote == 0,
    }  # fmt: skip
