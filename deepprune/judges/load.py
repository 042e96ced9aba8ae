"""Judge folders: what is saved beside the weights, and loading a judge for the generator it fits.

`judge.json` names kind, cut rule, sizes and what the judge reads; `head.safetensors` holds the small trained parts;
`model/` is the language model of the kinds that have one, a plain Hugging Face folder with its tokenizer.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from deepprune.cut import CutRule
from deepprune.judges.base import Judge, JudgeError
from deepprune.judges.linear import LinearJudge, LinearModel, LinearShape
from deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from deepprune.judges.pairwise import PairReader, PairwiseFormat, PairwiseJudge, PairwiseModel
from deepprune.judges.untrained import UNTRAINED, UntrainedJudge
from engines.load import load_model, load_tokenizer, model_fingerprint
from runtime.files import read_json, write_json

KINDS = ("linear_own_states", "linear", "pairwise")


def save_judge(judge: Judge, folder: str | Path, about: dict[str, Any]) -> None:
    """Write the judge's folder. `about` are JSON values kept in judge.json, such as the generator's fingerprint
    (`describe_generator`). `judge.json` comes last, so a folder that has it is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(judge, OwnStatesJudge):
        shape: Any = judge.shape
        save_file(judge.model.state_dict(), folder / "head.safetensors")
    elif isinstance(judge, LinearJudge):
        shape = judge.model.shape
        parts = nn.ModuleDict({"norm": judge.model.norm, "head": judge.model.head})
        save_file(parts.state_dict(), folder / "head.safetensors")
        judge.model.encoder.save_pretrained(folder / "model")
    elif isinstance(judge, PairwiseJudge):
        shape = judge.model.reader.shape
        judge.model.language_model.save_pretrained(folder / "model")
        judge.model.reader.tokenizer.save_pretrained(folder / "model")
    else:
        raise TypeError(f"a {type(judge).__name__} has nothing to save")
    rule = {"kind": judge.cut_rule.kind, "k": judge.cut_rule.k}
    write_json(folder / "judge.json", {"kind": judge.name, "cut": rule, "shape": dataclasses.asdict(shape)} | about)


def describe_generator(path: str | Path) -> dict[str, str]:
    """What `load_judge` compares: the path is for the reader, the fingerprint decides."""
    return {"path": str(path), "fingerprint": generator_identity(path)}


def generator_identity(path: str | Path) -> str:
    """A folder's fingerprint, or the id itself for a model on the Hub; trace folders name their model in this way."""
    return model_fingerprint(path) if Path(path).is_dir() else str(path)


def load_judge(
    folder_or_name: str | Path,
    generator_path: str | Path | None = None,
    *,
    cut_rule: CutRule | None = None,
    device: str | torch.device = "cpu",
) -> Judge:
    """A judge from its folder, or an untrained one by name ("embedding", "tfidf", "random"; they take `cut_rule`).

    `generator_path` is the model whose traces will be judged. Raises `JudgeError` (an `InputError`) for a folder that
    is no judge or is damaged, and for a judge of own states that was trained on another model.
    """
    if str(folder_or_name) in UNTRAINED:
        return UntrainedJudge(str(folder_or_name), cut_rule or CutRule(), generator_path)
    folder = Path(folder_or_name)
    if not (folder / "judge.json").is_file():
        known = ", ".join(UNTRAINED)
        raise JudgeError(
            f"{folder}: no judge there (judge.json is missing); train one with trainers/judge.py, "
            f"or name an untrained one: {known}"
        )
    about = read_json(folder / "judge.json")
    try:
        kind, rule, shape = about["kind"], CutRule(**about["cut"]), _tuples(about["shape"])
        if kind == "linear_own_states":
            _check_generator(folder, about["generator"], generator_path)
            judge: Judge = _load_own_states(folder, rule, OwnStatesShape(**shape), device)
        elif kind == "linear":
            judge = _load_linear(folder, rule, LinearShape(**shape), device)
        elif kind == "pairwise":
            judge = load_pairwise(folder / "model", rule, PairwiseFormat(**shape), device)
        else:
            raise JudgeError(f"{folder}: a judge of the unknown kind '{kind}'; known kinds: {', '.join(KINDS)}")
    except (KeyError, TypeError) as error:
        raise JudgeError(f"{folder / 'judge.json'}: not as trainers/judge.py writes it ({error})") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise JudgeError(f"{folder}: the judge's weights cannot be read ({error}); train it again") from None
    return judge


def load_pairwise(
    model_path: str | Path, rule: CutRule, shape: PairwiseFormat, device: str | torch.device = "cpu"
) -> PairwiseJudge:
    """A pairwise judge from any causal language model; without training it is the zero-shot judge."""
    language_model = load_model(model_path, "float32", torch.device(device))
    return PairwiseJudge(PairwiseModel(language_model, PairReader(load_tokenizer(model_path), shape)), rule)


def _check_generator(folder: Path, trained_for: dict[str, str], generator_path: str | Path | None) -> None:
    if generator_path is None:
        return
    found = generator_identity(generator_path)
    if found != trained_for["fingerprint"]:
        raise JudgeError(
            f"the judge in {folder} reads the hidden states of {trained_for['path']} (fingerprint "
            f"{trained_for['fingerprint']}), but the generator is {generator_path} ({found}); train a judge for that "
            "model, or take one that reads text"
        )


def _load_own_states(
    folder: Path, rule: CutRule, shape: OwnStatesShape, device: str | torch.device
) -> OwnStatesJudge:
    model = OwnStatesModel(shape)
    model.load_state_dict(load_file(folder / "head.safetensors"))
    return OwnStatesJudge(model.to(device), shape, rule)


def _load_linear(folder: Path, rule: CutRule, shape: LinearShape, device: str | torch.device) -> LinearJudge:
    model = LinearModel(AutoModel.from_pretrained(folder / "model", dtype=torch.float32), shape)
    parts = nn.ModuleDict({"norm": model.norm, "head": model.head})
    parts.load_state_dict(load_file(folder / "head.safetensors"))
    return LinearJudge(model.to(device), rule)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; the records hold tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
