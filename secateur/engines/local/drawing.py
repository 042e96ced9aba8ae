"""Drawing tokens: one uniform number per trace and token, so a trace depends on its seed and nothing else.

Computed in float64 by inverting the cumulative distribution, vectorised over rows.
"""

from collections.abc import Iterator

import numpy as np
import torch

from secateur.engines.base import SamplingSpec

_BLOCK = 128  # [numbers]; fixed, so that number i of a seed never depends on how many are wanted
_CHUNK_ELEMENTS = 1 << 24  # bounds the float64 copy of the logits to 128 MiB
_HEAD = 512  # [tokens]; enough for top-p on nearly every step, and far cheaper than sorting a large vocabulary


class UniformStream:
    """The numbers in [0, 1) of one seed, drawn in blocks."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=seed))
        self._left: list[float] = []

    def next(self) -> float:
        if not self._left:
            self._left = self._generator.random(_BLOCK).tolist()[::-1]
        return self._left.pop()


def draw_tokens(logits: torch.Tensor, uniforms: torch.Tensor, spec: SamplingSpec) -> torch.Tensor:
    """`logits` [rows, vocabulary], `uniforms` [rows] in [0, 1) → token ids [rows]. Temperature 0 is greedy;
    order of the filters: temperature, top-k, top-p, as in transformers' `generate`."""
    if spec.temperature == 0:
        return logits.argmax(dim=-1)
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    draw = _draw_plain if spec.top_k == 0 and spec.top_p >= 1 else _draw_filtered
    parts = [draw(part, u, spec) for part, u in zip(logits.split(rows), uniforms.split(rows), strict=True)]
    return torch.cat(parts)


def token_confidences(logits: torch.Tensor, top: int) -> torch.Tensor:
    """`logits` [rows, vocabulary] → [rows] float32: the negative mean of the `top` highest log-probabilities at
    temperature 1, before top-k and top-p; the more certain the model, the larger (DeepConf, arXiv 2508.15260, §3.1).
    A vocabulary of fewer tokens is taken whole."""
    rows = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
    count = min(top, logits.shape[-1])
    parts = [
        part.logsumexp(-1) - part.topk(count, -1, sorted=False).values.mean(-1) for part in _floats(logits, rows)
    ]
    return torch.cat(parts)


def _floats(logits: torch.Tensor, rows: int) -> Iterator[torch.Tensor]:
    return (part.float() for part in logits.split(rows))


def _draw_plain(logits: torch.Tensor, uniforms: torch.Tensor, spec: SamplingSpec) -> torch.Tensor:
    return _invert(_weights(logits, spec.temperature).cumsum(dim=-1), uniforms)


def _draw_filtered(logits: torch.Tensor, uniforms: torch.Tensor, spec: SamplingSpec) -> torch.Tensor:
    vocabulary = logits.shape[-1]
    weights = _weights(logits, spec.temperature)
    if spec.top_k:
        ranked, order = weights.topk(min(spec.top_k, vocabulary), dim=-1)
        total = ranked.sum(dim=-1, keepdim=True)
    else:
        total = weights.sum(dim=-1, keepdim=True)
        ranked, order = weights.topk(min(_HEAD, vocabulary), dim=-1)
        if bool((ranked.sum(dim=-1, keepdim=True) < spec.top_p * total).any()):
            ranked, order = weights.sort(dim=-1, descending=True)
    cumulative = ranked.cumsum(dim=-1)
    # a token stays while the mass before it is below top_p, so the first always does
    kept = (cumulative - ranked < spec.top_p * total).sum(dim=-1, keepdim=True)
    kept_mass = cumulative.gather(-1, kept - 1)
    place = _invert(cumulative, uniforms, kept_mass).unsqueeze(-1).minimum(kept - 1)
    return order.gather(-1, place).squeeze(-1)


def _weights(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    scaled = logits.double() / temperature
    return (scaled - scaled.amax(dim=-1, keepdim=True)).exp_()


def _invert(cumulative: torch.Tensor, uniforms: torch.Tensor, mass: torch.Tensor | None = None) -> torch.Tensor:
    mass = cumulative[:, -1:] if mass is None else mass
    place = torch.searchsorted(cumulative, uniforms.unsqueeze(-1) * mass, right=True)
    return place.squeeze(-1).clamp_(max=cumulative.shape[-1] - 1)
