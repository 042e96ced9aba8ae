"""What rows, judges and marks are called in tables and reports. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.table.registry import method_label
from secateur.deepprune.judges.folder import judge_kind
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.results import Row
from secateur.runtime.files import JSON
from secateur.tasks.sources import is_drawn

ALL = "all"
"""What rows over several benchmarks together have as their benchmark."""
_NAMED = 5  # ids in a footnote


@dataclass(frozen=True)
class Mark:
    """What stands behind rows whose model or judge knows problems of their benchmark: `whole` is said where it knows
    all, `part` (with places for a count and the problems) where it knows some."""

    sign: str
    seen: str  # Row attribute: bool or None
    ids: str  # Row attribute: of the problems, where they are not all
    whole: str
    part: str

    def label(self, row: Row) -> str:
        """The sign, and behind it how many problems, where they are not all."""
        return f"{self.sign}{len(getattr(row, self.ids)) or ''}" if getattr(row, self.seen) else ""

    def note(self, row: Row) -> str:
        """What the sign means at this row."""
        ids = getattr(row, self.ids)
        if not ids:
            return self.whole
        more = f" and {len(ids) - _NAMED} more, all in combined.json" if len(ids) > _NAMED else ""
        of = f"{len(ids)} of the {row.problems} problems of {row.benchmark}"
        return f"{self.part.format(of)}: {', '.join(ids[:_NAMED])}{more}"


MARKS = (
    Mark(
        "†",
        "trained_on",
        "trained_ids",
        "the model or the judge was trained on problems of this benchmark: no measure of it",
        "the model or the judge was trained on {}, the same or nearly the same",
    ),
    Mark(
        "‡",
        "chosen_on",
        "chosen_ids",
        "a checkpoint of the model or the judge was chosen on problems of this benchmark",
        "a checkpoint of the model or the judge was chosen on {}, the same or nearly the same",
    ),
)
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


def judge_names(judges: Sequence[str]) -> list[str]:
    """A name for each judge (a folder, or the name of an untrained one): its kind, where two are of one kind with as
    much of the folder's end as tells them apart. Raises `InputError` for a folder without a judge."""
    parts = [(judge_kind(judge), *_parts(judge)[::-1]) for judge in judges]
    return [_label(own, [other for other in parts if other is not own]) for own in parts]


def _parts(judge: str) -> tuple[str, ...]:
    path = Path(judge)
    return path.relative_to(path.anchor).parts


def _label(own: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    """Of a kind and the parts of a path, the last one first."""
    apart = (size for size in range(1, len(own)) if all(other[:size] != own[:size] for other in others))
    kind, *ends = own[: next(apart, len(own))]
    return "-".join([kind, *reversed(ends)])


def is_chance(row: Row) -> bool:
    """Whether the row's judge is the one at chance: a control, not something to run."""
    return row.judge_kind is not None and JUDGE_KINDS[row.judge_kind].is_chance


def row_label(row: Row) -> str:
    judge = f" ({judge_label(row.judge)})" if row.judge else ""
    return f"{row.model} · {method_label(row.method)}{judge}"


def marks(row: Row) -> str:
    """What stands behind the name of a row whose model or judge knows these problems."""
    return "".join(mark.label(row) for mark in MARKS)


def row_notes(row: Row) -> list[str]:
    """What each of its marks means."""
    return [mark.note(row) for mark in MARKS if mark.label(row)]


def mark_notes(rows: Sequence[Row]) -> list[str]:
    """A footnote for every mark that the rows have."""
    notes = [f"{mark.label(row)} {mark.note(row)}" for mark in MARKS for row in rows if mark.label(row)]
    return list(dict.fromkeys(notes))
