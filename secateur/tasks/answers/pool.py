"""A pool of worker processes that read answers under a hard limit per answer."""

import atexit
import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import psutil

from secateur.tasks.answers.record import Reading, unread
from secateur.tasks.answers.text import normalise

START_LIMIT_S = 120.0  # [processor time] for the workers to start, which imports sympy; not part of an answer's limit
START_LOOK_S = 120.0  # [wall time] between looks at whether a start goes on: a busy machine may starve it for long
WALL_FACTOR = 10.0  # the limit counts processor time; a worker that the machine starves is given up after this many
MAX_WORKERS = 16


@dataclass
class _Worker:
    """The pool's ends of the pipes of one worker; at most one answer under way."""

    requests: BinaryIO
    replies: BinaryIO
    process: int | None = None  # known once it is ready
    item: int | None = None
    serial: int = 0  # of the request; a reply to an older one is not for the item
    deadline: float = field(default_factory=lambda: time.monotonic() + START_LOOK_S)

    @property
    def waited_for(self) -> bool:
        return self.item is not None or self.process is None

    def send(self, item: int, answer: str, wall_s: float) -> None:
        self.item, self.serial, self.deadline = item, self.serial + 1, time.monotonic() + wall_s
        with contextlib.suppress(BrokenPipeError):  # it died; the pool reads that from the other pipe
            self.requests.write(json.dumps([self.serial, answer]).encode() + b"\n")


def default_size() -> int:
    """A worker per core that this process may use, shared with the other training processes of the machine."""
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class GradingPool:
    """Reads answers in worker processes.

    An answer that takes more than `limit_s` [s, processor time of its worker, so that a busy machine changes no
    verdict] or more memory than `worker.MEMORY_LIMIT_BYTES`, or kills its worker in any other way, is
    unreadable: equal to nothing but its own text. Its worker is replaced; the others are untouched and the order of
    the results is the order of the answers. Workers start with the first answer and end with this process, however
    that ends.
    """

    def __init__(self, workers: int | None = None, limit_s: float = 1.0) -> None:
        self.size = workers or default_size()
        self.limit_s = limit_s
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._workers: list[_Worker] = []
        self._start_s = 0.0  # processor time that the start had used at the last look
        self._spent_s = 0.0  # processor time of the answers that are being read
        atexit.register(self.close)

    def read(self, answers: Sequence[str]) -> list[Reading]:
        """The reading of every answer, in order."""
        return [reading for reading in self.read_within(answers, math.inf) if reading is not None]

    def read_within(self, answers: Sequence[str], budget_s: float) -> list[Reading | None]:
        """The reading of every answer, in order, until they have used `budget_s` [s, processor time of all workers]
        together; None for those whose turn never came. One that its worker did not survive counts as `limit_s`."""
        with self._lock:
            if self._owner != os.getpid():  # a forked copy must not talk through its parent's pipes
                self._owner, self._supervisor, self._workers = os.getpid(), None, []
            return self._read(answers, budget_s)

    def _read(self, answers: Sequence[str], budget_s: float) -> list[Reading | None]:
        readings: list[Reading | None] = [None] * len(answers)
        waiting = deque(range(len(answers)))
        self._spent_s = 0.0
        while waiting or any(worker.item is not None for worker in self._workers):
            if self._supervisor is None:
                self._start()
            self._collect(readings, wait=False)  # a worker may have died since it was last busy
            for worker in self._workers:
                if worker.process is not None and worker.item is None and waiting:
                    item = waiting.popleft()
                    readings[item] = unread(
                        normalise(answers[item]), f"reading it takes more than {self.limit_s:g} s"
                    )
                    worker.send(item, answers[item], WALL_FACTOR * self.limit_s)
            self._collect(readings)
            if self._spent_s >= budget_s:
                waiting.clear()
        return readings

    def close(self) -> None:
        """End the workers; the next answer would start others."""
        if self._supervisor is None or self._owner != os.getpid():
            return
        for worker in self._workers:
            worker.requests.close()
            worker.replies.close()
        for worker in self._workers:
            _kill(worker)
        self._supervisor.kill()
        self._supervisor.wait()
        self._supervisor, self._workers = None, []

    def _start(self) -> None:
        ours, theirs = [], []
        for _ in range(self.size):
            request_out, request_in = os.pipe()
            reply_out, reply_in = os.pipe()
            ours.append((request_in, reply_out))
            theirs += [request_out, reply_in]
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "secateur.tasks.answers.worker", f"{self.limit_s:g}", *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=theirs,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for number in theirs:
            os.close(number)
        self._start_s = 0.0
        self._workers = [_Worker(os.fdopen(write, "wb", 0), os.fdopen(read, "rb", 0)) for write, read in ours]

    def _collect(self, readings: list[Reading | None], wait: bool = True) -> None:
        """Wait for the next reply or deadline; take what came, kill what hangs."""
        deadlines = [worker.deadline for worker in self._workers if worker.waited_for]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if wait and deadlines else 0.0
        pipes = {worker.replies: worker for worker in self._workers}
        for pipe in select.select(list(pipes), [], [], timeout)[0]:
            line = pipe.readline()
            if not line:
                return self._supervisor_died()
            self._take(pipes[pipe], line, readings)
        for worker in self._workers:
            if worker.waited_for and time.monotonic() >= worker.deadline:
                self._give_up(worker)

    def _take(self, worker: _Worker, line: bytes, readings: list[Reading | None]) -> None:
        """A reading, or the process number of a fresh worker, or null: the worker died, perhaps within a line."""
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if isinstance(reply, int):
            worker.process = reply
        elif reply is None:
            self._spent_s += self.limit_s if worker.item is not None else 0.0
            worker.process, worker.item, worker.deadline = None, None, time.monotonic() + START_LOOK_S
        elif reply[0] == worker.serial and worker.item is not None:
            readings[worker.item] = Reading.of_json(reply[1])
            self._spent_s += reply[2]
            worker.item = None

    def _give_up(self, worker: _Worker) -> None:
        if worker.process is None:
            if self._start_goes_on():
                for starting in (one for one in self._workers if one.process is None):
                    starting.deadline = time.monotonic() + START_LOOK_S
                return
            self.close()
            raise RuntimeError(
                f"an answer-grading worker did not start within {START_LIMIT_S:.0f} s of processor time, or stands; "
                "try `python -c 'import secateur.tasks.answers.algebra'` by hand to see why"
            )
        _kill(worker)
        worker.deadline = time.monotonic() + START_LOOK_S  # its supervisor reports the death and starts another

    def _start_goes_on(self) -> bool:
        """Whether the starting processes have used some time since the last look, and not too much altogether."""
        before, self._start_s = self._start_s, _processor_s(self._supervisor.pid) if self._supervisor else 0.0
        return before < self._start_s < START_LIMIT_S

    def _supervisor_died(self) -> None:
        """All workers are gone; what they had under way stays unreadable, the rest goes to new ones."""
        ready = any(worker.process is not None for worker in self._workers)
        self.close()
        if not ready:
            raise RuntimeError(
                "the answer-grading workers end before they are ready; "
                "try `python -c 'import secateur.tasks.answers.algebra'` by hand to see why"
            )


def _processor_s(process: int) -> float:
    """Processor time of a process and its children."""
    used = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process)
        for one in (family, *family.children()):
            used += sum(one.cpu_times()[:2])
    return used


def _kill(worker: _Worker) -> None:
    if worker.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.process, signal.SIGKILL)
