"""Starts of the commands that bench/faults.py disturbs: signals into them, and the file systems they write to."""

import contextlib
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bench.fault_commands import REPOSITORY, Command, snapshot
from secateur.runtime.process import end_with_parent

MOUNTS = Path("/proc/mounts").is_file()
POLL_S = 0.02
PATIENCE_S = 900.0
Ended = tuple[int, str]
"""Exit code and output of a start."""


_CONTEXT = multiprocessing.get_context("forkserver")


def load_libraries(commands: Sequence[Command]) -> None:
    """What they import is loaded once; to be called before the first start."""
    scripts = dict.fromkeys(command.script for command in commands if not command.launched)
    _CONTEXT.set_forkserver_preload([script.removesuffix(".py").replace("/", ".") for script in scripts])


class Forked:
    """A command in a fork of a process that has loaded the libraries: a start takes one second instead of six."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self._process = _CONTEXT.Process(target=_run_script, args=(list(argv[1:]), str(log)))
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0


def _run_script(argv: list[str], log: str) -> None:
    with open(log, "ab") as handle:
        for number in (1, 2):
            os.dup2(handle.fileno(), number)
    os.chdir(REPOSITORY)
    _as_from_a_terminal()
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


class Start:
    """One start of a command, and how often its folder has been seen to change since. What launches processes of its
    own begins as a user begins it."""

    def __init__(self, argv: Sequence[str], run: Path, launched: bool = False) -> None:
        self.changes, self._run, self._seen = 0, run, snapshot(run)
        self._given_up = False
        self._log = run.with_name(f"{run.name}-{time.monotonic_ns()}.log")
        self.process = _popen(argv, self._log) if launched else Forked(argv, self._log)

    def wait(self, changes: float = float("inf")) -> bool:
        """Until the folder has changed so often; False if the command ended before."""
        due = time.monotonic() + PATIENCE_S
        while self.changes < changes:
            if self.process.poll() is not None:
                return False
            if time.monotonic() > due:
                self._given_up = True
                self.hit(signal.SIGKILL, everybody=True)
                return False
            time.sleep(POLL_S)
            now = snapshot(self._run)
            self.changes, self._seen = self.changes + (now != self._seen), now
        return True

    def family(self) -> list[psutil.Process]:
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def hit(self, number: signal.Signals, everybody: bool = False, one: random.Random | None = None) -> None:
        """Send the signal to the command; to a process that `one` draws, or to all of it."""
        family = self.family()
        chosen = family if everybody else [one.choice(family)] if one and family else family[:1]
        for process in chosen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(family, timeout=PATIENCE_S / 5)

    def ended(self) -> Ended:
        """Wait for the end. Raises `RuntimeError` for a command that does not come to one."""
        self.wait()
        code = self.process.wait()
        if self._given_up:
            raise RuntimeError(f"killed after {PATIENCE_S} seconds, see {self._log}; on a busy machine start again")
        return code, self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""


def _popen(argv: Sequence[str], path: Path) -> "subprocess.Popen[bytes]":
    with open(path, "wb") as log:
        return subprocess.Popen(argv, cwd=REPOSITORY, stdout=log, stderr=log, preexec_fn=_as_from_a_terminal)


def _as_from_a_terminal() -> None:
    """A shell's background job ignores interrupts, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[bool]:
    """Whether it could be mounted."""
    there = subprocess.run(["mount", *options, str(place)], capture_output=True).returncode == 0
    try:
        yield there
    finally:
        unmount(place)


def unmount(place: Path) -> None:
    """Whatever is mounted there; a bind mount of a folder on itself is no mount point to `os.path.ismount`."""
    names = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()] if MOUNTS else []
    for _ in range(names.count(str(place))):
        subprocess.run(["umount", str(place)], check=True)


@contextlib.contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """A process and all below it, stopped for a while."""
    family = [found := psutil.Process(pid), *found.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
