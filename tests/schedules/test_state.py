"""The run folder after a kill at every point: what is on disk decides, and nothing is done twice."""

import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from schedules.candidates import candidate_steps
from schedules.config import RunConfig, ScheduleConfig
from schedules.export import export_model, remove_folder
from schedules.integrity import Marker, damage, read_marker, write_marker
from schedules.records import ValidationRecord, selection_record, write_selection, write_validation
from schedules.rounds import Round
from schedules.state import (
    RunFolder,
    check_same_config,
    clear_stop,
    prune_checkpoints,
    prune_decided,
    request_stop,
    stop_requested,
)
from secateur.runtime.config import read_yaml
from secateur.runtime.errors import InputError
from secateur.runtime.files import fingerprint, hold_folder, read_json, write_json
from secateur.runtime.records import with_checksum, without_checksum
from tests.launches import killed_before
from tests.schedules.candidates import candidate


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
    write_json(folder / "training.json", {})
    if upto == "training":
        return
    figures = {step: candidate(step, 0.5, 100.0 if step == chosen_step else 120.0) for step in (0, 2, 4)}
    write_validation(folder / "validation.json", ValidationRecord({}, tuple(figures.values())))
    if upto == "validation":
        return
    selection = run.choice(run.rounds[index])
    assert selection.chosen_step == chosen_step
    write_selection(folder, selection_record(run.rounds[index].limit, "owner/model", selection, ""))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_step_follows_from_the_files_of_the_one_before(tmp_path) -> None:
    run = RunFolder(make_config(tmp_path / "run"))
    seen = [run.next_action()]
    for index in (0, 1):
        for upto in ("training", "validation", "selection"):
            finish_round(run, index, 4, upto)
            seen.append(run.next_action())
    export_model(str(write_checkpoint(tmp_path, 4)), run.path / "final")
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


def test_a_round_does_not_start_from_a_damaged_model(tmp_path) -> None:
    run = RunFolder(make_config(tmp_path / "run"))
    folder = write_checkpoint(run.round_folder(run.rounds[0]), 4)
    assert run.locate("rounds/1-limit-220/checkpoint-4") == str(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"damaged since it was saved: config\.json is missing; restore it"):
        run.locate("rounds/1-limit-220/checkpoint-4")


@pytest.mark.parametrize("changes", [{"limits": [220, 150]}, {"seed": 1}, {"tolerance": 0.2}])
def test_another_configuration_is_refused_and_nothing_is_touched(tmp_path, changes) -> None:
    run = RunFolder(make_config(tmp_path))
    run.open()
    finish_round(run, 0, 4)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=f"another configuration: '{next(iter(changes))}'"):
        RunFolder(make_config(tmp_path, **changes)).open()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"validation_rows": 8},
        {"keep_checkpoints": "chosen"},
        {"validation_engine_options": {"max_batch_rows": 9}},
    ],
)
def test_what_does_not_change_the_result_may_differ_between_restarts(tmp_path, changes) -> None:
    RunFolder(make_config(tmp_path)).open()
    assert RunFolder(make_config(tmp_path, **changes)).check()


def test_options_that_change_the_samples_may_not_differ(tmp_path) -> None:
    run = RunFolder(make_config(tmp_path, validation_engine_options={"max_model_len": 900}))
    run.open()
    finish_round(run, 0, 4, "validation")
    with pytest.raises(
        InputError, match=r"'validation_engine_options' is \{'max_model_len': 900\} there and \{\} now"
    ):
        RunFolder(make_config(tmp_path)).check()


def begin(run: RunFolder, *files: str) -> None:
    for file in files:
        path = run.round_folder(run.rounds[0]) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


@pytest.mark.parametrize(
    ("begun", "changes", "allowed"),
    [
        (None, {"seed": 1, "validation_top_p": 0.9}, True),
        ("train.jsonl", {"seed": 1}, False),
        ("train.jsonl", {"validation_top_p": 0.9, "validation_problems": "arithmetic:test", "tolerance": 0.2}, True),
    ],
)
def test_a_key_that_was_not_used_yet_may_be_corrected(tmp_path, begun, changes, allowed) -> None:
    run = RunFolder(make_config(tmp_path))
    run.open()
    if begun is not None:
        begin(run, begun)
    corrected = RunFolder(make_config(tmp_path, **changes))
    if not allowed:
        with pytest.raises(InputError, match="another configuration"):
            corrected.open()
        return
    assert not corrected.check()
    corrected.open()
    assert corrected.check() and read_yaml(tmp_path / "config.yaml")["seed"] == changes.get("seed", 0)


@pytest.mark.parametrize(
    ("begun", "changes"),
    [
        (["train.jsonl", "validation/start/validation/traces-rank0.jsonl"], {"validation_top_p": 0.9}),
        (["train.jsonl", "validation.json"], {"validation_top_p": 0.9}),
        (["train.jsonl", "selection.json"], {"tolerance": 0.2}),
    ],
)
def test_a_key_that_was_used_may_not(tmp_path, begun, changes) -> None:
    run = RunFolder(make_config(tmp_path))
    run.open()
    begin(run, *begun)
    with pytest.raises(InputError, match=f"another configuration: '{next(iter(changes))}'"):
        RunFolder(make_config(tmp_path, **changes)).open()


def test_a_stored_configuration_that_was_cut_off_is_named_and_the_users_own_takes_its_place(tmp_path) -> None:
    """Cut between two keys it reads as a configuration that lacks the later ones."""
    config = make_config(tmp_path)
    run = RunFolder(config)
    run.open()
    finish_round(run, 0, 4)
    stored, whole = tmp_path / "config.yaml", (tmp_path / "config.yaml").read_text(encoding="utf-8")
    for end in range(len(whole)):
        stored.write_text(whole[:end], encoding="utf-8")
        with pytest.raises(InputError, match=r"config\.yaml: (was cut off|not YAML|expected keys)"):
            RunFolder(config).check()
    given = ("model", "output_dir", "limits", "steps_per_round", "problems", "validation_problems", "learning_rate")
    write_json(stored, {key: config.resolved()[key] for key in given})  # which is YAML too
    assert RunFolder(config).check()


def test_a_folder_that_is_no_run_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"'thesis\.tex' but no config\.yaml"):
        RunFolder(make_config(tmp_path)).open()


def test_a_folder_with_the_lock_of_a_killed_start_alone_is_a_new_one(tmp_path) -> None:
    """Killed between taking `rounds/` and writing config.yaml."""
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds" / ".lock-holder").write_text("1")
    assert not check_same_config(tmp_path, {"seed": 0})
    (tmp_path / "rounds" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'rounds' but no config\.yaml"):
        check_same_config(tmp_path, {"seed": 0})


def test_two_processes_cannot_work_in_one_folder(tmp_path) -> None:
    code = f"import pathlib, secateur.runtime.files as s\nwith s.hold_folder(pathlib.Path({str(tmp_path)!r})): 0"
    with hold_folder(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is working in it" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_export_holds_the_model_only_and_appears_whole(tmp_path) -> None:
    source, target = tmp_path / "checkpoint-4", tmp_path / "final"
    (source / "global_step4").mkdir(parents=True)
    kept = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
    for name in [*kept, "optimizer.pt", "rng_state_0.pth", "trainer_state.json", "latest"]:
        (source / name).write_text(name)
    write_marker(source, Marker(4, 1, 9, resumable=True, regular=True, files={}, fingerprints={}))
    (tmp_path / ".final.unfinished").mkdir()
    (tmp_path / ".final.unfinished" / "torn").write_text("left by a kill")
    export_model(str(source), target)
    assert sorted(path.name for path in target.iterdir()) == sorted(kept)


def test_a_damaged_checkpoint_is_not_exported(tmp_path) -> None:
    folder = write_checkpoint(tmp_path, 4)
    (folder / "config.json").write_text('{"model": 5}')
    with pytest.raises(InputError, match=r"damaged since it was saved: config\.json has"):
        export_model(str(folder), tmp_path / "final")
    assert not (tmp_path / "final").exists()


ROUND = Round(1, 220, 12)


def write_checkpoint(round_folder: Path, step: int, regular: bool = True) -> Path:
    """A checkpoint as far as this package looks at one."""
    folder = round_folder / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    write_json(folder / "config.json", {"model": 4})
    write_json(folder / "global_step" / "shard.json", {"state": step})
    files = {name: folder / name for name in ("config.json", "global_step/shard.json")}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    prints = {name: fingerprint(path) for name, path in files.items()}
    write_marker(folder, Marker(step, 2, 220, resumable=True, regular=regular, files=sizes, fingerprints=prints))
    return folder


def test_candidates_are_whole_and_saved_in_turn(tmp_path, capsys) -> None:
    for step in (12, 4, 8):
        write_checkpoint(tmp_path, step)
    write_checkpoint(tmp_path, 9, regular=False)
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-8" / "config.json").write_text("{}")
    (tmp_path / "checkpoint-4" / "global_step" / "shard.json").unlink()  # nothing that a choice needs
    assert candidate_steps(tmp_path, ROUND, whole_files=False) == [4, 12]
    output = capsys.readouterr().out.splitlines()
    assert len(output) == 2
    assert "checkpoint-8: config.json has 2 bytes where" in output[0]
    assert "checkpoint-10: it has no complete.json" in output[1]
    with pytest.raises(
        InputError, match=r"checkpoint-8: config.json has 2 bytes where .*; restore it, or delete the"
    ):
        candidate_steps(tmp_path, ROUND)
    shutil.rmtree(tmp_path / "checkpoint-8")
    assert candidate_steps(tmp_path, ROUND) == [4, 12]
    with pytest.raises(InputError, match="trained at the limit 220, this round has 160"):
        candidate_steps(tmp_path, Round(2, 160, 12))


@pytest.mark.parametrize(("keep", "left"), [("all", ["4", "8", "12"]), ("chosen", ["8"])])
@pytest.mark.parametrize("killed_at", [None, "removal", "forgetting"])
def test_a_round_that_has_chosen_keeps_what_the_rule_says(tmp_path, keep, left, killed_at) -> None:
    for step in (4, 8, 12):
        write_checkpoint(tmp_path, step)
    write_checkpoint(tmp_path, 9, regular=False)
    (tmp_path / "incomplete-checkpoint-6-0").mkdir()
    if killed_at == "removal":
        (tmp_path / ".removed-checkpoint-2").mkdir()
        (tmp_path / ".removed-checkpoint-2" / "config.json").write_text("half gone")
    if killed_at == "forgetting":  # the marker says that the state is gone, the files are still there
        marker = read_marker(tmp_path / "checkpoint-8")
        kept = {name: size for name, size in marker.files.items() if name != "global_step/shard.json"}
        write_marker(tmp_path / "checkpoint-8", replace(marker, resumable=False, files=kept))
    for step in (4, 8) if killed_at is None else ():  # training state that was damaged is not missed
        (tmp_path / f"checkpoint-{step}" / "global_step" / "shard.json").write_text("{")
    for _ in range(2):
        prune_checkpoints(tmp_path, 8, keep)
        assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in left}
        for step in left:
            folder = tmp_path / f"checkpoint-{step}"
            assert damage(folder) is None
            assert {path.name for path in folder.iterdir()} == {"complete.json", "config.json"}


@pytest.mark.parametrize("name", ["config.json", "complete.json"])
def test_a_candidate_that_was_damaged_after_the_choice_stays_as_it_is(tmp_path, name) -> None:
    write_checkpoint(tmp_path, 4)
    other = write_checkpoint(tmp_path, 8)
    (other / name).write_text("{")
    before = snapshot(other)
    prune_checkpoints(tmp_path, 4, "all")
    assert snapshot(other) == before
    prune_checkpoints(tmp_path, 4, "chosen")
    assert not other.exists()


def test_a_chosen_checkpoint_is_never_deleted_not_even_a_damaged_one(tmp_path) -> None:
    chosen = write_checkpoint(tmp_path, 4)
    (chosen / "config.json").write_text("{}")
    before = snapshot(chosen)
    prune_checkpoints(tmp_path, 4, "chosen")
    assert snapshot(chosen) == before


def test_only_rounds_that_have_chosen_are_pruned(tmp_path) -> None:
    run = RunFolder(make_config(tmp_path / "run"))
    for round_ in run.rounds:
        write_checkpoint(run.round_folder(round_), 2)
        write_checkpoint(run.round_folder(round_), 4)
    finish_round(run, 0, 2)
    before = snapshot(run.round_folder(run.rounds[1]))
    prune_decided(run, "chosen")
    assert [path.name for path in run.round_folder(run.rounds[0]).glob("checkpoint-*")] == ["checkpoint-2"]
    assert snapshot(run.round_folder(run.rounds[1])) == before


def test_a_folder_that_is_removed_looks_like_no_checkpoint_at_any_time(tmp_path, monkeypatch) -> None:
    folder = write_checkpoint(tmp_path, 4)
    seen = []
    monkeypatch.setattr("schedules.export.shutil.rmtree", lambda path, **_: seen.append((path.name, folder.exists())))
    remove_folder(folder)
    assert seen[-1] == (".removed-checkpoint-4", False)


def test_a_request_to_stop_can_be_made_seen_and_withdrawn(tmp_path) -> None:
    RunFolder(make_config(tmp_path)).open()
    assert not stop_requested(tmp_path)
    request_stop(tmp_path)
    assert stop_requested(tmp_path) and RunFolder(make_config(tmp_path)).check()
    clear_stop(tmp_path)
    clear_stop(tmp_path)
    assert not stop_requested(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": 1.0}, "'tolerance' has the value 1.0"),
        ({"tolerance_reference": "best"}, "choose one of best_so_far"),
        ({"validation_samples": 0}, "'validation_samples' has the value 0"),
        ({"seed": -1}, "'seed' has the value -1; give a whole number from 0"),
        ({"seed": 2**32 - 1}, "to below 4,000,000,000"),
        ({"model": "./trainers"}, "without config.json"),
        ({"model": "trainers/embedded_modle"}, "no such folder"),
        ({"model": "/no/such/folder"}, "'model' has the value '/no/such/folder': no such folder"),
        ({"model": "tests/nothing"}, "no such folder"),
        ({"model": "tests/schedules"}, "without config.json"),
    ],
)
def test_impossible_keys_are_named(tmp_path, monkeypatch, repository, changes, message) -> None:
    monkeypatch.chdir(repository)
    with pytest.raises(InputError, match=message):
        make_config(tmp_path, **changes)


def exported(tmp_path: Path) -> tuple[RunFolder, Path]:
    """A run that is done, and its `final/`."""
    run = RunFolder(make_config(tmp_path / "run"))
    for index in (0, 1):
        write_checkpoint(run.round_folder(run.rounds[index]), 4)
        finish_round(run, index, 4)
    export_model(run.locate(run.next_action().start_model), run.path / "final")
    return run, run.path / "final"


FAULTS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: path.write_bytes(path.read_bytes().replace(b"4", b"5")),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("file", ["final/config.json", "final.json"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_final_model_that_was_damaged_is_exported_again(tmp_path, file, fault) -> None:
    run, final = exported(tmp_path)
    assert run.next_action().kind == "done"
    before = snapshot(final)
    FAULTS[fault](run.path / file)
    action = RunFolder(make_config(tmp_path / "run")).next_action()
    assert action.kind == "export"
    export_model(run.locate(action.start_model), final)
    assert snapshot(final) == before and RunFolder(make_config(tmp_path / "run")).next_action().kind == "done"


def test_a_final_model_that_was_damaged_and_cannot_be_exported_again_is_named(tmp_path) -> None:
    run, final = exported(tmp_path)
    remove_folder(Path(run.locate("rounds/2-limit-160/checkpoint-4")))
    with pytest.raises(InputError, match=r"checkpoint-4: is no model folder"):
        export_model(run.locate("rounds/2-limit-160/checkpoint-4"), final)


def test_a_kill_during_an_export_costs_nothing(tmp_path) -> None:
    """Killed before every change of a folder in turn, where a damaged model lay."""
    run, final = exported(tmp_path)
    source, before = run.locate("rounds/2-limit-160/checkpoint-4"), snapshot(final)
    for at in itertools.count():
        FAULTS["cut"](final / "config.json")
        code = "import pathlib; from schedules.export import export_model\nBEGIN\n"
        killed = killed_before(at, f"{code}export_model({source!r}, pathlib.Path({str(final)!r}))")
        if RunFolder(make_config(tmp_path / "run")).next_action().kind == "export":
            export_model(source, final)
        assert snapshot(final) == before
        assert not list(run.path.glob(".removed-*"))
        if not killed:
            break
    assert at >= 4


def test_other_weights_at_the_path_of_the_start_model_are_refused_once_a_step_is_done(tmp_path) -> None:
    weights = tmp_path / "model" / "config.json"
    write_json(weights, {"seed": 1})
    config = make_config(tmp_path / "run", model=str(weights.parent))
    RunFolder(config).open()
    write_json(weights, {"seed": 2})
    RunFolder(config).open()
    run = RunFolder(config)
    write_json(run.round_folder(run.rounds[0]) / "train.jsonl", {"step": 1})
    assert run.check()
    write_json(weights, {"seed": 3})
    for use in (run.check, run.open):
        with pytest.raises(InputError, match="begun with other weights in key 'model'"):
            use()


@pytest.mark.parametrize("number", [0, 2, 7])
def test_a_choice_that_does_not_follow_from_its_figures_deletes_nothing(tmp_path, number) -> None:
    run = RunFolder(make_config(tmp_path / "run"))
    folder = run.round_folder(run.rounds[0])
    for step in (2, 4):
        write_checkpoint(folder, step)
    finish_round(run, 0, 4)
    selection = without_checksum(read_json(folder / "selection.json"), "", "")
    write_json(folder / "selection.json", with_checksum(selection | {"chosen_step": number}))
    before = snapshot(run.path)
    for use in (run.next_action, lambda: prune_decided(run, "chosen")):
        with pytest.raises(InputError, match=r"selection\.json: names .* but .* in validation\.json .* step 4"):
            use()
    assert snapshot(run.path) == before
