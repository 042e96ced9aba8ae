"""A combined run that is killed at ten random moments ends like one left alone."""

import multiprocessing
import random
from pathlib import Path

import pytest

from bench.kill_combined import differences, run_killed, stored
from tests.combined_runs import settings, write_problems


def combine(values: dict) -> None:
    from eval.table.config import CombinedConfig
    from eval.table.run import run
    from secateur.runtime.console import use_one_torch_thread

    use_one_torch_thread()
    run(CombinedConfig(**values))


class Fork:
    """A run in a process of its own that has the libraries loaded already."""

    def __init__(self, values: dict) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["eval.combined"])
        self._process = context.Process(target=combine, args=(values,))
        self._process.start()

    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def finish(self) -> int:
        self._process.join()
        return self._process.exitcode or 0


@pytest.mark.slow
def test_ten_kills_are_no_loss(tmp_path: Path, tiny_model: Path) -> None:
    """Twice the same model, two judges without training, two benchmarks, two n, all problems live as well."""
    problems = write_problems(tmp_path / "problems.jsonl", 3)
    benchmarks = {"one": str(problems), "two": str(write_problems(tmp_path / "two.jsonl", 3))}
    both = {"models": {"base": str(tiny_model), "twin": str(tiny_model)}}
    both |= {"judges": {"base": ["values", "random"], "twin": ["values", "random"]}}
    grid = both | {"problems": benchmarks, "n": [6, 12], "rows": 8, "cut_k": 2, "live": 6}
    made = {
        name: settings(tiny_model, Path("values"), problems, tmp_path / name) | grid for name in ("alone", "killed")
    }
    assert Fork(made["alone"]).finish() == 0
    everything = stored(tmp_path / "alone")
    assert everything == 2 * (6 * 12 + 2 * 6 + 6)
    goals = sorted(random.Random(0).sample(range(everything), 10))
    outcome = run_killed(lambda: Fork(made["killed"]), tmp_path / "killed", goals, latest_s=0.02)
    assert outcome.wrong == [] and len(outcome.at) >= 5, outcome
    assert differences(tmp_path / "alone", tmp_path / "killed") == []
