"""What is trained: a module from items to logits, for judges that compare vectors, judges that compare pairs, and the
n-gram baseline; and the scores of entire splits of problems, dealt out to the processes of a launch.

The n-gram model is what a judge must beat: hashed word 1-3-grams of the cut, one linear map, the same pair head. It
shows what the mere wording of the cuts gives away, learned with the same loss.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

from secateur.deepprune.judges.base import CutTrace, Judge
from secateur.deepprune.judges.heads import PairHead
from secateur.deepprune.judges.kind import TrainableJudge
from secateur.deepprune.judges.metrics import auroc
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem, Pairs, all_labels
from secateur.runtime.process import current_ranks
from trainers.judges.config import JudgeConfig

Item = TypeVar("Item")


@dataclass(frozen=True)
class Trainee(Generic[Item]):
    """`module(items)` gives the logits of the items' pairs, `labels_of(items)` their labels, `dev_score()` the AUROC
    (0-1) on the development problems. `judge` is the same weights behind the judges' interface, None for a baseline
    that is no judge."""

    module: nn.Module
    judge: Judge | None
    items: Sequence[Item]
    labels_of: Callable[[Sequence[Item]], torch.Tensor]
    dev_score: Callable[[], float]


@dataclass(frozen=True)
class PairItem:
    """One pair as a judge of pairs reads it."""

    row: list[int]
    label: int


class ProblemLogits(nn.Module):
    """A model that makes one vector per cut, as a module from whole problems to the logits of all their pairs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, problems: Sequence[LabelledProblem]) -> torch.Tensor:
        cuts: list[CutTrace] = []
        first, second = [], []
        for problem in problems:
            first.append(torch.from_numpy(problem.pairs.first) + len(cuts))
            second.append(torch.from_numpy(problem.pairs.second) + len(cuts))
            cuts += problem.cuts
        vectors = self.model(cuts)
        return self.model.head(vectors[torch.cat(first)], vectors[torch.cat(second)])


class PairLogits(nn.Module):
    """A model that reads pairs, as a module from items to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Sequence[PairItem]) -> torch.Tensor:
        return self.model([item.row for item in items])


def build_trainee(config: JudgeConfig, data: JudgeData) -> Trainee:
    """The untrained judge of the configured kind; its random parts depend on the seed alone."""
    torch.manual_seed(config.seed)
    judge = config.judge_kind.build(config, data)
    if config.judge_kind.compares == "pairs":
        return _pairs_trainee(judge, config, data)
    return _vectors_trainee(judge.model, judge, data)


def build_ngram(config: JudgeConfig, data: JudgeData) -> Trainee[LabelledProblem]:
    """The trained text baseline, of the same width and with the same pair head as the judge."""
    torch.manual_seed(config.seed)
    return _vectors_trainee(NgramModel(config.heads * config.width, config.pair_hidden), None, data)


def _vectors_trainee(model: nn.Module, judge: Judge | None, data: JudgeData) -> Trainee[LabelledProblem]:
    module = ProblemLogits(model)
    labels = all_labels(data.dev)

    def dev_score() -> float:
        scores = score_shards(data.dev, lambda problem: module([problem]).float().cpu().numpy())
        return auroc(labels, np.concatenate(scores)) or 0.0

    return Trainee(module, judge, data.train, lambda items: torch.from_numpy(all_labels(items)), dev_score)


def _pairs_trainee(judge: TrainableJudge, config: JudgeConfig, data: JudgeData) -> Trainee[PairItem]:
    dev = scored_part(config, data.dev, config.dev_pairs)
    labels = all_labels(dev)
    return Trainee(
        module=PairLogits(judge.model),
        judge=judge,
        items=_pair_items(judge, config, data),
        labels_of=lambda batch: torch.tensor([item.label for item in batch]),
        dev_score=lambda: auroc(labels, split_scores(judge, dev)) or 0.0,
    )


def _pair_items(judge: TrainableJudge, config: JudgeConfig, data: JudgeData) -> list[PairItem]:
    reader, rng = judge.model.reader, np.random.default_rng(config.seed)
    items = []
    for problem in data.train:
        for *pair, label in zip(problem.pairs.first, problem.pairs.second, problem.pairs.labels, strict=True):
            a, b = rng.permutation(pair)  # neither place may come to mean anything
            items.append(PairItem(reader.read(problem.cuts[a].text, problem.cuts[b].text), int(label)))
    return items


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
