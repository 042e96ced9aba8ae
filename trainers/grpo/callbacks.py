"""What happens beside the training steps of a round: metrics, progress, checkpoints, and a clean stop.

On SIGTERM, or when schedules/run.py asks for it, a round ends after its step, saved. All ranks agree at the end of
every optimiser step, because a signal reaches them at different times or only one of them. The checkpoint is saved
out of turn, and only between two generation batches: completions that TRL has buffered are not saved, so a resume
within a batch would train on others. Training goes on up to the next such step, which takes no generation.
"""

import contextlib
import signal
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig

from schedules.rounds import Round
from schedules.state import stop_requested
from secateur.runtime.console import MetricLog, ProgressReporter, progress, say
from secateur.runtime.files import JSON, read_json, write_json
from secateur.runtime.process import current_ranks
from trainers.grpo.checkpoints import TrainedBy, drop_what_is_superseded, mark_complete, write_trained_by

STUCK_STEPS = 10
# Metric → the value at which nothing is learned from it, and what to say.
_STUCK = {
    "completions/clipped_ratio": (
        1.0,
        "all completions were truncated. The limit is too tight for this model, or the token that ends its turns is "
        "none of its end tokens (generation_config.json: eos_token_id)",
    ),
    "reward": (
        0.0,
        "no completion earned a reward. Are the problems too hard, is the answer where answer_from says, does "
        "prompt_family fit the model?",
    ),
}


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


def round_log(round_: Round, path: Path) -> StepLog:
    """Of a round: reward, length and truncated share on the progress line, its limit in every line of the log."""
    return StepLog(f"round {round_.name}", path, "reward", _round_note, limit=round_.limit)


def _round_note(logs: Metrics) -> str:
    return (
        f"reward {logs['reward']:.2f}  length {logs['completions/mean_length']:.0f}  "
        f"truncated {logs['completions/clipped_ratio']:.0%}"
    )


class StuckWatch(TrainerCallback):
    """Says once what is likely wrong where nothing can be learned: `STUCK_STEPS` steps in a row in which no
    completion earned anything, or all were truncated."""

    def __init__(self) -> None:
        self._run = dict.fromkeys(_STUCK, 0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        for key, (value, words) in _STUCK.items():
            if key in (logs or {}):
                self._run[key] = self._run[key] + 1 if logs[key] == value else 0
                if self._run[key] == STUCK_STEPS:
                    say(f"[bold]warning: {STUCK_STEPS} steps in a row {words}[/bold]")


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


class Why(IntEnum):
    """Why training ends early, by weight."""

    GO_ON = 0
    ASKED = 1
    SIGTERM = 2


class CleanStop(TrainerCallback):
    """Watches for SIGTERM, which also comes when the launcher has died (see
    `secateur.runtime.process.end_with_launcher`),
    and for the file that `schedules.state.request_stop` writes.

    Until training begins SIGTERM ends the process at once: there is nothing to save.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.why = Why.GO_ON
        self._signalled = False

    def on_train_begin(self, args: GRPOConfig, state: TrainerState, control: TrainerControl, **_: object) -> None:
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, signum: int, _: object) -> None:
        self._signalled = True

    def on_step_end(self, args: GRPOConfig, state: TrainerState, control: TrainerControl, **_: object) -> None:
        why = agree(self._here(), args.device)
        if why != Why.GO_ON and between_generations(state.global_step, args) and state.global_step < args.max_steps:
            self.why = why
            control.should_save = control.should_training_stop = True

    def _here(self) -> Why:
        if self._signalled:
            return Why.SIGTERM
        return Why.ASKED if stop_requested(self.run_folder) else Why.GO_ON

    def on_train_end(self, args: GRPOConfig, state: TrainerState, control: TrainerControl, **_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if self.why == Why.GO_ON else signal.SIG_IGN)

    def leave(self, step: int) -> None:
        """End the process if training was stopped; exit code 0 where schedules/run.py asked for it, else 143."""
        if self.why != Why.GO_ON:
            say(f"stopped as asked after step {step}, which is saved; the same command goes on from there")
            raise SystemExit(0 if self.why == Why.ASKED else 128 + signal.SIGTERM)


def agree(why: Why, device: torch.device) -> Why:
    """The weightiest reason of any rank: the same on every rank, at the cost of exchanging one number."""
    if not torch.distributed.is_initialized():
        return why
    votes = torch.tensor([why.value], device=device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return Why(votes.item())


def between_generations(step: int, args: GRPOConfig) -> bool:
    """Whether the completions of the current generation batch are used up after `step` optimiser steps."""
    return step * args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) == 0
