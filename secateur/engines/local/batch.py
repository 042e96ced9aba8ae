"""The batch of running traces: which trace sits in which row, its keys, values and captured states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from secateur.engines.base import SamplingSpec, TraceUsage
from secateur.engines.detokenize import TextStream
from secateur.engines.local.drawing import UniformStream
from secateur.engines.local.kv_cache import RowContent, SlotCache, SlotTensor

_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(eq=False)
class LiveTrace:
    """`row` is its place in the batch while it runs; `columns` [tokens] counts what its cache holds; `saved` and
    `saved_states` hold its content while it is parked, the states also after its end."""

    handle: int
    prompt_ids: tuple[int, ...]
    spec: SamplingSpec
    uniforms: UniformStream
    text: TextStream
    usage: TraceUsage
    capturing: bool
    status: Literal["pending", "running", "parked", "finished", "pruned"] = "pending"
    row: int = -1
    columns: int = 0
    last_token: int = -1
    saved: RowContent | None = None
    saved_states: torch.Tensor | None = None

    @property
    def fed(self) -> int:
        """Generated tokens that went back into the model, so that they have key, value and hidden state."""
        return max(self.columns - len(self.prompt_ids), 0)


class RowBatch:
    """Rows of one model; a row that leaves is replaced by the last one at once."""

    def __init__(self, model: PreTrainedModel, capture_layers: Sequence[int]) -> None:
        self._model, self._layers = model, tuple(capture_layers)
        self._cache = SlotCache(model.config.get_text_config(decoder=True).num_hidden_layers)
        self._states = SlotTensor()
        self.rows: list[LiveTrace] = []

    def enter(self, traces: Sequence[LiveTrace], content: RowContent, expected_rows: int) -> None:
        """Append one row per trace, all with `content`. `expected_rows`: how many rows this round of arrivals will
        end with, so that the buffers grow once."""
        first = len(self.rows)
        self._cache.add(first, len(traces), content, expected_rows)
        for row, trace in enumerate(traces, start=first):
            trace.row, trace.status = row, "running"
        self.rows.extend(traces)

    def leave(self, traces: Sequence[LiveTrace]) -> None:
        """Take rows out; the last rows move into the gaps."""
        if not traces:
            return
        gone = {trace.row for trace in traces}
        left = len(self.rows) - len(gone)
        gaps = [row for row in sorted(gone) if row < left]
        movers = [trace for trace in self.rows[left:] if trace.row not in gone]
        if gaps:
            self._move(gaps, movers)
        del self.rows[left:]
        if not self.rows:
            self._cache.release()
            self._states = SlotTensor()

    def save(self, trace: LiveTrace) -> None:
        """Copy the content of a row to its trace, without padding."""
        trace.saved = self._cache.take(trace.row, trace.columns)
        trace.saved_states = self.states(trace) if trace.capturing else None

    def restore(self, trace: LiveTrace, expected_rows: int) -> None:
        self.enter([trace], trace.saved, expected_rows)
        if trace.capturing and trace.fed:
            self._states.put(trace.row, 1, trace.saved_states.flatten(1).unsqueeze(0), expected_rows)
        trace.saved = trace.saved_states = None

    def states(self, trace: LiveTrace) -> torch.Tensor:
        """A copy of what was captured of a running trace: fp16 [tokens fed, layers, hidden]."""
        if trace.fed == 0:
            return self.no_states()
        return self._states.take(trace.row, trace.fed)[0].view(trace.fed, len(self._layers), -1)

    def no_states(self) -> torch.Tensor:
        width = self._model.config.get_text_config(decoder=True).hidden_size
        return torch.empty(0, len(self._layers), width, dtype=torch.float16, device=self._model.device)

    def decode(self) -> torch.Tensor:
        """Feed every row its last token. Returns logits [rows, vocabulary]."""
        device = self._model.device
        columns = torch.tensor([trace.columns for trace in self.rows], device=device)
        visible = max(trace.columns for trace in self.rows) + 1
        self._cache.begin(columns, visible)
        hidden = torch.arange(visible, device=device) > columns.unsqueeze(1)
        mask = torch.zeros(hidden.shape, dtype=self._model.dtype, device=device).masked_fill_(hidden, float("-inf"))
        output = self._model(
            input_ids=torch.tensor([[trace.last_token] for trace in self.rows], device=device),
            attention_mask=mask[:, None, None, :],
            position_ids=columns.unsqueeze(1),
            past_key_values=self._cache,
            use_cache=True,
            output_hidden_states=any(trace.capturing for trace in self.rows),
        )
        if output.hidden_states is not None:
            self._capture(output.hidden_states)
        for trace in self.rows:
            trace.columns += 1
        return output.logits[:, -1]

    def _capture(self, hidden_states: Sequence[torch.Tensor]) -> None:
        """Keep the states of the tokens just fed; rows that capture no longer write to a column nobody reads."""
        stacked = torch.cat([hidden_states[layer] for layer in self._layers], dim=-1)
        stacked = stacked.clamp(-_HALF_MAX, _HALF_MAX).half()  # some models have activations beyond half precision
        places = [trace.fed if trace.capturing else 0 for trace in self.rows]
        self._states.reserve(len(places), max(places) + 1, stacked.unsqueeze(1))
        self._states.write(torch.tensor(places, device=stacked.device), stacked)

    def _move(self, gaps: list[int], movers: list[LiveTrace]) -> None:
        device = self._model.device
        targets = torch.tensor(gaps, device=device)
        sources = torch.tensor([trace.row for trace in movers], device=device)
        self._cache.move(targets, sources, max(trace.columns for trace in movers))
        captured = max((trace.fed for trace in movers if trace.capturing), default=0)
        if captured:
            self._states.move(targets, sources, captured)
        for row, trace in zip(gaps, movers, strict=True):
            self.rows[row], trace.row = trace, row
