"""What rows, judges and marks are called in tables and reports. Pure functions."""

from collections.abc import Mapping, Sequence

from eval.table.registry import method_label
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.results import Row
from secateur.runtime.files import JSON

ALL = "all"
"""What rows over several benchmarks together have as their benchmark."""
MARKS = {
    "trained_on": ("†", "the model or the judge was trained on problems of this benchmark: no measure of it"),
    "chosen_on": ("‡", "a checkpoint of the model or the judge was chosen on problems of this benchmark"),
}
_PLANTED = (
    "The embedded model's training corpus plants errors and repetitions on purpose; part of what length pruning "
    "gains is removing them. These numbers show that the machinery works, not what a real model would save."
)


def planted_errors_note(config: Mapping[str, JSON]) -> str | None:
    """What must stand beside every number of the embedded task; None for real problems."""
    problems = config["problems"]
    sources = problems.values() if isinstance(problems, Mapping) else [problems]
    return _PLANTED if any(str(source).startswith("arithmetic:") for source in sources) else None


def judge_label(judge: str | None) -> str:
    """How a judge is called in tables: by its kind, with what tells two of one kind apart; nothing for methods
    without one."""
    kind, _, rest = (judge or "").partition("-")
    label = JUDGE_KINDS[kind].label if kind in JUDGE_KINDS else kind.replace("_", " ")
    return f"{label}-{rest}" if rest else label


def is_chance(row: Row) -> bool:
    """Whether the row's judge is the one at chance: a control, not something to run."""
    return row.judge_kind is not None and JUDGE_KINDS[row.judge_kind].is_chance


def row_label(row: Row) -> str:
    judge = f" ({judge_label(row.judge)})" if row.judge else ""
    return f"{row.model} · {method_label(row.method)}{judge}"


def marks(row: Row) -> str:
    """What stands behind the name of a row whose model or judge knows these problems."""
    return "".join(mark for key, (mark, _) in MARKS.items() if getattr(row, key))


def mark_notes(rows: Sequence[Row]) -> list[str]:
    """A footnote for every mark that the rows have."""
    return [f"{mark} {note}" for key, (mark, note) in MARKS.items() if any(getattr(row, key) for row in rows)]
