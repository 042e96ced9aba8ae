"""A round that learns nothing: what is said of it, how it ends, and what the next start does. All seven ways to be
dead come about in real rounds on the embedded model."""

import json
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest
import torch
from transformers import TrainerControl, TrainerState
from trl import GRPOConfig

from schedules.config import read_run_config
from schedules.dead import find_signs, refuse_dead
from secateur.engines.finite import check_start
from secateur.runtime.console import MetricLog
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, read_jsonl, write_text
from tests.conftest import REPOSITORY
from tests.launches import DDP, finish, launch, write_config
from trainers.grpo.callbacks import CompletionSample, DeadWatch
from trainers.grpo.job import RoundJob
from trainers.grpo_len import train_next_round


class Watched:
    """A watch on a model of one layer, fed with logged steps."""

    def __init__(self, folder: Path, stop: bool = False) -> None:
        self.watch = DeadWatch(folder, needed=3, stop=stop)
        self.model, self.control, self.step = torch.nn.Linear(2, 2), TrainerControl(), 0
        self.arguments = GRPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, max_steps=100)

    def log(self, **values: float) -> None:
        self.step += 1
        logs = {"loss": 0.0, "reward": 0.5, "reward_std": 0.5, "truncated_share": 0.0, "entropy": 0.3, **values}
        self.watch.on_log(self.arguments, TrainerState(global_step=self.step), self.control, self.model, logs)


NOTHING = {"reward": 0.0, "reward_std": 0.0}


def test_a_step_on_completions_of_an_earlier_one_counts_with_what_was_logged_then(tmp_path, capsys) -> None:
    watched = Watched(tmp_path)
    watched.log(**NOTHING)
    for _ in range(2):
        watched.step += 1
        logs = {"loss": 0.0, "entropy": 0.3}
        watched.watch.on_log(
            watched.arguments, TrainerState(global_step=watched.step), watched.control, watched.model, logs
        )
    assert "no completion earned" in capsys.readouterr().out


def test_a_round_that_learns_nothing_is_said_once_and_why(tmp_path, capsys) -> None:
    watched = Watched(tmp_path)
    for _ in range(2):
        watched.log(**NOTHING)
    watched.log()
    assert capsys.readouterr().out == ""
    for _ in range(9):
        watched.log(**NOTHING, truncated_share=1.0)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("all completions were truncated") == 1 and "no completion earned" not in said
    assert "eos_token_id" in said
    assert not watched.control.should_training_stop
    watched.watch.leave()


def test_a_dead_round_ends_saved_where_that_is_asked_for(tmp_path, capsys) -> None:
    watched = Watched(tmp_path, stop=True)
    for _ in range(3):
        watched.log(**NOTHING)
    assert watched.control.should_training_stop and watched.control.should_save
    with pytest.raises(InputError, match=r"is dead after step 3: no completion earned .*--stop_when_dead false"):
        watched.watch.leave()
    with pytest.raises(InputError, match="is dead after step 3"):
        refuse_dead(tmp_path, stop_when_dead=True)


@pytest.mark.parametrize("stop", [False, True])
def test_weights_that_are_lost_end_a_round_at_once_and_are_not_saved(tmp_path, stop) -> None:
    watched = Watched(tmp_path, stop)
    watched.log()
    watched.control.should_save = True  # the step of a regular checkpoint
    watched.model.weight.data[0, 1] = float("inf")
    watched.log()
    assert watched.control.should_training_stop and not watched.control.should_save
    with pytest.raises(InputError, match=r"weights are not finite.*learning_rate"):
        watched.watch.leave()
    assert (tmp_path / "dead.json").exists() == stop


@pytest.mark.parametrize("trained", [True, False])
def test_a_start_model_that_has_diverged_is_named_before_anything_is_sampled(trained) -> None:
    """Frozen weights under adapters too: TRL's sampling would end in a traceback."""
    model = torch.nn.Linear(2, 2)
    model.requires_grad_(trained)
    check_start(model, "models/mine")
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="models/mine: its weights are not finite"):
        check_start(model, "models/mine")


def test_steps_before_a_resume_count(tmp_path, capsys) -> None:
    for step in (1, 2):
        MetricLog(tmp_path / "train.jsonl").write(step=step, **NOTHING, grad_norm=float("nan"))
    watched = Watched(tmp_path)
    watched.watch.on_train_begin(watched.arguments, TrainerState(), watched.control)
    watched.log(**NOTHING)
    assert "no completion earned" in capsys.readouterr().out


def test_completions_of_a_step_are_drawn_from_seed_and_step_alone() -> None:
    def kept(step: int, seed: int = 0, texts: str = "abcdefgh") -> dict[str, list[object]]:
        logs = {name: deque(texts, maxlen=8) for name in ("prompt", "completion", "advantages")}
        logs |= {"images": deque(), "rewards": {"hard_limit": deque(range(8))}, "extra": {}}
        sample = CompletionSample(SimpleNamespace(_logs=logs), count=3, seed=seed)
        for _ in range(2):  # a generation batch of two steps is written twice
            sample.on_log(None, TrainerState(global_step=step), None)
        return {"completion": list(logs["completion"]), "reward": list(logs["rewards"]["hard_limit"])}

    assert kept(5) == kept(5) and len(kept(5)["completion"]) == 3
    assert len({str(kept(step)) for step in range(8)}) > 1 and len({str(kept(5, seed)) for seed in range(8)}) > 1
    assert ["abcdefgh"[place] for place in kept(5)["reward"]] == kept(5)["completion"]
    assert kept(5, texts="ab")["completion"] == ["a", "b"]


NEVER_RIGHT = "".join(
    json.dumps({"id": str(number), "problem": f"Rule oak. Start with {number}. a+1", "answer": "987654321"}) + "\n"
    for number in range(6)
)
# A way to be dead → what makes a round of the embedded model so.
CAUSES: dict[str, dict[str, object]] = {
    "weights": {"learning_rate": 1e39},
    "gradients": {"reward_weights": "[1.0e+38]", "scale_rewards": "none"},
    "truncated": {"limits": "[30]"},
    "reward": {"problems": "never_right.jsonl"},
    "groups": {"top_k": 1},
    "entropy": {"temperature": 1e-4},
    "ratios": {"num_iterations": 8, "epsilon": 1e-6, "steps_per_round": 8, "save_steps": 8, "dead_after_steps": 8},
}
BESIDE = {"entropy": ["groups"]}  # completions of a prompt that are all but equal earn the same


def train(folder: Path, **keys: object) -> list[dict[str, float | None]]:
    """A short round in this process; returns what it has logged."""
    write_text(folder / "never_right.jsonl", NEVER_RIGHT)
    config = write_config(folder / "run")
    common = {"limits": "[300]", "steps_per_round": 3, "dead_after_steps": 3, "per_device_train_batch_size": 16}
    values = {key: str(value).replace("never", str(folder / "never")) for key, value in (common | keys).items()}
    argv = ["--config", str(config), *(word for key, value in values.items() for word in (f"--{key}", value))]
    try:
        train_next_round(RoundJob(read_run_config(argv), 1))
    finally:
        (log,) = (folder / "run" / "rounds").glob("*/train.jsonl")
        logged = [values for _, values in read_jsonl(log)]
    return logged


@pytest.mark.slow
@pytest.mark.parametrize("way", CAUSES)
def test_each_way_to_be_dead_comes_about_in_a_real_round(tmp_path, capsys, way) -> None:
    if way == "weights":
        with pytest.raises(InputError, match=r"dead after step 1: weights are not finite.*'learning_rate'"):
            train(tmp_path, **CAUSES[way])
        return
    logged = train(tmp_path, **CAUSES[way])
    found = [sign.name for sign in find_signs(logged, len(logged))]
    assert found == [*BESIDE.get(way, []), way], logged
    assert "warning: over the last" in capsys.readouterr().out


@pytest.mark.slow
def test_a_healthy_round_is_left_alone(tmp_path, capsys) -> None:
    logged = train(tmp_path, stop_when_dead=True, log_completions=True, logged_completions=3)
    assert len(logged) == 3 and find_signs(logged, 3) == []
    assert "warning" not in capsys.readouterr().out
    tables = list((tmp_path / "run/rounds").glob("*/completions/*.parquet"))
    assert [len(pandas.read_parquet(table)) for table in tables] == [3, 3, 3]


@pytest.mark.slow
def test_a_round_that_is_stopped_as_dead_is_refused_and_then_goes_on_as_if_it_had_not_been(tmp_path) -> None:
    """The user's command on two processes: saved, and the same again refused before any work."""
    run = tmp_path / "run"
    config = write_config(run)
    dead = "limits: [30]\ndead_after_steps: 2\nstop_when_dead: true\n"
    write_text(config, config.read_text(encoding="utf-8").replace("limits: [140]\n", dead))
    output = launch(config).communicate(timeout=600)[0]
    assert "round 1-limit-30 is dead after step 2: all completions were truncated" in output
    folder = run / "rounds/1-limit-30"
    assert read_json(folder / "dead.json")["signs"] == ["truncated"]
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    driver = [sys.executable, "schedules/run.py", "--accelerate_config", *DDP, "--config", str(config)]
    refused = subprocess.run(driver, cwd=REPOSITORY, capture_output=True, text=True)
    assert refused.returncode == 2 and "is dead after step 2" in refused.stderr
    write_text(config, config.read_text(encoding="utf-8").replace("stop_when_dead: true", "stop_when_dead: false"))
    assert "going on from" in finish(launch(config))
    assert [line["step"] for _, line in read_jsonl(folder / "train.jsonl")] == list(range(1, 9))
