"""What an answer says, as a key: two answers are equal exactly if their keys are equal.

A key makes equality an equivalence by construction, which votes and clusters need, and an answer is read once,
however many others it is compared with. Keys name exact values: `1/2`, `0.5` and `\\frac{2}{4}` share one; `0.333`
and `1/3`, `3.14159` and `\\pi`, 99999 and 100000 do not.

- **Order.** `(1,2)` is an ordered tuple (or the open interval, which is written the same); `1,2`, `1 and 2`,
  `\\{1,2\\}` and `\\pm 2` are sets; `[1,2]` and `[1,2)` are intervals, and so are `1<x\\le 2`, `x\\in(1,2]`, `]1,2]`.
- **Sets of real numbers** have one spelling: `x\\ne 0`, `\\mathbb{R}\\setminus\\{0\\}`. Between inequalities `and` is
  the intersection, `or` the union, a comma the first unless nothing or nothing new is left.
- **Marks** are dropped: `%`, degrees, `\\$`. So 50 % = 50 ≠ 0.5, as MATH's gold answers are written.
- **Left sides** are dropped before a constant if they only name it (`x=5`, `f(g(2))=5`, `|AB|=5`). One that has a
  value must have the same (`5=7` is nothing), and `2x=6` stays an equation. `y=2x+1` is equal to `2x-y+1=0`.
- **Units** are part of the value, converted: 5 km = 5000 m ≠ 5 cm. They are a closed list, and what was counted
  stands in the plural (`12 apples`). Number words multiply (`2 million`); a letter is a variable (`3\\mathrm{i}`);
  other words make another answer of a number, or none (`42 or more`, `42 squared`, `42 is wrong`).
- **Commas** between groups of three digits without a blank separate thousands, all others items: `1,234` and `1,
  234`.
- **Words** are compared without case; `(A)` and `A` are one; letters of formulas have no case either, unless an
  answer uses both cases of one letter.
- **What stands below a number** makes it another one (`42_8`, `42_b`), if it is not its base ten.
- **Steps** before a value are dropped if it fulfils them: `2x=84, x=42` is 42, `2x=86, x=42` is not. `|x-4|<1` is to
  be solved, so its interval is right for it, but it is not right for its interval.
- **Choices**: one letter with a mark, words or a value behind it (`(B) 14`, `Option B`) states that letter; several
  state none, unless the others are ruled out.

Some answers leave something out that others write: `bare` is the key without the unit or the left-hand side, or of
the letter alone where an option is written out (`C. 5`); `also` are keys of the same answer in another form: the
fraction that a percentage is, the tuple of named values. equality.py says where they count.
"""

import functools
import itertools
import re
from dataclasses import replace

from secateur.tasks.answers.choices import read_choice, without_label
from secateur.tasks.answers.numbers import number_key, read_number
from secateur.tasks.answers.quantities import read_notation, read_quantity, read_words, words_reading
from secateur.tasks.answers.record import Algebra, NeedsAlgebra, Reading, Unreadable, interval, set_reading, unread
from secateur.tasks.answers.relations import (
    RELATION,
    complement,
    has_name,
    intersection,
    is_name,
    read_relation,
    span_reading,
    spans_of,
    unknowns,
)
from secateur.tasks.answers.text import (
    MAX_ANSWER_CHARS,
    MAX_DEPTH,
    depths,
    matching,
    normalise,
    split_outside,
    unbalanced,
    without_condition,
)

_SEPARATOR = re.compile(
    r"[,;]\s*(?:(?:and|or)(?![a-z])\s*)?|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\\c[ua]p(?![a-z])\s*|"
    r"\\\\\s*"
)
_ARROW = re.compile(r"\\(?:implies|Rightarrow|Longrightarrow|iff|Leftrightarrow|Longleftrightarrow)(?![a-z])")
_COMMA = re.compile("[,;]")
_WORD = re.compile(r"and|or|\\c[ua]p")
_WORDS_BETWEEN = re.compile(r"\\text\{\s*,?\s*(and|or)\s*,?\s*\}|\\(wedge|vee)(?![a-z])")
_TEXT_COMMA = re.compile(r"\\text\{\s*([,;])\s*\}")
_OPEN_WORD = re.compile(r"\\text\{\s*,?\s*(and|or)\s+(?=[^{}]*\d)([^{}]*)\}")  # `42\text{ or 43}`
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d]|,\d)")
_ORDERED = re.compile(r"<|>|\\(?:le|ge|ne|in|notin)(?![a-zA-Z])")
_DIFFERENCE = re.compile(r"\\setminus(?![a-z])|-(?=\s*\\\{)")
_BRACED_THOUSANDS = re.compile(r"(?<!\\)\{\d{1,3}(?:,\d{3})+\}")
_OUTWARD = re.compile(r"([\[\]])([^\[\]]*[,;][^\[\]]*)([\[\]])")
_OF_INTERVAL = re.compile(r"[a-z]\s*(\([^()\[\]]*\]|\[[^()\[\]]*[)\]])")  # `t(0,4]`, where the sign is missing
_DOMAIN = re.compile(r"\\mathbb\s*\{?\s*([A-Z])\s*\}?")
_POINT = re.compile(r"[A-Z]'?\s*(\([^()]*,[^()]*\))")
_PROSE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}(?![a-zA-Z])")
_ROW_END = re.compile(r"\\\\\s*(?:\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\])?")
_DOTS = ("\\ldots", "\\dots", "\\cdots", "...")
_MATRIX = re.compile(
    r"\\begin\{((?:[bpvBV]|small)?matrix|[dr]?cases|array(?=\})|align(?:ed)?\*?|gather(?:ed)?\*?|split)\}"
    r"(?:(?<=array\})\{[^{}]*\})?(.*)\\end\{\1\}",
    re.DOTALL,
)
_LINED_UP = ("align", "gather", "split")
_CASE = re.compile(r"^\s*(?:\\text\s*\{\s*(?:if|for|when|where)\s*\}|(?:if|for|when|where)(?![a-z]))")


def read_answer(answer: str, algebra: Algebra | None = None) -> Reading:
    """The reading of one answer. Without `algebra` numbers and words only; `NeedsAlgebra` if that is not enough."""
    text = normalise(answer)
    if not text:
        return unread(text, "it is empty")
    if len(text) > MAX_ANSWER_CHARS:
        return unread(text, f"it is longer than {MAX_ANSWER_CHARS} characters")
    if (value := read_number(text)) is not None:
        return Reading(number_key(value))
    if unbalanced(text):
        return unread(text, "its braces do not balance")
    if max(depths(text)) > MAX_DEPTH:
        return unread(text, f"its brackets are nested deeper than {MAX_DEPTH}")
    reader, stated = _Reader(algebra), without_label(text)
    try:
        return read_choice(stated, reader.answer) or reader.answer(stated)
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

        A condition such as `k\\in\\mathbb{Z}` is dropped; its letter may be any, and who answers need
        not say of it what the gold answer says.
        """
        if text.startswith("\\begin{") and text.count("\\begin") == 1 and text.endswith("}"):
            return self.item(text)
        text, respelled = without_condition(text)
        found = self._unconditional(text)
        if not found.free or not respelled:
            return found
        return replace(found, implied=(*found.implied, *(self._unconditional(other).key for other in respelled)))

    def _unconditional(self, text: str) -> Reading:
        text = _TEXT_COMMA.sub(r"\1", _WORDS_BETWEEN.sub(_word_between, text))
        text = _OPEN_WORD.sub(r" \1 \\text{\2}", text)
        text = _BRACED_THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
        if _ARROW.search(text):
            solved = self._solved([part for _, part in split_outside(text, _ARROW)])
            if solved is not None:
                return solved
        level = depths(text)
        text = _THOUSANDS.sub(lambda m: m.group().replace(",", "") if level[m.start()] == 0 else m.group(), text)
        found = split_outside(text, _SEPARATOR)
        if any(not part and _WORD.search(joint) for part, joint in _with_joints(found)):
            raise Unreadable("a conjunction with nothing on one side")
        parts = [(before, part) for before, part in found if part]
        if not parts:
            raise Unreadable("nothing but separators")
        return self.item(parts[0][1]) if len(parts) == 1 else self._several(parts)

    def _several(self, parts: list[tuple[str, str]]) -> Reading:
        joints, texts = [before for before, _ in parts[1:]], [part for _, part in parts]
        sides = [[side for _, side in split_outside(text, RELATION)] for text in texts]
        if all(len(found) > 1 and _ORDERED.search(text) for found, text in zip(sides, texts, strict=True)):
            return self._conditions(joints, texts, {next(filter(is_name, found), "") for found in sides})
        if any("\\cap" in joint or "\\cup" in joint for joint in joints):
            return _joined("\\cap" if "\\cap" in joints else "\\cup", [self.item(text) for text in texts])
        if not any("or" in joint for joint in joints) and (solved := self._solved(texts)) is not None:
            return solved
        names = [text.partition("=")[0].strip() for text in texts if has_name(text)]
        letters = {name.partition("_")[0] for name in names}
        either = any("or" in joint for joint in joints) and 1 < len(letters) == len(names)
        if len(names) == len(texts) and len(set(names)) > 1 and not either:
            return _named(names, [self.item(text, keep_name=True) for text in texts])
        items = [self.item(text, keep_name=len(set(names)) > 1) for text in texts]
        listed = "list " + "; ".join(item.key for item in items)
        if either:  # `x=2 or y=3` says neither of both
            return Reading(f"one of {set_reading(items).key}", free=True)
        short = [item if item.whole else replace(item, key=item.bare or item.key) for item in items]
        found = set_reading(items)
        return replace(found, sequence=listed, bare=set_reading(short).key) if found.members else found

    def _solved(self, texts: list[str]) -> Reading | None:
        """The value of the one unknown that equations end with and that fulfils them all (`2x=84, x=42`); None for
        anything else."""
        *equations, last = texts
        name, _, value = (part.strip() for part in last.partition("="))
        if len(name) != 1 or not is_name(name) or any(unknowns(text) != {name} for text in equations):
            return None
        put, found = re.compile(rf"(?<![a-zA-Z\\]){name}(?![a-zA-Z])"), self.item(value)
        for equation in equations:
            parts = split_outside(equation, RELATION)
            if found.free or len(parts) != 2 or parts[1][0] != "=":
                return None
            left, right = (self.item(put.sub(lambda _: f"({value})", side)) for _, side in parts)
            if left.key != right.key or left.free:
                return None
        return found

    def _conditions(self, joints: list[str], texts: list[str], names: set[str]) -> Reading:
        """Several inequalities: all hold (`and`), one does (`or`); with commas all, unless one excludes another."""
        words = {word for joint in joints for word in re.findall("and|or|\\\\cup", joint)}
        items = [self.item(text) for text in texts]
        if len(words) > 1 or len(names) > 1:
            said = zip(["", *joints], texts, items, strict=True)
            keys = sorted(f"{next((n for n in names if n in text), '')} {item.key}" for _, text, item in said)
            return Reading(f"{' '.join(sorted(words))} {{{'; '.join(keys)}}}", free=True)
        items = [item for item in items if item.key != "(-oo; oo)"] or items  # `x\\in\\mathbb{R}` leaves all as it is
        both = _joined("\\cap", items)
        if words == {"and"} and both.key == "{}":  # most who write so mean `or`: it is neither
            return Reading(f"all of {set_reading(items).key}", free=True)
        if words == {"and"}:
            return both
        return (
            both if not words and both.key not in ("{}", *(item.key for item in items)) else _joined("\\cup", items)
        )

    def item(self, text: str, keep_name: bool = False) -> Reading:
        text = normalise(text)
        if not text:
            raise Unreadable("an empty part")
        if (value := read_number(text)) is not None:
            return Reading(number_key(value))
        if (outward := _OUTWARD.fullmatch(text)) is not None:
            text = "[("[outward[1] == "]"] + outward[2] + "])"[outward[3] == "["]
        for read in (self._plus_minus, self._difference, self._bracketed, self._matrix):
            if (found := read(text)) is not None:
                return found
        if len(_PROSE.findall(text)) > 2:
            counted = read_quantity(text, self.item) if re.match(r"[+-]?\d", text) else None
            return counted or words_reading(text)
        parts = split_outside(text, RELATION)
        if len(parts) > 1:
            return read_relation(self, parts, keep_name)
        if (interval_of := _OF_INTERVAL.fullmatch(text)) is not None and "," in text:
            return self.item(interval_of.group(1))
        if (point := _POINT.fullmatch(text)) is not None:
            return self.item(point.group(1))
        found = (
            read_quantity(text, self.item) or read_notation(text, self._formula) or read_words(text, self._formula)
        )
        return found or self._formula(text)

    def _formula(self, text: str) -> Reading:
        if text in ("\\infty", "+\\infty", "-\\infty"):
            return Reading("-oo" if text.startswith("-") else "oo")
        if text in ("\\mathbb{R}", "\\mathbb R"):
            return interval(Reading("-oo"), Reading("oo"), False, False)
        if (domain := _DOMAIN.fullmatch(text)) is not None:
            return Reading(f"text {domain[1]}", free=True)
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

    def _difference(self, text: str) -> Reading | None:
        parts = [part for _, part in split_outside(text, _DIFFERENCE)]
        if len(parts) < 2 or not all(parts):
            return None
        whole, *taken = [self.item(part) for part in parts]
        spans = [spans_of(one) for one in (whole, *taken)]
        if any(found is None for found in spans):
            return Reading(f"{whole.key} without {'; '.join(one.key for one in taken)}", free=True)
        return span_reading(functools.reduce(intersection, [complement(one) for one in spans[1:]], spans[0]))

    def _set(self, inner: str) -> Reading:
        if not inner:
            return Reading("{}")
        condition = split_outside(inner, re.compile(r"\||:"))
        if len(condition) == 2:
            name, _, domain = (side.strip() for side in condition[0][1].partition("\\in"))
            if not is_name(name):
                raise Unreadable("a set whose condition is about no name")
            found = self.answer(condition[1][1])
            real = re.sub(r"[{}\s]", "", domain) in ("", "\\mathbbR")
            return found if real else Reading(f"{found.key} in {domain}", free=True)
        return set_reading([self._member(part) for _, part in split_outside(inner, _COMMA) if part])

    def _member(self, part: str) -> Reading:
        """A set within a set is one member."""
        found = self.answer(part)
        inner = found.key == "{}" or (part.startswith("\\{") and part.endswith("\\}"))
        return Reading(f"set {found.key}", free=found.free) if inner else found

    def _matrix(self, text: str) -> Reading | None:
        """Round and square brackets are one; `vmatrix` is a determinant and left to algebra. A factor may stand
        before it; a system of equations is their list, and so are lines that are only lined up."""
        body = text.rstrip("()[]| ")
        match = _MATRIX.search(body) if "\\begin" in text else None
        if match is None or match.group(1) in ("vmatrix", "Vmatrix") or match.end() != len(body):
            return None
        factor = re.sub(r"\\(?:cdot|times)\s*$", "", text[: match.start()].strip("()[]| "))
        if RELATION.search(factor) or "\\begin" in factor:
            return None
        kind, inner = match.group(1), match.group(2).replace("\\hline", "")
        inner = inner.replace("&", "") if kind.startswith(_LINED_UP) else inner
        rows = [row.split("&") for row in _ROW_END.split(inner) if row.strip()]
        if kind.startswith(_LINED_UP) or all(len(row) == 1 and has_name(normalise(row[0])) for row in rows):
            return self.answer(", ".join(normalise(row[0]) for row in rows))
        cases, factor = kind.endswith("cases") or factor == "\\{", factor.removeprefix("\\{")
        if cases and not factor:
            rows = [[_CASE.sub("", cell) for cell in row] for row in rows]
        cells = [[self.item(_times(factor, cell)) for cell in row] for row in rows]
        keys = [", ".join(cell.key for cell in row) for row in cells]
        key = "; ".join(sorted(keys) if cases else keys)
        return Reading(f"matrix {key}", free=any(cell.free for row in cells for cell in row))


def _with_joints(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Every part with the separators before and behind it."""
    joints = [before for before, _ in parts[1:]] + [""]
    return [(part, f"{before} {behind}") for (before, part), behind in zip(parts, joints, strict=True)]


def _times(factor: str, cell: str) -> str:
    return cell if not factor else f"-({cell})" if factor == "-" else f"{factor}\\cdot ({cell})"


def _word_between(match: re.Match[str]) -> str:
    return f" {match.group(1) or {'wedge': 'and', 'vee': 'or'}[match.group(2)]} "


def _named(names: list[str], items: list[Reading]) -> Reading:
    """Values with names: single letters in their order are a tuple, all as they stand a list, indexed ones a set."""
    found, values = set_reading(items), [Reading(item.bare or item.key) for item in items]
    width = len(set(names))
    if width < len(names):  # `a=1, b=2, a=3, b=4` are two tuples
        rows = [values[at : at + width] for at in range(0, len(names), width)]
        periodic = len(names) % width == 0 and names == names[:width] * len(rows)
        return set_reading([Reading(_tuple(row)) for row in rows]) if periodic else found
    ordered = [value for _, value in sorted(zip(names, values, strict=True), key=lambda pair: pair[0])]
    in_order = ordered if all(len(name) == 1 for name in names) else values
    indexed = "_" in names[0] and len({name.partition("_")[0] for name in names}) == 1
    listed = "list " + "; ".join(value.key for value in values)
    return replace(
        found,
        bare=set_reading(values).key if indexed else None,
        also=(_tuple(in_order), listed),
        named=tuple(sorted(f"{name} = {value.key}" for name, value in zip(names, values, strict=True))),
    )


def _tuple(items: list[Reading]) -> str:
    return f"({'; '.join(item.key for item in items)})"


def _joined(sign: str, items: list[Reading]) -> Reading:
    """The union or the intersection of sets of real numbers; of others what they are, with the sign."""
    spans = [spans_of(item) for item in items]
    if any(found is None for found in spans):
        common = set_reading(items)
        return common if sign == "\\cup" else Reading(f"all of {common.key}", free=common.free)
    return span_reading(list(itertools.chain(*spans)) if sign == "\\cup" else functools.reduce(intersection, spans))


def _with_signs(text: str, signs: list[str], choice: tuple[str, ...]) -> str:
    pieces = re.split(r"\\(?:pm|mp)(?![a-zA-Z])", text)
    chosen = [sign if name == "\\pm" else "-+"[sign == "-"] for name, sign in zip(signs, choice, strict=True)]
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(pieces, chosen, fillvalue="")))
