"""The default judge: the generator's own hidden states at the cut, pooled by a few learned heads.

The generator stays frozen and no token is read again: the states exist because the tokens were generated. Not in the
paper, whose judge reads every pair of cuts anew (see pairwise.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace, JudgeError, VectorJudge
from secateur.deepprune.judges.heads import AttentionPool, PairHead, pair_probabilities
from secateur.deepprune.judges.record import HEAD_FILE, JudgeCost, JudgeParts
from secateur.engines.accounting import Usage
from secateur.runtime.records import as_json


@dataclass(frozen=True)
class OwnStatesShape:
    """Sizes of the trained part. `layers` index transformers' `hidden_states` (0 = embeddings)."""

    layers: tuple[int, ...]
    hidden: int
    heads: int
    width: int
    pair_hidden: int


class OwnStatesModel(nn.Module):
    """Pool and pair head; everything of the judge that is trained."""

    def __init__(self, shape: OwnStatesShape) -> None:
        super().__init__()
        self.pool = AttentionPool(len(shape.layers), shape.hidden, shape.heads, shape.width)
        self.head = PairHead(shape.heads * shape.width, shape.pair_hidden)

    def forward(self, cuts: Sequence[CutTrace]) -> torch.Tensor:
        """Cuts with states → vectors [cuts, heads * width]."""
        states = [cut.states for cut in cuts]
        device = self.pool.value.device
        padded = pad_sequence(states, batch_first=True).to(device)
        lengths = torch.tensor([len(state) for state in states], device=device)
        return self.pool(padded, torch.arange(padded.shape[1], device=device)[None] < lengths[:, None])


class OwnStatesJudge(VectorJudge):
    """Compares cuts by states that exist already; `usage` holds what the head computes."""

    name = "linear_own_states"
    needs_states = True
    parameters = 0  # of a model that reads tokens: there is none

    def __init__(self, model: OwnStatesModel, shape: OwnStatesShape, cut_rule: CutRule) -> None:
        self.model, self.shape, self.cut_rule = model.eval(), shape, cut_rule
        self.reset_usage()

    @property
    def capture_layers(self) -> tuple[int, ...]:
        return self.shape.layers

    @property
    def macs_per_pair(self) -> int:
        return self.model.head.macs_per_pair()

    @torch.no_grad()
    def read(self, cut: CutTrace) -> tuple[np.ndarray, Usage]:
        """[heads * width] float32 and its cost. Raises `JudgeError` for a cut without states or with states of other
        sizes."""
        wanted = (len(self.shape.layers), self.shape.hidden)
        if cut.states is None or tuple(cut.states.shape[1:]) != wanted:
            found = "none" if cut.states is None else f"[tokens, {', '.join(map(str, cut.states.shape[1:]))}]"
            raise JudgeError(
                f"the judge reads hidden states [tokens, {wanted[0]} layers, {wanted[1]}], but the cut has {found}; "
                "let the engine capture the judge's capture_layers of the model it was trained for"
            )
        cost = Usage(judge_head=self.macs_of_cut(len(cut.states)))
        return self.model([cut])[0].float().cpu().numpy(), cost

    def compare(self, vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        device = self.model.pool.value.device
        return pair_probabilities(self.model.head, torch.from_numpy(vectors).to(device), first, second)

    def macs_of_cut(self, tokens: int) -> int:
        """What encoding one cut of that many states costs [MACs]."""
        return tokens * self.model.pool.macs_per_token() + self.model.pool.macs_per_cut()

    def cost(self) -> JudgeCost:
        pool, pair = self.model.pool, self.model.head.macs_per_pair()
        return JudgeCost(self.parameters, pool.macs_per_token(), pool.macs_per_cut(), pair)

    def save_parts(self, folder: Path) -> JudgeParts:
        save_file(self.model.state_dict(), folder / HEAD_FILE)
        return JudgeParts(shape=as_json(self.shape))


def load_own_states(folder: Path, rule: CutRule, shape: OwnStatesShape, device: str | torch.device) -> OwnStatesJudge:
    """What `save_parts` wrote."""
    model = OwnStatesModel(shape)
    model.load_state_dict(load_file(folder / HEAD_FILE))
    return OwnStatesJudge(model.to(device), shape, rule)
