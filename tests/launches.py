"""The user's own training command on two processes, for the tests that interrupt it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from secateur.runtime.files import read_json, read_jsonl, write_text
from tests.conftest import REPOSITORY

ROUND = "rounds/1-limit-140"
STEPS, SAVE_STEPS = 8, 4
# 4 prompts a step of 6 problems: the second epoch begins within step 2, the third with step 4.
CONFIG = f"""
model: {REPOSITORY / "trainers" / "embedded_model"}
output_dir: {{output}}
limits: [140]
steps_per_round: {STEPS}
problems: arithmetic:train
problem_count: 6
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
save_steps: {SAVE_STEPS}
use_cpu: true
bf16: false
gradient_checkpointing: false
model_init_kwargs: {{{{dtype: float32}}}}
"""
DDP = ("configs/accelerate/cpu.yaml",)


def zero(stage: int) -> tuple[str, ...]:
    """The launch files that users have, on two processes and in fp32."""
    return (f"configs/accelerate/zero{stage}.yaml", "--num_processes", "2", "--mixed_precision", "no")


def write_config(output: Path) -> Path:
    path = output.with_suffix(".yaml")
    write_text(path, CONFIG.format(output=output))
    return path


def launch(
    config: Path, accelerate: tuple[str, ...] = DDP, inside: tuple[str, ...] = (), **options
) -> subprocess.Popen:
    """`accelerate`: launch file and options; `inside`: words in front of the command."""
    command = [*inside, sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", *accelerate, "trainers/grpo_len.py", "--config", str(config)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja, for DeepSpeed
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | {"PATH": path}, **output, **options)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def wait_for_step(process: subprocess.Popen, run: Path, step: int) -> None:
    log = run / ROUND / "train.jsonl"
    while not (log.is_file() and log.read_bytes().count(b"\n") >= step):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    return sorted(psutil.Process(process.pid).children(), key=lambda child: int(child.environ()["RANK"]))


def kill_rank(process: subprocess.Popen, rank: int) -> str:
    """SIGKILL one rank; the launcher has to notice and to end everything. Returns the output."""
    ranks_of(process)[rank].send_signal(signal.SIGKILL)
    output = process.communicate(timeout=600)[0]
    assert process.returncode != 0
    return output


def metrics(run: Path) -> list[dict[str, float]]:
    records = [record for _, record in read_jsonl(run / ROUND / "train.jsonl")]
    return [{key: value for key, value in record.items() if key not in ("time", "step_time")} for record in records]


def weights(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (run / ROUND).glob("checkpoint-*/model.safetensors")}


def training_record(run: Path) -> dict:
    return read_json(run / ROUND / "training.json")


def remove_stale_build_lock() -> None:
    """A build of DeepSpeed's communication library that was killed leaves a lock; later runs wait on it for ever."""
    default = Path.home() / ".cache" / "torch_extensions"
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR", default))
    for lock in folder.rglob("deepspeed_shm_comm/lock"):
        lock.unlink()


_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


def killed_before(change: int, code: str) -> bool:
    """Run Python `code` in a process of its own, which is killed (SIGKILL) right before its `change`-th change of a
    folder, from 0 on. False if it came to its end with fewer."""
    hook = f"""
import os, signal, sys
left = {change}
def before(event, arguments):
    global left
    if event in {_CHANGES!r}:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", f"{hook}\n{code.replace('BEGIN', 'sys.addaudithook(before)')}"]
    ended = subprocess.run(command, check=False).returncode
    assert ended in (0, -signal.SIGKILL), ended
    return ended != 0
