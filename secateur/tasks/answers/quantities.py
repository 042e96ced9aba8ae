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
MARKS = {"degree": "degree", "percent": "percent", "dollar": "dollar", "usd": "dollar", "buck": "dollar", "unit": ""}
"""Words, and what they mark: how a number is meant, not which number it is. `units` are any."""
_OTHER_UNITS = frozenset(
    """
    month year decade century am pm oz ounce lb pound ton tonne pint quart gallon euro eur penny pence yen rupee
    yuan rmb acre hectare joule kj ev kev mev cal kcal kwh newton kn watt kw mw volt ohm ampere amp hz khz mhz ghz
    rpm mol mole kelvin celsius fahrenheit pascal pa kpa atm bar db bit byte kb mb gb tb radian rad pt point nm µm
    ms ns °c kmh kph mph fps
    """.split()  # noqa: SIM905 - a list of a word a line would fill pages
)
_LETTER_UNITS = frozenset("mgshlLJNWVKA")  # a single letter behind a number; every other one is a variable
_SINGULAR_LOOK = frozenset(
    """
    people persons men women children feet teeth geese mice fish sheep deer dice cattle oxen in total each left
    altogether remaining old long tall high wide deep away apart ago overall
    """.split()  # noqa: SIM905 - a list of a word a line would fill pages
)
MULTIPLIERS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "score": 20, "gross": 144, "tens": 10, "lakh": 10**5, "crore": 10**7, "myriad": 10**4, "quadrillion": 10**15,
    "half": Fraction(1, 2), "halve": Fraction(1, 2), "third": Fraction(1, 3), "fourth": Fraction(1, 4),
    "quarter": Fraction(1, 4),
    "fifth": Fraction(1, 5), "sixth": Fraction(1, 6), "seventh": Fraction(1, 7), "eighth": Fraction(1, 8),
    "ninth": Fraction(1, 9), "tenth": Fraction(1, 10), "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1000),
}  # fmt: skip
NO_UNIT_WORDS = frozenset(
    """
    or nor and but not no none never isn't isnt is are was were be less more fewer greater larger smaller than at
    least most about approximately around roughly nearly almost maybe perhaps possibly probably either neither
    both between to through except without wrong false incorrect plus minus times divided over multiplied mod
    modulo squared cubed factorial power root reciprocal inverse negative double twice thrice always unless
    besides if when where otherwise versus vs this that its it as has does equals equal i e zero one two three
    four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety
    below above beneath under beyond off short lost owed owing debt loss too another other others alternative
    alternatives candidate candidates guess guesses bet bets untrue wrongs falses lies nothings nos ands ors
    buts rejects rejected impossible impossibles invalid excluded extraneous spurious discarded dismissed
    negations negatives opposites reciprocals inverses factorials doubles doubled tripled halved googols fails
    contradicts violates exceeds lacks misses differs varies seems looks appears becomes increases decreases
    grows shrinks overshoots undershoots repeats means implies suggests loses does goes says claims denies
    onwards upwards downwards afterwards backwards forwards cannot can't doesn't won't
    """.split()  # noqa: SIM905 - a list of a word a line would fill pages
)
"""Words that make another answer of a number, judge it, or go on with a sentence about it."""
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SPLIT = re.compile(r"\s*(/|\bper\b|\^\s*\{?\s*\d\s*\}?|[\s*]|\\cdot)\s*")


@dataclass(frozen=True)
class Unit:
    """`size` of the base unit `name`; no name for a `mark` such as `percent`, which is dropped."""

    name: str
    size: Fraction
    mark: str = ""


def read_unit(text: str, power: int = 1) -> Unit:
    """The unit a text names: `cm`, `square feet`, `km/h`, `miles per hour`; any other words are a unit of their own.

    `power` is an exponent written behind the text, as in `\\text{cm}^2`.
    """
    words = " ".join(text.lower().replace(".", "").split()).replace("per cent", "percent")
    if (mark := MARKS.get(_singular(words).removeprefix("square ").removeprefix("cubic "))) is not None:
        return Unit("", Fraction(1), mark)
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


def is_unit(text: str) -> bool:
    """Whether words behind a number are a unit, or name what was counted (`apples`, `cups of flour`).

    Units are a closed list, and so are the words that make another answer of a number (`or more`, `squared`, `plus
    one`); what was counted may be anything in the plural.
    """
    if text in _LETTER_UNITS:
        return True
    if text in ("times", "in"):
        return True
    text = text.replace("per cent", "percent")
    words = re.sub(r"[*/^]|\\cdot|-|\d", " ", text.lower().replace(".", "")).split()
    if len(words) > 1 and words[0] in ("more", "fewer"):  # 5 more apples, but not 5 or more
        words = words[1:]
    if not words or len(words) > _MAX_UNIT_WORDS or not _PLAIN.fullmatch(text):
        return False
    if _NUMBER_APART.search(text) or any(
        word not in "aA" and word not in _LETTER_UNITS for word in _ALONE.findall(text)
    ):
        return False
    if any(word in NO_UNIT_WORDS or word in MULTIPLIERS or _singular(word) in MULTIPLIERS for word in words):
        return False
    head = re.split(r" (?:per|of|in|a|an|for) ", f" {' '.join(words)} ")[0].split()
    return bool(head) and (known_unit(words[0]) or known_unit(head[-1]) or _plural(head[-1]))


_ALONE = re.compile(r"(?<![^\W\d_])(?<![.'’])[^\W\d_](?![^\W\d_])(?![.'’])")  # no letter of `p.m.` or `o'clock`
_NUMBER_APART = re.compile(r"(?<!of)(?<!per)(?<!in)\s\d")  # `groups of 5`, but not `point 5`
_MAX_UNIT_WORDS = 5
_PLAIN = re.compile(r"[^\W\d_][^\W_]*(?:(?:[ .'’/*^-]|\\cdot)+[^\W_]+)*\.?")


def known_unit(word: str) -> bool:
    """Whether a word is one of the units, or says which power of one."""
    plain = _singular(word.lower().replace(".", ""))
    units = _BY_SPELLING.keys() | MARKS.keys() | _OTHER_UNITS | _POWERS.keys()
    return word in _LETTER_UNITS if len(word) == 1 else word.lower() in units or plain in units


def _plural(word: str) -> bool:
    return word in _SINGULAR_LOOK or (len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")))


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word


Item = Callable[[str], Reading]
_BASE = re.compile(
    r"[({]?(-?\s*\d[0-9a-zA-Z]*)[)}]?\s*(?:_\s*(?:(\w)|\{(.*)\})|\\text\{\s*\(?(?:in )?(base ?\w*)\)?\s*\}\s*(\w*)$|"
    r"(?<=\d)\s*\(?(?:in )?(base \w+)\)?)"
)
_OF_BASE = re.compile(r"\\text|[{}()\s]|base")
_TEXT_UNIT = re.compile(r"(.*\S)(\s*)\\text\{([^{}]*)\}\s*(?:\^\s*\{?\s*(\d)\s*\}?)?")
_PLAIN_UNIT = re.compile(r"(.*[\d})])( ?)([a-zA-Z]+(?:/[a-zA-Z]+| [a-zA-Z]+)*)\s*(?:\^\s*\{?\s*(\d)\s*\}?)?")
_MONEY = re.compile(r"([+-]?)\s*(\\\$|€|£|¥)\s*")
_AMOUNT = re.compile(r"(?<=\d)\s*(?:\\text\{\s*)?(bn|[kKmMbBT])\s*\}?$")  # $42k, $1.5\text{M}
_MARK = re.compile(r"(.*[^%\\\s])\s*(\\%|%|\^\\circ)")
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
_BASE_NAMES |= {
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "sixteen": "16",
    "dec": "10",
    "oct": "8",
    "hex": "16",
    "bin": "2",
}


def read_quantity(text: str, item: Item) -> Reading | None:
    """A number with a mark or unit before or after it; `item` reads the number."""
    text = _TEXT_FRACTION.sub(r"\\text{\1/\2}", _TEXT_OVER_TEXT.sub(r"\\text{\1/\2}", text))
    if match := _MONEY.match(text):
        inner = item(match.group(1) + _AMOUNT.sub(_amount, text[match.end() :]))
        plain = match.group(2) == "\\$"
        return replace(inner, mark="dollar") if plain else Reading(f"{inner.key} {match.group(2)}", bare=inner.key)
    if (match := _MARK.fullmatch(text)) and not _ANGLE_FUNCTION.search(match.group(1)):
        return _with_unit(match.group(1), "degree" if match.group(2) == "^\\circ" else "percent", 1, item)
    if (match := _TEXT_UNIT.fullmatch(text)) and match.group(3).strip() and _NUMERIC.search(match.group(1)):
        return _with_words(match, item)
    match = _PLAIN_UNIT.fullmatch(text)
    if match and (match.group(2) or known_unit(re.split("[ /]", match.group(3))[0])) and len(match.group(3)) > 1:
        return _with_words(match, item)
    return None


def _with_words(match: re.Match[str], item: Item) -> Reading | None:
    """A number with a number word (`42 million`), a unit or both behind it; None for other words."""
    number, words = match.group(1), match.group(3).strip()
    if words.startswith("(") and words.endswith(")"):
        words = words[1:-1].strip()
    first, _, rest = words.partition(" ")
    factor = MULTIPLIERS.get(first.lower()) or MULTIPLIERS.get(_singular(first.lower()))
    if factor is not None and (value := _as_fraction(item(number).key)) is not None:
        scaled = str(value * factor)
        return item(f"{scaled} \\text{{{rest}}}" if rest else scaled)
    if not is_unit(words) and not (is_unit(words + "s") and item(number).key == "1"):
        return None
    if not known_unit(words.split()[0]) and item(number).key[0] in "([{":  # no number of things
        return None
    return _with_unit(number, words, int(match.group(4) or 1), item)


def _with_unit(number: str, unit_text: str, power: int, item: Item) -> Reading:
    unit, inner = read_unit(unit_text, power), item(number)
    value = _as_fraction(inner.key)
    if unit.mark == "percent" and value is not None and 0 <= value <= 100:
        return replace(inner, also=(number_key(value / 100),), mark=unit.mark)
    if not unit.name:
        return replace(inner, mark=unit.mark)
    if unit.size == 1:
        return Reading(f"{inner.key} {unit.name}", bare=inner.key, free=inner.free)
    size = f"\\frac{{{unit.size.numerator}}}{{{unit.size.denominator}}}"
    scaled = number_key(value * unit.size) if value is not None else item(f"{size}\\cdot ({number})").key
    return Reading(f"{scaled} {unit.name}", bare=inner.key, free=inner.free)


def _amount(match: re.Match[str]) -> str:
    """How amounts of money are shortened, spelled out."""
    letter = match.group(1)[0].lower()
    return " \\text{" + {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}[letter] + "}"


def read_notation(text: str, item: Item) -> Reading | None:
    """Numbers in a stated base, which say more than their value, and ratios; `item` reads digits that are letters.

    Whatever stands below a number, known or not, makes it another than that of the same digits in base ten.
    """
    if match := _BASE.fullmatch(text):
        base = _OF_BASE.sub("", "".join(filter(None, match.groups()[1:])))
        digits = match.group(1).replace(" ", "").upper()
        sign, digits = digits[: digits.startswith("-")], digits.lstrip("-0") or "0"
        base = _BASE_NAMES.get(base, base)
        plain = sign + digits if base == "10" else None
        alone = sign + digits if digits.isdecimal() else item(sign + digits).key
        return Reading(f"{sign}{digits} in base {base}", bare=plain, implied=(alone,))
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
    long = max(map(len, re.findall(r"[^\W\d_]+", plain))) > 3 and re.search("[aeiouAEIOU]|[^a-zA-Z ]", plain)
    return words_reading(text) if long else None


def words_reading(text: str) -> Reading:
    """The key of words, without case and full stops; of several that are missing, as `no solutions`, of one."""
    words = " ".join(re.sub(r"[\s.,]+", " ", _TEXT.sub(r" \1 ", text)).lower().split())
    return Reading("text " + (words.removesuffix("s") if words.startswith("no ") else words))


def _as_fraction(key: str) -> Fraction | None:
    return Fraction(key) if re.fullmatch(r"-?\d+(?:/\d+)?", key) else None
