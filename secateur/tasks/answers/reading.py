"""What an answer says, as a key: two answers are equal exactly if their keys are equal.

A key makes equality an equivalence by construction, which votes and clusters need, and an answer is read once,
however many others it is compared with. Keys name exact values: `1/2`, `0.5` and `\\frac{2}{4}` share one; `0.333`
and `1/3`, `3.14159` and `\\pi`, 99999 and 100000 do not.

- **Order.** `(1,2)` is an ordered tuple (or the open interval, which is written the same); `1,2`, `1 and 2`,
  `\\{1,2\\}` and `\\pm 2` are sets; `[1,2]` and `[1,2)` are intervals, and so are `1<x\\le 2` and `x\\in(1,2]`.
- **Marks** are dropped: `%`, degrees, `\\$`. So 50 % = 50 ≠ 0.5, as MATH's gold answers are written.
- **Names** are dropped before a constant: `x=5` is 5. `y=2x+1` stays an equation, equal to `2x-y+1=0`.
- **Units** are part of the value, converted: 5 km = 5000 m ≠ 5 cm. Those of one letter only within `\\text`: the m of
  `5m` may be a variable.
- **Commas** between groups of three digits without a blank separate thousands, all others items: `1,234` and `1,
  234`.
- **Words** are compared without case; `(A)` and `A` are one; letters of formulas have no case either, unless an
  answer uses both cases of one letter.

Some answers leave something out that others write: `bare` is the key without the unit, the left-hand side or the
base, or of the letter alone where an option is written out (`C. 5`); `fraction` is a percentage's key as the fraction
it is. equality.py says where they count.
"""

import itertools
import re
from dataclasses import replace

from secateur.tasks.answers.numbers import number_key, read_number
from secateur.tasks.answers.quantities import read_notation, read_quantity, read_words, words_reading
from secateur.tasks.answers.record import Algebra, NeedsAlgebra, Reading, Unreadable, interval, set_reading, unread
from secateur.tasks.answers.relations import RELATION, has_name, read_relation
from secateur.tasks.answers.text import (
    MAX_ANSWER_CHARS,
    MAX_DEPTH,
    depths,
    matching,
    normalise,
    split_outside,
    unbalanced,
)

_SEPARATOR = re.compile(r"[,;]\s*(?:(?:and|or)(?![a-z])\s*)?|(?<![a-z\\])(?:and|or)(?![a-z])|\\cup(?![a-z])\s*")
_COMMA = re.compile("[,;]")
_WORDS_BETWEEN = re.compile(r"\\text\{\s*,?\s*(and|or)\s*,?\s*\}")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_CONDITION = re.compile(
    r"(.*\S)\s*[,(]\s*[a-zA-Z]\s*\\in\s*\\mathbb\s*\{?\s*[ZNQR]\s*\}?(?:\s*\^?[*+])?\s*\)?$", re.DOTALL
)
_OPTION = re.compile(r"(?:\\text\s*\{)?\s*(?:\(([A-J])\)|([A-J])\s*[.:)])[\s}]*\S")
_DOTS = ("\\ldots", "\\dots", "\\cdots", "...")
_MATRIX = re.compile(r"\\begin\{([bpvBV]?matrix|array|cases)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)


def read_answer(answer: str, algebra: Algebra | None = None) -> Reading:
    """The reading of one answer. Without `algebra` numbers and words only; `NeedsAlgebra` if that is not enough."""
    text = normalise(answer)
    if not text:
        return unread(text, "it is empty")
    if len(text) > MAX_ANSWER_CHARS:
        return unread(text, f"it is longer than {MAX_ANSWER_CHARS} characters")
    if unbalanced(text):
        return unread(text, "its braces do not balance")
    if max(depths(text)) > MAX_DEPTH:
        return unread(text, f"its brackets are nested deeper than {MAX_DEPTH}")
    found = _read(text, algebra)
    option = _OPTION.match(text)
    if option is None or found.bare is not None:
        return found
    return replace(found, bare=_read(option.group(1) or option.group(2), algebra).key)


def _read(text: str, algebra: Algebra | None) -> Reading:
    try:
        return _Reader(algebra).answer(text)
    except Unreadable as error:
        return unread(text, str(error))
    except RecursionError:
        return unread(text, "it is nested too deeply")


class _Reader:
    """Reads structure by hand and hands what is left, single formulas, to `algebra`."""

    def __init__(self, algebra: Algebra | None) -> None:
        self._algebra = algebra

    def answer(self, text: str) -> Reading:
        """A whole answer: one item, or several with commas, `and`, `or` or a union sign between them.

        A condition such as `k\\in\\mathbb{Z}` behind a formula is dropped.
        """
        text = _CONDITION.sub(r"\1", text)
        text = _WORDS_BETWEEN.sub(r" , ", text)
        level = depths(text)
        text = _THOUSANDS.sub(lambda m: m.group().replace(",", "") if level[m.start()] == 0 else m.group(), text)
        parts = [part for _, part in split_outside(text, _SEPARATOR) if part]
        if not parts:
            raise Unreadable("nothing but separators")
        if len(parts) == 1:
            return self.item(parts[0])
        names = {part.partition("=")[0].strip() for part in parts if has_name(part)}
        return set_reading([self.item(part, keep_name=len(names) > 1) for part in parts])

    def item(self, text: str, keep_name: bool = False) -> Reading:
        text = normalise(text)
        if not text:
            raise Unreadable("an empty part")
        if (value := read_number(text)) is not None:
            return Reading(number_key(value))
        for read in (self._plus_minus, self._bracketed, self._matrix):
            if (found := read(text)) is not None:
                return found
        parts = split_outside(text, RELATION)
        if len(parts) > 1:
            return read_relation(self, parts, keep_name)
        found = read_quantity(text, self.item) or read_notation(text) or read_words(text, self._formula)
        return found or self._formula(text)

    def _formula(self, text: str) -> Reading:
        if text in ("\\infty", "+\\infty", "-\\infty"):
            return Reading("-oo" if text.startswith("-") else "oo")
        if text in ("\\mathbb{R}", "\\mathbb R"):
            return interval(Reading("-oo"), Reading("oo"), False, False)
        if text in _DOTS:
            return Reading("…")
        if text == "\\emptyset":
            return Reading("{}")
        if re.search(r"\\text\{[^{}]*[a-zA-Z]{2}|\\circ.*'", text):
            return words_reading(text)
        return self.algebra.value(text)

    @property
    def algebra(self) -> Algebra:
        if self._algebra is None:
            raise NeedsAlgebra
        return self._algebra

    def _plus_minus(self, text: str) -> Reading | None:
        """`\\pm`: the set of both. Several vary on their own, unless a `\\mp` ties them together."""
        signs = re.findall(r"\\(?:pm|mp)(?![a-zA-Z])", text)
        if not signs:
            return None
        if len(signs) > 3:
            raise Unreadable("more than three plus-minus signs")
        tied = "\\mp" in signs
        choices = [("+",) * len(signs), ("-",) * len(signs)] if tied else itertools.product("+-", repeat=len(signs))
        return set_reading([self.answer(_with_signs(text, signs, choice)) for choice in choices])

    def _bracketed(self, text: str) -> Reading | None:
        """Tuple, interval, set, or brackets around one item."""
        opening = 2 if text.startswith("\\{") else 1 if text[0] in "([" else 0
        closing = matching(text, 0) if opening else -1
        if closing < 0 or closing + (2 if opening == 2 else 1) != len(text):
            return None
        inner, end = text[opening:closing].strip(), text[closing:]
        if opening == 2:
            return self._set(inner)
        parts = [part for _, part in split_outside(inner, _COMMA)]
        if len(parts) == 1:
            return self.item(inner) if (text[0], end) == ("(", ")") else None
        items = [self.item(part) for part in parts]
        free = any(item.free for item in items)
        if len(items) == 2:
            return interval(items[0], items[1], text[0] == "[", end == "]")
        return Reading(text[0] + "; ".join(item.key for item in items) + end, free=free)

    def _set(self, inner: str) -> Reading:
        if not inner:
            return Reading("{}")
        condition = split_outside(inner, re.compile(r"\||:"))
        if len(condition) == 2:
            return self.answer(condition[1][1])
        return set_reading([self.answer(part) for _, part in split_outside(inner, _COMMA) if part])

    def _matrix(self, text: str) -> Reading | None:
        """Round and square brackets are one; `vmatrix` is a determinant and left to algebra."""
        match = _MATRIX.fullmatch(text.strip("()[]| ")) if "\\begin" in text else None
        if match is None or match.group(1) in ("vmatrix", "Vmatrix"):
            return None
        rows = [row.split("&") for row in match.group(2).replace("\\hline", "").split("\\\\") if row.strip()]
        cells = [[self.item(cell) for cell in row] for row in rows]
        key = "; ".join(", ".join(cell.key for cell in row) for row in cells)
        return Reading(f"matrix {key}", free=any(cell.free for row in cells for cell in row))


def _with_signs(text: str, signs: list[str], choice: tuple[str, ...]) -> str:
    pieces = re.split(r"\\(?:pm|mp)(?![a-zA-Z])", text)
    chosen = [sign if name == "\\pm" else "-+"[sign == "-"] for name, sign in zip(signs, choice, strict=True)]
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(pieces, chosen, fillvalue="")))
