"""The top of the report in a real browser: read at once, copied, linked to, compared, printed.

Screenshots are left where those of test_browser.py are.
"""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from eval.report.page import ReportInputs
from secateur.runtime.command_lines import read_back
from tests.eval.browser import (
    audit,
    find,
    keep_picture,
    keep_print,
    prefer,
    press,
    resize,
    stored_inputs,
    texts,
    wait_for,
)
from tests.report_runs import make_combined, make_grid

pytestmark = pytest.mark.slow

QUESTIONS = ["What was saved?", "At what loss?", "Against what?", "How sure?", "What do I run?"]
_ENDS = """
const shown = [...document.querySelectorAll(".answer > div")].filter(e => e.checkVisibility());
const [question, answer] = ["dt", "dd"].map(tag => e => e.querySelector(tag).textContent.trim());
return shown.map(e => [question(e), answer(e).length, e.getBoundingClientRect().bottom]);
"""
# Columns as large as the sheet break like pages do: what is split among them has a rectangle in each.
A4_WIDTH, A4_HEIGHT = 1039, 710
_PRINTED = """
const [width, height, whole] = arguments, page = document.body;
Object.assign(page.style, {columnWidth: `${width}px`, columnGap: "0", height: `${height}px`, columnFill: "auto"});
if (!whole) for (const e of document.querySelectorAll("body *")) e.style.breakInside = "auto";
const kept = "figure, .card, .answer > div, .rung, tbody tr, .trace, .panel, .advice, .bars";
const all = [...document.querySelectorAll(kept)].filter(e => e.checkVisibility());
const widest = e => Math.max(...[...e.getClientRects()].map(r => r.width));
const wide = [...document.querySelectorAll("table, pre, figure")].filter(e => widest(e) > width);
const name = e => `${e.tagName} ${e.className.baseVal ?? e.className} ${e.textContent.trim().slice(0, 30)}`;
return [all.length, all.filter(e => e.getClientRects().length > 1).map(name), wide.map(name)];
"""


@pytest.mark.parametrize("kind", ["stored", "grid"])
def test_five_questions_are_answered_above_the_fold(kind: str, page, tmp_path: Path) -> None:
    """The grid's page also has its choice of benchmark and n above them; the title is as long as a real run's."""
    inputs = stored_inputs(tmp_path) if kind == "stored" else ReportInputs(make_grid(tmp_path / "in"))
    browser = page(replace(inputs, title="base (trainers/embedded_model) and pruned (thinkprune/final)"))
    for width, height in ((1280, 800), (760, 800), (400, 800), (360, 800)):
        resize(browser, width, height)
        browser.execute_script("scrollTo(0, 0)")
        found = browser.execute_script(_ENDS)
        assert [question.split("?")[0] + "?" for question, _, _ in found] == QUESTIONS
        assert all(length > 10 for _, length, _ in found)
        assert max(end for _, _, end in found) <= height, found
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        keep_picture(browser, f"answer-{kind}-{width}")


def test_the_command_is_copied_as_it_stands(page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path))
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    button = find(browser, "button.copy")[0]
    browser.execute_script("arguments[0].focus()", button)
    press(browser, "\ue007")
    wait_for(browser, "button.copy")
    read = "const done = arguments[0]; navigator.clipboard.readText().then(done, (error) => done(String(error)))"
    copied = browser.execute_async_script(read)
    assert copied == find(browser, ".command code")[0].get_attribute("textContent") and button.text == "Copied"
    assert shlex.split(copied.replace("\\\n", ""))[:4] == ["secateur", "prune", "--model", "outputs/my run/pruned"]
    assert read_back(copied)["judge"] == "judges/mine"


def test_a_problem_has_an_address_of_its_own(page, tmp_path: Path) -> None:
    browser = page(ReportInputs(make_grid(tmp_path / "in"), title="Grid"))
    heading = lambda: texts(browser, "#problem .soft")[0]  # noqa: E731
    find(browser, "#problems button")[4].click()
    wait_for(browser, "#problem a[href*='beta']")
    link = browser.current_url
    assert "beta \u00b7 p1" in heading() and link.endswith("#problem=p1&benchmark=beta")
    browser.get("about:blank")
    browser.get(link)
    wait_for(browser, "#problem a[href*='beta']")
    assert "beta \u00b7 p1" in heading()
    assert browser.execute_script("return scrollY") > 0, "the page did not go to the traces"
    browser.find_element("id", "search").send_keys("question 0")
    browser.execute_script("location.hash = arguments[0]", "#problem=p2&benchmark=alpha")
    wait_for(browser, "#problem a[href*='alpha']")
    assert "alpha \u00b7 p2" in heading() and texts(browser, "#problem-count") == ["6 of 6 problems"]
    browser.execute_script("location.hash = '#problem=nowhere'")
    assert "alpha \u00b7 p2" in heading()


def test_a_problem_that_a_filter_took_away_is_shown_again(page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path))
    find(browser, "#problems button")[2].click()
    wait_for(browser, "#problem a[href$='=p2']")
    search = browser.find_element("id", "search")
    search.send_keys("question 4")
    wait_for(browser, "#problem a[href$='=p4']")
    search.clear()
    search.send_keys(" ")
    find(browser, "#problems button")[2].click()
    assert wait_for(browser, "#problem a[href$='=p2']")


def test_the_explorer_opens_on_the_recommended_method(page, tmp_path: Path) -> None:
    browser = page(ReportInputs(make_combined(tmp_path / "in", ["1", "2"])))
    assert browser.find_element("id", "run").get_attribute("value") == "DeepPrune \u00b7 linear"
    find(browser, ".story a")[0].click()
    assert "#problem=1" in browser.current_url and texts(browser, "#problem-count") == ["1 of 1 problems"]


def test_two_traces_are_read_side_by_side(page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path))
    browser.execute_script("document.querySelector('#problem .trace').focus()")
    press(browser, "\ue007")
    first = texts(browser, "#reader-title")[0]
    button = browser.find_element("id", "keep")
    button.click()
    press(browser, "\ue014")  # arrow right: the next trace
    assert texts(browser, "#kept-title") == [first] and texts(browser, "#reader-title") != [first]
    assert texts(browser, "#kept-text") != texts(browser, "#reader-text")
    boxes = [browser.find_element("id", name).rect for name in ("kept-text", "reader-text")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and button.get_attribute("aria-pressed") == "true"
    assert audit(browser) == []
    keep_picture(browser, "compared")
    resize(browser, 400)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    resize(browser, 1200)
    button.click()
    assert not texts(browser, "#kept-title") and button.get_attribute("aria-pressed") == "false"
    press(browser, "\ue00c")


def test_columns_are_few_until_all_are_asked_for(page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path))
    few = texts(browser, "#results thead th")
    assert "saved" in few and "saved gross" not in few and len(few) <= 9
    browser.find_element("id", "every-column").click()
    assert "saved gross" in texts(browser, "#results thead th")
    summary = next(one for one in find(browser, "summary") if one.text.startswith("What the columns mean"))
    browser.execute_script("arguments[0].focus()", summary)
    press(browser, "\ue007")
    assert "bootstrap over problems" in "".join(texts(browser, ".words dd"))


@pytest.mark.parametrize("kind", ["stored", "grid"])
def test_nothing_is_split_or_cut_off_in_print(kind: str, page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path) if kind == "stored" else ReportInputs(make_grid(tmp_path / "in")))
    resize(browser, A4_WIDTH, A4_HEIGHT)
    prefer(browser, "light", "print")
    count, split, wide = browser.execute_script(_PRINTED, A4_WIDTH, A4_HEIGHT, True)
    assert count > 30 and (split, wide) == ([], [])
    keep_print(browser, f"print-{kind}")
    assert not texts(browser, "button.copy, #theme, #table-controls, nav.contents")
    _, split, _ = browser.execute_script(_PRINTED, A4_WIDTH, A4_HEIGHT, False)
    assert split, "the check sees no split where nothing forbids one"
    prefer(browser, "light")
