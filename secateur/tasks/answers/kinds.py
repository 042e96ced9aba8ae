"""Kinds of answers: how one is taken out of a text, and when two are equal. Votes are counted by it.

- `boxed`: the last box after the thinking, or what `answer_from` takes; equal as mathematics (equality.py);
- `choice`: the one letter that the last box states, without a box that behind `answer`, `option` or `choice`;
- `exact`: all of the text after the thinking, without the blanks around it; equal as text;
- `json:KEY.PATH`: a value in the last JSON object after the thinking, items of lists by number; equal as JSON values;
- `pattern:REGEX`: group 1 of the last match (all of the match where there is no group); equal as text;
- `none`: free text, which has no answer, so that there is one trace and no vote.
"""

import json
import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.tasks.answers.equality import AnswerGroups, choice_letter, grade_answers
from secateur.tasks.answers.extraction import (
    ANSWER,
    PATTERN,
    Extract,
    PatternExtraction,
    answer_part,
    extraction,
    last_box,
)
from secateur.tasks.prompts import Prompt

BOXED, CHOICE, EXACT, NONE, FIELD = "boxed", "choice", "exact", "none", "json:"
_STATED = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s{1,3}(?:is|would be))?\s{0,3}[:=]?\s{0,3}\*{0,2}\(?(?-i:([A-J]))(?![\w'’])",
    re.I,
)
_MOST_CHOICE = 80  # characters: a text up to here may be nothing but the choice
_MOST_JSON = 20_000  # characters at the end of a text in which an object is looked for
_MOST_READ = 10 * _MOST_JSON  # characters read in vain there, which bounds the work on hostile text


class Groups(Protocol):
    """Groups of equal answers that come one by one, as `AnswerGroups` makes them."""

    def add(self, number: int, answer: str) -> int:
        """The group of an answer, which is the `number` of its first answer: this one's if the group is new."""

    def first(self, group: Hashable) -> str:
        """The first answer of a group."""


class SameText:
    """`Groups` of answers that are equal as texts."""

    def __init__(self) -> None:
        self._by_text: dict[str, int] = {}
        self._first: dict[Hashable, str] = {}

    def add(self, number: int, answer: str) -> int:
        group = self._by_text.setdefault(answer, number)
        self._first.setdefault(group, answer)
        return group

    def first(self, group: Hashable) -> str:
        return self._first[group]


@dataclass(frozen=True)
class Answers:
    """How answers are taken out of texts and compared.

    `kind`: boxed, choice, exact, json:KEY.PATH, pattern:REGEX or none, see the list above it. `answer_from`:
    where the answer of a boxed one is (`answer`, `anywhere`, `package.module:function` or a function from text to
    answer). Raises `InputError` for a kind, a path, a pattern or a function that is none.
    """

    kind: str = BOXED
    answer_from: str | Extract = ANSWER

    def __post_init__(self) -> None:
        if self.kind != BOXED and self.answer_from != ANSWER:
            raise InputError(
                f"answers = '{self.kind}' and answer_from = {self.answer_from!r}: the second goes with boxed answers"
            )
        self.extract()

    @property
    def votes(self) -> bool:
        """Whether answers can be compared, so that traces can vote."""
        return self.kind != NONE

    def extract(self, thinking: bool = False) -> Extract:
        """From the text of a trace to its answer. `thinking`: the chat template has opened the thinking already."""
        if self.kind == BOXED:
            return extraction(self.answer_from, thinking) if isinstance(self.answer_from, str) else self.answer_from
        if self.kind.startswith(PATTERN):
            return PatternExtraction.of(self.kind.removeprefix(PATTERN), "answers")
        if self.kind.startswith(FIELD):
            return partial(_json_value, path=_path(self.kind), thinking=thinking)
        if self.kind not in _TAKEN:
            raise InputError(
                f"key 'answers' has the value '{self.kind}'; give boxed, choice, exact, json:KEY.PATH, pattern:REGEX "
                "or none"
            )
        return partial(_TAKEN[self.kind], thinking=thinking)

    def prompted(self, prompt: Prompt) -> Prompt:
        """The prompt that goes with them: a family's own sentence asks for a box, which only boxed answers have.

        >>> Answers("exact").prompted(Prompt("qwen")).instruction
        ''
        >>> Answers("exact").prompted(Prompt("qwen", instruction="Be brief.")).instruction
        'Be brief.'
        """
        return prompt if self.kind == BOXED or prompt.instruction is not None else replace(prompt, instruction="")

    def right(self, answer: str | None, gold: str) -> bool:
        """Whether an answer, or None for none, equals the right one, spelled as this kind takes them."""
        if self.kind == BOXED:
            return grade_answers([answer], [gold])[0]
        groups = self.groups()
        return answer is not None and groups.add(0, gold) == groups.add(1, answer)

    def groups(self) -> Groups:
        """Empty groups, by the equality of this kind."""
        return AnswerGroups() if self.kind == BOXED else SameText()


MATHEMATICS = Answers()
"""The last box after the thinking, compared as mathematics."""


def _choice(text: str, thinking: bool) -> str | None:
    part = answer_part(text, thinking)
    if part is None:
        return None
    box = last_box(part)
    if box is not None:
        return choice_letter(box)
    stated = _STATED.findall(part)
    if stated:
        return stated[-1]
    return choice_letter(part) if len(part) <= _MOST_CHOICE else None


def _exact(text: str, thinking: bool) -> str | None:
    return (answer_part(text, thinking) or "").strip() or None


def _nothing(text: str, thinking: bool) -> None:
    return None


_TAKEN = {CHOICE: _choice, EXACT: _exact, NONE: _nothing}


def _path(kind: str) -> tuple[str, ...]:
    path = tuple(kind.removeprefix(FIELD).split("."))
    if not all(path):
        raise InputError(
            f"key 'answers' has the value '{kind}'; name the field behind json:, as in json:result.total"
        )
    return path


def _json_value(text: str, path: tuple[str, ...], thinking: bool) -> str | None:
    """The value as JSON text, always spelled the same way; None where it is missing or null."""
    found = _last_object(answer_part(text, thinking) or "")
    for key in path:
        found = _entry(found, key)
    return None if found is None else json.dumps(_whole(found), ensure_ascii=False, sort_keys=True)


def _last_object(text: str) -> JSON:
    """The last object of a text that stands in no other; None where there is none.

    >>> _last_object('{"a": 1} and {"a": {"b": 2}} {')
    {'a': {'b': 2}}
    """
    text, found, place, read = text[-_MOST_JSON:], None, 0, 0
    while (place := text.find("{", place)) >= 0 and read < _MOST_READ:
        try:
            found, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:  # no JSON begins here
            read += error.pos - place if isinstance(error, json.JSONDecodeError) else _MOST_JSON
            place += 1
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _entry(value: JSON, key: str) -> JSON:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and key.isdecimal():
        return value[int(key)] if int(key) < len(value) else None
    return None


def _whole(value: JSON) -> JSON:
    """The value with 1.0 written as 1, which are one number in JSON."""
    if isinstance(value, dict):
        return {key: _whole(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
