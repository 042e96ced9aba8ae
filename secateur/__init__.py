"""Secateur cuts the tokens that long-thinking language models waste, inside a trace and across parallel traces."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.deepprune.judges.folder import load_judge
    from secateur.deepprune.prune import PruneResult, prune

_HOMES = {
    "prune": "secateur.deepprune.prune",
    "PruneResult": "secateur.deepprune.prune",
    "load_judge": "secateur.deepprune.judges.folder",
}
__all__ = ["PruneResult", "load_judge", "prune"]


def __getattr__(name: str) -> Any:
    """Loaded when asked for, so that the pure parts of the package come without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
