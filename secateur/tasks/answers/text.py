"""Cleaning the text of an answer, without mathematics: one spelling for what LaTeX can spell in many ways."""

import re
import unicodedata

MAX_ANSWER_CHARS = 1000  # a longer "answer" is runaway text: equal to nothing but itself, and never parsed
MAX_DEPTH = 16  # brackets inside brackets; no real answer comes near, and parsers are slow or recursive beyond

FUNCTIONS = (
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc",
    "log", "ln", "lg", "exp",
)  # fmt: skip
_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "π": "\\pi ",
        "∞": "\\infty ", "°": "^\\circ ", "√": "\\sqrt ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "±": "\\pm ",
        "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∉": "\\notin ", "∅": "\\emptyset ", "∖": "\\setminus ",
        "ℝ": "\\mathbb{R}", "、": ",", "⟨": "(", "⟩": ")", "⁄": "/",
        "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}",
        "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ",
        "≈": "\\approx ", "≃": "\\approx ",
    }
)  # fmt: skip
_TEXT = (
    "text mbox textbf textrm textit texttt textnormal textsf textsc textup textsl textmd mathrm mathbf mathit mathsf "
    "mathtt mathnormal operatorname boldsymbol bm bold pmb"
)
_DROPPED = (
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr displaystyle textstyle limits nolimits "
    "mathopen mathclose mathbin mathrel mathord rm bf it underline uline emph ensuremath hbox mathstrut strut "
    "tiny small normalsize large Large LARGE huge Huge"
)
_BLANKS = "quad qquad thinspace enspace medspace thickspace nobreakspace space"
_RENAMED = {
    **dict.fromkeys(_TEXT.split(), "\\text"),
    **dict.fromkeys(_DROPPED.split(), ""),
    **dict.fromkeys(_BLANKS.split(), " "),
    **dict.fromkeys(["dfrac", "tfrac", "cfrac"], "\\frac"),
    **dict.fromkeys(["leq", "leqslant", "leqq"], "\\le"),
    **dict.fromkeys(["geq", "geqslant", "geqq"], "\\ge"),
    **dict.fromkeys(["varnothing", "O"], "\\emptyset"),
    **dict.fromkeys(["langle", "lparen"], "("),
    **dict.fromkeys(["rangle", "rparen"], ")"),
    **dict.fromkeys(["ngeq", "ngeqslant", "nge", "lt"], "<"),
    **dict.fromkeys(["nleq", "nleqslant", "nle", "gt"], ">"),
    **dict.fromkeys(["simeq", "doteq", "approxeq", "thickapprox"], "\\approx"),
    **dict.fromkeys(["backslash", "smallsetminus"], "\\setminus "),
    "neq": "\\ne", "nless": "\\ge", "ngtr": "\\le", "coloneqq": "=",
    "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[", "rbrack": "]",
    "degree": "^\\circ", "infinity": "\\infty", "colon": ":", "fbox": "\\boxed", "percent": "\\%", "dollar": "\\$",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "Vert": "\\|", "lVert": "\\|", "rVert": "\\|",
    "R": "\\mathbb{R}", "Z": "\\mathbb{Z}", "Bbb": "\\mathbb", "cr": "\\\\",
    "land": "\\wedge ", "lor": "\\vee ", "dot": "\\overline", "bar": "\\overline",
}  # fmt: skip
_COMMAND = re.compile(r"\\(?:([a-zA-Z]+)\*?|(.)|$)|\$", re.DOTALL)
_SYMBOLS = {"!": "", ",": " ", ";": " ", ":": " ", ">": " ", " ": " ", "\n": " ", "(": "", ")": "", "[": "", "]": ""}
_THOUSANDS_MARK = re.compile(r"(?<=\d),\s*\\![\s~]*(?=\d{3}(?!\d))|(?<=\d)\{,\}(?=\d{3}(?!\d))")
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))")
_WRAPPER = re.compile(r"\{|\\(?:text|boxed)\s*\{")
_LEADING_SPACE_IN_TEXT = re.compile(r"\\text\s*\{")
_UPRIGHT_FUNCTION = re.compile(rf"\\text\s*\{{\s*({'|'.join(FUNCTIONS)})\s*\}}")
_UPRIGHT_COMMAND = re.compile(r"\\text\s*\{\s*(\\(?:[a-z]+|\$))\s*\}")
_LONE_ARGUMENT = re.compile(r"\\text\s+([a-zA-Z\d])")  # TeX takes one sign where no brace opens
_RING = re.compile(r"(?<=\d)\s*[∘º˚]")
_COLOUR = re.compile(r"\\(?:text)?color(?:box)?\s*(?:\[[^\]]*\]\s*)?\{[^{}]*\}")
_EMPHASIS = re.compile(r"(\*\*|__|`|\*)((?:(?!\1).)+)\1", re.DOTALL)
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿⁱ]+")
_NEGATED = {"\\in": "\\notin ", "=": "\\ne ", "<": "\\ge ", ">": "\\le ", "\\le": ">", "\\ge": "<"}
_NEGATION = re.compile(r"\\not\s*(\\(?:in|le|ge)(?![a-zA-Z])|[=<>])")
_TYPED = {">=": "\\ge ", "<=": "\\le ", "==": "=", "!=": "\\ne ", ":=": "="}
_TYPED_RELATION = re.compile(r"[<>=:]=|(?<=[\sxyz])!=")  # right behind a number or a bracket, `!` is a factorial
_EDGES = re.compile(
    r"^(?:\{\}|\\\\|\\(?:therefore|implies|Longrightarrow|Rightarrow)(?![a-zA-Z])|\s)+|"
    r"(?:(?<![\w}\]])\{\}|(?<=[\d)])\{\}|\\\\|\\(?:checkmark|blacksquare|square|qed)(?![a-zA-Z])|\\text\{\s*\.?\s*\}|"
    r"[✓✔✅]|\s)+$"
)  # decoration
_SPACING = re.compile(r"\\[hv]space\*?\s*\{[^{}]*\}")
_NO_BRACKET = re.compile(r"\\(?:left|right)\s*\.(?!\d)")
_POWER = re.compile(r"(?<=[\w)}\]])\s*\*\*\s*(?=[\w({-])")
_REWRITTEN = (
    (re.compile(r"\{([-+])\}"), r"\1"),
    (re.compile(r"\^\s*([-+]\s*(?:\d+|[a-zA-Z]))"), r"^{\1}"),
    (re.compile(r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\(?:text\{\s*cis\s*\}|cis(?![a-z]))\s*([^+,;=]+)$"), r"e^{i(\1)}"),
    (re.compile(r"([a-zA-Z])\s*(?:\\text\{\s*in\s*\}|(?<=\s)in(?=\s))\s*(?=[\[(\]]|\\\{|\\mathbb)"), r"\1\\in "),
    (re.compile(r"(?<=[)\]])\s*(?:U|\\bigcup(?!\s*_))\s*(?=[(\[\]])"), r"\\cup "),
    (re.compile(r"\(\s*(\\approx[^()]*)\)$"), r"\1"),
    (re.compile(r"(\.\d*)\\overline\s+(\d)"), r"\1\\overline{\2}"),
)
"""Notations that are spelled in another way: `{-}5`, `10^-3`, `{n \\choose 2}`, `2 cis 30`, `x in [1,2]`,
`(1,2) U (3,4)`, `1/3 (\\approx 0.33)`, `0.\\dot3`."""
_MAY_BE_REWRITTEN = re.compile(r"\{[-+]|\^\s*[-+]|choose|cis|in[\s}]|U|cup|approx|overline")
_REPETEND = re.compile(r"\\overline\s*\{?\s*(\d)\s*\}?(\d*)\\overline\s*\{?\s*(\d)\s*\}?")


def normalise(answer: str) -> str:
    """One spelling of an answer: synonyms of commands, brackets and signs replaced; LaTeX spacing, `\\left`, `$`,
    wrappers as in `\\text{…}` and a final full stop gone. A runaway text is only stripped."""
    text = answer.strip()
    if len(text) > MAX_ANSWER_CHARS or (text.isascii() and text.isalnum()):
        return text
    if (whole := _EMPHASIS.fullmatch(text)) is not None:  # before a star is taken for that of a command
        text = whole.group(2)
    text = _THOUSANDS_MARK.sub("", _ascii(_RING.sub("°", text).translate(_UNICODE)))
    text = _POWER.sub("^", _NO_BRACKET.sub("", text))
    text = _COMMAND.sub(_rename, _SPACING.sub(" ", _COLOUR.sub("", text)))
    text = _LONE_ARGUMENT.sub(_braced_letter, text)
    text = _DEGREE.sub(r"^\\circ ", text.replace("~", " "))
    text = _UPRIGHT_COMMAND.sub(r"\1 ", text)
    text = _UPRIGHT_FUNCTION.sub(r"\\\1 ", _LEADING_SPACE_IN_TEXT.sub(r"\\text{", text))
    text = _NEGATION.sub(lambda match: _NEGATED[match.group(1)], text)
    text = _TYPED_RELATION.sub(lambda match: _TYPED[match.group()], text)
    for form, other in _REWRITTEN if _MAY_BE_REWRITTEN.search(text) else ():
        text = form.sub(other, text)
    text = _trim(_REPETEND.sub(r"\\overline{\1\2\3}", text))
    while inner := _unwrapped(text):
        text = _trim(inner)
    return text


def matching(text: str, opening: int) -> int:
    """Index of the bracket that closes the one at `opening`, or -1.

    Braces match braces; round and square ones match each other, as half-open intervals need. `\\{` is a brace of its
    own kind.
    """
    closers: list[str] = []
    index = opening
    while index < len(text):
        width = 2 if text[index] == "\\" else 1
        closer = _CLOSERS.get(text[index : index + width])
        if closer is not None:
            closers.append(closer)
        elif closers and text[index : index + width] in closers[-1].split():
            closers.pop()
            if not closers:
                return index
        index += width
    return -1


_CLOSERS = {"{": "}", "\\{": "\\}", "(": ") ]", "[": ") ]"}
_MAYBE_ENVIRONMENT = {"\\b", "\\e"}
_OPEN, _CLOSE = {"{", "\\{", "(", "["}, {"}", "\\}", ")", "]"}


def depths(text: str) -> list[int]:
    """For every character how many brackets and environments are open before it."""
    found, depth, index = [0] * len(text), 0, 0
    while index < len(text):
        width = 2 if text[index] == "\\" and index + 1 < len(text) else 1
        token = text[index : index + width]
        if token in _MAYBE_ENVIRONMENT:
            depth += text.startswith("\\begin{", index) - text.startswith("\\end{", index)
        depth -= token in _CLOSE
        found[index : index + width] = [depth] * width
        depth += token in _OPEN
        index += width
    return found


def split_outside(text: str, separator: re.Pattern[str]) -> list[tuple[str, str]]:
    """(separator before, part) of a text cut at every match of `separator` that no bracket encloses."""
    level = depths(text)
    parts, start, before = [], 0, ""
    for match in separator.finditer(text):
        if level[match.start()] == 0:
            parts.append((before, text[start : match.start()].strip()))
            start, before = match.end(), match.group().strip()
    return [*parts, (before, text[start:].strip())]


def unbalanced(text: str) -> bool:
    """Whether braces do not balance. Round and square brackets may not: `[1, 2)`."""
    depth = 0
    for token in re.findall(r"\\.|[{}]", text, flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return True
    return depth != 0


def braced(text: str, start: int) -> int:
    """The index of the brace that closes the one at `start`, or -1. One pass; hostile nesting costs no more."""
    first = text.find("}", start)
    if first < 0 or (text.rfind("{", start, first) == start and text.find("\\", start, first) < 0):
        return first  # most boxes: nothing in between opens or escapes a brace
    depth = 0
    for match in BRACES.finditer(text, start):
        if match.lastgroup == "opening":
            depth += 1
        elif match.lastgroup == "closing":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


BRACES = re.compile(r"\\.|(?P<opening>\{)|(?P<closing>\})", re.DOTALL)


def without_condition(text: str) -> tuple[str, list[str]]:
    """A formula without the condition on its letter behind it: `k\\in\\mathbb{Z}`, `where n is an integer`.

    A letter for any whole number is always `k` then. With it come the same formula in the other usual letters.

    >>> without_condition("n\\\\pi, n\\\\in\\\\mathbb{Z}")
    ('k\\\\pi', ['n\\\\pi', 'm\\\\pi'])
    """
    match = _CONDITION.match(text) or _CONDITION_IN_WORDS.match(text)
    if match is None:
        return text, []
    formula, letter = match.group(1), next(filter(None, match.groups()[1:]))
    others = [other for other in "knm" if other != letter and re.search(rf"(?<![a-zA-Z\\]){other}", formula)]
    if match.groups()[-1] in ("Q", "R") or "k" in others:
        return formula, []
    found = [re.sub(rf"(?<![a-zA-Z\\]){letter}(?![a-zA-Z])", each, formula) for each in "knm" if each not in others]
    return found[0], found[1:]


_BETWEEN = r"(?:\\text\{|[\s},])*"
_CONDITION = re.compile(
    r"(.*?[^\s,(])(?:\s*[,(]\s*|\s+|(?=\\text))(?:\\text\{\s*(?:where|for|with)?(?:\s*(?:all|any|every|some|each))?\s*\}\s*)?"
    r"([a-zA-Z])\s*\\in\s*\\(?:mathbb|text)\s*\{?\s*([ZNQR])\s*\}?(?:\s*\^?[*+])?\s*\)?$",
    re.DOTALL,
)
_CONDITION_IN_WORDS = re.compile(
    r"(.*?[^\s,(])[\s,(]*(?:\\text\{\s*)?"
    rf"(?:(?:where|for|with){_BETWEEN})?(?:(?:all|any|every|some|each|an){_BETWEEN})?"
    rf"(?:integers?{_BETWEEN}(?<![a-zA-Z])([a-zA-Z])|"
    rf"(?<![a-zA-Z\\])([a-zA-Z]){_BETWEEN}(?:is{_BETWEEN})?(?:(?:an|any){_BETWEEN})?integers?){_BETWEEN}\)?$",
    re.DOTALL,
)


def _ascii(text: str) -> str:
    """Digits of other scripts, full-width signs, raised digits and fractions of one sign, as ASCII spells them."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match.group()).replace('−', '-')}}}", text)
    return "".join(letter if letter.isascii() else _spelled(letter) for letter in text)


def _spelled(letter: str) -> str:
    if unicodedata.category(letter) == "Cf":  # zero-width blanks, marks of direction, soft hyphens
        return ""
    plain = unicodedata.normalize("NFKC", letter)
    numerator, slash, denominator = plain.partition("⁄")
    if slash:
        return f"\\frac{{{numerator}}}{{{denominator}}}"
    value = unicodedata.decimal(letter, None)
    return plain if value is None else str(value)


def _rename(match: re.Match[str]) -> str:
    name, symbol = match.group(1), match.group(2)
    if name is not None:
        return _RENAMED.get(name, f"\\{name}") + ("" if match.string[match.end() : match.end() + 1] in "{([" else " ")
    return "" if symbol is None else _SYMBOLS.get(symbol, f"\\{symbol}")


def _braced_letter(match: re.Match[str]) -> str:
    sign = match.group(1)
    return sign if sign.isdecimal() else f"\\text{{{sign}}}"


def _trim(text: str) -> str:
    text = _EDGES.sub("", re.sub(r"\s+", " ", text).strip())
    return text[:-1].strip() if text.endswith((".", ",", ";")) and not text.endswith("..") else text


def _unwrapped(text: str) -> str | None:
    """What is inside braces, `\\text{…}`, `\\boxed{…}` or marks of emphasis that hold the whole text."""
    if (emphasised := _EMPHASIS.fullmatch(text)) is not None:
        return emphasised.group(2)
    match = _WRAPPER.match(text)
    if match is None or braced(text, match.end() - 1) != len(text) - 1:
        return None
    return text[match.end() : -1] or None
