"""The log of a training and the marks of its checkpoints, beside its steps."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from secateur.runtime.console import MetricLog, ProgressReporter, progress
from secateur.runtime.files import JSON, read_json, write_json
from secateur.runtime.process import current_ranks
from trainers.steps.checkpoints import drop_what_is_superseded, mark_complete

Metrics = Mapping[str, float]


class StepLog(TrainerCallback):
    """Every logged metric as a line of `train.jsonl`, and a progress line.

    title: of the progress line; counted: a metric that every step logs and the summary at the end does not; note:
    what the progress line says of a step; facts: stand in every line of the log.
    """

    def __init__(self, title: str, path: Path, counted: str, note: Callable[[Metrics], str], **facts: JSON) -> None:
        self.title, self.log, self.counted, self.note, self.facts = title, MetricLog(path), counted, note, facts
        self._stack = contextlib.ExitStack()
        self._progress: ProgressReporter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._progress = self._stack.enter_context(progress(self.title, state.max_steps))
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
        if not logs or self.counted not in logs:
            return
        self.log.write(step=state.global_step, **self.facts, **logs)
        if self._progress is not None:
            self._progress.advance(state.global_step - self._progress.done, self.note(logs))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._stack.close()


class CompletionMarker(TrainerCallback):
    """Marks a checkpoint whole after every rank has written its part. `limit` [tokens]: of its round, if any."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if not current_ranks().is_main:
            return
        folder = Path(args.output_dir)
        use_cache_again(folder / f"checkpoint-{state.global_step}" / "config.json")
        regular = state.global_step % args.save_steps == 0 or state.global_step == args.max_steps
        mark_complete(folder / f"checkpoint-{state.global_step}", args.world_size, self.limit, regular)
        if regular:
            drop_what_is_superseded(folder)


def use_cache_again(config: Path) -> None:
    """The Trainer switches the cache of keys and values off in the model that it trains, and saves it so: whoever
    generates with the checkpoint would compute every token's whole past anew."""
    values = read_json(config)
    if values.get("use_cache") is False:
        write_json(config, {**values, "use_cache": True})
