"""What a test does with a page in Chromium."""

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eval.report.page import ReportInputs
from tests.report_runs import make_rounds, make_stored

if TYPE_CHECKING:
    from selenium import webdriver

AUDIT = (Path(__file__).parent / "page_audit.js").read_text(encoding="utf-8")
TEXT = "<think>\nSo I try. Wait, then again. But now {sample}.\n</think>\n\\boxed{{7}}"


def stored_inputs(tmp_path: Path) -> ReportInputs:
    folder = make_stored(tmp_path / "in", 5, 12, lambda problem, sample: TEXT.format(sample=sample))
    return ReportInputs(folder, title="Fine", thinkprune=make_rounds(tmp_path / "run"))


def audit(browser: "webdriver.Chrome") -> list[str]:
    """What a reader could not read, find or be told by a screen reader, as it is drawn now; see page_audit.js."""
    return browser.execute_script(AUDIT)


@contextmanager
def chromium(profile: Path) -> Iterator["webdriver.Chrome"]:
    """A browser without a window, that keeps its things in `profile`; skips the test where there is none, or no
    selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    names = ("chromium", "chromium-browser", "google-chrome")
    binary, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1200,900",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


def resize(browser: "webdriver.Chrome", width: int, height: int = 900) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(browser: "webdriver.Chrome", scheme: str, media: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def wait_for(browser: "webdriver.Chrome", selector: str):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 120).until(lambda b: b.find_elements(By.CSS_SELECTOR, selector))


def find(browser: "webdriver.Chrome", selector: str) -> list:
    return browser.find_elements("css selector", selector)


def texts(browser: "webdriver.Chrome", selector: str) -> list[str]:
    """Of shown elements, with what only screen readers say."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.textContent)"
    )
    return browser.execute_script(script, selector)


def choose(browser: "webdriver.Chrome", identity: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select, WebDriverWait

    Select(browser.find_element("id", identity)).select_by_visible_text(text)
    WebDriverWait(browser, 120).until(lambda b: find(b, "#problem .trace") or "No problem" in b.page_source)


def _folder() -> Path:
    folder = Path(os.environ.get("SECATEUR_SCREENSHOTS", "outputs/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep_picture(browser: "webdriver.Chrome", name: str) -> None:
    height = browser.execute_script("return document.documentElement.scrollHeight")
    width = browser.execute_script("return window.innerWidth")
    resize(browser, width, min(height, 8000))
    assert browser.save_screenshot(str(_folder() / f"{name}.png"))
    resize(browser, width)


def keep_print(browser: "webdriver.Chrome", name: str) -> None:
    """What a printer gets, as a PDF beside the pictures."""
    wanted = {"preferCSSPageSize": True, "printBackground": True}
    printed = browser.execute_cdp_cmd("Page.printToPDF", wanted)["data"]
    _folder().joinpath(f"{name}.pdf").write_bytes(base64.b64decode(printed))


def press(browser: "webdriver.Chrome", *keys: str) -> None:
    browser.switch_to.active_element.send_keys(*keys)
