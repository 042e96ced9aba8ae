"""Taking the final answer out of a text; whether two answers compare is decided in equality.py.

Where it is looked for is the key `answer_from` of every command; reward, label, vote and score of a run use the same:

- `answer`: the last box of the answer part, as the papers do;
- `anywhere`: the same, but where the answer part has no box, the last box of the text, thinking included;
- `pattern:REGEX`: group 1 of the last match (all of the match where there is no group);
- `package.module:function`: a function of your own, from text to answer or None.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import regex

from secateur.runtime.config import import_named
from secateur.runtime.errors import InputError
from secateur.tasks.answers.text import BRACES, braced

Extract = Callable[[str], str | None]
"""From the text of a trace to its final answer, None if it gives none."""
ANSWER, ANYWHERE, PATTERN = "answer", "anywhere", "pattern:"
THINKING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)  # begin and end, as published models write them
CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
_FINAL_CHANNEL = re.compile(r"<\|channel\|>final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_BARE_ANALYSIS = re.compile(r"analysis(?=[^\sa-z:,.;])")  # as gpt-oss begins where special tokens were left out
_BARE_FINAL = "assistantfinal"
_STEMS = ("hink", "HINK", "hought", "easoning")  # every mark of `THINKING` holds one of these; found faster than it
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:([0-9])|\{\s*\}|\{)")
_PATTERN_S = 1.0  # a pattern that backtracks without end on some text finds no answer there


@dataclass(frozen=True)
class Unanswered:
    """Of `texts` that were not cut off, those that gave no answer: their box stands outside of the answer part,
    mostly in the thinking, or they have none."""

    texts: int = 0
    box_elsewhere: int = 0
    no_box: int = 0

    def words(self) -> str:
        """What is amiss; "" for nothing."""
        silent = self.box_elsewhere + self.no_box
        if not silent:
            return ""
        return (
            f"no answer in {silent:,} of {self.texts:,} that ended: {self.box_elsewhere:,} with a box in their "
            f"thinking, {self.no_box:,} without one (key answer_from)"
        )


def count_unanswered(texts: Iterable[str], extract: Extract) -> Unanswered:
    """`texts` are those that were not cut off by a cap."""
    ended = list(texts)
    silent = [text for text in ended if extract(text) is None]
    elsewhere = sum(extract_anywhere(text) is not None for text in silent)
    return Unanswered(len(ended), elsewhere, len(silent) - elsewhere)


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

    The answer part is what follows the last `</think>`, or another mark of `THINKING`; thinking that was opened
    after it (or with `thinking=True` is open from the start, because the chat template pre-fills `<think>`) and never
    closed has no answer. Where the text has channels, as gpt-oss writes it, it is the last final channel, also where
    special tokens were left out (`analysis…assistantfinal…`). An unclosed
    last box is no answer. A box that is empty or has no braces is only mentioned and passed over, except before a
    digit (`\\boxed 5`), where LaTeX boxes that digit.
    """
    part = answer_part(text, thinking)
    return None if part is None else last_box(part)


def answer_part(text: str, thinking: bool = False) -> str | None:
    """What follows the thinking of a text; None if the thinking never ended."""
    if CHANNEL in text:
        finals = list(_FINAL_CHANNEL.finditer(text))
        return _CHANNEL_END.split(text[finals[-1].end() :], maxsplit=1)[0] if finals else None
    if _BARE_ANALYSIS.match(text):
        return text.rpartition(_BARE_FINAL)[2] if _BARE_FINAL in text else None
    if not thinking and not any(stem in text for stem in _STEMS):
        return text
    ended = 0
    for _, mark in THINKING:
        if (at := text.rfind(mark, ended)) >= 0:
            ended = at + len(mark)
    rest = text[ended:]
    return None if (thinking and not ended) or any(mark in rest for mark, _ in THINKING) else rest


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
    def of(cls, expression: str, key: str = "answer_from") -> "PatternExtraction":
        """Raises `InputError` naming the `key` for what is no regular expression."""
        try:
            return cls(regex.compile(expression))
        except regex.error as error:
            raise InputError(
                f"key '{key}' has the value '{PATTERN}{expression}', which is no regular expression ({error})"
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
    """Content of the last box of a text that holds something; None where there is none, or it is not closed yet.

    >>> last_box("so \\\\boxed{\\\\boxed{4} or 5}, within \\\\boxed{}")
    '\\\\boxed{4} or 5'
    """
    boxes = [match for match in _BOX.finditer(text) if text[match.end() - 1] != "}"]
    if not boxes:
        return None
    if digit := boxes[-1].group(1):
        return digit
    around = _outermost(text, [box.end() for box in boxes if box.lastindex is None])
    if around is None:
        return None
    content = text[around[0] : around[1]].strip()
    inner = _BOX.match(content) if content.startswith("\\") else None
    whole = inner is not None and inner.lastindex is None and braced(content, inner.end() - 1) == len(content) - 1
    return (content[inner.end() : -1].strip() if whole else content) or None


def _outermost(text: str, starts: Sequence[int]) -> tuple[int, int] | None:
    """Where the content begins and ends of the outermost box that holds the last one; the contents of all boxes
    begin at `starts`. None if the last one is not closed. Most texts are told by their boxes alone."""
    passed = 0
    for start in starts:
        if start > passed:
            end = braced(text, start - 1)
            if end < 0 and start == starts[-1]:
                return None
            if end < 0:
                break
            if end >= starts[-1]:
                return start, end
            passed = end
    ends = _closing(text)
    if starts[-1] - 1 not in ends:
        return None
    first = next(start for start in starts if ends.get(start - 1, -1) >= starts[-1])
    return first, ends[first - 1]


def _closing(text: str) -> dict[int, int]:
    """The index of the closing brace for that of every opening one that is closed. One pass."""
    found, opened = {}, []
    for match in BRACES.finditer(text):
        if match.lastgroup == "opening":
            opened.append(match.start())
        elif match.lastgroup == "closing" and opened:
            found[opened.pop()] = match.start()
    return found
