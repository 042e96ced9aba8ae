"""The small trained parts that linear-cost judges share: pooling many tokens into one vector, comparing two vectors.

Their cost is counted in multiply-accumulates (MACs), so that a judge that reads no token still pays for what it
computes. Normalisation, softmax and activations are not counted: they are linear in sizes that the counted products
exceed many times.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

PAIRS_PER_BATCH = 8192  # bounds the memory of comparing all pairs of many traces


class AttentionPool(nn.Module):
    """Hidden states of a cut → one vector, through a few learned attention heads.

    Every layer of every token is normalised by itself; each head weighs the tokens by one learned direction over all
    layers, sums them, and projects the sum to `width` values; tanh. Projecting after the sum instead of before
    costs a hundredth and computes the same linear map.
    """

    def __init__(self, layers: int, hidden: int, heads: int, width: int) -> None:
        super().__init__()
        self.features, self.heads, self.width = layers * hidden, heads, width
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.query = nn.Linear(self.features, heads, bias=False)
        self.value = nn.Parameter(torch.randn(heads, self.features, width) / self.features**0.5)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`states` [cuts, tokens, layers, hidden], `mask` [cuts, tokens] True at real tokens → [cuts, heads * width].

        A cut without any token becomes the zero vector.
        """
        tokens = self.norm(states.float()).flatten(2)
        scores = self.query(tokens).masked_fill(~mask[..., None], float("-inf"))
        weights = torch.nan_to_num(torch.softmax(scores, dim=1))
        pooled = torch.einsum("cth,ctf->chf", weights, tokens)
        return torch.tanh(torch.einsum("chf,hfw->chw", pooled, self.value)).flatten(1)

    def macs_per_token(self) -> int:
        """Scoring and summing one token, in all heads."""
        return 2 * self.heads * self.features

    def macs_per_cut(self) -> int:
        """The projection of the sums, once per cut."""
        return self.heads * self.features * self.width


class PairHead(nn.Module):
    """Two vectors → the logit of "same answer", from [a * b, |a - b|]: symmetric by construction."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        self.layers = nn.Sequential(nn.Linear(2 * width, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """[pairs, width] twice → logits [pairs]."""
        return self.layers(torch.cat([a * b, (a - b).abs()], dim=-1)).squeeze(-1)

    def macs_per_pair(self) -> int:
        return self.width + 2 * self.width * self.hidden + self.hidden


class CorrectnessHead(nn.Module):
    """The hidden states before a point of a trace → the logit of "this trace ends right" (scorer.py).

    "attention" pools the states as a judge of own states does; "linear" is a probe of the newest state alone, as in
    arXiv 2504.05419 and STEP (2601.09093), without their hidden layer.
    """

    def __init__(self, kind: str, layers: int, hidden: int, heads: int, width: int) -> None:
        super().__init__()
        self.pool = AttentionPool(layers, hidden, heads, width) if kind == "attention" else None
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.out = nn.Linear(heads * width if self.pool else layers * hidden, 1)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`states` [traces, tokens, layers, hidden], `mask` [traces, tokens] True at real tokens, which come first →
        logits [traces]. A trace without any token is read as zeros."""
        return self.out(self._read(states, mask)).squeeze(-1)

    def of_lists(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of traces with different numbers of states, each [tokens, layers, hidden] → logits [traces]."""
        device = self.out.weight.device
        padded, lengths = (
            pad_sequence(list(states), batch_first=True).to(device),
            torch.tensor(list(map(len, states))),
        )
        if not padded.shape[1]:
            padded = padded.new_zeros(len(padded), 1, *padded.shape[2:])
        return self(padded, torch.arange(padded.shape[1], device=device)[None] < lengths.to(device)[:, None])

    def _read(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.pool is not None:
            return self.pool(states, mask)
        lengths = mask.sum(dim=1)
        newest = states[torch.arange(len(states)), (lengths - 1).clamp_min(0)]
        return self.norm(newest.float()).flatten(1) * (lengths > 0)[:, None]

    def macs(self, tokens: int) -> int:
        """What reading one point with that many states before it costs."""
        pool = self.pool.macs_per_token() * tokens + self.pool.macs_per_cut() if self.pool else 0
        return pool + self.out.in_features


@torch.no_grad()
def pair_probabilities(head: PairHead, vectors: torch.Tensor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[pairs] float64: the head's probability for the vectors [n, width] numbered `first` and `second`."""
    columns = (torch.from_numpy(column).split(PAIRS_PER_BATCH) for column in (first, second))
    parts = [torch.sigmoid(head(vectors[i], vectors[j]).double()) for i, j in zip(*columns, strict=True)]
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0)
