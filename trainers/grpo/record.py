"""What a round was trained by and what came of it: engine.json while it trains, training.json when it is trained."""

from dataclasses import dataclass
from pathlib import Path

from schedules.candidates import candidate_steps
from schedules.records import ENGINE, ENGINE_FORMAT, TrainedBy, read_trained_by
from schedules.rounds import Round
from schedules.state import TRAINING
from secateur.runtime.console import say
from secateur.runtime.records import write_record
from trainers.grpo.adapters import MergeLoss, read_merge_loss
from trainers.grpo.handover import moved_share

TRAINING_FORMAT = 2
LITTLE_MOVED = 0.01  # share of the weights, under which a warning is due


@dataclass(frozen=True)
class TrainingRecord(TrainedBy):
    """A round that is trained, its training.json: its `steps`, and the steps of its candidates, `checkpoints`.

    Of the last checkpoint: `moved_share`, see `moved_share`; `merge_loss`, None without adapters."""

    steps: int
    checkpoints: tuple[int, ...]
    moved_share: float | None
    merge_loss: MergeLoss | None


def write_trained_by(round_folder: Path, record: TrainedBy) -> None:
    write_record(round_folder / ENGINE, record, ENGINE_FORMAT)


def record_training(round_folder: Path, round_: Round, start: Path) -> None:
    """Write `training.json`, which says that the round is trained; `start`: folder of the model it began with."""
    by = read_trained_by(round_folder)
    checkpoints = tuple(candidate_steps(round_folder, round_, whole_files=False))
    last = round_folder / f"checkpoint-{round_.max_steps}"
    moved, loss = moved_share(start, last), read_merge_loss(last)
    record = TrainingRecord(
        **vars(by), steps=round_.max_steps, checkpoints=checkpoints, moved_share=moved, merge_loss=loss
    )
    write_record(round_folder / TRAINING, record, TRAINING_FORMAT)
    _say_what_moved(moved)


def _say_what_moved(share: float | None) -> None:
    if share is None:
        return
    say(f"  {share:.2%} of the weights differ from those that the round began with")
    if share < LITTLE_MOVED:
        say(
            "  [bold]warning: little of the training is in the result[/bold]: steps smaller than its precision were "
            "lost, or no reward taught any; float32_handover: true keeps 32 bits, learning_rate makes larger steps"
        )
