r"""A short supervised tuning of the answer's form, for models that do not box their answers by themselves.

    accelerate launch --config_file configs/accelerate/cpu.yaml \
        trainers/format_tuning.py --config configs/real/format_tuning.yaml

TRL's SFT on worked solutions, with the loss on the solution alone. It is what has to come before length pruning for a
small model: where no completion has a box, no completion earns a reward. The result is a plain model folder.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from schedules.export import is_training_state, remove_folder
from schedules.integrity import saved_checkpoints
from secateur.engines.gguf import plain_model
from secateur.engines.model_files import load_tokenizer
from secateur.runtime.command_lines import written
from secateur.runtime.config import parse_config
from secateur.runtime.console import say_end, silence_libraries, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import (
    JSON,
    fingerprint,
    first_changed,
    hold_folder,
    model_identity,
    read_json,
    read_jsonl,
)
from secateur.runtime.hub import require_model_folder
from secateur.runtime.process import current_ranks, entry_point, return_memory_early
from secateur.runtime.records import read_record, write_record
from secateur.tasks.prompts import PromptKeys, evaluation_messages
from secateur.tasks.word_problems import make_solutions

if TYPE_CHECKING:
    from trl import SFTConfig

WORDS = "words"
RECORD, RECORD_FORMAT, LOG = "tuning.json", 2, "train.jsonl"


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
    optim: transformers' name of the optimizer; adafactor and sgd keep hardly any state, the others two numbers per
      weight.
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
    optim: Literal["adafactor", "adamw_torch", "adamw_torch_fused", "sgd"] = "adafactor"
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.prompt  # its own checks
        for key in ("count", "epochs", "batch", "rows"):
            if getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; give at least 1")
        if self.learning_rate <= 0:
            raise InputError(f"key 'learning_rate' has the value {self.learning_rate}; it must be above 0")
        if self.solutions != WORDS and not Path(self.solutions).is_file():
            raise InputError(f"key 'solutions' has the value '{self.solutions}': no such file; give one, or {WORDS}")
        self.model = plain_model(self.model)

    def check_inputs(self) -> None:
        """The model is there, and so are the solutions."""
        require_model_folder("model", self.model)
        if self.solutions != WORDS:
            read_solutions(self.solutions, self.count)

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


def _arguments(config: FormatTuningConfig) -> "SFTConfig":
    """Raises `InputError` where the processes cannot share a batch."""
    import torch
    from trl import SFTConfig

    processes = current_ranks().world_size
    if config.batch % (processes * config.rows):
        raise InputError(
            f"key 'batch' has the value {config.batch}, no multiple of {processes} processes × 'rows' = {config.rows}"
        )
    return SFTConfig(
        output_dir=config.output_dir,
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
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
    )


@dataclass(frozen=True)
class TuningRecord:
    """What a folder is tuned with, its tuning.json; `fingerprints` of the tuned model's files once it is saved."""

    keys: Mapping[str, JSON]
    model: str
    fingerprints: Mapping[str, str] = field(default_factory=dict)


def is_done(config: FormatTuningConfig) -> bool:
    """Whether the folder holds the tuned model. Raises `InputError` for one that was begun with other keys or
    another model, or whose model was damaged since."""
    path, wanted = Path(config.output_dir) / RECORD, _record(config)
    if not path.is_file():
        return False
    found = read_record(path, TuningRecord, RECORD_FORMAT, "give another 'output_dir'")
    for key, value in {**wanted.keys, "model": wanted.model}.items():
        if {**found.keys, "model": found.model}.get(key) != value:
            raise InputError(f"{path}: was begun with another '{key}'; restore it, or give another 'output_dir'")
    if fault := first_changed(path.parent, found.fingerprints):
        raise InputError(f"{path.parent}: {fault}; restore it, or delete the folder to tune anew")
    return bool(found.fingerprints)


def _record(config: FormatTuningConfig) -> TuningRecord:
    keys = {key: value for key, value in asdict(config).items() if key not in ("model", "output_dir")}
    return TuningRecord(keys, model_identity(config.model))


def tune(config: FormatTuningConfig) -> None:
    """Train and save; goes on from the newest whole checkpoint of a run that was ended."""
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import SFTTrainer

    from secateur.engines.models import keep_special_tokens_only, reduce_gradients_in_place
    from trainers.steps.checkpoints import prepare_resume
    from trainers.steps.log import CompletionMarker, StepLog

    disable_progress_bars()
    folder, arguments = Path(config.output_dir), _arguments(config)
    resume = prepare_resume(folder, arguments.world_size, candidates=False)
    trainer = SFTTrainer(
        model=config.model,
        args=arguments,
        train_dataset=Dataset.from_list(config.conversations()),
        processing_class=load_tokenizer(config.model),
        callbacks=[
            StepLog("tuning the answer's form", folder / LOG, "loss", lambda logs: f"loss {logs['loss']:.3f}"),
            CompletionMarker(None),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    keep_special_tokens_only(trainer.model)
    reduce_gradients_in_place(trainer.accelerator)
    if resume is not None:  # TRL keeps no count of the tokens before
        trainer._total_train_tokens = _tokens_trained_on(resume)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    if current_ranks().is_main:
        trainer.model.config.use_cache = True
        trainer.save_model(str(folder))
        saved = replace(_record(config), fingerprints=_model_fingerprints(folder))
        write_record(folder / RECORD, saved, RECORD_FORMAT)
        for checkpoint in saved_checkpoints(folder):
            remove_folder(checkpoint)


def _tokens_trained_on(checkpoint: Path) -> float:
    """What had been counted when the checkpoint was saved [tokens], prompts included."""
    return read_json(checkpoint / "trainer_state.json")["log_history"][-1]["num_tokens"]


def _model_fingerprints(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.glob("[!.]*") if path.is_file() and path.name not in (LOG, RECORD))
    return {path.name: fingerprint(path) for path in files if not is_training_state(path.name)}


@entry_point
def main() -> None:
    config = parse_config(FormatTuningConfig)
    config.check_inputs()
    silence_libraries()
    use_one_torch_thread()
    return_memory_early()
    with hold_folder(config.output_dir) if current_ranks().is_main else contextlib.nullcontext():
        if not is_done(config):
            if current_ranks().is_main:
                write_record(Path(config.output_dir) / RECORD, _record(config), RECORD_FORMAT)
            tune(config)
        say_end(config.output_dir, single_command(config))


def single_command(config: FormatTuningConfig) -> str:
    """What measures the tuned model beside the one it was made of."""
    prompt = {key: value for key, value in vars(config.prompt).items() if value is not None}
    keys = {
        "models": {"start": config.model, "tuned": config.output_dir},
        "problems": "words:test" if config.solutions == WORDS else "PROBLEMS.jsonl",
        "problem_count": 100,
        **prompt,
        "max_tokens": 512,
        "output_dir": f"{config.output_dir}-measured",
    }
    return written(keys, "single")


if __name__ == "__main__":
    main()
