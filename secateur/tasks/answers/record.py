"""The record that an answer is read into, and what can go wrong on the way."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


class Unreadable(ValueError):
    """The text is no answer that can be compared; the message says why."""


class NeedsAlgebra(Exception):
    """A part is neither number nor word; only a process with sympy can read it."""


@dataclass(frozen=True)
class Reading:
    """The keys of one answer.

    `bare`: the key without what others leave out. `also`: further keys that say the same. `implied`: keys of
    answers that are right for this one as a gold answer, while this one is not for them. `sequence`: of a plain list,
    its items in their order. `mark`: that was dropped (`degree`, `percent`, `dollar`). `whole`: as a gold answer it
    wants its left side. `named`: of values with names, each with its name. `free`: it holds variables. `members`: the
    keys of a set, else empty. `problem`: why it cannot be read; its key then is its own text, so that it is still
    equal to itself.
    """

    key: str
    bare: str | None = None
    also: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()
    sequence: str | None = None
    mark: str = ""
    whole: bool = False
    named: tuple[str, ...] = ()
    free: bool = False
    members: tuple[str, ...] = ()
    problem: str | None = None

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "Reading":
        return cls(**{**fields, **{name: tuple(fields[name]) for name in ("also", "implied", "members", "named")}})


@dataclass(frozen=True)
class Algebra:
    """How formulas are read: `value(text)`, and `relation(left, right, operator)` for an equation or inequality."""

    value: Callable[[str], Reading]
    relation: Callable[[str, str, str], Reading]


def unread(text: str, problem: str) -> Reading:
    return Reading(f"raw {text}", problem=problem)


def set_reading(parts: list[Reading]) -> Reading:
    """A set: order and repetition do not count, sets within are opened, and a set of one is its element."""
    members = sorted({key for part in parts for key in (part.members or (part.key,))})
    free = any(part.free for part in parts)
    if len(members) == 1:
        return replace(parts[0], members=())
    return Reading("{" + "; ".join(members) + "}", free=free, members=tuple(members))


def interval(low: Reading, high: Reading, left_closed: bool, right_closed: bool) -> Reading:
    """Also the pair: `(1,2)` may be either. An infinite end is never closed."""
    opening = "[" if left_closed and low.key != "-oo" else "("
    closing = "]" if right_closed and high.key != "oo" else ")"
    return Reading(f"{opening}{low.key}; {high.key}{closing}", free=low.free or high.free)
