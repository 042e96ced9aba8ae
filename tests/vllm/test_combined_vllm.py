"""eval/combined.py with vLLM and asynchronous scheduling: live runs beside their replays, on an engine that draws
other tokens when a trace goes on. On CPUs vLLM waits for every step, so the overrun may be 0 here."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.folder import describe_generator, save_judge
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from secateur.deepprune.judges.record import JudgeOrigin
from secateur.engines.trace_folder import read_trace_folder
from secateur.results import LiveEntry, read_table
from secateur.runtime.files import read_json
from tests.engines.contract import LAYERS

CUT, N, PROBLEMS = 25, 8, 3


def settings(model: Path, folder: Path) -> dict[str, Any]:
    torch.manual_seed(3)
    shape = OwnStatesShape(LAYERS, hidden=96, heads=4, width=24, pair_hidden=32)
    judge = OwnStatesJudge(OwnStatesModel(shape), shape, CutRule("tokens", CUT))
    save_judge(judge, folder / "judge", JudgeOrigin(generator=describe_generator(model)))
    return {
        "models": {"base": str(model)},
        "judges": {"base": str(folder / "judge")},
        "problems": "arithmetic:test",
        "problem_count": PROBLEMS,
        "n": N,
        "live": True,
        "variants": {"overlapping": {"mode": "overlap", "stop_when_decided": True}},
        "largest": 3,
        "engine": "vllm",
        "engine_options": {"kv_cache_gib": 0.5, "enforce_eager": True, "async_scheduling": True},
        "output_dir": str(folder / "out"),
        "methods": ["consensus", "deepprune"],
        "prompt_family": "plain",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 200,
        "dtype": "float32",
        "rows": 2 * N,
        "orders": 2,
        "draws": 5,
        "examples": 1,
    }


@pytest.mark.slow
def test_live_and_replay_stand_side_by_side(embedded_model: Path, repository: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "config.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(settings(embedded_model, tmp_path)))
    command = [sys.executable, "eval/combined.py", "--config", str(path)]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    table = read_table(out)
    full = sum(t.trace.n_tokens for entry in read_trace_folder(out / "base" / "traces") for t in entry.traces)
    assert [entry.method for entry in table.live] == ["deepprune", "deepprune_overlapping"]
    for entry in table.live:
        check_entry(entry, [read_json(file) for file in (out / "base" / "live" / entry.method).iterdir()], full)
    summary = table.live_equals_replay
    assert summary.problems == 2 * PROBLEMS and not summary.exact
    assert summary.equal == sum(entry.equal for entry in table.live)


def check_entry(entry: LiveEntry, records: list[dict[str, Any]], full: int) -> None:
    """`full` tokens were sampled."""
    live, replayed = entry.live.tokens, entry.replay.tokens
    assert entry.problems == len(records) == PROBLEMS and not entry.exact
    assert entry.replay.wall_s is None and entry.live.wall_s > 0
    assert entry.sampling_wall_s > 0 and entry.sampling_wall_measured, "all traces that were sampled are of these"
    assert sum(record["stored_tokens"] for record in records) == full
    causes = {cause.cause: cause for cause in entry.causes}
    assert sum(cause.generated or 0 for cause in causes.values()) == live.generated - replayed.generated
    assert live.overrun == sum(record["live"]["tokens"]["overrun"] for record in records)
    assert live.overrun == (causes["overrun"].tokens if "overrun" in causes else 0) and replayed.overrun == 0
    assert live.judge_head > 0 and live.generated < full
    if entry.method == "deepprune":  # its survivors were parked
        assert causes["after_cut"].traces > 0
        assert "draws other tokens when a trace goes on" in entry.words
    assert all(record["wall"]["problem_s"] > 0 for record in records)
