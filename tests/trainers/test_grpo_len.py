"""The user's own command on two processes: a round that is killed and resumed equals one that was left alone."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from secateur.runtime.files import read_json, read_jsonl, write_text
from tests.launches import (
    DDP,
    ROUND,
    STEPS,
    finish,
    launch,
    metrics,
    remove_stale_build_lock,
    wait_for_step,
    weights,
    write_config,
    zero,
)
from tests.offline_wandb import read_events

pytestmark = pytest.mark.slow
ONE = (*DDP, "--num_processes", "1")  # a refusal needs no second process


def kill_at(process: subprocess.Popen, run: Path, step: int) -> None:
    """SIGKILL launcher and ranks as soon as `step` steps are logged."""
    wait_for_step(process, run, step)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.send_signal(signal.SIGKILL)
    process.kill()
    process.communicate()


def test_a_round_leaves_its_record(uninterrupted) -> None:
    assert {"steps": 8, "checkpoints": [4, 8]}.items() <= read_json(uninterrupted / ROUND / "training.json").items()
    for step in (4, 8):  # switched off by the Trainer, which would make generation from them many times as slow
        assert read_json(uninterrupted / ROUND / f"checkpoint-{step}" / "config.json")["use_cache"] is True
    report = read_json(uninterrupted / "data.json")
    assert (report["loaded"], report["kept"], report["exact"], report["near"]) == (6, 6, [], [])


def test_a_killed_round_goes_on_as_if_nothing_had_happened(uninterrupted, tmp_path, monkeypatch) -> None:
    """And is one run in W&B and one curve in TensorBoard; the round that it is compared with reports to neither."""
    run = tmp_path / "run"
    config = write_config(run)
    more = "report_to: [wandb, tensorboard]\nlog_completions: true\nnum_completions_to_print: 0\n"
    write_text(config, config.read_text(encoding="utf-8") + more)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    kill_at(launch(config), run, step=6)
    torn = run / ROUND / "checkpoint-7"  # a kill within a save
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    output = finish(launch(config))
    assert "going on from" in output and "set aside" in output
    assert metrics(run) == metrics(uninterrupted)
    assert weights(run) == weights(uninterrupted)
    assert any(record["reward_std"] > 0 for record in metrics(uninterrupted)), "without gradients this proves nothing"
    check_reports(tmp_path, run)


def test_prompts_that_are_drawn_as_training_goes_are_the_same_after_a_kill(tmp_path) -> None:
    """Two processes, four prompts a step; a group is mixed or not as its completions were."""
    runs = [tmp_path / name for name in ("alone", "killed")]
    for run in runs:
        config = write_config(run)
        write_text(config, config.read_text(encoding="utf-8") + "dynamic_prompts: true\n")
    finish(launch(runs[0].with_suffix(".yaml")))
    kill_at(launch(runs[1].with_suffix(".yaml")), runs[1], step=6)
    finish(launch(runs[1].with_suffix(".yaml")))
    assert metrics(runs[0]) == metrics(runs[1]) and weights(runs[0]) == weights(runs[1])
    groups = [[line["mixed"] for _, line in read_jsonl(run / ROUND / "groups.jsonl")] for run in runs]
    assert groups[0] == groups[1] and len(groups[0]) == STEPS


def check_reports(wandb: Path, run: Path) -> None:
    files = sorted(wandb.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2, "one offline folder per launch"
    assert len({path.name for path in files}) == 1, "both carry the id of the same run"
    assert b"train/reward" in files[1].read_bytes()
    curves = read_events(run / "tensorboard" / Path(ROUND).name).scalars
    logged = metrics(run)
    shared = logged[0].keys() - {"step", "limit", "epoch"}  # the last is logged again at the end
    assert {"reward", "completions/mean_length", "loss", "correct_share"} <= shared
    for key in shared:
        steps, values = zip(*curves[f"train/{key}"], strict=True)
        assert steps == tuple(range(1, STEPS + 1)), "each step once, although two launches logged steps 5 and 6"
        assert values == pytest.approx([record[key] for record in logged], rel=1e-5, abs=1e-7)


def test_a_trained_round_waits_for_its_choice(uninterrupted) -> None:
    before = sorted(uninterrupted.rglob("*"))
    process = launch(uninterrupted.with_suffix(".yaml"), ONE)
    output = process.communicate(timeout=600)[0]
    assert process.returncode != 0
    assert "round 1-limit-140 is trained but its checkpoint is not chosen" in output
    assert sorted(uninterrupted.rglob("*")) == before


def test_the_driver_takes_the_run_to_its_end_and_then_has_nothing_to_do(uninterrupted, tmp_path, repository) -> None:
    run = tmp_path / "run"
    config = write_config(run)
    shutil.copytree(uninterrupted, run)  # one round by hand, the rest by the driver
    written = (run / "config.yaml").read_text(encoding="utf-8")
    write_text(run / "config.yaml", written.replace(str(uninterrupted), str(run)))
    command = [sys.executable, "schedules/run.py", "--accelerate_config", *DDP, "--config", str(config)]
    first = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    selection = read_json(run / ROUND / "selection.json")
    assert [candidate["step"] for candidate in selection["candidates"]] == [0, 4, 8]
    assert "round 1, limit 140 tokens" in first.stdout
    names = {path.name for path in (run / "final").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"optimizer.pt", "trainer_state.json", "complete.json"}
    second = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert "all done" in second.stdout


def test_a_launch_that_would_save_no_weights_ends_before_training(tmp_path, repository) -> None:
    pytest.importorskip("deepspeed")
    remove_stale_build_lock()
    run = tmp_path / "run"
    text = (repository / zero(3)[0]).read_text(encoding="utf-8").replace("zero3_save_16bit_model: true", "")
    write_text(tmp_path / "without_weights.yaml", text)
    process = launch(write_config(run), (str(tmp_path / "without_weights.yaml"), *ONE[1:], *zero(3)[3:]))
    output = process.communicate(timeout=600)[0]
    assert process.returncode != 0
    assert "ZeRO-3 would save checkpoints without model weights; set zero3_save_16bit_model" in output
    assert not list(run.glob("rounds/*/checkpoint-*"))
