"""Damaged checkpoints: every way in which a kill can leave one must keep it from being resumed."""

import shutil
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.files import read_json
from trainers.checkpoints import (
    checkpoint_to_resume,
    drop_old_training_state,
    is_complete,
    mark_complete,
    set_incomplete_aside,
)

FILES = ("config.json", "model.safetensors", "trainer_state.json", "scheduler.pt", "optimizer.pt")
RANDOM_STATES = ("rng_state_0.pth", "rng_state_1.pth")


def write_checkpoint(round_folder: Path, step: int, marked: bool = True) -> Path:
    folder = round_folder / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in FILES + RANDOM_STATES:
        (folder / name).write_text(f"{name} of step {step}")
    if marked:
        mark_complete(folder, world_size=2, limit=220)
    return folder


def test_the_newest_whole_checkpoint_is_resumed(tmp_path) -> None:
    write_checkpoint(tmp_path, 4)
    newest = write_checkpoint(tmp_path, 12)
    write_checkpoint(tmp_path, 16, marked=False)
    assert checkpoint_to_resume(tmp_path, 2) == newest
    assert checkpoint_to_resume(tmp_path / "nothing", 2) is None


@pytest.mark.parametrize("name", FILES + RANDOM_STATES)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(tmp_path, name, damage) -> None:
    intact, damaged = write_checkpoint(tmp_path, 4), write_checkpoint(tmp_path, 8)
    if damage == "gone":
        (damaged / name).unlink()
    else:
        (damaged / name).write_text("c")
    assert checkpoint_to_resume(tmp_path, 2) == intact
    assert [path.name for path in set_incomplete_aside(tmp_path)] == ["incomplete-checkpoint-8-0"]
    assert not damaged.exists()
    write_checkpoint(tmp_path, 8, marked=False)
    assert [path.name for path in set_incomplete_aside(tmp_path)] == ["incomplete-checkpoint-8-1"]


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state_1.pth", "model.safetensors"])
def test_what_the_trainer_did_not_write_is_named(tmp_path, name) -> None:
    folder = write_checkpoint(tmp_path, 4, marked=False)
    (folder / name).unlink()
    with pytest.raises(RuntimeError, match="without (model weights|" + name + ")"):
        mark_complete(folder, world_size=2, limit=220)
    assert not is_complete(folder)


def test_every_rank_of_a_sharded_optimiser_must_be_there(tmp_path) -> None:
    folder = write_checkpoint(tmp_path, 4, marked=False)
    (folder / "optimizer.pt").unlink()
    (folder / "latest").write_text("global_step4")
    (folder / "global_step4").mkdir()
    (folder / "global_step4" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_text("shard")
    with pytest.raises(RuntimeError, match="optim_states of 1 ranks"):
        mark_complete(folder, world_size=2, limit=220)
    (folder / "global_step4" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_text("shard")
    mark_complete(folder, world_size=2, limit=220)
    (folder / "global_step4" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_text("sh")
    assert not is_complete(folder)


def test_another_number_of_processes_is_refused(tmp_path) -> None:
    write_checkpoint(tmp_path, 4)
    with pytest.raises(InputError, match=r"saved by 2 processes and this launch has 8.*num_processes 2"):
        checkpoint_to_resume(tmp_path, 8)


def test_old_checkpoints_stay_models_and_stop_being_resumable(tmp_path) -> None:
    folders = [write_checkpoint(tmp_path, step) for step in (4, 8, 12)]
    drop_old_training_state(tmp_path)
    assert sorted(path.name for path in folders[0].iterdir()) == ["complete.json", "config.json", "model.safetensors"]
    assert is_complete(folders[0])
    assert [read_json(folder / "complete.json")["resumable"] for folder in folders] == [False, True, True]
    for folder in folders[1:]:
        shutil.rmtree(folder)
    assert checkpoint_to_resume(tmp_path, 2) is None
