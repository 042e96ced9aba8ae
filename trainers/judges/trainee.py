"""What is trained: a module from items to logits, for judges that compare vectors, judges that compare pairs, and the
n-gram baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from secateur.deepprune.judges.base import CutTrace, Judge
from secateur.deepprune.judges.kind import TrainableJudge
from secateur.deepprune.judges.metrics import auroc
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem, all_labels
from trainers.judges.config import JudgeConfig
from trainers.judges.scoring import NgramModel, score_shards, scored_part, split_scores

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
