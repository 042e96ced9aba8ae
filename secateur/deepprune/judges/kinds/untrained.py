"""Kinds that need neither training nor a folder: three similarities and chance."""

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind

if TYPE_CHECKING:
    from secateur.deepprune.judges.untrained import RandomJudge, TfidfJudge, TokenEmbeddingJudge, ValuesJudge


class ValuesKind(JudgeKind[JudgeKeys]):
    def make(self, rule: CutRule, generator: str | Path | None) -> "ValuesJudge":
        from secateur.deepprune.judges.untrained import ValuesJudge

        return ValuesJudge(rule, generator)


class TfidfKind(JudgeKind[JudgeKeys]):
    def make(self, rule: CutRule, generator: str | Path | None) -> "TfidfJudge":
        from secateur.deepprune.judges.untrained import TfidfJudge

        return TfidfJudge(rule)


class TokenEmbeddingKind(JudgeKind[JudgeKeys]):
    def make(self, rule: CutRule, generator: str | Path | None) -> "TokenEmbeddingJudge":
        from secateur.deepprune.judges.untrained import TokenEmbeddingJudge

        return TokenEmbeddingJudge(rule, generator)


class RandomKind(JudgeKind[JudgeKeys]):
    def make(self, rule: CutRule, generator: str | Path | None) -> "RandomJudge":
        from secateur.deepprune.judges.untrained import RandomJudge

        return RandomJudge(rule)


VALUES = ValuesKind(
    name="values",
    label="values",
    reads="the numbers in the text of each cut",
    compares="vectors",
    training="never",
    needs_folder=False,
    is_similarity=True,
)
TFIDF = TfidfKind(
    name="tfidf",
    label="tfidf",
    reads="the words in the text of each cut",
    compares="vectors",
    training="never",
    needs_folder=False,
    is_similarity=True,
)
TOKEN_EMBEDDING = TokenEmbeddingKind(
    name="token_embedding",
    label="token embedding",
    reads="the tokens of each cut, by the generator's input embeddings",
    compares="vectors",
    training="never",
    needs_folder=False,
    needs_generator=True,
    is_similarity=True,
)
RANDOM = RandomKind(
    name="random",
    label="random",
    reads="nothing",
    compares="pairs",
    training="never",
    needs_folder=False,
    is_chance=True,
)
