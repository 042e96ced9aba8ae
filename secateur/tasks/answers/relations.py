"""Equations and inequalities: names before a value, sets of real numbers, and what is left for algebra."""

import math
import re
import string
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

from secateur.tasks.answers.numbers import number_key
from secateur.tasks.answers.record import Algebra, Reading, Unreadable, interval, set_reading
from secateur.tasks.answers.text import matching, split_outside

RELATION = re.compile(r"\\(?:le|ge|ne|in|notin|approx)(?![a-zA-Z])|[=<>]")
_INDEX = r"(?:\s*_\s*(?:\w|\\[a-z]+\s*|\{(?:[^{}]|\{[^{}]*\})*\}))"
_NAME = re.compile(rf"(?:\\?[a-zA-Z]+|\\text\{{[^{{}}]*\}})'?{_INDEX}?\s*(?:\([a-zA-Z0-9, ]*\))?")
_LABEL = re.compile(
    r"(?:m ?)?(?:\\(?:angle|triangle|overline|vec|hat|widehat|tilde|overrightarrow|deg|det|arg)\s*)?"
    r"\{?\s*[A-Za-z]+\s*\}?"
)
_LENGTH = re.compile(
    r"\\?\|\s*(?:\\(?:overline|vec)\s*)?\{?\s*(?:[A-Z]+|[a-wz])\s*\}?\s*\\?\|"
)  # |x| = 2 is to be solved
_AREA = re.compile(r"\[\s*[A-Z]{3,}\s*\]")
_RATIO_OF_NAMES = re.compile(r"[^:]+(?::[^:]+)+")
_CALLED = re.compile(
    r"(?:(?<![a-zA-Z])[fghpqEFGHPTV]|\\(?:Pr|gcd|max|min|deg|dim|det|phi|varphi|text\{[^{}]*\}|mathbb\{[EP]\}))"
    r"(?:'|_\w|_\{[^{}]*\}|\^\{?-1\}?|\^\{\(\d+\)\})*\s*(?=\()"
)
_ANGLE = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc)(?:\s*\^\{?2\}?)?\s*[({]?\s*\d*(?:\\angle\s*)?"
    r"(?:[A-Z]{1,3}|\\(?!pi(?![a-z])|frac)[a-z]+|\\frac\{(?:[A-Z]|\\(?!pi(?![a-z]))[a-z]+)\s*\}\{\d\})\s*[)}]?"
)
_IN_WORDS = re.compile(r"(?:[a-zA-Z]+|\\text\{[^{}]*\}|\\(?:triangle|angle|overline)\s*\{?[A-Z]+\}?|\s)+")
_DENIED = re.compile(r"(?<![a-z])(?:not|no|never|neither|nor|isn.t|wrong|false|incorrect|without|or)(?![a-z])", re.I)
_GREEK = r"(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|psi|omega)"
_VARIABLE = re.compile(rf"(?:\\{_GREEK}|[a-zA-Z]){_INDEX}?")
_NO_VARIABLE = re.compile(rf"\\(?!{_GREEK}(?![a-z]))[a-z]+(?!_)")
_MATRIX_NAME = re.compile(r"[A-Za-z]+(?:\^(?:\w|\{[^{}]*\}))?")
_EXTREME = re.compile(r"([a-zA-Z])\s*_\s*\{?\s*(?:\\text\{|\\)?(max|min)\s*\}*")
_COORDINATE = rf"(?:[a-zA-Z]|\\{_GREEK}\s*){_INDEX}?"
_NAMES = re.compile(rf"\(\s*{_COORDINATE}(?:\s*,\s*{_COORDINATE})*\s*\)")
_OPERATED = re.compile(  # over a function or a sequence that is not known: `\lim_{x\to 0} f(x)`, `\sum a_i`
    r"\\(?:lim|int|sum|prod|max|min|sup|inf)(?![a-z]).*?"
    r"(?:(?<![a-zA-Z\\])[fghFGH](?:'|_\w)*\s*(?:[(\\}]|$)|(?<![a-zA-Z\\])[a-zA-Z]\s*_\s*\{?\s*[ijkn])"
)
_DISTANCE = re.compile(r"\|\s*(?:(\d*)\s*[a-z]\s*([+-][^|]*)?|([^|]*[^|\s])\s*-\s*(\d*)\s*[a-z])\s*\|")
_CHOICE = re.compile("[A-J]")  # `A=B` states neither
_COMPUTED = re.compile(r"\\(?:gcd|max|min)\s*\([^a-zA-Z]*\)")
_SHORT_NAMES = ("max", "min", "sum", "ans", "avg", "gcd", "lcm", "hcf", "det", "deg", "dim", "arg", "lhs", "rhs")
_DECIMAL = re.compile(r"-?\d+\.?(\d*)|-?\.(\d+)")
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
    if not sides[0] and operators[0] in ("=", "\\approx"):
        return reader.answer(sides[1]) if len(sides) == 2 else read_relation(reader, parts[1:], keep_name)
    if len(sides) == 2 and operators[0] in _FLIPPED and not sides[0]:
        sides[0] = "x"  # only the bound is stated
    if not all(sides):
        raise Unreadable("a relation with nothing on one side")
    if "\\approx" in operators:
        return _approximation(reader, operators, sides, keep_name)
    if set(operators) == {"="}:
        return _equation(reader, sides, keep_name)
    if operators in (["\\in"], ["\\notin"]):
        return _membership(reader, sides[0], operators[0], sides[1])
    if operators == ["\\ne"]:
        return _unequal(reader, *sides)
    if len(operators) == 1:
        return _inequality(reader, sides[0], operators[0], sides[1])
    rising = set(operators) <= {"<", "\\le"}
    if len(operators) != 2 or not (rising or set(operators) <= {">", "\\ge"}) or not _NAME.fullmatch(sides[1]):
        raise Unreadable("a chain of relations that bounds no single variable")
    if not rising:
        sides, operators = sides[::-1], [_FLIPPED[operator] for operator in operators[::-1]]
    low, high = reader.item(sides[0]), reader.item(sides[2])
    return interval(low, high, operators[0] == "\\le", operators[1] == "\\le")


def _equation(reader: Reader, sides: list[str], keep_name: bool) -> Reading:
    """The value on the right, of which names and expressions without a value may stand on the left."""
    if len(sides) == 2 and is_name(sides[1]) and not is_label(sides[0]):
        sides = sides[::-1]
    *heads, right = sides
    if all(_CHOICE.fullmatch(side) for side in sides):
        return reader.algebra.relation(heads[0], right, "=")
    value = reader.answer(right)
    if len(heads) == 1 and _NAMES.fullmatch(heads[0]) and value.key[0] == "(":
        return _named_tuple(heads[0], value)
    formulas = [head for head in heads if not _agrees(reader, head, value)]
    if not value.free:
        if keep_name and is_name(heads[0]):
            return Reading(f"{re.sub(r'[{} ]', '', heads[0])} = {value.key}", bare=value.key)
        if not formulas:
            return value
        several = all(len(unknowns(head)) > 1 for head in formulas)
        stated = reader.algebra.relation(formulas[0], right, "=")
        return replace(stated, bare=value.key if several else None, whole=several)
    if keep_name and is_name(heads[0]):
        return Reading(f"{re.sub(r'[{} ]', '', heads[0])} = {value.key}", bare=value.key, free=True)
    if "\\text" in heads[0] or (is_label(heads[0]) and not is_name(heads[0])):
        return value
    if (extreme := _EXTREME.fullmatch(heads[0])) is not None:
        shorter = reader.algebra.relation(extreme[1], right, "=").key  # whose extreme value was asked for is known
        return Reading(f"{extreme[1]}_{extreme[2]} = {value.key}", bare=value.key, also=(shorter,), free=True)
    if is_name(heads[0]) and "\\" in heads[0]:
        return Reading(f"{re.sub(r'[{} ]', '', heads[0])} = {value.key}", bare=value.key, free=True)
    return replace(reader.algebra.relation(heads[0], right, "="), bare=value.key if is_name(heads[0]) else None)


def _named_tuple(names: str, value: Reading) -> Reading:
    """A tuple whose values have names. Letters that follow each other in the alphabet are put in order:
    `(y,x)=(1,2)` says `(2,1)`."""
    letters = re.findall(_COORDINATE, names[1:-1])
    values = [part for _, part in split_outside(value.key[1:-1], re.compile("; "))]
    if len(letters) != len(values):
        return value
    pairs = sorted(zip(letters, values, strict=True))
    named = tuple(f"{letter} = {part}" for letter, part in pairs)
    if "".join(letter for letter, _ in pairs) not in string.ascii_lowercase or value.key[-1] != ")":
        return replace(value, named=named)
    return replace(value, key=f"({'; '.join(part for _, part in pairs)})", named=named)


def unknowns(head: str) -> set[str]:
    """The letters of a left side, and the values of functions in it: `\\alpha+\\beta`, `f(1)+f(2)`."""
    found = set()
    while (call := _CALLED.search(head)) is not None and (end := matching(head, call.end())) > 0:
        found.add(head[call.start() : end + 1])
        head = f"{head[: call.start()]} {head[end + 1 :]}"
    return found | set(_VARIABLE.findall(_NO_VARIABLE.sub("", head)))


def _agrees(reader: Reader, head: str, value: Reading) -> bool:
    """Whether a left side only names the value or repeats it; raises `Unreadable` if it has another one."""
    if is_label(head) or (value.key.startswith("matrix") and _MATRIX_NAME.fullmatch(head)):
        return True
    found = reader.item(head)
    if found.free:
        return found.key == value.key
    if value.free or found.key in (value.key, value.bare, *value.also) or value.key in (found.bare, *found.also):
        return not value.free
    raise Unreadable("it says that two different values are equal")


def _approximation(reader: Reader, operators: list[str], sides: list[str], keep_name: bool) -> Reading:
    """The exact value, if there is one before the sign, else the approximate one behind it."""
    cut = operators.index("\\approx") + 1
    if cut != len(operators):
        raise Unreadable("an approximation in the middle")
    near = reader.item(sides[cut])
    if all(map(is_label, sides[:cut])):
        return near
    exact = reader.item(sides[0]) if cut == 1 else _equation(reader, sides[:cut], keep_name)
    if exact.free:
        return _equation(reader, [*sides[:cut], sides[cut]], keep_name)
    true, stated = place(exact.bare or exact.key), place(near.bare or near.key)
    form = _DECIMAL.match(re.sub(r"\\\$|[, ]", "", sides[cut]))
    digits = len(form.group(1) or form.group(2) or "") if form else 0
    if true is None or stated is None or form is None or not _rounded(true, stated, digits):
        raise Unreadable("its approximation is not one of its value")
    plain = _DECIMAL.fullmatch(sides[cut - 1]) is not None
    return exact if plain else replace(exact, also=(*exact.also, near.key))


def _rounded(true: float | Fraction, stated: float | Fraction, digits: int) -> bool:
    """Whether `stated` is `true` with so many decimals, rounded or cut off."""
    unit, apart = Fraction(1, 10**digits), abs(true - stated)
    return apart <= unit / 2 or (apart < unit and abs(stated) < abs(true))


def _membership(reader: Reader, left: str, operator: str, right: str) -> Reading:
    if not is_name(left) and not _NAMES.fullmatch(left):
        raise Unreadable("a value that is said to lie in a set")
    found = reader.answer(right)
    if operator == "\\in":
        return found
    spans = spans_of(found)
    return Reading(f"not in {found.key}", free=found.free) if spans is None else span_reading(complement(spans))


def _unequal(reader: Reader, left: str, right: str) -> Reading:
    """All real numbers but one, or the statement about two formulas."""
    if is_name(right) and not is_name(left):
        left, right = right, left
    bound = reader.item(right)
    if is_name(left) and (spans := spans_of(bound)) is not None:
        return span_reading(complement(spans))
    first, second = sorted((reader.item(left).key, bound.key))
    return Reading(f"{first} ≠ {second}", free=True)


def _inequality(reader: Reader, left: str, operator: str, right: str) -> Reading:
    if is_name(right) and not is_name(left):
        left, operator, right = right, _FLIPPED[operator], left
    if _DISTANCE.fullmatch(right):
        left, operator, right = right, _FLIPPED[operator], left
    bound = reader.item(right)
    if not is_name(left) or bound.free:
        stated, solved = reader.algebra.relation(left, right, operator), _distance(reader, left, operator, bound)
        return stated if solved is None else replace(stated, implied=(solved.key,))
    closed = operator in ("\\le", "\\ge")
    if operator in ("<", "\\le"):
        return interval(Reading("-oo"), bound, False, closed)
    return interval(bound, Reading("oo"), closed, False)


def _distance(reader: Reader, left: str, operator: str, bound: Reading) -> Reading | None:
    """What `|x-4|<1` comes to; None where `left` is not the distance of one variable from a number. It is still to be
    solved, so an answer that repeats it is not its solution."""
    form, radius = _DISTANCE.fullmatch(left), place(bound.key)
    shift = place(reader.item(form[2] or form[3] or "0").key) if form else None
    if form is None or not isinstance(radius, Fraction) or not isinstance(shift, Fraction) or radius <= 0:
        return None
    factor = int(form[1] or form[4] or 1)
    if factor == 0:
        return None
    middle, reach, closed = (shift if form[3] else -shift) / factor, radius / factor, operator in ("\\le", "\\ge")
    low, high = (Reading(number_key(end)) for end in (middle - reach, middle + reach))
    if operator in ("<", "\\le"):
        return interval(low, high, closed, closed)
    return span_reading(complement([Span(low, high, not closed, not closed)]))


def is_name(text: str) -> bool:
    constants = ("\\pi", "\\infty", "e", "i", "\\emptyset")
    return bool(_NAME.fullmatch(text)) and text not in constants and not (_DENIED.search(text) or _is_product(text))


def _is_product(text: str) -> bool:
    """Whether small letters are variables side by side (`xy`, `abc`), not a word or a length such as `AB`."""
    return 1 < len(text) < 4 and text.isalpha() and text.islower() and text not in _SHORT_NAMES


def is_label(text: str) -> bool:
    """Whether a left side says what the value is of, and has none itself: `x`, `f(g(2))`, `|AB|`, `S_1:S_2`."""
    text = text.strip()
    if (
        _COMPUTED.fullmatch(text)
        or _DENIED.search(text)
        or text in ("\\pi", "\\infty", "e", "i", "\\emptyset")
        or _is_product(text)
    ):
        return False
    if any(form.fullmatch(text) for form in (_NAME, _NAMES, _LABEL, _LENGTH, _AREA, _ANGLE, _IN_WORDS)):
        return True
    if _OPERATED.match(text):
        return True
    if (call := _CALLED.match(text)) is not None and matching(text, call.end()) == len(text) - 1:
        return True
    if text.startswith("\\frac{") and (middle := matching(text, 5)) > 0 and text[middle + 1 : middle + 2] == "{":
        above, below = text[6:middle], text[middle + 2 : -1]
        variables = len(above) == len(below) == 1  # x/y = 2 is an equation
        return matching(text, middle + 1) == len(text) - 1 and not variables and is_label(above) and is_label(below)
    return bool(_RATIO_OF_NAMES.fullmatch(text)) and all(map(is_label, text.split(":")))


def has_name(part: str) -> bool:
    """Whether a text is of the form `name = …`."""
    name, equals, _ = part.partition("=")
    return bool(equals) and is_name(name.strip())


@dataclass(frozen=True)
class Span:
    """The real numbers between two ends; a single number has both ends in it."""

    low: Reading
    high: Reading
    left_closed: bool
    right_closed: bool

    @property
    def start(self) -> tuple[float | Fraction, bool]:
        return _known(self.low.key), not self.left_closed

    @property
    def end(self) -> tuple[float | Fraction, bool]:
        return _known(self.high.key), self.right_closed

    @property
    def empty(self) -> bool:
        return self.start[0] > self.end[0] or (
            self.start[0] == self.end[0] and not (self.left_closed and self.right_closed)
        )


_SPAN = re.compile(r"([\[(])([^;()\[\]]+); ([^;()\[\]]+)([\])])")


def place(key: str) -> float | Fraction | None:
    """Where a key lies on the real line; None if it is not a real constant."""
    if key in ("oo", "-oo"):
        return math.inf if key == "oo" else -math.inf
    match = re.fullmatch(r"(?:c )?(-?\d+(?:/\d+|\.\d+(?:[eE][+-]?\d{1,3})?)?)", key)
    return None if match is None else Fraction(match.group(1))


def _known(key: str) -> float | Fraction:
    found = place(key)
    assert found is not None
    return found


def spans_of(reading: Reading) -> list[Span] | None:
    """A set of real numbers as its spans; None if it is anything else."""
    spans = []
    for key in () if reading.key == "{}" else reading.members or (reading.key,):
        match = _SPAN.fullmatch(key)
        opening, low, high, closing = match.groups() if match else ("[", key, key, "]")
        if place(low) is None or place(high) is None:
            return None
        spans.append(Span(Reading(low), Reading(high), opening == "[", closing == "]"))
    return spans


def span_reading(spans: list[Span]) -> Reading:
    """One reading for all spellings of a set of real numbers: those that touch are joined."""
    joined: list[Span] = []
    for span in sorted((span for span in spans if not span.empty), key=lambda span: (span.start, span.end)):
        apart = not joined or span.start[0] > joined[-1].end[0]
        if not apart and span.start[0] == joined[-1].end[0]:
            apart = not (span.left_closed or joined[-1].right_closed)
        if apart:
            joined.append(span)
        elif span.end > joined[-1].end:
            joined[-1] = Span(joined[-1].low, span.high, joined[-1].left_closed, span.right_closed)
    return set_reading([_one_span(span) for span in joined]) if joined else Reading("{}")


def _one_span(span: Span) -> Reading:
    return span.low if span.low == span.high else interval(span.low, span.high, span.left_closed, span.right_closed)


def intersection(first: list[Span], second: list[Span]) -> list[Span]:
    found = []
    for a in first:
        for b in second:
            low, high = max(a, b, key=lambda span: span.start), min(a, b, key=lambda span: span.end)
            found.append(Span(low.low, high.high, low.left_closed, high.right_closed))
    return [span for span in found if not span.empty]


def complement(spans: list[Span]) -> list[Span]:
    """The real numbers that are in none of the spans."""
    rest = [Span(Reading("-oo"), Reading("oo"), False, False)]
    for span in spans:
        below = Span(Reading("-oo"), span.low, False, not span.left_closed)
        above = Span(span.high, Reading("oo"), not span.right_closed, False)
        rest = intersection(rest, [below, above])
    return rest
