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
from typing import Any

import numpy as np

from eval.report.page import ReportInputs, write_report
from secateur.runtime.console import say
from secateur.runtime.files import append_jsonl, write_json

_CLUSTERS = 12
_POOL = 2000  # sentences that the traces of one problem are made of
_CUT = 120  # tokens
_MODELS = ("base", "pruned")


def write_large_run(folder: Path, problems: int, traces: int, characters: int, seed: int = 0) -> Path:
    """A combined run of made-up traces: `traces` of each problem by each of two models, of about `characters`."""
    rng = np.random.default_rng(seed)
    rows = [_row(model, method, problems, traces) for model in _MODELS for method in ("consensus", "deepprune")]
    config = {"problems": "made up", "orders": 1}
    write_json(folder / "combined.json", {"rows": rows, "differences": [], "config": config, "versions": {}})
    for model in _MODELS:
        write_json(folder / model / "traces" / "settings.json", {"cut": {"kind": "words", "k": 25}})
        for number in range(problems):
            texts = _texts(rng, traces, characters)
            lines = [{"problem_id": f"p{number}", "sample": s, "text": text} for s, text in enumerate(texts)]
            append_jsonl(folder / model / "traces" / "traces-rank0.jsonl", lines)
    records = []
    for number in range(problems):
        models = {model: _traced(rng, traces) for model in _MODELS}
        problem = {"problem_id": f"p{number}", "problem": f"Problem {number}", "gold": "0"}
        records.append(problem | {"models": models})
    write_json(folder / "explorer.json", records)
    return folder


def _row(model: str, method: str, problems: int, traces: int) -> dict[str, Any]:
    saving = 0.7 if method == "deepprune" else 0.0
    tokens = dict.fromkeys(("overrun", "judge_prefill", "judge_cached", "judge_generated", "judge_head"), 0)
    return {
        "model": model, "method": method, "judge": "linear" if saving else None, "n": traces, "problems": problems,
        "accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "finished": 10.0, "wall_s": None, "saving_gross": saving,
        "saving_net": saving, "tokens": tokens | {"generated": 1e6, "longest_path": 1e4},
    }  # fmt: skip


def _texts(rng: np.random.Generator, count: int, characters: int) -> list[str]:
    letters = rng.integers(97, 123, (4000, 9), dtype=np.uint8)
    words = [letters[k, : 2 + k % 8].tobytes().decode() for k in range(len(letters))] + ["so", "wait", "then", "but"]
    places = np.minimum(rng.zipf(1.3, (_POOL, 14)), len(words)) - 1
    pool = [" ".join(words[place] for place in sentence) + ". Wait, " for sentence in places]
    each = max(1, round(characters * len(pool) / sum(map(len, pool))))
    return ["".join(pool[k] for k in rng.integers(0, _POOL, each)) for _ in range(count)]


def _traced(rng: np.random.Generator, count: int) -> dict[str, Any]:
    lengths = (_CUT + rng.integers(100, 9000, count)).tolist()
    labels, answers = rng.integers(0, _CLUSTERS, count).tolist(), rng.integers(0, 5, count).tolist()
    kept = [length if label == 0 else _CUT for length, label in zip(lengths, labels, strict=True)]
    survivors = [trace for trace in range(count) if labels[trace] == 0]
    run = {"method": "deepprune", "judge": "linear", "labels": labels, "kept": kept, "survivors": survivors}
    full = {"method": "consensus", "judge": None, "labels": [None] * count, "kept": lengths}
    verdict = {"vote": 0, "right": True}
    return {
        "n_tokens": lengths, "cut_tokens": [_CUT] * count, "names": [str(k) for k in range(5)], "answers": answers,
        "right": [answer == 0 for answer in answers],
        "runs": [run | verdict, full | verdict | {"survivors": list(range(count))}],
    }  # fmt: skip


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
