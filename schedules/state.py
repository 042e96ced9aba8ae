"""The run folder of a schedule: what is on disk decides what comes next, so a kill at any point costs little.

    config.yaml                     all keys of the run
    rounds/1-limit-4000/
        checkpoint-*/               see trainers/checkpoints.py
        train.jsonl                 metrics of every step
        training.json               written when the round's training has ended
        validation/                 samples of every candidate (eval/single.py)
        validation.json             figures of every candidate
        selection.json              the choice
    final/                          the chosen model, a plain Hugging Face folder

Every file is replaced atomically and each step looks only at the files of the steps before it.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from runtime.config import read_yaml
from runtime.errors import InputError
from runtime.files import read_json, write_text
from schedules.choice import START
from schedules.config import RunConfig
from schedules.rounds import Round

# Keys that change how a run is shown or packed, not what it computes; they may differ between restarts.
FREE_KEYS = frozenset({"output_dir", "report_to", "run_name", "project", "logging_steps", "validation_rows"})


@dataclass(frozen=True)
class Action:
    """What a run needs next. `start_model` is the model that the round starts from or that is to be exported."""

    kind: Literal["train", "validate", "choose", "export", "done"]
    round: Round | None
    start_model: str


class RunFolder:
    def __init__(self, config: RunConfig) -> None:
        self.path = Path(config.schedule.output_dir)
        self.rounds = config.schedule.rounds
        self.original_model = config.schedule.model
        self._resolved = config.resolved()

    def open(self) -> None:
        """Write `config.yaml`, or make sure that the one there is ours; raises `InputError` and changes nothing."""
        check_same_config(self.path, self._resolved)
        if not (self.path / "config.yaml").is_file():
            write_text(self.path / "config.yaml", yaml.safe_dump(self._resolved, sort_keys=False))

    def check(self) -> bool:
        """Whether the folder holds this run already; raises `InputError` if it holds another one."""
        return check_same_config(self.path, self._resolved)

    def round_folder(self, round_: Round) -> Path:
        return self.path / "rounds" / round_.name

    def locate(self, model: str) -> str:
        """Where the model named in a selection lies: a checkpoint of this run, or anything else unchanged."""
        return str(self.path / model) if model.startswith("rounds/") else model

    def next_action(self) -> Action:
        start = self.original_model
        for round_ in self.rounds:
            folder = self.round_folder(round_)
            if not (folder / "selection.json").is_file():
                return Action(_unfinished_step(folder), round_, start)
            chosen = read_json(folder / "selection.json")["chosen_step"]
            if chosen == START:  # the limit could not be met; a tighter one cannot either
                break
            start = f"rounds/{round_.name}/checkpoint-{chosen}"
        return Action("done" if (self.path / "final").is_dir() else "export", None, start)


def _unfinished_step(folder: Path) -> Literal["train", "validate", "choose"]:
    if not (folder / "training.json").is_file():
        return "train"
    return "choose" if (folder / "validation.json").is_file() else "validate"


def check_same_config(folder: Path, resolved: dict[str, Any]) -> bool:
    """False if `folder` has no `config.yaml` yet, True if it holds `resolved`.

    Raises `InputError` naming the first key that differs, or the folder if it is not empty and no run folder.
    """
    if not (folder / "config.yaml").is_file():
        foreign = [path.name for path in folder.glob("[!.]*")]
        if foreign:
            raise InputError(
                f"output_dir {folder}: holds '{min(foreign)}' but no config.yaml, so it is not a run of ours; "
                "choose an empty folder"
            )
        return False
    stored = read_yaml(folder / "config.yaml")
    for key in sorted((stored.keys() | resolved.keys()) - FREE_KEYS):
        if stored.get(key) != resolved.get(key):
            raise InputError(
                f"output_dir {folder}: holds a run with another configuration: '{key}' is {stored.get(key)!r} there "
                f"and {resolved.get(key)!r} now; choose another output_dir or restore the value"
            )
    return True


LOCK = ".lock"


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep a second process out of `folder` while this one works in it; a kill releases it.

    Raises `InputError` naming the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise InputError(
                f"{folder}: process {handle.read().strip()} is working in it; wait for it or end it"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
