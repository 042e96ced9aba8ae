"""The keys of trainers/embedded.py, apart from what takes seconds to import."""

from dataclasses import dataclass

from secateur.runtime.config import check_seed
from secateur.runtime.errors import InputError

_COUNTS = ("clean_tokens", "batch_tokens", "eval_problems", "eval_samples", "threads")


@dataclass
class EmbeddedConfig:
    """Options of the embedded training."""

    output_dir: str  # gets the model folder and training.json
    seed: int = 0  # of the corpus, the weights and the evaluation
    clean_tokens: int = 1_500_000  # of phase 1, the clean traces
    noisy_tokens: int = 2_500_000  # of phase 2, the traces with planted errors
    batch_tokens: int = 2048  # padded tokens per step
    matrix_lr: float = 0.02  # Muon, on the matrices of the layers
    other_lr: float = 5e-3  # AdamW, on embeddings and norms
    decay_share: float = 0.5  # last fraction (0-1) of the training in which the learning rates fall to 0
    key_weight: float = 4.0  # loss weight of step headers and decision words
    eval_problems: int = 240  # that the finished model is measured on
    eval_samples: int = 4  # of each of them
    threads: int = 1  # of torch

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for key in _COUNTS:
            if getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be at least 1")
        if self.noisy_tokens < 0:
            raise InputError(f"key 'noisy_tokens' has the value {self.noisy_tokens}; it must be 0 or more")
        for key in ("matrix_lr", "other_lr", "key_weight"):
            if getattr(self, key) <= 0:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be above 0")
        if not 0 < self.decay_share <= 1:
            raise InputError(
                f"key 'decay_share' has the value {self.decay_share}; give a fraction above 0, at most 1"
            )
