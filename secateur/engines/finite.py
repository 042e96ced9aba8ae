"""Whether weights are numbers: NaN and infinities spread to all that is computed with them."""

import torch

from secateur.runtime.errors import InputError


def is_finite(tensor: torch.Tensor) -> bool:
    """Smallest and largest tell, for both carry a NaN on: a tenth or less of what a look at every number costs
    (bench/RESULTS.md)."""
    return tensor.numel() == 0 or all(bool(bound.isfinite()) for bound in tensor.aminmax())


def weights_are_finite(model: torch.nn.Module, frozen_too: bool = False) -> bool:
    """Whether all that is trained is, as far as this process holds it (under ZeRO-3 its shard of each weight)."""
    looked_at = (one for one in model.parameters() if one.requires_grad or frozen_too)
    return all(is_finite(getattr(one, "ds_tensor", one).detach()) for one in looked_at)


def check_start(model: torch.nn.Module, name: str, dtype_key: str = "model_init_kwargs: dtype") -> None:
    """Raises `InputError` for a start model from which nothing could be sampled or learned."""
    if not weights_are_finite(model, frozen_too=True):
        raise InputError(
            f"{name}: its weights are not finite, so nothing can be learned from what it says; take another model, "
            f"or load it with bfloat16 or float32 ({dtype_key})"
        )
