"""The scripts that start a launch on several machines, with a scheduler and an ssh that stay on this one."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from secateur.runtime.files import write_text
from tests.conftest import REPOSITORY
from tests.launches import ROUND, finish, metrics, wait_for_step, weights, write_config

SCONTROL = """#!/usr/bin/env bash
if [ "$1 $2" = "show hostnames" ]; then tr , '\\n' <<<"$3"; else echo "scontrol $*" >>"$RECORD"; fi
"""
# Starts the command once for each task, as srun does, with what srun tells a task.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$RECORD"
for word in "$@"; do
    case $word in --nodelist=*) nodes=${word#*=} ;; --ntasks=*) tasks=${word#*=} ;; esac
done
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < tasks; task++)); do
    SLURM_PROCID=$task SLURM_STEP_NODELIST=$nodes "$@" &
done
trap 'kill -TERM $(jobs -pr)' TERM
wait
"""
SSH = """#!/usr/bin/env bash
echo "ssh ${*:1:4}" >>"$RECORD"
bash -c "${!#}"
"""
# Stands for the interpreter: notes how it was called. The driver runs until it is told to stop.
PYTHON = """#!/usr/bin/env bash
case "$1" in
-c) exec {real} "$@" ;;
schedules/run.py)
    trap 'echo "driver stopped" >>"$RECORD"; exit 143' TERM
    echo "driver $*" >>"$RECORD"
    until [ -z "${{DRIVER_AWAITS-}}" ] || grep -q "$DRIVER_AWAITS" "$RECORD"; do sleep 0.05; done
    for _ in $(seq "${{DRIVER_TICKS:-0}}"); do sleep 0.1; done
    exit "${{DRIVER_CODE:-0}}" ;;
*) echo "$(basename "$0") $*" >>"$RECORD" ;;
esac
"""


@pytest.fixture
def machines(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-ins on the path; returns the file in which they note what was called."""
    programs = {"scontrol": SCONTROL, "srun": SRUN, "ssh": SSH, "python-of-job": PYTHON.format(real=sys.executable)}
    for name, text in programs.items():
        write_text(tmp_path / "bin" / name, text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("PYTHON", "python-of-job")
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(repository))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return tmp_path / "record"


def calls(record: Path, program: str) -> list[str]:
    lines = record.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(program).strip() for line in lines if line.startswith(program)]


@pytest.mark.parametrize(
    "script", ["tools/on_hosts.sh", "tools/slurm/on_every_node.sh", "tools/slurm/thinkprune.sbatch"]
)
def test_the_scripts_are_bash_that_a_shell_can_read(repository, script) -> None:
    subprocess.run(["bash", "-n", repository / script], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, repository / script], check=True)


# Of sbatch's manual: option → what its value looks like.
SBATCH = {
    "job-name": r"\S+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "cpus-per-task": r"\d+",
    "mem": r"\d+[KMGT]?",
    "exclusive": r"",
    "time": r"(\d+-)?\d+(:\d{2}){0,2}",
    "requeue": r"",
    "open-mode": r"append|truncate",
    "output": r"\S+",
    "signal": r"([RB]{1,2}:)?(TERM|USR1|\d+)(@\d+)?",
}


def test_the_job_asks_slurm_for_what_sbatch_knows(repository) -> None:
    """Read as sbatch reads them: up to the first command. An unknown option, or one below it, would be lost."""
    lines = (repository / "tools/slurm/thinkprune.sbatch").read_text(encoding="utf-8").splitlines()
    first_command = next(place for place, line in enumerate(lines) if line and not line.startswith("#"))
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert asked == [line.removeprefix("#SBATCH ") for line in lines[:first_command] if line.startswith("#SBATCH ")]
    options = dict(re.fullmatch(r"--([a-z-]+)(?:=(\S+))?", line).groups(default="") for line in asked)
    assert len(options) == len(asked), "none is given twice"
    for name, value in options.items():
        assert re.fullmatch(SBATCH[name], value), (name, value)
    number = options["signal"].split(":")[1].partition("@")[0]
    assert re.search(rf"^trap stop .*\b{number}\b", "\n".join(lines), re.MULTILINE), "the job hears its own notice"
    assert options.keys() >= {"requeue", "time", "open-mode"}, "it goes on where it was"


def test_slurm_gives_every_node_its_rank_and_the_same_first_node(machines, repository, monkeypatch) -> None:
    monkeypatch.setenv("TRAIN_NODELIST", "a1,a2,a3")
    launch = ["python-of-job", "-m", "accelerate.commands.launch", "--config_file", "my file.yaml", "train.py"]
    subprocess.run(["bash", "tools/slurm/on_every_node.sh", *launch], cwd=repository, check=True)
    expected = [
        f"-m accelerate.commands.launch --machine_rank {rank} --main_process_ip a1 --main_process_port 29500 "
        "--config_file my file.yaml train.py"
        for rank in range(3)
    ]
    assert sorted(calls(machines, "python-of-job")) == expected
    assert "--nodes=3 --ntasks=3 --ntasks-per-node=1" in calls(machines, "srun")[0]


def test_ssh_does_the_same_without_a_scheduler(machines, repository, monkeypatch) -> None:
    monkeypatch.setenv("HOSTS", "here there")
    launch = ["python-of-job", "-m", "accelerate.commands.launch", "--config_file", "my file.yaml", "train.py", "a b"]
    subprocess.run(["bash", "tools/on_hosts.sh", *launch], cwd=repository, check=True)
    expected = [
        f"-m accelerate.commands.launch --machine_rank {rank} --main_process_ip here --main_process_port 29500 "
        "--config_file my file.yaml train.py a b"
        for rank in range(2)
    ]
    assert sorted(calls(machines, "python-of-job")) == expected
    assert calls(machines, "ssh") == ["-tt -o BatchMode=yes there"]


def test_one_failing_machine_ends_the_launch_with_its_code(machines, repository, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOSTS", "here there")
    program = '#!/usr/bin/env bash\n[ "$4" = 1 ] && exit 7\nexec sleep 600\n'
    write_text(tmp_path / "bin" / "python-of-job", program)
    (tmp_path / "bin" / "python-of-job").chmod(0o755)
    launch = ["python-of-job", "-m", "accelerate.commands.launch", "train.py"]
    assert subprocess.run(["bash", "tools/on_hosts.sh", *launch], cwd=repository, timeout=60).returncode == 7


@pytest.mark.parametrize("script", ["tools/on_hosts.sh", "tools/slurm/on_every_node.sh"])
def test_anything_but_an_accelerate_launch_is_refused(machines, repository, monkeypatch, script) -> None:
    monkeypatch.setenv("HOSTS", "here there")
    ended = subprocess.run(["bash", script, "python", "x.py"], cwd=repository, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "goes in front of" in ended.stderr


def start_machine(rank: int, config: Path, two: Path, host: str, port: int, *words: str) -> subprocess.Popen[str]:
    """The launch of one of two machines; `words` in front of it say where it runs."""
    command = [*words, sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(two)]
    command += ["--machine_rank", str(rank), "--main_process_ip", host, "--main_process_port", str(port)]
    command += ["trainers/grpo_len.py", "--config", str(config)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    )


def kill_machine(launch: subprocess.Popen[str]) -> None:
    """As if its power went: launcher and rank at once, without a word."""
    for process in [*psutil.Process(launch.pid).children(recursive=True), launch]:
        process.kill()
    launch.communicate()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def two(tmp_path, repository) -> Path:
    text = (repository / "configs/accelerate/cpu.yaml").read_text(encoding="utf-8")
    write_text(tmp_path / "two.yaml", text.replace("num_machines: 1", "num_machines: 2"))
    return tmp_path / "two.yaml"


@pytest.mark.slow
def test_two_machines_train_what_one_machine_trains(
    machines, repository, monkeypatch, tmp_path, two, uninterrupted
) -> None:
    """The real launcher on two machines that happen to be this one: one process on each, over the network."""
    monkeypatch.setenv("MAIN_PORT", str(free_port()))
    monkeypatch.setenv("HOSTS", "127.0.0.1 other")
    config = write_config(tmp_path / "run")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(two)]
    launch += ["trainers/grpo_len.py", "--config", str(config)]
    subprocess.run(["bash", "tools/on_hosts.sh", *launch], cwd=repository, check=True, timeout=600)
    assert calls(machines, "ssh")
    assert metrics(tmp_path / "run") == metrics(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_machine_that_is_lost_ends_the_launch_on_the_other_and_both_go_on(two, tmp_path, uninterrupted, lost):
    run = tmp_path / "run"
    config = write_config(run)
    launches = [start_machine(rank, config, two, "127.0.0.1", port) for port in [free_port()] for rank in (0, 1)]
    wait_for_step(launches[0], run, 6)
    kill_machine(launches[lost])
    output = launches[1 - lost].communicate(timeout=600)[0]
    assert launches[1 - lost].returncode != 0
    assert "another process of this launch has ended" in output
    assert not (run / ROUND / "training.json").exists()
    launches = [start_machine(rank, config, two, "127.0.0.1", port) for port in [free_port()] for rank in (0, 1)]
    assert "going on from" in finish(launches[0])
    finish(launches[1])
    assert metrics(run) == metrics(uninterrupted)
    assert weights(run) == weights(uninterrupted)


QWQ = ("configs/thinkprune/qwq_32b.yaml", "configs/accelerate/zero3_multinode.yaml")


def batch(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "tools/slurm/thinkprune.sbatch", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)


def test_a_job_with_one_node_more_serves_vllm_there(machines, repository, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,n2,n3,n4,n5")
    monkeypatch.setenv("DRIVER_AWAITS", "^python-of-job .*vllm.entrypoints")
    ended = batch(repository, *QWQ, "--seed", "3")
    assert ended.returncode == 0, ended.stderr
    assert "--nodelist=n5" in calls(machines, "srun")[0]
    served = calls(machines, "python-of-job")
    assert any("serve Qwen/QwQ-32B" in line and "--max-model-len 5024" in line for line in served)
    (driver,) = calls(machines, "driver schedules/run.py")
    assert driver.startswith(f"--config {QWQ[0]} --accelerate_config {QWQ[1]} --seed 3")
    assert driver.endswith("--vllm_server_base_url http://n5:8000 --launcher tools/slurm/on_every_node.sh")
    assert not calls(machines, "scontrol")


def test_a_job_on_one_node_needs_neither_server_nor_launcher(machines, repository, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    ended = batch(repository, "configs/thinkprune/r1_distill_qwen_1.5b.yaml", "configs/accelerate/zero2.yaml")
    assert ended.returncode == 0, ended.stderr
    (driver,) = calls(machines, "driver")
    assert "--launcher" not in driver and "--vllm_server_base_url" not in driver


def test_a_job_with_the_wrong_number_of_nodes_says_so(machines, repository, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,n2")
    ended = batch(repository, *QWQ)
    assert (ended.returncode, "the job has 2 nodes" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(1, 0, True), (1, 3, False), (2, 0, False), (0, 0, False)]
)
def test_a_failed_job_is_started_again_a_few_times(
    machines, repository, monkeypatch, code, restarts, requeued
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    monkeypatch.setenv("DRIVER_CODE", str(code))
    ended = batch(repository, "configs/thinkprune/r1_distill_qwen_1.5b.yaml", "configs/accelerate/zero2.yaml")
    assert ended.returncode == code
    assert calls(machines, "scontrol") == (["requeue 7"] if requeued else [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_time_limit_stops_the_driver_and_requeues_the_job(machines, repository, monkeypatch, number) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    monkeypatch.setenv("DRIVER_TICKS", "600")
    arguments = ["configs/thinkprune/r1_distill_qwen_1.5b.yaml", "configs/accelerate/zero2.yaml"]
    job = subprocess.Popen(["bash", "tools/slurm/thinkprune.sbatch", *arguments], cwd=repository)
    while not (machines.is_file() and calls(machines, "driver schedules/run.py")):
        time.sleep(0.05)
    job.send_signal(number)
    assert job.wait(timeout=60) == 143
    assert calls(machines, "driver stopped") and calls(machines, "scontrol") == ["requeue 7"]
