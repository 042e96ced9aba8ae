"""What every judge looks like from outside: cuts of one problem in, a symmetric matrix of probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deepprune.cut import CutRule
from engines.accounting import TokenLedger
from runtime.errors import InputError

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


class Judge(Protocol):
    """Says how probably two cut traces of one problem will end in the same answer.

    `capture_layers` are the layers an engine has to record for it (indices into transformers' `hidden_states`:
    0 the embeddings, the last one after the final norm), None where `needs_states` is False. `parameters` counts
    those of the model that reads tokens (0 if no token is read again). `ledger` holds the cost of the last `score`
    or of all `encode` and `score_vectors` calls since `reset_ledger`.
    """

    name: str
    needs_states: bool
    capture_layers: tuple[int, ...] | None
    cut_rule: CutRule
    parameters: int
    ledger: TokenLedger

    def score(self, cuts: Sequence[CutTrace]) -> np.ndarray:
        """[n, n] float64, symmetric, each 0-1: the probability that two cuts of one problem end in one answer."""

    def reset_ledger(self) -> None: ...


class VectorJudge(Judge, Protocol):
    """A judge of linear cost: every cut becomes one vector, so evaluators may keep vectors instead of states.

    Judges inherit `score`: cuts are encoded one by one, so a vector does not depend on its company.
    """

    def encode(self, cut: CutTrace) -> np.ndarray:
        """The vector of one cut, [width] float32. The same whichever cuts are encoded beside it."""

    def score_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """[n, width] → [n, n] as `score` gives it."""

    def score(self, cuts: Sequence[CutTrace]) -> np.ndarray:
        self.reset_ledger()
        return self.score_vectors(np.stack([self.encode(cut) for cut in cuts]))

    def reset_ledger(self) -> None:
        self.ledger = TokenLedger()
