"""How processes begin and end: commands whose errors are one line, children that do not outlive who started them.

That children end holds on Linux only; elsewhere they go on. Which process this is, is read from the launcher's
environment: the only place that knows rank numbers.
"""

import contextlib
import ctypes
import errno
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import psutil

from secateur.runtime.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """`rank` of `world_size` processes, as `accelerate launch` exports them (0 of 1 without a launcher)."""

    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def note(self) -> str:
        """What to put behind a count that covers this process's share only; empty where there is one process."""
        return f" (process {self.rank + 1} of {self.world_size})" if self.world_size > 1 else ""

    def shard(self, items: Sequence[T]) -> list[T]:
        """Every `world_size`-th item, so that neighbours of similar cost spread over the processes."""
        return list(items[self.rank :: self.world_size])


def current_ranks() -> Ranks:
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def claim_gpus(per_process: int) -> None:
    """Leave this process only its own `per_process` GPUs of those on this machine, for a library that always takes
    the first ones it sees. To be called once, before anything asks for a GPU; one process keeps them all."""
    if current_ranks().world_size == 1:
        return
    first = int(os.environ.get("LOCAL_RANK", "0")) * per_process
    wanted = range(first, first + per_process)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(index) for index in range(wanted.stop)]
    if wanted.stop > len(devices):
        raise InputError(
            f"process {os.environ.get('LOCAL_RANK')} on this machine wants the GPUs {list(wanted)}, but only "
            f"{len(devices)} are visible (CUDA_VISIBLE_DEVICES={visible}); start fewer processes (--num_processes)"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[index] for index in wanted)


Ts = TypeVarTuple("Ts")
LAST_WORDS = "SECATEUR_LAST_WORDS"
"""Environment variable: the file in which who started a launch wants to find why it ended: exit code and words."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What a scheduler may send before it takes a machine away: a run then ends saved, with the exit code of SIGTERM."""
_ALONE_AFTER_S = 5.0
_ENDING_S = 30.0  # that a process has to end when it is told to
_NO_ACCESS_CODES = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),
}
_NO_SPACE_CODES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# safetensors and torch report a failed write as text; torch's archive writer only notices a wrong position
_NO_SPACE_TEXTS = (
    *("No space left", "quota exceeded", "File too large"),
    *("PytorchStreamWriter", ". unexpected pos ", "iostream error"),
)
# gloo's and NCCL's words where a process, or the link to its machine, has gone silent for `ddp_timeout`
_SILENT_TEXTS = ("Timed out waiting", "timed out in blocking wait", "Watchdog caught collective operation timeout")
_PEER_TEXTS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
# Set by the two launchers of `accelerate launch` (several processes, one process).
_LAUNCHED = {"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"}
_LAUNCHERS = (b"accelerate", b"torchrun", b"torch.distributed", b"deepspeed")


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning for who runs a command and has no use for the place in the source."""
    return f"warning: {message}\n"


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a `main()` so that an error that the user can mend ends the process with its message and no traceback.

    Exit codes: 2 for an `InputError` and for a file or folder that may not be used (`is_no_access`), 130 for Ctrl-C,
    1 for a full disk and for the end of another process of the launch. In a launch of several processes an error is
    shown once: by the main one, or by who has set `LAST_WORDS` and is told the words. torchrun is told them too, to
    repeat them below its traceback. A launcher that dies takes its processes with it.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        warnings.formatwarning = _warning_line
        end_with_launcher()
        try:
            main()
        except InputError as error:
            _leave(str(error), 2)
        except KeyboardInterrupt:
            _leave("interrupted; the same command goes on from what is on disk", 128 + signal.SIGINT)
        except Exception as error:
            message = _explain(error)
            if message is None:
                raise
            _leave(message, 2 if is_no_access(error) else 1)

    return wrapped


def _leave(message: str, code: int) -> None:
    """Processes usually fail alike: the others give the main one time to say it and the launcher to end them."""
    ranks = current_ranks()
    if not ranks.is_main:
        time.sleep(_ALONE_AFTER_S)
    if ranks.is_main or not has_told():
        if not (ranks.is_main and _tell_schedule(message, code)):
            print(f"error{ranks.note if not ranks.is_main else ''}: {message}", file=sys.stderr, flush=True)
        _tell_torchrun(message)
    raise SystemExit(code) from None


def has_told() -> bool:
    """Whether the main process of this launch has left its `LAST_WORDS`."""
    return LAST_WORDS in os.environ and Path(os.environ[LAST_WORDS]).is_file()


def _tell_schedule(message: str, code: int) -> bool:
    """Leave code and words to who has asked for them, and says them once all has ended. accelerate itself ends with
    code 1, whatever its processes ended with."""
    if code not in (1, 2) or LAST_WORDS not in os.environ:
        return False
    try:
        Path(os.environ[LAST_WORDS]).write_text(f"{code} {message}", encoding="utf-8", errors="replace")
    except OSError:  # that was asked for on another machine
        return False
    return True


def _tell_torchrun(message: str) -> None:
    if table := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # what torchrun shows last
        told = {"message": {"message": f"error: {message}", "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(table).write_text(json.dumps(told), encoding="utf-8")


def _explain(error: BaseException) -> str | None:
    """What the user can do about it, None if the error is ours."""
    for cause in _causes(error):
        if is_no_space(cause):
            name = getattr(cause, "filename", None) or "a file"
            return (
                f"disk full, or a limit of file sizes reached, while writing {name} ({cause}); free space and start "
                "the same command again: nothing complete is lost"
            )
    if (cause := _no_access(error)) is not None:
        return f"{cause.filename or 'a file'}: {cause.strerror}; give another path, or mend its rights"
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _PEER_TEXTS):
        return (
            "another process of this launch has ended; see its message, then start the same command again. Without a "
            "message it was killed, often for lack of memory"
        )
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _SILENT_TEXTS):
        return (
            "another process of this launch has not answered for as long as 'ddp_timeout' allows: its machine hangs, "
            "or the link to it is down; end what is left of the launch there, then start the same command again"
        )
    return None


def is_no_space(error: BaseException) -> bool:
    """Whether a write failed for want of space, as the standard library, torch or safetensors say it."""
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE_CODES
    return any(text in str(error) for text in _NO_SPACE_TEXTS)


def is_alive(process: int) -> bool:
    """Whether there is a process with this id on this machine, whoever's it is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_no_access(error: BaseException) -> bool:
    """Whether a file or folder may not be used as it was: a read-only disk, also where another error came of it; no
    rights to a named one, a file in a folder's place, a name too long."""
    return _no_access(error) is not None


def _no_access(error: BaseException) -> OSError | None:
    if isinstance(error, OSError) and error.filename is not None and error.errno in _NO_ACCESS_CODES:
        return error
    disks = (cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno == errno.EROFS)
    return next(disks, None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent has ended, even by SIGKILL; a `preexec_fn` for
    `Popen`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end_launch(launcher: subprocess.Popen[bytes]) -> None:
    """End a launcher, unless it has ended, and then its processes: told to end them itself it prints tracebacks."""
    if launcher.poll() is not None:
        return
    started = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    launcher.wait()
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(started, timeout=_ENDING_S)[1]:
        process.kill()


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


def return_memory_early() -> None:
    """Give blocks of a MiB and more back to the system when they are freed. glibc learns to keep up to 32 MiB each,
    and a training step, whose tensors differ in size from step to step, leaves gaps between them: two processes of a
    135M model held 7.4 GiB so and 6.3 GiB without, in the same time. Not for what generates as well: there it costs a
    fifth of the time. Elsewhere than with glibc it does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**25)


def return_freed_memory() -> None:
    """Give all that is free back to the system, pages amid the heap too. A cheap call between two pieces of work of a
    process that generates and trains, where `return_memory_early` costs too much; without glibc it does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def each_in_its_own_process(work: Callable[[*Ts], None], calls: Iterable[tuple[*Ts]]) -> None:
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


def _work_alone(work: Callable[[*Ts], None], call: tuple[*Ts]) -> None:
    end_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it ended while this process was being set up
        raise SystemExit(128 + signal.SIGTERM)
    entry_point(lambda: work(*call))()
