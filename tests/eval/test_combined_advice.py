"""What stands beside the rows of combined.json: settings, the CSV, parts of the saving, costs, advice, marks."""

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.joined import join
from eval.report.page import ReportInputs, render_report
from eval.table.config import CombinedConfig
from eval.table.run import run
from eval.table.store import names_of_judges, wall_path
from eval.table.terminal import print_results
from secateur.results import Table, write_table
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, read_jsonl, write_json
from secateur.tasks.answers.equality import GRADER_VERSION
from tests.combined_runs import config, make_reading_judge, settings, write_problems


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, str, Path]:
    return tiny_model, "values", write_problems(tmp_path_factory.mktemp("problems") / "problems.jsonl")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, str, Path]) -> tuple[Path, Table]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(config(*inputs, folder, cut_k=2))


def test_results_of_another_grader_are_refused_and_can_be_graded_anew(finished, inputs, tmp_path: Path) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run" / "settings.json"
    write_json(path, read_json(path) | {"grader": "secateur-0 math-verify-0.1"})
    with pytest.raises(InputError, match=r"key 'grader' is 'secateur-0 math-verify-0\.1' there.*delete that file"):
        run(config(*inputs, tmp_path / "run", cut_k=2))
    path.unlink()
    assert run(config(*inputs, tmp_path / "run", cut_k=2)).rows == finished[1].rows
    assert read_json(path)["grader"] == GRADER_VERSION


def test_a_run_that_failed_before_its_first_trace_can_be_corrected(inputs, tmp_path: Path) -> None:
    """The engine refuses a prompt that fills the context: only then is it known, and the folder is not bound yet."""
    with pytest.raises(InputError, match="fills the model's context"):
        run(config(*inputs, tmp_path / "run", cut_k=2, instruction="word " * 2048))
    corrected = run(config(*inputs, tmp_path / "run", cut_k=2, instruction="Now."))
    assert read_json(tmp_path / "run" / "base" / "traces" / "settings.json")["instruction"] == "Now."
    assert corrected.settings["instruction"] == "Now."
    with pytest.raises(InputError, match=r"key 'instruction' is 'Now.' there and None here"):
        run(config(*inputs, tmp_path / "run", cut_k=2))


def test_the_csv_has_every_row(finished) -> None:
    with open(finished[0] / "combined.csv", newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    assert [line["id"] for line in lines] == [entry.id for entry in finished[1].rows]
    assert float(lines[2]["saving_net"]) == finished[1].rows[2].saving_net


def test_a_stack_has_parts_costs_and_advice(inputs, tmp_path: Path) -> None:
    """A second model that is the first one again saves nothing inside its traces."""
    model, judge, problems = inputs
    both = {"models": {"base": str(model), "twin": str(model)}, "judges": {"base": "values", "twin": "values"}}
    prices = {name: {"prompt": 1.0, "cached": 0.0, "generated": 10.0} for name in ("base", "twin")}
    combined = run(config(model, judge, problems, tmp_path, **both, cut_k=2, live=0, prices=prices))
    for entry in combined.rows:
        parts = entry.saving_parts
        assert (parts is None) == (entry.model == "base")
        assert parts is None or parts.intra + parts.inter == pytest.approx(entry.saving_net)
        assert parts is None or parts.intra == 0
        generated = 10 * (entry.tokens.generated + entry.tokens.overrun) / 1e6 / entry.problems
        assert generated < entry.cost.per_problem < generated + 0.01
        assert entry.trained_on is entry.chosen_on is None
    advice = combined.recommendations[0]
    assert advice.reference == "base/consensus" and set(advice.per_model) == {"base", "twin"}
    ids = {entry.id for entry in combined.rows}
    assert {*advice.frontier_tokens, *advice.frontier_wall} <= ids
    assert "4 problems are too few to tell" in " ".join(advice.words)
    shown = io.StringIO()
    print_results(combined, Console(file=shown, width=100))
    assert "cost of" in shown.getvalue() and "4 problems are too few" in " ".join(shown.getvalue().split())
    marked = replace(combined, rows=(replace(combined.rows[0], trained_on=True), *combined.rows[1:]))
    print_results(marked, Console(file=shown, width=100))
    assert "one trace†" in shown.getvalue() and "\n† the model or the judge was trained" in shown.getvalue()
    ids = tuple(f"p{number}" for number in range(7))
    known = tuple(replace(row, chosen_on=True, chosen_ids=ids, problems=72) for row in combined.rows)
    shown = io.StringIO()
    print_results(replace(combined, rows=known), Console(file=shown, width=100))
    notes = [line for line in " ".join(shown.getvalue().split()).split("‡7 ") if "chosen on 7 of the 72" in line]
    assert len(notes) == 1 and ": p0, p1, p2, p3, p4 and 2 more" in notes[0], "one note for all rows, with the ids"


def test_a_judge_that_reads_is_paid(inputs, tmp_path: Path) -> None:
    judge = str(make_reading_judge("pairwise", inputs[0], tmp_path / "judge"))
    prices = {name: {"prompt": 2.0, "cached": 1.0, "generated": 0.0} for name in ("base", "pairwise")}
    options = {"judges": {"base": judge}, "methods": ["consensus", "deepprune"], "n": 3, "live": 0}
    voted, pruned = run(config(*inputs, tmp_path / "out", **options, prices=prices)).rows
    read = 2 * pruned.tokens.judge_prefill + pruned.tokens.judge_cached
    assert read > 0
    extra = pruned.cost.per_problem - voted.cost.per_problem
    assert extra == pytest.approx(read / 1e6 / pruned.problems)
    with pytest.raises(InputError, match="'prices' has none for 'pairwise'"):
        config(*inputs, tmp_path / "out", **options, prices={"base": prices["base"]})


def test_runs_join_if_their_settings_agree(finished, inputs, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished[0], other)
    combined = run(config(*inputs, other, judges={"base": "tfidf"}, cut_k=2, live=0))
    paths = [finished[0] / "combined.json", other / "combined.json"]
    joined = join(paths)
    ids = [row.id for row in finished[1].rows]
    assert [row.id for row in joined.rows] == ids + [row.id for row in combined.rows if row.id not in ids]
    print_results(joined, Console(file=io.StringIO(), width=100))
    for key, value in (("grader", "secateur-0"), ("n", 9), ("max_tokens", 5)):
        write_table(other, replace(combined, settings={**combined.settings, key: value}))
        with pytest.raises(InputError, match=rf"other.combined\.json: key '{key}' is {value!r} there and .* here"):
            join(paths)
    write_table(other, replace(combined, config={**combined.config, "models": {"pruned": "elsewhere"}}))
    with pytest.raises(InputError, match=r"against the model 'pruned', those of .* against 'base'"):
        join(paths)
    write_table(other, replace(combined, rows=tuple(replace(row, accuracy=0.123) for row in combined.rows)))
    with pytest.raises(InputError, match=r"the row 'base/single' has accuracy 0\.123"):
        join(paths)


@pytest.mark.parametrize("methods", [["oracle"], ["single"], ["deepprune"]])
def test_a_few_methods_make_a_table_and_a_report(inputs, tmp_path: Path, methods: list[str]) -> None:
    """Without a method that could be recommended, compared over n, or with a trained judge."""
    grid = {"problems": {name: str(inputs[2]) for name in ("one", "other")}, "n": [4, 8], "live": 0, "cut_k": 2}
    chance = {"judges": {"base": "random"}, "methods": methods}
    combined = run(CombinedConfig(**settings(*inputs, tmp_path) | grid | chance))
    print_results(combined, Console(file=io.StringIO(), width=100))
    assert 'class="wide frontier"' in render_report(ReportInputs(tmp_path))


def test_judges_of_one_kind_are_told_apart_by_their_folders(inputs, tmp_path: Path) -> None:
    folders = [str(make_reading_judge("linear", inputs[0], tmp_path / name)) for name in ("a/judge", "b/judge", "c")]
    made = config(*inputs, tmp_path / "out", judges={"base": [*folders, "random"]})
    assert names_of_judges(made, "base") == ["linear-a-judge", "linear-b-judge", "linear-c", "random"]
    assert names_of_judges(config(*inputs, tmp_path / "out", judges={"base": folders[0]}), "base") == ["linear"]


def test_the_wall_time_of_a_vote_is_that_of_its_own_traces(finished, inputs, tmp_path: Path) -> None:
    """Not that of more traces, nor of the part that a killed launch left over."""

    def wall(folder: Path, **changes: Any) -> float | None:
        rows = run(config(*inputs, folder, **{"cut_k": 2, "live": 0} | changes)).rows
        return next(row.wall_s for row in rows if row.method == "consensus")

    shutil.copytree(finished[0], tmp_path / "run")
    noted = [line["seconds"] for _, line in read_jsonl(wall_path(config(*inputs, tmp_path / "run"), "base", 0))]
    assert wall(tmp_path / "run") == noted[0]
    assert wall(tmp_path / "run", n=4) is None and wall(tmp_path / "run", problem_count=2) is None
    traces = tmp_path / "run" / "base" / "traces" / "traces-rank0.jsonl"
    traces.write_bytes(b"".join(traces.read_bytes().splitlines(keepends=True)[:20]))
    wall_path(config(*inputs, tmp_path / "run"), "base", 0).unlink()
    assert wall(tmp_path / "run") is None


def test_a_mark_stands_at_the_benchmark_that_it_is_about(finished) -> None:
    rows = [
        replace(row, benchmark=name, trained_on=name == "one")
        for name in ("one", "other")
        for row in finished[1].rows
    ]
    shown = io.StringIO()
    print_results(replace(finished[1], rows=tuple(rows)), Console(file=shown, width=100))
    line = next(
        line for line in shown.getvalue().partition("each benchmark")[2].splitlines() if line.startswith(" consensus")
    )
    first, second = line.split(" %")[:2]
    assert "†" in first and "†" not in second
