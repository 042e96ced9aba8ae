"""What rows, judges and marks are called in tables and reports. Pure functions."""

from collections.abc import Mapping, Sequence

from eval.table.registry import method_label
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.results import Row
from secateur.runtime.files import JSON
from secateur.tasks.sources import is_drawn

ALL = "all"
"""What rows over several benchmarks together have as their benchmark."""
MARKS = {
    "trained_on": ("†", "the model or the judge was trained on problems of this benchmark: no measure of it"),
    "chosen_on": ("‡", "a checkpoint of the model or the judge was chosen on problems of this benchmark"),
}
# Drawn task → what must stand beside every number of it.
_PLANTED = {
    "arithmetic": "The embedded model's training corpus plants errors and repetitions on purpose; part of what "
    "length pruning gains is removing them. These numbers show that the machinery works, not what a real model would "
    "save.",
    "words": "The model learned the form of its answers from worked solutions, a third of which check every step "
    "once more; part of what length pruning gains is removing such checks.",
}


def planted_errors_note(config: Mapping[str, JSON]) -> str | None:
    """What must stand beside every number of a task that we draw; None for real problems."""
    problems = config["problems"]
    sources = problems.values() if isinstance(problems, Mapping) else [problems]
    tasks = {str(source).partition(":")[0] for source in sources if is_drawn(str(source))}
    return " ".join(_PLANTED[task] for task in sorted(tasks)) or None


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
