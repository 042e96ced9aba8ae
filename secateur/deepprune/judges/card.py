"""The model card of a judge: what it reads, how good it was on its test problems, how to load it.

All figures are those of metrics.json (trainers/judge.py), which says on which problems they were measured.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.runtime.base_model import LICENCE_FILES, BaseModel, describe_base
from secateur.runtime.cards import Markdown, code_span, escape_markdown, figure, render_card, write_card
from secateur.runtime.files import copy_file, read_json
from secateur.runtime.hub import is_hub_id

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

TEMPLATE = Path(__file__).parent / "templates" / "judge_card.md"
# What a repository of a judge holds.
PUSHED = ("judge.json", "metrics.json", "head.safetensors", "README.md", "model/*", *LICENCE_FILES)
_NOT_NAMED = "not named"
_READS = {
    "linear_own_states": "the generator's own hidden states of layers {layers}; no token is read again",
    "linear": "the tokens of each cut once, with a fine-tuned encoder",
    "pairwise": "the text of both cuts, once per pair, with a language model",
    "embedding": "the text of each cut once, with a sentence encoder",
}


def write_judge_card(folder: Path, repo_id: str | None = None) -> bool:
    """Write `folder`/README.md from judge.json and metrics.json, with the licence files of the weights that it holds
    beside it; whether it changed.

    repo_id: where the judge is pushed to; None names its folder in the snippet.
    """
    about, metrics = read_json(folder / "judge.json"), read_json(folder / "metrics.json")
    config = metrics["config"]
    base = describe_base(config["model"])
    for path in base.files if _holds_weights(about) else ():
        copy_file(path, folder / path.name)
    sources = metrics["training"].get("sources", {})  # older judges have none
    context = _identity(about, config, sources) | _figures(metrics) | _training(metrics, about, base)
    context |= {"name": (repo_id or str(folder)).rstrip("/").split("/")[-1], "judge_name": repo_id or str(folder)}
    data = _front_matter(context["name"], about, metrics, base)
    return write_card(folder, render_card(TEMPLATE, data, context))


def _front_matter(
    name: str, about: Mapping[str, Any], metrics: Mapping[str, Any], base: BaseModel
) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Will two unfinished reasoning traces end in the same answer?",
            dataset_type="traces",
            dataset_name=f"test problems ({test})",
            metric_type="roc_auc",
            metric_name="AUROC of unfinished pairs",
            metric_value=round(figures["unfinished"]["auroc"], 4),
        )
        for test, figures in _tests(metrics).items()
        if figures["unfinished"]["auroc"] is not None
    ]
    return ModelCardData(
        model_name=name,
        base_model=base.hub_id,
        library_name="secateur",
        tags=["secateur", "deepprune", "judge", "reasoning", about["kind"].replace("_", "-")],
        metrics=["roc_auc"],
        eval_results=results or None,
        **(base.licence if _holds_weights(about) else {}),
    )


def _holds_weights(about: Mapping[str, Any]) -> bool:
    """Whether the folder holds a language model that was made from the base model's weights."""
    return about["kind"] in ("linear", "pairwise") and "model" not in about


def _tests(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    return metrics.get("models") or {"test": metrics}


def _identity(about: Mapping[str, Any], config: Mapping[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
    shape, own = about.get("shape", {}), about.get("generator", {})
    generator = own.get("path") or config.get("generator") or _NOT_NAMED
    layers = ", ".join(str(layer) for layer in shape.get("layers", ()))
    rule, arithmetic = about["cut"], any(source.startswith("arithmetic:") for source in sources.values())
    family = about.get("prompt_family") or config.get("prompt_family") or ("plain" if arithmetic else None)
    words = f"at reasoning word {rule['k']}" if rule["kind"] == "words" else f"after {rule['k']} tokens"
    return {
        "kind": about["kind"],
        "reads": _READS[about["kind"]].format(layers=layers),
        "generator": generator,
        "generator_named": generator != _NOT_NAMED,
        "fingerprint": own.get("fingerprint") if own.get("fingerprint") != generator else None,
        "generator_note": _generator_note(about, generator),
        "cut": words,
        "calibration": about["calibration"],
        "prompt_family": family,
        "prompt": shape.get("prompt"),
        "chat_template": shape.get("chat_template", False),
        "labels": shape.get("labels", ()),
        "max_tokens": shape.get("max_tokens"),
        "arithmetic": arithmetic,
        "sources": sources,
        "example": "Rule oak. Start with 4. a-6 b#7 c-7." if arithmetic else "What is 17 · 23?",
    }


def _generator_note(about: Mapping[str, Any], generator: str) -> str:
    if about["kind"] != "linear_own_states":
        return ""
    where = "" if is_hub_id(generator) else " That name is a folder where it was trained: give yours, or its Hub id."
    return (
        "It works with this generator only: loading compares the fingerprint of the model's files, so a copy under "
        f"another name is accepted and another model refused.{where}"
    )


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    calibration, tests = metrics["calibration"], _tests(metrics)
    return {
        "rows": [{"name": name} | figures for name, figures in tests.items()],
        "test_folders": len(tests),
        "baselines": [{"name": name} | figures for name, figures in metrics.get("baselines", {}).items()],
        **{key: calibration[key] for key in ("ece", "ece_uncalibrated", "brier")},
        **{key: metrics[key] for key in ("same_answer_share", "whole_cut_share", "median_cut_share")},
        "cost": _cost(metrics["cost"], metrics["mean_cut_tokens"]),
    }


def _cost(cost: Mapping[str, int], cut_tokens: float) -> str:
    if "macs_per_token" in cost:
        return (
            f"{cost['macs_per_token']:,} multiply-accumulates per token of a cut, {cost['macs_per_cut']:,} per cut, "
            f"{cost['macs_per_pair']:,} per pair; 0 tokens read"
        )
    model = f"a model of {cost['parameters']:,} parameters reads what is compared"
    return f"{model}; the mean cut has {cut_tokens:.0f} tokens"


def _training(metrics: Mapping[str, Any], about: Mapping[str, Any], base: BaseModel) -> dict[str, Any]:
    training, config = metrics["training"], metrics["config"]
    if not training["steps"]:
        words = Markdown(f"Not trained: {code_span(config['model'])} is used as it is.")
    else:
        words = Markdown(
            f"{training['steps']} steps on {training['train_pairs']:,} pairs of {training['train_problems']} "
            f"problems (focal loss, gamma {config['focal_gamma']:g}; the rarer label counts "
            f"{config['minority_factor']:g} times); the checkpoint with the best AUROC on {training['dev_problems']} "
            f"development problems ({figure(training['best_dev_auroc'])}) was kept. Started from "
            f"{code_span(base.name)}; seed {config['seed']}."
        )
    return {"training": words, "licence": _licence(about, base), "versions": metrics.get("versions", {})}


def _licence(about: Mapping[str, Any], base: BaseModel) -> Markdown:
    if not _holds_weights(about):
        return Markdown(
            f"not set. The small trained parts here hold no weight of {code_span(base.name)}; whoever shares them "
            "chooses one."
        )
    if not base.licence:
        return Markdown(
            f"not known for {code_span(base.name)}: {escape_markdown(base.source)}. Look it up before use."
        )
    known, name = code_span(base.licence["license"]), code_span(base.name)
    return Markdown(f"{known}, that of {name}, as {escape_markdown(base.source)} says.")
