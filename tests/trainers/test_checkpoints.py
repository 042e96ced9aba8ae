"""Damaged checkpoints: every way in which a kill can leave one must keep it from being resumed."""

import dataclasses
import inspect
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from trl import GRPOConfig

from schedules.config import ScheduleConfig
from schedules.export import drop_training_state
from schedules.integrity import MARKER, SEAL, Marker, damage, read_marker, write_marker
from schedules.records import TrainedBy
from schedules.rounds import Round
from schedules.state import FREE_KEYS
from secateur.runtime.errors import InputError
from secateur.runtime.files import fingerprint, key_file, own_key, read_json, write_json
from secateur.runtime.records import without_checksum
from trainers.grpo.callbacks import between_generations
from trainers.grpo.keys import batch_sizes
from trainers.grpo.record import record_training, write_trained_by
from trainers.steps.checkpoints import (
    checkpoint_to_resume,
    drop_what_is_superseded,
    mark_complete,
    prepare_resume,
    remove_later_than,
    set_damaged_aside,
)

RANDOM_STATES = ("rng_state_0.pth", "rng_state_1.pth")
ARCHIVES = ("scheduler.pt", "optimizer.pt", *RANDOM_STATES)
FILES = ("config.json", "model.safetensors", "trainer_state.json", *ARCHIVES)


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch) -> None:
    """A key of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


def write_checkpoint(round_folder: Path, step: int, marked: bool = True, regular: bool = True) -> Path:
    folder = round_folder / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("config.json", "trainer_state.json"):
        write_json(folder / name, {"step": step})
    for name in ARCHIVES:
        torch.save({"step": step, "state": torch.arange(50)}, folder / name)
    save_file({"weight": torch.full((4, 4), float(step))}, folder / "model.safetensors")
    if marked:
        mark_complete(folder, world_size=2, limit=220, regular=regular)
    return folder


def shard_optimiser(folder: Path, ranks: int) -> list[Path]:
    """As DeepSpeed saves it: a folder that `latest` names, with a file per rank."""
    (folder / "optimizer.pt").unlink()
    (folder / "latest").write_text(f"global_step{folder.name.rpartition('-')[2]}")
    shards = folder / (folder / "latest").read_text()
    shards.mkdir()
    paths = [shards / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(ranks)]
    for path in paths:
        torch.save({"state": torch.arange(9)}, path)
    return paths


def test_the_newest_whole_checkpoint_is_resumed(tmp_path) -> None:
    write_checkpoint(tmp_path, 4)
    newest = write_checkpoint(tmp_path, 12)
    write_checkpoint(tmp_path, 16, marked=False)
    assert checkpoint_to_resume(tmp_path, 2) == newest
    assert checkpoint_to_resume(tmp_path / "nothing", 2) is None


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "is missing": Path.unlink,
    "bytes where": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "another content|header|no readable": flip_a_byte,
    "another content|safetensors header|no readable": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_by_name_and_the_one_before_is_used(tmp_path, name, message) -> None:
    intact, damaged = write_checkpoint(tmp_path, 4), write_checkpoint(tmp_path, 8)
    DAMAGES[message](damaged / name)
    assert checkpoint_to_resume(tmp_path, 2) == intact
    [(folder, fault)] = set_damaged_aside(tmp_path)
    assert folder == damaged and fault.startswith(name)
    assert any(part in fault for part in message.split("|"))
    assert not damaged.exists() and (tmp_path / "incomplete-checkpoint-8-0").is_dir()
    write_checkpoint(tmp_path, 8, marked=False)
    assert "no complete.json" in set_damaged_aside(tmp_path)[0][1]
    assert (tmp_path / "incomplete-checkpoint-8-1").is_dir()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "complete.json"])
def test_a_candidate_that_is_not_trained_again_is_not_lost_without_a_word(tmp_path, name) -> None:
    """The round would choose from the others."""
    older, newest = write_checkpoint(tmp_path, 4), write_checkpoint(tmp_path, 8)
    content = bytearray((older / name).read_bytes())
    content[-3] ^= 1
    (older / name).write_bytes(content)
    with pytest.raises(
        InputError, match=r"checkpoint-4: .*restore it, or delete the folder, and the round is chosen"
    ):
        prepare_resume(tmp_path, 2)
    assert older.is_dir() and newest.is_dir()
    assert prepare_resume(tmp_path, 2, candidates=False) == newest and not older.exists()


def test_of_older_candidates_the_training_state_is_not_needed(tmp_path) -> None:
    older, newest = write_checkpoint(tmp_path, 4), write_checkpoint(tmp_path, 8)
    apart = write_checkpoint(tmp_path, 6, regular=False)
    for folder in (older, apart):
        (folder / "optimizer.pt").write_bytes(b"")
    assert prepare_resume(tmp_path, 2) == newest
    assert older.is_dir() and not apart.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 4}', '{"step": 4, "world_size": "2"}'])
def test_a_marker_that_says_nothing_is_no_marker(tmp_path, content) -> None:
    folder = write_checkpoint(tmp_path, 4)
    (folder / "complete.json").write_text(content)
    assert "marker is damaged" in damage(folder)
    assert checkpoint_to_resume(tmp_path, 2) is None


def test_a_marker_of_another_format_is_no_marker(tmp_path) -> None:
    folder = write_checkpoint(tmp_path, 4)
    write_json(folder / "complete.json", read_json(folder / "complete.json") | {"format": 0})
    assert "has format 0" in damage(folder)
    assert checkpoint_to_resume(tmp_path, 2) is None


@given(size=st.integers(1, 1 << 21), where=st.floats(0, 1))
def test_a_fingerprint_sees_every_byte_of_a_file(tmp_path_factory, size, where) -> None:
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(bytes(size))
    before = fingerprint(path)
    for position in {0, size - 1, int(where * (size - 1))}:
        with open(path, "r+b") as handle:
            handle.seek(position)
            handle.write(b"x")
        assert fingerprint(path) != before
        path.write_bytes(bytes(size))


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state_1.pth", "model.safetensors"])
def test_what_the_trainer_did_not_write_is_named(tmp_path, name) -> None:
    folder = write_checkpoint(tmp_path, 4, marked=False)
    (folder / name).unlink()
    with pytest.raises(RuntimeError, match="without (model weights|" + name + ")"):
        mark_complete(folder, world_size=2, limit=220)
    assert damage(folder)


def test_what_was_written_badly_gets_no_marker(tmp_path) -> None:
    folder = write_checkpoint(tmp_path, 4, marked=False)
    path = folder / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RuntimeError, match=r"optimizer\.pt: is no readable torch archive"):
        mark_complete(folder, world_size=2, limit=220)


def test_every_rank_of_a_sharded_optimiser_must_be_there(tmp_path) -> None:
    folder = write_checkpoint(tmp_path, 4, marked=False)
    _, second = shard_optimiser(folder, ranks=2)
    second.rename(tmp_path / "away")
    with pytest.raises(RuntimeError, match="optim_states of 1 ranks"):
        mark_complete(folder, world_size=2, limit=220)
    (tmp_path / "away").rename(second)
    mark_complete(folder, world_size=2, limit=220)
    assert damage(folder) is None
    flip_a_byte(second)
    assert damage(folder).startswith("global_step4/zero_pp_rank_1")


@pytest.fixture
def sealed(tmp_path) -> Path:
    """A round folder with one checkpoint of DeepSpeed, and the folder of its user's key."""
    folder = write_checkpoint(tmp_path / "round", 4, marked=False)
    shard_optimiser(folder, ranks=2)
    mark_complete(folder, world_size=2, limit=220)
    return folder


def add_a_pickle(folder: Path) -> None:
    torch.save({"state": torch.arange(9)}, folder / "global_step4" / "zero_pp_rank_2_mp_rank_00_optim_states.pt")


def forge(folder: Path) -> None:
    """Another state under a marker that fits it: checksums without a key can be made by anybody."""
    torch.save({"state": torch.arange(10)}, folder / "global_step4" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / MARKER).unlink()
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in names.items()}
    write_marker(
        folder, Marker(4, 2, 220, True, True, sizes, {name: fingerprint(path) for name, path in names.items()})
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda folder: key_file().write_bytes(bytes(32)), "does not fit this user's key"),
        (add_a_pickle, "does not fit this user's key and the files"),
        (forge, "does not fit this user's key and the files"),
    ],
)
def test_what_would_be_unpickled_is_resumed_only_if_this_user_saved_it(sealed, monkeypatch, fault, words) -> None:
    assert checkpoint_to_resume(sealed.parent, 2) == sealed
    fault(sealed)
    assert damage(sealed) is None  # nothing that a checksum would tell
    with pytest.raises(InputError, match=rf"checkpoint-4.*{words}.*unpickled.*copy .*key of that machine here; else"):
        checkpoint_to_resume(sealed.parent, 2)


def test_a_state_without_a_seal_is_refused_and_a_model_without_its_state_needs_none(sealed) -> None:
    marker = read_marker(sealed)
    (sealed / SEAL).unlink()
    files = {name: size for name, size in marker.files.items() if name != SEAL}
    write_marker(sealed, dataclasses.replace(marker, files=files))
    with pytest.raises(InputError, match=r"bears no seal \(seal\.json\)"):
        checkpoint_to_resume(sealed.parent, 2)
    drop_training_state(sealed)
    assert not (sealed / SEAL).exists() and damage(sealed) is None


def test_a_key_is_made_once_for_the_user_alone_or_says_why_not(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert own_key() == own_key() and len(own_key()) == 32
    assert key_file() == tmp_path / "secateur" / "key" and key_file().stat().st_mode & 0o777 == 0o600
    key_file().write_bytes(b"short")
    with pytest.raises(InputError, match="is no key of this program; delete it"):
        own_key()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(key_file()))
    with pytest.raises(InputError, match=r"cannot be kept there .*set XDG_CONFIG_HOME"):
        own_key()


def test_plain_training_state_is_read_without_unpickling(tmp_path) -> None:
    """Why only DeepSpeed's needs a seal: the Trainer reads its own with `weights_only`."""
    read = re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", inspect.getsource(transformers.trainer))
    assert len(read) > 5 and all("weights_only=True" in call for call in read)


def test_another_number_of_processes_is_refused(tmp_path) -> None:
    write_checkpoint(tmp_path, 4)
    with pytest.raises(InputError, match=r"saved by 2 processes and this launch has 8.*num_processes 2"):
        checkpoint_to_resume(tmp_path, 8)


def test_old_checkpoints_stay_models_and_stop_being_resumable(tmp_path) -> None:
    folders = [write_checkpoint(tmp_path, step, marked=False) for step in (4, 8, 12)]
    for folder in folders:
        shard_optimiser(folder, ranks=2)
        mark_complete(folder, world_size=2, limit=220)
    drop_what_is_superseded(tmp_path)
    assert sorted(path.name for path in folders[0].iterdir()) == ["complete.json", "config.json", "model.safetensors"]
    assert not any(damage(folder) for folder in folders)
    assert [read_marker(folder).resumable for folder in folders] == [False, True, True]
    for folder in folders[1:]:
        shutil.rmtree(folder)
    assert checkpoint_to_resume(tmp_path, 2) is None


def test_a_checkpoint_out_of_turn_is_resumed_until_a_regular_one_follows(tmp_path) -> None:
    write_checkpoint(tmp_path, 4)
    stopped = write_checkpoint(tmp_path, 5, regular=False)
    assert checkpoint_to_resume(tmp_path, 2) == stopped
    write_checkpoint(tmp_path, 8)
    drop_what_is_superseded(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-8"]
    assert [read_marker(tmp_path / f"checkpoint-{step}").resumable for step in (4, 8)] == [True, True]


def test_steps_that_are_trained_again_do_not_write_over_marked_checkpoints(tmp_path, capsys) -> None:
    """The newest two were damaged, so training goes back before an older one that is a mere model by now."""
    folders = [write_checkpoint(tmp_path, step) for step in (4, 8, 12)]
    drop_what_is_superseded(tmp_path)
    for folder in folders[1:]:
        flip_a_byte(folder / "optimizer.pt")
    (tmp_path / "train.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert prepare_resume(tmp_path, 2) is None
    assert not list(tmp_path.glob("checkpoint-*"))
    assert (tmp_path / "train.jsonl").read_text() == ""
    output = capsys.readouterr().out
    assert (
        output.count("set aside") == 2 and "optimizer.pt" in output and "checkpoint-4: it is trained again" in output
    )


def test_going_on_cuts_the_log_back_and_keeps_what_came_before(tmp_path) -> None:
    newest = write_checkpoint(tmp_path, 2)
    (tmp_path / "train.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    assert prepare_resume(tmp_path, 2) == newest
    assert (tmp_path / "train.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert remove_later_than(tmp_path, 2) == []


def test_the_record_of_a_round_names_its_candidates_and_its_engine(tmp_path) -> None:
    for step in (4, 8):
        write_checkpoint(tmp_path, step, regular=step == 8)
    write_trained_by(tmp_path, TrainedBy("DeepSpeedEngine", 2, 2))
    record_training(tmp_path, Round(1, 220, 8), start=tmp_path / "checkpoint-4")
    expected = {"steps": 8, "checkpoints": [8], "engine": "DeepSpeedEngine", "world_size": 2, "zero_stage": 2}
    expected |= {"moved_share": 1.0, "merge_loss": None}
    assert without_checksum(read_json(tmp_path / "training.json"), "", "") == expected | {"format": 2}


@pytest.mark.parametrize(
    ("accumulation", "passes", "iterations"), [(1, 1, 1), (2, 2, 1), (1, 4, 1), (2, 4, 2), (3, 3, 2)]
)
def test_a_stop_may_fall_where_a_regular_save_may(tmp_path, accumulation, passes, iterations) -> None:
    """One rule for both: nowhere else are TRL's buffered completions used up."""
    values = {
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": passes,
        "num_iterations": iterations,
    }
    arguments = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **values)
    for step in range(1, 13):
        try:
            batch_sizes(values | {"num_generations": 8, "save_steps": step}, 2, "test.yaml")
            allowed = True
        except InputError:
            allowed = False
        assert between_generations(step, arguments) == allowed


def test_keys_that_may_change_between_restarts_are_keys() -> None:
    known = {field.name for config in (GRPOConfig, ScheduleConfig) for field in dataclasses.fields(config)}
    assert known >= FREE_KEYS, FREE_KEYS - known


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_exploded_are_not_marked_whole(tmp_path, value, dtype) -> None:
    folder = write_checkpoint(tmp_path, 4, marked=False)
    weights = torch.ones(4, 4, dtype=dtype)
    weights[2, 3] = value
    save_file({"bias": torch.ones(2), "weight": weights}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: 'weight' is not finite.*learning_rate"):
        mark_complete(folder, world_size=2, limit=220)
    assert damage(folder) and checkpoint_to_resume(tmp_path, 2) is None
