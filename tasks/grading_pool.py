"""A pool of worker processes that compare answers under a hard time limit per comparison."""

import atexit
import json
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence

START_LIMIT_S = 120.0  # sympy takes seconds to import on a busy machine; not part of an answer's limit


class _Worker:
    """One child process; at most one comparison under way."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tasks.grading_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.item: int | None = None
        self.ready = False
        self.deadline = time.monotonic() + START_LIMIT_S

    def send(self, item: int, pair: tuple[str, str], limit_s: float) -> None:
        assert self.process.stdin is not None
        self.item, self.deadline = item, time.monotonic() + limit_s
        self.process.stdin.write(json.dumps(pair).encode() + b"\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class GradingPool:
    """Compares pairs of answers in worker processes.

    A worker that exceeds `limit_s` [s] on one pair, or dies, is killed and replaced: its pair counts as unequal, the
    others are untouched and the order of the results is the order of the pairs.
    """

    def __init__(self, workers: int | None = None, limit_s: float = 1.0) -> None:
        self.size = workers or min(4, os.cpu_count() or 1)
        self.limit_s = limit_s
        self._workers: list[_Worker] = []
        atexit.register(self.close)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Equality of every pair, in order."""
        results = [False] * len(pairs)
        waiting = deque(range(len(pairs)))
        while waiting or any(worker.item is not None for worker in self._workers):
            self._fill(min(self.size, len(pairs)))
            for worker in self._workers:
                if worker.ready and worker.item is None and waiting:
                    item = waiting.popleft()
                    worker.send(item, pairs[item], self.limit_s)
            self._collect(results)
        return results

    def close(self) -> None:
        while self._workers:
            self._workers.pop().stop()

    def _fill(self, wanted: int) -> None:
        while len(self._workers) < wanted:
            self._workers.append(_Worker())

    def _collect(self, results: list[bool]) -> None:
        """Wait for the next answer or deadline; take what came, replace what hangs or died."""
        busy = [worker for worker in self._workers if worker.item is not None or not worker.ready]
        timeout = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        pipes = {worker.process.stdout: worker for worker in busy}
        for pipe in select.select(list(pipes), [], [], timeout)[0]:
            self._take(pipes[pipe], results)
        for worker in busy:
            if worker in self._workers and self._is_late(worker):
                self._replace(worker)

    def _take(self, worker: _Worker, results: list[bool]) -> None:
        assert worker.process.stdout is not None
        line = worker.process.stdout.readline()
        if not line:
            self._replace(worker)
        elif not worker.ready:
            worker.ready = True
        else:
            assert worker.item is not None
            results[worker.item], worker.item = json.loads(line), None

    def _is_late(self, worker: _Worker) -> bool:
        return (worker.item is not None or not worker.ready) and time.monotonic() >= worker.deadline

    def _replace(self, worker: _Worker) -> None:
        """Remove a hanging or dead worker; `_fill` starts the next one. One that never became ready is an error."""
        self._workers.remove(worker)
        worker.stop()
        if not worker.ready:
            raise RuntimeError(
                f"an answer-grading worker did not start within {START_LIMIT_S:.0f} s; "
                "try `python -m tasks.grading_worker` by hand to see why"
            )
