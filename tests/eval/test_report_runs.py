"""Several runs in one page, and pages of runs that go on: what is there is shown, what is not is said."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eval.prune import PruneConfig
from eval.report.answer import Change
from eval.report.command import Command
from eval.report.runs import read_run, render_runs
from eval.report.schedule_answer import schedule_answer
from schedules.dead import DeadRound, write_dead
from schedules.records import finished_rounds
from secateur.results import read_table, write_table
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.files import HOLDER, append_jsonl, held_by, hold_folder, write_json
from tests.eval.browser import audit, keep_picture, prefer, resize
from tests.eval.test_report import check_harmless
from tests.report_runs import HOSTILE, make_combined, make_rounds, make_stored
from tests.schedules.test_model_card import finished_run


def report(repository: Path, *words: str | Path) -> list[str]:
    return [sys.executable, str(repository / "eval" / "report_runs.py"), *map(str, words)]


def test_one_run_gets_its_report_anew_and_several_stand_side_by_side(repository: Path, tmp_path: Path) -> None:
    runs = [make_combined(tmp_path / name, ["1", "2"]) for name in ("one", "two")]
    again = subprocess.run(report(repository, runs[0]), capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "Every method, every model" in (runs[0] / "report.html").read_text(encoding="utf-8")
    both = subprocess.run(report(repository, *runs), capture_output=True, text=True, cwd=tmp_path)
    assert both.returncode == 0 and both.stdout == "report: runs.html\n", both.stderr
    html = (tmp_path / "runs.html").read_text(encoding="utf-8")
    page = check_harmless(html, ("report.js",))
    assert html.count('<dl class="answer"') == 2 and page.tags.count("tr") == 3
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_runs_about_other_problems_are_not_compared(tmp_path: Path) -> None:
    runs = [read_run(make_combined(tmp_path / name, ["1", "2"])) for name in ("one", "two")]
    assert "must not be compared" not in render_runs(runs)
    other = replace(runs[1].table, settings={"problems": "other"})
    assert "must not be compared" in render_runs([runs[0], replace(runs[1], table=other)])


def test_a_hostile_name_is_a_name(tmp_path: Path) -> None:
    run = read_run(make_combined(tmp_path, list(HOSTILE), model="<b>$m$</b>"))
    page = check_harmless(render_runs([replace(run, path=Path(HOSTILE[0]), faults=tuple(HOSTILE))]), ("report.js",))
    assert HOSTILE[0] in "".join(page.text) and "<b>$m$</b>" in "".join(page.text)


def test_a_schedule_and_a_whole_run_are_found_by_their_folders(tmp_path: Path) -> None:
    make_combined(tmp_path / "whole" / "combined" / "judge", ["1", "2"])
    schedule = make_rounds(tmp_path / "whole" / "thinkprune")
    whole, alone = read_run(tmp_path / "whole"), read_run(schedule)
    assert whole.table is not None and whole.schedule == alone.schedule == schedule and alone.table is None
    html = render_runs([whole, alone])
    page = check_harmless(html, ("report.js",))
    assert html.count("What each round passed on") == 2 and "Nobody works on it." in html
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "the figures of two runs share an id"
    with pytest.raises(InputError, match=r"no table .* and no schedule"):
        read_run(tmp_path / "nothing")


def test_a_schedule_alone_answers_the_five_questions(tmp_path: Path, embedded_model: Path) -> None:
    finished_run(tmp_path, embedded_model)
    run = read_run(tmp_path / "run")
    answer = schedule_answer(run.schedule, finished_rounds(run.schedule))
    assert answer.tokens == answer.wait == Change("200", "120", "−40\N{NO-BREAK SPACE}%") and answer.cheaper
    assert answer.accuracy == Change("60.0\N{NO-BREAK SPACE}%", "65.0\N{NO-BREAK SPACE}%")
    assert answer.loss == "+5.0 points, 95\N{NO-BREAK SPACE}% interval +5.0 … +5.0"
    words = shlex.split(answer.command.text.replace("\\\n", " "))
    asked = parse_config(PruneConfig, words[2:])
    assert asked.model == str(tmp_path / "run" / "final") and asked.max_tokens == 60
    html = render_runs([run])
    check_harmless(html, ("report.js",))
    questions = ("What was saved?", "At what loss?", "Against what?", "How sure?", "What do I run?")
    assert all(html.count(question) == 1 for question in questions)
    assert "All in one table" not in html and "tokens to wait for" not in html and "Cannot be read" not in html


def test_a_schedule_that_goes_on_has_no_model_to_ask_yet(tmp_path: Path) -> None:
    run = read_run(make_rounds(tmp_path))
    answer = schedule_answer(run.schedule, finished_rounds(run.schedule))
    assert answer.command == Command("", "The schedule has not come to its end: the same command goes on.")
    assert answer.winner == "the model of round 10" and answer.tokens == Change("90", "88", "−2\N{NO-BREAK SPACE}%")


def test_a_round_that_was_ended_as_dead_says_why(tmp_path: Path) -> None:
    running = make_rounds(tmp_path) / "rounds" / "11-limit-40"
    append_jsonl(running / "train.jsonl", [{"step": 4, "reward": 0.0}])
    write_dead(running, DeadRound(4, ("reward",), ("all rewards were zero",)))
    (told,) = read_run(tmp_path).progress
    assert told.endswith("step 4: reward 0. It was ended as dead: all rewards were zero.")
    (running / "dead.json").write_text("{", encoding="utf-8")
    assert "dead.json" in read_run(tmp_path).faults[0]


def test_what_cannot_be_read_is_said_beside_what_can(tmp_path: Path) -> None:
    make_combined(tmp_path / "combined" / "judge", ["1", "2"])
    rounds = make_rounds(tmp_path / "thinkprune") / "rounds"
    write_json(rounds / "1-limit-200" / "selection.json", {"format": 0})
    html = render_runs([read_run(tmp_path)])
    assert "Cannot be read: " in html and "has format 0" in html and '<dl class="answer"' in html


def test_a_table_that_is_older_than_its_traces_says_so(tmp_path: Path) -> None:
    folder = make_stored(tmp_path, 2, 4, lambda problem, sample: "so")
    write_json(folder / "settings.json", {"problem_count": 2, "n": 8})
    write_table(folder, read_table(folder))
    assert read_run(folder).progress == ()
    traces = folder / "base" / "traces" / "traces-rank0.jsonl"
    os.utime(traces, (2**32, 2**32))
    first, second = read_run(folder).progress
    assert "made before the last traces" in first and second == "base: 8 of 16 traces"
    (tmp_path / "mine.jsonl").write_text("{}\n\n{}\n{}\n")
    write_json(folder / "settings.json", {"problem_count": None, "problems": str(tmp_path / "mine.jsonl"), "n": 4})
    assert read_run(folder).progress[1] == "base: 8 of 12 traces"


def test_a_holder_is_known_without_a_lock_and_a_dead_one_is_none(tmp_path: Path) -> None:
    with hold_folder(tmp_path):
        assert held_by(tmp_path).startswith(f"process {os.getpid()} on ")
    assert held_by(tmp_path) is None
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    tmp_path.mkdir(exist_ok=True)  # it left nothing behind
    (tmp_path / HOLDER).write_text(f"process {gone.pid} on {os.uname().nodename}")
    assert held_by(tmp_path) is None
    (tmp_path / HOLDER).write_text(f"process {gone.pid} on another-machine")
    assert held_by(tmp_path) is not None


def until(found: Callable[[], bool], watcher: "subprocess.Popen[str]") -> None:
    for _ in range(600):
        if found():
            return
        assert watcher.poll() is None, watcher.communicate()
        time.sleep(0.1)
    raise AssertionError("the page never said so")


def test_a_running_schedule_is_followed_until_it_ends(repository: Path, tmp_path: Path) -> None:
    run, page = make_rounds(tmp_path / "run"), tmp_path / "run" / "report.html"
    log = run / "rounds" / "11-limit-40" / "train.jsonl"
    says = lambda words: lambda: page.is_file() and words in page.read_text(encoding="utf-8")  # noqa: E731
    with hold_folder(run / "rounds"):
        watcher = subprocess.Popen(
            report(repository, "--watch", "--every", "1", run),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        until(says("Round 11 begins, with a limit of 40 tokens."), watcher)
        append_jsonl(log, [{"step": 1, "reward": 0.25, "completions/mean_length": 33.0}])
        with log.open("a") as file:
            file.write('{"step": 2, "rew')  # as far as another process has come
        until(says("limit 40 tokens, step 1: mean tokens 33, reward 0.25."), watcher)
        html = page.read_text(encoding="utf-8")
        check_harmless(html, ("report.js",))
        assert 'data-seconds="1"' in html and f"Goes on: process {os.getpid()}" in html
    out, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 0 and "Ctrl+C ends it" in out and "watching ends" in out, errors
    assert "data-seconds" not in page.read_text(encoding="utf-8")


def test_watching_ends_with_an_interrupt(repository: Path, tmp_path: Path) -> None:
    run = make_rounds(tmp_path / "run")
    with hold_folder(run):
        watcher = subprocess.Popen(
            report(repository, "--watch", run), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        until((run / "report.html").is_file, watcher)
        watcher.send_signal(signal.SIGINT)
        _, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 130 and errors.count("\n") == 1


@pytest.mark.slow
def test_runs_side_by_side_in_a_browser(browser, tmp_path: Path) -> None:
    make_combined(tmp_path / "whole" / "combined" / "judge", ["1", "2"])
    schedule = make_rounds(tmp_path / "whole" / "thinkprune")
    other = make_combined(tmp_path / "other", list(HOSTILE))
    runs = [read_run(path) for path in (tmp_path / "whole", schedule, other)]
    page = tmp_path / "runs.html"
    page.write_text(render_runs(runs, reload_s=1), encoding="utf-8")
    browser.get(page.as_uri())
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light")):
        resize(browser, width)
        prefer(browser, scheme)
        assert audit(browser) == [] and browser.execute_script("return document.documentElement.scrollWidth") <= width
        keep_picture(browser, f"runs-{width}-{scheme}")
    browser.execute_script("window.untouched = true; document.querySelector('.reload').click()")
    page.write_text(render_runs(runs), encoding="utf-8")
    time.sleep(2)
    assert browser.execute_script("return window.untouched"), "it was loaded anew although it was paused"
    browser.find_element("css selector", ".reload").click()
    for _ in range(100):
        if not browser.find_elements("css selector", ".reload"):
            break
        time.sleep(0.1)
    assert not browser.find_elements("css selector", ".reload"), "it was not loaded anew"
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
