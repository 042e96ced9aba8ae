"""The commands that bench/faults.py disturbs, small enough for seconds each, and when two of their runs are equal."""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from secateur.runtime.config import read_yaml
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_arrays, read_json, read_jsonl, write_text

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "trainers" / "embedded_model"
CLOCKS = {
    "time",
    "step_time",
    "wall",
    "wall_s",
    "seconds",
    "wall_words",
    "sampling_wall_s",
    "sampling_wall_measured",
    "cpu_s",
}
# In which lot a trace's tensors lie, which files a checkpoint has with which times in them: kills may change that.
PLACES = {"states", "vector", "confidences", "checksum", "tensors", "files", "fingerprints", "format"}
PICTURES = {".png", ".svg", ".html", ".md", ".csv"}  # made anew from the other files at every start
TRAINING_STATE = {".pt", ".pth", ".bin"}  # their bytes hold addresses; the metrics of later steps tell
_APART = (".", "incomplete-")  # locks, and what a start has set aside
_SUM_ERROR = 2e-6  # relative to the largest value: some 16 roundings of 32 bits

_SAMPLING: dict[str, JSON] = {
    **{"prompt_family": "plain", "temperature": 1.0, "top_p": 1.0, "max_tokens": 300},
    **{"dtype": "float32", "device": "cpu", "rows": 24, "seed": 0},
}
_TRAINING: dict[str, JSON] = {
    **{"problems": "arithmetic:train", "problem_count": 6, "prompt_family": "plain", "seed": 0},
    **{"steps_per_round": 4, "save_steps": 2, "learning_rate": 1.0e-3, "num_generations": 4},
    **{"per_device_train_batch_size": 8, "use_cpu": True, "bf16": False, "gradient_checkpointing": False},
    **{"model_init_kwargs": {"dtype": "float32"}, "report_to": "none"},
    **{"validation_problems": "arithmetic:validation", "validation_count": 6, "validation_samples": 2},
    **{"validation_temperature": 1.0, "validation_top_p": 1.0, "validation_max_tokens": 250},
    **{"validation_dtype": "float32", "tolerance": 0.5},
}
_SETS: dict[str, JSON] = {name: f"arithmetic:judge_{name}" for name in ("train", "dev", "test")}
_LEARNING: dict[str, JSON] = {"learning_rate": 0.003, "problems_per_step": 4, "seed": 0}


@dataclass(frozen=True)
class Command:
    """A command as a user starts it: `script` with `values` as its config. In their texts `{model}`, `{traces}` and
    `{judge}` stand for the inputs. `launched`: it takes an accelerate config and starts processes of its own.
    `finished_is_refused`: started again when all is done, it refuses by name. `drop`: what is taken from a finished
    folder before it is disturbed, so that only the end of the work is left to do."""

    script: str
    values: Mapping[str, JSON]
    launched: bool = False
    finished_is_refused: bool = False
    drop: tuple[str, ...] = ()
    held: str = "."  # the folder that the command holds


_SCHEDULE: dict[str, JSON] = {"model": "{model}", "limits": [200, 160], **_TRAINING}
_ADAPTERS: dict[str, JSON] = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"}
COMMANDS: dict[str, Command] = {
    "schedules/run.py": Command("schedules/run.py", _SCHEDULE, launched=True, held="rounds"),
    "schedules/run.py, LoRA": Command(
        "schedules/run.py", _SCHEDULE | {"limits": [200, 180, 160]} | _ADAPTERS, launched=True, held="rounds"
    ),
    "export": Command(
        "schedules/run.py", _SCHEDULE, launched=True, held="rounds", drop=("final", "final.json", "card.json")
    ),
    "trainers/grpo_len.py": Command(
        "trainers/grpo_len.py", {"model": "{model}", "limits": [200], **_TRAINING}, finished_is_refused=True
    ),
    "trainers/format_tuning.py": Command(
        "trainers/format_tuning.py",
        {
            **{"model": "{model}", "solutions": "words", "count": 48, "epochs": 1, "batch": 4, "rows": 2, "seed": 0},
            **{"bf16": False, "learning_rate": 0.003},
        },
    ),
    "trainers/judge.py": Command(
        "trainers/judge.py",
        {
            **{"kind": "linear_own_states", "model": "{model}", "epochs": 6, "evaluations": 6, **_LEARNING},
            **{"train": "{traces}/train", "dev": "{traces}/dev", "test": "{traces}/test"},
            **{"heads": 2, "width": 8, "pair_hidden": 16},
        },
    ),
    "trainers/judge.py, linear": Command(
        "trainers/judge.py",
        {
            **{"kind": "linear", "model": "{model}", "epochs": 2, "evaluations": 4, **_LEARNING},
            **{"train": "{traces}/train", "dev": "{traces}/dev", "test": "{traces}/test"},
            **{"query": " So the answer is", "pair_hidden": 16, "max_tokens": 256},
        },
    ),
    "trainers/scorer.py": Command(
        "trainers/scorer.py",
        {
            **{"model": "{model}", "points": ["cut", "end"], "epochs": 4, "evaluations": 4, **_LEARNING},
            **{"train": "{traces}/train", "dev": "{traces}/dev", "test": "{traces}/test", "layers": [1, 3]},
        },
    ),
    "eval/collect_traces.py": Command(
        "eval/collect_traces.py",
        {
            **{"models": {"base": "{model}"}, "problems": _SETS, "samples": 6, "states": True, "cut_k": 4},
            **{"cut_kind": "words", "problem_counts": {"train": 8, "dev": 4, "test": 4}, **_SAMPLING},
        },
    ),
    "eval/single.py": Command(
        "eval/single.py",
        {
            "models": {"base": "{model}"},
            "problems": "arithmetic:test",
            "problem_count": 24,
            "samples": 3,
            **_SAMPLING,
        },
    ),
    "eval/budget_forcing.py": Command(
        "eval/budget_forcing.py",
        {
            **{"models": {"base": "{model}"}, "problems": "arithmetic:test", "problem_count": 12, "samples": 3},
            **{"budgets": [50, 100, 200], "answer_tokens": 20, **_SAMPLING},
        },
    ),
    "eval/prune.py": Command(
        "eval/prune.py",
        {
            **{"model": "{model}", "judge": "{judge}", "problems": "arithmetic:test", "problem_count": 12, "n": 8},
            **_SAMPLING,
        },
    ),
    "eval/combined.py": Command(
        "eval/combined.py",
        {
            **{"models": {"base": "{model}", "twin": "{model}"}, "n": [4, 8], "problem_count": 3, "live": 2},
            **{"judges": {"base": ["{judge}", "random"], "twin": ["values", "random"]}},
            **{"problems": {"one": "arithmetic:combined", "two": "arithmetic:test"}, "examples": 2, "orders": 3},
            **{"draws": 5, "cut_k": 4, "top_logprobs": 5, **_SAMPLING},
        },
    ),
}


@dataclass
class Inputs:
    """What the commands need in `folder`: a copy of the model, traces of it, a judge of it."""

    folder: Path
    zero: int = 0  # DeepSpeed stage of the launched commands; 0 is plain DDP
    texts: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.texts = {"{model}": str(self.model), "{traces}": str(self.folder / "traces" / "base")}
        self.texts["{judge}"] = str(self.folder / "judge")

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def restore_model(self) -> None:
        shutil.rmtree(self.model, ignore_errors=True)
        shutil.copytree(MODEL, self.model)

    def change_model(self) -> None:
        """Other weights at the same path, of the same sizes."""
        path = self.model / "model.safetensors"
        weights = {name: tensor * 1.01 for name, tensor in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})

    def argv(self, command: Command, run: Path) -> list[str]:
        """The command line that works in `run`; its config lies beside it."""
        text = json.dumps({**command.values, "output_dir": str(run)})
        for name, place in self.texts.items():
            text = text.replace(name, place)
        config = run.with_name(f"{run.name}.yaml")
        write_text(config, yaml.safe_dump(json.loads(text)))
        argv = [sys.executable, str(REPOSITORY / command.script), "--config", str(config)]
        return [*argv, "--accelerate_config", str(self._launch_file())] if command.launched else argv

    def _launch_file(self) -> Path:
        name = f"zero{self.zero}.yaml" if self.zero else "cpu.yaml"
        values = read_yaml(REPOSITORY / "configs" / "accelerate" / name)
        path = self.folder / name
        write_text(path, yaml.safe_dump(values | {"num_processes": 2, "mixed_precision": "no"}))
        return path


def differences(alone: Path, other: Path) -> list[str]:
    """What two runs of a command stored otherwise, a line each; [] if nothing. Times, pictures and the bytes of
    training states are not compared, nor the order in which traces ended."""
    ours, theirs = contents(alone), contents(other)
    names = sorted(ours.keys() | theirs.keys())
    return [f"{name} differs" for name in names if not _same(ours.get(name), theirs.get(name))]


def _same(one: object, other: object) -> bool:
    """Equality; of states in 16 bits up to the rounding of their sums: a kill changes which traces are computed side
    by side, and a matrix product of another width sums in another order. The error of a sum is that of its largest
    terms in 32 bits, and then one unit in the last of 16 bits."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(one) is type(other) and one == other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype != torch.float16:
        return _bytes(one) == _bytes(other)
    ours, theirs = one.float(), other.float()
    largest = float(ours.abs().max()) if ours.numel() else 0.0
    return torch.allclose(ours, theirs, rtol=torch.finfo(torch.float16).eps, atol=_SUM_ERROR * largest)


def contents(run: Path) -> dict[str, object]:
    """Name → what can be compared, of everything that counts in a run folder; its bytes, where it cannot be read."""
    found: dict[str, object] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = path.relative_to(run).as_posix()
        if any(part.startswith(_APART) for part in Path(name).parts) or path.suffix in PICTURES | TRAINING_STATE:
            continue
        if path.name.startswith("wall-rank") or path.name == "trainer_state.json":  # times and nothing else
            continue
        try:
            found |= _tensors(name, path) if path.parent.name == "states" else {name: _content(path)}
        except (InputError, SafetensorError):
            found[name] = path.read_bytes()
    return found


def _tensors(name: str, path: Path) -> dict[str, object]:
    """Those of a lot, whichever lot it is."""
    return {f"{name.rpartition('-')[0]}: {key}": tensor for key, tensor in load_file(path).items()}


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _content(path: Path) -> object:
    if path.suffix == ".json":
        return _comparable(read_json(path))
    if path.suffix == ".jsonl":
        lines = [_comparable(record) for _, record in read_jsonl(path)]
        return sorted(lines, key=json.dumps) if path.name.startswith(("traces", "answers")) else lines
    if path.suffix == ".npz":
        return {name: _array(array) for name, array in read_arrays(path, "").items()}
    return path.read_bytes()


def _array(array: np.ndarray) -> object:
    return str(array) if array.dtype.kind == "U" else array.tobytes()


def _comparable(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _comparable(inner) for key, inner in value.items() if key not in CLOCKS | PLACES}
    return [_comparable(inner) for inner in value] if isinstance(value, list) else value


_VARIANTS = (
    (re.compile(r"\d+"), "#"),
    (re.compile(r"(?<![a-z_])(base|twin|one|two|train|dev|test)(?![a-z_.])"), "*"),
    (re.compile(r"(live|scores)/[^/]+"), r"\1/*"),
    (re.compile(r"arith-[^/]*?(?=\.)"), "*"),
)


def kind_of(name: str) -> str:
    """Files of one kind have one name: numbers, models, sets and methods apart.

    >>> kind_of("base/train/states/arith-judge_train-00002-5.safetensors"), kind_of("rounds/1-limit-200/train.jsonl")
    ('*/*/states/*.safetensors', 'rounds/#-limit-#/train.jsonl')
    """
    for pattern, text in _VARIANTS:
        name = pattern.sub(text, name)
    return name


def stored_kinds(run: Path) -> dict[str, list[Path]]:
    """Kind → its files in a run folder, relative to it; without locks, pictures and pages."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file()):
        if not any(part.startswith(_APART) for part in path.parts) and path.suffix not in PICTURES:
            found.setdefault(kind_of(path.as_posix()), []).append(path)
    return found


def snapshot(run: Path) -> frozenset[tuple[str, int]]:
    """Names and sizes [bytes] of all files; those that vanish meanwhile are left out."""
    found = set()
    for folder, _, names in os.walk(run):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.add((f"{folder}/{name}", os.stat(f"{folder}/{name}").st_size))
    return frozenset(found)
