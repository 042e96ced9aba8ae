"""Judge scores of one problem's pairs: checked, asked for when they are needed, and never paid for twice."""

from collections.abc import Callable, Sequence

import numpy as np

from secateur.deepprune.clustering import AskingClusters, AskPairs, KnownClusters, LinkedClusters
from secateur.deepprune.policy import JudgeFailure
from secateur.deepprune.rule import ClusterRule


class PairScores:
    """Symmetric scores of n traces. Everything that reads them raises `JudgeFailure` for what is no probability."""

    def __init__(self, n: int, ask: AskPairs, introduce: Callable[[Sequence[int]], None] | None = None) -> None:
        """`introduce` shows traces to the judge, in the order in which they are numbered here, before the first pair
        with one of them is asked."""
        self.n, self._ask, self._introduce = n, ask, introduce
        self.matrix: np.ndarray | None = None
        """[n, n], once all pairs are known; its diagonal is 1."""
        self._is_checked = True
        self._keys: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    @classmethod
    def of_matrix(cls, matrix: np.ndarray) -> "PairScores":
        """Scores [n, n] that are all known; the part below the diagonal is read, and checked all at once."""
        known = cls.of_table(matrix)
        known.matrix, known._is_checked = matrix, False
        return known

    @classmethod
    def of_table(cls, matrix: np.ndarray) -> "PairScores":
        """Scores [n, n] that are asked for, and checked, as a judge's would be."""
        n = len(matrix)
        if matrix.shape != (n, n):
            raise ValueError(f"scores of shape {list(matrix.shape)} instead of [n, n]")
        return cls(n, lambda pairs: matrix[pairs[:, 0], pairs[:, 1]])

    def introduce(self, traces: Sequence[int]) -> None:
        """Show further traces to the judge; may raise `JudgeFailure`."""
        if self._introduce is not None:
            self._introduce(traces)

    def clusters(self, rule: ClusterRule, seed: int) -> KnownClusters | AskingClusters | LinkedClusters:
        """Clusters that read these scores: all of them where they are known or linkage needs them, else those that
        matter."""
        if rule.linkage == "average":
            return LinkedClusters(self.ask_all(), rule)
        if self.matrix is None:
            return AskingClusters(rule, seed, self.ask)
        return KnownClusters(self._checked(), rule, seed)

    def ask(self, pairs: np.ndarray) -> np.ndarray:
        """[pairs] float64 of pairs [pairs, 2] (later, earlier) that were not asked before; they are remembered."""
        if not len(pairs):
            return np.zeros(0)
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
        return self._checked()

    def between(self, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
        """[rows, columns]; asks for the pairs that are not known yet. A trace is fully like itself."""
        if self.matrix is not None:
            return self._checked()[np.ix_(rows, columns)]
        first, second = np.meshgrid(np.asarray(rows), np.asarray(columns), indexing="ij")
        keys = np.maximum(first, second) * self.n + np.minimum(first, second)
        wanted = np.unique(keys[first != second])
        self.ask(np.stack(np.divmod(np.setdiff1d(wanted, self._known()[0]), self.n), axis=1))
        known, values = self._known()
        result = np.ones(keys.shape)
        result[first != second] = values[np.searchsorted(known, keys[first != second])]
        return result

    def _checked(self) -> np.ndarray:
        matrix = self.matrix
        if not self._is_checked and not ((matrix >= 0) & (matrix <= 1)).all():  # the diagonal need not be a score
            _check(matrix[np.tril_indices(self.n, -1)])
        self._is_checked = True
        return matrix

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
