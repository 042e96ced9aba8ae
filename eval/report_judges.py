"""How good the judges of a run are: ROC beside their baselines, and whether a probability means what it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval import figures
from eval.figures import RocCurve
from eval.trace_view import printable
from runtime.files import read_json

_METRICS = "metrics.json"


@dataclass(frozen=True)
class JudgeFolder:
    """A trained judge of a model; `folder` has metrics.json."""

    model: str
    folder: Path


def judge_folders(given: Mapping[str, Path], config: Mapping[str, Any]) -> list[JudgeFolder]:
    """Those `given` by model; without any, the judges of the run's config whose folders are still there and say how
    good they are."""
    if given:
        return [JudgeFolder(model, Path(folder)) for model, folder in given.items()]
    named = config.get("judges") or {}
    pairs = [(model, Path(name)) for model, names in named.items() for name in _listed(names)]
    return [JudgeFolder(*pair) for pair in pairs if (pair[1] / _METRICS).is_file()]


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def judge_figures(judge: JudgeFolder) -> dict[str, Any]:
    """What the page shows of one judge."""
    metrics = read_json(judge.folder / _METRICS)
    kind = printable(metrics.get("kind", "judge"), 80).replace("_", " ")
    curves = [RocCurve(kind, metrics["roc"], metrics["auroc"], main=True)]
    for label, baseline in metrics.get("baselines", {}).items():
        if isinstance(baseline, dict) and baseline.get("roc"):
            curves.append(RocCurve(printable(label).replace("_", " "), baseline["roc"], baseline["auroc"]))
    calibration = metrics.get("calibration") or {}
    bins = calibration.get("reliability") or []
    model = printable(judge.model, 80)
    name = f"{kind} judge of the {model} model"
    return {
        "title": f"Judge for the {model} model: {kind}",
        "roc": Markup(figures.roc(curves, name)),
        "caption": f"{metrics['pairs']:,} pairs, {metrics['same_answer_share']:.0%} with the same answer.",
        "reliability": Markup(figures.reliability(bins, name)) if bins else None,
        "error": calibration.get("ece") if bins else None,
    }
