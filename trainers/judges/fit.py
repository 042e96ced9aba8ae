"""The training loop that all judges share: focal loss on pairs, evaluation on development problems, the best kept.

Most pairs of traces share their answer, and most of those are easy. Focal loss takes weight from what is already
right. Counting the rarer label twice is the same in expectation as showing those pairs twice. Sources: DeepPrune,
arXiv 2510.08483, section on the judge; focal loss after Lin et al., arXiv 1708.02002, equation 5.

`accelerate launch` with several processes works: every step's items are dealt out to the processes, gradients are
averaged by the wrapped model, and every process learns the same development score, so all agree on what is best.
"""

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType
from rich.markup import escape
from torch import nn

from schedules.integrity import check_seal, seal
from secateur.runtime.console import MetricLog, progress, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import fingerprints, first_changed
from secateur.runtime.records import read_record, write_record
from trainers.judges.config import FOCAL_GAMMA, MINORITY_FACTOR


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    gamma: float = FOCAL_GAMMA,
    alpha: float | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of -alpha_t (1 - p_t)^gamma log p_t over pairs, a scalar.

    `logits` and `labels` are [pairs]; label 1 = same answer. `alpha` (0-1) weighs label 1 and 1 - alpha label 0,
    None leaves both at 1. `weights` [pairs] (see `minority_weights`) make it a weighted mean. gamma 0 without alpha
    is plain binary cross-entropy.
    """
    labels = labels.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")  # = -log p_t
    loss = (1.0 - torch.exp(-cross_entropy)).clamp_min(0.0) ** gamma * cross_entropy if gamma else cross_entropy
    if alpha is not None:
        loss = loss * (alpha * labels + (1.0 - alpha) * (1.0 - labels))
    if weights is None:
        return loss.mean()
    return (loss * weights).sum() / weights.sum()


def minority_label(labels: torch.Tensor) -> int:
    """The label (0 or 1) that fewer pairs have; 0 ("different", the paper's minority) when both are as frequent."""
    return int(2 * labels.sum() < len(labels))


def minority_weights(labels: torch.Tensor, minority: int, factor: float = MINORITY_FACTOR) -> torch.Tensor:
    """[pairs] float32: `factor` for pairs with the rarer label, 1 for the others."""
    return torch.where(labels.long() == minority, factor, 1.0)


Item = TypeVar("Item")
GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class FitSettings:
    """`items_per_step` counts problems (linear kinds) or pairs (pairwise) over all processes, `items_per_forward`
    those that one process puts through the model at once (None = its whole share; needs an accelerator); `minority`
    is the label (0 or 1) that weighs `minority_factor`."""

    epochs: float
    items_per_step: int
    learning_rate: float
    weight_decay: float
    warmup_share: float
    evaluations: int
    gamma: float
    alpha: float | None
    minority: int
    minority_factor: float
    seed: int
    items_per_forward: int | None = None


@dataclass(frozen=True)
class FitResult:
    """Development AUROC (0-1), -1 before the first evaluation; `steps` are those done."""

    best: float = -1.0
    best_step: int = 0
    last: float = -1.0
    steps: int = 0

    @property
    def words(self) -> str:
        return f" · dev AUROC {self.last:.3f} (best {self.best:.3f})" if self.steps else ""


RESULT_FILE, _FORMAT = "result.json", 1


@dataclass(frozen=True)
class FitState:
    """What a checkpoint says of itself: `files` are those of the training state, name → checksum."""

    result: FitResult
    files: Mapping[str, str]


@dataclass
class Fit(Generic[Item]):
    """One training. `module(items)` gives logits [pairs], `labels_of(items)` their labels; `dev_score()` scores the
    present weights (AUROC, 0-1) and `keep_best()` is called whenever that is the best so far.

    `track(values, step)` takes the same figures as the log, for a tracker such as W&B.
    Without an `accelerator` every process does the same whole training. With one, `checkpoint` is a folder from which
    a training that was cut off goes on; it is written after every evaluation.
    """

    module: nn.Module
    items: Sequence[Item]
    labels_of: Callable[[Sequence[Item]], torch.Tensor]
    dev_score: Callable[[], float]
    keep_best: Callable[[], None]
    settings: FitSettings
    log: MetricLog
    title: str
    track: Callable[[dict[str, float], int], None] | None = None
    accelerator: Accelerator | None = None
    checkpoint: Path | None = None

    def run(self) -> FitResult:
        schedule = self._schedule()
        module, optimizer = self._prepare()
        result = self._resume()
        due = {round((i + 1) * len(schedule) / self.settings.evaluations) for i in range(self.settings.evaluations)}
        with progress(self.title, len(schedule)) as bar:
            bar.advance(result.steps)
            for step, items in enumerate(schedule[result.steps :], start=result.steps + 1):
                rate = self.settings.learning_rate * rate_factor(step, len(schedule), self.settings.warmup_share)
                loss = self._step(module, optimizer, items, rate)
                if step in due:
                    result = self._evaluate(step, result)
                    self._log(step, loss, rate, result)
                    self._save(result)
                bar.advance(note=f"loss {loss:.3f}{result.words}")
        return result

    def _schedule(self) -> list[list[Item]]:
        """Items per step: every epoch in a new order; the last epoch may be a part."""
        size, rng = self.settings.items_per_step, random.Random(self.settings.seed)
        steps = max(1, round(self.settings.epochs * len(self.items) / size))
        order: list[Item] = []
        while len(order) < steps * size:
            order += rng.sample(self.items, len(self.items))
        return [order[i * size : (i + 1) * size] for i in range(steps)]

    def _prepare(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        settings = self.settings
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.module.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        if self.accelerator is None:
            return self.module, optimizer
        world = self.accelerator.num_processes
        if settings.items_per_step % world:
            raise InputError(
                f"{settings.items_per_step} items per step cannot be dealt out to {world} processes; make "
                "'problems_per_step' or 'pairs_per_step' a multiple of their number"
            )
        share = settings.items_per_step // world
        self.accelerator.gradient_accumulation_steps = parts = -(-share // (settings.items_per_forward or share))
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            # It reads the batch size off a data loader, and there is none here.
            plugin = self.accelerator.state.deepspeed_plugin
            if plugin.zero_stage == 3:
                raise InputError("a judge trains with DeepSpeed up to ZeRO-2; choose zero2.yaml")
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = share
            plugin.deepspeed_config["gradient_accumulation_steps"] = parts
        return self.accelerator.prepare(self.module, optimizer)

    def _step(self, module: nn.Module, optimizer: torch.optim.Optimizer, items: list[Item], rate: float) -> float:
        """One update on a step's items, in as many forward passes as `items_per_forward` asks for: the weighted mean
        over all of them, however they are parted."""
        module.train()
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self.accelerator is not None:
            items = items[self.accelerator.process_index :: self.accelerator.num_processes]
        size = self.settings.items_per_forward or len(items)
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        labels = [self.labels_of(part) for part in parts]
        weights = [minority_weights(own, self.settings.minority, self.settings.minority_factor) for own in labels]
        mass, total = sum(own.sum() for own in weights), 0.0
        for part, own_labels, own_weights in zip(parts, labels, weights, strict=True):
            with nullcontext() if self.accelerator is None else self.accelerator.accumulate(module):
                logits = module(part).float()
                targets, scale = own_labels.to(logits.device), own_weights.to(logits.device)
                loss = focal_loss(logits, targets, self.settings.gamma, self.settings.alpha, scale)
                self._update(module, optimizer, loss * (own_weights.sum() / mass))
                total += float(loss.detach() * (own_weights.sum() / mass))
        return total

    def _update(self, module: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        """Add the gradient of a part of the step; after the last part, change the weights."""
        if self.accelerator is None:
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), GRADIENT_NORM)
        else:
            # It divides by the number of parts, for losses that are means of their own.
            self.accelerator.backward(loss * self.accelerator.gradient_accumulation_steps)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(module.parameters(), GRADIENT_NORM)
        optimizer.step()  # the accelerator's does nothing before the last part
        optimizer.zero_grad()

    def _evaluate(self, step: int, result: FitResult) -> FitResult:
        self.module.eval()
        with torch.no_grad():
            score = self.dev_score()
        if score > result.best:
            self.keep_best()
            result = replace(result, best=score, best_step=step)
        return replace(result, last=score, steps=step)

    def _log(self, step: int, loss: float, rate: float, result: FitResult) -> None:
        values = {"loss": loss, "dev_auroc": result.last, "learning_rate": rate}
        self.log.write(training=self.title, step=step, **values)
        if self.track is not None:
            self.track(values, step)

    def _save(self, result: FitResult) -> None:
        """After the log, from which a start that goes on takes out what is later."""
        if self.accelerator is None or self.checkpoint is None:
            return
        fresh = self.checkpoint.with_name(f".{self.checkpoint.name}.tmp")
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if self._unpickles:
                seal(fresh)
            write_record(fresh / RESULT_FILE, FitState(result, fingerprints(fresh)), _FORMAT)
            shutil.rmtree(self.checkpoint, ignore_errors=True)
            fresh.rename(self.checkpoint)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> FitResult:
        """Where a training that was cut off goes on; what the log says of later steps is said again."""
        steps = 0 if self.accelerator is None or self.checkpoint is None else steps_done(self.checkpoint)
        self.log.forget_after(steps, training=self.title)
        if not steps:
            return FitResult()
        if self._unpickles and self.accelerator.is_main_process:
            check_seal(self.checkpoint)
        self.accelerator.wait_for_everyone()  # until the main process has looked
        self.accelerator.load_state(str(self.checkpoint))
        return _stored(self.checkpoint).result

    @property
    def _unpickles(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


def steps_done(checkpoint: Path) -> int:
    """After how many steps a training would go on from there; 0 without a checkpoint, and for one that was damaged,
    which is said: training then begins anew."""
    if not checkpoint.is_dir():
        return 0
    if fault := _damage(checkpoint):
        say(f"  passed over: {escape(str(checkpoint))}: {escape(fault)}")
        return 0
    return _stored(checkpoint).result.steps


def _damage(checkpoint: Path) -> str | None:
    try:
        return first_changed(checkpoint, _stored(checkpoint).files)
    except InputError as error:
        return str(error)


def _stored(checkpoint: Path) -> FitState:
    return read_record(checkpoint / RESULT_FILE, FitState, _FORMAT, "training begins anew")


def rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Factor (0-1) on the learning rate at `step` (from 1): linear up, then linear down to a tenth."""
    warmup = max(1, round(warmup_share * steps))
    if step <= warmup:
        return step / warmup
    return 1.0 - 0.9 * (step - warmup) / max(1, steps - warmup)
