r"""A short supervised tuning of the answer's form, for models that do not box their answers by themselves.

    accelerate launch --config_file configs/accelerate/cpu.yaml \
        trainers/format_tuning.py --config configs/real/format_tuning.yaml

TRL's SFT on worked solutions, with the loss on the solution alone. It is what has to come before length pruning for a
small model: where no completion has a box, no completion earns a reward. The result is a plain model folder.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.markup import escape
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.training_args import OptimizerNames

from secateur.engines.gguf import plain_model
from secateur.engines.models import keep_special_tokens_only, load_tokenizer
from secateur.runtime.config import parse_config
from secateur.runtime.console import (
    MetricLog,
    ProgressReporter,
    progress,
    say,
    silence_libraries,
    use_one_torch_thread,
)
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_jsonl
from secateur.runtime.process import current_ranks, entry_point
from secateur.tasks.prompts import PromptKeys, evaluation_messages
from secateur.tasks.word_problems import make_solutions

if TYPE_CHECKING:
    from trl import SFTConfig

WORDS = "words"


@dataclass(kw_only=True)
class FormatTuningConfig(PromptKeys):
    """
    model: model folder, Hub id or GGUF file.
    output_dir: gets the model folder, and `train.jsonl` with the loss of each step.
    solutions: words (drawn from secateur/tasks/word_problems.py), or a JSONL file with keys problem and solution.
    count: how many solutions; epochs: how often each is seen.
    prompt_family, system_prompt, instruction: as the tuned model will be asked (see secateur/tasks/prompts.py).
    batch: solutions per optimizer step, on all processes together; rows: of these at once on each process.
    learning_rate: at its highest; it falls linearly to 0.
    optim: transformers' name of the optimizer; adafactor keeps hardly any state, adamw_torch two numbers per weight.
    bf16: calculate in bfloat16 with weights in float32.
    seed: of the solutions and of their order.
    """

    model: str
    output_dir: str
    solutions: str = WORDS
    count: int = 384
    epochs: int = 2
    prompt_family: str = "plain"
    batch: int = 16
    rows: int = 4
    learning_rate: float = 1e-4
    optim: str = "adafactor"
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.prompt  # its own checks
        for key in ("count", "epochs", "batch", "rows"):
            if getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; give at least 1")
        if self.optim not in set(OptimizerNames):
            raise InputError(f"key 'optim' has the value '{self.optim}'; choose one of {', '.join(OptimizerNames)}")
        if self.learning_rate <= 0:
            raise InputError(f"key 'learning_rate' has the value {self.learning_rate}; it must be above 0")
        if self.solutions != WORDS and not Path(self.solutions).is_file():
            raise InputError(f"key 'solutions' has the value '{self.solutions}': no such file; give one, or {WORDS}")
        self.model = plain_model(self.model)

    def conversations(self) -> list[dict[str, JSON]]:
        """Prompt and completion of each solution as chat messages."""
        return [
            {
                "prompt": evaluation_messages(problem, self.prompt),
                "completion": [{"role": "assistant", "content": solution}],
            }
            for problem, solution in self._pairs()
        ]

    def _pairs(self) -> list[tuple[str, str]]:
        if self.solutions == WORDS:
            return [(problem.problem, solution) for problem, solution in make_solutions(self.count, self.seed)]
        return read_solutions(self.solutions, self.count)


def read_solutions(path: str, count: int) -> list[tuple[str, str]]:
    """The first `count` pairs of problem and solution. Raises `InputError` for a line without both, or too few."""
    pairs = []
    for number, line in read_jsonl(path):
        for key in ("problem", "solution"):
            if not isinstance(line.get(key), str) or not line[key]:
                raise InputError(f"{path}, line {number}: key '{key}' is no text; give problem and solution")
        pairs.append((line["problem"], line["solution"]))
    if len(pairs) < count:
        raise InputError(f"{path}: holds {len(pairs)} solutions, but {count} were asked for; lower 'count'")
    return pairs[:count]


class _Log(TrainerCallback):
    """The loss of every step in `train.jsonl` and on a progress line."""

    def __init__(self, folder: Path) -> None:
        self._log, self._stack = MetricLog(folder / "train.jsonl"), contextlib.ExitStack()
        self._progress: ProgressReporter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._progress = self._stack.enter_context(progress("tuning the answer's form", state.max_steps))
        self._progress.advance(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if not logs or "loss" not in logs:  # the summary at the end
            return
        self._log.write(step=state.global_step, **logs)
        self._progress.advance(1, f"loss {logs['loss']:.3f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._stack.close()


def _arguments(config: FormatTuningConfig) -> "SFTConfig":
    """Raises `InputError` where the processes cannot share a batch."""
    from trl import SFTConfig

    processes = current_ranks().world_size
    if config.batch % (processes * config.rows):
        raise InputError(
            f"key 'batch' has the value {config.batch}, no multiple of {processes} processes × 'rows' = {config.rows}"
        )
    return SFTConfig(
        output_dir=str(Path(config.output_dir) / "checkpoints"),
        per_device_train_batch_size=config.rows,
        gradient_accumulation_steps=config.batch // (processes * config.rows),
        learning_rate=config.learning_rate,
        optim=config.optim,
        num_train_epochs=config.epochs,
        warmup_steps=2,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        max_length=None,
        seed=config.seed,
        logging_steps=1,
        save_steps=10,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
    )


def tune(config: FormatTuningConfig) -> None:
    """Train and save; goes on from the last checkpoint of a run that was ended."""
    from datasets import Dataset, disable_progress_bars
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTTrainer

    disable_progress_bars()
    folder = Path(config.output_dir)
    trainer = SFTTrainer(
        model=config.model,
        args=_arguments(config),
        train_dataset=Dataset.from_list(config.conversations()),
        processing_class=load_tokenizer(config.model),
        callbacks=[_Log(folder)],
    )
    trainer.remove_callback(PrinterCallback)
    keep_special_tokens_only(trainer.model)
    work = folder / "checkpoints"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    if current_ranks().is_main:
        trainer.model.config.use_cache = True
        trainer.save_model(str(folder))
        say(f"tuned model: {escape(str(folder))}")


@entry_point
def main() -> None:
    silence_libraries()
    config = parse_config(FormatTuningConfig)
    use_one_torch_thread()
    tune(config)


if __name__ == "__main__":
    main()
