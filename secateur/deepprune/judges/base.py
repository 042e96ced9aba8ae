"""What every judge looks like from outside: cuts of one problem in, probabilities of their pairs out.

Two ways to ask. `score` compares everybody with everybody. A session (`open`) answers only the pairs it is asked for
and takes traces that arrive later, so that clustering can spend `n` times a few comparisons instead of n².
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.calibration import Calibration
from secateur.deepprune.judges.record import JudgeCost, JudgeParts
from secateur.deepprune.policy import JudgeFailure
from secateur.engines.accounting import Usage
from secateur.engines.trace_folder import CutVector
from secateur.runtime.errors import InputError
from secateur.tasks.prompts import Prompt

if TYPE_CHECKING:
    import torch


class JudgeError(InputError):
    """A judge cannot be used as asked: its folder is damaged, or it was trained for another model."""


@dataclass(frozen=True, eq=False)
class CutTrace:
    """The part of one trace that a judge may see.

    `token_ids` [tokens] and `text` are the cut's, without the prompt. `states` are the generator's hidden states at
    the tokens of the cut that were fed back to it: [tokens, layers, hidden], one token shorter than the cut, because
    the newest token has been sampled but not read. None where a judge needs no states.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    states: "torch.Tensor | None" = None


class JudgeSession(Protocol):
    """The cuts of one problem before a judge, numbered in the order in which they were added.

    `usage` holds what the session has cost so far. Sessions of one judge do not disturb each other.
    """

    usage: Usage

    def add(self, cut: CutTrace) -> int:
        """Take one more cut; returns its number."""

    def scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """[pairs] float64, 0-1, in the order asked: the probability that two different cuts end in one answer.

        (i, j) and (j, i) get the same score, and it is the one in `score`'s matrix. Nothing is remembered: a pair
        that is asked twice is paid twice. A pairwise judge reads the later of the two cuts first and shares that
        reading among the pairs of one call, so ask for all pairs of a new trace together.
        """


class Judge(Protocol):
    """Says how probably two cut traces of one problem will end in the same answer.

    `name` is that of its kind (registry.py). `capture_layers` are the layers an engine has to record for it (indices
    into transformers' `hidden_states`: 0 the embeddings, the last one after the final norm), None where
    `needs_states` is False. `parameters` counts those of the model that reads tokens (0 if no token is read again).
    `usage` holds the cost of the last `score` or of all `encode` and `score_vectors` calls since `reset_usage`.
    `calibration` turns what the judge computes into the probabilities that all methods return. `prompt` is how the
    problems of its traces were put, None where that is not known. `weight` and `verdict`: what a judged cut
    has earned on development problems, in votes (0-1) and in words; None where that was never measured.
    """

    name: str
    needs_states: bool
    capture_layers: tuple[int, ...] | None
    cut_rule: CutRule
    parameters: int
    usage: Usage
    calibration: Calibration
    prompt: Prompt | None
    weight: float | None
    verdict: str | None

    def open(self, cuts: Sequence[CutTrace] = ()) -> JudgeSession:
        """A session that holds `cuts` as numbers 0, 1, …"""

    def score(self, cuts: Sequence[CutTrace]) -> np.ndarray:
        """[n, n] float64, symmetric, each 0-1: the probability that two cuts of one problem end in one answer."""

    def reset_usage(self) -> None: ...

    def cost(self) -> JudgeCost:
        """What it computes, whatever it is asked."""

    def save_parts(self, folder: Path) -> JudgeParts:
        """Write its weights into `folder`, and say what judge.json has to know of them."""


def symmetric(n: int, first: np.ndarray, second: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[n, n] float64 with `values` [pairs] at both places of each pair, and ones on the diagonal."""
    matrix = np.eye(n)
    matrix[first, second] = values
    matrix[second, first] = values
    return matrix


class BaseJudge:
    """What all judges share: nothing is calibrated, known of prompts, measured or spent yet."""

    calibration = Calibration()
    prompt: Prompt | None = None
    weight: float | None = None
    verdict: str | None = None
    parameters: int
    usage: Usage

    def reset_usage(self) -> None:
        self.usage = Usage()

    def cost(self) -> JudgeCost:
        return JudgeCost(self.parameters)

    def save_parts(self, folder: Path) -> JudgeParts:
        raise TypeError(f"a {type(self).__name__} has nothing to save")


class SessionJudge(BaseJudge, ABC):
    """Base of the judges that answer `score` through a session; they define `open`."""

    def score(self, cuts: Sequence[CutTrace]) -> np.ndarray:
        self.reset_usage()
        session = self.open(cuts)
        first, second = np.triu_indices(len(cuts), k=1)
        try:
            values = session.scores(list(zip(first.tolist(), second.tolist(), strict=True)))
        finally:
            self.usage = session.usage  # a judge that failed may have read tokens before
        return symmetric(len(cuts), first, second, values)

    @abstractmethod
    def open(self, cuts: Sequence[CutTrace] = ()) -> JudgeSession:
        """A session that holds `cuts` as numbers 0, 1, …"""


class VectorJudge(BaseJudge, ABC):
    """Base of the judges of linear cost: every cut becomes one vector, which evaluators may keep instead of states.

    Judges define `read` and `compare`. Cuts are read one by one, so a vector does not depend on its company.
    """

    macs_per_pair: int
    """Multiply-accumulates of comparing two vectors."""

    @abstractmethod
    def read(self, cut: CutTrace) -> tuple[np.ndarray, Usage]:
        """The vector of one cut, [width] float32, and what reading it cost."""

    @abstractmethod
    def compare(self, vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """[pairs] float64, uncalibrated scores 0-1 of the vectors [n, width] numbered `first` and `second`."""

    def encode(self, cut: CutTrace) -> np.ndarray:
        """The vector of one cut, [width] float32. The same whichever cuts are encoded beside it."""
        vector, cost = self.read(cut)
        self.usage += cost
        return vector

    def encode_states(self, states: "torch.Tensor") -> CutVector:
        """What a judge of hidden states makes of those of one cut, to be kept instead of them."""
        vector, cost = self.read(CutTrace((), (), "", states))
        return CutVector(vector, cost.judge_head)

    def score_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """[n, width] → [n, n] as `score` gives it."""
        n = len(vectors)
        first, second = np.triu_indices(n, k=1)
        self.usage += Usage(judge_head=len(first) * self.macs_per_pair)
        return symmetric(n, first, second, self.calibration(self.compare(vectors, first, second)))

    def score(self, cuts: Sequence[CutTrace]) -> np.ndarray:
        self.reset_usage()
        session = self.open()
        vectors, costs = zip(*map(session.read, cuts), strict=True)
        self.usage = sum(costs, self.usage)
        return self.score_vectors(np.stack(vectors))

    def open(self, cuts: Sequence[CutTrace] = ()) -> "VectorSession":
        return VectorSession(self, cuts)


class VectorSession:
    """Implements `JudgeSession`: each cut is read once, when it is added."""

    def __init__(self, judge: VectorJudge, cuts: Sequence[CutTrace]) -> None:
        self._judge, self._vectors, self.usage = judge, [], Usage()
        for cut in cuts:
            self.add(cut)

    def read(self, cut: CutTrace) -> tuple[np.ndarray, Usage]:
        """The vector of one cut and what reading it cost; what earlier ones left behind may be used again."""
        return self._judge.read(cut)

    def add(self, cut: CutTrace) -> int:
        vector, cost = self.read(cut)
        self.usage += cost
        self._vectors.append(vector)
        return len(self._vectors) - 1

    def scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        first, second = pair_columns(pairs)
        if not len(first):
            return np.zeros(0)
        self.usage += Usage(judge_head=len(first) * self._judge.macs_per_pair)
        used, places = np.unique(np.stack([first, second]), return_inverse=True)
        vectors = np.stack([self._vectors[index] for index in used])
        places = places.reshape(2, -1)
        return self._judge.calibration(self._judge.compare(vectors, places[0], places[1]))


@contextmanager
def out_of_memory_is_failure() -> Iterator[None]:
    """A judge that finds no memory fails for the problem at hand, not for the run."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise JudgeFailure(f"no memory left: {error}") from error


def pair_columns(pairs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs as two int arrays, the smaller number first, since a pair's score does not depend on its order."""
    table = np.sort(np.asarray(pairs, dtype=np.int64).reshape(-1, 2), axis=1)
    if (table[:, 0] == table[:, 1]).any():
        raise ValueError("a cut is not compared with itself")
    return table[:, 0], table[:, 1]
