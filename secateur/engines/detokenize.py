"""Text of a trace while it grows: deltas that concatenate to `tokenizer.decode(ids, skip_special_tokens=True)`.

Bytes of a character that is not complete yet are held back. Byte-level tokenizers (Qwen, Llama 3, DeepSeek) take a
table of bytes per token; all others decode a short window again at every token.
"""

import codecs
from typing import TYPE_CHECKING, Protocol

from tokenizers import decoders

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"


class TextStream(Protocol):
    """The text of one trace."""

    def push(self, token: int) -> str:
        """Text that became certain with this token."""

    def finish(self) -> str:
        """What was held back; incomplete bytes become the replacement character."""


class Detokenizer:
    """Opens a `TextStream` per trace."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._pieces = _byte_pieces(tokenizer)
        self._texts = None if self._pieces is None else [_as_text(piece) for piece in self._pieces]

    def stream(self) -> TextStream:
        if self._pieces is None:
            return _WindowStream(self._tokenizer)
        return _ByteStream(self._pieces, self._texts)


class _ByteStream:
    def __init__(self, pieces: list[bytes], texts: list[str | None]) -> None:
        self._pieces, self._texts = pieces, texts
        self._decoder: codecs.IncrementalDecoder | None = None

    def push(self, token: int) -> str:
        if token >= len(self._pieces):  # padded rows of the embedding matrix: no text
            return ""
        if self._decoder is None:
            text = self._texts[token]
            if text is not None:
                return text
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._decoder.decode(self._pieces[token])
        if not self._decoder.getstate()[0]:
            self._decoder = None
        return text

    def finish(self) -> str:
        decoder, self._decoder = self._decoder, None
        return "" if decoder is None else decoder.decode(b"", final=True)


class _WindowStream:
    """Decodes from the last settled token on; the window keeps one settled stretch, because some decoders treat the
    first token of a text differently."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._settled = 0

    def push(self, token: int) -> str:
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith(_REPLACEMENT):
            return ""
        delta = text[len(self._decode(self._window[: self._settled])) :]
        if delta:
            self._window = self._window[self._settled :]
            self._settled = len(self._window)
        return delta

    def finish(self) -> str:
        text = self._decode(self._window)
        return text[len(self._decode(self._window[: self._settled])) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _byte_pieces(tokenizer: "PreTrainedTokenizerBase") -> list[bytes] | None:
    """The bytes of every token id, special tokens empty; None if the tokenizer is not byte-level."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.decoder, decoders.ByteLevel):
        return None
    to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    special = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
    pieces = []
    for index in range(max(backend.get_vocab(with_added_tokens=True).values()) + 1):
        token = backend.id_to_token(index)
        if token is None or index in special:
            pieces.append(b"")
        elif all(character in to_byte for character in token):
            pieces.append(bytes(to_byte[character] for character in token))
        else:  # an added token is stored as plain text
            pieces.append(token.encode())
    return pieces


def _as_text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None
