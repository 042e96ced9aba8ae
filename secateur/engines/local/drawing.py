"""Drawing tokens: one uniform number per trace and token, so a trace depends on its seed and nothing else.

The token is where that number falls in the cumulative distribution, in float64: tokens in the order of their ids, or,
under top-k and top-p, by falling logit and equal ones by id (`_draw_exactly`). Over a large vocabulary most rows get
the same token for a tenth of the work: sums in float32, of which the error is bounded, and float64 only for the few
tokens that matter. A row whose number falls within that error of another token is drawn in float64 after all, alone.
So neither the other rows nor their number can change a token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log

import numpy as np
import torch

from secateur.engines.base import SamplingSpec

_NUMBERS = 128  # drawn at once; fixed, so that number i of a seed never depends on how many are wanted
_CHUNK_ELEMENTS = 1 << 24  # bounds a float64 copy of the logits to 128 MiB
_CACHED_ELEMENTS = 1 << 20  # on a CPU: what stays in its caches from one operation to the next
_SMALL = 4096  # [tokens]; a vocabulary up to here is drawn from in float64 at once
_WIDTH = 64  # [tokens] of a block
_HEADS = (8, 24, 64)  # [blocks] that are looked into, in turn, for the rows that are still unsure
_REACHES = (8.0, 16.0)  # [nats] below the best logit, tried in turn for what top-p can keep
_SLACK = 2.0**-17
"""Share of a row's mass by which float32 may be wrong, at most 7e-6. A weight 2**a, with a rounded three times, is
wrong by 1.8e-7 times its distance to the best [nats], which in the mean over the mass is at most the logarithm of the
vocabulary, below 13; by 2e-7 in the exponential; and by 7e-7 in sums of 64. Target and boundary may both be."""

_Draw = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits [rows, vocabulary] and uniform numbers [rows] → token ids [rows]."""


class UniformStream:
    """The numbers in [0, 1) of one seed, drawn in blocks."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=seed))
        self._left: list[float] = []

    def next(self) -> float:
        if not self._left:
            self._left = self._generator.random(_NUMBERS).tolist()[::-1]
        return self._left.pop()


def draw_tokens(logits: torch.Tensor, uniforms: torch.Tensor, spec: SamplingSpec) -> torch.Tensor:
    """`logits` [rows, vocabulary], `uniforms` [rows] in [0, 1) → token ids [rows]. Temperature 0 is greedy;
    order of the filters: temperature, top-k, top-p, as in transformers' `generate`."""
    large = logits.shape[-1] > _SMALL
    if spec.temperature == 0:
        return torch.cat([_Blocks.of(part).best_ids() for part in _chunks(logits)]) if large else logits.argmax(-1)
    draw: _Draw = partial(_draw_quickly if large else _draw_exactly, spec=spec)
    sizes = [len(part) for part in _chunks(logits)]
    return torch.cat([draw(*parts) for parts in zip(logits.split(sizes), uniforms.split(sizes), strict=True)])


def token_confidences(logits: torch.Tensor, top: int) -> torch.Tensor:
    """`logits` [rows, vocabulary] → [rows] float32: the negative mean of the `top` highest log-probabilities at
    temperature 1, before top-k and top-p; the more certain the model, the larger (DeepConf, arXiv 2508.15260, §3.1).
    A vocabulary of fewer tokens is taken whole."""
    return torch.cat([_Blocks.of(part).confidences(min(top, logits.shape[-1])) for part in _chunks(logits)])


def _chunks(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    elements = _CACHED_ELEMENTS if logits.device.type == "cpu" else _CHUNK_ELEMENTS
    return logits.split(max(1, elements // logits.shape[-1]))


@dataclass(frozen=True)
class _Blocks:
    """Logits of some rows in blocks of neighbouring ids: `values` [rows, blocks, width], padded with −inf, and the
    best of each block, `maxima` [rows, blocks]. Float32, or float64 where the model computes in that.

    The n highest logits lie in the n blocks with the highest maxima, so few blocks need a closer look.
    """

    values: torch.Tensor
    maxima: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor) -> "_Blocks":
        rows, vocabulary = logits.shape
        size = torch.promote_types(logits.dtype, torch.float32)
        padded = torch.empty(rows, -(-vocabulary // _WIDTH) * _WIDTH, dtype=size, device=logits.device)
        padded[:, :vocabulary] = logits
        padded[:, vocabulary:] = float("-inf")
        values = padded.view(rows, -1, _WIDTH)
        return cls(values, values.amax(dim=-1))

    @property
    def best(self) -> torch.Tensor:
        """[rows, 1]"""
        return self.maxima.amax(dim=-1, keepdim=True)

    def rows(self, chosen: torch.Tensor) -> "_Blocks":
        return _Blocks(self.values[chosen], self.maxima[chosen])

    def block(self, chosen: torch.Tensor) -> torch.Tensor:
        """One block of each row, `chosen` [rows] → [rows, width]"""
        return self.values[torch.arange(len(chosen), device=chosen.device), chosen]

    def best_ids(self) -> torch.Tensor:
        """[rows]; of equal ones the first"""
        chosen = self.maxima.argmax(dim=-1)
        return chosen * _WIDTH + self.block(chosen).argmax(dim=-1)

    def masses(self, temperature: float) -> torch.Tensor:
        """[rows, blocks] float64: the sum of each block's weights, exp((logit − best) / temperature), as exact as
        `_SLACK` says. On CPUs exp2 takes a third of the time of exp."""
        weights = self.values - self.best.unsqueeze(-1)
        return weights.mul_(1 / (temperature * log(2))).exp2_().sum(dim=-1).double()

    def head(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The highest logits, out of `count` blocks: values [rows, n] float64 by falling logit and equal ones by id,
        their ids [rows, n], and how many from the front are certain to stand at their rank among all [rows]."""
        first = self.maxima.topk(min(count + 1, self.maxima.shape[-1]), dim=-1)
        chosen, beyond = first.indices[:, :count], first.values[:, count:]
        taken = self.values.gather(1, chosen.unsqueeze(-1).expand(-1, -1, _WIDTH)).flatten(1)
        top = taken.topk(min(4 * count, taken.shape[-1]), dim=-1)
        ids = chosen.gather(1, top.indices // _WIDTH) * _WIDTH + top.indices % _WIDTH
        ids, order = ids.sort(dim=-1)
        values, order = top.values.gather(1, order).sort(dim=-1, descending=True, stable=True)
        left_out = torch.cat([beyond, values[:, -1:]], dim=-1).amax(dim=-1, keepdim=True)
        return values.double(), ids.gather(1, order), (values > left_out).sum(dim=-1)

    def confidences(self, top: int) -> torch.Tensor:
        """See `token_confidences`; [rows] float32."""
        chosen = self.maxima.topk(min(top, self.maxima.shape[-1]), dim=-1, sorted=False).indices
        taken = self.values.gather(1, chosen.unsqueeze(-1).expand(-1, -1, _WIDTH)).flatten(1)
        highest = taken.topk(top, dim=-1, sorted=False).values.mean(dim=-1)
        return (self.masses(1.0).sum(dim=-1).log() + self.best.squeeze(-1) - highest).float()


def _draw_quickly(logits: torch.Tensor, uniforms: torch.Tensor, spec: SamplingSpec) -> torch.Tensor:
    blocks = _Blocks.of(logits)
    if spec.top_k == 0 and spec.top_p >= 1:
        tokens, sure = _from_all(blocks, uniforms, spec.temperature)
        left = (~sure).nonzero().squeeze(-1)
        tokens[left] = _draw_exactly(logits[left], uniforms[left], spec)
        return tokens
    total = None if spec.top_k else blocks.masses(spec.temperature).sum(dim=-1, keepdim=True)
    left, tokens = torch.arange(len(logits), device=logits.device), torch.empty_like(uniforms, dtype=torch.long)
    for count in _HEADS:
        if count >= spec.top_k and len(left):
            known = None if total is None else total[left]
            tokens[left], sure = _from_head(blocks.rows(left), uniforms[left], spec, count, known)
            left = left[~sure]
    for row in left.tolist():
        tokens[row] = _draw_row(logits[row], uniforms[row], spec)
    return tokens


def _from_all(blocks: _Blocks, uniforms: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [rows] of the whole distribution, and whether they are certain: first the block by the sums of blocks,
    then the token in it."""
    masses = blocks.masses(temperature)
    ends = masses.cumsum(dim=-1)
    total = ends[:, -1:]
    target = uniforms.unsqueeze(-1) * total
    chosen = _invert(ends, target)
    inside = _weights(blocks.block(chosen.squeeze(-1)), temperature, blocks.best)
    upper = (ends - masses).gather(1, chosen) + inside.cumsum(dim=-1)
    place = _invert(upper, target)
    above, own = upper.gather(1, place), inside.gather(1, place)
    sure = (above - target).minimum(target - above + own) > _SLACK * total
    return (chosen * _WIDTH + place).squeeze(-1), sure.squeeze(-1)


def _from_head(
    blocks: _Blocks, uniforms: torch.Tensor, spec: SamplingSpec, count: int, total: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [rows] under top-k and top-p out of the best `count` blocks, and whether they are certain. `total`
    [rows, 1] is the mass of all tokens within `_SLACK`; None: that of the first top-k, which is known exactly."""
    values, ids, known = blocks.head(count)
    weights = _weights(values, spec.temperature, blocks.best)
    ranked = weights[:, : spec.top_k or None]
    slack, total = (0.0, ranked.sum(dim=-1, keepdim=True)) if total is None else (_SLACK, total)
    place, kept = _choose(ranked, uniforms, spec.top_p, total * (1 - slack))
    most = _kept(ranked, spec.top_p, total * (1 + slack))
    sure = (most == kept) & (known.unsqueeze(-1) >= max(spec.top_k, 1)) & (known.unsqueeze(-1) >= most)
    return ids.gather(1, place).squeeze(-1), sure.squeeze(-1)


def _draw_row(logits: torch.Tensor, uniform: torch.Tensor, spec: SamplingSpec) -> torch.Tensor:
    """What `_draw_exactly` draws for one row [vocabulary], but only what the filters can keep is sorted."""
    values = logits.double().unsqueeze(0)
    weights = _weights(values, spec.temperature)
    total = weights.sum(dim=-1, keepdim=True)
    for reach in (*_REACHES, float("inf")):
        ids = (~(weights[0] < np.exp(-reach))).nonzero().squeeze(-1)  # all of them where the model gives no numbers
        mass = weights[0, ids].sum()
        if len(ids) >= spec.top_k if spec.top_k else mass > spec.top_p * total * (1 + _SLACK):
            break
    return ids[_draw_filtered(values[:, ids], uniform.unsqueeze(0), spec, total)]


def _draw_exactly(logits: torch.Tensor, uniforms: torch.Tensor, spec: SamplingSpec) -> torch.Tensor:
    """What all other ways of drawing have to agree with."""
    if spec.top_k or spec.top_p < 1:
        return _draw_filtered(logits.double(), uniforms, spec)
    ends = _weights(logits, spec.temperature).cumsum(dim=-1)
    return _invert(ends, uniforms.unsqueeze(-1) * ends[:, -1:]).squeeze(-1)


def _draw_filtered(
    logits: torch.Tensor, uniforms: torch.Tensor, spec: SamplingSpec, total: torch.Tensor | None = None
) -> torch.Tensor:
    """`total` [rows, 1]: the mass of all tokens, where `logits` lacks those that cannot be drawn."""
    values, order = logits.sort(dim=-1, descending=True, stable=True)
    ranked = _weights(values, spec.temperature)[:, : spec.top_k or None]
    if spec.top_k or total is None:
        total = ranked.sum(dim=-1, keepdim=True)
    place, _ = _choose(ranked, uniforms, spec.top_p, total)
    return order.gather(-1, place).squeeze(-1)


def _choose(
    ranked: torch.Tensor, uniforms: torch.Tensor, top_p: float, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rank [rows, 1] of the token drawn from the falling weights `ranked` [rows, n], and how many are kept."""
    kept, ends = _kept(ranked, top_p, total), ranked.cumsum(dim=-1)
    target = uniforms.unsqueeze(-1) * ends.gather(-1, kept - 1)
    return _invert(ends, target).minimum(kept - 1), kept


def _kept(ranked: torch.Tensor, top_p: float, total: torch.Tensor) -> torch.Tensor:
    """[rows, 1]: a token stays while the mass before it is below top_p, so the first always does."""
    return (ranked.cumsum(dim=-1) - ranked < top_p * total).sum(dim=-1, keepdim=True).clamp_(min=1)


def _weights(logits: torch.Tensor, temperature: float, best: torch.Tensor | None = None) -> torch.Tensor:
    """Float64 exp((logit − best) / temperature); `best` [rows, 1] where the row's is not among the logits."""
    scaled = logits.double() / temperature
    highest = scaled.amax(dim=-1, keepdim=True) if best is None else best.double() / temperature
    return (scaled - highest).exp_()


def _invert(ends: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The first place [rows, 1] at which the rising `ends` [rows, n] exceed `target` [rows, 1]."""
    return torch.searchsorted(ends, target, right=True).clamp_(max=ends.shape[-1] - 1)
