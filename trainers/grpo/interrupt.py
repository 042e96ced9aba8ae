"""A stop that loses nothing: on SIGTERM, or when schedules/run.py asks for it, a round ends after its step, saved.

All ranks agree at the end of every optimiser step, because a signal reaches them at different times or only one of
them. The checkpoint is saved out of turn, and only between two generation batches: completions that TRL has buffered
are not saved, so a resume within a batch would train on others. Up to the next such step training goes on, which
takes no generation.
"""

import signal
from enum import IntEnum
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import GRPOConfig

from schedules.state import stop_requested
from secateur.runtime.console import say


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
