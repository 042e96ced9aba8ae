"""Taking the final answer out of a text; whether two answers compare is decided in equality.py.

Where it is looked for is the key `answer_from` of every command; reward, label, vote and score of a run use the same:

- `answer`: the last box of the answer part, as the papers do;
- `anywhere`: the same, but where the answer part has no box, the last box of the text, thinking included;
- `pattern:REGEX`: group 1 of the last match (all of the match where there is no group);
- `package.module:function`: a function of your own, from text to answer or None.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import regex

from secateur.runtime.config import import_named
from secateur.runtime.errors import InputError
from secateur.tasks.answers.text import braced

Extract = Callable[[str], str | None]
"""From the text of a trace to its final answer, None if it gives none."""
ANSWER, ANYWHERE, PATTERN = "answer", "anywhere", "pattern:"
BOXES = ("\\boxed", "\\fbox")
_PATTERN_S = 1.0  # a pattern that backtracks without end on some text finds no answer there


def extraction(answer_from: str = ANSWER, thinking: bool = False) -> Extract:
    """What `answer_from` names. `thinking`: completions begin inside the thinking part, because the chat template
    pre-fills `<think>`. Raises `InputError` naming the key for what names nothing."""
    if answer_from == ANSWER:
        return partial(extract_answer, thinking=thinking)
    if answer_from == ANYWHERE:
        return partial(extract_anywhere, thinking=thinking)
    if answer_from.startswith(PATTERN):
        return PatternExtraction.of(answer_from.removeprefix(PATTERN))
    if ":" not in answer_from:
        raise InputError(
            f"key 'answer_from' has the value '{answer_from}'; give answer, anywhere, pattern:REGEX, or a function "
            "of your own as package.module:function"
        )
    found = import_named(answer_from, "answer_from")
    if not callable(found):
        raise InputError(f"key 'answer_from' has the value '{answer_from}', which is no function")
    return found


def extract_answer(text: str, thinking: bool = False) -> str | None:
    """Content of the last `\\boxed{…}` (or `\\fbox`) of the answer part, or None. Linear in the length of the text.

    The answer part is what follows the last `</think>`; thinking that was opened after it (or with `thinking=True` is
    open from the start, because the chat template pre-fills `<think>`) and never closed has no answer. An unclosed
    last box is none; so is a box without braces, except before a digit (`\\boxed 5`), where LaTeX boxes that digit.
    """
    _, closed, answer_part = text.rpartition("</think>")
    if "<think>" in answer_part or (thinking and not closed):
        return None
    return last_box(answer_part)


def extract_anywhere(text: str, thinking: bool = False) -> str | None:
    """`extract_answer`; where that finds nothing, the content of the last box of all of the text.

    >>> extract_anywhere("<think>it is \\\\boxed{7}</think> Seven.")
    '7'
    """
    return extract_answer(text, thinking) or last_box(text)


@dataclass(frozen=True)
class PatternExtraction:
    """Group 1 of the last match of `pattern`, without the blanks around it."""

    pattern: "regex.Pattern[str]"

    @classmethod
    def of(cls, expression: str) -> "PatternExtraction":
        try:
            return cls(regex.compile(expression))
        except regex.error as error:
            raise InputError(
                f"key 'answer_from' has the value '{PATTERN}{expression}', which is no regular expression ({error})"
            ) from None

    def __call__(self, text: str) -> str | None:
        """
        >>> PatternExtraction.of("ANSWER: (.+)")("ANSWER: 3\\nNo. ANSWER: 4")
        '4'
        """
        group = 1 if self.pattern.groups else 0
        try:
            found = [match[group] for match in self.pattern.finditer(text, timeout=_PATTERN_S)]
        except TimeoutError:
            return None
        return (found[-1] or "").strip() or None if found else None


def last_box(text: str) -> str | None:
    """Content of the last box of a text; None where there is none, where it is empty, or not closed yet."""
    start = max(text.rfind(box) + len(box) if box in text else -1 for box in BOXES)
    if start < 0:
        return None
    while start < len(text) and text[start].isspace():
        start += 1
    first = text[start : start + 1]
    if first.isascii() and first.isdigit():
        return first
    end = braced(text, start) if first == "{" else -1
    return None if end < 0 else text[start + 1 : end].strip() or None
