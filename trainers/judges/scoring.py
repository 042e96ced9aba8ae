"""Scores of whole splits of problems, dealt out to the processes of a launch."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from accelerate.utils import gather_object

from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.pairs import LabelledProblem, Pairs
from secateur.runtime.ranks import current_ranks
from trainers.judges.config import JudgeConfig


def pair_scores(judge: Judge, problem: LabelledProblem) -> np.ndarray:
    """[pairs] P(same) for the problem's pairs; a pairwise judge reads no other pair."""
    pairs = problem.pairs
    session = judge.open(problem.cuts)
    return session.scores(list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)))


def split_scores(judge: Judge, problems: Sequence[LabelledProblem]) -> np.ndarray:
    """[pairs] of all problems in a row, the same in every process."""
    return np.concatenate(score_shards(problems, lambda problem: pair_scores(judge, problem)))


def score_shards(
    problems: Sequence[LabelledProblem], score: Callable[[LabelledProblem], np.ndarray]
) -> list[np.ndarray]:
    """`score` of every problem in order, each process computing its share."""
    ranks = current_ranks()
    own = [(index, score(problems[index])) for index in ranks.shard(range(len(problems)))]
    everything = gather_object(own) if ranks.world_size > 1 else own
    return [values for _, values in sorted(everything, key=lambda entry: entry[0])]


def scored_part(config: JudgeConfig, problems: Sequence[LabelledProblem], limit: int) -> Sequence[LabelledProblem]:
    """The problems with the pairs that are scored: about `limit` of them where a judge reads every pair anew."""
    return thin_pairs(problems, limit, config.seed) if config.judge_kind.compares == "pairs" else problems


def thin_pairs(problems: Sequence[LabelledProblem], limit: int, seed: int) -> Sequence[LabelledProblem]:
    """The problems with about `limit` of their pairs, drawn evenly over all of them."""
    total = sum(len(problem.pairs) for problem in problems)
    if total <= limit:
        return problems
    rng = np.random.default_rng(seed)
    thinned = []
    for problem in problems:
        count = max(1, round(len(problem.pairs) * limit / total))
        kept = np.sort(rng.choice(len(problem.pairs), count, replace=False))
        pairs = Pairs(*(getattr(problem.pairs, field.name)[kept] for field in dataclasses.fields(Pairs)))
        thinned.append(dataclasses.replace(problem, pairs=pairs))
    return thinned
