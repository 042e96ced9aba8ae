"""Stages of a longer run as child processes: shown, logged, timed, and passed over when they were done before."""

import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psutil
from rich.markup import escape

from secateur.runtime.console import console
from secateur.runtime.files import read_json, write_json
from secateur.runtime.process import end_with_parent

REPOSITORY = Path(__file__).resolve().parent.parent
_CHILD = {
    "PYTHONUNBUFFERED": "1",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
_MEMORY_INTERVAL_S = 1.0
_WATCH_SHARE = 0.02  # of the time (fraction 0-1) that goes into looking at memory: a look at 10 GiB takes .1 s


@dataclass(frozen=True)
class Stage:
    """Commands that run side by side, by name; done when all of them ended well."""

    name: str
    title: str
    commands: dict[str, list[str]]


def python(script: str, *arguments: str) -> list[str]:
    """A command that runs one of our scripts in this interpreter."""
    return [sys.executable, script, *arguments]


def launched(accelerate_config: str, script: str, *arguments: str) -> list[str]:
    """A command that runs one of our scripts on every process that the launch config names."""
    # Port 0 takes any free one: several runs may share the machine.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", accelerate_config]
    return [*launcher, "--main_process_port", "0", script, *arguments]


class StageRunner:
    """Runs stages in order and keeps `<folder>/stages/<name>.json` (what ran, its cost) and `<name>.log` of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "stages"
        self._began = time.monotonic()

    def is_done(self, stage: Stage) -> bool:
        path = self.folder / f"{stage.name}.json"
        return path.is_file() and read_json(path)["commands"] == stage.commands

    def wall_seconds(self, stages: Sequence[Stage]) -> dict[str, float]:
        """Wall time [s] of each of these stages, over all runs that had a part in it."""
        return {stage.name: read_json(self.folder / f"{stage.name}.json")["wall_s"] for stage in stages}

    def peak_memory(self, stages: Sequence[Stage]) -> float:
        """The most memory [GiB] that the processes of one of these stages held at once."""
        return max(read_json(self.folder / f"{stage.name}.json")["peak_memory_gib"] for stage in stages)

    def run(self, stage: Stage, place: str) -> None:
        """Run one stage. When a command fails, name its log and end this process with its exit code."""
        elapsed = f"[dim]{_clock(time.monotonic() - self._began)} since the start[/dim]"
        console.print(f"\n[bold green]{place}[/bold green] [bold]{escape(stage.title)}[/bold]  {elapsed}")
        self.folder.mkdir(parents=True, exist_ok=True)
        began, cpu_began = time.monotonic(), _children_cpu_seconds()
        wall_before, cpu_before = self._spent_before(stage, "wall_s"), self._spent_before(stage, "cpu_s")
        codes, peak = self._run_commands(stage)
        failed = {name: code for name, code in codes.items() if code != 0}
        record = {
            "commands": None if failed else stage.commands,
            "wall_s": round(wall_before + time.monotonic() - began, 1),
            "cpu_s": round(cpu_before + _children_cpu_seconds() - cpu_began, 1),
            "peak_memory_gib": round(peak, 2),
        }
        write_json(self.folder / f"{stage.name}.json", record)
        for name, code in failed.items():
            print(
                f"error: {stage.title}: exit code {code}; log: {self._log(stage, name)}", file=sys.stderr, flush=True
            )
            raise SystemExit(code if code > 0 else 128 - code)

    def _run_commands(self, stage: Stage) -> tuple[dict[str, int], float]:
        """Exit code of each command, and the most memory [GiB] that all of them held at once."""
        prefix = len(stage.commands) > 1
        children: list[_Child] = []
        try:
            with _MemoryWatch() as memory:
                for name, command in stage.commands.items():
                    children.append(_Child(f"{name}: " if prefix else "", command, self._log(stage, name)))
                    children[-1].start()
                codes = [child.wait() for child in children]
        finally:
            for child in children:
                child.stop()
        return dict(zip(stage.commands, codes, strict=True)), memory.peak_gib

    def _log(self, stage: Stage, name: str) -> Path:
        return self.folder / (f"{stage.name}.log" if len(stage.commands) == 1 else f"{stage.name}-{name}.log")

    def _spent_before(self, stage: Stage, key: str) -> float:
        """Time [s] of former runs in the same folder: one that did not end well, or one with fewer models."""
        path = self.folder / f"{stage.name}.json"
        return read_json(path)[key] if path.is_file() else 0.0


class _Child:
    """One running command; its output goes to the terminal and to its log."""

    def __init__(self, prefix: str, command: list[str], log: Path) -> None:
        self._prefix, self._command, self._log = prefix, command, log
        self._process: subprocess.Popen[str] | None = None
        self._shown = True

    def start(self) -> None:
        """Apart from the constructor, so that a signal that comes as soon as the child runs finds it to be ended."""
        self._process = subprocess.Popen(
            self._command,
            cwd=REPOSITORY,
            env={"OMP_NUM_THREADS": "1"} | os.environ | _CHILD,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,  # Ctrl-C comes to us alone
            preexec_fn=end_with_parent,
        )
        self._reader = threading.Thread(target=self._copy_output, daemon=True)
        self._reader.start()

    def _copy_output(self) -> None:
        with open(self._log, "a", encoding="utf-8") as handle:
            handle.write(f"$ {shlex.join(self._command)}\n")
            for line in self._process.stdout:
                handle.write(line)
                handle.flush()
                if self._shown:
                    console.print(f"  {self._prefix}{line.rstrip()}", markup=False)

    def wait(self) -> int:
        code = self._process.wait()
        self._reader.join()
        return code

    def stop(self) -> None:
        """What it has to say of that, a launcher's tracebacks too, goes to its log alone."""
        self._shown = False
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


class _MemoryWatch:
    """Watches what all processes below this one hold together; shared pages count once where the system can tell."""

    def __init__(self) -> None:
        self.peak_gib = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = _MEMORY_INTERVAL_S
        while not self._done.wait(pause):
            began = time.monotonic()
            held = sum(_held_bytes(process) for process in psutil.Process().children(recursive=True))
            self.peak_gib = max(self.peak_gib, held / 2**30)
            pause = max(_MEMORY_INTERVAL_S, (time.monotonic() - began) / _WATCH_SHARE)


def _held_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it ended meanwhile
        return 0
    return getattr(memory, "pss", memory.rss)


def _children_cpu_seconds() -> float:
    """Processor time [s] of all children that have ended, theirs included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def end_children_on_signals() -> None:
    """Let SIGTERM unwind this process, so that it ends its children."""
    signal.signal(signal.SIGTERM, _unwind)


def _unwind(signum: int, _: object) -> NoReturn:
    raise SystemExit(128 + signum)
