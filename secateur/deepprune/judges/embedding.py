"""A sentence encoder off the shelf as a judge: cosine of the embeddings of two cuts (sentence-transformers).

The baseline of the paper (SentenceBERT) and of embedding-based pruning. The library is optional:
`pip install -e '.[embedding]'` in the folder of this project. An encoder reads as many tokens as its own limit
allows, from the cut's beginning.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace, JudgeError, VectorJudge
from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind, JudgeReading
from secateur.deepprune.judges.pairs import JudgeData
from secateur.deepprune.judges.record import JUDGE_FILE, JudgeParts, JudgeRecord
from secateur.engines.accounting import Usage
from secateur.runtime.errors import InputError

if TYPE_CHECKING:
    import torch


class EmbeddingJudge(VectorJudge):
    """Implements `Judge`: reads every cut once, without the prompt, and counts what the encoder read."""

    name = "embedding"
    needs_states = False
    capture_layers = None

    def __init__(self, model_path: str | Path, cut_rule: CutRule, device: "str | torch.device" = "cpu") -> None:
        """`model_path` is a sentence-transformers folder or Hub id; raises `JudgeError` where it is none."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise JudgeError(
                "judge 'embedding': sentence-transformers is not installed; `pip install -e '.[embedding]'` in "
                "the folder of this project, or take the judge 'token_embedding', which needs nothing"
            ) from None
        try:
            self.encoder = SentenceTransformer(str(model_path), device=str(device))
        except (OSError, ValueError) as error:
            raise JudgeError(f"{model_path}: cannot be loaded by sentence-transformers ({error})") from None
        self.model_path, self.cut_rule = str(model_path), cut_rule
        self.parameters = sum(parameter.numel() for parameter in self.encoder.parameters())
        self.macs_per_pair = self.encoder.get_embedding_dimension()
        self.reset_usage()

    def read(self, cut: CutTrace) -> tuple[np.ndarray, Usage]:
        """[width] float32 of length 1; the tokens read are judge prefill."""
        from torch.nn.functional import normalize

        text = cut.text.strip() or "."  # some encoders make NaN of nothing
        found = self.encoder.encode(text, output_value=None, show_progress_bar=False)
        vector = normalize(found["sentence_embedding"].float(), dim=-1)
        return vector.cpu().numpy(), Usage(judge_prefill=int(found["attention_mask"].sum()))

    def compare(self, vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.clip((vectors[first].astype(np.float64) * vectors[second]).sum(axis=1), 0.0, 1.0)

    def save_parts(self, folder: Path) -> JudgeParts:
        return JudgeParts(model=self.model_path)


class EmbeddingKind(JudgeKind[JudgeKeys]):
    def check(self, keys: JudgeKeys) -> None:
        if keys.epochs:
            raise InputError(f"key 'epochs' has the value {keys.epochs}: an embedding judge is not trained; write 0")

    def as_it_is(self, keys: JudgeKeys, data: JudgeData, device: "str | torch.device") -> EmbeddingJudge:
        return EmbeddingJudge(keys.model, data.cut_rule, device)

    def load(self, folder: Path, record: JudgeRecord, device: "str | torch.device") -> EmbeddingJudge:
        if record.model is None:
            raise JudgeError(f"{folder / JUDGE_FILE}: names no 'model', the sentence encoder of this judge; add it")
        return EmbeddingJudge(record.model, record.cut, device)

    def reading(self, folder: Path, record: JudgeRecord) -> JudgeReading:
        return JudgeReading(tokens=lambda n, prompt, cut: n * cut)


KIND = EmbeddingKind(
    name="embedding",
    label="embedding",
    reads="the text of each cut once, with a sentence encoder",
    compares="vectors",
    training="never",
    reads_tokens=True,
    is_similarity=True,
)
