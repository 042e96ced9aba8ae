"""The report is one harmless file, whatever the models wrote."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report import bars as trace_view
from eval.report.bars import cluster_name, printable, problem_views
from eval.report.cards import OneTrace
from eval.report.frontier import frontier, on_frontier
from eval.report.page import ReportInputs, page_parts, render_report, write_report
from eval.report.table import columns, table_rows
from eval.report.training import round_records
from eval.table.explorer import read_explorer
from schedules.records import finished_rounds
from secateur.results import Control, Cost, SavingParts, read_table, write_table
from secateur.runtime.errors import InputError
from secateur.runtime.pictures import COLOURS
from secateur.serve import page as serve_page
from tests.judge_records import measure_judge
from tests.report_runs import (
    HOSTILE,
    make_combined,
    make_recommendation,
    make_rounds,
    make_row,
    make_table,
)

TEMPLATES = Path(trace_view.__file__).parent / "templates"
SCRIPTS = ("report.js", "trace_panels.js", "explorer.js")


class Page(HTMLParser):
    """Everything a browser could act upon."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and self.cdata_elem == "script":
            kind, content = self.scripts[-1]
            self.scripts[-1] = (kind, content + data)
        else:
            self.text.append(data)

    def packed(self) -> list[Any]:
        """What the data blocks hold, the list of problems first."""
        return [json.loads(gzip.decompress(base64.b64decode(data))) for kind, data in self.scripts if kind]


def check_harmless(html: str, scripts: Sequence[str] = SCRIPTS) -> Page:
    """The only scripts are the page's own, named by their hashes, and blocks of base64."""
    page = Page(html)
    assert not {"img", "iframe", "object", "link", "textarea", "form"} & set(page.tags)
    assert page.tags.count("h1") == 1 and page.tags.count("meta") == 4
    own = [content for kind, content in page.scripts if kind is None]
    assert own == [(TEMPLATES / name).read_text(encoding="utf-8") for name in scripts]
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in str(value))
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert policy.count("'sha256-") == 1 + len(scripts)
    for content in own:
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    for kind, content in page.scripts:
        assert kind in (None, "application/gzip+base64")
        assert kind is None or re.fullmatch(r"[A-Za-z0-9+/=]+", content)
    for name, value in page.attributes:
        assert not name.startswith("on"), f"{name} would run code"
        assert name not in ("src", "srcset", "action", "formaction", "data", "style")
        if name in ("href", "xlink:href"):
            assert value is not None and value.startswith("#"), f"{value} leaves the page"
    assert "@import" not in html and "url(http" not in html
    return page


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    html = render_report(ReportInputs(make_combined(tmp_path, list(HOSTILE), model="<b>$m$</b>")))
    page = check_harmless(html)
    shown = "".join(page.text)
    assert "<script>document.title='owned'</script>" in shown
    assert HOSTILE[-1].replace("\ud800", "?") in shown and "49" not in shown.split("How this was measured")[0]
    index, problem = page.packed()
    assert index["problems"][0]["id"] == HOSTILE[0] and problem["id"] == HOSTILE[0]
    assert problem["models"][1]["texts"][1][0] == HOSTILE[1] and HOSTILE[3] in problem["models"][1]["names"]
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", html + json.dumps(problem["models"], ensure_ascii=False))
    html.encode("utf-8")


def test_controls_and_the_engine_s_exactness_are_told(tmp_path: Path) -> None:
    folder = make_combined(tmp_path, ["1", "2"])
    before = check_harmless(render_report(ReportInputs(folder)))
    table = read_table(folder)
    controls = {"consensus_equal_tokens": Control(0.5, 900.0, -0.0426, (-0.1, 0.02))}
    row = make_row("base", "deepconf_low", None, 0.7, 0.4, oracle_accuracy=0.987, controls=controls)
    inexact = replace(table.live_equals_replay, exact=False)
    write_table(folder, replace(table, rows=(*table.rows, row), live_equals_replay=inexact))
    html = render_report(ReportInputs(folder))
    shown = "".join(check_harmless(html).text)
    for text in ("DeepConf low", "0.987", "\u22120.043", "not exact"):
        assert text in shown and text not in "".join(before.text)
    assert "\u22120.100 \u2026 +0.020" in html


def test_a_megabyte_in_one_line_is_cut_off_and_said_so(tmp_path: Path) -> None:
    folder = make_combined(tmp_path / "in", ["x" * 2**20, "short"])
    path = tmp_path / "report.html"
    write_report(ReportInputs(folder), path)
    assert path.stat().st_size < 2**20
    assert "more characters" in path.read_text(encoding="utf-8")


@given(st.text(max_size=200))
def test_printable_text_survives_encoding_and_keeps_plain_words(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    if text.isalnum() and text.isascii():
        assert shown == text


def test_the_planted_errors_are_mentioned_with_the_embedded_task_only(tmp_path: Path) -> None:
    embedded = render_report(ReportInputs(make_combined(tmp_path / "a", ["t"], problems="arithmetic:combined")))
    own = render_report(ReportInputs(make_combined(tmp_path / "b", ["t"])))
    assert "on purpose" in embedded and "on purpose" not in own


def test_rounds_are_counted_through_in_their_order(tmp_path: Path) -> None:
    rounds = round_records(finished_rounds(make_rounds(tmp_path)))
    assert [(r.number, r.limit, r.first_step, r.last_step) for r in rounds] == [
        (1, 200, 0, 2),
        (2, 100, 2, 4),
        (10, 50, 4, 6),
    ]
    assert [c.step for c in rounds[1].candidates] == [2, 4] and rounds[1].candidates[1].chosen
    assert rounds[2].lengths == [(5, 90.0)]


def test_a_full_report_has_every_section_and_ids_occur_once(tmp_path: Path) -> None:
    lengths = (("base", 100.0), ("pruned", 50.0), ("control", 80.0))
    judges = {name: tmp_path / name for name in ("base", "pruned")}
    for judge in judges.values():
        measure_judge(judge)
    html = render_report(
        ReportInputs(
            make_combined(tmp_path / "in", ["one", "two", "three"]),
            thinkprune=make_rounds(tmp_path / "run"),
            judges=judges,
            lengths={"base": [90, 110], "pruned": [50, 50]},
            one_trace={name: OneTrace(0.5, tokens) for name, tokens in lengths},
            wall_s={"thinkprune": 1.0},
        )
    )
    page = check_harmless(html)
    for heading in (
        "What an answer costs",
        "Length pruning, round",
        "the judge",
        "Trace by trace",
        "Differences, paired",
    ):
        assert heading in html
    assert "−50 %" in html and "−20 % without a binding limit" in html
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "two charts share an id, so one would draw the other's parts"
    assert [name for name, _ in page.attributes].count("xmlns") == 5, "a drawn figure is missing"
    assert "frontier-figure" in ids


def test_bars_add_up_to_their_trace(tmp_path: Path) -> None:
    problems = read_explorer(make_combined(tmp_path, ["a", "b", "a", "c", "a"]))
    (view,) = problem_views(problems)
    panel, model = view.panels[0], problems[0].models["base"]
    assert [bar.cluster for bar in panel.bars] == ["A", "B", "–", "–"] or len(panel.bars) == 5
    assert sum(bar.solid + bar.ghost for bar in panel.bars) == pytest.approx(100 * sum(model.n_tokens) / view.axis)
    assert panel.spent == sum(10 if i % 2 else 50 + i for i in range(5)) and panel.full == sum(range(50, 55))
    assert panel.finished == 3 and panel.left_out == 0


def test_cluster_names() -> None:
    assert [cluster_name(rank) for rank in (0, 25, 26, 27, 52, None)] == ["A", "Z", "AA", "AB", "BA", "–"]


def test_a_missing_or_empty_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"combined\.json"):
        render_report(ReportInputs(tmp_path))
    write_table(tmp_path, make_table([]))
    with pytest.raises(InputError, match="holds no row"):
        render_report(ReportInputs(tmp_path))


def luminance(colour: str) -> float:
    """Of sRGB, as WCAG 2 defines it."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_ground(theme: int) -> None:
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", COLOURS)
    colours = {name: pair[theme] for name, *pair in found}
    grounds = [colours[name] for name in ("page", "card", "leaf-soft")]
    for name in ("ink", "soft", "leaf", "right", "wrong"):
        assert min(contrast(colours[name], ground) for ground in grounds) >= 4.5, name
    assert contrast(colours["ink"], colours["word"]) >= 4.5 and contrast(colours["soft"], colours["word"]) >= 4.5
    for name in ("edge", "ghost"):  # borders of controls and hatching: 3 to 1 is asked of what is no text
        assert min(contrast(colours[name], ground) for ground in grounds) >= 3, name


def test_pages_take_their_colours_from_one_file() -> None:
    """A colour of a page's own would be one that nobody has computed the contrast of."""
    for page in (TEMPLATES / "report.css", Path(serve_page.__file__).parent / "templates" / "dashboard.html"):
        text = page.read_text(encoding="utf-8")
        assert "light-dark(" not in text
        assert set(re.findall(r"var\(--([\w-]+)\)", text)) - {"tint"} <= set(re.findall(r"--([\w-]+):", COLOURS))
    assert COLOURS in serve_page.dashboard(needs_key=False) and COLOURS in str(page_parts([]).style)


def test_a_cluster_s_letter_can_be_read_on_its_colour() -> None:
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    tints = re.findall(r"\.c(\d) { --tint: (#\w{6}); }", style)
    assert [tint for _, tint in tints] == [*trace_view.CLUSTER_COLOURS, trace_view.OTHER_COLOUR]
    for number, tint in tints:
        assert contrast(tint, "#ffffff" if number == "0" else "#000000") >= 4.5


def test_the_frontier_leaves_out_bounds_and_controls_unless_the_run_names_it() -> None:
    rows = [
        make_row("base", "consensus", None, 0.8, 0.0), make_row("base", "single", None, 0.5, 0.9),
        make_row("base", "deepprune", "linear", 0.8, 0.7), make_row("base", "deepprune", "random", 0.9, 0.7),
        make_row("base", "oracle", None, 1.0, 0.95), make_row("base", "random_traces", "linear", 0.9, 0.8),
        make_row("base", "early_stopping", None, 0.4, 0.8),
    ]  # fmt: skip
    assert [row.method for row in on_frontier(rows)] == ["single", "deepprune"]
    assert [words.split(":")[0] for words in frontier(rows, ["base"], None).best] == [
        "base · one trace",
        "base · DeepPrune (linear)",
    ]
    advice = make_recommendation(frontier_tokens=(rows[0].id, rows[4].id), frontier_wall=(rows[6].id,))
    drawn = frontier(rows, ["base"], advice)
    assert [words.split(":")[0] for words in drawn.best] == ["base · any trace right", "base · consensus"]
    assert [words.split(":")[0] for words in drawn.soonest] == ["base · early stopping"]


def test_new_columns_appear_with_their_data(tmp_path: Path) -> None:
    plain = make_row("base", "deepprune", "linear", 0.7, 0.4)
    more = {"saving_parts": SavingParts(0.1, 0.3), "cost": Cost(0.0000123, 0.0123), "trained_on": True}
    assert not {"inside traces", "cost of 1,000"} & {column.label for column in columns([plain])}
    fuller = replace(plain, **more)
    (row,) = table_rows([fuller], shown := columns([fuller]))
    cells = {column.label: cell.text for column, cell in zip(shown, row.cells, strict=True)}
    assert cells["inside traces"] == "10.0 %" and cells["across traces"] == "30.0 %"
    assert cells["cost of 1,000"] == "0.0123" and row.marks == "†" and "trained" in row.note
    some = replace(fuller, trained_ids=("words-17",), problems=72)
    (row,) = table_rows([some], shown)
    assert row.marks == "†1" and "trained on 1 of the 72 problems" in row.note and row.note.endswith(": words-17")
    folder = make_combined(tmp_path, ["1", "2"])
    table = read_table(folder)
    first, second, third, *_ = table.rows
    advice = make_recommendation(
        words=("Run <this>.",), frontier_tokens=(second.id,), frontier_wall=(second.id, third.id)
    )
    rows = (replace(first, **more), *table.rows[1:])
    write_table(folder, replace(table, rows=rows, recommendations=(advice,)))
    shown_text = "".join(check_harmless(render_report(ReportInputs(folder))).text)
    assert "Run <this>." in shown_text and "† the model or the judge was trained" in shown_text
    assert "what has to be waited for" in shown_text and shown_text.count("after 80 tokens") == 2


def test_a_report_is_named_after_its_models_unless_it_has_a_title(tmp_path: Path) -> None:
    folder = make_combined(tmp_path, ["1", "2"])
    named = "base (my run/base) and pruned (my run/pruned)"
    assert f"<title>{named}</title>" in render_report(ReportInputs(folder))
    assert "<title>Mine</title>" in render_report(ReportInputs(folder, title="Mine"))


def test_the_vote_of_all_n_has_one_name(tmp_path: Path) -> None:
    """It is explained once, below the table; everywhere else it is the consensus."""
    html = render_report(ReportInputs(make_combined(tmp_path, ["1", "2"]))).lower()
    assert html.count("vote of all") == 1 and "consensus is the majority vote of all 4 traces" in html
    for other in ("full vote", "vote over all", "held against", "blade"):
        assert other not in html
