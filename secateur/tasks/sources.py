"""Problems by name: a set of the Hugging Face Hub, a JSONL file of the user's, or a split of a task that we draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.runtime.errors import InputError
from secateur.tasks import arithmetic, word_problems
from secateur.tasks.answers.equality import unreadable_reasons
from secateur.tasks.hub_sets import HUB_SETS, load_hub_set
from secateur.tasks.records import Problem, read_problem_lines

DRAWN = {"arithmetic": arithmetic.make_problems, "words": word_problems.make_problems}
"""Task → what draws problems of one of its splits, endlessly; a source is written `task:split`."""
JOIN = "+"
TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Located:
    """A problem and where it was read, for messages; `own` if the user can mend it there."""

    problem: Problem
    where: str
    own: bool


@dataclass(frozen=True)
class UnreadableGold:
    """A problem of a published set whose gold answer the grader cannot read, and why."""

    id: str
    answer: str
    reason: str


def load_problems(source: str, count: int | None = None, seed: int = 0) -> list[Problem]:
    """Up to `count` problems of `source` (all if None); the gold answer of each can be graded.

    `source` is a name of `secateur.tasks.hub_sets.HUB_SETS`, the path of a JSONL file (`seed` plays no part in
    either: the first `count` problems are taken), several of these joined by `+`, or a split of a task that we draw
    (`arithmetic:<split>`, `words:<split>`) with `seed`; then `count` is required. Raises `InputError` for an unknown
    name, a set that cannot be fetched, a broken file, an id that two parts share, an answer that cannot be read, or
    too few problems."""
    located = read_source(source, count, seed)
    for one, reason in _unreadable(located):
        raise InputError(_unreadable_message(one, reason))
    return [one.problem for one in located]


def load_training_set(source: str, count: int | None, seed: int) -> tuple[list[Problem], list[UnreadableGold]]:
    """`load_problems` for training: from a published set, problems that cannot be graded are left out and returned.

    Nobody can mend a pinned set, and such a problem would only give every completion the reward 0. In a file of the
    user's it is an `InputError` here as well.
    """
    located = read_source(source, count, seed)
    left_out = []
    for one, reason in _unreadable(located):
        if one.own:
            raise InputError(_unreadable_message(one, reason))
        left_out.append(UnreadableGold(one.problem.id, one.problem.answer, reason))
    ids = {entry.id for entry in left_out}
    return [one.problem for one in located if one.problem.id not in ids], left_out


def read_source(source: str, count: int | None = None, seed: int = 0) -> list[Located]:
    """`load_problems` without a look at the gold answers."""
    if count is not None and count < 1:
        raise InputError(f"the number of problems must be at least 1, not {count}")
    check_source(source)
    check_drawn(source, count)
    if is_drawn(source):
        task, split = source.split(":", 1)
        return [Located(problem, source, False) for problem in DRAWN[task](split, count, seed=seed)]
    located = [one for part in split_source(source) for one in _read_part(part)]
    _check_ids(located, source)
    if count is not None and count > len(located):
        raise InputError(f"{source}: holds {len(located)} problems, but {count} were asked for; lower the number")
    return located[:count]


def is_drawn(source: str) -> bool:
    """Whether `source` is a split of a task of which any number of problems can be drawn."""
    return source.partition(":")[0] in DRAWN and ":" in source


def split_source(source: str) -> list[str]:
    """The parts of a joined source; a file whose name holds a `+` is one part.

    >>> split_source("aime22+aime23")
    ['aime22', 'aime23']
    """
    return [source] if Path(source).is_file() else source.split(JOIN)


def check_source(source: str) -> None:
    """Raise `InputError` for what is neither a known name nor a file that is there; nothing is loaded."""
    parts = split_source(source)
    for part in parts:
        if is_drawn(part):
            if len(parts) > 1:
                raise InputError(f"'{source}': a drawn task cannot be joined with other problems; name it alone")
        elif part not in HUB_SETS and not Path(part).is_file():
            what = "a folder" if part and Path(part).is_dir() else "no such file"
            raise InputError(
                f"{part}: {what} and no known set; give a JSONL file (`secateur problems` makes one of other "
                f"files and sets) or one of {', '.join(HUB_SETS)}"
            )
        elif Path(part).suffix in TABLES and Path(part).is_file():
            raise InputError(
                f"{part}: make a JSONL file of it: secateur problems {part} problems.jsonl --problem_column NAME "
                "--answer_column NAME"
            )


def check_drawn(source: str, count: int | None, key: str = "problem_count") -> None:
    """Raise `InputError` for a number of problems below 1, for a split that a drawn task does not have, and for one
    without a number; the user gives it as `key`."""
    if count is not None and count < 1:
        raise InputError(f"key '{key}' has the value {count}; give at least 1, or null for all of a file")
    if not is_drawn(source):
        return
    task, split = source.split(":", 1)
    DRAWN[task](split, 1)
    if count is None:
        raise InputError(f"'{source}' is endless: say by key '{key}' how many problems to draw")


def check_problems(source: str, count: int | None, key: str = "problem_count") -> None:
    """Raise `InputError` where `count` problems of a source cannot be had, as far as that is seen without loading a
    set; lines of files are read, their answers not yet. `count` is the user's `key`."""
    check_source(source)
    check_drawn(source, count, key)
    for part in split_source(source):
        if Path(part).is_file():
            read_problem_lines(part)


def _read_part(part: str) -> list[Located]:
    if part in HUB_SETS:
        where = f"{part}: {HUB_SETS[part].where}"
        return [Located(problem, where, False) for problem in load_hub_set(part)]
    return [Located(problem, f"{part}, line {line}", True) for line, problem in read_problem_lines(part).items()]


def _unreadable(located: Sequence[Located]) -> list[tuple[Located, str]]:
    """Those whose gold answer the grader cannot read, each with the reason; every distinct answer is asked once."""
    answers = list({one.problem.answer for one in located})
    reasons = dict(zip(answers, unreadable_reasons(answers), strict=True))
    pairs = ((one, reasons[one.problem.answer]) for one in located)
    return [(one, reason) for one, reason in pairs if reason is not None]


def _unreadable_message(one: Located, reason: str) -> str:
    remedy = (
        "mend it, or take the problem out"
        if one.own
        else "write the set to a file (secateur problems NAME FILE.jsonl), mend it and name the file"
    )
    return (
        f"{one.where}: the answer of problem '{one.problem.id}', {one.problem.answer!r}, cannot be graded: {reason}; "
        f"{remedy}"
    )


def _check_ids(located: Sequence[Located], source: str) -> None:
    seen: set[str] = set()
    for one in located:
        if one.problem.id in seen:
            raise InputError(
                f"{source}: the id '{one.problem.id}' comes twice; ids must be unique among joined sources"
            )
        seen.add(one.problem.id)
