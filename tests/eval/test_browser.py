"""The report in a real browser: Chromium without a window. Screenshots are left in the folder that the environment
variable SECATEUR_SCREENSHOTS names, by default outputs/screenshots, for CI to keep."""

from pathlib import Path

import pytest

from eval.report.page import ReportInputs
from tests.eval.browser import (
    audit,
    choose,
    find,
    keep_picture,
    prefer,
    press,
    resize,
    stored_inputs,
    texts,
    wait_for,
)
from tests.report_runs import HOSTILE, make_combined, make_grid

pytestmark = pytest.mark.slow

LINE = "x" * 2**20
_FOCUS = """
const element = arguments[0], names = element.className;
return [getComputedStyle(element).outlineStyle, element.id || names.baseVal || names || element.tagName];
"""
_FAULTS = """
const faint = Object.assign(document.createElement("p"), {textContent: "hardly to be read"});
faint.style.color = "#999999";
document.body.append(faint, document.createElement("button"), document.querySelector("svg.dot").cloneNode(true));
document.body.lastChild.removeAttribute("aria-hidden");
"""


def test_the_table_sorts_and_filters(page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path))
    header = next(button for button in find(browser, "#results th button") if button.text.startswith("saved"))
    values = lambda: browser.execute_script(  # noqa: E731
        "const at = [...document.querySelectorAll('#results thead th')].findIndex(h => h.ariaSort);"
        "return [...document.querySelectorAll('#results tbody tr')].map(r => Number(r.cells[at].dataset.value))"
    )
    header.click()
    assert values() == sorted(values(), reverse=True) and len(set(values())) > 1
    header.send_keys("\ue007")  # Enter
    assert values() == sorted(values())
    assert find(browser, "#results th[aria-sort=ascending]")[0].text.startswith("saved")
    field = browser.find_element("id", "table-filter")
    field.send_keys("pruned linear")
    assert [row for row in texts(browser, "#results tbody tr") if row] and browser.execute_script(
        "return [...document.querySelectorAll('#results tbody tr')].filter(r => !r.hidden).length"
    ) == 1
    assert texts(browser, "#table-count") == ["1 of 8 rows"]


def test_the_frontier_tells_its_points_to_mouse_and_keyboard(page, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    browser = page(stored_inputs(tmp_path))
    assert len(find(browser, ".point[tabindex='0']")) == 1
    first = find(browser, ".point[tabindex='0']")[0]
    browser.execute_script("arguments[0].focus()", first)
    told = texts(browser, ".readout")
    assert told == [first.get_attribute("aria-label")] and "accuracy" in told[0]
    ActionChains(browser).send_keys("\ue014").perform()  # arrow right
    assert texts(browser, ".readout") != told
    mark = find(browser, ".point")[1]
    ActionChains(browser).move_to_element(mark).perform()
    assert texts(browser, ".readout") == [mark.get_attribute("aria-label")]


def test_a_trace_opens_by_mouse_and_by_keyboard(page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path))
    stopped = next(bar for bar in find(browser, ".trace") if "stopped after 40" in bar.get_attribute("title"))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stopped)
    stopped.click()
    assert "cut after 40 tokens" in texts(browser, "#reader-text .cut-line")[0]
    assert texts(browser, "#reader-text mark")[:3] == ["So", "Wait", "then"]
    before = browser.execute_script("return document.querySelector('#reader-text').firstChild.textContent")
    assert before == "<think>\nSo I try. Wait, then"
    keep_picture(browser, "reader")
    press(browser, "\ue00c")  # Escape
    assert not find(browser, "dialog[open]")

    browser.execute_script("document.querySelector('#problem .trace').focus()")
    press(browser, "\ue015")  # arrow down
    second = browser.switch_to.active_element.get_attribute("title")
    press(browser, "\ue007")
    assert second.split(" · ")[0] in texts(browser, "#reader-title")[0]
    press(browser, "\ue014")
    assert second.split(" · ")[0] not in texts(browser, "#reader-title")[0]
    press(browser, "\ue00c")
    assert browser.switch_to.active_element.get_attribute("title") == second, "focus is lost when the reader closes"


def test_problems_are_filtered_searched_and_seen_by_another_rule(page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path))
    listed = lambda: texts(browser, "#problems .id")  # noqa: E731
    assert listed() == [f"p{k}" for k in range(5)]
    choose(browser, "show", "pruning changed the answer")
    assert listed() == ["p1", "p3"]
    choose(browser, "run", "DeepPrune, adaptive · linear")
    assert listed() == [] and "No problem is like that." in texts(browser, "#problem")[0]
    choose(browser, "show", "most saved first")
    saved = [float(mark.split("−")[1].split()[0]) for mark in texts(browser, "#problems .marks")]
    assert saved == sorted(saved, reverse=True) and len(saved) == 5
    wait_for(browser, ".trace")
    assert any("never started" in bar.get_attribute("title") for bar in find(browser, ".trace"))
    choose(browser, "show", "consensus wrong")
    assert listed() == []
    choose(browser, "show", "all problems")
    browser.find_element("id", "search").send_keys("question 4")
    assert listed() == ["p4"]


def test_light_dark_print_and_a_telephone(page, tmp_path: Path) -> None:
    browser = page(stored_inputs(tmp_path))
    ground = lambda: browser.execute_script("return getComputedStyle(document.body).backgroundColor")  # noqa: E731
    prefer(browser, "light")
    light = ground()
    keep_picture(browser, "light")
    assert audit(browser) == []
    prefer(browser, "dark")
    assert ground() != light
    dark = ground()
    keep_picture(browser, "dark")
    assert audit(browser) == []
    button = browser.find_element("id", "theme")
    button.click()
    assert "light" in button.text and ground() == light
    button.click()
    prefer(browser, "light")
    assert "dark" in button.text and ground() == dark
    button.click()
    for width in (400, 320):
        resize(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    resize(browser, 400)
    keep_picture(browser, "telephone")
    resize(browser, 1200)
    prefer(browser, "dark", "print")
    assert ground() == "rgb(255, 255, 255)" and not texts(browser, "#problems") and texts(browser, "#problem")
    assert audit(browser) == []
    keep_picture(browser, "print")
    prefer(browser, "light")
    browser.execute_script(_FAULTS)
    assert sorted(line.split(":")[0] for line in audit(browser)) == ["contrast 2.61", "no name", "no name"]


def test_benchmark_and_n_choose_what_is_shown_everywhere(page, tmp_path: Path) -> None:
    browser = page(ReportInputs(make_grid(tmp_path / "in"), title="Grid"))
    shown = lambda selector: [e for e in find(browser, selector) if e.is_displayed()]  # noqa: E731
    rows = lambda: texts(browser, "#results tbody th")  # noqa: E731
    listed = lambda: texts(browser, "#problems .id")  # noqa: E731
    seen = lambda: (len(shown(".cards")), len(shown(".frontier")), len(shown(".scaling")), len(rows()))  # noqa: E731
    assert seen() == (1, 1, 1, 6) and len(listed()) == 6 and len(texts(browser, "#live ~ div tbody tr")) == 2
    choose(browser, "benchmark", "beta")
    choose(browser, "n", "4")
    assert seen() == (1, 1, 1, 6) and listed() == [f"beta \u00b7 p{k}" for k in range(3)]
    assert shown(".frontier svg")[0].get_attribute("aria-label") == "Accuracy against net tokens, beta, n = 4"
    assert texts(browser, ".advice li") == ["pruned: best of beta."]
    assert texts(browser, "#live ~ div tbody th .second") == ["pruned \u00b7 beta"]
    wait_for(browser, ".trace")
    browser.execute_script("document.querySelector('.trace').click()")
    assert texts(browser, "#reader-text")[0].startswith("beta")
    press(browser, "\ue00c")
    browser.find_element("id", "every-row").click()
    assert texts(browser, "#table-count") == ["36 of 36 rows"] and "n" in "".join(texts(browser, "#results th"))
    find(browser, "#measure input")[1].click()
    assert [title.split()[0] for title in texts(browser, ".scaling h3")] == ["Net"]
    for scheme in ("dark", "light"):
        prefer(browser, scheme)
        assert audit(browser) == []
    keep_picture(browser, "grid")
    resize(browser, 400)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400 and audit(browser) == []
    keep_picture(browser, "grid-telephone")


def test_everything_can_be_reached_by_the_tab_key_and_its_focus_is_seen(page, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    browser = page(stored_inputs(tmp_path))
    seen: list[str] = []
    while len(seen) < 100:
        ActionChains(browser).send_keys("\ue004").perform()
        outline, mark = browser.execute_script(_FOCUS, browser.switch_to.active_element)
        if mark == "BODY":
            break
        assert outline != "none" or "point" in mark, f"{mark} has no visible focus"
        seen.append(mark)
    places = [
        seen.index(name) for name in ("skip", "theme", "copy", "table-filter", "point", "search", "run", "trace")
    ]
    assert places == sorted(places), "the order of focus is not that of the page"
    assert seen.count("trace") <= 2, "each bar is a stop of its own"


def test_hostile_texts_are_shown_and_do_nothing(page, tmp_path: Path) -> None:
    browser = page(ReportInputs(make_combined(tmp_path / "in", [*HOSTILE, LINE]), title="Fine"))
    for width in (1200, 400):
        resize(browser, width)
        for bar in find(browser, ".panel:first-child .trace"):
            browser.execute_script("arguments[0].click()", bar)
            assert find(browser, "dialog[open]")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            press(browser, "\ue00c")
    shown = []
    for bar in find(browser, ".panel:first-child .trace"):
        browser.execute_script("arguments[0].click()", bar)
        shown.append("".join(browser.execute_script("return document.querySelector('#reader-text').textContent")))
        press(browser, "\ue00c")
    for text in HOSTILE[:4]:
        assert any(text in found for found in shown), "not shown as it was written"
    assert any("null � bell �" in text for text in shown) and any("lone surrogate ?" in text for text in shown)
    assert any("characters left out" in text for text in shown)
    assert browser.title == "Fine" and len(find(browser, "h1")) == 1 and not find(browser, "img, iframe, textarea")
    assert len(find(browser, "script")) == 3 + 1 + 1  # ours, the list, one problem
    assert not find(browser, "script script, #problem script, #reader script")


def test_without_javascript_tables_and_pictures_are_there(page, browser, tmp_path: Path) -> None:
    page(stored_inputs(tmp_path))
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.refresh()
        assert find(browser, "#results tbody tr") and find(browser, "#frontier-figure .point")
        assert find(browser, "noscript svg.bars")[0].is_displayed()
        assert not browser.find_element("id", "explorer").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
