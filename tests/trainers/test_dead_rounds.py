"""A round that learns nothing: what is said of it, how it ends, and what the next start does. Each of the seven ways
to be dead comes about in a real round on the embedded model."""

from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState
from trl import GRPOConfig

from schedules.dead import refuse_dead
from secateur.runtime.console import MetricLog
from secateur.runtime.errors import InputError
from trainers.grpo.callbacks import CompletionSample, DeadWatch


class Watched:
    """A watch on a model of one layer, fed with logged steps."""

    def __init__(self, folder: Path, stop: bool = False) -> None:
        self.watch = DeadWatch(folder, needed=3, stop=stop)
        self.model, self.control, self.step = torch.nn.Linear(2, 2), TrainerControl(), 0
        self.arguments = GRPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, max_steps=100)

    def log(self, **values: float) -> None:
        self.step += 1
        logs = {"reward": 0.5, "reward_std": 0.5, "truncated_share": 0.0, "entropy": 0.3, **values}
        self.watch.on_log(self.arguments, TrainerState(global_step=self.step), self.control, self.model, logs)


NOTHING = {"reward": 0.0, "reward_std": 0.0}


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
