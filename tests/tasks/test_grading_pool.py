"""The worker processes: limits, deaths and order, with real answers that hang."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import secateur.tasks.answers.pool
from secateur.tasks.answers.algebra import algebra
from secateur.tasks.answers.pool import GradingPool
from secateur.tasks.answers.reading import read_answer
from secateur.tasks.answers.worker import MEMORY_LIMIT_BYTES

HANGING = "\\int \\int e^{x^{x}} \\sin(x^{x}) \\cos(e^{x}) dx"
FORMULAS = ["\\sqrt{8}", "2\\sqrt{2}", "x+x", "2x"]


@pytest.fixture
def pool() -> Iterator[GradingPool]:
    made = GradingPool(workers=2, limit_s=0.5)
    yield made
    made.close()


def test_a_hanging_answer_is_unreadable_and_its_neighbours_are_untouched(pool: GradingPool) -> None:
    readings = pool.read([FORMULAS[0], HANGING, *FORMULAS[1:3], HANGING + " + 1", FORMULAS[3]])
    assert [reading.problem is not None for reading in readings] == [False, True, False, False, True, False]
    assert "more than 0.5 s" in (readings[1].problem or "")
    assert readings[0].key == readings[2].key != readings[3].key == readings[5].key


def test_a_budget_bounds_all_answers_together_and_leaves_the_rest_unread(pool: GradingPool) -> None:
    """Each hostile answer costs its limit of 0.5 s, whatever ended its worker; two may be under way at the end."""
    hostile = [f"{HANGING} + {number}" for number in range(20)]
    readings = pool.read_within(["2x", *hostile], budget_s=1.0)
    begun = [reading for reading in readings if reading is not None]
    assert readings[: len(begun)] == begun and 3 <= len(begun) <= 5
    assert [reading.problem is None for reading in begun] == [True] + [False] * (len(begun) - 1)
    assert None not in pool.read_within(FORMULAS, budget_s=1.0), "each call has its own"


def test_a_slow_start_is_waited_for(pool: GradingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall-clock looks are many here; only a start that stands still, or computes for too long, is given up."""
    monkeypatch.setattr(secateur.tasks.answers.pool, "START_LOOK_S", 0.3)
    assert [reading.problem for reading in pool.read(FORMULAS)] == [None] * 4


def test_a_start_that_stands_still_is_given_up(pool: GradingPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secateur.tasks.answers.pool, "START_LOOK_S", 0.5)
    pool._start()
    os.kill(pool._supervisor.pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match="did not start within"):
        pool.read(FORMULAS)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_order_is_kept(pool: GradingPool) -> None:
    pool.read(FORMULAS[:1])
    before = [worker.process for worker in pool._workers]
    for process in before:
        os.kill(process or 0, signal.SIGKILL)
    time.sleep(1.0)
    many = [f"{n}x+1" for n in range(40)]
    assert [reading.problem for reading in pool.read(many)] == [None] * 40  # they died idle: nothing was lost
    thread = threading.Thread(target=lambda: [_kill_one(pool) for _ in range(5)])
    thread.start()
    readings = pool.read(many * 3)
    thread.join()
    expected = [read_answer(answer, algebra()).key for answer in many] * 3
    right = [reading.key == key for reading, key in zip(readings, expected, strict=True)]
    assert all(ok or reading.problem for ok, reading in zip(right, readings, strict=True))  # lost, never mixed up
    assert right.count(False) <= 5
    assert not set(before) & {worker.process for worker in pool._workers}


@pytest.mark.slow
def test_all_start_anew_when_the_supervisor_is_killed(pool: GradingPool) -> None:
    pool.read(FORMULAS)
    assert pool._supervisor is not None
    workers = psutil.Process(pool._supervisor.pid).children()
    pool._supervisor.kill()
    pool._supervisor.wait()
    assert not psutil.wait_procs(workers, timeout=30)[1], "they die with it"
    pool.read(FORMULAS)  # may lose the answers under way
    assert [reading.problem for reading in pool.read(FORMULAS)] == [None] * 4


@pytest.mark.slow
def test_threads_share_a_pool(pool: GradingPool) -> None:
    found: dict[int, list[str]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: [r.key for r in pool.read([f"{n}x", f"{n}x+1"])]}))
        for n in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key for keys in found.values() for key in keys}) == 8


@pytest.mark.slow
def test_a_forked_process_uses_workers_of_its_own(pool: GradingPool) -> None:
    expected = [reading.key for reading in pool.read(FORMULAS)]
    child = os.fork()
    if child == 0:
        same = [reading.key for reading in pool.read(FORMULAS)] == expected
        pool.close()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [reading.key for reading in pool.read(FORMULAS)] == expected


def test_the_memory_of_a_worker_is_limited(pool: GradingPool) -> None:
    pool.read(FORMULAS)
    for worker in pool._workers:
        limits = Path(f"/proc/{worker.process}/limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max address space"))
        assert line.split()[3] == str(MEMORY_LIMIT_BYTES)


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_workers_die_with_their_process_even_if_it_is_killed(repository: Path, busy: bool) -> None:
    """Killed with SIGKILL, idle or with every worker in an answer that hangs; the limit here is a minute."""
    code = (
        "import os, signal, threading, time\n"
        "from secateur.tasks.answers.pool import GradingPool\n"
        "pool = GradingPool(workers=2, limit_s=60)\n"
        "pool.read(['x+1', 'x+2'])\n"
        "print(pool._supervisor.pid, *[worker.process for worker in pool._workers], flush=True)\n"
        + (f"threading.Thread(target=pool.read, args=([{HANGING!r}, {HANGING + '+1'!r}],)).start()\n" if busy else "")
        + "time.sleep(0.5)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    numbers = [int(number) for number in done.stdout.split()]
    assert len(numbers) == 3
    until = time.monotonic() + 30
    while any(_alive(number) for number in numbers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [number for number in numbers if _alive(number)]


def _kill_one(pool: GradingPool) -> None:
    time.sleep(0.05)
    for process in [worker.process for worker in pool._workers if worker.process is not None][:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
