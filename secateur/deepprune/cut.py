"""Where a trace is cut for the judge: at its k-th reasoning word, or after its first k tokens.

The paper names "wait", "thus" and "since" as examples of reasoning words and 25 as the best k; its list and its
matching rules are published nowhere. Ours, in this one place:
- the list is `REASONING_WORDS`: words with which a chain of thought opens a new move (go on, doubt, conclude),
  English and, with the same meanings, Chinese;
- an English word is a maximal run of letters of any script but Chinese characters, compared without case; everything
  else ends it, apostrophes, digits and underscores included, so "let's" counts as "let" and "sofa" does not count as
  "so";
- Chinese is written without blanks, so its words are found in running text, from left to right, and never overlap:
  等等等等 counts twice. No word of the list holds another one, so at any place there is one match at most, and it is
  the longest. A longer word that holds one of the list counts as well, as in English "so" counts in "so-called":
  让我们 as 让我, 不可能 as 可能;
- a word of either kind counts when the character after it is there. A trace that ends before its k-th word counted is
  *whole*: its cut is all of it.

Which k, `choose_cut` says from development traces.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Literal

from secateur.runtime.errors import InputError

# Plain connectives such as "and" are left out: they mark no new move.
_OPENS = ("okay", "first", "next", "then", "now", "let")
_DOUBTS = ("wait", "hmm", "alternatively", "but", "however", "maybe", "actually")
_CONCLUDES = ("so", "therefore", "thus", "since", "because")
# In simplified characters, and in traditional ones where they differ.
_CHINESE_OPENS = "好的 首先 接下来 接下來 然后 然後 那么 那麼 现在 現在 让我 讓我"
_CHINESE_DOUBTS = "等等 等一下 另外 但是 可是 不过 不過 然而 或者 可能 也许 也許 或许 或許 其实 其實 实际上 實際上"
_CHINESE_CONCLUDES = "所以 因此 于是 於是 由于 由於 因为 因為 既然"
CHINESE_WORDS = frozenset(f"{_CHINESE_OPENS} {_CHINESE_DOUBTS} {_CHINESE_CONCLUDES}".split())
REASONING_WORDS = frozenset(_OPENS + _DOUBTS + _CONCLUDES) | CHINESE_WORDS
_LONGEST = max(map(len, REASONING_WORDS))
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Unicode's blocks of Chinese characters
_WORD = re.compile(rf"[^\W\d_{_HAN}]+|{'|'.join(sorted(CHINESE_WORDS))}")
_BEGINNINGS = {word[:size] for word in CHINESE_WORDS for size in range(1, len(word))}
_BEGUN = re.compile(rf"(?:{'|'.join(sorted(_BEGINNINGS))})\Z")

WHOLE_BOUND = 0.05  # of the cuts that `choose_cut` makes, fewer than this share are whole traces
SHARE_TOLERANCE = 0.05  # so near to the share that is asked for its median cut lies (fraction of the trace)
DEFAULT_SHARE = 0.25
AUTO = "auto"
"""The value of a key `cut_kind` that has `choose_cut` pick the rule."""
_BLOCK = 64  # tokens of a stored trace that are looked through at once
_MOST_CANDIDATES = 1000  # numbers of tokens that `choose_cut` tries


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

    @property
    def in_words(self) -> str:
        """
        >>> CutRule("words", 25).in_words
        '25 reasoning words'
        """
        return f"{self.k} {'reasoning words' if self.kind == 'words' else 'tokens'}"


class _WordCounter:
    """Finds the reasoning words of a text that grows; how it is split into pieces makes no difference."""

    def __init__(self) -> None:
        self._tail = ""  # of the text so far, what may still become a word

    def feed(self, delta: str) -> list[int]:
        """Where in `delta` the words end that it completes; 0 for one that ended with the piece before."""
        text, before, settled = self._tail + delta, len(self._tail), 0
        ends = []
        for match in _WORD.finditer(text):
            if match.end() == len(text):
                self._tail = match.group()[: _LONGEST + 1]  # a longer run is no reasoning word, however it goes on
                return ends
            settled = match.end()
            if match.group().lower() in REASONING_WORDS:
                ends.append(max(settled - before, 0))
        begun = _BEGUN.search(text, max(settled, len(text) - _LONGEST))
        self._tail = begun.group() if begun else ""
        return ends


class CutDetector:
    """Finds the cut of one trace while it grows; how the text is split into pieces makes no difference."""

    def __init__(self, rule: CutRule) -> None:
        self.rule = rule
        self.reached = False
        self.n_tokens = 0
        """Tokens seen until the cut was reached, the detecting ones included; all tokens while it is not."""
        self._pieces: list[str] = []
        self._words = 0
        self._counter = _WordCounter()

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
        ends = self._counter.feed(delta)
        missing = self.rule.k - self._words
        self._words += len(ends)
        self.reached = len(ends) >= missing
        return delta[: ends[missing - 1]] if self.reached else delta


@dataclass(frozen=True)
class Cut:
    """Cut of a stored trace: its text, and its length [tokens] up to the detecting token; None if never reached."""

    text: str
    n_tokens: int | None


def cut_pieces(pieces: Iterable[str], rule: CutRule) -> Cut:
    """Cut a stored trace given as the text of each token, exactly as it would have been cut live; little is asked of
    `pieces` beyond the cut."""
    rough, taken, rest = CutDetector(rule), [], iter(pieces)
    while block := list(islice(rest, _BLOCK)):
        first = len(taken)
        taken += block
        if rough.feed("".join(block), len(block)):
            return _cut_after(taken, first, rule)
    return Cut(rough.text, None)


def _cut_after(pieces: Sequence[str], first: int, rule: CutRule) -> Cut:
    """The cut of a trace that has it among its pieces from the place `first` on."""
    detector = CutDetector(rule)
    detector.feed("".join(pieces[:first]), first)
    for piece in pieces[first:]:
        if detector.feed(piece):
            break
    return Cut(detector.text, detector.n_tokens)


def ended_before_cut(n_tokens: int, cut_tokens: int | None) -> bool:
    """Whether a complete trace of `n_tokens` is whole: it ended before its cut, or with the very token that shows it.

    The one rule for live runs, replays, judge data and tables; of such a trace nothing more can be saved.
    """
    return cut_tokens is None or cut_tokens >= n_tokens


def cut_length(pieces: Iterable[str], rule: CutRule) -> int | None:
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


@dataclass(frozen=True)
class CutFigures:
    """What a rule makes of some traces: the median share of its trace that a cut is (fraction, 1 for a whole one),
    and the share of cuts that are whole traces (fraction)."""

    rule: CutRule
    median_share: float
    whole_share: float


@dataclass(frozen=True)
class ChosenCut:
    """The rule that `choose_cut` picked, `share` (fraction) as it was asked for, from so many `traces`, and why."""

    figures: CutFigures
    share: float
    traces: int
    words: str

    @property
    def rule(self) -> CutRule:
        return self.figures.rule


def check_share(share: float) -> None:
    """Raise `InputError` for a value of key `cut_share` that no cut can have."""
    if not 0 < share < 1:
        raise InputError(f"key 'cut_share' has the value {share}; give the share of a trace, between 0 and 1")


def whole_cuts_warning(whole_share: float) -> str | None:
    """What is to be said where so many cuts (fraction 0-1) are whole traces; None where they are the fewer."""
    if whole_share <= 0.5:
        return None
    return (
        f"{whole_share:.0%} of the cuts are whole traces: nothing can be saved there, and a judge that reads them "
        "looks better than it is; give cut_kind 'auto', or a smaller cut_k"
    )


def choose_cut(
    traces: Sequence[Sequence[str]], share: float = DEFAULT_SHARE, *, tokens_too: bool = True
) -> ChosenCut:
    """The rule with which the median cut is about `share` (fraction) of its trace and under `WHOLE_BOUND` of the cuts
    are whole.

    `traces` are development traces, each as the text of its tokens [tokens]. Reasoning words come first, the paper's
    measure. Where no number of them keeps both bounds, tokens are tried, unless `tokens_too` is off, as for pieces
    that are no tokens. Where these do not either, the bound on whole cuts gives way; where no median comes near the
    share, both do. The nearest is taken then, and `words` of the result says so. Raises `InputError` for no trace.
    """
    lengths = [len(pieces) for pieces in traces if len(pieces)]
    if not lengths:
        raise InputError("no trace to choose a cut from; sample some, or give cut_kind 'words' or 'tokens' and cut_k")
    by_words = _figures_of_words([word_places(pieces) for pieces in traces if len(pieces)], lengths)
    chosen, why = _choice(by_words, _figures_of_tokens(lengths) if tokens_too else [], share)
    said = (
        f"{chosen.rule.in_words}: over {len(lengths)} development traces the median cut is {chosen.median_share:.1%} "
        f"of its trace ({share:.0%} was asked for) and {chosen.whole_share:.1%} of the cuts are whole traces"
    )
    return ChosenCut(chosen, share, len(lengths), said + why)


def _choice(by_words: Sequence[CutFigures], by_tokens: Sequence[CutFigures], share: float) -> tuple[CutFigures, str]:
    """The figures chosen, and what there is to say of why."""
    for found in (by_words, by_tokens):
        if fitting := [one for one in _near(found, share) if one.whole_share < WHOLE_BOUND]:
            return _nearest(fitting, share), "" if found is by_words else _words_fail(by_words, share)
    everything = [*by_words, *by_tokens] or [CutFigures(CutRule("words", 1), 1.0, 1.0)]
    if near := _near(everything, share):
        fewest = min(near, key=lambda one: (one.whole_share, abs(one.median_share - share)))
        return fewest, f"; nothing near that share keeps whole cuts under {WHOLE_BOUND:.0%}, so this bound gave way"
    return _nearest(everything, share), "; no cut comes near that share, so both bounds gave way"


def word_places(pieces: Iterable[str]) -> list[int]:
    """For each reasoning word of a trace, given as the text of its tokens, the number of tokens where it counts."""
    counter = _WordCounter()
    return [number for number, piece in enumerate(pieces, start=1) for _ in counter.feed(piece)]


def _figures_of_words(places: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[CutFigures]:
    """For every k that some trace has."""
    return [
        _figures(CutRule("words", k), [own[k - 1] if len(own) >= k else None for own in places], lengths)
        for k in range(1, max(map(len, places)) + 1)
    ]


def _figures_of_tokens(lengths: Sequence[int]) -> list[CutFigures]:
    """For as many k as are tried, evenly spread."""
    longest = max(lengths)
    ks = range(1, longest + 1, -(-longest // _MOST_CANDIDATES))
    return [_figures(CutRule("tokens", k), [k if k <= n else None for n in lengths], lengths) for k in ks]


def _figures(rule: CutRule, cuts: Sequence[int | None], lengths: Sequence[int]) -> CutFigures:
    whole = [ended_before_cut(n, cut) for cut, n in zip(cuts, lengths, strict=True)]
    shares = [1.0 if ended else cut / n for ended, cut, n in zip(whole, cuts, lengths, strict=True)]
    return CutFigures(rule, median(shares), sum(whole) / len(whole))


def _near(found: Sequence[CutFigures], share: float) -> list[CutFigures]:
    return [one for one in found if abs(one.median_share - share) <= SHARE_TOLERANCE]


def _nearest(found: Sequence[CutFigures], share: float) -> CutFigures:
    return min(found, key=lambda one: (abs(one.median_share - share), one.whole_share))


def _words_fail(by_words: Sequence[CutFigures], share: float) -> str:
    if not by_words:
        return "; there are no reasoning words to cut at"
    best = _nearest(by_words, share)
    return (
        f"; no number of reasoning words does as well: at {best.rule.k} the median cut is {best.median_share:.1%}, "
        f"and {best.whole_share:.1%} are whole"
    )
