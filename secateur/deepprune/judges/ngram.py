"""A trained text judge that reads no meaning: hashed word 1-3-grams of the cut, one linear map, the same pair head.

It is the bar a judge has to clear: what the mere wording of the cuts gives away, learned with the same loss.
"""

from collections.abc import Sequence

import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

from secateur.deepprune.judges.base import CutTrace
from secateur.deepprune.judges.heads import PairHead

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
