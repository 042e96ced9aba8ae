"""Judges without any training: what a trained judge has to beat.

Similarities of two cuts, and chance. Their values are no probabilities; cosines are clipped to 0-1 so that they can
stand in for one. None of them reads a token with a model, so their usage stays empty; for sentence embeddings see
embedding.py. What there is to say of their kinds is at the end. Only those that need torch or sklearn load it.
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace, JudgeError, SessionJudge, pair_columns
from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind
from secateur.engines.accounting import Usage

if TYPE_CHECKING:
    import torch

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


class _Untrained(SessionJudge):
    """What they share. Scores of equal pairs of cuts are equal, but for those of chance."""

    needs_states = False
    capture_layers = None
    parameters = 0

    def __init__(self, cut_rule: CutRule) -> None:
        self.cut_rule = cut_rule
        self.reset_usage()


class SimilarityJudge(_Untrained):
    """Base of the judges that make a vector of each cut, in the light of all cuts of the problem so far."""

    @abstractmethod
    def vectors(self, cuts: Sequence[CutTrace]) -> csr_matrix | np.ndarray:
        """[n, width] unit rows whose dot products are the similarities."""

    def open(self, cuts: Sequence[CutTrace] = ()) -> "SimilaritySession":
        return SimilaritySession(self, cuts)


class ValuesJudge(SimilarityJudge):
    """Compares the numbers in two cuts, each weighted by its rarity within the problem. With `generator_path`, whose
    tokenizer reads the prompt, it passes over the numbers that the problem gives."""

    name = "values"

    def __init__(self, cut_rule: CutRule, generator_path: str | Path | None = None) -> None:
        from secateur.engines.model_files import load_tokenizer

        super().__init__(cut_rule)
        self._tokenizer = None if generator_path is None else load_tokenizer(generator_path)

    def vectors(self, cuts: Sequence[CutTrace]) -> csr_matrix:
        return value_vectors([cut.text for cut in cuts], self._given(cuts[0].prompt_ids))

    def _given(self, prompt_ids: Sequence[int]) -> frozenset[str]:
        if self._tokenizer is None:
            return frozenset()
        return numbers(self._tokenizer.decode(prompt_ids, skip_special_tokens=True))


class TfidfJudge(SimilarityJudge):
    """Compares TF-IDF vectors of the words of two cuts, weighted within the problem."""

    name = "tfidf"

    def vectors(self, cuts: Sequence[CutTrace]) -> csr_matrix:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]")
        return vectorizer.fit_transform([cut.text.strip() or "." for cut in cuts])


class TokenEmbeddingJudge(SimilarityJudge):
    """Compares the mean input embeddings of two cuts' tokens, those of the generator in `generator_path`."""

    name = "token_embedding"

    def __init__(self, cut_rule: CutRule, generator_path: str | Path | None) -> None:
        super().__init__(cut_rule)
        self._table = embedding_table(generator_path)

    def vectors(self, cuts: Sequence[CutTrace]) -> np.ndarray:
        import torch

        means = torch.stack([self._table[list(cut.token_ids)].float().sum(0) for cut in cuts])
        return torch.nn.functional.normalize(means.double(), dim=-1).cpu().numpy()


class RandomJudge(_Untrained):
    """A judge at chance."""

    name = "random"

    def open(self, cuts: Sequence[CutTrace] = ()) -> "RandomSession":
        return RandomSession(cuts)


class SimilaritySession:
    """Implements `JudgeSession`. What is weighted within the problem is weighted over the cuts added so far."""

    def __init__(self, judge: SimilarityJudge, cuts: Sequence[CutTrace]) -> None:
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
        if self._vectors is None:
            self._vectors = self._judge.vectors(self._cuts)
        a, b = self._vectors[first], self._vectors[second]
        products = a.multiply(b).sum(axis=1) if isinstance(a, csr_matrix) else (a * b).sum(axis=1)
        return np.clip(np.asarray(products, dtype=np.float64).reshape(-1), 0.0, 1.0)


class RandomSession:
    """Implements `JudgeSession`."""

    def __init__(self, cuts: Sequence[CutTrace]) -> None:
        self._cuts, self.usage = list(cuts), Usage()

    def add(self, cut: CutTrace) -> int:
        self._cuts.append(cut)
        return len(self._cuts) - 1

    def scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        return np.array([self._draw(i, j) for i, j in zip(*pair_columns(pairs), strict=True)], dtype=np.float64)

    def _draw(self, i: int, j: int) -> float:
        """Uniform 0-1, from a seed that the two cuts and their numbers alone decide, so that processes, a live run
        and its replay agree."""
        told = repr([(number, self._cuts[number].token_ids, self._cuts[number].text) for number in (i, j)])
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:7], "big") / 256**7


def embedding_table(generator_path: str | Path | None) -> "torch.Tensor":
    """[vocabulary, hidden] input embeddings of a causal language model."""
    if generator_path is None:
        raise JudgeError("the 'token_embedding' judge needs the generator's model folder for its input embeddings")
    import torch

    from secateur.engines.models import load_model

    model = load_model(generator_path, "float32", torch.device("cpu"))
    return model.get_input_embeddings().weight.detach().clone()


class ValuesKind(JudgeKind[JudgeKeys]):
    def make(self, rule: CutRule, generator: str | Path | None) -> ValuesJudge:
        return ValuesJudge(rule, generator)


class TfidfKind(JudgeKind[JudgeKeys]):
    def make(self, rule: CutRule, generator: str | Path | None) -> TfidfJudge:
        return TfidfJudge(rule)


class TokenEmbeddingKind(JudgeKind[JudgeKeys]):
    def make(self, rule: CutRule, generator: str | Path | None) -> TokenEmbeddingJudge:
        return TokenEmbeddingJudge(rule, generator)


class RandomKind(JudgeKind[JudgeKeys]):
    def make(self, rule: CutRule, generator: str | Path | None) -> RandomJudge:
        return RandomJudge(rule)


VALUES = ValuesKind(
    name="values",
    label="values",
    reads="the numbers in the text of each cut",
    compares="vectors",
    training="never",
    needs_folder=False,
    is_similarity=True,
)
TFIDF = TfidfKind(
    name="tfidf",
    label="tfidf",
    reads="the words in the text of each cut",
    compares="vectors",
    training="never",
    needs_folder=False,
    is_similarity=True,
)
TOKEN_EMBEDDING = TokenEmbeddingKind(
    name="token_embedding",
    label="token embedding",
    reads="the tokens of each cut, by the generator's input embeddings",
    compares="vectors",
    training="never",
    needs_folder=False,
    needs_generator=True,
    is_similarity=True,
)
RANDOM = RandomKind(
    name="random",
    label="random",
    reads="nothing",
    compares="pairs",
    training="never",
    needs_folder=False,
    is_chance=True,
)
