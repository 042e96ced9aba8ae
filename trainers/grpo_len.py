r"""Trains one round of ThinkPrune (arXiv 2504.01296): GRPO in which an unfinished completion earns nothing.

    accelerate launch --config_file configs/accelerate/cpu.yaml \
        trainers/grpo_len.py --config configs/demo/thinkprune.yaml
    accelerate launch --config_file configs/accelerate/zero2.yaml \
        trainers/grpo_len.py --config configs/thinkprune/r1_distill_qwen_1.5b.yaml

Each launch trains the next unfinished round of the schedule, or goes on with it from its newest complete checkpoint.
`schedules/run.py` makes all launches and the choices between them.

Where we differ from the paper: problems of the evaluation sets are taken out of the training problems; a round is one
epoch over prompts that are ordered beforehand, since TRL forgets its order on resume; a schedule ends early if the
limit of a round cannot be met. Where we differ from its released code: truncated completions earn 0 even if a right
box stands in the unfinished thought, as the paper means it, and the KL term, if there is one, has the sign that keeps
the model near its reference. Batches, loss and coefficients are keys of the config; configs/thinkprune/ follows the
paper and says at each key where it cannot.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import contextlib
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from rich.markup import escape
from trl import GRPOConfig

from schedules.config import read_run_config
from schedules.dead import refuse_dead
from schedules.integrity import step_of
from schedules.records import write_data
from schedules.rounds import Round
from schedules.state import Action, RunFolder
from secateur.engines.finite import check_start
from secateur.engines.models import keep_special_tokens_only, reduce_gradients_in_place
from secateur.runtime.config import take_options
from secateur.runtime.console import say, silence_libraries, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder, own_key
from secateur.runtime.launch_file import check_saves_weights, check_sharding
from secateur.runtime.process import current_ranks, entry_point
from secateur.runtime.tensorboard import name_tensorboard_run
from secateur.runtime.tracking import name_wandb_run
from trainers.dry_run.report import PLAN_OPTIONS, plan_only
from trainers.grpo.adapters import LastCompletions, peft_config, quantization_config
from trainers.grpo.callbacks import (
    CleanStop,
    CompletionSample,
    DeadWatch,
    EngineNote,
    MemoryReturn,
    round_log,
)
from trainers.grpo.dynamic import GROUPS
from trainers.grpo.handover import check_launch
from trainers.grpo.job import RoundJob
from trainers.grpo.keys import check_machine
from trainers.grpo.record import record_training
from trainers.grpo.rollout_server import check_rollout_server, explain_dead_server
from trainers.steps.checkpoints import prepare_resume
from trainers.steps.log import CompletionMarker

if TYPE_CHECKING:
    from trl import GRPOTrainer


def train_round(job: RoundJob, round_: Round, start_model: str) -> None:
    """Train `round_` to its end; writes `training.json` when all its checkpoints are there."""
    folder = job.folder.round_folder(round_)
    arguments = job.arguments(round_)
    check_saves_weights(arguments.deepspeed_plugin)
    stage = arguments.deepspeed_plugin.zero_stage if arguments.deepspeed_plugin is not None else 0
    check_launch(job.config.schedule, job.values, stage)
    if arguments.deepspeed_plugin is not None and current_ranks().is_main:
        own_key()  # which its checkpoints are sealed with: better missed now than when the first is saved
    resume = prepare_resume(folder, arguments.world_size, GROUPS)
    if resume is None or step_of(resume) < round_.max_steps:
        with explain_dead_server(arguments):
            _fit(job, round_, start_model, arguments, resume)
    if current_ranks().is_main:
        record_training(folder, round_, job.weights_folder(start_model))


def _fit(job: RoundJob, round_: Round, start_model: str, arguments: GRPOConfig, resume: Path | None) -> None:
    if current_ranks().is_main and "tensorboard" in arguments.report_to:
        name_tensorboard_run(job.folder.path, round_.name, step_of(resume) if resume else 0)
    stop, schedule = CleanStop(job.folder.path), job.config.schedule
    watch = DeadWatch(job.folder.round_folder(round_), schedule.dead_after_steps, schedule.stop_when_dead)
    trainer = _make_trainer(job, round_, start_model, arguments, [watch, stop])
    check_start(trainer.model, start_model)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.accelerator.wait_for_everyone()
    watch.leave()
    stop.leave(trainer.state.global_step)


def _make_trainer(
    job: RoundJob,
    round_: Round,
    start_model: str,
    arguments: GRPOConfig,
    watches: Sequence[transformers.TrainerCallback],
) -> "GRPOTrainer":
    from trl import GRPOTrainer

    reward, folder, schedule = job.make_reward(round_), job.folder.round_folder(round_), job.config.schedule
    dataset, completions = job.dataset(round_, reward), LastCompletions(reward, job.tokenizer)
    trainer = GRPOTrainer(
        model=start_model,
        reward_funcs=[completions],
        args=arguments,
        peft_config=peft_config(schedule),
        quantization_config=quantization_config(schedule, arguments.bf16),
        train_dataset=dataset,
        processing_class=job.tokenizer,
        callbacks=[*watches, round_log(round_, folder / "train.jsonl")],
    )
    keep_special_tokens_only(trainer.model.get_base_model() if job.adapters else trainer.model)
    reduce_gradients_in_place(trainer.accelerator)
    reward.end_ids = frozenset(trainer.eos_token_ids)  # only the loaded model knows all of them
    handovers = job.handovers(trainer, start_model, completions)
    for callback in [EngineNote(trainer, folder), *handovers, CompletionMarker(round_.limit)]:
        trainer.add_callback(callback)
    if schedule.logged_completions is not None:
        trainer.add_callback(CompletionSample(trainer, schedule.logged_completions, schedule.seed))
    if arguments.use_cpu:
        trainer.add_callback(MemoryReturn())
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def accept_indexed_cpu() -> None:
    """Let `torch.load` restore to "cpu:0": accelerate 1.15 names the device so, the Trainer resumes to it,
    and torch 2.13 knows "cpu" only."""

    def restore(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
        return storage if location.startswith("cpu:") else None

    torch.serialization.register_package(15, lambda _: None, restore)


def join_processes(patience_s: int | None) -> None:
    """Open the process group of a launch on CPUs, where one process waits for another so long: transformers 5 hands
    `ddp_timeout` on for GPUs alone, and gloo's own is 30 minutes. accelerate takes the group that it finds."""
    if current_ranks().world_size > 1 and patience_s is not None:
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=patience_s))


def next_training(folder: RunFolder) -> tuple[Action, Round] | None:
    """The round to train, None if the whole schedule is done.

    Raises `InputError` if the round before still waits for its choice.
    """
    action = folder.next_action()
    if action.kind in ("export", "done") or action.round is None:
        return None
    if action.kind != "train":
        raise InputError(
            f"round {action.round.name} is trained but its checkpoint is not chosen; run schedules/run.py with the "
            "same --config, which validates and chooses"
        )
    return action, action.round


def train_next_round(job: RoundJob) -> None:
    """On the main process first: take the folder, see that the rollout server is there, write down what is run."""
    todo = next_training(job.folder)
    if todo is None:
        say(f"all rounds of {escape(str(job.folder.path))} are done")
        return
    action, round_ = todo
    refuse_dead(job.folder.round_folder(round_), job.config.schedule.stop_when_dead)
    if current_ranks().is_main:
        check_rollout_server(job.values, job.config.schedule.model)
        job.folder.open()
        write_data(job.folder.path, job.data.report)
        say(f"  data: {escape(job.data.report.summary())}")
        if "wandb" in job.values["report_to"]:
            name_wandb_run(job.folder.path, round_.name, job.values.get("project"))
    train_round(job, round_, job.folder.locate(action.start_model))


@entry_point
def main() -> None:
    silence_libraries()
    use_one_torch_thread()
    accept_indexed_cpu()
    check_sharding()
    argv, planned = take_options(sys.argv[1:], PLAN_OPTIONS)
    config = read_run_config(argv)
    if planned or config.schedule.dry_run:
        plan_only(config, planned)
        return
    job = RoundJob(config, current_ranks().world_size)
    on_cpus = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    check_machine(
        job.values, int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 0, on_cpus, job.config.schedule.load_in_4bit
    )
    if on_cpus or job.values.get("use_cpu"):
        join_processes(job.values.get("ddp_timeout"))
    with hold_folder(job.folder.path) if current_ranks().is_main else contextlib.nullcontext():
        train_next_round(job)


if __name__ == "__main__":
    main()
