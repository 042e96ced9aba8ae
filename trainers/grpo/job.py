"""One round of one run: everything that is known and checked before a model is loaded."""

import torch
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from rewards.registry import check_reward
from rewards.trl_reward import LimitReward
from schedules.config import RunConfig
from schedules.rounds import Round, validate_limits
from schedules.state import RunFolder
from secateur.engines.models import load_tokenizer
from secateur.engines.registry import check_options
from secateur.runtime.ranks import current_ranks
from secateur.runtime.tracking import usable_report_to
from secateur.tasks.prompts import check_family, starts_inside_thinking
from trainers.grpo.data import TrainingData, load_training_problems, shortest_completion
from trainers.grpo.options import BatchSizes, batch_sizes, make_grpo_config, trainer_values


class RoundJob:
    """Keys, batches, reward, data and tokenizer of a run for a launch with `processes`.

    Raises `InputError` for the first thing that does not fit.
    """

    def __init__(self, config: RunConfig, processes: int) -> None:
        schedule = config.schedule
        self.config = config
        self.values = trainer_values(config)
        self.batches: BatchSizes = batch_sizes(self.values, processes, config.where)
        check_reward(schedule.reward, schedule.reward_options, self.values["num_generations"], schedule.limits)
        check_family(schedule.prompt_family)
        check_options(schedule.validation_engine, schedule.validation_engine_options)
        self.folder = RunFolder(config)
        self.folder.check()
        self.values["report_to"] = usable_report_to(self.values["report_to"])
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(schedule.model)
        self.data: TrainingData = load_training_problems(schedule, self.tokenizer)
        validate_limits(schedule.limits, shortest_completion(self.data.problems, self.tokenizer))

    def arguments(self, round_: Round) -> GRPOConfig:
        return make_grpo_config(self.values, self.config, round_, self.folder.round_folder(round_))

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
            {tokenizer.eos_token_id, tokenizer.pad_token_id},
            starts_inside_thinking(tokenizer),
            schedule.reward,
            schedule.reward_options,
            round_.limit,
            current_ranks().world_size,
        )
