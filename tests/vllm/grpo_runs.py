"""Our own training command with vLLM, and vLLM's own server, as processes that a test starts and kills."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from secateur.runtime.files import read_jsonl, write_text

LIMIT = 120
CONFIG = """
model: {model}
output_dir: {output}
limits: [{limit}]
steps_per_round: {steps}
problems: arithmetic:train
problem_count: 40
prompt_family: plain
validation_problems: arithmetic:validation
validation_count: 4
validation_samples: 2
validation_temperature: 1.0
validation_top_p: 1.0
validation_max_tokens: 200
validation_dtype: float32
learning_rate: 3.0e-3
num_generations: 8
per_device_train_batch_size: 32
save_steps: 2
use_cpu: true
bf16: false
gradient_checkpointing: false
model_init_kwargs: {{dtype: float32}}
use_vllm: true
vllm_importance_sampling_mode: sequence_mask
"""
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
BAND = (0.97, 1.03)
_START_S = 300
Records = dict[int, dict[str, float]]


def write_config(folder: Path, model: Path, steps: int, **keys: str) -> tuple[Path, Path]:
    """(config file, folder of its only round)."""
    text = CONFIG.format(model=model, output=folder / "run", limit=LIMIT, steps=steps)
    write_text(folder / "run.yaml", text + "".join(f"{key}: {value}\n" for key, value in keys.items()))
    return folder / "run.yaml", folder / f"run/rounds/1-limit-{LIMIT}"


def start(command: Sequence[str], repository: Path, log: Path, **environment: str) -> subprocess.Popen:
    """In a process group of its own, with the patches of `cpu_weights`; its output goes to `log`."""
    path = os.pathsep.join((str(repository / "tests" / "vllm" / "cpu_weights"), str(repository)))
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": path} | environment
    with open(log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=repository,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def train(config: Path, repository: Path, **environment: str) -> subprocess.Popen:
    command = ("trainers/grpo_len.py", "--config", str(config))
    return start(command, repository, config.with_name("log"), **environment)


def serve(model: Path, repository: Path, port: int, log: Path, *options: str, **environment: str) -> subprocess.Popen:
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64"]
    return start(
        [*command, "--max-model-len", "1024", "--block-size", "32", *options], repository, log, **environment
    )


def wait_until_up(server: subprocess.Popen, port: int, log: Path) -> None:
    for _ in range(_START_S):
        time.sleep(1)
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            continue
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


def wait_for_lines(process: subprocess.Popen, file: Path, lines: int, log: Path) -> None:
    while not (file.is_file() and file.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.05)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL it and all it started; nothing where it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def finish(process: subprocess.Popen, log: Path) -> tuple[int, str]:
    """(exit code, output)."""
    try:
        process.wait(600)
    finally:
        kill(process)
    return process.returncode, log.read_text(errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_records(round_folder: Path) -> Records:
    return {record["step"]: record for _, record in read_jsonl(round_folder / "train.jsonl")}


def mean_ratio(records: Records, steps: Sequence[int]) -> float:
    """Mean importance ratio of whole completions, that of the trained weights to those vLLM sampled with."""
    return statistics.mean(records[step]["sampling/importance_sampling_ratio/mean"] for step in steps)


def differences(records: Records, steps: Sequence[int]) -> list[float]:
    """Mean absolute difference of a sampled token's log probability between vLLM and the trained model, per step."""
    return [records[step]["sampling/sampling_logp_difference/mean"] for step in steps]
