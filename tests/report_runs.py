"""Small combined runs as the report finds them on disk, with texts that try to do harm."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.table.explorer import EXAMPLES_FILE, EXPLORER_FILE, RuleRun, TracedModel, TracedProblem
from schedules.records import (
    VALIDATION,
    ReferenceRecord,
    SelectionRecord,
    ValidationRecord,
    WeighedCandidate,
    write_selection,
    write_validation,
)
from secateur.engines.accounting import Usage
from secateur.results import (
    Considered,
    Difference,
    LiveDifference,
    LiveEntry,
    LiveEquality,
    LiveSide,
    ModelChoice,
    Recommendation,
    Row,
    RowName,
    Table,
    write_table,
)
from secateur.runtime.files import JSON, append_jsonl, write_json
from secateur.runtime.records import as_json
from tests.schedules.candidates import candidate

HOSTILE = (
    "<script>document.title='owned'</script>",
    "</textarea></pre></details><h1>owned</h1><img src=x onerror=alert(1)>",
    "\u202egnp.exe \u2066right to left\u2069",
    "{{ 7 * 7 }} {% raw %} ${7*7} $x_1$ &amp; &lt;",
    "null \x00 bell \x07 escape \x1b[31m",
    "lone surrogate \ud800 here",
)
BENCHMARK = "mine"


def make_row(
    model: str, method: str, judge: str | None, accuracy: float, saving: float, n: int = 4, **changes: Any
) -> Row:
    """Of 12 problems; the base model's consensus of all n spends 1,000 tokens on them."""
    row = Row(
        id="/".join(filter(None, (model, method, judge))),
        model=model,
        method=method,
        judge=judge,
        benchmark=BENCHMARK,
        n=n,
        problems=12,
        accuracy=accuracy,
        accuracy_ci95=(accuracy - 0.1, accuracy + 0.1),
        oracle_accuracy=None,
        finished=2.5,
        tokens=Usage(generated=1000.0, judge_prefill=10, judge_head=99, longest_path=80.5),
        saving_gross=saving + 0.01,
        saving_net=saving,
        net_tokens=1000 * (1 - saving) / 12,
        judge_kind=judge,
    )
    return replace(row, **changes)


def make_difference(label: str, benchmark: str = BENCHMARK, n: int = 4) -> Difference:
    a, b = RowName("base", "deepprune", "linear"), RowName("base", "consensus", None)
    return Difference(label, a, b, 0.1, (0.0, 0.2), benchmark, n)


def make_recommendation(benchmark: str = BENCHMARK, **changes: Any) -> Recommendation:
    advice = Recommendation(benchmark, 3.0, "base/consensus", {}, None, (), (), ())
    return replace(advice, **changes)


def recommend_row(row: Row, reference: str) -> Recommendation:
    """It gains ten points, with an interval from −2 to +22."""
    interval = (-0.02, 0.22)
    found = Considered(row.id, "holds", 0.1, interval, interval, None)
    per_model = {row.model: ModelChoice(row.id, (found,))}
    return make_recommendation(row.benchmark, reference=reference, overall=row.id, per_model=per_model)


def make_table(rows: Iterable[Row], config: Mapping[str, JSON] | None = None, **changes: Any) -> Table:
    rows = tuple(rows)
    known = {"problems": "mine.jsonl", "orders": 3, "judges": {}, "cut_kind": "words", "cut_k": 25}
    known["models"] = {row.model: f"outputs/my run/{row.model}" for row in rows}
    table = Table(
        rows=rows,
        differences=(),
        recommendations=(),
        live_equals_replay=None,
        live=(),
        wall_s={},
        parameters={row.model: 1000 for row in rows},
        n=tuple(sorted({row.n for row in rows})),
        folders={BENCHMARK: "."},
        settings={},
        config=known | dict(config or {}),
        versions={"torch": "2"},
    )
    return replace(table, **changes)


def make_combined(folder: Path, texts: list[str], problems: str = "mine.jsonl", model: str = "pruned") -> Path:
    """A run of two models whose only problem, answers and traces are `texts`; no trace folder is left of it."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [
        ("single", None, 0.98),
        ("consensus", None, 0.0),
        ("deepprune", "linear", 0.7),
        ("deepprune", "random", 0.7),
    ]
    rows = [
        make_row(name, method, judge, 0.6 + 0.1 * index - 0.05 * second, saving + second * (1 - saving) / 2)
        for second, name in enumerate(("base", model))
        for index, (method, judge, saving) in enumerate(kinds)
    ]
    table = make_table(
        rows,
        {"problems": problems, "judges": {name: ["judges/mine", "random"] for name in ("base", model)}},
        recommendations=(recommend_row(rows[6], rows[1].id),),
        differences=(make_difference(f"{model}: DeepPrune − other"),),
        live_equals_replay=LiveEquality(2, 2, {}, exact=True),
    )
    write_table(folder, table)
    traced = _traced_texts(texts)
    write_traced(folder, [TracedProblem(texts[0], texts[-1], texts[0], {"base": traced, model: traced})])
    # Written as a foreign tool might: JSON allows lone surrogates as escapes.
    examples = {"format": 1, "texts": {texts[0]: {"base": texts, model: texts}}}
    (folder / EXAMPLES_FILE).write_text(json.dumps(examples))
    return folder


def write_traced(folder: Path, problems: Sequence[TracedProblem]) -> None:
    (folder / EXPLORER_FILE).write_text(json.dumps({"format": 1, "problems": [as_json(one) for one in problems]}))


def _traced_texts(texts: Sequence[str]) -> TracedModel:
    """Each text is a trace of 50 tokens and more, and its answer; every other one is stopped after 10 tokens."""
    n, names = len(texts), tuple(dict.fromkeys(texts))
    lengths, answers = tuple(50 + index for index in range(n)), tuple(names.index(text) for text in texts)
    return TracedModel(
        n_tokens=lengths,
        cut_tokens=tuple(10 if index % 2 else None for index in range(n)),
        names=names,
        answers=answers,
        right=tuple(index == 0 for index in range(n)),
        runs=(
            _run("deepprune", [s % 3 or None for s in range(n)], [10 if s % 2 else t for s, t in enumerate(lengths)],
                 lengths, 0),
            _consensus(lengths),
        ),
    )  # fmt: skip


def make_rounds(folder: Path) -> Path:
    for number, limit in ((2, 100), (1, 200), (10, 50)):
        path = folder / "rounds" / f"{number}-limit-{limit}"
        append_jsonl(path / "train.jsonl", [{"step": 1, "reward": 0.5, "completions/mean_length": 90.0, "loss": 0}])
        write_selection(path, _selection(limit))
        measured = candidate(0, 0.5, 90.0, rates={"a": 0.5}), candidate(2, 0.5, 88.0, rates={"a": 0.5})
        write_validation(path / VALIDATION, ValidationRecord({}, measured))
    (folder / "rounds" / "11-limit-40").mkdir()
    return folder


def _selection(limit: int) -> SelectionRecord:
    lengths = {0: 90.0, 2: 88.0}
    candidates = tuple(
        WeighedCandidate(step, 0.5, length, 0.0, (0.4, 0.6), (80.0, 95.0), 4, feasible=True)
        for step, length in lengths.items()
    )
    reference = ReferenceRecord(0.5, 90.0, "the start model")
    return SelectionRecord(limit, "base", reference, 0.1, candidates, 2, None, "<i>shortest</i>")


def make_stored(folder: Path, problems: int, n: int, text_of: Callable[[int, int], str], model: str = "base") -> Path:
    """A combined run of one model with its trace folder and explorer.json, as eval/combined.py leaves them.

    Every third trace is stopped after 40 tokens by the rule `deepprune`; `adaptive` never starts the last one.
    """
    make_combined(folder, ["unused"])
    (folder / EXAMPLES_FILE).unlink()
    write_json(folder / model / "traces" / "settings.json", {"cut": {"kind": "words", "k": 3}})
    lines, traced = [], []
    for number in range(problems):
        name, question = f"p{number}", f"Question {number}?"
        traced.append(TracedProblem(name, question, "seven", {model: _traced_numbers(number, n)}))
        known = {"problem_id": name, "problem": question, "gold": "seven"}
        lines += [known | {"sample": sample, "text": text_of(number, sample)} for sample in range(n)]
    append_jsonl(folder / model / "traces" / "traces-rank0.jsonl", lines)
    write_traced(folder, traced)
    return folder


def _traced_numbers(number: int, n: int) -> TracedModel:
    lengths = [100 + (37 * sample + number) % 60 for sample in range(n)]
    kept = [40 if sample % 3 == 1 else lengths[sample] for sample in range(n)]
    answers = [sample % 2 if number % 2 else 0 for sample in range(n)]
    return TracedModel(
        n_tokens=tuple(lengths),
        cut_tokens=(40,) * n,
        names=("seven", "eight"),
        answers=tuple(answers),
        right=tuple(answer == 0 for answer in answers),
        runs=(
            _run("deepprune", [s % 3 for s in range(n)], kept, lengths, 1 if number % 2 else 0),
            _run("deepprune_adaptive", [s % 2 for s in range(n)], [*kept[:-1], 0], lengths, 0),
            _consensus(lengths),
        ),
    )


def make_grid(folder: Path, ns: tuple[int, ...] = (4, 12)) -> Path:
    """A run of two benchmarks, whose problems have the same ids, with several n: what eval/combined.py leaves."""
    benchmarks, rows, differences = ("alpha", "beta"), [], []
    for name in benchmarks:
        make_stored(folder / name, 3, max(ns), lambda _, sample, name=name: f"{name} wait {sample} so then but")
    for place, name in enumerate(("all", *benchmarks)):
        for n in ns:
            rows += _grid_rows(name, place, n)
            differences.append(make_difference(f"{name}, {n}", name, n))
    advice = [_grid_advice(name, max(ns), rows) for name in ("all", *benchmarks)]
    table = make_table(
        rows,
        {"problems": {name: f"{name}.jsonl" for name in benchmarks}},
        differences=tuple(differences),
        recommendations=tuple(advice),
        live=tuple(make_live(name) for name in benchmarks),
        folders={name: name for name in benchmarks},
    )
    write_table(folder, table)
    return folder


def _grid_advice(benchmark: str, n: int, rows: Sequence[Row]) -> Recommendation:
    best = next(row for row in rows if row.id == f"{benchmark}:base/deepprune/n={n}")
    advice = recommend_row(best, f"{benchmark}:base/consensus/n={n}")
    return replace(advice, words=(f"pruned: best of {benchmark}.",))


def _grid_rows(benchmark: str, place: int, n: int) -> list[Row]:
    problems = 6 if benchmark == "all" else 3
    kinds = (("single", None, 0.9), ("consensus", None, 0.0), ("deepprune", "linear", 0.5 + n / 40))
    rows = []
    for model in ("base", "pruned"):
        for method, judge, saving in kinds:
            row = make_row(model, method, judge, 0.5 + n / 40 + place / 100, saving, n)
            name, net = f"{benchmark}:{model}/{method}/n={n}", 1000 * (1 - saving) / problems
            rows.append(replace(row, id=name, benchmark=benchmark, problems=problems, net_tokens=net))
    return rows


def make_live(benchmark: str, **changes: Any) -> LiveEntry:
    side = LiveSide(0.5, 4.0, 0, Usage(generated=300.0, longest_path=90.0))
    entry = LiveEntry(
        benchmark=benchmark,
        model="pruned",
        method="deepprune",
        judge="linear",
        problems=3,
        equal=2,
        exact=True,
        live=replace(side, wall_s=1.5),
        replay=replace(side, tokens=Usage(generated=270.0, longest_path=90.0)),
        difference=LiveDifference(0.0, (-0.1, 0.1), 0, 0, 30.0),
        causes=(),
        unequal={"<i>p0</i>": "other <b>"},
        sampling_wall_s=None,
        sampling_wall_measured=False,
        words="the judge was asked <u>lazily</u>",
        wall_words="",
    )
    return replace(entry, **changes)


def _run(
    method: str, labels: Sequence[int | None], kept: Sequence[int], lengths: Sequence[int], vote: int
) -> RuleRun:
    survivors = tuple(trace for trace, tokens in enumerate(kept) if tokens == lengths[trace])
    return RuleRun(method, "linear", tuple(labels), tuple(kept), survivors, vote, vote == 0)


def _consensus(lengths: Sequence[int]) -> RuleRun:
    n = len(lengths)
    return RuleRun("consensus", None, (None,) * n, tuple(lengths), tuple(range(n)), 0, right=True)
