"""Judge folders: what is saved beside the weights, and loading a judge for the generator it fits.

`judge.json` names `kind`, `cut` ({kind, k}), `shape` (sizes and what the judge reads), `calibration` ({temperature,
shift}) and `dtype` of the language model; `head.safetensors` holds the small trained parts; `model/` is the language
model of the kinds that have one, a plain Hugging Face folder with its tokenizer. A model that is used as it is need
not be copied: with the key `model` (folder or Hub id) judge.json is the whole judge, for the kinds `pairwise` (a
public judge, or any instruct model) and `embedding` (a sentence encoder):

    {"kind": "pairwise", "model": "THU-KEG/DeepPrune-Judge-4B", "dtype": "bfloat16",
     "cut": {"kind": "words", "k": 25},
     "shape": {"prompt": "… {a} … {b} …", "labels": ["yes", "no"], "chat_template": true, "max_tokens": 8192}}
    {"kind": "embedding", "model": "sentence-transformers/all-MiniLM-L6-v2", "cut": {"kind": "words", "k": 25}}

A judge on the Hub is such a folder; `load_judge("user/judge")` and `load_judge("user/judge@revision")` fetch it. Only
JSON, text and safetensors are fetched; a model that asks for code of its own, or names another one, is refused.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import Judge, JudgeError
from secateur.deepprune.judges.calibration import Calibration
from secateur.deepprune.judges.embedding import EmbeddingJudge
from secateur.deepprune.judges.linear import LinearJudge, LinearModel, LinearShape
from secateur.deepprune.judges.lora import plain_model
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from secateur.deepprune.judges.pairwise import PairReader, PairwiseFormat, PairwiseJudge, PairwiseModel
from secateur.deepprune.judges.untrained import UNTRAINED, UntrainedJudge
from secateur.engines.models import load_model, load_tokenizer, model_fingerprint
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json
from secateur.runtime.hub import is_hub_id, snapshot, split_revision

# A class of the library, not a module that it happens to import, such as torch with its `load`.
_ENCODER_MODULE = re.compile(r"sentence_transformers(\.[a-z_]\w*)*\.[A-Z]\w*")
KINDS = ("linear_own_states", "linear", "pairwise", "embedding")


def save_judge(judge: Judge, folder: str | Path, about: dict[str, Any]) -> None:
    """Write the judge's folder. `about` are JSON values kept in judge.json, such as the generator's fingerprint
    (`describe_generator`) or the `dtype` to load a language model in. `judge.json` comes last, so a folder that has
    it is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rule = {"kind": judge.cut_rule.kind, "k": judge.cut_rule.k}
    values = {"kind": judge.name, "cut": rule, "calibration": judge.calibration.to_json()}
    write_json(folder / "judge.json", values | _save_parts(judge, folder) | about)


def _save_parts(judge: Judge, folder: Path) -> dict[str, Any]:
    """Write the weights; returns what judge.json says about them."""
    if isinstance(judge, OwnStatesJudge):
        save_file(judge.model.state_dict(), folder / "head.safetensors")
        return {"shape": dataclasses.asdict(judge.shape)}
    if isinstance(judge, LinearJudge):
        parts = nn.ModuleDict({"norm": judge.model.norm, "head": judge.model.head})
        save_file(parts.state_dict(), folder / "head.safetensors")
        _save_model(judge.model.encoder, folder / "model")
        return {"shape": dataclasses.asdict(judge.model.shape)}
    if isinstance(judge, EmbeddingJudge):
        return {"model": judge.model_path}
    if isinstance(judge, PairwiseJudge):
        shape = {"shape": dataclasses.asdict(judge.model.reader.shape)}
        if judge.source is not None:
            return shape | {"model": judge.source}
        _save_model(judge.model.language_model, folder / "model")
        judge.model.reader.tokenizer.save_pretrained(folder / "model")
        return shape
    raise TypeError(f"a {type(judge).__name__} has nothing to save")


def _save_model(model: nn.Module, folder: Path) -> None:
    plain, weights = plain_model(model)
    plain.save_pretrained(folder, state_dict=weights)


def store_calibration(folder: str | Path, calibration: Calibration) -> None:
    """Put a calibration into the folder of a judge that is saved already."""
    path = Path(folder) / "judge.json"
    write_json(path, read_json(path) | {"calibration": calibration.to_json()})


def describe_generator(path: str | Path) -> dict[str, str]:
    """What `load_judge` compares: the path is for the reader, the fingerprint decides. A model on the Hub is named by
    its id; `weights` is the fingerprint of its files, where they can be had."""
    about = {"path": str(path), "fingerprint": generator_identity(path)}
    weights = None if Path(path).is_dir() else _weights_on_the_hub(path)
    return about | ({"weights": weights} if weights else {})


def generator_identity(path: str | Path) -> str:
    """A folder's fingerprint, or the id itself for a model on the Hub; trace folders name their model in this way."""
    return model_fingerprint(path) if Path(path).is_dir() else str(path)


def _weights_on_the_hub(name: str | Path) -> str | None:
    """The fingerprint that a model's folder has once it lies in the Hub's cache; None where it cannot be had."""
    try:
        return model_fingerprint(snapshot(str(name), ("config.json", "*.safetensors")))
    except InputError:
        return None


def find_judge(folder_or_id: str | Path) -> Path:
    """The folder of a judge: a local one as it is, that of `user/judge` or `user/judge@revision` in the Hub's cache.

    It is fetched where it is not there. Raises `JudgeError` if it holds no judge, or one that asks for code of its
    own.
    """
    folder = Path(folder_or_id)
    if (folder / "judge.json").is_file():
        return folder
    if not is_hub_id(folder_or_id):
        raise JudgeError(
            f"{folder}: no judge there (judge.json is missing); train one with trainers/judge.py, name one on the "
            f"Hub (user/judge), or an untrained one: {', '.join(UNTRAINED)}"
        )
    folder = snapshot(str(folder_or_id))
    if not (folder / "judge.json").is_file():
        raise JudgeError(f"{folder_or_id}: no judge there (judge.json is missing); look at its name on the Hub")
    _refuse_foreign_code(str(folder_or_id), folder)
    return folder


def _refuse_foreign_code(name: str, folder: Path) -> None:
    """transformers would ask, and run it from another repository if told to. For an adapter it loads the model that
    the adapter names, any repository with all its files or a folder of this machine."""
    for path in sorted(folder.rglob("*.json")):
        if path.name == "adapter_config.json":
            raise JudgeError(f"{name}: it holds an adapter ({path.relative_to(folder)}), not a whole model; merge it")
        values = read_json(path)
        if isinstance(values, dict) and "auto_map" in values:
            where = path.relative_to(folder)
            raise JudgeError(f"{name}: its {where} asks for code of its own (auto_map), which no judge may run")
        for module in _modules(values):
            if not _ENCODER_MODULE.fullmatch(str(module)):
                raise JudgeError(
                    f"{name}: its {path.relative_to(folder)} names '{module}', no sentence-transformers class"
                )


def _modules(values: Any) -> list[Any]:
    """What a modules.json, or a router's configuration, has sentence-transformers import and call."""
    if isinstance(values, list):
        return [entry["type"] for entry in values if isinstance(entry, dict) and "type" in entry]
    types = values.get("types") if isinstance(values, dict) else None
    return list(types.values()) if isinstance(types, dict) else []


def load_judge(
    folder_or_name: str | Path,
    generator_path: str | Path | None = None,
    *,
    cut_rule: CutRule | None = None,
    device: str | torch.device = "cpu",
    allow_other_model: bool = False,
) -> Judge:
    """A judge from its folder or from the Hub (`find_judge`), or one that needs no training by name (`UNTRAINED`;
    they take `cut_rule`).

    `generator_path` is the model whose traces will be judged. Raises `JudgeError` (an `InputError`) for a folder that
    is no judge or is damaged, and for a judge of own states that was trained on another model, unless
    `allow_other_model`: its states must then have the same sizes, as those of the model before and after RL do.
    """
    if str(folder_or_name) in UNTRAINED:
        return UntrainedJudge(str(folder_or_name), cut_rule or CutRule(), generator_path)
    folder = find_judge(folder_or_name)
    about = read_json(folder / "judge.json")
    try:
        if folder != Path(folder_or_name) and "model" in about:
            about = about | {"model": _model_on_the_hub(str(folder_or_name), about["model"])}
        if about["kind"] == "linear_own_states" and not allow_other_model:
            check_generator(folder_or_name, about["generator"], generator_path)
        judge = _load_kind(folder, about, device)
        judge.calibration = Calibration.from_json(about.get("calibration", Calibration().to_json()))
        judge.prompt_family = about.get("prompt_family")
    except (KeyError, TypeError) as error:
        raise JudgeError(f"{folder / 'judge.json'}: not as trainers/judge.py writes it ({error})") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise JudgeError(f"{folder}: the judge's weights cannot be read ({error}); train it again") from None
    return judge


def _model_on_the_hub(judge: str, model: str) -> str:
    """The snapshot of the model that a judge on the Hub names: data only, and never a folder of this machine."""
    if not is_hub_id(model):
        raise JudgeError(f"{judge}: its judge.json names the model '{model}', which is no model on the Hub")
    folder = snapshot(model)
    _refuse_foreign_code(model, folder)
    return str(folder)


def _load_kind(folder: Path, about: dict[str, Any], device: str | torch.device) -> Judge:
    kind, rule, shape = about["kind"], CutRule(**about["cut"]), _tuples(about.get("shape", {}))
    dtype = about.get("dtype", "float32")
    if kind == "linear_own_states":
        return _load_own_states(folder, rule, OwnStatesShape(**shape), device)
    if kind == "linear":
        return _load_linear(folder, rule, LinearShape(**shape), device, dtype)
    if kind == "pairwise":
        judge = load_pairwise(about.get("model", folder / "model"), rule, PairwiseFormat(**shape), device, dtype)
        judge.source = about.get("model")
        return judge
    if kind == "embedding":
        return EmbeddingJudge(about["model"], rule, device)
    raise JudgeError(f"{folder}: a judge of the unknown kind '{kind}'; known kinds: {', '.join(KINDS)}")


def load_pairwise(
    model_path: str | Path,
    rule: CutRule,
    shape: PairwiseFormat,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
) -> PairwiseJudge:
    """A pairwise judge from any causal language model; without training it is the zero-shot judge."""
    language_model = load_model(model_path, dtype, torch.device(device))
    reader = PairReader(load_tokenizer(model_path), shape)
    return PairwiseJudge(PairwiseModel(language_model, reader), rule)


def check_generator(judge: str | Path, trained_for: dict[str, str], generator_path: str | Path | None) -> None:
    """Raise `JudgeError` unless an own-state judge was `trained_for` this generator: the same folder, the same id, or
    the same files under another name, as of a folder that was pushed."""
    if generator_path is None:
        return
    found = generator_identity(generator_path)
    known = {trained_for["fingerprint"], trained_for.get("weights", trained_for["fingerprint"])}
    if found in known or split_revision(found)[0] in known:
        return
    if is_hub_id(generator_path) and _weights_on_the_hub(generator_path) in known:
        return
    raise JudgeError(
        f"the judge in {judge} reads the hidden states of {trained_for['path']} (fingerprint "
        f"{trained_for['fingerprint']}), but the generator is {generator_path} ({found}); train a judge for that "
        "model, take one that reads text, or allow it where both models have one shape (allow_other_model)"
    )


def _load_own_states(
    folder: Path, rule: CutRule, shape: OwnStatesShape, device: str | torch.device
) -> OwnStatesJudge:
    model = OwnStatesModel(shape)
    model.load_state_dict(load_file(folder / "head.safetensors"))
    return OwnStatesJudge(model.to(device), shape, rule)


def _load_linear(
    folder: Path, rule: CutRule, shape: LinearShape, device: str | torch.device, dtype: str
) -> LinearJudge:
    model = LinearModel(AutoModel.from_pretrained(folder / "model", dtype=getattr(torch, dtype)), shape)
    parts = nn.ModuleDict({"norm": model.norm, "head": model.head})
    parts.load_state_dict(load_file(folder / "head.safetensors"))
    return LinearJudge(model.to(device), rule)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; the records hold tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
