"""What happens beside the training steps of a round: metrics, progress, trustworthy checkpoints."""

import contextlib
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from schedules.rounds import Round
from secateur.runtime.console import MetricLog, ProgressReporter, progress
from secateur.runtime.ranks import current_ranks
from trainers.grpo.checkpoints import TrainedBy, drop_what_is_superseded, mark_complete, write_trained_by


class RoundLog(TrainerCallback):
    """Every logged metric as a line of `train.jsonl`, and a progress line with reward, length and truncated share."""

    def __init__(self, round_: Round, path: Path) -> None:
        self.round, self.log = round_, MetricLog(path)
        self._stack = contextlib.ExitStack()
        self._progress: ProgressReporter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        title = f"round {self.round.name}"
        self._progress = self._stack.enter_context(progress(title, self.round.max_steps))
        if state.global_step:
            self._progress.advance(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if not logs or "reward" not in logs:  # the summary at the end of training
            return
        self.log.write(step=state.global_step, limit=self.round.limit, **logs)
        if self._progress is not None:
            note = (
                f"reward {logs['reward']:.2f}  length {logs['completions/mean_length']:.0f}  "
                f"truncated {logs['completions/clipped_ratio']:.0%}"
            )
            self._progress.advance(state.global_step - self._progress.done, note)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._stack.close()


class EngineNote(TrainerCallback):
    """Writes `engine.json` when training begins: what wraps the model, and how many processes take part."""

    def __init__(self, trainer: Trainer, round_folder: Path) -> None:
        self.trainer, self.folder = trainer, round_folder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if current_ranks().is_main:
            write_trained_by(self.folder, describe_engine(self.trainer))


def describe_engine(trainer: Trainer) -> TrainedBy:
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    return TrainedBy(
        engine=type(trainer.model_wrapped).__name__,
        world_size=trainer.accelerator.num_processes,
        zero_stage=plugin.zero_stage if plugin else 0,
    )


class CompletionMarker(TrainerCallback):
    """Marks a checkpoint whole after every rank has written its part."""

    def __init__(self, round_: Round) -> None:
        self.round = round_

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if not current_ranks().is_main:
            return
        folder = Path(args.output_dir)
        regular = state.global_step % args.save_steps == 0 or state.global_step == args.max_steps
        mark_complete(folder / f"checkpoint-{state.global_step}", args.world_size, self.round.limit, regular)
        if regular:
            drop_what_is_superseded(folder)
