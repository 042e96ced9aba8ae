"""Parallel traces, of which the redundant ones stop while they run. In short: `from deepprune import prune`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepprune.api import PruneResult, prune
    from deepprune.judges.load import load_judge

_HOMES = {"prune": "deepprune.api", "PruneResult": "deepprune.api", "load_judge": "deepprune.judges.load"}
__all__ = ["PruneResult", "load_judge", "prune"]


def __getattr__(name: str) -> Any:
    """Loaded when asked for, so that the pure parts of the package come without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deepprune' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
