"""Judge scores of one problem's pairs: checked, asked for when they are needed, and never paid for twice."""

from collections.abc import Callable, Sequence

import numpy as np

from secateur.deepprune.clustering import AskPairs
from secateur.deepprune.decide import JudgeFailure


class PairScores:
    """Symmetric scores of n traces. Everything that reads them raises `JudgeFailure` for what is no probability."""

    def __init__(self, n: int, ask: AskPairs, prepare: Callable[[], None] | None = None) -> None:
        """`prepare` is called once, before the first pairs are asked."""
        self.n, self._ask, self._prepare = n, ask, prepare
        self.matrix: np.ndarray | None = None
        """[n, n], once all pairs are known; its diagonal is 1."""
        self._keys: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    @classmethod
    def of_matrix(cls, matrix: np.ndarray) -> "PairScores":
        """Scores [n, n] that are all known; the part below the diagonal is read and checked now."""
        known = cls.of_table(matrix)
        if not ((matrix >= 0) & (matrix <= 1)).all():  # the diagonal need not be a score
            _check(matrix[np.tril_indices(known.n, -1)])
        known.matrix = matrix
        return known

    @classmethod
    def of_table(cls, matrix: np.ndarray) -> "PairScores":
        """Scores [n, n] that are asked for, and checked, as a judge's would be."""
        n = len(matrix)
        if matrix.shape != (n, n):
            raise ValueError(f"scores of shape {list(matrix.shape)} instead of [n, n]")
        return cls(n, lambda pairs: matrix[pairs[:, 0], pairs[:, 1]])

    def ask(self, pairs: np.ndarray) -> np.ndarray:
        """[pairs] float64 of pairs [pairs, 2] (later, earlier) that were not asked before; they are remembered."""
        if not len(pairs):
            return np.zeros(0)
        if self._prepare is not None:
            self._prepare, prepare = None, self._prepare
            prepare()
        scores = np.asarray(self._ask(pairs), dtype=np.float64)
        if scores.shape != (len(pairs),):
            raise JudgeFailure(f"it gave scores of shape {list(scores.shape)} for {len(pairs)} pairs")
        _check(scores)
        if self.matrix is None:
            self._keys.append(pairs[:, 0] * self.n + pairs[:, 1])
            self._values.append(scores)
        return scores

    def ask_all(self) -> np.ndarray:
        """All pairs in one batch, [n, n]; in the order in which judges score everybody with everybody."""
        if self.matrix is None:
            earlier, later = np.triu_indices(self.n, 1)
            values = self.ask(np.stack([later, earlier], axis=1))
            matrix = np.eye(self.n)
            matrix[later, earlier] = matrix[earlier, later] = values
            self.matrix = matrix
        return self.matrix

    def between(self, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
        """[rows, columns]; asks for the pairs that are not known yet. A trace is fully like itself."""
        if self.matrix is not None:
            return self.matrix[np.ix_(rows, columns)]
        first, second = np.meshgrid(np.asarray(rows), np.asarray(columns), indexing="ij")
        keys = np.maximum(first, second) * self.n + np.minimum(first, second)
        wanted = np.unique(keys[first != second])
        self.ask(np.stack(np.divmod(np.setdiff1d(wanted, self._known()[0]), self.n), axis=1))
        known, values = self._known()
        result = np.ones(keys.shape)
        result[first != second] = values[np.searchsorted(known, keys[first != second])]
        return result

    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """Ascending keys of the pairs asked so far, and their scores."""
        if not self._keys:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        keys, values = np.concatenate(self._keys), np.concatenate(self._values)
        order = np.argsort(keys)
        self._keys, self._values = [keys[order]], [values[order]]
        return self._keys[0], self._values[0]


def _check(scores: np.ndarray) -> None:
    bad = len(scores) - int(np.count_nonzero((scores >= 0) & (scores <= 1)))  # NaN fails both comparisons
    if bad:
        raise JudgeFailure(f"{bad} of {len(scores)} judge scores are not between 0 and 1")
