"""Similarities without any training, as judges: what a trained judge has to beat.

Their values are no probabilities. Cosines are clipped to 0-1 so that they can stand in for one. None of them reads a
token with a model; for sentence embeddings see embedding.py.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace, JudgeError, SessionJudge, pair_columns
from secateur.engines.accounting import Usage
from secateur.engines.models import load_model, load_tokenizer

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def numbers(text: str) -> frozenset[str]:
    """The numbers of a text in one spelling: without thousands commas, leading zeros and zeros after the point.

    Signs are left out (a minus cannot be told from a dash); a fraction counts as its two numbers.
    """
    return frozenset(_spelling(match.group()) for match in _NUMBER.finditer(text))


def value_vectors(texts: Sequence[str], given: frozenset[str] = frozenset()) -> csr_matrix:
    """[n, numbers] unit rows whose dot products are the similarities (0-1); a cut without a number that weighs
    anything is a zero row and resembles nothing. `given` are the numbers of the prompt."""
    found = [numbers(text) - given for text in texts]
    columns = {number: index for index, number in enumerate(sorted(set().union(*found)))}
    spread = np.zeros(len(columns))
    rows, places = [], []
    for row, own in enumerate(found):
        for number in sorted(own):
            rows.append(row)
            places.append(columns[number])
            spread[columns[number]] += 1
    weights = np.log1p(len(texts) / np.maximum(spread, 1))
    mass = np.bincount(rows, weights=weights[places], minlength=len(texts)) if rows else np.zeros(len(texts))
    entries = np.sqrt(weights[places] / np.where(mass[rows] > 0, mass[rows], 1.0)) if rows else np.zeros(0)
    return csr_matrix((entries, (rows, places)), shape=(len(texts), max(1, len(columns))))


def _spelling(number: str) -> str:
    whole, _, fraction = number.replace(",", "").partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")


UNTRAINED = ("values", "tfidf", "token_embedding", "random")


class UntrainedJudge(SessionJudge):
    """Implements `Judge`; its usage stays empty. Equal cuts get equal scores, but for those of "random".

    "values" compares numbers (values.py), "tfidf" TF-IDF word vectors, both weighted within the problem; "random" is
    a judge at chance; "token_embedding" compares the mean input embeddings of the generator. `generator_path` is
    needed for the last one; with it, "values" knows the numbers of the prompt.
    """

    needs_states = False
    capture_layers = None
    parameters = 0

    def __init__(self, name: str, cut_rule: CutRule, generator_path: str | Path | None) -> None:
        self.name, self.cut_rule = name, cut_rule
        self._table = embedding_table(generator_path) if name == "token_embedding" else None
        self._tokenizer = load_tokenizer(generator_path) if name == "values" and generator_path is not None else None
        self.reset_usage()

    def open(self, cuts: Sequence[CutTrace] = ()) -> "UntrainedSession":
        return UntrainedSession(self, cuts)

    def vectors(self, cuts: Sequence[CutTrace]) -> csr_matrix | np.ndarray:
        """[n, width] unit rows whose dot products are the similarities."""
        if self.name == "tfidf":
            vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]")
            return vectorizer.fit_transform([cut.text.strip() or "." for cut in cuts])
        if self.name == "values":
            return value_vectors([cut.text for cut in cuts], self._given(cuts[0].prompt_ids))
        means = torch.stack([self._table[list(cut.token_ids)].float().sum(0) for cut in cuts])
        return torch.nn.functional.normalize(means.double(), dim=-1).cpu().numpy()

    def _given(self, prompt_ids: Sequence[int]) -> frozenset[str]:
        if self._tokenizer is None:
            return frozenset()
        return numbers(self._tokenizer.decode(prompt_ids, skip_special_tokens=True))


class UntrainedSession:
    """Implements `JudgeSession`. What is weighted within the problem is weighted over the cuts added so far."""

    def __init__(self, judge: UntrainedJudge, cuts: Sequence[CutTrace]) -> None:
        self._judge, self._cuts, self.usage = judge, list(cuts), Usage()
        self._vectors: csr_matrix | np.ndarray | None = None

    def add(self, cut: CutTrace) -> int:
        self._cuts.append(cut)
        self._vectors = None
        return len(self._cuts) - 1

    def scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        first, second = pair_columns(pairs)
        if not len(first):
            return np.zeros(0)
        if self._judge.name == "random":
            return np.array([self._draw(i, j) for i, j in zip(first, second, strict=True)])
        if self._vectors is None:
            self._vectors = self._judge.vectors(self._cuts)
        a, b = self._vectors[first], self._vectors[second]
        products = a.multiply(b).sum(axis=1) if isinstance(a, csr_matrix) else (a * b).sum(axis=1)
        return np.clip(np.asarray(products, dtype=np.float64).reshape(-1), 0.0, 1.0)

    def _draw(self, i: int, j: int) -> float:
        """Uniform 0-1, from a seed that the two cuts and their numbers alone decide, so that processes, a live run
        and its replay agree."""
        told = repr([(number, self._cuts[number].token_ids, self._cuts[number].text) for number in (i, j)])
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:7], "big") / 256**7


def embedding_table(generator_path: str | Path | None) -> torch.Tensor:
    """[vocabulary, hidden] input embeddings of a causal language model."""
    if generator_path is None:
        raise JudgeError("the 'token_embedding' judge needs the generator's model folder for its input embeddings")
    model = load_model(generator_path, "float32", torch.device("cpu"))
    return model.get_input_embeddings().weight.detach().clone()
