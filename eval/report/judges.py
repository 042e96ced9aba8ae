"""The judges that a run used, as far as their folders are there: how good each is, in figures and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from eval.report import charts
from eval.report.bars import printable
from eval.report.charts import ReliabilityBin, RocCurve
from secateur.runtime.files import JSON, read_json
from secateur.runtime.records import record_of
from secateur.runtime.statistics import Bounds

_METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class UnfinishedPairs:
    """The pairs of which no cut is a whole trace; the figures are None where one of the labels is missing."""

    auroc: float | None
    auroc_ci95: Bounds | None
    pairs: int


@dataclass(frozen=True)
class BaselineMetrics:
    """What a judge has to beat; None and () where it could not be measured."""

    auroc: float | None
    roc: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CalibrationMetrics:
    """`ece`: expected calibration error (0-1)."""

    ece: float
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class JudgeMetrics:
    """What of a judge's metrics.json is shown: figures on its test problems, all but counts 0-1, None and () where
    these have no pairs of both labels.

    `roc` are (false, true positive rate). `auroc_unseen_groups`: on rules or subjects that its training did not have,
    None where it had all. `whole_cut_share`: of the cuts, how many are whole traces; `median_cut_share`: the median
    cut's share of its trace."""

    kind: str
    auroc: float | None
    auroc_ci95: Bounds | None
    tnr_at_fnr20: float | None
    pairs: int
    problems: int
    same_answer_share: float | None
    unfinished: UnfinishedPairs
    whole_cut_share: float
    median_cut_share: float
    roc: tuple[tuple[float, float], ...]
    baselines: Mapping[str, BaselineMetrics]
    calibration: CalibrationMetrics
    auroc_unseen_groups: float | None = None
    auroc_unseen_groups_ci95: Bounds | None = None


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


def read_metrics(folder: str | Path) -> JudgeMetrics:
    """Raises `InputError` for a folder without metrics.json, or with one that is damaged."""
    path = Path(folder) / _METRICS_FILE
    return record_of(JudgeMetrics, read_json(path), str(path))


def measured_judges(given: Mapping[str, Path], config: Mapping[str, JSON]) -> list[MeasuredJudge]:
    """Those `given` by model; without any, the judges of the run's config whose folders are still there. Only those
    that could be measured."""
    pairs = given.items() if given else _folders_of(config["judges"])
    found = [MeasuredJudge(model, read_metrics(folder)) for model, folder in pairs]
    return [judge for judge in found if judge.metrics.auroc is not None]


def _folders_of(judges: Mapping[str, str | list[str]]) -> list[tuple[str, Path]]:
    named = [(model, Path(name)) for model, names in judges.items() for name in _listed(names)]
    return [(model, path) for model, path in named if (path / _METRICS_FILE).is_file()]


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


def _baseline_curves(baselines: Mapping[str, BaselineMetrics]) -> Sequence[RocCurve]:
    return [RocCurve(_words(name), one.roc, one.auroc) for name, one in baselines.items() if one.roc]


def _words(name: str) -> str:
    return printable(name, 80).replace("_", " ")
