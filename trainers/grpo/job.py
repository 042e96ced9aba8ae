"""One round of one run: all that is known and checked before a model is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.markup import escape
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig

from rewards.registry import check_reward
from rewards.trl_reward import LimitReward
from schedules.config import RunConfig
from schedules.records import read_pass_rates
from schedules.rounds import Round, validate_limits
from schedules.state import RunFolder
from secateur.engines.model_files import (
    check_context,
    context_tokens,
    load_tokenizer,
    read_model_config,
    stored_end_ids,
    unstopped_turn,
)
from secateur.engines.registry import check_options
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.process import current_ranks
from secateur.runtime.tracking import usable_report_to
from secateur.tasks.prompts import Messages, starts_inside_thinking
from secateur.tasks.records import Problem
from trainers.grpo.adapters import (
    LastCompletions,
    Merging,
    adapter_shape,
    check_blocks,
    check_mergeable,
    keep_adapters_exact,
)
from trainers.grpo.data import (
    Row,
    TrainingData,
    check_validation,
    load_training_problems,
    moves_system_turn,
    round_rows,
    row_of,
    shortest_completion,
)
from trainers.grpo.dynamic import GroupLog, PromptDrawer
from trainers.grpo.handover import Float32Weights, weights_folder
from trainers.grpo.keys import BatchSizes, batch_sizes, make_grpo_config, trainer_values, uneven_steps

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import GRPOTrainer


class RoundJob:
    """Keys, batches, reward, data and tokenizer of a run for a launch with `processes`.

    Raises `InputError` for the first thing that does not fit.
    """

    def __init__(self, config: RunConfig, processes: int) -> None:
        schedule = config.schedule
        self.config = config
        self.values = trainer_values(config)
        self.batches: BatchSizes = batch_sizes(self.values, processes, config.where)
        limits = [round_.limit for round_ in schedule.rounds] + [schedule.limit_range[0]]
        check_reward(schedule.reward, schedule.reward_options, self.values["num_generations"], limits)
        check_options(schedule.validation_engine, schedule.validation_engine_options)
        if schedule.dynamic_prompts and self.values.get("dataloader_num_workers"):
            raise InputError(
                f"{config.where}: key 'dataloader_num_workers' has the value {self.values['dataloader_num_workers']} "
                "beside dynamic_prompts: workers read prompts before the groups are known that they are drawn by; "
                "leave it out"
            )
        self.folder = RunFolder(config)
        self.folder.check()
        self.values["report_to"] = usable_report_to(self.values["report_to"])
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(schedule.model)
        self.data: TrainingData = load_training_problems(schedule, self.tokenizer)
        check_validation(schedule, self.data.problems)
        validate_limits([schedule.limit_range[0]], shortest_completion(self.data.problems, self.tokenizer))
        self.adapters = adapter_shape(schedule)
        self._check_model()
        if warning := uneven_steps(self.values["loss_type"], *schedule.limit_range):
            say(f"[bold]warning: {warning}[/bold]")

    def _check_model(self) -> None:
        """What a model's files tell of its context, end tokens and chat template, before its weights are loaded."""
        schedule, tokenizer = self.config.schedule, self.tokenizer
        config = read_model_config(schedule.model)
        check_context(config, self.data.longest_prompt, "limits", schedule.limit_range[1])
        if self.values.get("use_vllm"):  # which refuses more than the context, though no prompt may need it
            needed = self.values["vllm_max_model_length"]
            self.values["vllm_max_model_length"] = min(needed, context_tokens(config) or needed)
        if warning := unstopped_turn(tokenizer, stored_end_ids(schedule.model, config, tokenizer, of_trainer=True)):
            say(f"[bold]warning: {escape(warning)}[/bold]")
        if moves_system_turn(self.data.problems[0], schedule, tokenizer):
            say("  the model's chat template has no system turn: its text begins the user's")

    def rows(self, round_: Round) -> list[Row]:
        """What `round_` trains on, in the order of its steps."""
        rows = self.batches.rows(round_.max_steps)
        return round_rows(self.problems(round_), self.config.schedule, round_, rows, self.tokenizer)

    def dataset(self, round_: Round, reward: LimitReward) -> "Dataset":
        """`rows` for TRL; with `dynamic_prompts` they are made when they are asked for, and `reward` tells how the
        groups before went."""
        from datasets import Dataset

        if not self.config.schedule.dynamic_prompts:
            return Dataset.from_list(self.rows(round_))
        problems, schedule = self.problems(round_), self.config.schedule
        drawer = PromptDrawer(len(problems), self.batches.prompts, schedule.seed, round_)
        reward.on_groups = GroupLog(self.folder.round_folder(round_), drawer, self.batches.steps_per_batch)

        def made(asked: dict[str, list[int]]) -> dict[str, list[Messages | str | int]]:
            drawn = [(problems[drawer.problem_of(row)], row) for row in asked["row"]]
            entries = [row_of(problem, row, schedule, round_, self.tokenizer) for problem, row in drawn]
            return {key: [entry[key] for entry in entries] for key in entries[0]}

        rows = range(self.batches.rows(round_.max_steps))
        return Dataset.from_list([{"row": row} for row in rows]).with_transform(made)

    def problems(self, round_: Round) -> list[Problem]:
        """Those that `round_` trains on: all, or those whose rate is within `pass_rate`. Raises `InputError` where
        the rates were not sampled."""
        bounds = self.config.schedule.pass_rate
        if bounds is None:
            return self.data.problems
        folder = self.folder.round_folder(round_)
        rates = read_pass_rates(folder)
        if rates.rates.keys() != {problem.id for problem in self.data.problems}:
            raise InputError(f"{folder}: its pass rates are of other problems; run schedules/run.py to sample these")
        kept = set(rates.kept(bounds))
        return [problem for problem in self.data.problems if problem.id in kept]

    def arguments(self, round_: Round) -> GRPOConfig:
        return make_grpo_config(self.values, self.config, round_, self.folder.round_folder(round_))

    def weights_folder(self, model: str) -> Path:
        """Where the weights of `model`, which has been loaded, lie."""
        return weights_folder(model, (self.values.get("model_init_kwargs") or {}).get("revision"))

    def handovers(
        self, trainer: "GRPOTrainer", start_model: str, completions: LastCompletions
    ) -> list[TrainerCallback]:
        """What makes plain models of the checkpoints that `trainer` saves. Raises `InputError` where the files of the
        start model do not allow it."""
        schedule, sharded = self.config.schedule, trainer.args.deepspeed_plugin is not None
        start = self.weights_folder(start_model)
        if self.adapters is not None:
            check_mergeable(start, self.adapters.layers)
            if schedule.load_in_4bit:
                check_blocks(trainer.model)
                keep_adapters_exact(trainer.model)
            return [Merging(trainer, start, torch.float32 if schedule.float32_handover else None, completions)]
        return [Float32Weights(trainer, start)] if schedule.float32_handover and sharded else []

    def check_arguments(self) -> None:
        """What TRL itself refuses, asked as one process with the whole batch, so that its batch rules hold too."""
        batch = self.batches.prompts * self.values["num_generations"]
        whole = {"per_device_train_batch_size": batch, "generation_batch_size": None, "steps_per_generation": None}
        if not torch.accelerator.is_available():  # a plan may be made where no GPU is
            whole["use_cpu"] = True
        first = self.folder.rounds[0]
        make_grpo_config(self.values | whole, self.config, first, self.folder.round_folder(first))

    def make_reward(self, round_: Round) -> LimitReward:
        tokenizer, schedule = self.tokenizer, self.config.schedule
        return LimitReward(
            tokenizer,
            {tokenizer.eos_token_id},
            starts_inside_thinking(tokenizer),
            schedule.reward,
            schedule.reward_options,
            round_.limit,
            current_ranks().world_size,
            schedule.answer_from,
            schedule.grading_seconds,
        )
