"""What happens beside the training steps of a round of GRPO: its log, signs that it is dead, and a clean stop.

On SIGTERM or SIGUSR1, or when schedules/run.py asks for it, a round ends after its step, saved. All ranks agree at
the end of every optimiser step, because a signal reaches them at different times or only one of them. The checkpoint
is saved out of turn, and only between two generation batches: completions that TRL has buffered are not saved, so a
resume within a batch would train on others. Training goes on up to the next such step, which takes no generation.
"""

import random
import signal
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig

from schedules.dead import (
    FINITE_WEIGHTS,
    WEIGHTS,
    DeadRound,
    Sign,
    dead_round,
    explain_end,
    find_signs,
    with_generation,
    write_dead,
)
from schedules.records import TrainedBy
from schedules.rounds import Round
from schedules.state import stop_requested
from secateur.engines.finite import weights_are_finite
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_jsonl
from secateur.runtime.process import STOP_SIGNALS, current_ranks, return_freed_memory
from trainers.grpo.record import write_trained_by
from trainers.steps.log import Metrics, StepLog

if TYPE_CHECKING:
    from trl import GRPOTrainer


def round_log(round_: Round, path: Path) -> StepLog:
    """Of a round: reward, length and truncated share on the progress line, its limit in every line of the log."""
    return StepLog(f"round {round_.name}", path, "loss", _round_note, limit=round_.limit)


def _round_note(logs: Metrics) -> str:
    if "reward" not in logs:  # a step on completions that an earlier one has told of
        return ""
    return (
        f"reward {logs['reward']:.2f}  length {logs['completions/mean_length']:.0f}  "
        f"truncated {logs['completions/clipped_ratio']:.0%}"
    )


class DeadWatch(TrainerCallback):
    """Says once of every sign that the round is dead, and with `stop` ends it, saved, between two generation batches
    (see schedules/dead.py). Weights that are not finite end it in any case, without saving.

    Stands before the log of the round, which so holds that the weights are lost: generation would fail with them
    before another step is logged. A look at them at every step costs less than one pass over them.
    needed: logged steps that a sign takes; those before a resume count.
    """

    def __init__(self, round_folder: Path, needed: int, stop: bool) -> None:
        self.folder, self.needed, self.stop = round_folder, needed, stop
        self.ended: DeadRound | None = None
        self._steps: deque[Metrics] = deque(maxlen=needed)
        self._said: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        log = self.folder / "train.jsonl"
        for _, logged in read_jsonl(log) if log.is_file() else ():
            self._append(logged)

    def _append(self, logged: Metrics) -> None:
        self._steps.append(with_generation(self._steps[-1] if self._steps else {}, logged))

    def on_log(
        self,
        args: GRPOConfig,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        if agree(int(not weights_are_finite(model)), args.device):
            logs[FINITE_WEIGHTS] = 0.0
        self._append(logs)
        signs = find_signs(list(self._steps), self.needed)
        lost = WEIGHTS in signs
        if not lost:  # that is said as an error
            self._say(signs)
        between = between_generations(state.global_step, args) and state.global_step < args.max_steps
        if lost or (signs and self.stop and between):
            self.ended = dead_round(state.global_step, signs)
            control.should_training_stop, control.should_save = True, not lost

    def _say(self, signs: Sequence[Sign]) -> None:
        for sign in signs:
            if sign.name not in self._said:
                say(f"[bold]warning: over the last {len(self._steps)} logged steps {sign.words}[/bold]")
        self._said |= {sign.name for sign in signs}

    def leave(self) -> None:
        """Raises `InputError` if the round was ended; with `stop` its folder keeps why."""
        if self.ended is None:
            return
        if self.stop and current_ranks().is_main:
            write_dead(self.folder, self.ended)
        raise InputError(explain_end(self.folder, self.ended, self.stop))


class CompletionSample(TrainerCallback):
    """Leaves `count` completions of each step to TRL's `log_completions`, which writes its table after this: all of
    2,048 long ones a step are gigabytes a run. Which rows, follows from the seed and the step alone."""

    def __init__(self, trainer: "GRPOTrainer", count: int, seed: int) -> None:
        self.trainer, self.count, self.seed = trainer, count, seed

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        logs = self.trainer._logs  # the only place where TRL 1.16 has them before they are written
        rows = len(logs["prompt"])
        if rows <= self.count:
            return
        places = sorted(random.Random(f"{self.seed}|{state.global_step}|completions").sample(range(rows), self.count))
        for column in (logs["prompt"], logs["completion"], logs["advantages"], logs["images"]):
            _keep(column, places)
        for column in (*logs["rewards"].values(), *logs["extra"].values()):
            _keep(column, places)


def _keep(column: deque[object], places: Sequence[int]) -> None:
    """Leave the entries at `places`; a column of which nothing is logged is empty."""
    kept = [column[place] for place in places] if column else []
    column.clear()
    column.extend(kept)


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


class MemoryReturn(TrainerCallback):
    """Gives freed memory back after every micro-batch and step of a training on CPUs, where the gaps that generation
    and gradients leave for each other would add up."""

    def on_substep_end(self, args: GRPOConfig, state: TrainerState, control: TrainerControl, **_: object) -> None:
        return_freed_memory()

    def on_step_end(self, args: GRPOConfig, state: TrainerState, control: TrainerControl, **_: object) -> None:
        return_freed_memory()


class Why(IntEnum):
    """Why training ends early, by weight."""

    GO_ON = 0
    ASKED = 1
    SIGNALLED = 2


class CleanStop(TrainerCallback):
    """Watches for the signals of a scheduler, for the SIGTERM that comes when the launcher has died (see
    `secateur.runtime.process.end_with_launcher`), and for the file that `schedules.state.request_stop` writes.

    Until training begins a signal ends the process at once: there is nothing to save.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.why = Why.GO_ON
        self._signalled = False

    def on_train_begin(self, args: GRPOConfig, state: TrainerState, control: TrainerControl, **_: object) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, signum: int, _: object) -> None:
        self._signalled = True

    def on_step_end(self, args: GRPOConfig, state: TrainerState, control: TrainerControl, **_: object) -> None:
        why = Why(agree(self._here(), args.device))
        if why != Why.GO_ON and between_generations(state.global_step, args) and state.global_step < args.max_steps:
            self.why = why
            control.should_save = control.should_training_stop = True

    def _here(self) -> Why:
        if self._signalled:
            return Why.SIGNALLED
        return Why.ASKED if stop_requested(self.run_folder) else Why.GO_ON

    def on_train_end(self, args: GRPOConfig, state: TrainerState, control: TrainerControl, **_: object) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL if self.why == Why.GO_ON else signal.SIG_IGN)

    def leave(self, step: int) -> None:
        """End the process if training was stopped; exit code 0 where schedules/run.py asked for it, else 143."""
        if self.why != Why.GO_ON:
            say(f"stopped as asked after step {step}, which is saved; the same command goes on from there")
            raise SystemExit(0 if self.why == Why.ASKED else 128 + signal.SIGTERM)


def agree(value: int, device: torch.device) -> int:
    """The largest value of any rank: the same on every rank, at the cost of exchanging one number."""
    if not torch.distributed.is_initialized():
        return value
    votes = torch.tensor([value], device=device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return int(votes.item())


def between_generations(step: int, args: GRPOConfig) -> bool:
    """Whether the completions of the current generation batch are used up after `step` optimiser steps."""
    return step * args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) == 0
