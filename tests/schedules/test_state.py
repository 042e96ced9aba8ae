"""The run folder after a kill at every point: what is on disk decides, and nothing is done twice."""

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.files import write_json
from schedules.config import RunConfig, ScheduleConfig
from schedules.export import export_model
from schedules.state import RunFolder, hold_folder


def make_config(folder: Path, **changes) -> RunConfig:
    keys = {
        "model": "owner/model",
        "output_dir": str(folder),
        "limits": [220, 160],
        "steps_per_round": 4,
        "problems": "arithmetic:train",
        "validation_problems": "arithmetic:validation",
    }
    return RunConfig(ScheduleConfig(**keys | changes), {"learning_rate": 1e-4}, "test.yaml")


def finish_round(run: RunFolder, index: int, chosen_step: int, upto: str = "selection") -> None:
    folder = run.round_folder(run.rounds[index])
    for name in ("training", "validation", "selection"):
        write_json(folder / f"{name}.json", {"chosen_step": chosen_step})
        if name == upto:
            return


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_step_follows_from_the_files_of_the_one_before(tmp_path) -> None:
    run = RunFolder(make_config(tmp_path / "run"))
    seen = [run.next_action()]
    for index in (0, 1):
        for upto in ("training", "validation", "selection"):
            finish_round(run, index, 4, upto)
            seen.append(run.next_action())
    (run.path / "final").mkdir()
    seen.append(run.next_action())
    assert [action.kind for action in seen] == [*("train", "validate", "choose") * 2, "export", "done"]
    assert [action.round.index for action in seen if action.round] == [1, 1, 1, 2, 2, 2]
    assert [action.start_model for action in seen[:3]] == ["owner/model"] * 3
    assert [action.start_model for action in seen[3:6]] == ["rounds/1-limit-220/checkpoint-4"] * 3
    assert seen[6].start_model == "rounds/2-limit-160/checkpoint-4"


def test_a_start_model_that_is_chosen_ends_the_schedule(tmp_path) -> None:
    run = RunFolder(make_config(tmp_path / "run"))
    finish_round(run, 0, chosen_step=0)
    action = run.next_action()
    assert (action.kind, action.start_model) == ("export", "owner/model")


def test_a_checkpoint_is_located_within_a_run_folder_that_was_moved(tmp_path) -> None:
    run = RunFolder(make_config(tmp_path / "moved"))
    assert run.locate("rounds/1-limit-220/checkpoint-4") == str(tmp_path / "moved/rounds/1-limit-220/checkpoint-4")
    assert run.locate("owner/model") == "owner/model"


@pytest.mark.parametrize("changes", [{"limits": [220, 150]}, {"seed": 1}, {"tolerance": 0.2}])
def test_another_configuration_is_refused_and_nothing_is_touched(tmp_path, changes) -> None:
    run = RunFolder(make_config(tmp_path))
    run.open()
    finish_round(run, 0, 4)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=f"another configuration: '{next(iter(changes))}'"):
        RunFolder(make_config(tmp_path, **changes)).open()
    assert snapshot(tmp_path) == before


def test_what_does_not_change_the_result_may_differ_between_restarts(tmp_path) -> None:
    RunFolder(make_config(tmp_path)).open()
    assert RunFolder(make_config(tmp_path, validation_rows=8)).check()


def test_a_folder_that_is_no_run_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"'thesis\.tex' but no config\.yaml"):
        RunFolder(make_config(tmp_path)).open()


def test_two_processes_cannot_work_in_one_folder(tmp_path) -> None:
    code = f"import pathlib, schedules.state as s\nwith s.hold_folder(pathlib.Path({str(tmp_path)!r})): 0"
    with hold_folder(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is working in it" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_export_holds_the_model_only_and_appears_whole(tmp_path) -> None:
    source, target = tmp_path / "checkpoint-4", tmp_path / "final"
    (source / "global_step4").mkdir(parents=True)
    kept = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
    for name in [*kept, "optimizer.pt", "rng_state_0.pth", "trainer_state.json", "complete.json", "latest"]:
        (source / name).write_text(name)
    (tmp_path / ".final.unfinished").mkdir()
    (tmp_path / ".final.unfinished" / "torn").write_text("left by a kill")
    export_model(str(source), target)
    assert sorted(path.name for path in target.iterdir()) == sorted(kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": 1.0}, "'tolerance' has the value 1.0"),
        ({"tolerance_reference": "best"}, "choose one of best_so_far"),
        ({"validation_samples": 0}, "'validation_samples' has the value 0"),
        ({"model": "/no/such/folder"}, "'model' has the value '/no/such/folder': no such folder"),
        ({"model": "tests/nothing"}, "no such folder"),
        ({"model": "tests/schedules"}, "without config.json"),
    ],
)
def test_impossible_keys_are_named(tmp_path, monkeypatch, repository, changes, message) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(InputError, match=message):
        make_config(tmp_path, **changes)
