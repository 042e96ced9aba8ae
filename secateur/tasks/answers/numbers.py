"""Rational numbers as answers write them, read exactly: no floating point, so equality is equality."""

import hashlib
import re
from fractions import Fraction

_LONG_BITS = 10_000
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_SIMPLE = re.compile(rf"([+-]?)\s*({_DECIMAL})")
_REPEATING = re.compile(r"([+-]?)\s*(\d*)\.(\d*)(?:\\overline\s*\{\s*(\d+)\s*\}|\((\d+)\))")
_GROUP = r"(?:\{\s*([+-]?\s*" + _DECIMAL + r")\s*\}|(\d))"
_FRACTION = re.compile(rf"([+-]?)\s*(\d+(?!\d))?\s*\\frac\s*{_GROUP}\s*{_GROUP}")
_SLASH = re.compile(rf"([+-]?)\s*(?:(\d+)\s+)?({_DECIMAL})\s*/\s*({_DECIMAL})")
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s*(?:({_DECIMAL})\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*\^\s*(?:\{{\s*([+-]?\s*\d{{1,3}})\s*\}}|(\d))"
)
_EXPONENT = re.compile(rf"([+-]?)\s*({_DECIMAL})[eE]([+-]?\d{{1,3}})")
_THOUSANDS = re.compile(r"([+-]?)\s*(\d{1,3}(?:([ ,])\d{3})(?:\3\d{3})*(?:\.\d+)?)")


def read_number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number or number in scientific notation; else None.

    >>> read_number("1\\\\frac{4}{5}"), read_number("0.1\\\\overline{6}"), read_number("10,080")
    (Fraction(9, 5), Fraction(1, 6), Fraction(10080, 1))
    """
    text = text.strip()
    for pattern, value in _FORMS:
        if match := pattern.fullmatch(text):
            found = value(match)
            return None if found is None else -found if match.group(1) == "-" else found
    return None


def number_key(value: Fraction) -> str:
    """The key of an exact number; of a very long one a digest, because Python writes no such decimals."""
    if value.numerator.bit_length() + value.denominator.bit_length() < _LONG_BITS:
        return str(value)
    return "long " + hashlib.sha256(f"{value.numerator:x}/{value.denominator:x}".encode()).hexdigest()


def _mixed(match: re.Match[str]) -> Fraction | None:
    whole, numerator, short, denominator, short_denominator = match.group(2, 3, 4, 5, 6)
    return _with_whole(whole, numerator or short, denominator or short_denominator)


def _slash(match: re.Match[str]) -> Fraction | None:
    return _with_whole(*match.group(2, 3, 4))


def _with_whole(whole: str | None, numerator: str, denominator: str) -> Fraction | None:
    top, bottom = _exact(numerator), _exact(denominator)
    if bottom == 0 or (whole is not None and (top < 0 or bottom < 0)):
        return None
    return int(whole or 0) + top / bottom


def _scientific(match: re.Match[str]) -> Fraction:
    exponent = (match.group(3) or match.group(4)).replace(" ", "")
    return _exact(match.group(2) or "1") * Fraction(10) ** int(exponent)


def _repeating(match: re.Match[str]) -> Fraction:
    whole, fixed, period = match.group(2), match.group(3), match.group(4) or match.group(5)
    scale = 10 ** len(fixed)
    return (
        Fraction(int(whole or 0))
        + Fraction(int(fixed or 0), scale)
        + Fraction(int(period), scale * (10 ** len(period) - 1))
    )


def _exact(digits: str) -> Fraction:
    return Fraction(digits.replace(" ", "").removesuffix("."))


_FORMS = (
    (_SIMPLE, lambda match: _exact(match.group(2))),
    (_FRACTION, _mixed),
    (_SLASH, _slash),
    (_THOUSANDS, lambda match: _exact(match.group(2).replace(",", ""))),
    (_SCIENTIFIC, _scientific),
    (_EXPONENT, lambda match: _exact(match.group(2)) * Fraction(10) ** int(match.group(3))),
    (_REPEATING, _repeating),
)
