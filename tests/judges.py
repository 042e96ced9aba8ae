"""Small judges and cuts that several test files share: real code paths, no skill."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace
from secateur.deepprune.judges.linear import LinearJudge, LinearModel, LinearShape
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel, OwnStatesShape
from secateur.deepprune.judges.pairwise import PairReader, PairwiseFormat, PairwiseJudge, PairwiseModel

RULE = CutRule("words", 2)
SHAPE = OwnStatesShape(layers=(0, 1, 2), hidden=32, heads=2, width=8, pair_hidden=8)
FORMAT = PairwiseFormat("A: {a}\nB: {b}\nsame?", ("yes", "no"), chat_template=True, max_tokens=400)
TEXTS = ["so it is two", "okay then three", "", "so it is two", "wait, this is a rather longer text"]


def own_states() -> OwnStatesJudge:
    torch.manual_seed(0)
    return OwnStatesJudge(OwnStatesModel(SHAPE), SHAPE, RULE)


def linear(folder: Path) -> LinearJudge:
    torch.manual_seed(0)
    return LinearJudge(LinearModel(AutoModel.from_pretrained(folder), LinearShape((7, 8), 8, 400)), RULE)


def pairwise(folder: Path) -> PairwiseJudge:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return PairwiseJudge(PairwiseModel(model, PairReader(tokenizer, FORMAT)), RULE)


def make_cuts(tiny_model: Path) -> list[CutTrace]:
    """TEXTS as cuts with states; the first and the fourth are equal but for these."""
    tokenizer, generator = AutoTokenizer.from_pretrained(tiny_model), torch.Generator().manual_seed(1)
    ids = [tuple(tokenizer(text)["input_ids"]) for text in TEXTS]
    states = [torch.randn(max(0, len(row) - 1), 3, 32, generator=generator).half() for row in ids]
    return [CutTrace((5, 6), *parts) for parts in zip(ids, TEXTS, states, strict=True)]


def check_session(judge, cuts) -> None:
    scores = judge.score(cuts)
    session = judge.open(cuts[:2])
    assert [session.add(cut) for cut in cuts[2:]] == [2, 3, 4]
    asked = [(3, 0), (0, 3), (1, 4), (4, 2)]
    found = session.scores(asked)
    assert found.shape == (4,) and found.dtype == np.float64
    assert np.allclose(found, [scores[pair] for pair in asked], atol=1e-6) and found[0] == found[1]
    assert session.scores([]).shape == (0,)
    with pytest.raises(ValueError, match="with itself"):
        session.scores([(1, 1)])
