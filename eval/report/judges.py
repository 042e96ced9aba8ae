"""The judges that a run used, as far as their folders are there: how good each is, in figures and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from eval.report import charts
from eval.report.bars import printable
from eval.report.charts import RocCurve
from secateur.deepprune.judges.figures import METRICS_FILE, JudgeMetrics, ScoreFigures, read_metrics
from secateur.runtime.files import JSON


@dataclass(frozen=True)
class MeasuredJudge:
    """A trained judge of a model."""

    model: str
    metrics: JudgeMetrics


@dataclass(frozen=True)
class JudgeSection:
    """What the page shows of one judge; `reliability` is None and `error` means nothing where it has no bins."""

    title: str
    caption: str
    roc: Markup
    reliability: Markup | None
    error: float


def measured_judges(given: Mapping[str, Path], config: Mapping[str, JSON]) -> list[MeasuredJudge]:
    """Those `given` by model; without any, the judges of the run's config whose folders are still there. Only those
    that could be measured."""
    pairs = given.items() if given else _folders_of(config["judges"])
    found = [MeasuredJudge(model, read_metrics(folder)) for model, folder in pairs]
    return [judge for judge in found if judge.metrics.auroc is not None]


def _folders_of(judges: Mapping[str, str | list[str]]) -> list[tuple[str, Path]]:
    named = [(model, Path(name)) for model, names in judges.items() for name in _listed(names)]
    return [(model, path) for model, path in named if (path / METRICS_FILE).is_file()]


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def judge_section(judge: MeasuredJudge) -> JudgeSection:
    metrics = judge.metrics
    kind, model = _words(metrics.kind), printable(judge.model, 80)
    curves = [RocCurve(kind, metrics.roc, metrics.auroc, main=True), *_baseline_curves(metrics.baselines)]
    bins, name = metrics.calibration.reliability, f"{kind} judge of the {model} model"
    return JudgeSection(
        title=f"Judge for the {model} model: {kind}",
        caption=f"{metrics.pairs:,} pairs, {metrics.same_answer_share:.0%} with the same answer.",
        roc=Markup(charts.roc(curves, name)),
        reliability=Markup(charts.reliability(bins, name)) if bins else None,
        error=metrics.calibration.ece,
    )


def _baseline_curves(baselines: Mapping[str, ScoreFigures]) -> Sequence[RocCurve]:
    return [RocCurve(_words(name), one.roc, one.auroc) for name, one in baselines.items() if one.roc]


def _words(name: str) -> str:
    return printable(name, 80).replace("_", " ")
