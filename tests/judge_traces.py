"""Small trace folders whose states and texts hold the answer, and the judge trainer run on them."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from secateur.engines.trace_folder import TraceFolderWriter
from secateur.runtime.config import parse_config
from secateur.runtime.files import model_fingerprint
from secateur.tasks.records import Trace
from trainers.judge import run
from trainers.judges.config import JudgeConfig

WORDS = ("red", "green", "blue")
METRICS = {"auroc", "auroc_ci95", "tnr_at_fnr20", "pairs", "same_answer_share", "baselines", "unfinished", "roc"}


def write_split(folder: Path, model: Path, first: int, groups: list[str], layers: list[int] | None = None) -> None:
    """Six problems of eight traces that state a colour early; the colour is the answer and is in the states."""
    rng, tokenizer = np.random.default_rng(first), AutoTokenizer.from_pretrained(model)
    settings = {
        "model": model_fingerprint(model),
        "problems": f"arithmetic:judge_{folder.name}",
        "prompt_family": "plain",
        "cut": {"kind": "words", "k": 2},
        "layers": layers or [0, 1, 2],
    }
    with TraceFolderWriter(folder, settings) as writer:
        for number in range(first, first + 6):
            for sample in range(8):
                colour = int(rng.integers(3))
                text = f"So I take {WORDS[colour]}. Then more.</think>\\boxed{{{WORDS[colour]}}}"
                ids = tokenizer(text)["input_ids"]
                states = torch.from_numpy(rng.normal(size=(20, 3, 32))).half()
                states[8:, 1, colour] = 20
                trace = Trace(
                    f"p{number}", f"Which of {number:02}?", "red", sample, text, "m", tuple(ids), len(ids), "stop"
                )
                writer.add(trace, cut_tokens=24, states=states, group=groups[number % len(groups)])


def write_splits(folder: Path, tiny_model: Path) -> Path:
    """Three trace folders; the test problems have a group that training does not."""
    write_split(folder / "train", tiny_model, 0, ["oak"])
    write_split(folder / "dev", tiny_model, 10, ["oak"])
    write_split(folder / "test", tiny_model, 20, ["oak", "elm"])
    return folder


def arguments(traces: Path, model: Path, output: Path, **extra: object) -> list[str]:
    values = {split: traces / split for split in ("train", "dev", "test")}
    values |= {"model": model, "output_dir": output, "epochs": 40, "evaluations": 3} | extra
    values = {"heads": 2, "width": 8, "learning_rate": 0.01, "problems_per_step": 2} | values
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def train(traces: Path, model: Path, output: Path, **extra: object) -> dict:
    run(parse_config(JudgeConfig, arguments(traces, model, output, **extra)))
    return json.loads((output / "metrics.json").read_text())
