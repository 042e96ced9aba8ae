"""The figures of a judge on its test problems, beside the baselines, as they go into metrics.json."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from secateur.deepprune.judges import metrics
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.calibration import Calibration, calibration_figures, fit_calibration
from secateur.deepprune.judges.embedding import EmbeddingJudge
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem, all_labels
from secateur.deepprune.judges.record import (
    CutFigures,
    JudgeFigures,
    JudgeMetrics,
    PairFigures,
    ScoreFigures,
    WithinProblems,
    worth_words,
)
from secateur.deepprune.judges.registry import JUDGE_KINDS, UNTRAINED
from trainers.judges.config import JudgeConfig
from trainers.judges.trainee import Trainee, scored_part, split_scores


class PairColumns:
    """The pairs of some problems in a row, [pairs] each: labels, the numbers of their problems, and which of them
    are unfinished."""

    def __init__(self, problems: Sequence[LabelledProblem]) -> None:
        self.sizes = [len(problem.pairs) for problem in problems]
        self.labels = all_labels(problems)
        self.problem = np.repeat(np.arange(len(problems)), self.sizes)
        self.unfinished = np.concatenate([problem.pairs.unfinished for problem in problems])

    def figures(self, scores: np.ndarray, chosen: np.ndarray | None = None) -> PairFigures:
        """Those of all pairs, or of the `chosen` [pairs] ones."""
        kept = slice(None) if chosen is None else chosen
        return metrics.summary(self.labels[kept], scores[kept], self.problem[kept])


def cut_figures(problems: Sequence[LabelledProblem]) -> CutFigures:
    return CutFigures(
        whole_cut_share=float(np.mean([value for problem in problems for value in problem.whole])),
        median_cut_share=float(np.median([share for problem in problems for share in problem.cut_shares])),
        mean_cut_tokens=float(np.mean([len(cut.token_ids) for problem in problems for cut in problem.cuts])),
    )


class TestPairs:
    """The pairs of a test folder, and the subsets that are reported by themselves. `unseen_groups`: those (rules,
    subjects) that training did not have."""

    __test__ = False  # not a test class

    def __init__(self, problems: Sequence[LabelledProblem], train: Sequence[LabelledProblem]) -> None:
        self.columns = PairColumns(problems)
        seen = {problem.group for problem in train}
        groups = {problem.group for problem in problems if problem.group is not None}
        self.unseen_groups = tuple(sorted(groups - seen)) if seen else ()
        self._unseen = np.repeat([problem.group in self.unseen_groups for problem in problems], self.columns.sizes)

    def figures(self, scores: np.ndarray) -> ScoreFigures:
        """All pairs, the unfinished ones alone, and the groups that training did and did not have, where there are
        any that it did not have."""
        columns = self.columns
        found = ScoreFigures(
            **vars(columns.figures(scores)),
            roc=metrics.roc_points(columns.labels, scores),
            unfinished=columns.figures(scores, columns.unfinished),
        )
        if not self.unseen_groups:
            return found
        unseen, seen = (columns.figures(scores, chosen) for chosen in (self._unseen, ~self._unseen))
        return dataclasses.replace(
            found,
            auroc_unseen_groups=unseen.auroc,
            auroc_unseen_groups_ci95=unseen.auroc_ci95,
            auroc_seen_groups=seen.auroc,
            auroc_seen_groups_ci95=seen.auroc_ci95,
        )


def calibrated(judge: Judge, data: JudgeData, config: JudgeConfig) -> Calibration:
    """Fit the judge's calibration on the development problems, and set it."""
    judge.calibration = Calibration()
    dev = scored_part(config, data.dev, config.dev_pairs)
    judge.calibration = fit_calibration(all_labels(dev), split_scores(judge, dev), config.calibration)
    return judge.calibration


def raw_scores(judge: Judge, problems: Sequence[LabelledProblem]) -> np.ndarray:
    """[pairs] of all problems in a row, before calibration."""
    calibration, judge.calibration = judge.calibration, Calibration()
    raw = split_scores(judge, problems)
    judge.calibration = calibration
    return raw


def test_figures(judge: Judge, data: JudgeData, problems: Sequence[LabelledProblem], raw: np.ndarray) -> JudgeFigures:
    """The judge's own figures on one test folder, what its cuts look like, and what one score costs; `raw` are its
    scores there."""
    pairs, calibration = TestPairs(problems, data.train), judge.calibration
    return JudgeFigures(
        **vars(pairs.figures(calibration(raw))),
        **vars(cut_figures(problems)),
        unseen_groups=pairs.unseen_groups,
        calibration=calibration_figures(pairs.columns.labels, raw, calibration),
        cost=judge.cost(),
    )


def within_figures(
    problems: Sequence[LabelledProblem], scores: np.ndarray, ngram: np.ndarray | None
) -> WithinProblems:
    """Of the unfinished pairs of a test folder, by the judge's `scores` [pairs] and those of the n-gram baseline."""
    columns = PairColumns(problems)
    chosen = columns.unfinished
    less = None if ngram is None else ngram[chosen]
    return metrics.within_problems(columns.labels[chosen], scores[chosen], columns.problem[chosen], less)


def baseline_figures(
    ngram: np.ndarray | None, data: JudgeData, problems: Sequence[LabelledProblem], config: JudgeConfig
) -> dict[str, ScoreFigures]:
    """The same figures for the trained n-gram model, from its scores [pairs] (None where nothing was trained), and
    for the untrained similarities, name → figures."""
    pairs = TestPairs(problems, data.train)
    found = {} if ngram is None else {"ngram": pairs.figures(ngram)}
    judges = _baseline_judges(config, data)
    return found | {judge.name: pairs.figures(split_scores(judge, problems)) for judge in judges}


def _baseline_judges(config: JudgeConfig, data: JudgeData) -> list[Judge]:
    kind, generator = config.judge_kind, config.generator or config.model
    # A sentence encoder, which is neither, is no generator with embeddings of its own.
    has_embeddings = config.generator is not None or kind.reads_states or kind.language_model is not None
    untrained = [JUDGE_KINDS[name] for name in UNTRAINED]
    judges = [one.make(data.cut_rule, generator) for one in untrained if has_embeddings or not one.needs_generator]
    if config.embedding_model is not None:
        judges.append(EmbeddingJudge(config.embedding_model, data.cut_rule))
    return judges


def figure_rows(metrics: JudgeMetrics) -> list[str]:
    """What the terminal shows: a line per test folder, one for the baselines on the first of them, and what
    the judge is worth. The headline is the figure of unfinished pairs: a cut that holds its answer
    makes any judge look good."""
    rows = []
    for name, figures in metrics.tests.items():
        part = figures.unfinished
        rows.append(
            f"{name}: AUROC {_with_interval(part.auroc, part.auroc_ci95)} on unfinished pairs, "
            f"{_number(figures.auroc)} on all; "
            f"TNR at FNR .2 {_with_interval(part.tnr_at_fnr20, part.tnr_at_fnr20_ci95)}; "
            f"{figures.whole_cut_share:.1%} of the cuts are whole traces, the median cut is "
            f"{figures.median_cut_share:.1%} of its trace; calibration error {figures.calibration.ece:.3f}"
        )
    shown = (f"{name} {_number(figures.unfinished.auroc)}" for name, figures in metrics.baselines.items())
    return [*rows, f"baselines: {', '.join(shown)}", *worth_words(metrics)]


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return _number(value) + (f" ({interval[0]:.3f} – {interval[1]:.3f})" if interval else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@torch.no_grad()
def ngram_scores(ngram: Trainee[LabelledProblem], problems: Sequence[LabelledProblem]) -> np.ndarray:
    """[pairs] of all problems in a row."""
    scores = [torch.sigmoid(ngram.module([problem]).double()).cpu().numpy() for problem in problems]
    return np.concatenate(scores)
