"""What judges' folders hold, for tests of those who read it: judge.json and metrics.json without a judge."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.calibration import CalibrationFigures
from secateur.deepprune.judges.record import (
    AddsOverAhead,
    Estimate,
    JudgeCost,
    JudgeMetrics,
    JudgeRecord,
    PairFigures,
    ScoreFigures,
    TrainingFigures,
    WithinProblems,
    write_judge,
    write_metrics,
)
from secateur.runtime.files import JSON

CURVE = ((0.0, 0.0), (0.1, 0.8), (1.0, 1.0))


def describe_judge(folder: Path, kind: str = "linear") -> None:
    """Write a judge.json that is enough for whoever only asks what a judge is."""
    write_judge(folder, JudgeRecord(kind=kind, cut=CutRule("words", 2)))


def pair_figures(auroc: float | None = 0.9) -> PairFigures:
    interval = None if auroc is None else (auroc - 0.02, auroc + 0.02)
    return PairFigures(
        auroc=auroc,
        auroc_ci95=interval,
        tnr_at_fnr20=auroc,
        tnr_at_fnr20_ci95=interval,
        pairs=100,
        same_answer_share=0.4,
        problems=9,
    )


def score_figures(auroc: float | None) -> ScoreFigures:
    found = pair_figures(auroc)
    return ScoreFigures(**vars(found), roc=() if auroc is None else CURVE, unfinished=found)


def measure_judge(
    folder: Path, kind: str = "linear", config: dict[str, JSON] | None = None, **changes: Any
) -> JudgeMetrics:
    """Write and return the metrics.json of a judge with an AUROC of .9, beside two baselines."""
    metrics = JudgeMetrics(
        **vars(score_figures(0.9)),
        whole_cut_share=0.1,
        median_cut_share=0.2,
        mean_cut_tokens=26.0,
        unseen_groups=(),
        calibration=CalibrationFigures(
            temperature=1.0,
            shift=0.0,
            ece=0.1,
            brier=0.2,
            ece_uncalibrated=0.1,
            brier_uncalibrated=0.2,
            reliability=(),
        ),
        cost=JudgeCost(0),
        kind=kind,
        auroc_within_problems=WithinProblems(
            value=0.7, ci95=(0.65, 0.75), problems=8, problem_mean=0.85, minus_ngram=Estimate(0.1, (0.05, 0.15))
        ),
        weight=0.5,
        kappa=Estimate(0.5, (0.4, 0.6)),
        adds_over_ahead=AddsOverAhead(
            saving=Estimate(0.2, (0.1, 0.3)),
            accuracy=Estimate(0.0, (-0.01, 0.01)),
            problems=9,
            n=16,
        ),
        oracle=AddsOverAhead(saving=Estimate(0.5, (0.4, 0.6)), accuracy=Estimate(0.0, (0.0, 0.0)), problems=9, n=16),
        verdict="a judged cut counts 0.50 of a vote",
        baselines={"ngram": score_figures(0.8), "zero_shot": score_figures(None)},
        models={},
        training=TrainingFigures(steps=3, dev_problems=2),
        config=config or {},
        versions={},
    )
    metrics = replace(metrics, **changes)
    write_metrics(folder, metrics)
    return metrics
