"""The report is one harmless file, whatever the models wrote."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report import ReportInputs, read_rounds, render_report, write_report
from eval.trace_view import cluster_name, printable, problem_views
from runtime.errors import InputError
from runtime.files import append_jsonl, write_json

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
            "judge_head": 99, "longest_trace": 80.5,
        },
        "wall_s": None,
        "saving_gross": saving + 0.01,
        "saving_net": saving,
    }  # fmt: skip


def make_combined(folder: Path, texts: list[str], problems: str = "mine.jsonl", model: str = "pruned") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        make_row(name, method, judge, 0.6 + 0.1 * index, saving)
        for name in ("base", model)
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


class Page(HTMLParser):
    """Everything a browser could act upon."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check_harmless(html: str) -> Page:
    page = Page(html)
    assert not {"script", "img", "iframe", "object", "link", "textarea", "form"} & set(page.tags)
    assert page.tags.count("h1") == 1
    for name, value in page.attributes:
        assert not name.startswith("on"), f"{name} would run code"
        assert name not in ("src", "srcset", "action", "formaction", "data")
        if name in ("href", "xlink:href"):
            assert value is not None and value.startswith("#"), f"{value} leaves the page"
    assert "@import" not in html and "url(http" not in html
    return page


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    html = render_report(ReportInputs(make_combined(tmp_path, list(HOSTILE), model="<b>$m$</b>")))
    page = check_harmless(html)
    shown = "".join(page.text)
    assert "<script>document.title='owned'</script>" in shown
    assert "{{ 7 * 7 }}" in shown and "49" not in shown.split("How this was measured")[0].split("{{ 7 * 7 }}")[1][:5]
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", html)
    html.encode("utf-8")


def test_controls_and_the_engine_s_exactness_are_told(tmp_path: Path) -> None:
    """Files of earlier versions lack both; there a dash stands."""
    folder = make_combined(tmp_path, ["1", "2"])
    before = check_harmless(render_report(ReportInputs(folder)))
    combined = json.loads((folder / "combined.json").read_text())
    control = {"accuracy": 0.5, "generated": 900.0, "difference": -0.0426, "ci95": [-0.1, 0.02]}
    entry = make_row("base", "deepconf_low", None, 0.7, 0.4)
    combined["rows"].append(entry | {"oracle_accuracy": 0.987, "controls": {"consensus_equal_tokens": control}})
    combined["live_equals_replay"]["exact"] = False
    write_json(folder / "combined.json", combined)
    html = render_report(ReportInputs(folder))
    shown = "".join(check_harmless(html).text)
    for text in ("DeepConf low", "0.987", "\u22120.043", "not exact"):
        assert text in shown and text not in "".join(before.text)
    assert "-0.100 \u2026 +0.020" in html


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


def test_rounds_are_counted_through_in_their_order(tmp_path: Path) -> None:
    rounds = read_rounds(make_rounds(tmp_path))
    assert [(r.number, r.limit, r.first_step, r.last_step) for r in rounds] == [
        (1, 200, 0, 2),
        (2, 100, 2, 4),
        (10, 50, 4, 6),
    ]
    assert [c.step for c in rounds[1].candidates] == [2, 4] and rounds[1].candidates[1].chosen
    assert rounds[2].lengths == [(5, 90.0)]


def test_a_full_report_has_every_section_and_ids_occur_once(tmp_path: Path) -> None:
    curve = [[0, 0], [0.1, 0.8], [1, 1]]
    metrics = {
        "kind": "linear", "auroc": 0.9, "auroc_ci95": [0.88, 0.92], "pairs": 100, "same_answer_share": 0.4,
        "roc": curve,
        "baselines": {"ngram": {"auroc": 0.8, "roc": curve}, "zero_shot": {"auroc": None, "roc": []}},
    }  # fmt: skip
    for name in ("base", "pruned"):
        write_json(tmp_path / name / "metrics.json", metrics)
    models = {name: {"pass_at_1": 0.5, "mean_tokens": tokens} for name, tokens in (("base", 100.0), ("pruned", 50.0))}
    html = render_report(
        ReportInputs(
            make_combined(tmp_path / "in", ["one", "two", "three"]),
            thinkprune=make_rounds(tmp_path / "run"),
            judges={name: tmp_path / name for name in ("base", "pruned")},
            lengths={"base": [90, 110], "pruned": [50, 50]},
            summary=models | {"wall_s": {"thinkprune": 1.0}, "control": {"pass_at_1": 0.5, "mean_tokens": 80.0}},
        )
    )
    page = check_harmless(html)
    for heading in ("What an answer costs", "the length blade", "the judge", "Trace by trace", "Differences, paired"):
        assert heading in html
    assert "−50 %" in html and "−20 % without a binding limit" in html
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "two charts share an id, so one would draw the other's parts"
    assert page.tags.count("svg") == 6


def test_bars_add_up_to_their_trace(tmp_path: Path) -> None:
    traces = [
        {
            "sample": i, "n_tokens": 40 + i, "cut_tokens": 10, "status": "pruned" if i else "finished",
            "voted": not i, "cluster": None if i == 3 else i % 2, "answer": None, "right": False, "text": "",
        }
        for i in range(5)
    ]  # fmt: skip
    example = {
        "problem_id": "p",
        "problem": "q",
        "gold": "1",
        "panels": {"m": {"traces": traces, "vote": None, "vote_right": False}},
    }
    (view,) = problem_views([example])
    panel = view.panels[0]
    assert [bar.cluster for bar in panel.bars] == ["A", "A", "A", "B", "–"]
    for bar in panel.bars:
        assert bar.solid + bar.ghost == pytest.approx(100 * bar.n_tokens / view.axis)
        assert bar.spent_tokens == (10 if bar.pruned else bar.n_tokens)
    assert panel.spent == 40 + 4 * 10 and panel.full == sum(40 + i for i in range(5))


def test_cluster_names() -> None:
    assert [cluster_name(rank) for rank in (0, 25, 26, 27, 52, None)] == ["A", "Z", "AA", "AB", "BA", "–"]


def test_a_missing_or_empty_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"combined\.json"):
        render_report(ReportInputs(tmp_path))
    write_json(tmp_path / "combined.json", {"rows": [], "config": {}, "differences": []})
    with pytest.raises(InputError, match="holds no row"):
        render_report(ReportInputs(tmp_path))


@pytest.mark.slow
def test_a_browser_runs_nothing_of_it_and_opens_a_trace(tmp_path: Path) -> None:
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on this machine")
    driver_path = shutil.which("chromedriver")
    if driver_path is None:
        pytest.skip("no chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By

    path = tmp_path / "report.html"
    write_report(ReportInputs(make_combined(tmp_path / "in", list(HOSTILE)), title="Fine"), path)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync", "--window-size=400,800",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        browser.get(path.as_uri())
        assert browser.title == "Fine"
        width = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], "the page scrolls sideways on a telephone"
        bar = browser.find_element(By.CSS_SELECTOR, "details.trace > summary")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
        bar.click()
        opened = browser.find_element(By.CSS_SELECTOR, "details.trace[open] pre")
        assert opened.is_displayed() and opened.text
    finally:
        browser.quit()
