"""Attention for decoding with grouped key/value heads: the query heads of a group share one read of the cache.

The library's SDPA path copies every key/value head once per query head before each call when a mask is present.
With one query position the heads of a group can stand in the place of positions instead, and nothing is copied.
"""

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_ATTENTION = "secateur_grouped_sdpa"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """`query` [rows, heads, positions, width], `key` and `value` [rows, groups, columns, width] →
    [rows, positions, heads, width]. More than one position goes to the library's own SDPA."""
    rows, heads, positions, width = query.shape
    if positions > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    folded = query.view(rows, key.shape[1], heads // key.shape[1], width)
    scale = width**-0.5 if scaling is None else scaling
    scores = torch.matmul(folded * scale, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    mixed = torch.matmul(weights.to(value.dtype), value)
    return mixed.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
