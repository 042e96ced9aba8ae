"""Judge folders: saving a judge, finding one on this machine or on the Hub, loading it for the generator it fits.

A config names a judge by its folder, by an id on the Hub, or by a kind that needs no training.

judge.json (record.py) names the judge's `kind`, its `cut`, `shape` (sizes and what it reads), `calibration` and the
`dtype` of its language model; `head.safetensors` holds the small trained parts; `model/` is the language model of the
kinds that have one, a plain Hugging Face folder with its tokenizer. A model that is used as it is need not be copied:
with the key `model` (folder or Hub id) judge.json is all of the judge, for the kinds `pairwise` (a public judge, or
any instruct model) and `embedding` (a sentence encoder). By hand:

    {"format": 1, "kind": "pairwise", "model": "THU-KEG/DeepPrune-Judge-4B", "dtype": "bfloat16",
     "cut": {"kind": "words", "k": 25},
     "shape": {"prompt": "… {a} … {b} …", "labels": ["yes", "no"], "chat_template": true, "max_tokens": 8192}}
    {"format": 1, "kind": "embedding", "model": "sentence-transformers/all-MiniLM-L6-v2",
     "cut": {"kind": "words", "k": 25}}

A judge on the Hub is such a folder; `load_judge("user/judge")` and `load_judge("user/judge@revision")` fetch it. Only
JSON, text and safetensors are fetched; a model that asks for code of its own, or names another one, is refused.
"""

import dataclasses
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import Judge, JudgeError
from secateur.deepprune.judges.kind import JudgeKind
from secateur.deepprune.judges.record import JUDGE_FILE, Generator, JudgeOrigin, JudgeRecord, read_judge, write_judge
from secateur.deepprune.judges.registry import JUDGE_KINDS, UNTRAINED, stored_kind
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, fingerprints, first_changed, model_fingerprint, model_identity, read_json
from secateur.runtime.hub import is_hub_id, snapshot, split_revision

if TYPE_CHECKING:
    import torch

# A class of the library, not a module that it happens to import, such as torch with its `load`.
_ENCODER_MODULE = re.compile(r"sentence_transformers(\.[a-z_]\w*)*\.[A-Z]\w*")


def save_judge(judge: Judge, folder: str | Path, origin: JudgeOrigin) -> None:
    """Write the judge's folder; judge.json comes last, so a folder that has it is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = judge.save_parts(folder)
    about = {"kind": judge.name, "cut": judge.cut_rule, "calibration": judge.calibration}
    checksums = fingerprints(folder, "*.safetensors")
    record = JudgeRecord(**about, checksums=checksums, **vars(parts), **vars(origin))
    write_judge(folder, record)


def check_weights(folder: Path, record: JudgeRecord) -> None:
    """Raises `JudgeError` naming a file of weights that is missing or was changed since the judge was saved."""
    if fault := first_changed(folder, record.checksums):
        raise JudgeError(f"{folder}: {fault}; restore it from a copy, or train the judge again")


def describe_generator(path: str | Path) -> Generator:
    """What `load_judge` compares."""
    weights = None if Path(path).is_dir() else _weights_on_the_hub(path)
    return Generator(str(path), model_identity(path), weights)


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
    if (folder / JUDGE_FILE).is_file():
        return folder
    if not is_hub_id(folder_or_id):
        raise JudgeError(
            f"{folder}: no judge there (judge.json is missing); train one with trainers/judge.py, name one on the "
            f"Hub (user/judge), or an untrained one: {', '.join(UNTRAINED)}"
        )
    folder = snapshot(str(folder_or_id))
    if not (folder / JUDGE_FILE).is_file():
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


def _modules(values: JSON) -> list[JSON]:
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
    device: "str | torch.device" = "cpu",
    allow_other_model: bool = False,
) -> Judge:
    """A judge from its folder or from the Hub (`find_judge`), or one that needs no training by name (`UNTRAINED`;
    they take `cut_rule`).

    `generator_path` is the model whose traces will be judged. That a judge has earned no weight is not said here but
    by `prune`, where it has a consequence; `weight` and `verdict` say so to others.

    Raises `InputError` for a folder that is no judge or is damaged, and for a judge of own states that was trained on
    another model, unless `allow_other_model`: its states must then have the same sizes, as those of the model before
    and after RL do.
    """
    if str(folder_or_name) in UNTRAINED:
        return JUDGE_KINDS[str(folder_or_name)].make(cut_rule or CutRule(), generator_path)
    folder = find_judge(folder_or_name)
    record = read_judge(folder)
    kind = stored_kind(record.kind, folder)
    if folder != Path(folder_or_name) and record.model is not None:
        record = dataclasses.replace(record, model=_model_on_the_hub(str(folder_or_name), record.model))
    if kind.reads_states and not allow_other_model:
        check_generator(folder_or_name, record, generator_path)
    check_weights(folder, record)
    try:
        judge = kind.load(folder, record, device)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise JudgeError(f"{folder}: the judge's weights cannot be read ({error}); train it again") from None
    judge.calibration, judge.prompt = record.calibration, record.prompt
    judge.weight, judge.verdict = record.weight, record.verdict
    return judge


def _model_on_the_hub(judge: str, model: str) -> str:
    """The snapshot of the model that a judge on the Hub names: data only, and never a folder of this machine."""
    if not is_hub_id(model):
        raise JudgeError(f"{judge}: its judge.json names the model '{model}', which is no model on the Hub")
    folder = snapshot(model)
    _refuse_foreign_code(model, folder)
    return str(folder)


def check_generator(judge: str | Path, record: JudgeOrigin, generator_path: str | Path | None) -> None:
    """Raise `JudgeError` unless an own-state judge, or a scorer, was trained for this generator: the same folder, the
    same id, or the same files under another name, as of a folder that was pushed. Without a generator nothing is
    compared."""
    trained_for = record.generator
    if trained_for is None:
        raise JudgeError(f"{judge}: judge.json names no 'generator', the model whose states it reads; train it again")
    if generator_path is None:
        return
    found = model_identity(generator_path)
    known = {trained_for.fingerprint, trained_for.weights or trained_for.fingerprint}
    if found in known or split_revision(found)[0] in known:
        return
    if is_hub_id(generator_path) and _weights_on_the_hub(generator_path) in known:
        return
    raise JudgeError(
        f"the judge in {judge} reads the hidden states of {trained_for.path} (fingerprint "
        f"{trained_for.fingerprint}), but the generator is {generator_path} ({found}); train a judge for that "
        "model, take one that reads text, or allow it where both models have one shape (allow_other_model)"
    )


def judge_folder(folder_or_id: str) -> Path:
    """Where a trained judge lies; one on the Hub is fetched, once per process. What begins with `outputs/` is a
    folder that is not there yet."""
    on_hub = is_hub_id(folder_or_id) and not folder_or_id.startswith("outputs/")
    return _fetched(folder_or_id) if on_hub else Path(folder_or_id)


@lru_cache
def _fetched(name: str) -> Path:
    return find_judge(name)


def judge_kind(name: str) -> str:
    """What a judge is called: an untrained one by its name, a trained one by its kind."""
    return kind_of(name).name


def judge_weight(name: str) -> float | None:
    """What its cuts have earned (`JudgeRecord.weight`); None where that was never measured."""
    return None if name in UNTRAINED else read_judge(judge_folder(name)).weight


def kind_of(name: str) -> JudgeKind:
    """The kind of a judge. Raises `InputError` for a folder whose judge.json is missing or names no kind."""
    if name in UNTRAINED:
        return JUDGE_KINDS[name]
    folder = judge_folder(name)
    return stored_kind(read_judge(folder).kind, folder)


def check_judge(key: str, name: str, states: bool) -> None:
    """Raise `InputError` unless `name`, the value of `key`, is a judge; `states`: whether the engine hands out hidden
    states."""
    try:
        found = name in UNTRAINED or (judge_folder(name) / JUDGE_FILE).is_file()
    except InputError as error:
        raise InputError(f"key '{key}' has the value '{name}': {error}") from None
    if not found:
        raise InputError(
            f"key '{key}' has the value '{name}': no judge.json there; train one with trainers/judge.py, name one on "
            f"the Hub (user/judge), or choose from {', '.join(UNTRAINED)}"
        )
    if not states and kind_of(name).reads_states:
        raise InputError(
            f"key '{key}' names a judge of the model's own states, which engine 'openai' cannot hand out; give a "
            "judge of kind linear or pairwise, or another engine"
        )
