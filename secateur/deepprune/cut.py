"""Where a trace is cut for the judge: at its k-th reasoning word, or after its first k tokens.

The paper names "wait", "thus" and "since" as examples of reasoning words and 25 as the best k; its list and its
matching rules are published nowhere. Ours, in this one place:
- the list is `REASONING_WORDS`: words with which a chain of thought opens a new move (go on, doubt, conclude);
- a word is a maximal run of letters (any script), compared without case; everything else ends it, apostrophes,
  digits and underscores included, so "let's" counts as "let" and "sofa" does not count as "so";
- a word counts when the character after it is there. A trace that ends before its k-th word counted is *whole*: its
  cut is all of it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from secateur.runtime.errors import InputError

# Plain connectives such as "and" are left out: they mark no new move.
_OPENS = ("okay", "first", "next", "then", "now", "let")
_DOUBTS = ("wait", "hmm", "alternatively", "but", "however", "maybe", "actually")
_CONCLUDES = ("so", "therefore", "thus", "since", "because")
REASONING_WORDS = frozenset(_OPENS + _DOUBTS + _CONCLUDES)
_LONGEST = max(map(len, REASONING_WORDS))
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class CutRule:
    """`kind` "words": at the k-th reasoning word; "tokens": after the first k tokens."""

    kind: Literal["words", "tokens"] = "words"
    k: int = 25

    def __post_init__(self) -> None:
        if self.kind not in ("words", "tokens"):
            raise InputError(f"cut kind = {self.kind!r}: unknown; write 'words' or 'tokens'")
        if self.k < 1:
            raise InputError(f"cut k = {self.k}: a cut needs at least 1 of its {self.kind}; write 1 or more")


class CutDetector:
    """Finds the cut of one trace while it grows; how the text is split into pieces makes no difference."""

    def __init__(self, rule: CutRule) -> None:
        self.rule = rule
        self.reached = False
        self.n_tokens = 0
        """Tokens seen until the cut was reached, the detecting ones included; all tokens while it is not."""
        self._pieces: list[str] = []
        self._words = 0
        self._tail = ""  # letters at the end of the text: a word that may still grow

    @property
    def text(self) -> str:
        """Up to and including the k-th word, or the text of the first k tokens; all text while not reached."""
        return "".join(self._pieces)

    def feed(self, text_delta: str, n_tokens: int = 1) -> bool:
        """Take the next piece of text and the number of its tokens. True at the step that reaches the cut."""
        if self.reached:
            return False
        self.n_tokens += n_tokens
        if self.rule.kind == "tokens":
            self._pieces.append(text_delta)
            self.reached = self.n_tokens >= self.rule.k
        else:
            self._pieces.append(self._count_words(text_delta))
        return self.reached

    def _count_words(self, delta: str) -> str:
        """Count the words that `delta` completes; returns the part of `delta` that belongs to the cut."""
        text, before = self._tail + delta, len(self._tail)
        self._tail = ""
        for match in _WORD.finditer(text):
            if match.end() == len(text):
                self._tail = match.group()[: _LONGEST + 1]  # a longer run is no reasoning word, however it goes on
                break
            self._words += match.group().lower() in REASONING_WORDS
            if self._words == self.rule.k:
                self.reached = True
                # A word that ended with the piece before is only shown complete by this one.
                return delta[: max(match.end() - before, 0)]
        return delta


@dataclass(frozen=True)
class Cut:
    """Cut of a stored trace: its text, and its length [tokens] up to the detecting token; None if never reached."""

    text: str
    n_tokens: int | None


def cut_pieces(pieces: Sequence[str], rule: CutRule) -> Cut:
    """Cut a stored trace given as the text of each token, exactly as it would have been cut live."""
    detector = CutDetector(rule)
    for piece in pieces:
        if detector.feed(piece, 1):
            return Cut(detector.text, detector.n_tokens)
    return Cut(detector.text, None)


def ended_before_cut(n_tokens: int, cut_tokens: int | None) -> bool:
    """Whether a complete trace of `n_tokens` is whole: it ended before its cut, or with the very token that shows it.

    The one rule for live runs, replays, judge data and tables; of such a trace nothing more can be saved.
    """
    return cut_tokens is None or cut_tokens >= n_tokens


def cut_length(pieces: Sequence[str], rule: CutRule) -> int | None:
    """Tokens up to and including the one that shows the cut; None = the trace ended first."""
    return cut_pieces(pieces, rule).n_tokens


def cut_text(text: str, rule: CutRule) -> str:
    """`text` up to and including its k-th reasoning word, all of it where there are fewer.

    A rule in tokens needs the pieces (`cut_pieces`): text is never tokenised again to count.
    """
    if rule.kind != "words":
        raise InputError(
            "cut kind = 'tokens': text alone does not say where its tokens end; give token ids or use 'words'"
        )
    return cut_pieces([text], rule).text
