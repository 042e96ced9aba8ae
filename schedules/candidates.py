"""Which checkpoints of a round are candidates of its choice. One that was whole and no longer is must not be missed
without a word: the round might choose another."""

from pathlib import Path

from rich.markup import escape

from schedules.export import is_training_state
from schedules.integrity import MARKER, damage, read_marker, saved_checkpoints, step_of
from schedules.rounds import Round
from secateur.runtime.console import say
from secateur.runtime.errors import InputError


def candidate_steps(round_folder: Path, round_: Round, whole_files: bool = True) -> list[int]:
    """Steps of the round's whole checkpoints that were saved in turn; says which unfinished ones are passed over.
    `whole_files`: whether their contents are read to the end, see `damage`.

    Raises `InputError` if one was saved at another limit, and with `whole_files` if the model of one was changed
    since it was saved: without it the round might choose another. Training state is not needed any more.
    """
    steps = []
    for folder in saved_checkpoints(round_folder):
        if fault := damage(folder, whole_files, is_training_state):
            if whole_files and (folder / MARKER).is_file():
                raise _lost(folder, fault)
            say(f"  passed over: {escape(str(folder))}: {escape(fault)}")
            continue
        marker = read_marker(folder)
        if marker.limit != round_.limit:
            raise InputError(f"{folder}: was trained at the limit {marker.limit}, this round has {round_.limit}")
        if marker.regular:
            steps.append(marker.step)
    return steps


def damaged_checkpoints(round_folder: Path, candidates: bool = True) -> list[tuple[Path, str]]:
    """Checkpoints of a round in training that are not whole, and what is wrong with each: what a kill left unfinished
    or something has damaged since.

    What is older than the checkpoint to go on from is not trained again. Where such ones are `candidates` of a choice
    `InputError` is raised if the model of one was damaged; their training state is not needed any more.
    """
    faults = {folder: damage(folder) for folder in saved_checkpoints(round_folder)}
    whole = [folder for folder, fault in faults.items() if fault is None and read_marker(folder).resumable]
    newest = max(map(step_of, whole), default=0)
    kept = {folder for folder in faults if candidates and step_of(folder) < newest}
    return [
        (folder, fault)
        for folder, fault in faults.items()
        if fault is not None and not (folder in kept and _is_still_candidate(folder))
    ]


def _is_still_candidate(folder: Path) -> bool:
    """Of a checkpoint that is not whole: it may have lost no more than its training state. `InputError` if it was a
    candidate and no longer is."""
    if not (folder / MARKER).is_file():
        return False
    if fault := damage(folder, spared=is_training_state):
        raise _lost(folder, fault)
    return read_marker(folder).regular


def _lost(folder: Path, fault: str) -> InputError:
    return InputError(
        f"{folder}: {fault}; restore it, or delete the folder, and the round is chosen from what is left"
    )
