"""Small combined runs for the tests: tiny models, an untrained own-state judge, four problems."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from eval.table.config import CombinedConfig
from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.folder import describe_generator, save_judge
from secateur.deepprune.judges.linear import LinearJudge, LinearModel, LinearShape
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from secateur.deepprune.judges.pairwise import PairwiseFormat, load_pairwise
from secateur.deepprune.judges.record import JudgeOrigin
from secateur.runtime.files import append_jsonl

CUT = CutRule("tokens", 6)


def make_judge(model: Path, folder: Path, seed: int = 0) -> Path:
    """A judge of the tiny model's states with random weights."""
    torch.manual_seed(seed)
    shape = OwnStatesShape(layers=(0, 1, 2), hidden=32, heads=2, width=8, pair_hidden=16)
    judge = OwnStatesJudge(OwnStatesModel(shape), shape, CUT)
    save_judge(judge, folder, JudgeOrigin(generator=describe_generator(model)))
    return folder


def make_reading_judge(kind: str, model: Path, folder: Path) -> Path:
    """A judge that reads the cuts again ("linear" or "pairwise"), with random weights."""
    torch.manual_seed(0)
    if kind == "linear":
        shape = LinearShape(query_ids=(5, 6), pair_hidden=8, max_tokens=200)
        judge: Judge = LinearJudge(LinearModel(AutoModel.from_pretrained(model), shape), CUT)
    else:
        judge = load_pairwise(model, CUT, PairwiseFormat("A: {a} B: {b} same?", ("yes", "no"), False, 200))
    save_judge(judge, folder, JudgeOrigin())
    return folder


def write_problems(path: Path, count: int = 4) -> Path:
    lines = [
        {"id": f"p/{index}", "problem": f"What is {index} + 1?", "answer": str(index + 1)} for index in range(count)
    ]
    append_jsonl(path, lines)
    return path


def settings(model: Path, judge: Path, problems: Path, output: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "models": {"base": str(model)},
        "judges": {"base": [str(judge), "random"]},
        "problems": str(problems),
        "output_dir": str(output),
        "n": 8,
        "live": 2,
        "examples": 2,
        "orders": 3,
        "draws": 5,
        "prompt_family": "plain",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 24,
        "dtype": "float64",
        "device": "cpu",
        "rows": 16,
    }
    return values | changes


def config(*arguments: Any, **changes: Any) -> CombinedConfig:
    return CombinedConfig(**settings(*arguments, **changes))
