"""Trains one round of ThinkPrune (arXiv 2504.01296): GRPO in which an unfinished completion earns nothing.

    accelerate launch --config_file configs/accelerate/zero2.yaml trainers/grpo_len.py --config configs/…/X.yaml

Each launch trains the next unfinished round of the schedule, or goes on with it from its newest complete checkpoint.
`schedules/run.py` makes all launches and the choices between them.

Where we differ from the released code: truncated completions earn 0 even if a right box stands in the unfinished
thought; the loss is TRL's `dapo` (released: token mean within micro-batches); no KL term by default (the released one
had the wrong sign); no entropy bonus.
"""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

import torch
import transformers
from accelerate import PartialState
from rich.markup import escape
from transformers import PreTrainedTokenizerBase
from transformers.integrations import is_wandb_available
from trl import GRPOConfig

from engines.load import load_tokenizer
from rewards.hard_limit import REWARDS, HardLimitReward
from runtime.config import split_command_line
from runtime.console import say, use_one_torch_thread
from runtime.errors import InputError, entry_point
from runtime.files import write_json
from runtime.ranks import current_ranks
from schedules.config import RunConfig, read_run_config
from schedules.rounds import Round, validate_limits
from schedules.state import Action, RunFolder, hold_folder
from tasks.prompts import check_family, starts_inside_thinking
from tasks.records import Problem
from trainers.checkpoints import checkpoint_to_resume, saved_checkpoints, set_incomplete_aside, step_of
from trainers.grpo_callbacks import CompletionMarker, RoundLog, cut_log_after
from trainers.grpo_data import load_training_problems, round_rows, shortest_completion
from trainers.grpo_options import BatchPlan, make_grpo_config, plan_batches, trainer_values
from trainers.quiet import silence_libraries


class RoundJob:
    """One round of one run: everything that is known and checked before a model is loaded."""

    def __init__(self, config: RunConfig, processes: int) -> None:
        schedule = config.schedule
        self.config = config
        self.values = trainer_values(config)
        self.plan: BatchPlan = plan_batches(self.values, processes, config.where)
        if schedule.reward not in REWARDS:
            raise InputError(f"key 'reward' has the value '{schedule.reward}'; choose one of {', '.join(REWARDS)}")
        check_family(schedule.prompt_family)
        self.folder = RunFolder(config)
        self.folder.check()
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(schedule.model)
        self.problems: list[Problem] = load_training_problems(schedule, self.tokenizer)
        validate_limits(schedule.limits, shortest_completion(self.problems, self.tokenizer))

    def arguments(self, round_: Round) -> GRPOConfig:
        return make_grpo_config(self.values, self.config, round_, self.folder.round_folder(round_))


def train_round(job: RoundJob, round_: Round, start_model: str) -> None:
    """Train `round_` to its end; writes `training.json` when all its checkpoints are there."""
    folder = job.folder.round_folder(round_)
    arguments = job.arguments(round_)
    resume = prepare_resume(folder, arguments)
    if resume is None or step_of(resume) < round_.max_steps:
        _fit(job, round_, start_model, arguments, resume)
    if current_ranks().is_main:
        steps = [step_of(path) for path in saved_checkpoints(folder)]
        write_json(folder / "training.json", {"steps": round_.max_steps, "checkpoints": steps})


def prepare_resume(folder: Path, arguments: GRPOConfig) -> Path | None:
    """The checkpoint to go on from. The main process first clears away what a kill left half written."""
    with PartialState().main_process_first():
        if current_ranks().is_main:
            for moved in set_incomplete_aside(folder):
                say(f"  set aside: {escape(str(moved))} (saving was interrupted)")
        resume = checkpoint_to_resume(folder, arguments.world_size)
        if current_ranks().is_main:
            cut_log_after(folder / "train.jsonl", step_of(resume) if resume else 0)
    if resume is not None:
        say(f"  going on from {escape(str(resume))}")
    return resume


def _fit(job: RoundJob, round_: Round, start_model: str, arguments: GRPOConfig, resume: Path | None) -> None:
    from datasets import Dataset
    from trl import GRPOTrainer

    tokenizer = job.tokenizer
    reward = HardLimitReward(
        tokenizer,
        {tokenizer.eos_token_id, tokenizer.pad_token_id},
        starts_inside_thinking(tokenizer),
        job.config.schedule.reward,
    )
    folder = job.folder.round_folder(round_)
    rows = round_rows(job.problems, job.config.schedule, round_, job.plan.rows(round_.max_steps))
    trainer = GRPOTrainer(
        model=start_model,
        reward_funcs=[reward],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[RoundLog(round_, folder / "train.jsonl"), CompletionMarker(round_)],
    )
    # Only the loaded model knows all its end tokens; TRL's own list keeps its truncated share and ours the same.
    reward.end_ids = frozenset((*trainer.eos_token_ids, tokenizer.pad_token_id))
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.accelerator.wait_for_everyone()


def name_wandb_run(folder: Path, round_: Round, report_to: str | list[str] | None) -> None:
    """One W&B run per round that a restart continues, grouped by run folder. Raises `InputError` without wandb."""
    if "wandb" not in (report_to or ""):
        return
    if not is_wandb_available():
        raise InputError("key 'report_to' has the value 'wandb', which is not installed; pip install wandb")
    digest = hashlib.sha256(f"{folder.resolve()}|{round_.name}".encode()).hexdigest()[:16]
    os.environ.setdefault("WANDB_RUN_ID", digest)
    os.environ.setdefault("WANDB_RESUME", "allow")
    os.environ.setdefault("WANDB_RUN_GROUP", folder.name)


def accept_indexed_cpu() -> None:
    """Let `torch.load` restore to "cpu:0": accelerate 1.15 names the device so, the Trainer resumes to it,
    and torch 2.13 knows "cpu" only."""

    def restore(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
        return storage if location.startswith("cpu:") else None

    torch.serialization.register_package(15, lambda _: None, restore)


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


def check_only(job: RoundJob) -> None:
    """What TRL itself refuses, for one process with the whole batch, so that its batch rules hold as well."""
    batch = job.plan.prompts * job.values["num_generations"]
    job.values |= {"per_device_train_batch_size": batch, "generation_batch_size": None, "steps_per_generation": None}
    job.arguments(job.folder.rounds[0])


@entry_point
def main() -> None:
    silence_libraries()
    use_one_torch_thread()
    accept_indexed_cpu()
    argv, processes = _take_check(sys.argv[1:])
    job = RoundJob(read_run_config(argv), processes or current_ranks().world_size)
    if processes is not None:
        check_only(job)
        return
    with hold_folder(job.folder.path) if current_ranks().is_main else contextlib.nullcontext():
        todo = next_training(job.folder)
        if todo is None:
            say(f"all rounds of {escape(str(job.folder.path))} are done")
            return
        action, round_ = todo
        name_wandb_run(job.folder.path, round_, job.values["report_to"])
        if current_ranks().is_main:
            job.folder.open()
        train_round(job, round_, job.folder.locate(action.start_model))


def _take_check(argv: list[str]) -> tuple[list[str], int | None]:
    """`--check_for_processes N` checks the configuration for a launch with N processes and trains nothing."""
    _, overrides = split_command_line(argv)
    processes = overrides.get("check_for_processes")
    if processes is None:
        return argv, None
    index = argv.index("--check_for_processes")
    return argv[:index] + argv[index + 2 :], int(processes)


if __name__ == "__main__":
    main()
