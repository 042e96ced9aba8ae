"""Worker processes that read answers: one JSON line in, one JSON line out, each on a pair of pipes of its own.

Started by pool.py as `python -m secateur.tasks.answers.worker LIMIT IN OUT [IN OUT …]`. Answers are hostile
text: a tower of powers can keep sympy busy for hours or eat all memory. So this process, which imports sympy once,
only forks one child per pair of pipes and forks another when one dies; the children do the reading. The kernel ends a
child that has used LIMIT seconds of processor time on one answer, also inside C code, also when nobody watches any
more; its memory is limited; and when the pool's process is gone, by whatever signal, everything here ends."""

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from dataclasses import asdict
from typing import NoReturn

MEMORY_LIMIT_BYTES = 1024**3
DIED = b"null\n"
_POLL_S = 1.0
_PR_SET_PDEATHSIG = 1  # Linux: the signal that this process gets when its parent ends


def main() -> None:
    limit_s, numbers = float(sys.argv[1]), [int(text) for text in sys.argv[2:]]
    pipes = list(zip(numbers[::2], numbers[1::2], strict=True))
    parent = os.getppid()
    _prepare()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    children = {_fork(*pipe, limit_s): pipe for pipe in pipes}
    while children:
        signal.sigtimedwait({signal.SIGCHLD}, _POLL_S)
        if os.getppid() != parent:
            break
        _bury(children, limit_s)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _bury(children: dict[int, tuple[int, int]], limit_s: float) -> None:
    """Report every child that died and put another in its place; one that ended by itself has no more to do."""
    while children:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        pipe = children.pop(process)
        if status != 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe[1], DIED)
                children[_fork(*pipe, limit_s)] = pipe


def _prepare() -> None:
    """Everything slow, once, before the children are made; the first formula builds the parser's tables."""
    import logging

    from secateur.tasks.answers.algebra import algebra
    from secateur.tasks.answers.reading import read_answer

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for formula in ("2x^2+\\sqrt{3}\\pi", "y=2x+1", "\\frac{\\sin x}{3}", "1+2i", "\\log_2 x \\cdot |y|", "a_1!"):
        read_answer(formula, algebra())
    gc.collect()
    gc.freeze()  # the children share these pages


def _fork(source: int, target: int, limit_s: float) -> int:
    child = os.fork()
    if child == 0:
        _serve(source, target, limit_s)
    return child


def _serve(source: int, target: int, limit_s: float) -> NoReturn:
    """Read answers until the pipe is closed. SIGPROF is left at its default, which ends the process."""
    from secateur.tasks.answers.algebra import algebra

    _die_with_parent()
    formulas = algebra()
    os.write(target, json.dumps(os.getpid()).encode() + b"\n")
    with open(source, "rb", buffering=0, closefd=False) as lines:  # what it has not begun is for its successor
        for line in lines:
            try:
                serial, answer = json.loads(line)
            except (ValueError, TypeError):
                continue  # the rest of a request that a predecessor was reading when it was killed
            signal.setitimer(signal.ITIMER_PROF, limit_s)
            began = time.process_time()
            reading = _read(answer, formulas)
            reply = json.dumps([serial, reading, time.process_time() - began]).encode() + b"\n"
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(target, reply)
    os._exit(0)


def _die_with_parent() -> None:
    """Without the supervisor nobody would put a new worker in this one's place: the pool starts all anew."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _read(answer: str, formulas: object) -> dict[str, object]:
    from secateur.tasks.answers.reading import read_answer
    from secateur.tasks.answers.record import unread
    from secateur.tasks.answers.text import normalise

    try:
        return asdict(read_answer(answer, formulas))
    except (Exception, RecursionError, MemoryError) as error:  # parser and sympy may raise anything on hostile text
        return asdict(unread(normalise(answer), f"its formula cannot be computed ({type(error).__name__})"))


if __name__ == "__main__":
    main()
