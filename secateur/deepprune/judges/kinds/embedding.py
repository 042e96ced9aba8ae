"""Kind `embedding`: a sentence encoder off the shelf, cosine of the embeddings of two cuts."""

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.deepprune.judges.base import JudgeError
from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind, Reading
from secateur.deepprune.judges.pairs import JudgeData
from secateur.deepprune.judges.record import JUDGE_FILE, JudgeRecord
from secateur.runtime.errors import InputError

if TYPE_CHECKING:
    import torch

    from secateur.deepprune.judges.embedding import EmbeddingJudge


class EmbeddingKind(JudgeKind[JudgeKeys]):
    """See embedding.py for the judge."""

    def check(self, keys: JudgeKeys) -> None:
        if keys.epochs:
            raise InputError(f"key 'epochs' has the value {keys.epochs}: an embedding judge is not trained; write 0")

    def as_it_is(self, keys: JudgeKeys, data: JudgeData, device: "str | torch.device") -> "EmbeddingJudge":
        from secateur.deepprune.judges.embedding import EmbeddingJudge

        return EmbeddingJudge(keys.model, data.cut_rule, device)

    def load(self, folder: Path, record: JudgeRecord, device: "str | torch.device") -> "EmbeddingJudge":
        from secateur.deepprune.judges.embedding import EmbeddingJudge

        if record.model is None:
            raise JudgeError(f"{folder / JUDGE_FILE}: names no 'model', the sentence encoder of this judge; add it")
        return EmbeddingJudge(record.model, record.cut, device)

    def reading(self, folder: Path, record: JudgeRecord) -> Reading:
        return Reading(tokens=lambda n, prompt, cut: n * cut)


KIND = EmbeddingKind(
    name="embedding",
    label="embedding",
    reads="the text of each cut once, with a sentence encoder",
    compares="vectors",
    training="never",
    reads_tokens=True,
    is_similarity=True,
)
