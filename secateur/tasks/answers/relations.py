"""Equations and inequalities: names before a value, intervals, and what is left for algebra."""

import re
from dataclasses import replace
from typing import Protocol

from secateur.tasks.answers.record import Algebra, Reading, Unreadable, interval

RELATION = re.compile(r"\\(?:le|ge|ne|in|approx)(?![a-zA-Z])|[=<>]")
_NAME = re.compile(r"(?:\\?[a-zA-Z]+|\\text\{[^{}]*\})'?(?:\s*_\s*(?:\w|\{[^{}]*\}))?\s*(?:\([a-zA-Z0-9, ]*\))?")
_LABEL = re.compile(r"\|?\s*(?:m ?)?(?:\\(?:angle|triangle|overline|vec)\s*)?\{?\s*[A-Za-z]+\s*\}?\s*\|?")
_NAMES = re.compile(r"\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\)")
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


class Reader(Protocol):
    """What reads the sides; `algebra` raises `NeedsAlgebra` where there is none."""

    @property
    def algebra(self) -> Algebra: ...

    def answer(self, text: str) -> Reading: ...

    def item(self, text: str, keep_name: bool = False) -> Reading: ...


def read_relation(reader: Reader, parts: list[tuple[str, str]], keep_name: bool) -> Reading:
    """The reading of a chain of relations, given as (operator before, side); `keep_name`: `a=2` is not just 2."""
    operators, sides = [before for before, _ in parts[1:]], [side for _, side in parts]
    if len(sides) == 2 and operators[0] in _FLIPPED and not sides[0]:
        sides[0] = "x"  # only the bound is stated
    if not all(sides):
        raise Unreadable("a relation with nothing on one side")
    if set(operators) <= {"=", "\\approx"}:
        return _equation(reader, sides[0], sides[-1], keep_name)
    if operators == ["\\in"]:
        return reader.answer(sides[1])
    if operators == ["\\ne"]:
        left, right = sorted(reader.item(side).key for side in sides)
        return Reading(f"{left} ≠ {right}", free=True)
    if len(operators) == 1:
        return _inequality(reader, sides[0], operators[0], sides[1])
    rising = set(operators) <= {"<", "\\le"}
    if len(operators) != 2 or not (rising or set(operators) <= {">", "\\ge"}) or not _NAME.fullmatch(sides[1]):
        raise Unreadable("a chain of relations that bounds no single variable")
    if not rising:
        sides, operators = sides[::-1], [_FLIPPED[operator] for operator in operators[::-1]]
    low, high = reader.item(sides[0]), reader.item(sides[2])
    return interval(low, high, operators[0] == "\\le", operators[1] == "\\le")


def _equation(reader: Reader, left: str, right: str, keep_name: bool) -> Reading:
    if _NAMES.fullmatch(left):
        return reader.answer(right)
    if not is_name(left) and is_name(right):
        left, right = right, left
    if is_name(left):
        value = reader.answer(right)
        if keep_name:
            return Reading(f"{re.sub(r'[{} ]', '', left)} = {value.key}", bare=value.key, free=value.free)
        if not value.free or "\\text" in left:
            return value
        return replace(reader.algebra.relation(left, right, "="), bare=value.key)
    value = reader.item(right)
    if not value.free and (_LABEL.fullmatch(left) or not reader.item(left).free):
        return value
    return reader.algebra.relation(left, right, "=")


def _inequality(reader: Reader, left: str, operator: str, right: str) -> Reading:
    if is_name(right) and not is_name(left):
        left, operator, right = right, _FLIPPED[operator], left
    bound = reader.item(right)
    if not is_name(left) or bound.free:
        return reader.algebra.relation(left, right, operator)
    closed = operator in ("\\le", "\\ge")
    if operator in ("<", "\\le"):
        return interval(Reading("-oo"), bound, False, closed)
    return interval(bound, Reading("oo"), closed, False)


def is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and text not in ("\\pi", "\\infty", "e", "i", "\\emptyset")


def has_name(part: str) -> bool:
    """Whether a text is of the form `name = …`."""
    name, equals, _ = part.partition("=")
    return bool(equals) and bool(_NAME.fullmatch(name.strip()))
