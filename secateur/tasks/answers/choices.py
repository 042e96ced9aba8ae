"""Which letter an answer states as its choice, and the words that only say that something is an answer."""

import re
from collections.abc import Callable

from secateur.tasks.answers.quantities import words_reading
from secateur.tasks.answers.record import Reading, Unreadable
from secateur.tasks.answers.text import normalise

_TITLES = (
    "answer|ans|result|solution|total|sum|product|value|number|area|volume|perimeter|length|distance|probability|"
    "maximum|minimum"
)
_STATING = re.compile(
    rf"(?:\s*(?:(?:so|thus|hence|therefore)\b,?|(?:the|final|correct|right|{_TITLES}|option|choice|is)\b|"
    r"(?<=ans)\.|:|=|\}|\\text\s*\{))*\s*",
    re.I,
)
_STATED = re.compile(
    rf"\b(?:(?:{_TITLES})\b.*(?:is\b|:|=)|ans\.|option\b|choice\b)|^(?:\\text\s*\{{)?\s*(?:so|thus|hence|therefore)\b",
    re.I,
)
_LETTER = re.compile(
    r"\(\s*([A-J])\s*\)|(?<![\w\\'])([A-J])\s*[.:)](?!\w)|"
    r"(?<![\w\\'])([A-J])"
    r"(?=\s+[-–]\s+[a-zA-Z]|\s+is (?:the )?(?:correct|right|true)|\s*,\s+not\s|\s+\([^()]*[a-zA-Z]{2}|\s*$)"
)
_NAMED = re.compile(  # an option that ends in a letter: `(B) Vitamin C`
    r"[\s.:)–-]*(?:(?:the|a|an|blood|only)\s+)?(?:vitamin|hepatitis|group|plan|point|type|class|grade|model|figure|"
    r"graph|diagram|table|section|line|city|town|country|company|store|shop|school|factory|player|team|student|car|"
    r"train|bus|machine|box|bag|urn|jar|container|tank|substance|compound|element|sample|species|process|method|"
    r"experiment|program|angle|side|vertex|triangle|circle|square|house|room|worker|event)\s+[A-J]\s*\.?",
    re.I,
)
_FORMULA_BEHIND = re.compile(r"\s*(?:[+*/^_!=<>]|\((?![A-J]\)))|(?:-\s*|\s+-\s+)[\d\\(]")
_BETWEEN = re.compile(r"^(?:\s|[:.,]|[-–](?=\s|[a-zA-Z]))+")  # a dash before a number is its sign
_DENIED_BEFORE = re.compile(
    r"\b(?:not|never|isn.t|neither|nor|except|(?:all|any|anything|everything|each) but|exclude|eliminate|reject|"
    r"discard|cannot be|rules? out)\s*(?:option|choice)?\s*\(?$",
    re.I,
)
_WRONG = r"(?:wrong|false|incorrect|untrue|invalid|impossible|excluded|eliminated|rejected|discarded|ruled)\b"
_DENIED_BEHIND = re.compile(  # an option itself may be `No` or `cannot be determined`
    rf"[\s):,–-]*(?:which\s+)?"
    rf"(?:(?:is|are|was|were|must|can|has been|gets)\b[^,;.]*?(?:\bnot\b|n.t\b|\bout\b|{_WRONG})|"
    rf"\(?(?:isn.t|doesn.t|does not|won.t|fails?|contradicts|(?:cannot|can.t) be (?:it|so|right|correct|true))\b|"
    rf"\(?(?-i:no\b|not\b|false\b|{_WRONG})(?:\s+out)?\)?\s*$)",
    re.I,
)
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")


def read_choice(text: str, answer: Callable[[str], Reading]) -> Reading | None:
    """The one letter that a text states as its choice, with the words or the value that it puts behind it,
    which `answer` reads."""
    plain = _TEXT.sub(r" \1 ", text).strip()
    found = _marks(plain)
    marks = [mark for mark in found if not _denied(plain, mark)]
    if found and not marks:
        return words_reading(plain)
    letters, ruled_out = _letters(marks), _letters([mark for mark in found if mark not in marks])
    if letters & ruled_out:
        return words_reading(plain)
    if len(letters) != 1 or any(mark.group(3) for mark in marks[1:]):
        return None
    letter, behind = letters.pop(), plain[marks[0].end() :]
    reading = Reading(f"letter {letter.lower()}", free=True)
    if len(found) > len(marks):  # others were ruled out
        return reading
    if marks[0].start() > 0 or (not marks[0].group(3) and _FORMULA_BEHIND.match(behind)):
        return None
    rest = _BETWEEN.sub("", behind).rstrip(" -–:.,")
    if not rest:
        return reading
    try:
        said = answer(rest).key
    except Unreadable:
        said = words_reading(rest).key
    return Reading(f"choice {letter.lower()} {said}", bare=reading.key, also=(said,))


def _marks(text: str) -> list[re.Match[str]]:
    """Letters that may be options; where one and its mark begin the text, not that of a name behind it."""
    found = list(_LETTER.finditer(text))
    begins = bool(found) and found[0].start() == 0 and not found[0].group(3)
    return found[:1] if begins and _NAMED.fullmatch(text, found[0].end()) else found


def without_label(text: str) -> str:
    """An answer without the words that only say that it is one: `\\text{Answer: }42`, `the answer is 42`."""
    label = _STATING.match(text)
    assert label is not None
    opened = label.group().count("{") - label.group().count("}")
    rest = ("\\text{" if opened > 0 else "") + text[label.end() :]
    return normalise(rest) if _STATED.search(label.group()) and opened in (0, 1) and text[label.end() :] else text


def _letters(marks: list[re.Match[str]]) -> set[str]:
    return {next(filter(None, mark.groups())) for mark in marks}


def _denied(text: str, mark: re.Match[str]) -> bool:
    behind = text[mark.end() :]
    return bool(_DENIED_BEFORE.search(text[: mark.start()]) or _DENIED_BEHIND.match(behind))
