"""The paper's judge (arXiv 2510.08483): a causal LM reads two cuts in one prompt and says whether they will agree.

The probability of the "yes" label against the "no" label at the next token is the score; nothing is generated. The
paper's prompt is published nowhere, so ours is a setting and is kept with the judge. Without training this is the
zero-shot judge.

A pair is read once, the later trace first. That makes scores symmetric without a second reading, and it makes the
new trace the common beginning of all pairs it is compared in: the prompt up to its end is read once per call and its
key/value cache serves them all, so n traces cost n (n - 1) / 2 readings of one cut instead of two. An order by
content would be as symmetric, but half of a new trace's pairs would begin with another trace. Training shows each
pair in an order drawn at random, so that neither place means anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace, JudgeError, SessionJudge, pair_columns
from secateur.deepprune.judges.lora import save_language_model
from secateur.deepprune.judges.record import JudgeParts
from secateur.engines.accounting import Usage
from secateur.engines.model_files import load_tokenizer
from secateur.engines.models import load_model
from secateur.runtime.records import as_json
from secateur.tasks.prompts import render_chat

READ_TOKENS = 16_384  # padded tokens of one forward pass of scoring, cached ones included


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
            if not tokenizer.chat_template:
                name = tokenizer.name_or_path
                raise JudgeError(f"key 'chat_template' is true, but the tokenizer of {name} has none; set it false")
            prompt = render_chat(tokenizer, [{"role": "user", "content": shape.prompt}])
        before, rest = prompt.split("{a}", 1)
        between, after = rest.split("{b}", 1)
        self._before, self._between, self._after = (self._ids(part) for part in (before, between, after))
        self.room = (shape.max_tokens - sum(map(len, (self._before, self._between, self._after)))) // 2
        if not self._after:
            raise JudgeError("key 'prompt' ends with {b}: something has to follow it, where the label is read off")
        if self.room < 1:
            raise JudgeError(
                f"key 'max_tokens' has the value {shape.max_tokens}: the judge's prompt alone is as long"
            )
        self.label_ids = tuple(self._ids(label)[0] for label in shape.labels)
        if self.label_ids[0] == self.label_ids[1]:
            raise JudgeError(f"the labels {shape.labels} begin with the same token; choose two that differ in it")

    def begin(self, a: str) -> list[int]:
        """The prompt up to where the second cut begins: what all pairs with `a` in the first place share."""
        return [*self._before, *self._ids(a)[-self.room :], *self._between]

    def end(self, b: str) -> list[int]:
        """The rest, never empty: the second cut and what follows it."""
        return [*self._ids(b)[-self.room :], *self._after]

    def read(self, a: str, b: str) -> list[int]:
        """The prompt for one pair, `a` in the first place."""
        return self.begin(a) + self.end(b)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class PairwiseModel(nn.Module):
    """Prompts → the logit of "same" [pairs]: the difference of the two labels' logits at the next token."""

    def __init__(self, language_model: PreTrainedModel, reader: PairReader) -> None:
        super().__init__()
        self.language_model, self.reader = language_model, reader

    def forward(self, rows: Sequence[Sequence[int]], shared: DynamicCache | None = None) -> torch.Tensor:
        """Logits [rows], float32. Left-padded, so that one position holds every row's next-token logits. `shared` is
        the cache of a beginning that all rows have in common and that is not part of them."""
        longest, start = max(map(len, rows)), 0 if shared is None else shared.get_seq_length()
        device = next(self.language_model.parameters()).device
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.ones(len(rows), start + longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, longest - len(row) :] = torch.tensor(row)
            mask[index, start : start + longest - len(row)] = 0
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, start:]
        logits = self.language_model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=None if shared is None else _repeated(shared, len(rows)),
            logits_to_keep=1,
            use_cache=shared is not None,
        ).logits[:, -1]
        same, different = self.reader.label_ids
        return logits[:, same].float() - logits[:, different].float()

    def read_beginning(self, row: Sequence[int]) -> DynamicCache:
        """The key/value cache of one row, for `forward`."""
        ids = torch.tensor([row], device=next(self.language_model.parameters()).device)
        return self.language_model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values


class PairwiseJudge(SessionJudge):
    """Implements `Judge`. Reads n prompt beginnings and n (n - 1) / 2 endings for n traces."""

    name = "pairwise"
    needs_states = False
    capture_layers = None

    def __init__(self, model: PairwiseModel, cut_rule: CutRule) -> None:
        self.model, self.cut_rule = model.eval(), cut_rule
        self.source: str | None = None
        """Folder or Hub id of a model that is used as it is; the judge's folder then only names it."""
        self.parameters = sum(p.numel() for p in model.language_model.parameters())
        self.reset_usage()

    def open(self, cuts: Sequence[CutTrace] = ()) -> "PairwiseSession":
        return PairwiseSession(self, cuts)

    def save_parts(self, folder: Path) -> JudgeParts:
        reader = self.model.reader
        if self.source is None:
            save_language_model(self.model.language_model, folder / "model")
            reader.tokenizer.save_pretrained(folder / "model")
        return JudgeParts(shape=as_json(reader.shape), model=self.source)


def load_pairwise(
    model_path: str | Path,
    rule: CutRule,
    shape: PairwiseFormat,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
) -> PairwiseJudge:
    """A pairwise judge from any causal language model; without training it is the zero-shot judge."""
    language_model = load_model(model_path, dtype, torch.device(device))
    reader = PairReader(load_tokenizer(model_path), shape)
    return PairwiseJudge(PairwiseModel(language_model, reader), rule)


class PairwiseSession:
    """Implements `JudgeSession`: reads the pairs it is asked for; adding a cut costs nothing."""

    def __init__(self, judge: PairwiseJudge, cuts: Sequence[CutTrace]) -> None:
        self._judge, self._texts, self.usage = judge, [cut.text for cut in cuts], Usage()

    def add(self, cut: CutTrace) -> int:
        self._texts.append(cut.text)
        return len(self._texts) - 1

    @torch.no_grad()
    def scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        older, newer = pair_columns(pairs)
        logits = np.zeros(len(older))
        for new in np.unique(newer):
            places = np.flatnonzero(newer == new)
            logits[places] = self._compared(int(new), older[places].tolist())
        return self._judge.calibration(_sigmoid(logits))

    def _compared(self, new: int, older: Sequence[int]) -> np.ndarray:
        """Logits [older] of one trace against others, its own text read once."""
        model = self._judge.model
        beginning = model.reader.begin(self._texts[new])
        endings = [model.reader.end(self._texts[old]) for old in older]
        if len(endings) == 1 or not beginning:  # nothing to share
            self.usage += Usage(judge_prefill=sum(len(beginning) + len(row) for row in endings))
            return model([beginning + row for row in endings]).double().cpu().numpy()
        self.usage += Usage(
            judge_prefill=len(beginning) + sum(map(len, endings)), judge_cached=(len(endings) - 1) * len(beginning)
        )
        shared, logits = model.read_beginning(beginning), np.zeros(len(endings))
        for batch in _batches([len(row) for row in endings], len(beginning)):
            logits[batch] = model([endings[index] for index in batch], shared).double().cpu().numpy()
        return logits


def _batches(lengths: Sequence[int], shared: int) -> list[list[int]]:
    """Indices by length, in batches of at most READ_TOKENS padded tokens, each row `shared` longer than it says."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if not batches or (len(batches[-1]) + 1) * (shared + lengths[batches[-1][0]]) > READ_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


def _repeated(cache: DynamicCache, rows: int) -> DynamicCache:
    """The cache of one row as that of `rows` equal rows; the original stays as it is."""
    fresh = DynamicCache()
    for index, layer in enumerate(cache.layers):
        keys, values = (part.expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
        fresh.update(keys, values, index)
    return fresh


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.sigmoid(torch.from_numpy(logits)).numpy()
