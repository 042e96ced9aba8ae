"""Command × fault: each command is disturbed while it works, started again, and compared with a run left alone.

    python bench/faults.py [--commands eval/single.py …] [--faults SIGKILL …] [--kills 10] [--output_dir F]

The commands (fault_commands.py) are a user's own, on the embedded model. Every cell is what the next start of the
same command does: *equal* (all that is stored is the same, times apart), *before* (the same, and it said which file
it set aside or made anew), *refused* (one line that names the fault, no traceback), *not read* (the
damaged file stays as it is and nothing else differs) or FAULT. Kills come at
drawn moments: after as many changes in the output folder as were drawn, and a random while later. Of a launched
command one process is hit, or all. Each trial is appended to `<output_dir>/cells.jsonl`; the same command line goes
on where it was. Mounts a small and a read-only file system, so those two want root on Linux; elsewhere they are
left out. Exit code 1 if there is a FAULT.
"""

import argparse
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from bench.fault_commands import COMMANDS, Command, Inputs, differences, snapshot, stored_kinds
from bench.fault_starts import POLL_S, Ended, Start, load_libraries, mounted, standing_still, unmount
from secateur.runtime.console import console
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, read_json, read_jsonl, write_json
from secateur.runtime.process import entry_point
from secateur.runtime.records import FORMAT_KEY, as_json, record_of

Outcome = Literal["equal", "before", "refused", "not read", "FAULT", "left out"]
_FORMAT = 1
_LATEST_S = 0.5  # the longest random wait between a change that is seen and the kill
_STARTING_S = 3.0  # …and between a start and a kill that is to come before any change
_SAID = ("set aside", "passed over", "exported again", "damaged")
FINISHED = "is trained but its checkpoint is not chosen"


@dataclass(frozen=True)
class Cell:
    """One trial. `hits`: how often a process was hit in it; `note`: the refusal, or what is wrong."""

    command: str
    fault: str
    trial: str
    outcome: Outcome
    hits: int = 1
    note: str = ""


def complete_lines(run: Path) -> dict[Path, bytes]:
    """The traces that are on disk for good, by file."""
    found = {path: path.read_bytes() for path in run.rglob("traces-rank*.jsonl")}
    return {path: content[: content.rfind(b"\n") + 1] for path, content in found.items()}


def rewritten(lines: Mapping[Path, bytes]) -> list[str]:
    """Which files lost traces since `complete_lines`: those have been sampled twice."""
    return [
        f"{path.name}: lines were rewritten"
        for path, old in lines.items()
        if not (path.is_file() and path.read_bytes().startswith(old))
    ]


class Trials:
    """One command in a folder of its own: `run` is disturbed, `alone` was not, `half` was killed half way."""

    def __init__(self, name: str, command: Command, inputs: Inputs, folder: Path) -> None:
        self.name, self.command, self.inputs = name, command, inputs
        self.run, self.alone, self.half = folder / "run", folder / "alone", folder / "half"
        self._begun, self._known = folder / "begun", folder / "changes.json"
        self.argv = inputs.argv(command, self.run)
        unmount(self.run)
        if not self._known.is_file():
            self._prepare()
        self.total = int(read_json(self._known))

    def _prepare(self) -> None:
        """The run that is left alone, the state that disturbed ones begin with, and one that was killed half way."""
        for folder in (self.alone, self.half, self._begun):
            shutil.rmtree(folder, ignore_errors=True)
        self.begin(None)
        shutil.copytree(self.run, self._begun)
        first = self._finished()
        if self.command.drop:
            shutil.copytree(self.run, self._begun, dirs_exist_ok=True)
            for place in (self._begun / name for name in self.command.drop):
                shutil.rmtree(place) if place.is_dir() else place.unlink()
            self.begin(self._begun)
            first = self._finished()
        shutil.copytree(self.run, self.alone)
        self.begin(self._begun)
        half = self.start()
        half.wait(first.changes // 2)
        half.hit(signal.SIGKILL, everybody=True)
        shutil.copytree(self.run, self.half)
        write_json(self._known, first.changes)

    def _finished(self) -> Start:
        start = self.start()
        code, output = start.ended()
        if code:
            raise RuntimeError(f"{self.name} failed undisturbed: {output}")
        return start

    def begin(self, state: Path | None) -> None:
        """Put a state into the folder, in place of what is there."""
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir(parents=True)
        if state is not None:
            shutil.copytree(state, self.run, dirs_exist_ok=True)

    def start(self) -> Start:
        return Start(self.argv, self.run, self.command.launched)

    def verdict(self, ended: Ended, damaged: str = "") -> tuple[Outcome, str]:
        """What a start did. `damaged`: the file that it found damaged."""
        code, output = ended
        last = refusal(output)
        if code == 0 or (self.command.finished_is_refused and FINISHED in last):
            wrong = differences(self.alone, self.run)
            if damaged and wrong and all(line.startswith(compared_as(damaged)) for line in wrong):
                return "not read", ""
            said = damaged and any(word in output for word in _SAID)
            return ("FAULT", "; ".join(wrong[:3])) if wrong else ("before" if said else "equal", "")
        if code in (1, 2) and last and "Traceback" not in output:
            return "refused", last
        return "FAULT", f"exit {code}: {output.strip().splitlines()[-1] if output.strip() else 'no word'}"


def compared_as(name: str) -> str:
    """How `contents` names a file: the states of a problem without their lot."""
    return name.rpartition("-")[0] if PurePath(name).parent.name == "states" else name


def refusal(output: str) -> str:
    """The one line that begins with "error:"; "" where there is none, or several different ones."""
    lines = {line for line in output.splitlines() if line.startswith("error")}
    return lines.pop() if len(lines) == 1 else ""


Made = Iterator[tuple[str, Callable[[random.Random], Cell]]]
"""Trial → what does it, for one fault."""


def signalled(trials: Trials, number: signal.Signals, hits: int) -> Made:
    """Passes through the whole command that are hit five times each, until there were enough."""
    each = min(5, hits)
    for index in range(-(-hits // each)):
        yield f"pass {index + 1}", lambda rng: _hit_pass(trials, number, each, rng)


def _hit_pass(trials: Trials, number: signal.Signals, hits: int, rng: random.Random) -> Cell:
    """A pass that ends by itself before it was hit often enough begins anew. An interrupt is a line, no traceback."""
    done, wrong, cell = 0, [], Cell(trials.name, number.name, "", "equal", 0)
    while done < hits and cell.outcome == "equal" and not wrong:
        trials.begin(trials._begun)
        struck, wrong = _hit_until_done(trials, number, hits - done, rng)
        outcome, note = trials.verdict(trials.start().ended())
        done, cell = done + struck, replace(cell, outcome=outcome, note=note)
    if wrong:
        cell = replace(cell, outcome="FAULT", note="; ".join(wrong[:3]))
    return replace(cell, hits=done)


def _hit_until_done(trials: Trials, number: signal.Signals, hits: int, rng: random.Random) -> tuple[int, list[str]]:
    goals, done, wrong = sorted(rng.sample(range(trials.total + hits), hits)), 0, list[str]()
    for before, goal in zip([0, *goals], goals, strict=False):
        lines, start = complete_lines(trials.run), trials.start()
        came = start.wait(goal - before)
        time.sleep(rng.uniform(0, _LATEST_S if goal - before else _STARTING_S))
        if not came or start.process.poll() is not None:
            wrong += _complaints(start.ended(), trials, undisturbed=True)
            break
        launched = trials.command.launched
        everybody = launched and number == signal.SIGKILL and rng.random() < 0.25
        start.hit(number, everybody, rng if launched and number == signal.SIGKILL else None)
        wrong += _complaints(start.ended(), trials) + rewritten(lines)
        done += 1
    return done, wrong


def _complaints(ended: Ended, trials: Trials, undisturbed: bool = False) -> list[str]:
    """What a start must not do when it is hit: a traceback. Launchers print one of their own for a killed rank."""
    code, output = ended
    if undisturbed and code and FINISHED not in output:
        return [f"failed by itself: exit {code}: {output.strip()[-200:]}"]
    return ["a traceback"] if "Traceback" in output and not trials.command.launched else []


def full_disk(trials: Trials, count: int) -> Made:
    for index in range(count):
        yield f"disk {index + 1}", lambda rng: _full_disk(trials, rng)


def _full_disk(trials: Trials, rng: random.Random) -> Cell:
    """A file system that is too small by a drawn share of what the run adds; then it is made larger."""
    cell = Cell(trials.name, "disk full", "", "left out")
    sizes = [sum(size for _, size in snapshot(folder)) for folder in (trials._begun, trials.alone)]
    added = sizes[1] - sizes[0]
    size = int(sizes[0] * 1.1 + min(32_768, added // 2) + rng.uniform(0.1, 0.7) * added)
    trials.begin(None)
    with mounted(trials.run, "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as there:
        if not there:
            return replace(cell, note="a file system can only be mounted by root, on Linux")
        shutil.copytree(trials._begun, trials.run, dirs_exist_ok=True)
        code, output = trials.start().ended()
        if code and not refusal(output).startswith("error: disk full"):
            return replace(cell, outcome="FAULT", note=f"exit {code}: {output.strip()[-300:]}")
        subprocess.run(["mount", "-o", "remount,size=1g", str(trials.run)], check=True)
        outcome, note = trials.verdict(trials.start().ended())
    return replace(cell, outcome=outcome, hits=int(code != 0), note=note)


def read_only(trials: Trials) -> Made:
    for name, state in (("half", trials.half), ("done", trials.alone)):
        yield name, lambda rng, state=state: _read_only(trials, state)


def _read_only(trials: Trials, state: Path) -> Cell:
    cell = Cell(trials.name, "read-only", "", "left out")
    trials.begin(state)
    with mounted(trials.run, "--bind", str(trials.run)) as there:
        if not there:
            return replace(cell, note="a folder can only be mounted read-only by root, on Linux")
        subprocess.run(["mount", "-o", "remount,bind,ro", str(trials.run)], check=True)
        outcome, note = trials.verdict(trials.start().ended())
    return replace(cell, outcome=outcome, note=note)


def damaged(trials: Trials, fault: Literal["flipped", "cut"], count: int) -> Made:
    """Every kind of file that is stored: as it is half way, where what is read back is there, else at the end."""
    half, done = stored_kinds(trials.half), stored_kinds(trials.alone)
    for kind in sorted(half.keys() | done.keys()):
        state, files = (trials.half, half[kind]) if kind in half else (trials.alone, done[kind])
        for index in range(count):
            yield f"{kind} {index + 1}", lambda rng, s=state, f=files: _damaged(trials, fault, s, rng.choice(f), rng)


def _damaged(trials: Trials, fault: str, state: Path, name: Path, rng: random.Random) -> Cell:
    trials.begin(state)
    path = trials.run / name
    content = bytearray(path.read_bytes())
    if not content:
        return Cell(trials.name, fault, "", "left out", note="empty")
    place = rng.randrange(len(content))
    if fault == "cut":
        path.write_bytes(content[:place])
    else:
        content[place] ^= 1 << rng.randrange(3)
        path.write_bytes(content)
    outcome, note = trials.verdict(trials.start().ended(), name.as_posix())
    if outcome == "refused" and not any(word in note for word in (name.name, str(path.parent))):
        outcome = "FAULT"  # a refusal that does not say of what
    return Cell(trials.name, fault, "", outcome, note=f"{name}, byte {place}: {note}" if note else "")


def second_process(trials: Trials) -> Made:
    yield "while it works", lambda rng: _second_process(trials)


def _second_process(trials: Trials) -> Cell:
    trials.begin(trials._begun)
    cell, first = Cell(trials.name, "second process", "", "FAULT"), trials.start()
    while first.process.poll() is None and not (trials.run / trials.command.held / ".lock-holder").is_file():
        time.sleep(POLL_S)
    with standing_still(first.process.pid):  # or it may be done before the second one has come as far
        outcome, note = trials.verdict(trials.start().ended())
    if outcome != "refused" or "is working in it" not in note:
        return replace(cell, note=f"the second: {outcome} {note}")
    wrong = trials.verdict(first.ended())
    return (
        replace(cell, note=f"the first: {wrong[1]}")
        if wrong[0] != "equal"
        else replace(cell, outcome="refused", note=note)
    )


def other_weights(trials: Trials) -> Made:
    for name, state in (("half", trials.half), ("done", trials.alone)):
        yield name, lambda rng, state=state: _other_weights(trials, state)


def _other_weights(trials: Trials, state: Path) -> Cell:
    trials.begin(state)
    trials.inputs.change_model()
    try:
        outcome, note = trials.verdict(trials.start().ended())
    finally:
        trials.inputs.restore_model()
    if outcome != "refused" or FINISHED in note:
        outcome, note = "FAULT", f"it went on with other weights: {outcome} {note}"
    return Cell(trials.name, "other weights", "", outcome, note=note)


FAULTS: dict[str, Callable[[Trials, argparse.Namespace], Made]] = {
    "SIGKILL": lambda trials, options: signalled(trials, signal.SIGKILL, options.kills),
    "SIGTERM": lambda trials, options: signalled(trials, signal.SIGTERM, 2),
    "SIGINT": lambda trials, options: signalled(trials, signal.SIGINT, 2),
    "disk full": lambda trials, options: full_disk(trials, 2),
    "read-only": lambda trials, options: read_only(trials),
    "flipped": lambda trials, options: damaged(trials, "flipped", options.flips),
    "cut": lambda trials, options: damaged(trials, "cut", 1),
    "second process": lambda trials, options: second_process(trials),
    "other weights": lambda trials, options: other_weights(trials),
}


def disturb(name: str, inputs: Inputs, options: argparse.Namespace, known: list[Cell]) -> None:
    """Do the trials of a command that are not in `known`, and append them."""
    trials = Trials(name, COMMANDS[name], inputs, options.output_dir / re.sub(r"[^a-z_.]+", "-", name))
    done = {(cell.command, cell.fault, cell.trial) for cell in known}
    for fault in options.faults:
        for trial, make in FAULTS[fault](trials, options):
            if (name, fault, trial) not in done:
                cell = replace(make(random.Random(f"{options.seed} {name} {fault} {trial}")), trial=trial)
                console.print(f"{name}, {fault}, {trial}: {cell.outcome} {cell.note}", markup=False, soft_wrap=True)
                append_jsonl(options.output_dir / "cells.jsonl", [{FORMAT_KEY: _FORMAT, **as_json(cell)}])
                known.append(cell)


def read_cells(path: Path) -> list[Cell]:
    if not path.is_file():
        return []
    lines = [(number, line) for number, line in read_jsonl(path) if line.pop(FORMAT_KEY, None) == _FORMAT]
    return [record_of(Cell, line, f"{path}, line {number}") for number, line in lines]


def as_markdown(cells: Sequence[Cell], commands: Sequence[str], faults: Sequence[str]) -> str:
    """A row per command; in a cell how many trials, or hits, ended how."""
    rows = [["command", *faults], ["---"] * (len(faults) + 1)]
    for command in commands:
        rows.append([f"`{command}`" if "/" in command else command])
        for fault in faults:
            counts = Counter[str]()
            for cell in cells:
                if (cell.command, cell.fault) == (command, fault):
                    counts[cell.outcome] += cell.hits
            rows[-1].append(", ".join(f"{outcome} {count}" for outcome, count in counts.most_common()) or "–")
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def make_inputs(options: argparse.Namespace) -> Inputs:
    """The model, traces of it and a judge of it, made by the commands themselves."""
    inputs = Inputs(options.output_dir / "inputs", options.zero)
    inputs.restore_model()
    for name, place in (("eval/collect_traces.py", "traces"), ("trainers/judge.py", "judge")):
        folder = inputs.folder / place
        if not (inputs.folder / f"{place}.made").is_file():
            code, output = Start(inputs.argv(COMMANDS[name], folder), folder).ended()
            if code:
                raise RuntimeError(output)
            (inputs.folder / f"{place}.made").touch()
    return inputs


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--kills", type=int, default=10, help="random kills for each command")
    parser.add_argument("--flips", type=int, default=2, help="flipped bytes for each kind of file")
    parser.add_argument("--seed", type=int, default=0, help="draws moments, targets and places")
    parser.add_argument("--zero", type=int, choices=(0, 2, 3), default=0, help="DeepSpeed stage; 0 is plain DDP")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/faults"))
    options = parser.parse_args()
    if options.kills < 1 or options.flips < 1:
        raise InputError(f"--kills ({options.kills}) and --flips ({options.flips}) must be at least 1")
    options.output_dir = options.output_dir.resolve()
    load_libraries([COMMANDS[name] for name in options.commands])
    cells, inputs = read_cells(options.output_dir / "cells.jsonl"), make_inputs(options)
    for name in options.commands:
        disturb(name, inputs, options, cells)
    chosen = [cell for cell in cells if cell.command in options.commands and cell.fault in options.faults]
    console.print(as_markdown(chosen, options.commands, options.faults), markup=False, soft_wrap=True)
    raise SystemExit(1 if any(cell.outcome == "FAULT" for cell in chosen) else 0)


if __name__ == "__main__":
    main()
