"""Focal loss and the weight of the rarer label: how DeepPrune trains its judge (arXiv 2510.08483, section on the
judge; focal loss after Lin et al., arXiv 1708.02002, equation 5).

Most pairs of traces share their answer, and most of those are easy. Focal loss takes weight from what is already
right; counting the rarer label twice is the same in expectation as showing those pairs twice.
"""

import torch
import torch.nn.functional as F

FOCAL_GAMMA = 2.0
MINORITY_FACTOR = 2.0


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    gamma: float = FOCAL_GAMMA,
    alpha: float | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of -alpha_t (1 - p_t)^gamma log p_t over pairs, a scalar.

    `logits` and `labels` are [pairs]; label 1 = same answer. `alpha` (0-1) weighs label 1 and 1 - alpha label 0,
    None leaves both at 1. `weights` [pairs] (see `minority_weights`) make it a weighted mean. gamma 0 without alpha
    is plain binary cross-entropy.
    """
    labels = labels.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")  # = -log p_t
    loss = (1.0 - torch.exp(-cross_entropy)).clamp_min(0.0) ** gamma * cross_entropy if gamma else cross_entropy
    if alpha is not None:
        loss = loss * (alpha * labels + (1.0 - alpha) * (1.0 - labels))
    if weights is None:
        return loss.mean()
    return (loss * weights).sum() / weights.sum()


def minority_label(labels: torch.Tensor) -> int:
    """The label (0 or 1) that fewer pairs have; 0 ("different", the paper's minority) when both are as frequent."""
    return int(2 * labels.sum() < len(labels))


def minority_weights(labels: torch.Tensor, minority: int, factor: float = MINORITY_FACTOR) -> torch.Tensor:
    """[pairs] float32: `factor` for pairs with the rarer label, 1 for the others."""
    return torch.where(labels.long() == minority, factor, 1.0)
