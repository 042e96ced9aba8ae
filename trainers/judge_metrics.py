"""The figures of a trained judge on its test problems, beside the baselines, as they go into metrics.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deepprune import metrics
from deepprune.judges.base import Judge
from deepprune.judges.own_states import OwnStatesJudge
from deepprune.judges.untrained import UNTRAINED, UntrainedJudge
from deepprune.pairs import JudgedProblem, all_labels
from trainers.judge_data import JudgeData
from trainers.judge_kinds import Trainee, pair_scores, score_shards


class TestPairs:
    """The test pairs in one row: labels, problem numbers, and the subsets that are reported by themselves."""

    __test__ = False  # not a test class

    def __init__(self, problems: Sequence[JudgedProblem], seen_groups: set[str | None]) -> None:
        self.problems = problems
        self.labels = all_labels(problems)
        sizes = [len(problem.pairs) for problem in problems]
        self.problem = np.repeat(np.arange(len(problems)), sizes)
        self.unfinished = np.concatenate([problem.pairs.unfinished for problem in problems])
        self.unseen_groups = sorted({p.group for p in problems if p.group is not None} - seen_groups)
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


def test_figures(judge: Judge, data: JudgeData, problems: Sequence[JudgedProblem]) -> dict[str, Any]:
    """The judge's own figures, what the cuts look like, and what one score costs."""
    pairs = TestPairs(problems, {problem.group for problem in data.train})
    judge.reset_ledger()
    scores = np.concatenate(score_shards(problems, lambda problem: pair_scores(judge, problem)))
    whole = [value for problem in problems for value in problem.whole]
    return pairs.figures(scores) | {
        "unseen_groups": pairs.unseen_groups,
        "whole_cut_share": float(np.mean(whole)),
        "median_cut_share": float(np.median([share for problem in problems for share in problem.cut_shares])),
        "mean_cut_tokens": float(np.mean([len(cut.token_ids) for problem in problems for cut in problem.cuts])),
        "cost": _cost(judge),
    }


def baseline_figures(
    ngram: Trainee, data: JudgeData, problems: Sequence[JudgedProblem], generator: str
) -> dict[str, dict[str, Any]]:
    """The same figures for the trained n-gram model and the untrained similarities, name → figures."""
    pairs = TestPairs(problems, {problem.group for problem in data.train})
    found = {"ngram": pairs.figures(np.concatenate([_ngram_scores(ngram, problem) for problem in problems]))}
    for name in UNTRAINED:
        judge = UntrainedJudge(name, data.cut_rule, generator)
        found[name] = pairs.figures(np.concatenate([pair_scores(judge, problem) for problem in problems]))
    return found


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
