"""The paper's judge (arXiv 2510.08483): a causal LM reads two cuts in one prompt and says whether they will agree.

The probability of the "yes" label against the "no" label at the next token is the score; nothing is generated. The
paper's prompt is published nowhere, so ours is a setting and is kept with the judge. A pair is always read in one
order, the smaller text first, which makes the scores symmetric at the price of one reading per pair. Without training
this is the zero-shot judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deepprune.cut import CutRule
from deepprune.judges.base import CutTrace, JudgeError
from engines.accounting import TokenLedger

READ_TOKENS = 16_384  # padded tokens in one forward pass of scoring


@dataclass(frozen=True)
class PairwiseFormat:
    """How a pair is put to the model. `prompt` holds {a} and {b}; `labels` are the words for same and different;
    `max_tokens` caps the prompt: cuts that are too long lose their beginnings."""

    prompt: str
    labels: tuple[str, str]
    chat_template: bool
    max_tokens: int


class PairReader:
    """Turns two texts into the token ids of one prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, shape: PairwiseFormat) -> None:
        self.tokenizer, self.shape = tokenizer, shape
        prompt = shape.prompt
        if shape.chat_template:
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": shape.prompt}], tokenize=False, add_generation_prompt=True
            )
        before, rest = prompt.split("{a}", 1)
        between, after = rest.split("{b}", 1)
        self._frame = [self._ids(part) for part in (before, between, after)]
        self.room = (shape.max_tokens - sum(map(len, self._frame))) // 2
        if self.room < 1:
            raise JudgeError(
                f"key 'max_tokens' has the value {shape.max_tokens}: the judge's prompt alone is as long"
            )
        self.label_ids = tuple(self._ids(label)[0] for label in shape.labels)
        if self.label_ids[0] == self.label_ids[1]:
            raise JudgeError(f"the labels {shape.labels} begin with the same token; choose two that differ in it")

    def read(self, a: str, b: str) -> list[int]:
        """The prompt for one pair; the same for (a, b) and (b, a)."""
        small, large = sorted((a, b))
        before, between, after = self._frame
        return [*before, *self._ids(small)[-self.room :], *between, *self._ids(large)[-self.room :], *after]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class PairwiseModel(nn.Module):
    """Prompts → the logit of "same" [pairs]: the difference of the two labels' logits at the next token."""

    def __init__(self, language_model: PreTrainedModel, reader: PairReader) -> None:
        super().__init__()
        self.language_model, self.reader = language_model, reader

    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Left-padded, so that one position holds every row's next-token logits."""
        longest = max(map(len, rows))
        device = next(self.language_model.parameters()).device
        ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, longest - len(row) :] = torch.tensor(row)
            mask[index, longest - len(row) :] = 1
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = self.language_model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            logits_to_keep=1,
            use_cache=False,
        ).logits[:, -1]
        same, different = self.reader.label_ids
        return logits[:, same] - logits[:, different]


class PairwiseJudge:
    """Implements `Judge`. Reads n (n - 1) / 2 prompts for n traces."""

    name = "pairwise"
    needs_states = False
    capture_layers = None

    def __init__(self, model: PairwiseModel, cut_rule: CutRule) -> None:
        self.model, self.cut_rule = model.eval(), cut_rule
        self.parameters = sum(p.numel() for p in model.language_model.parameters())
        self.reset_ledger()

    def reset_ledger(self) -> None:
        self.ledger = TokenLedger()

    def score(self, cuts: Sequence[CutTrace]) -> np.ndarray:
        self.reset_ledger()
        n = len(cuts)
        first, second = np.triu_indices(n, k=1)
        matrix = np.eye(n)
        values = self.score_pairs([(cuts[i].text, cuts[j].text) for i, j in zip(first, second, strict=True)])
        matrix[first, second] = values
        matrix[second, first] = values
        return matrix

    @torch.no_grad()
    def score_pairs(self, texts: Sequence[tuple[str, str]]) -> np.ndarray:
        """[pairs] float64. Prompts of like length share a forward pass; every token read is counted."""
        rows = [self.model.reader.read(a, b) for a, b in texts]
        self.ledger += TokenLedger(judge_prefill=sum(map(len, rows)))
        values = np.zeros(len(rows))
        for batch in _batches([len(row) for row in rows]):
            values[batch] = torch.sigmoid(self.model([rows[index] for index in batch]).double()).cpu().numpy()
        return values


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices by length, in batches of at most READ_TOKENS padded tokens."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > READ_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches
