"""A sentence encoder off the shelf as a judge: cosine of the embeddings of two cuts (sentence-transformers).

The baseline of the paper (SentenceBERT) and of embedding-based pruning. The library is optional:
`pip install secateur[embedding]`. An encoder reads as many tokens as its own limit allows, from the cut's beginning.
"""

from pathlib import Path

import numpy as np
import torch

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace, JudgeError, VectorJudge
from secateur.deepprune.judges.record import JudgeParts
from secateur.engines.accounting import Usage


class EmbeddingJudge(VectorJudge):
    """Implements `Judge`: reads every cut once, without the prompt, and counts what the encoder read."""

    name = "embedding"
    needs_states = False
    capture_layers = None

    def __init__(self, model_path: str | Path, cut_rule: CutRule, device: str | torch.device = "cpu") -> None:
        """`model_path` is a sentence-transformers folder or Hub id; raises `JudgeError` where it is none."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise JudgeError(
                "judge 'embedding': sentence-transformers is not installed; pip install 'secateur[embedding]', or "
                "take the judge 'token_embedding', which needs nothing"
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
        text = cut.text.strip() or "."  # some encoders make NaN of nothing
        found = self.encoder.encode(text, output_value=None, show_progress_bar=False)
        vector = torch.nn.functional.normalize(found["sentence_embedding"].float(), dim=-1)
        return vector.cpu().numpy(), Usage(judge_prefill=int(found["attention_mask"].sum()))

    def compare(self, vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.clip((vectors[first].astype(np.float64) * vectors[second]).sum(axis=1), 0.0, 1.0)

    def save_parts(self, folder: Path) -> JudgeParts:
        return JudgeParts(model=self.model_path)
