"""Scores of entire splits of problems, dealt out to the processes of a launch; and the model that a judge must beat.

That model is an n-gram model: hashed word 1-3-grams of the cut, one linear map, the same pair head. It shows what the
mere wording of the cuts gives away, learned with the same loss.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate.utils import gather_object
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

from secateur.deepprune.judges.base import CutTrace, Judge
from secateur.deepprune.judges.heads import PairHead
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


HASH_BUCKETS = 1 << 13


class NgramModel(nn.Module):
    """Cuts → vectors [cuts, width]; digits and signs count as words, as they do in mathematics."""

    def __init__(self, width: int, pair_hidden: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(HASH_BUCKETS, width, mode="sum")
        self.head = PairHead(width, pair_hidden)
        self._vectorizer = HashingVectorizer(
            n_features=HASH_BUCKETS, ngram_range=(1, 3), token_pattern=r"\w+|[^\w\s]", alternate_sign=False, norm="l2"
        )
        self._grams: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, cuts: Sequence[CutTrace]) -> torch.Tensor:
        grams = [self._read(cut.text) for cut in cuts]
        offsets = torch.tensor([0, *(len(indices) for indices, _ in grams[:-1])]).cumsum(0)
        indices, weights = (torch.cat(parts) for parts in zip(*grams, strict=True))
        return torch.tanh(self.table(indices, offsets, per_sample_weights=weights))

    def _read(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Buckets and weights of a text's grams; computed once, since every epoch asks again."""
        if text not in self._grams:
            row = self._vectorizer.transform([text])
            self._grams[text] = torch.from_numpy(row.indices).long(), torch.from_numpy(row.data).float()
        return self._grams[text]
