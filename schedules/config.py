"""The keys of a schedule's YAML file that are ours; all others belong to TRL's `GRPOConfig` and pass through."""

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rewards.registry import find_reward, make_options
from schedules.choice import TOLERANCE_REFERENCES
from schedules.rounds import AUTO, Limit, Round, make_rounds
from secateur.engines.gguf import plain_model
from secateur.engines.registry import engine_kind
from secateur.runtime.command_lines import PROBLEM, written
from secateur.runtime.config import blamed, check_seed, check_types, read_yaml, split_command_line
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.hub import check_key, require_model_folder
from secateur.tasks.answers.extraction import ANSWER, extraction
from secateur.tasks.prompts import Prompt

_AT_LEAST_ONE = (
    "problem_count",
    "pass_rate_samples",
    "validation_count",
    "validation_samples",
    "validation_max_tokens",
    "validation_rows",
    "max_prompt_tokens",
    "gpu_memory_gib",
    "lora_r",
    "lora_alpha",
    "dead_after_steps",
    "logged_completions",
    "auto_floor",
)


TOKEN = "hub_token"


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What is trained, on what, within which limits, and how a checkpoint is chosen.

    model: model folder, Hub name or GGUF file that round 1 starts from.
    output_dir: the run folder.
    limits: limit of each round [tokens], from loose to tight; `auto` behind the first: drawn from the lengths of the
      model that the round before has chosen.
    auto_quantile: an auto limit is the length that this share of that model's validation samples does not exceed
      (fraction 0-1), but no more than the limit before.
    auto_floor: no auto limit is lower [tokens]; needed where there is one.
    expanding_rounds: limits may rise again, as SIRI's do; a round with a higher limit than the one before passes on
      its most accurate checkpoint instead of its shortest.
    min_shortening: the schedule ends with a round whose choice is not shorter than its start model by this share
      (fraction 0-1), an expanding one apart; null: it goes on to the last limit.
    steps_per_round: optimiser steps, one number or one per round.
    problems, problem_count: training problems (see secateur/tasks/sources.py) and how many of them.
    decontaminate: evaluation sets, named like `problems`, whose problems are taken out of the training problems.
    max_prompt_tokens: longer prompts are dropped before training [tokens].
    prompt_family: deepseek, qwen or plain (see secateur/tasks/prompts.py).
    system_prompt: a system prompt of your own, in training and validation alike; null: the family's, in training
      alone; "": none.
    instruction: follows the problem, or holds {problem} where that belongs; null: the family's; "": none.
    state_limit: tell the model the round's limit while it trains, at the end of the system prompt.
    pass_rate, pass_rate_samples: `[low, high]`: train a round on those problems only that its start model solves in
      such a share of so many samples (fractions 0-1, ends included), right and within the limit; null: on all.
    dynamic_prompts: draw a batch's prompts from those whose last group earned different rewards and from those not
      seen yet (see trainers/grpo/dynamic.py).
    reward, reward_options: `hard_limit`, or one of its published alternatives and its options (see rewards/); a
      `RewardSpec` of your own is named `package.module:NAME`.
    answer_from: where the final answer of a completion is, for reward and choice: answer, anywhere, pattern:REGEX or
      package.module:function (see secateur/tasks/answers/extraction.py).
    seed: orders the prompts and seeds rollouts and validation.
    validation_*: problems and sampling settings of the choice; `validation_max_tokens` is the long cap [tokens].
    validation_dtype, validation_rows: precision of the validated models, traces decoded at once on each process.
    validation_engine, validation_engine_options: what samples them: `transformers`, `vllm` or a class of your own
      that opens model folders (see secateur/engines/registry.py).
    racing_confidence: probability (0-1) with which a validation that stops early for checkpoints out of reach chooses
      as the full one would (see schedules/racing.py); null: all get all their samples, as in the paper.
    keep_checkpoints: `all`, or `chosen`: once a round has chosen, the weights of its other checkpoints are deleted.
    push_to_hub: upload `final/` with its model card when the schedule is done; a start after that uploads what was
      not. The rounds push nothing: their checkpoints are candidates.
    hub_model_id: repository, `user/name` or `name` of your own; by default the name of `output_dir`.
    hub_private_repo: whether a repository that is made is private; by default as its owner has it.
    hub_revision: branch to push to, made if missing; by default main.
    use_peft: train low-rank adapters (LoRA, arXiv 2106.09685) in place of all weights. Every checkpoint is a plain
      model with its adapter merged in, and each round starts fresh adapters. These keys are TRL's.
    lora_r, lora_alpha: rank of the adapters; what they compute is multiplied by lora_alpha / lora_r.
    lora_dropout: share of an adapter's inputs that is dropped in training (fraction 0-1). TRL's default is 0.05; but
      completions are sampled without dropout, so the trained probabilities would not be those they were drawn with.
    lora_target_modules: the linear layers that get an adapter, by the end of their names; all-linear: all but the
      output layer; null: peft's choice for the architecture.
    use_rslora: multiply by lora_alpha / √lora_r instead (arXiv 2312.03732).
    load_in_4bit: keep the frozen weights in 4 bits while adapters train (QLoRA, arXiv 2305.14314). An adapter is
      merged into the start model's weights as they are on disk.
    bnb_4bit_quant_type, use_bnb_nested_quant: nf4 or fp4; quantize the scales as well.
    float32_handover: keep 32 bits of every weight from round to round, at twice the disk: DeepSpeed's own under ZeRO,
      sums in 32 bits where adapters are merged. Otherwise a result has the 16 bits that DeepSpeed computes with, or
      those of the start model's files, and smaller steps are lost; training.json says which share of weights moved.
    dry_run: print what the run would do, need and cost; nothing is loaded or written.
    gpu_memory_gib: memory of one GPU [GiB], what `dry_run` plans with; 79 for a card sold as 80 GB.
    grading_seconds: processor time for all answers of a generation batch on each process [s]; when it is used up, the
      others count as wrong, and `ungraded_share` is logged. One answer has a limit of 1 s beside it.
    logged_completions: so many completions of each step are kept where TRL's `log_completions` is on, drawn from seed
      and step; null: all.
    dead_after_steps: logged steps after which a round that learns nothing is warned of (see schedules/dead.py).
    stop_when_dead: such a round ends, saved; false lets one that has ended so go on.
    tokens_per_second: what one process generates, for the hours that `dry_run` plans; what the run has measured goes
      first.
    tolerance: share of the reference's pass@1 that may be lost (fraction 0-1).
    tolerance_reference: best_so_far, original or round_start (see schedules/choice.py).
    """

    model: str
    output_dir: str
    limits: list[Limit]
    steps_per_round: int | list[int]
    problems: str
    problem_count: int | None = None
    decontaminate: list[str] = field(default_factory=list)
    max_prompt_tokens: int = 768
    prompt_family: str = "deepseek"
    system_prompt: str | None = None
    instruction: str | None = None
    state_limit: bool = True
    pass_rate: list[float] | None = None
    pass_rate_samples: int = 8
    dynamic_prompts: bool = False
    reward: str = "hard_limit"
    reward_options: dict[str, Any] = field(default_factory=dict)
    answer_from: str = ANSWER
    seed: int = 0
    validation_problems: str
    validation_count: int | None = None
    validation_samples: int = 16
    validation_temperature: float = 0.6
    validation_top_p: float = 0.95
    validation_max_tokens: int = 32000
    validation_dtype: str = "bfloat16"
    validation_rows: int = 64
    validation_engine: str = "transformers"
    validation_engine_options: dict[str, Any] = field(default_factory=dict)
    racing_confidence: float | None = None
    tolerance: float = 0.10
    tolerance_reference: str = "best_so_far"
    keep_checkpoints: Literal["all", "chosen"] = "all"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool | None = None
    hub_revision: str | None = None
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: str | list[str] | None = None
    use_rslora: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    use_bnb_nested_quant: bool = False
    float32_handover: bool = False
    grading_seconds: float = 60.0
    logged_completions: int | None = 64
    auto_quantile: float = 0.5
    auto_floor: int | None = None
    expanding_rounds: bool = False
    min_shortening: float | None = None
    dead_after_steps: int = 10
    stop_when_dead: bool = False
    dry_run: bool = False
    gpu_memory_gib: float = 79.0
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        self._check_limits()
        check_seed(self.seed)
        require_model_folder("model", self.model)
        check_key("hub_model_id", self.hub_model_id)
        extraction(self.answer_from)
        make_options(self.reward, self.reward_options)
        _ = self.prompt  # its own checks
        if not 0 <= self.tolerance < 1:
            raise InputError(f"key 'tolerance' has the value {self.tolerance}; give a fraction from 0 to below 1")
        if not self.grading_seconds > 0:
            raise InputError(f"key 'grading_seconds' has the value {self.grading_seconds}; give seconds above 0")
        if self.tokens_per_second is not None and not self.tokens_per_second > 0:
            raise InputError(f"key 'tokens_per_second' has the value {self.tokens_per_second}; it must be above 0")
        if self.racing_confidence is not None and not 0 < self.racing_confidence < 1:
            raise InputError(
                f"key 'racing_confidence' has the value {self.racing_confidence}; give a probability between 0 and "
                "1, for example 0.95, or null for a full validation"
            )
        if self.tolerance_reference not in TOLERANCE_REFERENCES:
            raise InputError(
                f"key 'tolerance_reference' has the value '{self.tolerance_reference}'; "
                f"choose one of {', '.join(TOLERANCE_REFERENCES)}"
            )
        if self.pass_rate is not None:
            self._check_pass_rate(self.pass_rate)
        if not engine_kind(self.validation_engine, "validation_engine").in_process:
            raise InputError(
                f"key 'validation_engine' has the value '{self.validation_engine}', but a server does not have the "
                "checkpoints; choose transformers or vllm"
            )
        if not 0 <= self.lora_dropout < 1:
            raise InputError(
                f"key 'lora_dropout' has the value {self.lora_dropout}; give a fraction from 0 to below 1"
            )
        if self.load_in_4bit and not self.use_peft:
            raise InputError(
                "key 'load_in_4bit' has the value true, but weights in 4 bits cannot be trained; set use_peft: true, "
                "which trains adapters beside them"
            )
        for key in _AT_LEAST_ONE:
            if (value := getattr(self, key)) is not None and value < 1:
                raise InputError(f"key '{key}' has the value {value}; it must be at least 1")

    def _check_limits(self) -> None:
        first = self.rounds[0].limit
        for key, share in (("auto_quantile", self.auto_quantile), ("min_shortening", self.min_shortening)):
            if share is not None and not 0 < share <= 1:
                raise InputError(f"key '{key}' has the value {share}; give a fraction above 0, at most 1")
        if self.racing_confidence is not None and any(round_.expands for round_ in self.rounds):
            raise InputError(
                "key 'racing_confidence' beside 'limits' that rise again: a race is run for the shortest checkpoint, "
                "and a round that expands passes on the most accurate one; leave racing_confidence out"
            )
        if AUTO not in self.limits:
            return
        if self.auto_floor is None or self.auto_floor > first:
            raise InputError(
                f"key 'auto_floor' has the value {self.auto_floor}, but 'limits' holds auto; give the lowest limit "
                f"that may be drawn [tokens], at most the first, {first}"
            )

    def _check_pass_rate(self, bounds: list[float]) -> None:
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
            raise InputError(f"key 'pass_rate' has the value {bounds}; give two fractions such as [0.1, 0.9]")
        if find_reward(self.reward).target is not None:
            raise InputError(
                f"key 'pass_rate' beside reward '{self.reward}', which asks for another length in every prompt, so "
                "that a problem has no one rate; leave one of the two out"
            )

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.prompt_family, self.system_prompt, self.instruction)

    @property
    def rounds(self) -> list[Round]:
        """As they are planned: the limit of an auto one is the most that it can be (see `RunFolder.rounds`)."""
        return make_rounds(self.limits, self.steps_per_round, self.expanding_rounds)

    @property
    def limit_range(self) -> tuple[int, int]:
        """The lowest and the highest limit that a round may have [tokens]."""
        numbers = [round_.limit for round_ in self.rounds]
        lowest = [self.auto_floor] if AUTO in self.limits and self.auto_floor else []
        return min(numbers + lowest), max(numbers)


@dataclass(frozen=True)
class RunConfig:
    """A whole config `file` with its overrides, keys that were `typed` on the command line: ours checked, TRL's as
    given.

    `hub_token` is TRL's key of that name; it is kept apart from the others, which are written down and handed on.
    """

    schedule: ScheduleConfig
    trainer: dict[str, JSON]
    file: str
    hub_token: str | None = field(default=None, repr=False)
    typed: frozenset[str] = frozenset()

    @property
    def where(self) -> str:
        """Where TRL's keys were given, for messages on several of them."""
        return f"{self.file} or command line" if self.typed & self.trainer.keys() else self.file

    def where_of(self, key: str) -> str:
        """Where a key was given."""
        return "command line" if key in self.typed else self.file

    def resolved(self) -> dict[str, JSON]:
        """All keys of the run, ours with their defaults: what `config.yaml` of the run folder holds."""
        return dataclasses.asdict(self.schedule) | self.trainer


def read_run_config(argv: Sequence[str]) -> RunConfig:
    """Read `--config FILE --key value …`.

    Raises `InputError` for a missing key, a wrong type or an impossible value among our keys. TRL's keys are checked
    by the trainer, which knows them.
    """
    path, overrides = split_command_line(argv)
    if path is None:
        raise InputError("command line: --config is missing; pass --config configs/…/X.yaml")
    fields = {entry.name: entry for entry in dataclasses.fields(ScheduleConfig)}
    ours, values = {}, {}
    for where, given in ((path, read_yaml(path)), ("command line", overrides)):
        values |= given
        ours |= check_types(ScheduleConfig, {key: value for key, value in given.items() if key in fields}, where)
    if "model" in ours:
        ours["model"] = plain_model(ours["model"])
    token = values.pop(TOKEN, None)
    if isinstance(kwargs := values.get("model_init_kwargs"), dict) and {"token", "use_auth_token"} & kwargs.keys():
        raise InputError(
            f"{path}: key 'model_init_kwargs' holds a token, which would be written down with all keys; leave it out "
            "and log in with `hf auth login`, or set HF_TOKEN"
        )
    trainer = {key: value for key, value in values.items() if key not in fields}
    for name, entry in fields.items():
        if name not in ours and entry.default is entry.default_factory is dataclasses.MISSING:
            raise InputError(f"{path}: key '{name}' is required and not given; {_remedy(name, list(trainer))}")
    try:
        return RunConfig(ScheduleConfig(**ours), trainer, path, _checked_token(token), frozenset(overrides))
    except InputError as error:
        raise InputError(f"{blamed(str(error), overrides, path)}: {error}") from None


def _checked_token(token: JSON) -> str | None:
    if token is not None and not (isinstance(token, str) and token.strip()):
        raise InputError(f"key '{TOKEN}' is no text; leave it out and log in with `hf auth login`")
    return token


def _remedy(name: str, others: list[str]) -> str:
    near = difflib.get_close_matches(name, others, n=1)
    return f"is '{near[0]}' meant to be it?" if near else f"add it or pass --{name}"


def first_question(schedule: ScheduleConfig, final: Path) -> str:
    """A command that asks the finished model, prompted and sampled as it was validated."""
    prompt = {key: value for key, value in schedule.prompt.stored.items() if value is not None}
    sampling = {
        "temperature": schedule.validation_temperature,
        "top_p": schedule.validation_top_p,
        "max_tokens": schedule.validation_max_tokens,
        "dtype": schedule.validation_dtype,
    }
    return written({"model": str(final), **prompt, **sampling, "problem": PROBLEM})


def finished_config(run: Path) -> RunConfig:
    """The keys of a finished schedule, from its folder. Raises `InputError` for one that is none."""
    if not (run / "final").is_dir() or not (run / "config.yaml").is_file():
        raise InputError(f"{run}: no finished schedule (config.yaml and final/) there; name its output_dir")
    return read_run_config(["--config", str(run / "config.yaml"), "--output_dir", str(run)])
