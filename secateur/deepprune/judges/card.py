"""The model card of a judge: what it reads, how good it was on its test problems, how to load it.

All figures are those of metrics.json (trainers/judge.py), which says on which problems they were measured.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.deepprune.judges.kind import JudgeKind
from secateur.deepprune.judges.record import (
    HEAD_FILE,
    JUDGE_FILE,
    METRICS_FILE,
    JudgeCost,
    JudgeMetrics,
    JudgeRecord,
    read_judge,
    read_metrics,
    worth_words,
)
from secateur.deepprune.judges.registry import stored_kind
from secateur.runtime.cards import (
    LICENCE_FILES,
    BaseModel,
    Markdown,
    code_span,
    describe_base,
    escape_markdown,
    exact_literal,
    figure,
    render_card,
    write_card,
)
from secateur.runtime.files import JSON, copy_file
from secateur.runtime.hub import is_hub_id
from secateur.tasks.prompts import Prompt, prompt_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TEMPLATE = Path(__file__).parent / "templates" / "judge_card.md"
# What a repository of a judge holds.
PUSHED = (JUDGE_FILE, METRICS_FILE, HEAD_FILE, "README.md", "model/*", *LICENCE_FILES)
_NOT_NAMED = "not named"


def write_judge_card(folder: Path, repo_id: str | None = None) -> bool:
    """Write `folder`/README.md from judge.json and metrics.json, with the licence files of the weights that it holds
    beside it; whether it changed.

    repo_id: where the judge is pushed to; None names its folder in the snippet.
    """
    record, metrics = read_judge(folder), read_metrics(folder)
    kind = stored_kind(record.kind, folder)
    base = describe_base(str(metrics.config["model"]))
    for path in base.files if _holds_weights(kind, record) else ():
        copy_file(path, folder / path.name)
    context = _identity(kind, record, metrics) | _figures(metrics) | _training(kind, record, metrics, base)
    name = (repo_id or str(folder)).rstrip("/").split("/")[-1]
    context |= {"name": name, "judge_name": repo_id or str(folder)}
    return write_card(folder, render_card(TEMPLATE, _front_matter(name, kind, record, metrics, base), context))


def _front_matter(
    name: str, kind: JudgeKind, record: JudgeRecord, metrics: JudgeMetrics, base: BaseModel
) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    return ModelCardData(
        model_name=name,
        base_model=base.hub_id,
        library_name="secateur",
        tags=["secateur", "deepprune", "judge", "reasoning", kind.name.replace("_", "-")],
        metrics=["roc_auc"],
        eval_results=_results(metrics) or None,
        **(base.licence if _holds_weights(kind, record) else {}),
    )


def _results(metrics: JudgeMetrics) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-classification",
            task_name="Will two unfinished reasoning traces end in the same answer?",
            dataset_type="traces",
            dataset_name=f"test problems ({test})",
            metric_type="roc_auc",
            metric_name="AUROC of unfinished pairs",
            metric_value=round(figures.unfinished.auroc, 4),
        )
        for test, figures in metrics.tests.items()
        if figures.unfinished.auroc is not None
    ]


def _holds_weights(kind: JudgeKind, record: JudgeRecord) -> bool:
    """Whether the folder holds a language model that was made from the base model's weights."""
    return kind.language_model is not None and record.model is None


def _identity(kind: JudgeKind, record: JudgeRecord, metrics: JudgeMetrics) -> dict[str, object]:
    own, config, sources = record.generator, metrics.config, metrics.training.sources
    generator = str((own.path if own else config.get("generator")) or _NOT_NAMED)
    arithmetic = any(source.startswith("arithmetic:") for source in sources.values())
    rule, layers = record.cut, record.shape.get("layers", [])
    return {
        "kind": kind.name,
        "reads": kind.reads.format(layers=", ".join(str(layer) for layer in layers)),
        "reads_states": kind.reads_states,
        "generator": generator,
        "generator_named": generator != _NOT_NAMED,
        "fingerprint": own.fingerprint if own and own.fingerprint != generator else None,
        "generator_note": _generator_note(generator) if kind.reads_states else "",
        "cut": f"at reasoning word {rule.k}" if rule.kind == "words" else f"after {rule.k} tokens",
        "calibration": record.calibration,
        **_prompt(record, config, arithmetic),
        "shape": record.shape,
        "arithmetic": arithmetic,
        "sources": sources,
        "example": "Rule oak. Start with 4. a-6 b#7 c-7." if arithmetic else "What is 17 · 23?",
    }


def _prompt(record: JudgeRecord, config: Mapping[str, JSON], arithmetic: bool) -> dict[str, Markdown]:
    """How the problems of its traces were put, in words and as arguments of `prune`."""
    found = record.prompt or prompt_of(config, Prompt("plain") if arithmetic else None)
    keys = {} if found is None else {key: value for key, value in asdict(found).items() if value is not None}
    return {
        "prompt_words": Markdown(", ".join(f"{key.replace('_', ' ')} {code_span(keys[key])}" for key in keys)),
        "prompt_arguments": Markdown("".join(f", {key}={exact_literal(keys[key])}" for key in keys)),
    }


def _generator_note(generator: str) -> str:
    where = "" if is_hub_id(generator) else " That name is a folder where it was trained: give yours, or its Hub id."
    return (
        "It works with this generator only: loading compares the fingerprint of the model's files, so a copy under "
        f"another name is accepted and another model refused.{where}"
    )


def _figures(metrics: JudgeMetrics) -> dict[str, object]:
    return {
        "tests": metrics.tests,
        "baselines": metrics.baselines,
        "metrics": metrics,
        "worth": worth_words(metrics),
        "cost": _cost(metrics.cost, metrics.mean_cut_tokens),
    }


def _cost(cost: JudgeCost, cut_tokens: float) -> str:
    if cost.macs_per_token is not None:
        return (
            f"{cost.macs_per_token:,} multiply-accumulates per token of a cut, {cost.macs_per_cut:,} per cut, "
            f"{cost.macs_per_pair:,} per pair; 0 tokens read"
        )
    model = f"a model of {cost.parameters:,} parameters reads what is compared"
    return f"{model}; the mean cut has {cut_tokens:.0f} tokens"


def _training(kind: JudgeKind, record: JudgeRecord, metrics: JudgeMetrics, base: BaseModel) -> dict[str, object]:
    licence = _licence(base) if _holds_weights(kind, record) else _no_licence(base)
    return {"training": _training_words(metrics, base), "licence": licence, "versions": metrics.versions}


def _training_words(metrics: JudgeMetrics, base: BaseModel) -> Markdown:
    training, config = metrics.training, metrics.config
    if not training.steps:
        return Markdown(f"Not trained: {code_span(config['model'])} is used as it is.")
    return Markdown(
        f"{training.steps} steps on {training.train_pairs:,} pairs of {training.train_problems} "
        f"problems (focal loss, gamma {config['focal_gamma']:g}; the rarer label counts "
        f"{config['minority_factor']:g} times); the checkpoint with the best AUROC on {training.dev_problems} "
        f"development problems ({figure(training.best_dev_auroc)}) was kept. Started from "
        f"{code_span(base.name)}; seed {config['seed']}."
    )


def _no_licence(base: BaseModel) -> Markdown:
    return Markdown(
        f"not set. The small trained parts here hold no weight of {code_span(base.name)}; whoever shares them "
        "chooses one."
    )


def _licence(base: BaseModel) -> Markdown:
    if not base.licence:
        return Markdown(
            f"not known for {code_span(base.name)}: {escape_markdown(base.source)}. Look it up before use."
        )
    known, name = code_span(base.licence["license"]), code_span(base.name)
    return Markdown(f"{known}, that of {name}, as {escape_markdown(base.source)} says.")
