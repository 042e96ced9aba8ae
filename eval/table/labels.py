"""What methods, judges and marks are called in tables and reports. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

ALL = "all"
"""What rows over several benchmarks together have as their benchmark."""
METHOD_LABELS = {
    "single": "one trace",
    "consensus": "vote of all n",
    "adaptive_consistency": "adaptive consistency",
    "early_stopping": "early stopping",
    "deepconf_low": "DeepConf low",
    "deepconf_high": "DeepConf high",
    "embedding": "similar cuts dropped",
    "deepprune": "DeepPrune",
    "random_traces": "as many random traces",
    "consensus_equal_tokens": "full traces, same tokens",
    "oracle": "any trace right",
}
JUDGE_LABELS = {"linear_own_states": "own states"}
MARKS = {
    "trained_on": ("†", "the model or the judge was trained on problems of this benchmark: no measure of it"),
    "chosen_on": ("‡", "a checkpoint of the model or the judge was chosen on problems of this benchmark"),
}
_PLANTED = (
    "The embedded model's training corpus plants errors and repetitions on purpose; part of what the length blade "
    "gains is removing them. These numbers show that the machinery works, not what a real model would save."
)


def planted_errors_note(config: Mapping[str, Any]) -> str | None:
    """What must stand beside every number of the embedded task; None for real problems."""
    problems = config["problems"]
    sources = problems.values() if isinstance(problems, Mapping) else [problems]
    return _PLANTED if any(str(source).startswith("arithmetic:") for source in sources) else None


def method_label(method: str) -> str:
    """How a method is called in tables; a variant of DeepPrune by its name."""
    if method.startswith("deepprune_"):
        return f"DeepPrune, {method.removeprefix('deepprune_').replace('_', ' ')}"
    return METHOD_LABELS.get(method, method)


def judge_label(judge: str | None) -> str:
    """How a judge is called in tables; nothing for methods without one."""
    return JUDGE_LABELS.get(judge or "", (judge or "").replace("_", " "))


def marks(row: Mapping[str, Any]) -> str:
    """What stands behind the name of a row whose model or judge knows these problems."""
    return "".join(mark for key, (mark, _) in MARKS.items() if row.get(key))


def mark_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A footnote for every mark that the rows have."""
    return [f"{mark} {note}" for key, (mark, note) in MARKS.items() if any(row.get(key) for row in rows)]
