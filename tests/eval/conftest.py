"""A real browser: Chromium without a window, where this machine has one with its driver, and selenium."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eval.report.page import ReportInputs, write_report
from tests.eval.browser import chromium, resize, wait_for

if TYPE_CHECKING:
    from selenium import webdriver


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: "webdriver.Chrome", tmp_path: Path) -> Iterator[Callable[[ReportInputs], "webdriver.Chrome"]]:
    """Opens a report; at the end nothing may stand in the console."""

    def show(inputs: ReportInputs) -> "webdriver.Chrome":
        path = tmp_path / "report.html"
        write_report(inputs, path)
        browser.get(path.as_uri())
        wait_for(browser, "#problem .trace")
        return browser

    resize(browser, 1200)
    yield show
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
