"""The options of `trainers/judge.py`: one YAML file, one judge."""

from dataclasses import dataclass
from typing import Literal

from deepprune.losses import FOCAL_GAMMA, MINORITY_FACTOR
from runtime.errors import InputError

DEFAULT_PAIRWISE_PROMPT = (
    "Below are the beginnings of two attempts at the same problem. Will both end in the same final answer?\n\n"
    "### Attempt A\n{a}\n\n### Attempt B\n{b}\n\nAnswer yes or no."
)
NEUTRAL_QUERY = " So the answer is"


@dataclass
class JudgeConfig:
    """`train`, `dev` and `test` are trace folders (or trace files) without a common problem."""

    output_dir: str
    train: str
    dev: str
    test: str
    model: str
    """linear_own_states: the generator. linear: the encoder to fine-tune; it reads the generator's tokens, so it has
    the generator's tokenizer. pairwise: the causal LM to fine-tune."""
    generator: str | None = None  # model whose input embeddings the untrained baseline uses; None = `model`
    kind: Literal["linear_own_states", "linear", "pairwise"] = "linear_own_states"

    # Data
    cut_kind: Literal["words", "tokens"] | None = None  # None = the rule of the train folder
    cut_k: int | None = None
    prompt_family: Literal["deepseek", "qwen", "plain"] | None = None  # how they were prompted; None = as they say

    # Sizes of what is trained beside a language model
    layers: list[int] | None = None  # own states: indices into hidden_states; None = all that are stored
    heads: int = 4
    width: int = 24  # values per attention head
    pair_hidden: int = 32

    # What a language model reads
    query: str = NEUTRAL_QUERY  # linear: read after the cut, the state of its last token is the vector
    prompt: str = DEFAULT_PAIRWISE_PROMPT  # pairwise: with {a} and {b}
    chat_template: bool = True  # pairwise: put the prompt into a user turn
    labels: tuple[str, str] = ("yes", "no")  # pairwise: their first tokens are compared
    max_tokens: int = 8192  # cap on what is read at once; longer cuts lose their beginning

    # Training
    epochs: float = 20.0
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.05  # fraction (0-1) of the steps
    problems_per_step: int = 4  # linear kinds: all pairs of so many problems; on all processes together
    pairs_per_step: int = 32  # pairwise; on all processes together
    focal_gamma: float = FOCAL_GAMMA
    focal_alpha: float | None = None
    minority_factor: float = MINORITY_FACTOR
    evaluations: int = 10  # on the development problems, spread over the training; the best one is kept
    dev_pairs: int = 2000  # pairwise: pairs drawn from the development problems
    test_pairs: int = 20000  # pairwise: pairs drawn from the test problems
    seed: int = 0
    report_to: Literal["none", "wandb"] = "none"

    def __post_init__(self) -> None:
        for key in (
            "heads",
            "width",
            "pair_hidden",
            "problems_per_step",
            "pairs_per_step",
            "evaluations",
            "max_tokens",
        ):
            if getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be at least 1")
        for key in ("epochs", "learning_rate", "minority_factor"):
            if getattr(self, key) <= 0:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be above 0")
        if self.focal_gamma < 0:
            raise InputError(f"key 'focal_gamma' has the value {self.focal_gamma}; it must be 0 or more")
        if self.focal_alpha is not None and not 0 < self.focal_alpha < 1:
            raise InputError(f"key 'focal_alpha' has the value {self.focal_alpha}; it must lie between 0 and 1")
        if (self.cut_kind is None) != (self.cut_k is None):
            raise InputError("give both 'cut_kind' and 'cut_k', or neither to take the rule of the train folder")
        if self.kind == "pairwise" and not ("{a}" in self.prompt and "{b}" in self.prompt):
            raise InputError("key 'prompt' must hold {a} and {b}, the places of the two cuts")
