"""How fast stored traces are replayed, and what a grid takes once its traces are sampled.

    python bench/replay.py --run outputs/demo/combined/linear_own_states [--n 32] [--problems 100] [--repeats 3]
    python bench/replay.py --run … --grid [--launch configs/accelerate/cpu.yaml]

Rates are stored traces (problems × n) per second of this process's own processor time, the median of the repeats, of
the base model and its first judge. A stored trace counts once, in both columns: *one order* replays every problem
once (a method of random draws: one draw), *as in the table* does all that the row's figures are the mean of. Reading
the traces from disk and grading them comes before the clock starts.

`--grid` copies the traces of the run, without scores, live runs and results, and runs eval/combined.py on them with
every method: wall and processor time from launch to report. Nothing may be sampled, which is checked.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from eval.table.answers import ANSWERS, answer_in_orders
from eval.table.assemble import ModelTraces
from eval.table.config import CombinedConfig
from eval.table.method import Method, Outcome, Parameters, ReplayModel, average
from eval.table.pruning import PUBLISHED, deepprune, prune_in_orders, random_traces
from eval.table.registry import METHODS
from eval.table.votes import EQUAL_TOKENS, RANDOM_TRACES, consensus_equal_tokens
from secateur.deepprune.answers import AnswerRule
from secateur.results import TABLE_FILE, read_table
from secateur.runtime.config import check_types
from secateur.runtime.console import progress, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_text
from secateur.runtime.process import end_with_parent, entry_point

REPOSITORY = Path(__file__).resolve().parent.parent
Work = Callable[[int, int], list[Outcome]]
"""Replays one method on all problems in so many orders or draws."""


@dataclass(frozen=True)
class Rate:
    """A method: stored traces per second in one order, and in all orders and draws of the config, which take
    `seconds`."""

    method: str
    once: float
    mean: float
    seconds: float


@dataclass(frozen=True)
class GridTime:
    """Seconds of a grid, of its processors, and of its parts, and how many rows it has."""

    wall_s: float
    cpu_s: float
    judge_s: float
    live_s: float
    rows: int


def config_of(run: str | Path) -> CombinedConfig:
    """The config of a finished combined run on one benchmark. Raises `InputError` if there is none."""
    path = Path(run) / TABLE_FILE
    if not path.is_file():
        raise InputError(f"--run {run}: no combined.json there; finish eval/combined.py first")
    stored = check_types(CombinedConfig, dict(read_table(path).config), str(path))
    config = CombinedConfig(**stored | {"output_dir": str(run)})
    if not isinstance(config.problems, str):
        raise InputError(f"--run {run}: it has several benchmarks; give the folder of one, below it")
    return config


def read_model(config: CombinedConfig, n: int, count: int | None) -> ReplayModel:
    """The first n traces of the first problems, by the base model."""
    if not 2 <= n <= config.largest_n:
        raise InputError(f"--n {n}: the run has {config.largest_n} traces per problem; give 2 to that")
    problems = next(iter(config.load().values()))[:count]
    return ModelTraces(config, config.base, problems).replay_model().part(np.arange(n))


def works(model: ReplayModel, config: CombinedConfig) -> dict[str, Work]:
    """Every method that the run has, by name; pruning rules and their controls with the first judge."""
    found: dict[str, Work] = {}
    for name in config.methods:
        method = METHODS[name]
        if name == ANSWERS:
            found |= {row: _rule_work(model, rule) for row, rule in config.answer_rules.items()}
        elif method.run is not None and name != PUBLISHED:
            found[name] = lambda orders, draws, method=method: _outcomes(method, model, config, orders, draws)
    return found | _judged_works(model, config)


def _rule_work(model: ReplayModel, rule: AnswerRule) -> Work:
    return lambda orders, draws: [average(p, answer_in_orders(p, rule, orders)) for p in model.plain]


def _outcomes(method: Method, model: ReplayModel, config: CombinedConfig, orders: int, draws: int) -> list[Outcome]:
    """Without its controls."""
    alone = replace(config, methods=[method.name], variants={}, orders=orders, draws=draws)
    return method.run(model, alone)[0].outcomes  # with the first judge, where there are several


def _judged_works(model: ReplayModel, config: CombinedConfig) -> dict[str, Work]:
    judge = next(iter(model.pruned_by), None)
    if judge is None:
        return {}
    judged, parameters = model.judged[judge], Parameters(model.parameters, model.judge_parameters[judge])
    found: dict[str, Work] = {}
    for name, rule in config.rules.items():
        found[name] = lambda orders, draws, rule=rule: [
            deepprune(problem, prune_in_orders(problem, rule, orders)) for problem in judged
        ]
    runs = [prune_in_orders(problem, config.rule, config.orders) for problem in judged]
    outcomes = [deepprune(problem, run) for problem, run in zip(judged, runs, strict=True)]
    found[RANDOM_TRACES] = lambda orders, draws: [
        random_traces(problem, run, draws) for problem, run in zip(judged, runs, strict=True)
    ]
    found[EQUAL_TOKENS] = lambda orders, draws: [
        consensus_equal_tokens(problem, outcome, parameters, draws)
        for problem, outcome in zip(judged, outcomes, strict=True)
    ]
    return found


def rates(model: ReplayModel, config: CombinedConfig, repeats: int) -> list[Rate]:
    stored = sum(len(problem.traces) for problem in model.plain)
    found, all_works = [], works(model, config)
    with progress("methods", len(all_works)) as shown:
        for name, work in all_works.items():
            once, mean = (
                statistics.median(_seconds(work, *counts) for _ in range(repeats))
                for counts in ((1, 1), (config.orders, config.draws))
            )
            found.append(Rate(name, stored / once, stored / mean, mean))
            shown.advance(note=name)
    return found


def _seconds(work: Work, orders: int, draws: int) -> float:
    began = time.process_time()
    work(orders, draws)
    return time.process_time() - began


def rate_table(found: Sequence[Rate]) -> str:
    lines = ["| method | one order, traces/s | as in the table, traces/s | s |", "|---|---|---|---|"]
    lines += [f"| {one.method} | {one.once:,.0f} | {one.mean:,.0f} | {one.seconds:.2f} |" for one in found]
    return "\n".join(lines)


def run_grid(config: CombinedConfig, n: int, count: int | None, launch: str) -> GridTime:
    """Judge, run live, replay and report on copied traces in a launch of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        for model in config.models:
            shutil.copytree(Path(config.output_dir) / model / "traces", folder / model / "traces")
            shutil.copy(Path(config.output_dir) / model / "engine.json", folder / model)
        before = _sizes(folder)
        changes = {"n": n, "problem_count": count, "output_dir": str(folder), "methods": list(METHODS)}
        write_text(Path(scratch) / "grid.yaml", yaml.safe_dump(config.resolved() | changes))
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", launch]
        command += ["--main_process_port", "0", str(REPOSITORY / "eval/combined.py")]
        began, cpu_began = time.monotonic(), _children_cpu_seconds()
        command += ["--config", str(Path(scratch) / "grid.yaml")]
        code = subprocess.run(command, preexec_fn=end_with_parent, check=False).returncode
        wall, cpu = time.monotonic() - began, _children_cpu_seconds() - cpu_began
        if code != 0:
            raise InputError(f"eval/combined.py ended with exit code {code}; its message is above")
        if _sizes(folder) != before:
            raise InputError("traces were sampled: the run has fewer than the grid asks for; give a smaller one")
        table = read_table(folder)
    judge, live = (sum(wall.get(kind, 0.0) for wall in table.wall_s.values()) for kind in ("judge", "live"))
    return GridTime(wall, cpu, judge, live, len(table.rows))


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _sizes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.glob("*/traces/*") if path.is_file()}


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="output folder of eval/combined.py on one benchmark")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--problems", type=int, help="how many of the run's problems; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--grid", action="store_true", help="time everything after sampling instead")
    parser.add_argument("--launch", default=str(REPOSITORY / "configs/accelerate/cpu.yaml"))
    options = parser.parse_args()
    if options.repeats < 1:
        raise InputError(f"--repeats {options.repeats}: give at least 1")
    config = config_of(options.run)
    if options.grid:
        found = run_grid(config, options.n, options.problems, options.launch)
        say(
            f"{len(config.models)} models, n = {options.n}, {found.rows} rows: {found.wall_s:.0f} s from launch to "
            f"report ({found.cpu_s:.0f} s of processor time), of which judges {found.judge_s:.0f} s, live runs "
            f"{found.live_s:.0f} s"
        )
        return
    records = read_model(config, options.n, options.problems)
    say(f"{len(records.plain)} problems × {options.n} traces, {config.orders} orders, {config.draws} draws")
    print(rate_table(rates(records, replace(config, n=options.n), options.repeats)))


if __name__ == "__main__":
    main()
