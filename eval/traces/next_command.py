"""The command that a script of samples names at its end."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from eval.traces.collect import CollectConfig
from eval.traces.sampling import SamplingKeys
from secateur.runtime.command_lines import written
from secateur.runtime.files import JSON

_SPLITS = ("train", "dev", "test")


def told_keys(config: SamplingKeys) -> dict[str, JSON]:
    """How a run samples: its values that are not the defaults, models and folder left out."""
    keys = [key for key in fields(SamplingKeys) if key.name not in ("models", "output_dir")]
    values = {key.name: getattr(config, key.name) for key in keys}
    return {key.name: values[key.name] for key in keys if values[key.name] not in (key.default, {})}


def table_command(config: SamplingKeys, asked: Mapping[str, JSON]) -> str:
    """What says how much `ahead` saves and loses; `asked`: the problems, and whatever else is not sampling."""
    keys = {"models": config.sampled_models, **asked, "methods": ["consensus", "ahead"]}
    keys |= {"output_dir": f"{config.output_dir}/table", **told_keys(config)}
    return written({key: value for key, value in keys.items() if value is not None}, "table")


def judge_command(config: CollectConfig) -> str:
    """What trains a judge on the states of the first model; "" without states, or without sets to train, choose and
    test on."""
    if not config.states or set(_SPLITS) - set(config.problems):
        return ""
    name, model = next(iter(config.models.items()))
    folders = {split: str(Path(config.output_dir) / name / split) for split in _SPLITS}
    return written({"model": model, **folders, "output_dir": f"{config.output_dir}/judge"}, "judge")
