"""A key/value cache of rows that come and go, and the attention that reads it.

Every row starts at column 0 and is as long as its own trace. Buffers grow by a factor, new columns are written in
place, the model sees a view. Rows need no common alignment, so prompts of different lengths share a batch, and a row
that leaves is replaced by the last one.

The query heads of a group share one read of the cache. The library's SDPA path copies every key/value head once per
query head before each call when a mask is present. With one query position the heads of a group can stand in the
place of positions instead, and nothing is copied.
"""

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_GROWTH = 1.5
_FIRST_COLUMNS = 64

RowContent = list[torch.Tensor]
"""What one row holds, a tensor [heads, columns, width] per slot buffer."""


class SlotTensor:
    """A buffer [rows, heads, columns, width] of which each row uses its first columns."""

    def __init__(self) -> None:
        self.buffer: torch.Tensor | None = None

    def reserve(self, rows: int, columns: int, like: torch.Tensor) -> None:
        """Make room; `like` [..., heads, any, width] gives shape, type and device. Unused columns hold zeros,
        because a masked column still meets the values with weight zero, and 0 × NaN is NaN."""
        old = self.buffer
        if old is not None and old.shape[0] >= rows and old.shape[2] >= columns:
            return
        old_rows, old_columns = (0, 0) if old is None else (old.shape[0], old.shape[2])
        new_rows = old_rows if old_rows >= rows else max(rows, int(old_rows * _GROWTH))
        grown = max(columns, int(old_columns * _GROWTH), _FIRST_COLUMNS)
        new_columns = old_columns if old_columns >= columns else grown
        self.buffer = like.new_zeros(new_rows, like.shape[-3], new_columns, like.shape[-1])
        if old is not None:
            self.buffer[:old_rows, :, :old_columns] = old

    def put(self, first_row: int, count: int, content: torch.Tensor, expected_rows: int) -> None:
        """Copy `content` [heads, columns, width] into `count` rows, with room for `expected_rows` in all."""
        self.reserve(max(first_row + count, expected_rows), content.shape[1], content)
        self.buffer[first_row : first_row + count, :, : content.shape[1]] = content

    def write(self, columns: torch.Tensor, values: torch.Tensor) -> None:
        """One new column per row: `columns` [rows], `values` [rows, heads, width]."""
        rows = torch.arange(len(columns), device=columns.device)
        self.buffer[rows, :, columns] = values

    def take(self, row: int, columns: int) -> torch.Tensor:
        return self.buffer[row, :, :columns].clone()

    def move(self, target_rows: torch.Tensor, source_rows: torch.Tensor, columns: int) -> None:
        self.buffer[target_rows, :, :columns] = self.buffer[source_rows, :, :columns]


class SlotLayer(CacheLayerMixin):
    """One layer of the model. `update` expects one new position per row, at the columns set by `SlotCache.begin`."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.slots = (SlotTensor(), SlotTensor())
        self.columns: torch.Tensor | None = None
        self.visible = 0
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Rows enter through `SlotCache.add`, so there is nothing to prepare."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = len(self.columns)
        for slot, new in zip(self.slots, (key_states, value_states), strict=True):
            slot.reserve(rows, self.visible, new)
            slot.write(self.columns, new[:, :, 0])
        keys, values = (slot.buffer[:rows, :, : self.visible] for slot in self.slots)
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.visible, 0

    def get_seq_length(self) -> int:
        return max(self.visible - 1, 0)

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The cache of all running rows, in the form a transformers model takes as `past_key_values`."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[SlotLayer() for _ in range(layers)])

    @property
    def _slots(self) -> list[SlotTensor]:
        return [slot for layer in self.layers for slot in layer.slots]

    def begin(self, columns: torch.Tensor, visible: int) -> None:
        """Announce a forward pass: row i writes at `columns[i]`, the first `visible` columns are shown."""
        for layer in self.layers:
            layer.columns, layer.visible = columns, visible

    def add(self, first_row: int, count: int, content: RowContent, expected_rows: int) -> None:
        for slot, tensor in zip(self._slots, content, strict=True):
            slot.put(first_row, count, tensor, expected_rows)

    def take(self, row: int, columns: int) -> RowContent:
        return [slot.take(row, columns) for slot in self._slots]

    def move(self, target_rows: torch.Tensor, source_rows: torch.Tensor, columns: int) -> None:
        for slot in self._slots:
            slot.move(target_rows, source_rows, columns)

    def release(self) -> None:
        """Give the memory back; for a moment at which no row is left."""
        for slot in self._slots:
            slot.buffer = None


GROUPED_ATTENTION = "secateur_grouped_sdpa"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """`query` [rows, heads, positions, width], `key` and `value` [rows, groups, columns, width] →
    [rows, positions, heads, width]. More than one position goes to the library's own SDPA."""
    rows, heads, positions, width = query.shape
    if positions > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    folded = query.view(rows, key.shape[1], heads // key.shape[1], width)
    scale = width**-0.5 if scaling is None else scaling
    scores = torch.matmul(folded * scale, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    mixed = torch.matmul(weights.to(value.dtype), value)
    return mixed.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
