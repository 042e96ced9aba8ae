"""Formulas as keys, with math-verify's LaTeX parser and sympy. Imported in the worker processes only.

What would keep sympy busy or eat the memory is refused before it computes: towers of powers, huge factorials."""

import hashlib
import math
import re
from fractions import Fraction

import sympy
from latex2sympy2_extended import latex2sympy
from sympy.core.function import AppliedUndef

from secateur.tasks.answers.numbers import number_key
from secateur.tasks.answers.record import Algebra, Reading, Unreadable, interval
from secateur.tasks.answers.text import matching

MAX_NUMBER_DIGITS = 20_000  # decimal digits of a number that is computed exactly
MAX_OPERATIONS = 150
MAX_LETTERS = 200
MAX_INTEGRALS = 2
_MAX_TOWER = 2  # powers of powers of powers
_MAX_TERMS = 1000  # of a written-out sum or product
_TOO_LARGE = "it stands for a number that is too large to compute"
DIGITS = 30  # of a key
_WORKING_DIGITS = 45
_ZERO = Fraction(1, 10**DIGITS)
_PLACES = ((1, 1), (-7, -10), (50, 100))  # (start, width): apart in sign and size, for |x| and rounded values
_MAX_DENOMINATOR = 10**10  # of a constant that is recognised as rational; 45 digits leave no doubt about those
_DECIMAL = re.compile(r"(?<!\d)(\d*)\.(\d+)")
_TOKEN = re.compile(r"\\text\{\s*([a-zA-Z])\s*\}|\\[a-zA-Z]+|[a-zA-Z]+|.", re.DOTALL)
_PLAIN_FUNCTIONS = (
    "arcsin", "arccos", "arctan", "sqrt", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc", "log",
    "ln", "exp", "pi",
)  # fmt: skip
_DEGREES = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*\^\\circ(?![a-zA-Z])")
_SIDE_BY_SIDE = re.compile(r"(?<![\d_^])\d+\s+\d")
_NO_MATHEMATICS = re.compile(
    r"\\(?:[hv]?phantom|[bx]?cancel|sout|not|tag|label|def|input|include)(?![a-zA-Z])|(?<=[\d)}])\s*'|"
    r"(?<![\^\d_.])\d+\s*_"  # the parser drops what stands below a number
)
_PRIMED = re.compile(r"(?<![a-zA-Z])([a-zA-Z])\s*(?:'+|\^\{?(?:\\prime\s*)+\}?)")
_DIFFERENTIATED = re.compile(r"\\i+nt(?![a-z])|\\frac\s*\{\s*d\s*[\^}]")
_DIFFERENTIAL = re.compile(r"(?<![a-zA-Z\\])d(?=\s*[a-z\\])")  # `d a` would be one, but here it is a product
_SHORT_BASE = re.compile(r"\\log\s*_\s*(10(?!\d)|\d)")  # TeX takes one digit, but nobody means base 1
_COMMAND = re.compile(r"\\(?!frac|sqrt|binom|text)[a-zA-Z]+")
_FACTOR = re.compile(r"(?<![\d._^])(\d+)\s*\(")


def check_text(text: str) -> None:
    """Raises `Unreadable` for a tower of powers, a factorial of a factorial, many integrals, or a long formula."""
    if (hidden := _NO_MATHEMATICS.search(text)) is not None:
        raise Unreadable(f"it holds '{hidden.group()}', which is no part of a formula")
    height = tallest = 0
    exponents: list[bool] = []
    for token in re.findall(r"\^\s*\{|\^|\{|\}", text):
        if token.endswith("{"):
            exponents.append(len(token) > 1)
        elif token == "}" and exponents:
            exponents.pop()
        height = sum(exponents) + (token == "^")
        tallest = max(tallest, height)
    if tallest > _MAX_TOWER or re.search(r"!\s*\)+\s*!|!\s*!", text):
        raise Unreadable(_TOO_LARGE)
    if len(re.findall(r"[-+*/^]|\\(?:frac|sqrt|cdot|times)", text)) > MAX_OPERATIONS:
        raise Unreadable("it has too many operations")
    letters = re.sub(r"\\[a-zA-Z]+", "", text)
    if sum(map(str.isalpha, letters)) > MAX_LETTERS or len(re.findall(r"\\i+nt(?![a-z])", text)) > MAX_INTEGRALS:
        raise Unreadable("it is too long a formula")


def check_size(expression: sympy.Basic) -> None:
    """Raises `Unreadable` if a number in it is too large, judged by logarithms and never by computing it."""
    if _log10(expression) > MAX_NUMBER_DIGITS:
        raise Unreadable(_TOO_LARGE)


def _log10(part: sympy.Basic) -> float:
    """About log10 of the largest numerator or denominator that computing `part` makes; infinite if out of reach."""
    inner = [_log10(argument) for argument in getattr(part, "args", ())]
    if max(inner, default=0.0) > MAX_NUMBER_DIGITS:
        return math.inf
    if part.is_Rational:
        return _digits(max(abs(part.p), part.q))
    if isinstance(part, sympy.Pow) and part.exp.is_number:
        return max(inner[0], 0.31) * _power_of_ten(inner[1]) if part.base.is_number else inner[1]
    if isinstance(part, (sympy.factorial, sympy.gamma, sympy.binomial)) and part.is_number:
        return max(1.0, max(inner)) * _power_of_ten(max(inner))
    if isinstance(part, (sympy.Sum, sympy.Product)) and max(inner[1:]) > math.log10(_MAX_TERMS):
        return math.inf
    return sum(inner)


def _digits(number: int) -> float:
    return math.log10(max(1, number))  # exact enough for integers of any size


def _power_of_ten(exponent: float) -> float:
    return 10.0**exponent if exponent < 300 else math.inf


def algebra() -> Algebra:
    return Algebra(read_value, read_relation)


def read_value(text: str) -> Reading:
    """The key of one formula."""
    expression = _parse(text)
    if isinstance(expression, sympy.Symbol) and expression.name != "i":
        return Reading(f"letter {expression.name}", free=True)
    values = [_evaluate(expression, point) for point in range(len(_PLACES) if _variables(expression) else 1)]
    keys = [_value_key(value) for value in values]
    if len(set(keys)) == 1:
        return Reading(_constant_key(expression, values[0]))
    return Reading("f " + " ".join(keys), free=True)


def read_relation(left: str, right: str, operator: str) -> Reading:
    """The key of `left operator right`: the values of the difference of both sides, up to a constant factor.

    The factor is free for an equation, positive for an inequality (whose greater side comes first). An inequality
    that is linear in its one variable is the interval that it says.
    """
    both = _both_cases(left + right)
    sides = [_parse(side, both) for side in ((right, left) if operator in ("<", "\\le") else (left, right))]
    difference = sides[0] - sides[1]
    if operator != "=" and (solved := _solved(difference, operator in ("\\le", "\\ge"))) is not None:
        return solved
    values = [_evaluate(difference, point) for point in range(len(_PLACES))]
    first = next((value for value in values if abs(value) > _ZERO), None)
    if first is None:
        raise Unreadable("both sides are the same")
    scale = first if operator == "=" else abs(first)
    kind = {"=": "=", "<": ">", ">": ">", "\\le": "≥", "\\ge": "≥"}[operator]
    return Reading(f"{kind} " + " ".join(_value_key(value / scale) for value in values), free=True)


def _solved(positive: sympy.Expr, closed: bool) -> Reading | None:
    """Where `positive` is above 0 (`closed`: or 0), if it is linear in one variable."""
    variables = _variables(positive)
    polynomial = positive.as_poly(variables[0]) if len(variables) == 1 else None
    if polynomial is None or polynomial.degree() != 1:
        return None
    slope, offset = (_evaluate(part, 0) for part in polynomial.all_coeffs())
    if slope.as_real_imag()[1] != 0 or offset.as_real_imag()[1] != 0:
        return None
    root = -polynomial.all_coeffs()[1] / polynomial.all_coeffs()[0]
    bound = Reading(_constant_key(root, _evaluate(root, 0)))
    if slope > 0:
        return interval(bound, Reading("oo"), closed, False)
    return interval(Reading("-oo"), bound, False, closed)


def _parse(text: str, both: set[str] | None = None) -> sympy.Expr:
    """`both`: the letters that the whole answer has in both cases; those of `text` if None."""
    check_text(text)
    spelled = _for_parser(text, _both_cases(text) if both is None else both)
    if _SIDE_BY_SIDE.search(spelled):
        raise Unreadable("numbers side by side without an operator")
    try:
        expression = latex2sympy(spelled, is_real=False, convert_degrees=True, normalization_config=None)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except Exception as error:  # the parser raises bare exceptions
        raise Unreadable(f"its LaTeX cannot be parsed ({str(error).splitlines()[0]})") from None
    check_size(expression)
    if isinstance(expression, sympy.MatrixBase):
        raise Unreadable("a matrix within a formula")
    expression = expression.doit()
    if not isinstance(expression, sympy.Expr) or expression.has(sympy.nan, sympy.zoo):
        raise Unreadable("it has no value")
    return expression.replace(lambda part: isinstance(part, AppliedUndef), lambda part: sympy.Symbol(str(part)))


def _both_cases(text: str) -> set[str]:
    letters = {letter for letter in re.sub(r"\\[a-zA-Z]+", "", text) if letter.isalpha()}
    return {letter for letter in letters if letter.isupper() and letter.lower() in letters}


def _for_parser(text: str, both: set[str]) -> str:
    """What the parser would misread, spelled out: decimals as fractions, arguments in braces, letters apart."""
    text = _PRIMED.sub(_primed, text)
    text = _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
    text = _SHORT_BASE.sub(r"\\log_{\1}", text)
    text = _DECIMAL.sub(lambda m: f"{{\\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}}}", text)
    spelled = "".join(_spelled(match, both) for match in _TOKEN.finditer(text))
    if not _DIFFERENTIATED.search(spelled):
        spelled = _DIFFERENTIAL.sub("{d}", spelled)
    spelled = _braced_exponents(_braced_arguments(spelled))
    return _FACTOR.sub(r"\1\\cdot (", spelled).replace("\\lg ", "\\log_{10} ")


def _primed(match: re.Match[str]) -> str:
    """A letter with primes as a variable of its own; the parser drops them."""
    primes = re.findall("'|prime", match.group())
    return f"{match.group(1)}_{{990{len(primes)}}}"


def _spelled(match: re.Match[str], both: set[str]) -> str:
    token = match.group(1) or match.group()
    if token.startswith("\\") or not token.isalpha():
        return token
    for name in _PLAIN_FUNCTIONS:
        if token.startswith(name):
            return f" \\{name} " + _letters(token[len(name) :], both)
    return _letters(token, both)


def _letters(token: str, both: set[str]) -> str:
    """Letters apart, in lower case; where an answer uses both cases, the upper one is a variable of its own."""
    return " ".join(f"{letter.lower()}_{{9999}}" if letter in both else letter.lower() for letter in token)


def _braced_arguments(text: str) -> str:
    """`\\frac12` and `\\sqrt3` with their arguments in braces."""
    pieces = re.split(r"(\\frac|\\sqrt|\\binom)(?![a-zA-Z])", text)
    rest = pieces[-1]
    for command, before in zip(pieces[-2::-2], pieces[-3::-2], strict=True):
        rest = before + command + _arguments(rest, 1 if command == "\\sqrt" else 2)
    return rest


def _braced_exponents(text: str) -> str:
    """`2^\\frac{1}{3}` and, as in code, `x^(1/3)`, with the exponent in braces."""
    pieces = _OPEN_EXPONENT.split(text)
    done = pieces[0]
    for opening, rest in zip(pieces[1::2], pieces[2::2], strict=True):
        end = matching(rest, 0)
        if end > 0 and opening.endswith("frac"):
            end = matching(rest, end + 1)
        done += f"^{{{opening[1:]}{rest[: end + 1]}}}{rest[end + 1 :]}" if end > 0 else opening + rest
    return done


_OPEN_EXPONENT = re.compile(r"(\^(?:\\frac|\\sqrt)(?=\{)|\^(?=\())")


def _arguments(text: str, count: int) -> str:
    done = ""
    if text.lstrip().startswith("[") and "]" in text:  # the degree of a root
        degree, _, text = text.partition("]")
        done = f"{degree}]"
    for _ in range(count):
        text = text.lstrip()
        if text.startswith(("(", "{")) and (end := matching(text, 0)) > 0:  # round ones as in code: sqrt(2)
            argument, text = text[1:end], text[end + 1 :]
        elif text.startswith(("{", "[")) or (text.startswith("\\") and not _COMMAND.match(text)):
            return done + text
        else:
            width = match.end() if (match := _COMMAND.match(text)) else 1
            argument, text = text[:width], text[width:]
        done += f"{{{argument}}}"
    return done + text


def _variables(expression: sympy.Expr) -> list[sympy.Symbol]:
    return sorted(
        (symbol for symbol in expression.free_symbols if symbol.name != "i"), key=lambda symbol: symbol.name
    )


def _evaluate(expression: sympy.Expr, point: int) -> sympy.Expr:
    """The complex value at a fixed point, to the working precision."""
    places = {symbol: _at(symbol.name, point) for symbol in _variables(expression)}
    imaginary_unit = {symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"}
    value = expression.xreplace(imaginary_unit).evalf(_WORKING_DIGITS, subs=places, maxn=400)
    if value in (sympy.oo, -sympy.oo):
        return value
    real, imaginary = value.as_real_imag()
    if not (real.is_Float or real.is_Rational) or not (imaginary.is_Float or imaginary.is_Rational):
        raise Unreadable("it has no value that can be computed")
    return value


def _at(name: str, point: int) -> sympy.Rational:
    """The value of a variable at a point: a fraction that depends on its name."""
    digest = int.from_bytes(hashlib.sha256(f"{point} {name}".encode()).digest()[:8], "big")
    start, width = _PLACES[point]
    return start + width * sympy.Rational(digest % 10**9, 10**9 + 7)


def _constant_key(expression: sympy.Expr, value: sympy.Expr) -> str:
    if expression.is_Rational:
        return number_key(Fraction(int(expression.p), int(expression.q)))
    if value in (sympy.oo, -sympy.oo):
        return str(value)
    real, imaginary = value.as_real_imag()
    if abs(imaginary) > _ZERO:
        return "c " + _value_key(value)
    exact = Fraction(sympy.Rational(real).p, sympy.Rational(real).q)
    near = exact.limit_denominator(_MAX_DENOMINATOR)
    if abs(exact - near) <= _ZERO * max(1, abs(near)) and abs(near) < _MAX_DENOMINATOR:
        return number_key(near)
    return "c " + _value_key(value)


def _value_key(value: sympy.Expr) -> str:
    if value in (sympy.oo, -sympy.oo):
        return str(value)
    real, imaginary = value.as_real_imag()
    parts = [sympy.Float(part, DIGITS) if abs(part) > _ZERO else sympy.Integer(0) for part in (real, imaginary)]
    return f"{parts[0]}" if parts[1] == 0 else f"{parts[0]}+{parts[1]}i"
