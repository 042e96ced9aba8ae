"""Numbers with a mark or unit, numbers in a stated base, ratios, and words; units with their exact sizes."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from secateur.tasks.answers.numbers import number_key
from secateur.tasks.answers.record import Reading

_INCH = Fraction(254, 10_000)  # metres, by definition
_SIZES: dict[str, tuple[str, Fraction, str]] = {
    # name: (base unit, how many of it, spellings)
    "mm": ("m", Fraction(1, 1000), "mm millimeter millimetre"),
    "cm": ("m", Fraction(1, 100), "cm centimeter centimetre"),
    "dm": ("m", Fraction(1, 10), "dm decimeter decimetre"),
    "m": ("m", Fraction(1), "m meter metre"),
    "km": ("m", Fraction(1000), "km kilometer kilometre"),
    "in": ("m", _INCH, "in inch inches"),
    "ft": ("m", 12 * _INCH, "ft foot feet"),
    "yd": ("m", 36 * _INCH, "yd yard"),
    "mi": ("m", 63_360 * _INCH, "mi mile"),
    "mg": ("g", Fraction(1, 1000), "mg milligram"),
    "g": ("g", Fraction(1), "g gram"),
    "kg": ("g", Fraction(1000), "kg kilogram"),
    "ml": ("l", Fraction(1, 1000), "ml milliliter millilitre"),
    "l": ("l", Fraction(1), "l liter litre"),
    "s": ("s", Fraction(1), "s sec second"),
    "min": ("s", Fraction(60), "min minute"),
    "h": ("s", Fraction(3600), "h hr hour"),
    "day": ("s", Fraction(86_400), "day"),
    "week": ("s", Fraction(604_800), "week"),
    "cent": ("cent", Fraction(1), "cent"),
}
_BY_SPELLING = {word: (base, size) for base, size, words in _SIZES.values() for word in words.split()}
MARKS = {"degree", "percent", "dollar", "unit"}  # they say how a number is meant, not which number it is
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SPLIT = re.compile(r"\s*(/|\bper\b|\^\s*\{?\s*\d\s*\}?|[\s*]|\\cdot)\s*")


@dataclass(frozen=True)
class Unit:
    """`size` of the base unit `name`; no name for a mark such as `%`, which is dropped."""

    name: str
    size: Fraction
    percent: bool = False


def read_unit(text: str, power: int = 1) -> Unit:
    """The unit a text names: `cm`, `square feet`, `km/h`, `miles per hour`; any other words are a unit of their own.

    `power` is an exponent written behind the text, as in `\\text{cm}^2`.
    """
    words = " ".join(text.lower().replace(".", "").split())
    if _singular(words).removeprefix("square ").removeprefix("cubic ") in MARKS:
        return Unit("", Fraction(1), _singular(words) == "percent")
    powers: dict[str, int] = {}
    size, sign, next_power = Fraction(1), 1, power
    last: tuple[str, Fraction, int] | None = None
    for token in (part for part in _SPLIT.split(words.replace("mph", "mi/h")) if part and part.strip()):
        if token in ("/", "per"):
            sign = -1
        elif token in _POWERS:
            next_power = _POWERS[token]
        elif token.startswith("^") and last is not None:
            extra = int(re.sub(r"\D", "", token)) - 1
            base, factor, direction = last
            powers[base] += direction * extra
            size *= factor ** (direction * extra)
        elif (found := _BY_SPELLING.get(_singular(token)) or _BY_SPELLING.get(token)) is not None:
            base, factor = found
            powers[base] = powers.get(base, 0) + sign * next_power
            size *= factor ** (sign * next_power)
            last, next_power = (base, factor, sign), 1
        else:
            return Unit(_singular(words) + (f"^{power}" if power != 1 else ""), Fraction(1))
    name = " ".join(f"{base}^{exponent}" for base, exponent in sorted(powers.items()) if exponent)
    return Unit(name, size)


def known_unit(word: str) -> bool:
    """Whether a plain word behind a number is a unit beyond doubt; one letter may be a variable."""
    return len(word) > 1 and (word.lower() in _BY_SPELLING or _singular(word.lower()) in _BY_SPELLING.keys() | MARKS)


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word


Item = Callable[[str], Reading]
_BASE = re.compile(r"\(?([0-9a-zA-Z]+)\)?\s*_\s*(?:(\d)|\{\s*(\d+|\\text\{[a-z]+\})\s*\})")
_TEXT_UNIT = re.compile(r"(.*\S)\s*\\text\{([^{}]*)\}\s*(?:\^\s*\{?\s*(\d)\s*\}?)?")
_PLAIN_UNIT = re.compile(r"(.*[\d})])( ?)([a-zA-Z]+(?:/[a-zA-Z]+| [a-zA-Z]+)*)\s*(?:\^\s*\{?\s*(\d)\s*\}?)?")
_MONEY = re.compile(r"([+-]?)\s*(\\\$|€|£|¥)\s*")
_MARK = re.compile(r"(.*\S)\s*(\\%|%|\^\\circ)")
_TEXT_OVER_TEXT = re.compile(r"\\text\{([^{}]*)\}\s*/\s*\\text\{([^{}]*)\}")
_TEXT_FRACTION = re.compile(r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}\s*\}")
_RATIO = re.compile(r"(\d+)\s*:\s*(\d+)(\s*:\s*\d+)*")
_LETTER = re.compile(r"\(?\s*([a-zA-Z])\s*[).]?")
_WORDS = re.compile(r"[^\W\d_](?:[^\W_]|[ '’.,:&/?!-])*")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_NUMERIC = re.compile(r"\d|\\pi")
_ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_SHORT_WORDS = {
    "no",
    "yes",
    "odd",
    "red",
    "one",
    "two",
    "six",
    "ten",
    "dne",
    "all",
    "day",
    "sat",
    "sun",
    "mon",
    "not",
}
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "arcsin", "arccos", "arctan", "frac")
)
_FUNCTION = re.compile(rf"(?:{'|'.join(sorted(_FUNCTIONS, reverse=True))})(?![a-z]{{2}})")
_BASE_NAMES = dict(zip(["two", "three", "four", "five", "six", "seven", "eight", "nine"], "23456789", strict=True))


def read_quantity(text: str, item: Item) -> Reading | None:
    """A number with a mark or unit before or after it; `item` reads the number."""
    text = _TEXT_FRACTION.sub(r"\\text{\1/\2}", _TEXT_OVER_TEXT.sub(r"\\text{\1/\2}", text))
    if match := _MONEY.match(text):
        inner = item(match.group(1) + text[match.end() :])
        return inner if match.group(2) == "\\$" else Reading(f"{inner.key} {match.group(2)}", bare=inner.key)
    if (match := _MARK.fullmatch(text)) and not _ANGLE_FUNCTION.search(match.group(1)):
        return _with_unit(match.group(1), "degree" if match.group(2) == "^\\circ" else "percent", 1, item)
    if (match := _TEXT_UNIT.fullmatch(text)) and match.group(2).strip() and _NUMERIC.search(match.group(1)):
        return _with_unit(match.group(1), match.group(2), int(match.group(3) or 1), item)
    match = _PLAIN_UNIT.fullmatch(text)
    if match and _is_unit(match.group(3), bool(match.group(2))):
        return _with_unit(match.group(1), match.group(3), int(match.group(4) or 1), item)
    return None


def _with_unit(number: str, unit_text: str, power: int, item: Item) -> Reading:
    unit, inner = read_unit(unit_text, power), item(number)
    value = _as_fraction(inner.key)
    if unit.percent:
        return inner if value is None else replace(inner, fraction=number_key(value / 100))
    if not unit.name:
        return inner
    if unit.size == 1:
        return Reading(f"{inner.key} {unit.name}", bare=inner.key, free=inner.free)
    size = f"\\frac{{{unit.size.numerator}}}{{{unit.size.denominator}}}"
    scaled = number_key(value * unit.size) if value is not None else item(f"{size}\\cdot ({number})").key
    return Reading(f"{scaled} {unit.name}", bare=inner.key, free=inner.free)


def read_notation(text: str) -> Reading | None:
    """Numbers in a stated base, which say more than their value, and ratios."""
    if (match := _BASE.fullmatch(text)) and match.group(1)[0].isdigit():
        base = (match.group(2) or match.group(3)).removeprefix("\\text{").removesuffix("}")
        digits = match.group(1).upper().lstrip("0") or "0"
        return Reading(f"{digits} in base {_BASE_NAMES.get(base, base)}", bare=digits)
    if _RATIO.fullmatch(text):
        terms = [int(term) for term in text.split(":")]
        bare = number_key(Fraction(*terms)) if len(terms) == 2 and terms[1] else None
        return Reading(" : ".join(map(str, terms)), bare=bare)
    return None


def read_words(text: str, formula: Item) -> Reading | None:
    """Words, as against products of letters: anything in `\\text`, and runs of four letters or more with a vowel."""
    if match := _LETTER.fullmatch(text):
        letter = match.group(1).lower()
        return formula(letter) if letter in "ei" else Reading(f"letter {letter}", free=True)
    plain = _TEXT.sub(r"\1", text)
    letters = re.sub(r"\W", "", plain)
    if not _WORDS.fullmatch(plain.strip()) or len(letters) < 2 or _FUNCTION.match(plain):
        return None
    if "\\text{" in text or letters.lower() in _SHORT_WORDS:
        return words_reading(text)
    long = max(map(len, plain.split())) > 3 and re.search("[aeiouAEIOU]|[^a-zA-Z ]", plain)
    return words_reading(text) if long else None


def words_reading(text: str) -> Reading:
    """The key of words, without case and full stops."""
    return Reading("text " + " ".join(re.sub(r"[\s.,]+", " ", _TEXT.sub(r" \1 ", text)).lower().split()))


def _is_unit(words: str, after_blank: bool) -> bool:
    first = re.split(r"[ /]", words)[0]
    return known_unit(first) or (after_blank and len(first) > 3 and first not in _FUNCTIONS)


def _as_fraction(key: str) -> Fraction | None:
    return Fraction(key) if re.fullmatch(r"-?\d+(?:/\d+)?", key) else None
