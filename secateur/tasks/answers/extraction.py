"""Taking the final answer out of a text; whether two answers compare is decided in equality.py."""

from secateur.tasks.answers.text import braced

BOXES = ("\\boxed", "\\fbox")


def extract_answer(text: str, thinking: bool = False) -> str | None:
    """Content of the last `\\boxed{…}` (or `\\fbox`) of the answer part, or None. Linear in the length of the text.

    The answer part is what follows the last `</think>`; thinking that was opened after it (or with `thinking=True` is
    open from the start, because the chat template pre-fills `<think>`) and never closed has no answer. An unclosed
    last box is none; so is a box without braces, except before a digit (`\\boxed 5`), where LaTeX boxes that digit.
    """
    _, closed, answer_part = text.rpartition("</think>")
    if "<think>" in answer_part or (thinking and not closed):
        return None
    start = max(answer_part.rfind(box) + len(box) if box in answer_part else -1 for box in BOXES)
    if start < 0:
        return None
    while start < len(answer_part) and answer_part[start].isspace():
        start += 1
    first = answer_part[start : start + 1]
    if first.isascii() and first.isdigit():
        return first
    end = braced(answer_part, start) if first == "{" else -1
    return None if end < 0 else answer_part[start + 1 : end].strip() or None
