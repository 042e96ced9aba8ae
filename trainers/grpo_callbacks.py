"""What happens beside the training steps of a round: metrics, progress, trustworthy checkpoints."""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from runtime.console import MetricLog, ProgressReporter, progress
from runtime.files import read_jsonl, repair_torn_tail, write_text
from runtime.ranks import current_ranks
from schedules.rounds import Round
from trainers.checkpoints import drop_old_training_state, mark_complete


class RoundLog(TrainerCallback):
    """Every logged metric as a line of `train.jsonl`, and a progress line with reward, length and truncated share."""

    def __init__(self, round_: Round, path: Path) -> None:
        self.round, self.log = round_, MetricLog(path)
        self._stack = contextlib.ExitStack()
        self._progress: ProgressReporter | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
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
        **_: Any,
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

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stack.close()


class CompletionMarker(TrainerCallback):
    """Marks a checkpoint whole after every rank has written its part."""

    def __init__(self, round_: Round) -> None:
        self.round = round_

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if current_ranks().is_main:
            folder = Path(args.output_dir)
            mark_complete(folder / f"checkpoint-{state.global_step}", args.world_size, self.round.limit)
            drop_old_training_state(folder)


def cut_log_after(path: Path, step: int) -> None:
    """Drop what `train.jsonl` says about steps after `step`: they are trained again."""
    if not path.is_file():
        return
    repair_torn_tail(path)
    lines = [json.dumps(record, ensure_ascii=False) for _, record in read_jsonl(path) if record["step"] <= step]
    write_text(path, "".join(f"{line}\n" for line in lines))
