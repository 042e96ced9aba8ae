"""Deltas concatenate to the text of all ids, however characters are split over tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from secateur.engines.detokenize import Detokenizer
from tests.tiny import build_tokenizer

BYTE_LEVEL = build_tokenizer()


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """The other family: SentencePiece-like words, single bytes where a character is unknown."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁so", "wait", ",", "▁x", "y"]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")


METASPACE = metaspace_tokenizer()


def deltas(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    stream = Detokenizer(tokenizer).stream()
    return [*(stream.push(token) for token in ids), stream.finish()]


@given(st.lists(st.integers(0, len(BYTE_LEVEL) + 3), max_size=40))
def test_any_ids_of_a_byte_level_tokenizer(ids: list[int]) -> None:
    assert "".join(deltas(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids, skip_special_tokens=True)


@given(st.text(max_size=30))
def test_any_text_comes_back(text: str) -> None:
    ids = BYTE_LEVEL(text).input_ids
    assert "".join(deltas(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids, skip_special_tokens=True)


@given(st.lists(st.sampled_from(["▁", "▁so", "wait", ",", "▁x", "y", "</s>", "é", "€", "😀"]), max_size=20))
def test_other_tokenizers(pieces: list[str]) -> None:
    ids = []
    for piece in pieces:
        token = METASPACE.convert_tokens_to_ids(piece)
        known = token is not None and METASPACE.convert_ids_to_tokens(token) == piece
        ids += [token] if known else [3 + byte for byte in piece.encode()]
    assert "".join(deltas(METASPACE, ids)) == METASPACE.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, METASPACE])
def test_a_character_appears_when_its_last_byte_does(tokenizer: PreTrainedTokenizerBase) -> None:
    offset = 3 if tokenizer is METASPACE else None
    if offset is None:
        ids = tokenizer("€uro").input_ids
    else:
        ids = [offset + byte for byte in "€".encode()] + [tokenizer.convert_tokens_to_ids("y")]
    assert deltas(tokenizer, ids)[:3] == ["", "", "€"]
    assert deltas(tokenizer, ids[:2])[:2] == ["", ""]
    assert set(deltas(tokenizer, ids[:2])[2]) == {"\ufffd"}, "an unfinished character is not silently lost"
