"""The dashboard in a real browser, fed by a real server: what runs, what is saved, and nothing unescaped."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.eval.browser import chromium, find, keep_picture, prefer, press, resize, texts, wait_for
from tests.serve.running import TEXTS, Server

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver")

AUDIT = (Path(__file__).parent.parent / "eval" / "page_audit.js").read_text(encoding="utf-8")
LONG = {"n": 64, "secateur": {"rule": "shortest_wait"}}
KEY = "a-secret-of-ours"
FREEZE = """
const seen = document.querySelector(".request .lane .bar") !== null;
if (seen) document.getElementById("pause").click();
return seen;
"""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, that has answered a few requests."""
    with Server(tmp_path_factory.mktemp("serve") / "log.jsonl", key=KEY) as running:
        for text in TEXTS:
            assert running.chat(text).status_code == 200
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["webdriver.Chrome"]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: "webdriver.Chrome", locked: Server) -> Iterator["webdriver.Chrome"]:
    """The dashboard with its figures; at the end nothing may stand in the console."""
    resize(browser, 1280)
    browser.get(f"{locked.url}/dashboard")
    browser.execute_script("sessionStorage.setItem('key', arguments[0])", KEY)
    browser.get(f"{locked.url}/dashboard")
    wait_for(browser, ".card")
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_it_asks_for_the_key_and_keeps_it(browser: "webdriver.Chrome", locked: Server) -> None:
    resize(browser, 1280)
    browser.get(f"{locked.url}/dashboard")
    wait_for(browser, "#ask:not([hidden])")
    assert browser.switch_to.active_element.get_attribute("id") == "secret" and not texts(browser, "#figures")
    press(browser, KEY, "\ue007")  # Enter
    wait_for(browser, ".card")
    assert not texts(browser, "#ask") and KEY not in browser.page_source
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_it_shows_what_was_saved_and_answered(page: "webdriver.Chrome", locked: Server) -> None:
    totals = locked.live()["totals"]
    assert texts(page, "h1") == ["embedded_model"]
    assert texts(page, ".card.main dd")[0].startswith(f"{totals['saved']:,}".replace("-", "-"))
    rows = texts(page, "#recent tr")
    assert len(rows) == min(totals["answered"], 12)
    assert texts(page, "#idle") == ["None at the moment."]


@contextmanager
def asking(server: Server) -> Iterator[None]:
    """Somebody asks all the time; every request is answered."""
    done = threading.Event()

    def ask(text: str) -> None:
        while not done.is_set():
            assert server.chat(text, **LONG).status_code == 200

    with ThreadPoolExecutor(len(TEXTS)) as callers:
        asked = [callers.submit(ask, text) for text in TEXTS]
        try:
            yield
        finally:
            done.set()
        for one in asked:
            one.result()


def freeze(page: "webdriver.Chrome") -> None:
    """Pause at a moment when traces are shown."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 120, 0.1).until(lambda browser: browser.execute_script(FREEZE))


def test_live_traces_can_be_folded_and_paused(page: "webdriver.Chrome", locked: Server) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    with asking(locked):
        freeze(page)
        assert texts(page, "#state") == ["paused"] and texts(page, "#pause") == ["Go on"]
        assert any(" of 64 traces" in told for told in texts(page, ".request summary"))
        page.execute_script("document.querySelector('.request summary').focus()")
        press(page, "\ue007")  # Enter
        assert not page.execute_script("return document.querySelector('.request').open")
    WebDriverWait(page, 120).until(lambda _: not locked.live()["live"])
    page.find_element("id", "pause").send_keys(" ")
    WebDriverWait(page, 120).until(lambda _: texts(page, "#state") == ["live"] and not find(page, ".request"))
    assert texts(page, "#idle") == ["None at the moment."]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_and_all_can_be_read(
    page: "webdriver.Chrome", locked: Server, width: int, scheme: str
) -> None:
    prefer(page, scheme)
    resize(page, width)
    with asking(locked):
        freeze(page)
    keep_picture(page, f"dashboard-{width}-{scheme}")
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert page.execute_script(AUDIT) == []


def test_texts_of_models_are_texts(page: "webdriver.Chrome") -> None:
    """Answers and votes that look like markup."""
    hostile = "<img src=x onerror=alert(1)>"
    told = {
        "model": hostile, "uptime_s": 7200, "more_live": 3,
        "totals": {"answered": 1, "refused": 0, "failed": 0, "spent": 9, "full_vote": 90, "saved": 81},
        "latency_s": {"p50": None, "p90": None, "p99": None},
        "load": {"rows": 1, "max_rows": 2, "running": 1, "waiting": 0},
        "live": [{"id": "x", "n": 2, "rule": "r", "age_s": 1, "started": 1, "finished": 1, "stopped": 0, "tokens": 5,
                  "votes": {hostile: 1}, "traces": [{"tokens": 5, "status": "finished", "answer": hostile}]}],
        "recent": [{"id": "x", "seconds": 1, "answer": hostile, "votes": {hostile: 1}, "tokens": 9,
                    "full_vote_tokens": 90, "ended": "decided"}],
    }  # fmt: skip
    page.execute_script("paused = true; clearTimeout(timer); draw(arguments[0])", told)
    assert not find(page, "img")
    assert texts(page, "h1") == [hostile] and hostile in texts(page, ".votes li")[0]
    assert hostile in texts(page, ".lane")[0] and texts(page, "#recent th") == [hostile]
    assert texts(page, "#more") == ["3 more run."]
