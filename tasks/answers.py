"""Taking the final answer out of a text and deciding whether two answers are equal.

The one answer equality of the project: reward, judge label, vote and score all use it. Plain integers and equal
strings are decided here at once; everything else goes to math-verify in worker processes (grading_pool.py), because
model output is hostile text.
"""

import functools
import re
from collections.abc import Sequence

from tasks.grading_pool import GradingPool

BOX = "\\boxed"
MAX_ANSWER_CHARS = 1000  # longer "answers" are runaway text; they are equal to nothing but themselves
_INTEGER = re.compile(r"[+-]?\d{1,40}")
_WRAPPERS = re.compile(r"^\$+|\$+$|\\[!,;: ]|\\left(?![a-z])|\\right(?![a-z])")


def extract_answer(text: str, thinking: bool = False) -> str | None:
    """Content of the last `\\boxed{…}` of the answer part, or None.

    The answer part is what follows the last `</think>`; thinking that was opened (or with `thinking=True` is open
    from the start, because the chat template pre-fills `<think>`) and never closed has no answer. An unclosed last
    box is none.
    """
    _, closed, answer_part = text.rpartition("</think>")
    if not closed and (thinking or "<think>" in text):
        return None
    start = answer_part.rfind(BOX)
    return None if start < 0 else _braced(answer_part, start + len(BOX))


def _braced(text: str, start: int) -> str | None:
    """The content of the balanced braces that open at `start`, blanks before them allowed."""
    opening = start + len(text[start:]) - len(text[start:].lstrip())
    if not text.startswith("{", opening):
        return None
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text[opening:], flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return text[opening + 1 : opening + match.start()].strip() or None
    return None


def answers_equal(a: str, b: str) -> bool:
    """Whether two final answers mean the same."""
    return compare_answers([(a, b)])[0]


def grade(text: str, gold: str, thinking: bool = False) -> bool:
    """Whether the final answer of a completion equals the gold answer."""
    return grade_batch([text], [gold], thinking)[0]


def grade_batch(texts: Sequence[str], golds: Sequence[str], thinking: bool = False) -> list[bool]:
    """`grade` for many completions; a completion without an answer is wrong."""
    answers = [extract_answer(text, thinking) for text in texts]
    present = [index for index, answer in enumerate(answers) if answer is not None]
    verdicts = [False] * len(texts)
    pairs = [(answers[index] or "", golds[index]) for index in present]
    for index, verdict in zip(present, compare_answers(pairs), strict=True):
        verdicts[index] = verdict
    return verdicts


def group_answers(answers: Sequence[str | None]) -> list[int | None]:
    """A key per answer: equal answers share it, None stays None. The key is the index of the first equal answer."""
    keys: list[int | None] = [None] * len(answers)
    leaders: list[int] = []
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        verdicts = compare_answers([(str(answers[leader]), answer) for leader in leaders])
        keys[index] = next((leader for leader, same in zip(leaders, verdicts, strict=True) if same), index)
        if keys[index] == index:
            leaders.append(index)
    return keys


def compare_answers(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Equality of every pair of answers; each distinct hard pair is computed once in the life of the process."""
    normal = [(normalise(a), normalise(b)) for a, b in pairs]
    verdicts = [_easy_verdict(a, b) for a, b in normal]
    hard = sorted({pair for pair, verdict in zip(normal, verdicts, strict=True) if verdict is None} - _known.keys())
    if hard:
        _known.update(zip(hard, _pool().compare(hard), strict=True))
    return [_known[pair] if verdict is None else verdict for pair, verdict in zip(normal, verdicts, strict=True)]


def normalise(answer: str) -> str:
    """Blanks, dollar signs, LaTeX spacing and a final full stop removed; integers without sign and leading zeros."""
    plain = _WRAPPERS.sub("", answer.strip()).strip().rstrip(".").strip()
    digits = re.sub(r"(?<=\d)\{?,\}?(?=\d{3}(?!\d))", "", plain)
    return str(int(digits)) if _INTEGER.fullmatch(digits) else plain


def _easy_verdict(a: str, b: str) -> bool | None:
    """Decided without mathematics: equal strings, two integers, runaway text. None = ask math-verify."""
    if a == b:
        return bool(a)
    if not a or not b or max(len(a), len(b)) > MAX_ANSWER_CHARS:
        return False
    return False if _INTEGER.fullmatch(a) and _INTEGER.fullmatch(b) else None


_known: dict[tuple[str, str], bool] = {}


@functools.cache
def _pool() -> GradingPool:
    return GradingPool()
