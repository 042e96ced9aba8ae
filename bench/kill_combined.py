"""Kills eval/combined.py again and again, starts it again each time, and compares it with one left alone.

    python bench/kill_combined.py [--kills 10] [--seed 0] [--output_dir outputs/kill_combined]

The user's own command on a small grid: the embedded model twice, two judges, live runs. A kill (SIGKILL) comes when
as many traces, scores and live runs are on disk as were drawn for it, and a random moment later. Both runs have to
agree in every figure but wall times, and no trace that was stored may be sampled again. Exit code 1 if they do not.
"""

import argparse
import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from eval.table.explorer import EXAMPLES_FILE
from secateur.engines.trace_folder import read_trace_folder
from secateur.results import TABLE_FILE, read_table
from secateur.runtime.console import console
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json, write_text
from secateur.runtime.process import end_with_parent, entry_point

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = "trainers/embedded_model"
GRID: dict[str, JSON] = {
    "models": {"base": MODEL, "twin": MODEL},
    "judges": {"base": ["values", "random"], "twin": ["values", "random"]},
    "problems": "arithmetic:combined",
    "problem_count": 8,
    "n": 16,
    "cut_k": 4,
    "live": 4,
    "examples": 2,
    "orders": 5,
    "draws": 20,
    "prompt_family": "plain",
    "temperature": 1.0,
    "top_p": 1.0,
    "max_tokens": 400,
    "dtype": "float32",
    "device": "cpu",
    "rows": 32,
}
LATEST_S = 0.3  # the longest random wait between what is seen on disk and the kill
_POLL_S = 0.002
_TRACES = "traces/traces-rank*.jsonl"
_UNEQUAL = ("wall_s", "wall_words", "sampling_wall_s", "sampling_wall_measured", "output_dir")


class Process(Protocol):
    """What `subprocess.Popen` and `multiprocessing.Process` can both be wrapped as."""

    def running(self) -> bool: ...

    def kill(self) -> None: ...

    def finish(self) -> int: ...


def stored(folder: Path) -> int:
    """How many traces, scores and live runs of a combined run are on disk."""
    lines = sum(path.read_bytes().count(b"\n") for path in folder.rglob(_TRACES))
    return lines + sum(1 for pattern in ("scores/*/[!.]*.npz", "live/*/[!.]*.json") for _ in folder.rglob(pattern))


def complete_lines(folder: Path) -> dict[Path, bytes]:
    """The traces that are on disk for good, by file."""
    found = {path: path.read_bytes() for path in folder.rglob(_TRACES)}
    return {path: content[: content.rfind(b"\n") + 1] for path, content in found.items()}


@dataclass
class KilledOutcome:
    """`at` says how many results were on disk at each kill that hit a run, `wrong` what was there and is no more."""

    at: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def run_killed(
    start: Callable[[], Process], folder: Path, goals: Sequence[int], latest_s: float = LATEST_S, seed: int = 0
) -> KilledOutcome:
    """Start, kill when a start has stored something and `stored` has reached the next of `goals`, start again, and
    let the last start go to the end. Raises `RuntimeError` if a start fails by itself."""
    rng, outcome = random.Random(seed), KilledOutcome()
    for goal in [*goals, None]:
        before, lines, process = stored(folder), complete_lines(folder), start()
        while process.running() and (goal is None or stored(folder) < max(goal, before + 1)):
            time.sleep(_POLL_S)
        if goal is not None:
            time.sleep(rng.uniform(0, latest_s))
        if process.running():
            process.kill()
            outcome.at.append(stored(folder))
        elif process.finish():
            raise RuntimeError("the run failed by itself")
        outcome.wrong += [f"{path}: lines were rewritten" for path, old in lines.items() if not kept(path, old)]
    return outcome


def kept(path: Path, old: bytes) -> bool:
    return path.read_bytes().startswith(old)


def differences(alone: Path, killed: Path) -> list[str]:
    """What two runs disagree about, wall times and the names of their folders apart; [] if nothing."""
    table = read_table(alone)
    places = table.folders.values()
    wrong = _differing_keys(alone, killed, TABLE_FILE)
    for place in places:
        wrong += _differing_keys(alone, killed, f"{place}/{EXAMPLES_FILE}")
    # reading raises InputError for a sample that is stored twice
    for model, place in itertools.product(table.models, places):
        texts = [_texts(folder / place / model / "traces") for folder in (alone, killed)]
        if texts[0] != texts[1]:
            wrong.append(f"{place}/{model}: the traces differ")
        problems = read_table(alone / place).rows[0].problems
        if len(texts[1]) != table.n[-1] * problems:
            wrong.append(f"{place}/{model}: {len(texts[1])} traces")
    return wrong


def _differing_keys(alone: Path, killed: Path, name: str) -> list[str]:
    a, b = (_comparable(read_json(folder / name)) for folder in (alone, killed))
    return [f"{name}: '{key}' differs" for key in a.keys() | b.keys() if a.get(key) != b.get(key)]


def _texts(folder: Path) -> dict[tuple[str, int], str]:
    return {
        (entry.problem.id, one.trace.sample): one.trace.text
        for entry in read_trace_folder(folder)
        for one in entry.traces
    }


def _comparable(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _comparable(inner) for key, inner in value.items() if key not in _UNEQUAL}
    return [_comparable(inner) for inner in value] if isinstance(value, list) else value


class RunCommand:
    """eval/combined.py as a user starts it."""

    def __init__(self, config: Path, log: Path) -> None:
        command = [sys.executable, "eval/combined.py", "--config", str(config)]
        with open(log, "ab") as handle:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=handle, stderr=handle, preexec_fn=end_with_parent
            )

    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def finish(self) -> int:
        return self._process.wait()


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/kill_combined"))
    options = parser.parse_args()
    folder, runs = options.output_dir.resolve(), {}
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"--output_dir {folder}: is not empty; choose another folder or delete it")
    for name in ("alone", "killed"):
        runs[name] = folder / name
        write_text(folder / f"{name}.yaml", yaml.safe_dump(GRID | {"output_dir": str(runs[name])}))
    console.print("a run that is left alone …")
    if RunCommand(folder / "alone.yaml", folder / "alone.log").finish():
        raise RuntimeError(f"it failed; see {folder / 'alone.log'}")
    everything = stored(runs["alone"])
    goals = sorted(random.Random(options.seed).sample(range(everything + 1), options.kills))
    console.print(f"kills when so many of {everything} results are on disk: {', '.join(map(str, goals))}")
    outcome = run_killed(lambda: RunCommand(folder / "killed.yaml", folder / "killed.log"), runs["killed"], goals)
    wrong = outcome.wrong + differences(runs["alone"], runs["killed"])
    console.print(f"{len(outcome.at)} kills hit, with {', '.join(map(str, outcome.at))} on disk")
    for line in wrong or ["the same results, no trace sampled twice"]:
        console.print(line)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
