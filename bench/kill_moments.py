"""The moments of a schedule at which it can be killed: how they are drawn, recognised in the run folder, and used."""

import contextlib
import math
import random
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from schedules.integrity import MARKER, saved_checkpoints
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_jsonl

Kind = Literal["launch", "step", "save", "validation launch", "validation"]
TARGETS = ("rank 0", "rank 1", "launcher", "driver", "all")
# Largest random delay [s] between what is seen and the kill: imports take seconds, a save of the small model little.
DELAYS: dict[Kind, float] = {"launch": 9.0, "step": 0.4, "save": 0.03, "validation launch": 7.0, "validation": 0.3}
SHARES = {"save": 0.25, "validation launch": 0.1, "validation": 0.15}  # of the kills, at least; the rest is drawn
PATIENCE_S = 900.0
_POLL_S = 0.002
_LOOK_S = 0.3


@dataclass(frozen=True)
class Moment:
    """`step` counts from 1 within the round and is 0 where it says nothing."""

    round: str
    kind: Kind
    step: int

    @property
    def name(self) -> str:
        return f"{self.round}, {self.kind}" + (f" {self.step}" if self.step else "")


@dataclass
class Kill:
    """One kill and what became of it: `hit` says what was killed, `late` that the moment had passed, `torn` that it
    left a save unfinished."""

    moment: Moment
    target: str
    delay: float
    hit: str = ""
    late: bool = False
    torn: bool = False


def moments(rounds: Sequence[str], steps: int, save_steps: int) -> list[Moment]:
    """All moments of a schedule in their order."""
    found = []
    for name in rounds:
        found.append(Moment(name, "launch", 0))
        for step in range(1, steps + 1):
            found.append(Moment(name, "step", step))
            if step % save_steps == 0:
                found.append(Moment(name, "save", step))
        found += [Moment(name, "validation launch", 0), Moment(name, "validation", 0)]
    return found


def draw_kills(rounds: Sequence[str], steps: int, save_steps: int, count: int, seed: int) -> list[Kill]:
    """`count` different moments in their order, each with a target. Raises `InputError` if there are not so many."""
    everything = moments(rounds, steps, save_steps)
    if not 1 <= count <= len(everything):
        raise InputError(f"--kills has the value {count}; this schedule has 1 to {len(everything)} moments")
    generator = random.Random(seed)
    chosen: set[Moment] = set()
    for kind, share in SHARES.items():
        of_kind = [moment for moment in everything if moment.kind == kind]
        chosen |= set(generator.sample(of_kind, min(len(of_kind), math.ceil(count * share), count - len(chosen))))
    rest = [moment for moment in everything if moment not in chosen]
    chosen |= set(generator.sample(rest, count - len(chosen)))
    targets = [TARGETS[index % len(TARGETS)] for index in range(count)]
    generator.shuffle(targets)
    return [
        Kill(moment, target, generator.uniform(0, DELAYS[moment.kind]))
        for moment, target in zip(sorted(chosen, key=everything.index), targets, strict=True)
    ]


def kill_at(driver: subprocess.Popen[bytes], run: Path, kill: Kill) -> None:
    """Wait for the moment, kill, and wait until no process of the schedule is left. A moment that passes unseen, for
    instance within a launch whose processes finish their round while they die, is made up for at once.

    Raises `RuntimeError` if the schedule fails by itself, or if a process outlives its launcher or its driver.
    """
    began, family = time.time(), Family(driver.pid)
    while not (has_come(run, kill.moment, began, driver.pid) or is_over(run, kill.moment)):
        family.look()
        if driver.poll() is not None:
            if driver.returncode:
                raise RuntimeError(f"the schedule failed by itself while waiting for {kill.moment.name}")
            kill.hit = "nothing: all was done"
            return
        if time.time() - began > PATIENCE_S:
            raise RuntimeError(f"{kill.moment.name} has not come in {PATIENCE_S:.0f} s")
        time.sleep(_POLL_S)
    kill.late = is_over(run, kill.moment) or (
        kill.moment.kind == "save" and not is_saved(run / "rounds" / kill.moment.round, kill.moment, began)
    )
    due = time.time() + kill.delay
    while (left := due - time.time()) > 0:
        family.look()
        time.sleep(min(left, _LOOK_S))
    if driver.poll() is not None:
        kill.hit = "nothing: all was done"
        return
    victim = family.members.get(kill.target)
    if victim is not None and victim.is_running():
        _end(victim)
    else:  # "all", or a target that does not exist yet or no more
        kill.target = "all"
        for process in family.members.values():
            _end(process)
    kill.hit = kill.target
    _, alive = psutil.wait_procs(list(family.members.values()), timeout=PATIENCE_S / 5)
    kill.torn = any(
        not (folder / MARKER).is_file() for folder in saved_checkpoints(run / "rounds" / kill.moment.round)
    )
    driver.wait()
    for process in alive:
        _end(process)
    if alive:
        raise RuntimeError(f"{kill.moment.name}, {kill.hit} killed: {alive} went on")


def _end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


class Family:
    """The processes under a driver, known before they are to be killed: looking for them takes longer than a step."""

    def __init__(self, driver: int) -> None:
        self.members: dict[str, psutil.Process] = {"driver": psutil.Process(driver)}
        self._driver, self._looked = driver, 0.0

    def look(self) -> None:
        """Look again where a launch is new or gone, or its ranks are not all there yet."""
        known = [self.members.get(name) for name in ("launcher", "rank 0", "rank 1")]
        complete = all(process is not None and process.is_running() for process in known)
        if not complete and time.time() - self._looked > _LOOK_S:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.members = processes_of(self._driver)
            self._looked = time.time()


def has_come(run: Path, moment: Moment, began: float, driver: int) -> bool:
    """Whether the run folder shows the moment, by something that is newer than this start of the driver."""
    folder = run / "rounds" / moment.round
    if moment.kind in ("launch", "validation launch"):
        script = "grpo_len.py" if moment.kind == "launch" else "single.py"
        here = moment.kind == "launch" or (folder / "training.json").is_file()
        return here and is_turn(run, folder, moment) and is_launched(driver, script)
    if moment.kind == "validation":
        return any(path.stat().st_mtime >= began and path.stat().st_size for path in samples(folder))
    if moment.kind == "save" and is_saved(folder, moment, began):
        return True
    log = folder / "train.jsonl"
    step = moment.step + (moment.kind == "save")  # a save of an earlier start has gone by: the step behind it will do
    return log.is_file() and log.stat().st_mtime >= began and last_step(log, began) >= step


def is_saved(folder: Path, moment: Moment, began: float) -> bool:
    """Whether this start has begun to save the checkpoint."""
    saved = folder / f"checkpoint-{moment.step}"
    return saved.is_dir() and saved.stat().st_mtime >= began


def is_over(run: Path, moment: Moment) -> bool:
    ended = "validation.json" if moment.kind.startswith("validation") else "training.json"
    return (run / "rounds" / moment.round / ended).is_file()


def is_turn(run: Path, folder: Path, moment: Moment) -> bool:
    earlier = [path for path in (run / "rounds").glob("[0-9]*") if path.name < folder.name]
    index = int(moment.round.partition("-")[0])
    return len(earlier) == index - 1 and all((path / "selection.json").is_file() for path in earlier)


def is_launched(driver: int, script: str) -> bool:
    try:
        children = psutil.Process(driver).children()
        return any(
            script in word and "accelerate.commands.launch" in child.cmdline()
            for child in children
            for word in child.cmdline()
        )
    except psutil.NoSuchProcess:
        return False


def samples(folder: Path) -> list[Path]:
    return list((folder / "validation").rglob("traces-*.jsonl"))


def last_step(log: Path, began: float) -> int:
    """The last step that this start has logged, 0 for none."""
    try:
        return max((record["step"] for _, record in read_jsonl(log) if record["time"] >= began), default=0)
    except InputError:  # read while a line was being written
        return 0


def processes_of(driver: int) -> dict[str, psutil.Process]:
    """The driver, its launcher, the ranks (the launcher's children) and their helpers, as far as they exist."""
    found = {"driver": psutil.Process(driver)}
    for process in found["driver"].children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "accelerate.commands.launch" in process.cmdline():
                found["launcher"] = process
                for rank in process.children():
                    with contextlib.suppress(psutil.Error):
                        found[f"rank {rank.environ().get('RANK')}"] = rank
    for process in found["driver"].children(recursive=True):
        if process not in found.values():
            found[f"process {process.pid}"] = process
    return found
