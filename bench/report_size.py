"""How large a report of many traces is, how long it takes to write, and how long a browser takes to open it.

    python bench/report_size.py --problems 60 --traces 512 --characters 10000

The traces are made up: sentences drawn from a pool of words as frequent as in prose. Opening is timed in Chromium
without a window, from the request for the page until the bars of the first problem are drawn, beside a report of one
problem with four traces, so that the cost of size can be told from that of the browser.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.report.page import ReportInputs, write_report
from eval.table.explorer import write_explorer
from eval.table.method import ReplayModel, ReplayProblem, ReplayTrace
from eval.table.pruning import PUBLISHED
from secateur.deepprune.rule import PruneRule
from secateur.engines.accounting import Usage
from secateur.results import Row, Table, write_table
from secateur.runtime.console import say
from secateur.runtime.files import append_jsonl, write_json
from secateur.tasks.records import Problem

_CLUSTERS = 12
_POOL = 2000  # sentences that the traces of one problem are made of
_CUT = 120  # tokens
_ANSWERS = 5
_JUDGE = "linear"
_MODELS = ("base", "pruned")


def write_large_run(folder: Path, problems: int, traces: int, characters: int, seed: int = 0) -> Path:
    """A combined run of made-up traces: `traces` of each problem by each of two models, of about `characters`."""
    rng = np.random.default_rng(seed)
    write_table(folder, _table(problems, traces))
    for model in _MODELS:
        _write_texts(folder / model / "traces", rng, problems, traces, characters)
    made = [Problem(f"p{number}", f"Problem {number}", "0") for number in range(problems)]
    models = {name: _replay_model(name, rng, made, traces) for name in _MODELS}
    answers = {name: [problem.keys for problem in model.plain] for name, model in models.items()}
    write_explorer(folder, made, {PUBLISHED: PruneRule()}, models, answers)
    return folder


def _table(problems: int, traces: int) -> Table:
    rows = [
        _row(model, method, judge, problems, traces)
        for model in _MODELS
        for method, judge in (("consensus", None), (PUBLISHED, _JUDGE))
    ]
    config = {"problems": "made up", "orders": 1, "judges": {}, "cut_kind": "words", "cut_k": 25}
    return Table(
        rows=tuple(rows), differences=(), recommendations=(), live_equals_replay=None, live=(), wall_s={},
        parameters={}, n=(traces,), folders={"made_up": "."}, settings={}, config=config, versions={},
    )  # fmt: skip


def _row(model: str, method: str, judge: str | None, problems: int, traces: int) -> Row:
    saving = 0.7 if judge else 0.0
    return Row(
        id=f"{model}/{method}", model=model, method=method, judge=judge, benchmark="made_up", n=traces,
        problems=problems, accuracy=0.5, accuracy_ci95=(0.4, 0.6), oracle_accuracy=None, finished=10.0,
        tokens=Usage(generated=1e6, longest_path=1e4), saving_gross=saving, saving_net=saving,
        net_tokens=(1 - saving) * 1e6 / problems, judge_kind=judge,
    )  # fmt: skip


def _write_texts(folder: Path, rng: np.random.Generator, problems: int, traces: int, characters: int) -> None:
    write_json(folder / "settings.json", {"cut": {"kind": "words", "k": 25}})
    for number in range(problems):
        texts = _texts(rng, traces, characters)
        lines = [{"problem_id": f"p{number}", "sample": s, "text": text} for s, text in enumerate(texts)]
        append_jsonl(folder / "traces-rank0.jsonl", lines)


def _texts(rng: np.random.Generator, count: int, characters: int) -> list[str]:
    letters = rng.integers(97, 123, (4000, 9), dtype=np.uint8)
    words = [letters[k, : 2 + k % 8].tobytes().decode() for k in range(len(letters))] + ["so", "wait", "then", "but"]
    places = np.minimum(rng.zipf(1.3, (_POOL, 14)), len(words)) - 1
    pool = [" ".join(words[place] for place in sentence) + ". Wait, " for sentence in places]
    each = max(1, round(characters * len(pool) / sum(map(len, pool))))
    return ["".join(pool[k] for k in rng.integers(0, _POOL, each)) for _ in range(count)]


def _replay_model(name: str, rng: np.random.Generator, problems: Sequence[Problem], traces: int) -> ReplayModel:
    made = [_replay_problem(rng, problem, traces) for problem in problems]
    return ReplayModel(name, 1000, made, {_JUDGE: made}, {_JUDGE: 0}, {_JUDGE: _JUDGE}, [_JUDGE])


def _replay_problem(rng: np.random.Generator, problem: Problem, traces: int) -> ReplayProblem:
    """Traces of twelve clusters, which the judge knows."""
    lengths, answers = _CUT + rng.integers(100, 9000, traces), rng.integers(0, _ANSWERS, traces)
    stored = [ReplayTrace(str(key), int(n), _CUT) for key, n in zip(answers, lengths, strict=True)]
    clusters = rng.integers(0, _CLUSTERS, traces)
    scores = np.where(clusters[:, None] == clusters[None], 0.9, 0.1)
    return ReplayProblem(problem.id, frozenset(problem.answer), tuple(stored), 0, scores)


def opening_seconds(path: Path, times: int) -> list[float]:
    """Wall time until the first problem is drawn, `times` times, each in a new tab of one browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    names = ("chromium", "chromium-browser", "google-chrome")
    options.binary_location = next(filter(None, map(shutil.which, names)))
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    found = []
    try:
        for _ in range(times):
            browser.get("about:blank")
            began = time.monotonic()
            browser.get(path.as_uri())
            WebDriverWait(browser, 120, poll_frequency=0.02).until(
                lambda b: b.find_elements("css selector", "#problem .trace")
            )
            found.append(time.monotonic() - began)
    finally:
        browser.quit()
    return found


def measure(problems: int, traces: int, characters: int, times: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = write_large_run(Path(folder) / "run", problems, traces, characters)
        path, began = Path(folder) / "report.html", time.monotonic()
        write_report(ReportInputs(run), path)
        written, size = time.monotonic() - began, path.stat().st_size
        seconds = opening_seconds(path, times)
    about = f"{problems} problems × {traces} traces × {len(_MODELS)} models of {characters:,} characters"
    say(
        f"{about}: {size / 1e6:.1f} MB, written in {written:.1f} s, opened in {statistics.median(seconds):.2f} s "
        f"(median of {times}, {min(seconds):.2f} – {max(seconds):.2f})"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--traces", type=int, default=512)
    parser.add_argument("--characters", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args(arguments)
    measure(1, 4, options.characters, options.times)
    measure(options.problems, options.traces, options.characters, options.times)


if __name__ == "__main__":
    main()
