"""The figures of a judge on its test problems, beside the baselines, as they go into metrics.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from secateur.deepprune.judges import metrics
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.calibration import Calibration, calibration_figures, fit_calibration
from secateur.deepprune.judges.embedding import EmbeddingJudge
from secateur.deepprune.judges.own_states import OwnStatesJudge
from secateur.deepprune.judges.pairs import JudgedProblem, all_labels
from secateur.deepprune.judges.untrained import UNTRAINED, UntrainedJudge
from trainers.judges.config import JudgeConfig
from trainers.judges.data import JudgeData
from trainers.judges.kinds import Trainee, pair_scores, score_shards, thin_pairs


class TestPairs:
    """The test pairs in one row: labels, problem numbers, and the subsets that are reported by themselves."""

    __test__ = False  # not a test class

    def __init__(self, problems: Sequence[JudgedProblem], seen_groups: set[str | None]) -> None:
        self.problems = problems
        self.labels = all_labels(problems)
        sizes = [len(problem.pairs) for problem in problems]
        self.problem = np.repeat(np.arange(len(problems)), sizes)
        self.unfinished = np.concatenate([problem.pairs.unfinished for problem in problems])
        groups = {p.group for p in problems if p.group is not None}
        self.unseen_groups = sorted(groups - seen_groups) if seen_groups else []
        self.unseen = np.repeat([problem.group in self.unseen_groups for problem in problems], sizes)

    def figures(self, scores: np.ndarray) -> dict[str, Any]:
        """All pairs, the unfinished ones alone, and the groups (rules, subjects) that training did and did not have.

        The last two only where there are groups that training did not have.
        """
        result = self._subset(scores, np.ones(len(scores), dtype=bool))
        result["roc"] = metrics.roc_points(self.labels, scores)
        result["unfinished"] = self._subset(scores, self.unfinished)
        if self.unseen_groups:
            for name, chosen in (("unseen", self.unseen), ("seen", ~self.unseen)):
                part = self._subset(scores, chosen)
                result[f"auroc_{name}_groups"] = part["auroc"]
                result[f"auroc_{name}_groups_ci95"] = part["auroc_ci95"]
        return result

    def _subset(self, scores: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
        return metrics.summary(self.labels[chosen], scores[chosen], self.problem[chosen])


def calibrated(judge: Judge, data: JudgeData, config: JudgeConfig) -> Calibration:
    """Fit the judge's calibration on the development problems, and set it."""
    judge.calibration = Calibration()
    dev = thin_pairs(data.dev, config.dev_pairs, config.seed) if config.kind == "pairwise" else data.dev
    judge.calibration = fit_calibration(all_labels(dev), _scores(judge, dev), config.calibration)
    return judge.calibration


def test_figures(judge: Judge, data: JudgeData, problems: Sequence[JudgedProblem]) -> dict[str, Any]:
    """The judge's own figures on one test folder, what its cuts look like, and what one score costs."""
    pairs = TestPairs(problems, {problem.group for problem in data.train})
    calibration, judge.calibration = judge.calibration, Calibration()
    raw = _scores(judge, problems)
    judge.calibration = calibration
    whole = [value for problem in problems for value in problem.whole]
    return pairs.figures(calibration(raw)) | {
        "unseen_groups": pairs.unseen_groups,
        "whole_cut_share": float(np.mean(whole)),
        "median_cut_share": float(np.median([share for problem in problems for share in problem.cut_shares])),
        "mean_cut_tokens": float(np.mean([len(cut.token_ids) for problem in problems for cut in problem.cuts])),
        "calibration": calibration_figures(pairs.labels, raw, calibration),
        "cost": _cost(judge),
    }


def baseline_figures(
    ngram: Trainee | None, data: JudgeData, problems: Sequence[JudgedProblem], config: JudgeConfig
) -> dict[str, dict[str, Any]]:
    """The same figures for the trained n-gram model (where something was trained) and the untrained similarities,
    name → figures."""
    pairs = TestPairs(problems, {problem.group for problem in data.train})
    found = {}
    if ngram is not None:
        found["ngram"] = pairs.figures(np.concatenate([_ngram_scores(ngram, problem) for problem in problems]))
    generator = config.generator or config.model
    judges: list[Judge] = [
        UntrainedJudge(name, data.cut_rule, generator)
        for name in UNTRAINED
        if name != "token_embedding" or config.kind != "embedding" or config.generator  # a sentence encoder has none
    ]
    if config.embedding_model is not None:
        judges.append(EmbeddingJudge(config.embedding_model, data.cut_rule))
    return found | {judge.name: pairs.figures(_scores(judge, problems)) for judge in judges}


def figure_rows(models: dict[str, dict[str, Any]], baselines: dict[str, dict[str, Any]]) -> list[str]:
    """What the terminal shows: a line per test folder and one for the baselines on the first of them. The headline is
    the figure of unfinished pairs: a cut that holds its answer makes any judge look good."""
    rows = []
    for name, figures in models.items():
        part = figures["unfinished"]
        rows.append(
            f"{name}: AUROC {_with_interval(part, 'auroc')} on unfinished pairs, {_number(figures['auroc'])} on all; "
            f"TNR at FNR .2 {_with_interval(part, 'tnr_at_fnr20')}; "
            f"{figures['whole_cut_share']:.1%} of the cuts are whole traces, the median cut is "
            f"{figures['median_cut_share']:.1%} of its trace; calibration error {figures['calibration']['ece']:.3f}"
        )
    shown = (f"{name} {_number(figures['unfinished']['auroc'])}" for name, figures in baselines.items())
    return [*rows, f"baselines: {', '.join(shown)}"]


def _with_interval(figures: dict[str, Any], key: str) -> str:
    interval = figures[f"{key}_ci95"]
    return _number(figures[key]) + (f" ({interval[0]:.3f} – {interval[1]:.3f})" if interval else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _scores(judge: Judge, problems: Sequence[JudgedProblem]) -> np.ndarray:
    return np.concatenate(score_shards(problems, lambda problem: pair_scores(judge, problem)))


@torch.no_grad()
def _ngram_scores(ngram: Trainee, problem: JudgedProblem) -> np.ndarray:
    return torch.sigmoid(ngram.module([problem]).double()).cpu().numpy()


def _cost(judge: Judge) -> dict[str, int]:
    """Multiply-accumulates of the small parts; `parameters` those of the model that reads tokens."""
    cost = {"parameters": judge.parameters}
    if isinstance(judge, OwnStatesJudge):
        pool, head = judge.model.pool, judge.model.head
        cost |= {"macs_per_token": pool.macs_per_token(), "macs_per_cut": pool.macs_per_cut()}
        cost |= {"macs_per_pair": head.macs_per_pair()}
    return cost
