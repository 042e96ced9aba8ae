"""How two answers compare: whether they are equal, whether one is right, and which of many belong together.

What an answer means is decided in reading.py: every answer gets a key. Numbers and words are read here, all else in
worker processes (pool.py) with math-verify's parser, because model output is hostile text. Two relations are built on
the keys:

- **Equal** (`answers_equal`, `compare_answers`): the keys are the same; an equivalence, so transitive as well.
- **Right** (`grade`, `grade_batch`, `grade_answers`): equal to the gold answer, or all that differs is what one of
  the two leaves out and the other says: a unit (`5` for `5 km`), the left-hand side (`2x+3` for `y=2x+3`), the base
  (`52` for `52_8`); and a percentage may be the fraction it is (`50\\%` for `0.5`). `5 cm` is wrong for `5 km`, `50`
  for `0.5`.

"Right" is no equivalence (5 cm, 5 and 5 km), so votes and clusters use `AnswerGroups`, which divides answers into
groups: equal ones, and in the first group that it fits an answer that leaves out what the group says, or the reverse.
"""

import functools
import importlib.metadata
import math
import re
from collections.abc import Hashable, Mapping, Sequence

from secateur.tasks.answers.extraction import Extract, extract_answer
from secateur.tasks.answers.pool import GradingPool
from secateur.tasks.answers.reading import read_answer
from secateur.tasks.answers.record import NeedsAlgebra, Reading
from secateur.tasks.answers.text import MAX_ANSWER_CHARS

RULES_VERSION = 7  # to be raised with every change that may change a verdict
GRADER_VERSION = f"secateur-{RULES_VERSION} math-verify-{importlib.metadata.version('math-verify')}"
MAX_CACHED = 50_000  # readings kept, of at most about 1 KB each; the oldest go first


def answers_equal(a: str, b: str) -> bool:
    """Whether two final answers mean the same. An equivalence relation."""
    return compare_answers([(a, b)])[0]


def compare_answers(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """`answers_equal` for many pairs; every distinct answer is read once."""
    found = _read([answer for pair in pairs for answer in pair])
    return [left.key == right.key and left.key != _EMPTY for left, right in zip(found[::2], found[1::2], strict=True)]


def grade(text: str, gold: str, extract: Extract = extract_answer) -> bool:
    """Whether the final answer of a completion is right."""
    return grade_batch([text], [gold], extract)[0]


def grade_batch(texts: Sequence[str], golds: Sequence[str], extract: Extract = extract_answer) -> list[bool]:
    """`grade` for many completions; a completion without an answer is wrong."""
    return grade_answers([extract(text) for text in texts], golds)


def grade_within(
    texts: Sequence[str], golds: Sequence[str], budget_s: float, extract: Extract = extract_answer
) -> list[bool | None]:
    """`grade_batch` until the answers have used `budget_s` [s, processor time of all workers together]; None for
    those whose turn never came. Gold answers are read in any case."""
    right = _read(golds)
    found = _read_within([extract(text) or "" for text in texts], budget_s)
    return [None if answer is None else _is_right(answer, gold) for answer, gold in zip(found, right, strict=True)]


def grade_answers(answers: Sequence[str | None], golds: Sequence[str]) -> list[bool]:
    """Whether each answer that was taken out of a text is right; None, no answer, is wrong."""
    present = [(answer or "", gold) for answer, gold in zip(answers, golds, strict=True)]
    distinct = list(dict.fromkeys(present))
    found = _read([text for pair in distinct for text in pair])
    right = [_is_right(answer, gold) for answer, gold in zip(found[::2], found[1::2], strict=True)]
    verdicts = dict(zip(distinct, right, strict=True))
    return [verdicts[pair] for pair in present]


def group_answers(answers: Sequence[str | None]) -> list[int | None]:
    """A key per answer: answers of one group share it, None stays None. The key is the index of the group's first."""
    _read([answer for answer in answers if answer is not None])
    groups = AnswerGroups()
    return [None if answer is None else groups.add(index, answer) for index, answer in enumerate(answers)]


def right_keys(answers: Sequence[str | None], keys: Sequence[int | None], gold: str) -> frozenset[int]:
    """The keys of those answers that are right; `keys` as of `group_answers`."""
    verdicts = grade_answers(answers, [gold] * len(answers))
    return frozenset(key for key, verdict in zip(keys, verdicts, strict=True) if verdict)


class AnswerGroups:
    """Groups of answers that come one by one: in each, all are equal up to what some of them leave out."""

    def __init__(self) -> None:
        self._first: dict[Hashable, str] = {}  # by group: its first answer
        self._by_key: dict[str, int] = {}
        self._by_bare: dict[str, int] = {}
        self._completed: set[int] = set()  # what their first answers leave out has been said by another

    def add(self, number: int, answer: str) -> int:
        """The group of an answer, which is the `number` of its first answer: this one's if the group is new."""
        reading = _read([answer])[0]
        group = self._by_key.get(reading.key)
        if group is None and reading.bare is not None:
            group = self._by_key.get(reading.bare)
            group = None if group in self._completed else group
        if group is None:
            group = self._by_bare.get(reading.key, number)
        self._first.setdefault(group, answer)
        self._by_key.setdefault(reading.key, group)
        if reading.bare is not None:
            self._by_bare.setdefault(reading.bare, group)
            self._completed.add(group)
        return group

    def first(self, group: Hashable) -> str:
        """The first answer of a group."""
        return self._first[group]


def choice_letter(answer: str) -> str | None:
    """The letter that an answer states as its choice, in upper case; None where it states none.

    >>> choice_letter("(b)"), choice_letter("Option C"), choice_letter("14")
    ('B', 'C', None)
    """
    bare = answer.strip(" ().")
    if len(bare) == 1:
        return bare.upper() if bare.isascii() and bare.isalpha() else None
    stated = _CHOICE.match(_read([answer])[0].key)
    return None if stated is None else stated[1].upper()


def unreadable_reason(answer: str) -> str | None:
    """Why an answer cannot be graded (a gold answer must not be like this), or None. Words are readable."""
    return unreadable_reasons([answer])[0]


def unreadable_reasons(answers: Sequence[str]) -> list[str | None]:
    """`unreadable_reason` for many answers; faster, because all workers share them."""
    return [reading.problem for reading in _read(answers)]


def _is_right(answer: Reading, gold: Reading) -> bool:
    other_mark = answer.mark and gold.mark and answer.mark != gold.mark
    if _EMPTY in (answer.key, gold.key) or other_mark:
        return False
    if answer.named and gold.named and _names(answer) == _names(gold):  # whatever the order of a tuple
        return answer.named == gold.named
    left_out = not gold.whole and _leaves_out(answer, gold)
    return answer.key in (gold.key, *gold.implied) or left_out or _leaves_out(gold, answer)


def _names(reading: Reading) -> list[str]:
    return [value.partition(" = ")[0] for value in reading.named]


def _leaves_out(less: Reading, more: Reading) -> bool:
    """Whether `more` says what `less` says, and only more than that: `$42` does not leave out the `km` of `42 km`."""
    said = less.key in (more.bare, *more.also) or (less.sequence is not None and less.sequence in more.also)
    return said and less.mark in more.key


_EMPTY = "raw "
_CHOICE = re.compile(r"(?:letter|choice) (\w)(?: |$)")
_known: dict[str, Reading] = {}


def _read(answers: Sequence[str]) -> list[Reading]:
    """The reading of every answer."""
    return [reading for reading in _read_within(answers, math.inf) if reading is not None]


def _read_within(answers: Sequence[str], budget_s: float) -> list[Reading | None]:
    """The reading of every answer; what is neither number nor word goes to the workers, every distinct one once,
    until they have used `budget_s`. What they have not come to is None, and is not remembered."""
    found: dict[str, Reading | None] = {}
    hard: list[str] = []
    for answer in dict.fromkeys(answers):
        try:
            found[answer] = _known.get(answer) or read_answer(answer)
        except NeedsAlgebra:
            hard.append(answer)
    if hard:
        found.update(zip(hard, _pool().read_within(hard, budget_s), strict=True))
    _remember(found)
    return [found[answer] for answer in answers]


def _remember(found: Mapping[str, Reading | None]) -> None:
    for answer, reading in found.items():
        if reading is not None and len(answer) <= MAX_ANSWER_CHARS:
            _known[answer] = reading
    while len(_known) > MAX_CACHED:
        del _known[next(iter(_known))]


@functools.cache
def _pool() -> GradingPool:
    return GradingPool()
