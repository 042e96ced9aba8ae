"""The report of several benchmarks and several n: everything that is drawn belongs to one of each."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from eval.report import scaling as report_scaling
from eval.report.cards import OneTrace, chosen_model, headline_cards, ladder
from eval.report.page import ReportInputs, render_report
from eval.report.table import live_rows
from eval.report.training import measured_judges
from eval.report.views import grid_of, recommendations, run_folders
from secateur.engines.accounting import Usage
from secateur.results import read_table, write_table
from tests.eval.test_report import check_harmless
from tests.judge_records import measure_judge
from tests.report_runs import make_combined, make_grid, make_live, make_recommendation, make_row


def test_every_row_is_in_one_view_and_all_together_comes_first(tmp_path: Path) -> None:
    table = read_table(make_grid(tmp_path))
    grid = grid_of(table.rows)
    assert grid.benchmarks == ["all", "alpha", "beta"] and grid.ns == [12, 4]
    assert [(view.benchmark, view.n) for view in grid.views][:2] == [("all", 12), ("all", 4)]
    shown = [(row.id, view.benchmark, view.n) for view in grid.views for row in view.rows]
    assert sorted(shown) == sorted((row.id, row.benchmark, row.n) for row in table.rows)
    assert list(recommendations(table)) == grid.benchmarks
    assert run_folders(table, tmp_path) == {"alpha": tmp_path / "alpha", "beta": tmp_path / "beta"}


def test_a_page_of_a_grid_is_harmless_and_its_problems_keep_apart(tmp_path: Path) -> None:
    html = render_report(ReportInputs(make_grid(tmp_path)))
    page = check_harmless(html)
    index, *problems = page.packed()
    assert (
        index["benchmarks"] == ["alpha", "beta"] and [p["benchmark"] for p in index["problems"]] == [0] * 3 + [1] * 3
    )
    assert [p["id"] for p in problems] == ["p0", "p1", "p2"] * 2
    for place, problem in enumerate(problems):
        first = "".join(problem["models"][0]["texts"][0])
        assert first.startswith("alpha" if place < 3 else "beta")
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and {"benchmark", "n", "measure", "live"} <= set(ids)
    shown = re.findall(r'<figure class="wide frontier" data-benchmark="(\w+)" data-n="(\d+)"( hidden)?', html)
    assert len(shown) == 6 and [entry[:2] for entry in shown if not entry[2]] == [("all", "12")]
    text = "".join(page.text)
    for words in ("asked <u>lazily</u>", "<i>p0</i>", "other <b>", "6 problems (alpha 3, beta 3), 4 and 12 traces"):
        assert words in text


def test_a_run_on_one_source_with_one_n_offers_no_choice(tmp_path: Path) -> None:
    html = render_report(ReportInputs(make_combined(tmp_path, ["1", "2"])))
    body = html.partition("</style>")[2].partition("<script")[0]
    for part in ('id="choice"', 'id="measure"', 'id="every-row"', "data-benchmark", "data-n=", "What more traces"):
        assert part not in body
    assert '<div class="cards">' in body and '<figure class="wide frontier">' in body


def test_one_source_with_several_n_and_several_sources_with_one(tmp_path: Path) -> None:
    table = read_table(make_grid(tmp_path))
    some = tuple(row for row in table.rows if row.benchmark == "alpha")
    write_table(tmp_path, replace(table, rows=some, folders={"alpha": "alpha"}))
    html = render_report(ReportInputs(tmp_path))
    assert 'id="n"' in html and 'id="benchmark"' not in html and "data-benchmark=" not in html.partition("<script")[0]
    some = tuple(row for row in table.rows if row.n == 12)
    write_table(tmp_path, replace(table, rows=some))
    html = render_report(ReportInputs(tmp_path))
    assert 'id="benchmark"' in html and 'id="n"' not in html and "What more traces buy" not in html


def test_the_scaling_charts_show_what_the_rows_say(tmp_path: Path) -> None:
    grid = grid_of(read_table(make_grid(tmp_path, (4, 8, 12))).rows)
    drawn = report_scaling.scaling(grid)
    assert [(one.benchmark, one.measure.name) for one in drawn[:3]] == [
        ("all", "accuracy"),
        ("all", "net tokens"),
        ("all", "longest path"),
    ]
    assert len(drawn) == 9 and all(
        [chart.title for chart in one.charts] == ["consensus", "DeepPrune · linear"] for one in drawn
    )
    accuracy, net, _ = drawn[:3]
    line = accuracy.charts[1].lines[0]
    assert [mark.label for mark in line.marks] == ["0.600 at n = 4", "0.700 at n = 8", "0.800 at n = 12"]
    assert all(mark.low > mark.y > mark.high for mark in line.marks)
    x = [mark.x for mark in line.marks]
    assert x[1] - x[0] > x[2] - x[1], "a doubling of n is wider than half of one"
    # 1,000 tokens of 6 problems, of which 60 % are saved at n = 4
    assert (
        net.charts[1].lines[0].marks[0].label == "67 at n = 4"
        and net.charts[0].lines[0].marks[0].label == "167 at n = 4"
    )
    for one in drawn:
        heights = [mark.y for chart in one.charts for line in chart.lines for mark in line.marks]
        assert min(heights) >= 0 and max(heights) <= report_scaling.HEIGHT and len(one.y_ticks) >= 2


def test_live_stands_beside_its_replay() -> None:
    entry = make_live("alpha")
    (row,) = live_rows([entry])
    assert row.generated == ("100", "90") and row.judged is None and row.longest == ("90", "90")
    assert (
        row.wall == ("1.5", "–") and row.interval == "−0.100 … +0.100" and row.unequal == [("<i>p0</i>", "other <b>")]
    )
    read = replace(entry.live, tokens=entry.live.tokens + Usage(judge_prefill=30))
    (row,) = live_rows([replace(entry, unequal={f"p{k}": "x" for k in range(50)}, live=read)])
    assert len(row.unequal) + row.more == 50 and row.judged == ("10", "0")


def test_seconds_stand_beside_tokens_and_an_estimate_is_marked() -> None:
    rows = [make_row("pruned", "consensus", None, 0.5, 0.0), make_row("pruned", "deepprune", "linear", 0.5, 0.6)]
    entry = make_live("alpha", sampling_wall_s=6.0)
    assert [rung.seconds for rung in ladder(rows, ["pruned"], [entry])] == ["≈ 6.0 s", "1.5 s"]
    measured = replace(entry, sampling_wall_measured=True)
    assert [rung.seconds for rung in ladder(rows, ["pruned"], [measured])] == ["6.0 s", "1.5 s"]
    assert [rung.seconds for rung in ladder(rows, ["pruned"])] == ["", ""]
    (card,) = headline_cards(rows, ["pruned"], {}, [], "pruned", [entry])
    assert card.detail.endswith("; live ≈ 6.0 s → 1.5 s")


@pytest.mark.parametrize(
    ("models", "overall", "chosen"),
    [
        (["base", "pruned", "control"], None, "pruned"),
        (["base", "pruned", "control"], "c", "control"),
        (["small", "large"], None, "large"),
        (["base", "pruned"], "elsewhere", "pruned"),
    ],
)
def test_the_main_card_is_of_the_recommended_model(models: list[str], overall: str | None, chosen: str) -> None:
    rows = [make_row(model, "consensus", None, 0.5, 0.0, id=model[0]) for model in models]
    assert chosen_model(models, make_recommendation(overall=overall), rows) == chosen
    assert overall == "c" or chosen_model(models, None, rows) == chosen


def test_the_control_is_a_third_model_everywhere(tmp_path: Path) -> None:
    folder = make_combined(tmp_path / "in", ["1", "2"])
    table = read_table(folder)
    third = [replace(row, model="control", id=f"third/{row.id}") for row in table.rows if row.model == "base"]
    write_table(folder, replace(table, rows=(*table.rows, *third)))
    names = ("base", "pruned", "control")
    judges = {name: tmp_path / name for name in names}
    for judge in judges.values():
        measure_judge(judge)
    lengths, one_trace = {name: [50, 60] for name in names}, dict.fromkeys(names, OneTrace(0.5, 80.0))
    html = render_report(ReportInputs(folder, judges=judges, lengths=lengths, one_trace=one_trace))
    for words in (
        "Net saving, DeepPrune on control", "control, consensus", "control: mean 55",
        "Judge for the control model: linear", "0.50 without a binding limit", "control 0.900",
    ):  # fmt: skip
        assert words in html
    assert html.count('class="card main"') == 1 and "on pruned" in html.partition('class="card main"')[2][:120]
    given = {"judges": {"base": [str(tmp_path / "base"), "random"], "control": str(tmp_path / "control")}}
    measure_judge(tmp_path / "base", kind="pairwise")
    assert [(found.model, found.metrics.kind) for found in measured_judges({}, given)] == [
        ("base", "pairwise"),
        ("control", "linear"),
    ]
    measure_judge(tmp_path / "control", auroc=None, auroc_ci95=None)  # its test problems had pairs of one kind only
    assert [found.model for found in measured_judges({}, given)] == ["base"]
