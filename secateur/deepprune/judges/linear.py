"""A fine-tuned encoder of linear cost: it reads cut and a neutral query once per trace, the prompt once per problem.

The state of the query's last token, normalised, is the trace's vector; the same pair head as elsewhere compares two
vectors. The query ("So the answer is") makes the encoder look ahead; without any, trials lost .2 AUROC. The encoder
reads the generator's token ids, so it must share the generator's tokenizer.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, DynamicCache, PreTrainedModel

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace, VectorJudge, VectorSession
from secateur.deepprune.judges.heads import PairHead, pair_probabilities
from secateur.deepprune.judges.lora import save_language_model
from secateur.deepprune.judges.record import HEAD_FILE, JudgeParts
from secateur.engines.accounting import Usage
from secateur.runtime.records import as_json


@dataclass(frozen=True)
class LinearShape:
    """`query_ids` are read after the cut; `max_tokens` caps prompt, cut and query together."""

    query_ids: tuple[int, ...]
    pair_hidden: int
    max_tokens: int


class LinearModel(nn.Module):
    """Encoder (a model without language head), norm and pair head; all of it is trained."""

    def __init__(self, encoder: PreTrainedModel, shape: LinearShape) -> None:
        super().__init__()
        self.encoder, self.shape = encoder, shape
        width = encoder.config.get_text_config(decoder=True).hidden_size
        self.norm = nn.LayerNorm(width)
        self.head = PairHead(width, shape.pair_hidden)

    def small_parts(self) -> nn.ModuleDict:
        """What is trained beside the encoder."""
        return nn.ModuleDict({"norm": self.norm, "head": self.head})

    def read_ids(self, cut: CutTrace) -> list[int]:
        """What the encoder reads for one cut; too long a cut loses its beginning, never prompt or query."""
        return [*cut.prompt_ids, *self.ending(cut)]

    def ending(self, cut: CutTrace) -> list[int]:
        """The part of it after the problem's prompt, which all cuts share."""
        room = max(0, self.shape.max_tokens - len(cut.prompt_ids) - len(self.shape.query_ids))
        kept = cut.token_ids[max(0, len(cut.token_ids) - room) :] if room else ()
        return [*kept, *self.shape.query_ids]

    def read_prompt(self, prompt_ids: Sequence[int]) -> DynamicCache:
        """The key/value cache of a prompt, for `after`."""
        ids = torch.tensor([list(prompt_ids)], device=self.norm.weight.device)
        return self.encoder(input_ids=ids, use_cache=True).past_key_values

    def after(self, prompt: DynamicCache, cut: CutTrace) -> torch.Tensor:
        """[1, hidden]: what `forward` makes of the cut, its prompt having been read."""
        ids = torch.tensor([self.ending(cut)], device=self.norm.weight.device)
        own = copy.deepcopy(prompt)  # reading on writes into it
        states = self.encoder(input_ids=ids, past_key_values=own, use_cache=True).last_hidden_state
        return self.norm(states[:, -1].to(self.norm.weight.dtype))

    def forward(self, cuts: Sequence[CutTrace]) -> torch.Tensor:
        """[cuts, hidden]. Right-padded: a causal encoder never sees the padding."""
        rows = [self.read_ids(cut) for cut in cuts]
        device = self.norm.weight.device
        ends = torch.tensor([len(row) - 1 for row in rows], device=device)
        ids = torch.zeros(len(rows), int(ends.max()) + 1, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        mask = torch.arange(ids.shape[1], device=device)[None] <= ends[:, None]
        states = self.encoder(input_ids=ids.to(device), attention_mask=mask.long(), use_cache=False).last_hidden_state
        return self.norm(states[torch.arange(len(rows), device=device), ends].to(self.norm.weight.dtype))


class LinearJudge(VectorJudge):
    """Compares cuts by what a fine-tuned encoder makes of them; every token it reads is counted."""

    name = "linear"
    needs_states = False
    capture_layers = None

    def __init__(self, model: LinearModel, cut_rule: CutRule) -> None:
        self.model, self.cut_rule = model.eval(), cut_rule
        self.parameters = sum(p.numel() for p in model.encoder.parameters())
        self.reset_usage()

    @property
    def macs_per_pair(self) -> int:
        return self.model.head.macs_per_pair()

    @torch.no_grad()
    def read(self, cut: CutTrace) -> tuple[np.ndarray, Usage]:
        """[hidden] float32; every token read is counted as judge prefill, the shared prompt each time."""
        cost = Usage(judge_prefill=len(self.model.read_ids(cut)))
        return self.model([cut])[0].float().cpu().numpy(), cost

    def open(self, cuts: Sequence[CutTrace] = ()) -> "LinearSession":
        return LinearSession(self, cuts)

    def compare(self, vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        device, dtype = self.model.norm.weight.device, self.model.norm.weight.dtype
        return pair_probabilities(self.model.head, torch.from_numpy(vectors).to(device, dtype), first, second)

    def save_parts(self, folder: Path) -> JudgeParts:
        save_file(self.model.small_parts().state_dict(), folder / HEAD_FILE)
        save_language_model(self.model.encoder, folder / "model")
        return JudgeParts(shape=as_json(self.model.shape))


def load_linear(
    folder: Path, rule: CutRule, shape: LinearShape, device: str | torch.device, dtype: str
) -> LinearJudge:
    """What `save_parts` wrote."""
    model = LinearModel(AutoModel.from_pretrained(folder / "model", dtype=getattr(torch, dtype)), shape)
    model.small_parts().load_state_dict(load_file(folder / HEAD_FILE))
    return LinearJudge(model.to(device), rule)


class LinearSession(VectorSession):
    """Reads the problem's prompt once; the cuts that follow find it in the encoder's cache."""

    def __init__(self, judge: LinearJudge, cuts: Sequence[CutTrace]) -> None:
        self._prompt_ids: tuple[int, ...] | None = None
        self._prompt: DynamicCache | None = None
        super().__init__(judge, cuts)

    @torch.no_grad()
    def read(self, cut: CutTrace) -> tuple[np.ndarray, Usage]:
        model, known = self._judge.model, len(cut.prompt_ids)
        if not known:
            return self._judge.read(cut)
        cost = Usage(judge_prefill=len(model.ending(cut)), judge_cached=known)
        if cut.prompt_ids != self._prompt_ids:
            self._prompt_ids, self._prompt = cut.prompt_ids, model.read_prompt(cut.prompt_ids)
            cost = Usage(judge_prefill=known + len(model.ending(cut)))
        return model.after(self._prompt, cut)[0].float().cpu().numpy(), cost
