"""Work in processes of its own: order, environment, failures and the death of the parent, with real children."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
from secateur.runtime.process import each_in_its_own_process
from secateur.runtime.errors import InputError

def work(folder, name):
    if name == "bad":
        raise InputError("the model is bad")
    if name == "killed":
        os.kill(os.getpid(), 9)
    Path(folder, name).write_text(f"{os.getpid()} {os.environ['RANK']} {os.environ['CUDA_VISIBLE_DEVICES']}")
    if name == "long":
        time.sleep(600)

if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = "3"  # as claim_devices does
    each_in_its_own_process(work, [(sys.argv[1], name) for name in sys.argv[2:]])
"""


@pytest.fixture
def started(tmp_path: Path, repository: Path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")

    def start(*names: str, rank: int = 1) -> subprocess.Popen:
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), *names]
        environment = os.environ | {"PYTHONPATH": str(repository), "RANK": str(rank), "WORLD_SIZE": "2"}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def test_each_call_has_a_process_with_the_ranks_and_devices_of_its_parent(started, tmp_path: Path) -> None:
    process = started("one", "two")
    assert process.wait() == 0
    notes = [(tmp_path / name).read_text().split() for name in ("one", "two")]
    assert len({str(process.pid), *(note[0] for note in notes)}) == 3
    assert [note[1:] for note in notes] == [["1", "3"]] * 2


@pytest.mark.parametrize(("name", "code"), [("bad", 2), ("killed", 128 + signal.SIGKILL)])
def test_a_failure_ends_the_parent_with_its_exit_code(started, tmp_path: Path, name: str, code: int) -> None:
    process = started("one", name, "never", rank=0)
    said = process.communicate()[1]
    assert process.returncode == code
    assert (tmp_path / "one").exists() and not (tmp_path / "never").exists()
    if name == "bad":
        assert said.strip() == "error: the model is bad"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the parent's death is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_parent(started, tmp_path: Path, number: signal.Signals) -> None:
    process = started("long", "never")
    while not (tmp_path / "long").exists() or not (tmp_path / "long").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    child = psutil.Process(int((tmp_path / "long").read_text().split()[0]))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert psutil.wait_procs([child], timeout=60)[0], "the child goes on without its parent"
    assert not (tmp_path / "never").exists()


RANK = """
import os, sys, time
from secateur.runtime.process import end_with_launcher

print(os.getpid(), flush=True)
time.sleep(float(sys.argv[1]))  # a rank imports for seconds
end_with_launcher()
time.sleep(600)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the parent's death is Linux's")
@pytest.mark.parametrize("importing", ["0", "2"])
def test_a_rank_ends_with_its_launcher_even_if_that_ended_first(repository: Path, importing: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(repository), "TORCHELASTIC_RUN_ID": "x"}
    command = [sys.executable, "-c", LAUNCHER, RANK, importing]
    launcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    rank = psutil.Process(int(launcher.stdout.readline()))
    if importing == "0":
        time.sleep(1)  # it has long asked for the signal
    launcher.kill()
    launcher.wait()
    assert psutil.wait_procs([rank], timeout=60)[0], "the rank goes on without its launcher"
