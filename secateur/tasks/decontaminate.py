"""Which training problems are evaluation problems: the same text, or nearly.

Texts are compared as sequences of words, numbers and LaTeX commands, in a form that no longer tells `\\dfrac` from
`\\frac`, `$…$` from `\\(…\\)` or `1,000` from `1000`, and that leaves drawings out.

- exact: the same sequence.
- near: the Jaccard similarity of their word triples is at least `NEAR`, or `CONTAINED` of the shorter one's triples
  are in the longer one (a sentence was added); and the numbers of one are among those of the other. In the triples
  all numbers are one token, all single letters are one and all words in capitals are one: renamed variables and
  points do not matter, and changed numbers are the business of the second condition alone.

A problem that differs from another only in its numbers is therefore another problem: it has another answer, and
competition problems are built on a few hundred patterns. Losing a training problem for nothing costs little, an
evaluation problem that was trained on costs the result: the bounds lie just above what different problems with
agreeing numbers reach (docs/data.md has the figures on real problems).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from secateur.tasks.records import Problem

NEAR = 0.5  # Jaccard similarity (fraction 0-1) of word triples
CONTAINED = 0.85  # fraction (0-1) of the shorter text's word triples
_ENOUGH = 8  # triples that a text needs for being contained to mean anything
WIDTH = 3
_CHUNK = 2048  # rows compared at once: bounds the memory of the intersections
_DRAWING = re.compile(r"\[asy\].*?\[/asy\]|\\begin\{asy\}.*?\\end\{asy\}", re.DOTALL)
_SAME = (
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr|displaystyle|limits|quad|qquad)(?![a-zA-Z])"), " "),
    (re.compile(r"\\(?:text|mathrm|mathbf|mathit|textbf|textit|operatorname|mbox)\s*(?=\{)"), " "),
    (re.compile(r"\\(?:le|leq|leqslant)(?![a-zA-Z])|≤"), r" \\leq "),
    (re.compile(r"\\(?:ge|geq|geqslant)(?![a-zA-Z])|≥"), r" \\geq "),
    (re.compile(r"\\(?:ne|neq)(?![a-zA-Z])|≠"), r" \\neq "),
    (re.compile(r"\\(?:cdot|times)(?![a-zA-Z])|[×·]"), r" \\times "),
    (re.compile(r"\\(?:ldots|dots|cdots)(?![a-zA-Z])|…"), r" \\dots "),
    (re.compile(r"(?<=\d)(?:\{,\}|,|\\,|\\!)(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(\\frac)\s*(\d)\s*(\d)"), r"\1 \2 \3"),
    (re.compile(r"\\[,;:!>]"), " "),
)
_TOKEN = re.compile(r"\\[a-zA-Z]+|\d+(?:\.\d+)?|[^\W\d_]+|[-+*/=<>^|%]")
_ENVIRONMENTS = {"\\begin", "\\end"}


@dataclass(frozen=True)
class ProblemOverlap:
    """A problem that is also in an evaluation set; `similarity` is the Jaccard similarity of the word triples."""

    id: str
    source: str
    match: str
    kind: Literal["exact", "near"]
    similarity: float


@dataclass(frozen=True)
class _Text:
    """A problem prepared for comparison."""

    tokens: tuple[str, ...]
    triples: frozenset[tuple[str, ...]]
    numbers: Counter[str]


def words(text: str) -> list[str]:
    """Words, numbers, LaTeX commands and operators of a problem in lower case; the rest is a matter of typesetting.

    >>> words("Compute $\\\\dfrac12 + 1{,}000$.")
    ['compute', '\\\\frac', '1', '2', '+', '1000']
    """
    return [token.lower() for token in _tokens(text)]


def _tokens(text: str) -> list[str]:
    text = _DRAWING.sub(" ", text)
    for pattern, replacement in _SAME:
        text = pattern.sub(replacement, text)
    return [token for token in _TOKEN.findall(text) if token not in _ENVIRONMENTS]


def find_overlaps(problems: Sequence[Problem], evaluation: Mapping[str, Sequence[Problem]]) -> list[ProblemOverlap]:
    """The problems that occur in an evaluation set (source → its problems), each with its most similar counterpart.

    In the order of `problems`; time and memory grow with the number of word triples that occur on both sides.
    """
    others = [(source, other) for source, members in evaluation.items() for other in members]
    if not problems or not others:
        return []
    left = [_prepare(problem.problem) for problem in problems]
    right = [_prepare(other.problem) for _, other in others]
    best: dict[int, ProblemOverlap] = {}
    for row, column, similarity in _similar_pairs(left, right):
        source, other = others[column]
        exact = left[row].tokens == right[column].tokens
        if not exact and not _numbers_agree(left[row].numbers, right[column].numbers):
            continue
        if row not in best or (exact, similarity) > (best[row].kind == "exact", best[row].similarity):
            kind = "exact" if exact else "near"
            best[row] = ProblemOverlap(problems[row].id, source, other.id, kind, round(similarity, 3))
    return [best[row] for row in sorted(best)]


def _prepare(text: str) -> _Text:
    tokens = _tokens(text)
    shape = [_shape(token) for token in tokens] + [""] * (WIDTH - len(tokens))
    triples = frozenset(tuple(shape[start : start + WIDTH]) for start in range(len(shape) - WIDTH + 1))
    numbers = Counter(token for token in tokens if token[0].isdigit())
    return _Text(tuple(token.lower() for token in tokens), triples, numbers)


def _shape(token: str) -> str:
    """A number, a variable, a figure's corners (ABCD), or the word itself in lower case."""
    if token[0].isdigit():
        return "0"
    return "x" if len(token) == 1 and token.isalpha() else "ABC" if token.isupper() else token.lower()


def _numbers_agree(first: Counter[str], second: Counter[str]) -> bool:
    return first <= second or second <= first


def _similar_pairs(left: Sequence[_Text], right: Sequence[_Text]) -> Iterator[tuple[int, int, float]]:
    """(index, index, Jaccard similarity) of all pairs near enough: a sparse product counts the common triples."""
    vocabulary: dict[tuple[str, ...], int] = {}
    for text in right:
        for triple in text.triples:
            vocabulary.setdefault(triple, len(vocabulary))
    columns = _incidence(right, vocabulary).T.tocsr()
    right_sizes = _sizes(right)
    for start in range(0, len(left), _CHUNK):
        chunk = left[start : start + _CHUNK]
        common = (_incidence(chunk, vocabulary) @ columns).tocoo()
        own, other = _sizes(chunk)[common.row], right_sizes[common.col]
        shorter = np.minimum(own, other)
        similarity = common.data / (own + other - common.data)
        contained = (common.data >= CONTAINED * shorter) & (shorter >= _ENOUGH)
        for index in np.flatnonzero((similarity >= NEAR) | contained):
            yield start + int(common.row[index]), int(common.col[index]), float(similarity[index])


def _sizes(texts: Sequence[_Text]) -> np.ndarray:
    return np.array([len(text.triples) for text in texts])


def _incidence(texts: Sequence[_Text], vocabulary: Mapping[tuple[str, ...], int]) -> csr_matrix:
    """Texts × triples, 1 where a text has the triple; triples outside the vocabulary play no part."""
    found = [[vocabulary[triple] for triple in text.triples if triple in vocabulary] for text in texts]
    ends = np.cumsum([0, *(len(entry) for entry in found)])
    indices = np.fromiter((index for entry in found for index in entry), dtype=np.int32, count=int(ends[-1]))
    return csr_matrix((np.ones(len(indices), dtype=np.int32), indices, ends), shape=(len(texts), len(vocabulary)))
