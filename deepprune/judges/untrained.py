"""Similarities without any training, as judges: what a trained judge has to beat.

Their values are no probabilities. Cosines are clipped to 0-1 so that they can stand in for one.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from deepprune.cut import CutRule
from deepprune.judges.base import CutTrace, JudgeError
from engines.accounting import TokenLedger
from engines.load import load_model

UNTRAINED = ("embedding", "tfidf", "random")


def tfidf_similarity(cuts: Sequence[CutTrace]) -> np.ndarray:
    """[n, n] cosine (0-1) of TF-IDF word vectors, fitted on the cuts of this problem alone."""
    vectors = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]").fit_transform([cut.text.strip() or "." for cut in cuts])
    return (vectors @ vectors.T).toarray()


def embedding_similarity(cuts: Sequence[CutTrace], table: torch.Tensor) -> np.ndarray:
    """[n, n] cosine of the mean input embedding over the cut's tokens; `table` is [vocabulary, hidden]."""
    means = [table[list(cut.token_ids)].float().sum(0) for cut in cuts]
    vectors = torch.nn.functional.normalize(torch.stack(means).double(), dim=-1)
    return (vectors @ vectors.T).cpu().numpy()


def random_similarity(cuts: Sequence[CutTrace]) -> np.ndarray:
    """[n, n] symmetric, uniform 0-1: a judge at chance. Drawn from a seed that the cuts alone decide, so that
    processes, a live run and its replay agree."""
    digest = hashlib.sha256(repr([(cut.token_ids, cut.text) for cut in cuts]).encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    values = np.triu(generator.random((len(cuts), len(cuts))), k=1)
    return values + values.T


class UntrainedJudge:
    """Implements `Judge`. "embedding" reads the generator's input embeddings, the others text or nothing.

    Reads no token with a model, so its ledger stays empty. Equal cuts get equal scores, those of "random" too.
    """

    needs_states = False
    capture_layers = None
    parameters = 0

    def __init__(self, name: str, cut_rule: CutRule, generator_path: str | Path | None) -> None:
        self.name, self.cut_rule = name, cut_rule
        self._table = embedding_table(generator_path) if name == "embedding" else None
        self.reset_ledger()

    def reset_ledger(self) -> None:
        self.ledger = TokenLedger()

    def score(self, cuts: Sequence[CutTrace]) -> np.ndarray:
        if self.name == "tfidf":
            matrix = tfidf_similarity(cuts)
        elif self._table is not None:
            matrix = embedding_similarity(cuts, self._table)
        else:
            matrix = random_similarity(cuts)
        matrix = np.clip(matrix, 0.0, 1.0)
        np.fill_diagonal(matrix, 1.0)
        return matrix


def embedding_table(generator_path: str | Path | None) -> torch.Tensor:
    """[vocabulary, hidden] input embeddings of a causal language model."""
    if generator_path is None:
        raise JudgeError("the 'embedding' judge needs the generator's model folder for its input embeddings")
    model = load_model(generator_path, "float32", torch.device("cpu"))
    return model.get_input_embeddings().weight.detach().clone()
