"""The user's own command on two processes: a round that is killed and resumed equals one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from runtime.files import read_json, read_jsonl, write_text

CONFIG = """
model: {model}
output_dir: {output}
limits: [140]
steps_per_round: 6
problems: arithmetic:train
problem_count: 10
prompt_family: plain
validation_problems: arithmetic:validation
validation_count: 4
validation_samples: 2
validation_temperature: 1.0
validation_top_p: 1.0
validation_max_tokens: 200
validation_dtype: float32
learning_rate: 1.0e-3
num_generations: 4
per_device_train_batch_size: 8
save_steps: 2
use_cpu: true
bf16: false
gradient_checkpointing: false
model_init_kwargs: {{dtype: float32}}
"""
CPU = ("configs/accelerate/cpu.yaml",)
ZERO2 = ("configs/accelerate/zero2.yaml", "--num_processes", "2", "--mixed_precision", "no")


def write_config(folder: Path, model: Path, name: str) -> Path:
    write_text(folder / f"{name}.yaml", CONFIG.format(model=model, output=folder / name))
    return folder / f"{name}.yaml"


def launch(config: Path, repository: Path, accelerate: tuple[str, ...] = CPU, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", *accelerate]
    command += ["--main_process_port", "0", "trainers/grpo_len.py", "--config", str(config)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja, for DeepSpeed
    return subprocess.Popen(
        command,
        cwd=repository,
        env=os.environ | {"PATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 0, output
    return output


def kill_at(process: subprocess.Popen, log: Path, lines: int) -> None:
    """SIGKILL launcher and ranks as soon as `log` has `lines` lines."""
    while not (log.is_file() and log.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.02)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.send_signal(signal.SIGKILL)
    process.kill()
    process.communicate()


def metrics(run: Path) -> list[dict[str, float]]:
    clocks = ("time", "step_time")
    records = [record for _, record in read_jsonl(run / "rounds/1-limit-140/train.jsonl")]
    return [{key: value for key, value in record.items() if key not in clocks} for record in records]


def weights(run: Path) -> bytes:
    return (run / "rounds/1-limit-140/checkpoint-6/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory, embedded_model, repository) -> Path:
    folder = tmp_path_factory.mktemp("left-alone")
    finish(launch(write_config(folder, embedded_model, "run"), repository))
    return folder / "run"


@pytest.mark.slow
def test_a_killed_round_goes_on_as_if_nothing_had_happened(left_alone, tmp_path, embedded_model, repository) -> None:
    config = write_config(tmp_path, embedded_model, "run")
    log = tmp_path / "run/rounds/1-limit-140/train.jsonl"
    kill_at(launch(config, repository), log, lines=5)
    torn = tmp_path / "run/rounds/1-limit-140/checkpoint-5"  # a kill within a save
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    output = finish(launch(config, repository))
    assert "going on from" in output and "set aside" in output
    assert metrics(tmp_path / "run") == metrics(left_alone)
    assert weights(tmp_path / "run") == weights(left_alone)
    assert any(record["reward_std"] > 0 for record in metrics(left_alone)), "a round without gradients proves nothing"


@pytest.mark.slow
def test_a_trained_round_waits_for_its_choice(left_alone, repository) -> None:
    assert read_json(left_alone / "rounds/1-limit-140/training.json") == {"steps": 6, "checkpoints": [2, 4, 6]}
    before = sorted(left_alone.rglob("*"))
    process = launch(left_alone.parent / "run.yaml", repository)
    output = process.communicate(timeout=600)[0].decode()
    assert process.returncode != 0
    assert "round 1-limit-140 is trained but its checkpoint is not chosen" in output
    assert sorted(left_alone.rglob("*")) == before


@pytest.mark.slow
def test_the_driver_takes_the_run_to_its_end_and_then_has_nothing_to_do(left_alone, repository) -> None:
    command = [sys.executable, "schedules/run.py", "--accelerate_config", *CPU]
    command += ["--config", str(left_alone.parent / "run.yaml")]
    first = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    selection = read_json(left_alone / "rounds/1-limit-140/selection.json")
    assert [candidate["step"] for candidate in selection["candidates"]] == [0, 2, 4, 6]
    assert "round 1, limit 140 tokens" in first.stdout
    names = {path.name for path in (left_alone / "final").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"optimizer.pt", "trainer_state.json", "complete.json"}
    second = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert second.stdout.startswith("all done")


@pytest.mark.slow
def test_zero_2_trains_and_resumes_like_ddp(left_alone, tmp_path, embedded_model, repository) -> None:
    pytest.importorskip("deepspeed")
    remove_stale_build_lock()
    config = write_config(tmp_path, embedded_model, "run")
    run = tmp_path / "run"
    kill_at(launch(config, repository, ZERO2), run / "rounds/1-limit-140/train.jsonl", lines=3)
    finish(launch(config, repository, ZERO2))
    assert len(list(run.glob("rounds/*/checkpoint-6/global_step6/*optim_states.pt"))) == 2
    for key in ("reward", "completions/mean_length", "entropy"):
        expected = [record[key] for record in metrics(left_alone)]
        assert [record[key] for record in metrics(run)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_round_is_one_offline_wandb_run_that_a_restart_continues(tmp_path, embedded_model, repository) -> None:
    config = write_config(tmp_path, embedded_model, "run")
    write_text(config, config.read_text(encoding="utf-8") + "report_to: wandb\n")
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    kill_at(launch(config, repository, **offline), tmp_path / "run/rounds/1-limit-140/train.jsonl", lines=3)
    finish(launch(config, repository, **offline))
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2, "one offline folder per launch"
    assert len({path.name for path in files}) == 1, "both carry the id of the same run"
    assert b"train/reward" in files[1].read_bytes()


def remove_stale_build_lock() -> None:
    """A build of DeepSpeed's communication library that was killed leaves a lock; later runs wait on it for ever."""
    default = Path.home() / ".cache" / "torch_extensions"
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR", default))
    for lock in folder.rglob("deepspeed_shm_comm/lock"):
        lock.unlink()
