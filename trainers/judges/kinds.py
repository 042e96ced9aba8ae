"""What differs between the kinds of judge when they are trained: the module, its items, its development score."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import AutoModel, PreTrainedModel

from secateur.deepprune.judges.base import CutTrace, Judge
from secateur.deepprune.judges.folder import load_pairwise
from secateur.deepprune.judges.linear import LinearJudge, LinearModel, LinearShape
from secateur.deepprune.judges.lora import add_lora
from secateur.deepprune.judges.metrics import auroc
from secateur.deepprune.judges.ngram import NgramModel
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from secateur.deepprune.judges.pairs import JudgedProblem, Pairs, all_labels
from secateur.deepprune.judges.pairwise import PairwiseFormat, PairwiseJudge
from secateur.runtime.errors import InputError
from secateur.runtime.ranks import current_ranks
from trainers.judges.config import JudgeConfig
from trainers.judges.data import JudgeData


@dataclass(frozen=True)
class Trainee:
    """`module(items)` gives the logits of the items' pairs, `labels_of(items)` their labels, `dev_score()` the AUROC
    (0-1) on the development problems. `judge` is the same weights behind the judges' interface."""

    module: nn.Module
    judge: Judge | None
    items: Sequence[Any]
    labels_of: Callable[[Sequence[Any]], torch.Tensor]
    dev_score: Callable[[], float]


@dataclass(frozen=True)
class PairItem:
    """One pair as the pairwise judge reads it."""

    row: list[int]
    label: int


class ProblemPairs(nn.Module):
    """A model that makes one vector per cut, as a module from whole problems to the logits of all their pairs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, problems: Sequence[JudgedProblem]) -> torch.Tensor:
        cuts: list[CutTrace] = []
        first, second = [], []
        for problem in problems:
            first.append(torch.from_numpy(problem.pairs.first) + len(cuts))
            second.append(torch.from_numpy(problem.pairs.second) + len(cuts))
            cuts += problem.cuts
        vectors = self.model(cuts)
        return self.model.head(vectors[torch.cat(first)], vectors[torch.cat(second)])


def build_trainee(config: JudgeConfig, data: JudgeData) -> Trainee:
    """The untrained judge of the configured kind; its random parts depend on the seed alone."""
    torch.manual_seed(config.seed)
    if config.kind == "linear_own_states":
        hidden = data.train[0].cuts[0].states.shape[-1]
        sizes = OwnStatesShape(data.layers, hidden, config.heads, config.width, config.pair_hidden)
        model: nn.Module = OwnStatesModel(sizes)
        return _vector_trainee(model, OwnStatesJudge(model, sizes, data.cut_rule), data)
    if config.kind == "linear":
        query_ids = tuple(data.tokenizer(config.query, add_special_tokens=False)["input_ids"])
        encoder = AutoModel.from_pretrained(config.model, dtype=getattr(torch, config.dtype))
        _check_vocabulary(config, encoder.get_input_embeddings().num_embeddings, data)
        shape = LinearShape(query_ids, config.pair_hidden, config.max_tokens)
        model = LinearModel(_trainable(encoder, config), shape)
        return _vector_trainee(model, LinearJudge(model, data.cut_rule), data)
    judge = untouched_pairwise(config, data)
    judge.model.language_model = _trainable(judge.model.language_model, config)
    return _pairwise_trainee(judge, config, data)


def untouched_pairwise(config: JudgeConfig, data: JudgeData, device: str | torch.device = "cpu") -> PairwiseJudge:
    """The pairwise judge before any training: the zero-shot judge, or a public one."""
    shape = PairwiseFormat(config.prompt, config.labels, config.chat_template, config.max_tokens)
    return load_pairwise(config.model, data.cut_rule, shape, device, config.dtype)


def _trainable(model: PreTrainedModel, config: JudgeConfig) -> nn.Module:
    """The language model as it is trained: with adapters, with recomputed activations, or as it is."""
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model if config.lora is None else add_lora(model, config.lora)


def build_ngram(config: JudgeConfig, data: JudgeData) -> Trainee:
    """The trained text baseline, of the same width and with the same pair head as the judge."""
    torch.manual_seed(config.seed)
    return _vector_trainee(NgramModel(config.heads * config.width, config.pair_hidden), None, data)


def _vector_trainee(model: nn.Module, judge: Judge | None, data: JudgeData) -> Trainee:
    module = ProblemPairs(model)
    labels = all_labels(data.dev)

    def dev_score() -> float:
        scores = score_shards(data.dev, lambda problem: module([problem]).float().cpu().numpy())
        return auroc(labels, np.concatenate(scores)) or 0.0

    return Trainee(module, judge, data.train, lambda items: torch.from_numpy(all_labels(items)), dev_score)


def _pairwise_trainee(judge: PairwiseJudge, config: JudgeConfig, data: JudgeData) -> Trainee:
    reader, rng = judge.model.reader, np.random.default_rng(config.seed)
    items = []
    for problem in data.train:
        for *pair, label in zip(problem.pairs.first, problem.pairs.second, problem.pairs.labels, strict=True):
            a, b = rng.permutation(pair)  # neither place may come to mean anything
            items.append(PairItem(reader.read(problem.cuts[a].text, problem.cuts[b].text), int(label)))
    dev = thin_pairs(data.dev, config.dev_pairs, config.seed)
    labels = all_labels(dev)

    def dev_score() -> float:
        return auroc(labels, np.concatenate(score_shards(dev, lambda problem: pair_scores(judge, problem)))) or 0.0

    return Trainee(
        PairRows(judge.model), judge, items, lambda batch: torch.tensor([item.label for item in batch]), dev_score
    )


class PairRows(nn.Module):
    """The pairwise model as a module from items to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Sequence[PairItem]) -> torch.Tensor:
        return self.model([item.row for item in items])


def pair_scores(judge: Judge, problem: JudgedProblem) -> np.ndarray:
    """[pairs] P(same) for the problem's pairs; a pairwise judge reads no other pair."""
    pairs = problem.pairs
    session = judge.open(problem.cuts)
    return session.scores(list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)))


def score_shards(problems: Sequence[JudgedProblem], score: Callable[[JudgedProblem], np.ndarray]) -> list[np.ndarray]:
    """`score` of every problem in order, each process computing its share."""
    ranks = current_ranks()
    own = [(index, score(problems[index])) for index in ranks.shard(range(len(problems)))]
    everything = gather_object(own) if ranks.world_size > 1 else own
    return [values for _, values in sorted(everything, key=lambda entry: entry[0])]


def thin_pairs(problems: Sequence[JudgedProblem], limit: int, seed: int) -> list[JudgedProblem]:
    """The problems with about `limit` of their pairs, drawn evenly over all of them."""
    total = sum(len(problem.pairs) for problem in problems)
    if total <= limit:
        return list(problems)
    rng = np.random.default_rng(seed)
    thinned = []
    for problem in problems:
        count = max(1, round(len(problem.pairs) * limit / total))
        kept = np.sort(rng.choice(len(problem.pairs), count, replace=False))
        pairs = Pairs(*(getattr(problem.pairs, field.name)[kept] for field in dataclasses.fields(Pairs)))
        thinned.append(dataclasses.replace(problem, pairs=pairs))
    return thinned


def _check_vocabulary(config: JudgeConfig, rows: int, data: JudgeData) -> None:
    if config.generator is None:
        return
    highest = max(max(cut.token_ids, default=0) for problem in data.train for cut in problem.cuts)
    if highest >= rows:
        raise InputError(
            f"key 'model': {config.model} knows {rows} tokens, but the traces hold token {highest}; a linear judge "
            "reads the generator's tokens: take an encoder of the generator's family, or kind 'pairwise'"
        )
