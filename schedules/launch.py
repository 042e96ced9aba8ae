"""Child processes of the schedule: how they are started, what a signal does to them, what their end means."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from secateur.runtime.config import read_yaml
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.process import LAST_WORDS, STOP_SIGNALS, end_launch, end_with_parent

REPOSITORY = Path(__file__).resolve().parent.parent
STOPPED = 128 + signal.SIGTERM  # exit code after a clean stop
_GO_ON = "stopped; run the same command again to go on"
_AGAIN = "start the same command again: it goes on from what is on disk"
_LACK_OF_MEMORY = (
    "\n  meanwhile the kernel has killed a process of this machine for lack of memory, which itself can say nothing: "
    "--dry_run true says what the run needs and what would help"
)
# Seconds that torch's launcher leaves ranks after SIGTERM; its own 30 are less than a step of a real model.
_SHUTDOWN = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600"}


class Launcher:
    """Starts scripts on the processes of an accelerate config, one child at a time.

    launcher: words in front of every launch, which start it on all machines (Slurm: tools/slurm/on_every_node.sh).
    processes: number of processes over all machines, the accelerate config's by default.
    Raises `InputError` if several machines are wanted and nothing would start them.
    """

    def __init__(self, accelerate_config: str, launcher: str = "", processes: int | None = None) -> None:
        values = read_yaml(accelerate_config)
        self.accelerate_config, self.words, self._given = accelerate_config, shlex.split(launcher), processes
        self.machines = int(values.get("num_machines") or 1)
        self.processes = int(values.get("num_processes") or 1) if processes is None else processes
        if self.processes < 1:
            raise InputError(f"command line: --num_processes has the value {processes}; it must be at least 1")
        if self.machines > 1 and not self.words:
            raise InputError(
                f"accelerate_config {accelerate_config}: num_machines is {self.machines}, but nothing would start "
                "the other machines; pass --launcher (for Slurm: tools/slurm/on_every_node.sh; see docs/training.md)"
            )
        self.stopped = False
        self._child: subprocess.Popen[bytes] | None = None
        self._ask: Callable[[], None] | None = None

    def listen(self) -> None:
        """From now on a scheduler's signal stops the child, and us after it."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.stopped = True
        self._tell_child()

    def _tell_child(self) -> None:
        if self._ask is not None:
            self._ask()
        elif self._child is not None:
            self._child.terminate()

    def end_if_stopped(self) -> None:
        """End this process if it was asked to."""
        if self.stopped:
            say(_GO_ON)
            raise SystemExit(STOPPED)

    def command(self, script: str, arguments: Sequence[str], processes: int | None = None) -> list[str]:
        """`script` on `processes` processes (default: all). The words `python -m accelerate.commands.launch` come
        first, after the launcher's own: what starts it on other machines inserts their ranks behind them."""
        alone = self.machines == 1 and not self.words
        module = "schedules.quiet_launch" if alone else "accelerate.commands.launch"
        words = [*self.words, sys.executable, "-m", module]
        words += ["--config_file", self.accelerate_config]
        if processes or self._given:
            words += ["--num_processes", str(processes or self._given)]
        if self.machines == 1:
            words += ["--main_process_port", "0"]  # any free one: several runs may share the machine
        return [*words, str(REPOSITORY / script), *arguments]

    def run(
        self,
        command: list[str],
        *,
        done: str = "done",
        log: Path | None = None,
        ask_to_stop: Callable[[], None] | None = None,
        quiet: bool = False,
    ) -> None:
        """Run a child with our own terminal, and end with its exit code if it fails.

        ask_to_stop: what SIGTERM does instead of being passed on, for a child that ends by itself when asked.
        done: what is then said to have taken so long. quiet: say nothing of it.
        log: named in the message if the child fails. Why it ends (bad input, a full disk) a child leaves to us to
        say, below what its launchers say, and our exit code is then the child's own.
        """
        self.end_if_stopped()
        began, killed = time.monotonic(), memory_kills()
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder) / "told"
            code = self._ended(command, {} if quiet else {LAST_WORDS: str(told)}, ask_to_stop)
            said = told.read_text(encoding="utf-8").partition(" ") if told.is_file() else None
        if code in (STOPPED, -signal.SIGTERM):
            self.stopped = True
        self.end_if_stopped()
        if code != 0:
            if not quiet:
                lack = _LACK_OF_MEMORY if memory_kills() > killed else ""
                print(f"error: {said[2] if said else failure(code, command, log)}{lack}", file=sys.stderr, flush=True)
            raise SystemExit(int(said[0]) if said else code if code > 0 else 128 - code)
        if not quiet:
            say(f"  [dim]{done} in {time.monotonic() - began:.0f} s[/dim]")

    def _ended(
        self, command: list[str], environment: Mapping[str, str], ask_to_stop: Callable[[], None] | None
    ) -> int:
        """The exit code of a child; a signal to us reaches it."""
        self._ask = ask_to_stop
        variables = _SHUTDOWN | os.environ | environment
        # Out of the terminal's process group: Ctrl-C comes to us alone, and no launcher prints its traceback of it.
        self._child = subprocess.Popen(command, env=variables, preexec_fn=end_with_parent, process_group=0)
        try:
            if self.stopped:  # the signal came before there was a child to tell
                self._tell_child()
            return self._child.wait()
        except KeyboardInterrupt:
            self._interrupt(self._child)
            say(_GO_ON)
            raise SystemExit(128 + signal.SIGINT) from None
        finally:
            self._child = self._ask = None

    def _interrupt(self, child: subprocess.Popen[bytes]) -> None:
        """A child that can be asked to stop ends its step first; every other one, and each after a second Ctrl-C,
        ends at once."""
        with contextlib.suppress(KeyboardInterrupt):  # the second one, whenever it comes
            if self._ask is not None:
                say("  interrupted: the step is finished and saved first; Ctrl-C again ends at once")
                self._ask()
                child.wait()
        end_launch(child)


def memory_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for lack of memory since it started, in containers and without;
    0 where it does not count them. The launchers between us and such a process end with code 1, as for any error."""
    found = re.search(r"^oom_kill (\d+)$", counters.read_text() if counters.is_file() else "", re.MULTILINE)
    return int(found[1]) if found else 0


def failure(code: int, command: Sequence[str], log: Path | None) -> str:
    """What went wrong, as far as an exit code tells, and where to look.

    >>> print(failure(-9, ["python", "x.py"], None))
    ended by SIGKILL (often out of memory): python x.py
      start the same command again: it goes on from what is on disk
    """
    number = -code if code < 0 else code - 128
    ended = f"ended by {signal.Signals(number).name}" if number in set(signal.Signals) else f"exit code {code} from"
    memory = " (often out of memory)" if number == signal.SIGKILL else ""
    look = f"\n  its own messages are above; how far it came: {log}" if log is not None and log.exists() else ""
    return f"{ended}{memory}: {shlex.join(command)}{look}" + ("" if code == 2 else f"\n  {_AGAIN}")
