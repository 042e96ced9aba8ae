"""Child processes that do not outlive who started them. Linux only; elsewhere they go on."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Set by the two launchers of `accelerate launch` (several processes, one process).
_LAUNCHED = {"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"}
_LAUNCHERS = (b"accelerate", b"torchrun", b"torch.distributed", b"deepspeed")


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent has ended, even by SIGKILL; a `preexec_fn` for
    `Popen`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end_with_launcher() -> None:
    """In a process that `accelerate launch` has started: end with the launcher, at once if it has ended already.
    Orphans would go on, beside those of a restart, or wait for each other for ever."""
    if _LAUNCHED & os.environ.keys():
        end_with_parent()
        if _is_orphan():  # the launcher ended while this process was importing
            raise SystemExit(128 + signal.SIGTERM)


def _is_orphan() -> bool:
    """Whether the machine's first process has taken this one over; in a container the launcher may be that one."""
    if sys.platform != "linux" or os.getppid() != 1:
        return False
    first = Path("/proc/1/cmdline").read_bytes()
    return not any(name in first for name in _LAUNCHERS)


def each_in_its_own_process(work: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
    """`work(*call)` for one call after another, each in a fresh process with this one's environment: whatever a
    library keeps (GPU memory, a process group) goes with it.

    `work` is a function of a module and all arguments can be pickled. A child that fails has said why; this process
    then ends with its exit code and the remaining calls are not made. A child ends with this process.
    """
    for call in calls:
        child = multiprocessing.get_context("spawn").Process(target=_work_alone, args=(work, call))
        child.start()
        try:
            child.join()
        except BaseException:
            child.terminate()
            child.join()
            raise
        if child.exitcode:
            raise SystemExit(child.exitcode if child.exitcode > 0 else 128 - child.exitcode)


def _work_alone(work: Callable[..., None], call: tuple[Any, ...]) -> None:
    from secateur.runtime.errors import entry_point  # which needs this module

    end_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it ended while this process was being set up
        raise SystemExit(128 + signal.SIGTERM)
    entry_point(lambda: work(*call))()
