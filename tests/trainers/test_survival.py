"""What ends a round before its time: a scheduler's SIGTERM, a full disk, a kill; the same command then goes on."""

import errno
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.runtime.errors import InputError
from secateur.runtime.process import entry_point
from tests.launches import (
    ROUND,
    finish,
    launch,
    metrics,
    ranks_of,
    training_record,
    wait_for_step,
    weights,
    write_config,
)


def checkpoint_names(run: Path) -> set[str]:
    return {path.name for path in (run / ROUND).glob("*checkpoint-*")}


@pytest.mark.slow
def test_a_schedulers_signal_ends_a_round_after_its_step_and_the_rest_is_the_same(uninterrupted, tmp_path) -> None:
    run = tmp_path / "run"
    config = write_config(run)
    process = launch(config)
    wait_for_step(process, run, 1)
    ranks = ranks_of(process)
    ranks[1].send_signal(signal.SIGUSR1)  # as Slurm sends it to the tasks of a job; only one of them hears it
    assert "exitcode  : 143" in process.communicate(timeout=600)[0]
    [saved] = checkpoint_names(run)
    assert saved in ("checkpoint-2", "checkpoint-3"), "saved out of turn"

    process = launch(config)
    wait_for_step(process, run, 5)
    process.send_signal(signal.SIGTERM)  # accelerate's launcher passes it on
    output = process.communicate(timeout=600)[0]
    assert f"going on from {run / ROUND / saved}" in output and "stopped as asked after step" in output
    assert saved not in checkpoint_names(run), "a regular one has followed"

    (run / ".stop").touch()  # as schedules/run.py asks for it
    assert "stopped as asked" in finish(launch(config))
    assert not (run / ROUND / "training.json").exists()
    (run / ".stop").unlink()
    finish(launch(config))
    assert metrics(run) == metrics(uninterrupted)
    assert weights(run) == weights(uninterrupted)
    assert training_record(run) == training_record(uninterrupted)
    assert checkpoint_names(run) == checkpoint_names(uninterrupted) == {"checkpoint-4", "checkpoint-8"}


def limit_file_size() -> None:
    """The weights fit into two megabytes, the optimiser's state does not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 7 MiB, if this user may mount one: a second checkpoint does not fit into it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield folder, mounted
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_round_with_a_message_and_costs_one_checkpoint(uninterrupted, small_disk) -> None:
    folder, mounted = small_disk
    run = folder / "run"
    config = write_config(run)
    process = launch(config, preexec_fn=None if mounted else limit_file_size)
    output = process.communicate(timeout=600)[0]
    assert process.returncode != 0
    said = [line.strip() for line in output.splitlines() if "error: disk full" in line]
    own, in_the_table = said  # one rank says it, and torchrun's table, which comes last, repeats it
    assert own.startswith("error: disk full") and in_the_table == f"traceback : {own}", output
    assert "start the same command again: nothing complete is lost" in output
    if mounted:
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    output = finish(launch(config))
    assert "saving was interrupted" in output
    assert ("going on from" in output) == mounted, "without a small disk the first save fails already"
    assert metrics(run) == metrics(uninterrupted)
    assert weights(run) == weights(uninterrupted)


@pytest.mark.slow
def test_a_schedule_that_is_killed_equals_one_left_alone(tmp_path, repository) -> None:
    command = [sys.executable, "bench/faults.py", "--commands", "schedules/run.py", "--faults", "SIGKILL"]
    command += ["--kills", "3", "--output_dir", str(tmp_path / "faults")]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "| `schedules/run.py` | equal 3 |" in ended.stdout


def run_as(rank: int, error: Exception, monkeypatch) -> int:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")

    @entry_point
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_an_error_of_all_processes_is_shown_once(monkeypatch, capsys) -> None:
    """The launcher ends the others when the main one has ended, while they wait."""

    def ended_by_launcher(seconds: float) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("secateur.runtime.process.time.sleep", ended_by_launcher)
    assert [run_as(rank, InputError("key 'a': no"), monkeypatch) for rank in (0, 1)] == [2, 143]
    assert capsys.readouterr().err == "error: key 'a': no\n"


def test_an_error_of_one_process_alone_is_shown_with_its_number(monkeypatch, capsys) -> None:
    monkeypatch.setattr("secateur.runtime.process._ALONE_AFTER_S", 0.0)
    assert run_as(1, InputError("GPU 1 is missing"), monkeypatch) == 2
    assert capsys.readouterr().err == "error (process 2 of 2): GPU 1 is missing\n"


def test_what_the_user_can_mend_needs_no_traceback_and_what_we_must_mend_keeps_it(monkeypatch, capsys) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "rounds/train.jsonl")
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = full
    assert run_as(0, wrapped, monkeypatch) == 1
    assert "disk full, or a limit of file sizes reached, while writing rounds/train.jsonl" in capsys.readouterr().err
    assert run_as(0, RuntimeError("[pair.cc:553] Connection closed by peer [::1]:5"), monkeypatch) == 1
    assert "another process of this launch has ended" in capsys.readouterr().err
    silent = "[gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 120000ms for recv operation to complete"
    assert run_as(0, RuntimeError(silent), monkeypatch) == 1
    assert "has not answered for as long as 'ddp_timeout' allows" in capsys.readouterr().err

    @entry_point
    def main() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        main()


WRITERS = {
    "text": "open(path, 'w').write('x' * 3_000_000)",
    "torch": "import torch; torch.save(torch.zeros(1_000_000), path)",
    "torch, small": "import torch; torch.save({'a': 1}, path)",
    "safetensors": "import torch, safetensors.torch as s; s.save_file({'a': torch.zeros(1_000_000)}, path)",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_that_runs_out_of_space_is_understood(tmp_path, writer) -> None:
    limit = 100 if writer == "torch, small" else 1_000_000
    code = (
        "import resource, sys; from secateur.runtime.process import is_no_space\n"
        f"path = {str(tmp_path / 'file')!r}\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"try:\n    {WRITERS[writer]}\n"
        "except Exception as error:\n    sys.exit(0 if is_no_space(error) else f'{type(error)} {error}')\n"
        "sys.exit('written in full')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
