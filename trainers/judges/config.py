"""The options of `trainers/judge.py`: one YAML file, one judge."""

from dataclasses import dataclass
from typing import Literal

from secateur.deepprune.judges.calibration import CalibrationKind
from secateur.deepprune.judges.lora import LoraShape
from secateur.deepprune.judges.losses import FOCAL_GAMMA, MINORITY_FACTOR
from secateur.runtime.dry_run import PLAN_KEYS, PlanKeys
from secateur.runtime.errors import InputError
from secateur.runtime.hub import check_key

DEFAULT_PAIRWISE_PROMPT = (
    "Below are the beginnings of two attempts at the same problem. Will both end in the same final answer?\n\n"
    "### Attempt A\n{a}\n\n### Attempt B\n{b}\n\nAnswer yes or no."
)
NEUTRAL_QUERY = " So the answer is"
# Keys that change what is shown and sent, not what is trained; they may differ between starts.
FREE_KEYS = frozenset({*PLAN_KEYS, "report_to", "push_to_hub", "hub_model_id", "hub_private_repo"})


@dataclass
class JudgeConfig(PlanKeys):
    """What is trained, on which traces, and how.

    output_dir: gets the judge and metrics.json.
    train, dev, test: folders of traces; `test` shares no problem with the others. Several test folders (name →
      folder, such as one per model) give a row of figures each; those of the first also stand at the top of
      metrics.json. `train` may be missing where `epochs` is 0.
    cut_kind, cut_k: where traces are cut: after the k-th reasoning word (words) or token (tokens); by default the
      rule of the train folder.
    push_to_hub: upload the judge with its card when it is done; a start after that uploads what was not.
    hub_model_id: repository, `user/name` or `name` of your own; by default the name of `output_dir`.
    hub_private_repo: whether a repository that is made is private; by default as its owner has it.
    """

    output_dir: str
    dev: str
    test: str | dict[str, str]
    model: str
    """linear_own_states: the generator. linear: the encoder to fine-tune; it reads the generator's tokens, so it has
    the generator's tokenizer. pairwise: the causal LM to fine-tune. embedding: a sentence-transformers model."""
    train: str | None = None
    generator: str | None = None  # model whose tokenizer and input embeddings baselines use; None = `model`
    kind: Literal["linear_own_states", "linear", "pairwise", "embedding"] = "linear_own_states"  # docs/deepprune.md
    allow_other_model: bool = False  # own states: test folders may hold another model's states of the same sizes
    embedding_model: str | None = None  # sentence-transformers model that stands among the baselines

    # Data
    cut_kind: Literal["words", "tokens"] | None = None
    cut_k: int | None = None
    prompt_family: Literal["deepseek", "qwen", "plain"] | None = None  # how they were prompted; None = as they say

    # Sizes of what is trained beside a language model
    layers: list[int] | None = None  # own states: indices into hidden_states; None = all that are stored
    heads: int = 4  # own states: of the attention that pools the states of a cut
    width: int = 24  # values per attention head
    pair_hidden: int = 32  # hidden units of the head that compares two vectors

    # What a language model reads
    query: str = NEUTRAL_QUERY  # linear: read after the cut, the state of its last token is the vector
    prompt: str = DEFAULT_PAIRWISE_PROMPT  # pairwise: with {a} and {b}
    chat_template: bool = True  # pairwise: put the prompt into a user turn
    labels: tuple[str, str] = ("yes", "no")  # pairwise: their first tokens are compared
    max_tokens: int = 8192  # cap on what is read at once; longer cuts lose their beginning

    # The language model itself
    dtype: Literal["float32", "bfloat16"] = "float32"  # that it is loaded, trained and scored in
    gradient_checkpointing: bool = False  # computes activations twice instead of keeping them
    lora_rank: int = 0  # 0 = train all weights
    lora_alpha: float = 32.0  # what the adapters compute is multiplied by lora_alpha / lora_rank
    lora_dropout: float = 0.0  # fraction (0-1)
    lora_targets: str | list[str] = "all-linear"  # names of modules

    # Training
    epochs: float = 20.0  # 0 = use the model as it is (pairwise, embedding)
    learning_rate: float = 3e-3  # the highest; it rises over `warmup_share` of the steps and falls after them
    weight_decay: float = 0.05  # of AdamW
    warmup_share: float = 0.05  # fraction (0-1) of the steps
    problems_per_step: int = 4  # linear kinds: all pairs of so many problems; on all processes together
    pairs_per_step: int = 32  # pairwise; on all processes together
    items_per_forward: int | None = None  # of those, how many one process reads at once; less memory, same training
    focal_gamma: float = FOCAL_GAMMA  # of the focal loss; 0 = cross-entropy
    focal_alpha: float | None = None  # weight (0-1) of pairs with the same answer; None weighs both labels alike
    minority_factor: float = MINORITY_FACTOR  # how often a pair with the rarer label counts
    calibration: CalibrationKind = "affine"  # fitted on the development problems (judges/calibration.py)
    evaluations: int = 10  # on the development problems, spread over the training; the best one is kept
    dev_pairs: int = 2000  # pairwise: pairs drawn from the development problems
    test_pairs: int = 20000  # pairwise: pairs drawn from the test problems
    seed: int = 0  # of initial weights, order and draws of pairs
    report_to: Literal["none", "wandb", "tensorboard"] | list[Literal["wandb", "tensorboard"]] = "none"
    """none, wandb, tensorboard or a list of the two: where figures go besides train.jsonl and metrics.json."""

    # The Hub
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool | None = None

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
        for key in ("learning_rate", "minority_factor", "lora_alpha"):
            if getattr(self, key) <= 0:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be above 0")
        if self.focal_gamma < 0:
            raise InputError(f"key 'focal_gamma' has the value {self.focal_gamma}; it must be 0 or more")
        if self.focal_alpha is not None and not 0 < self.focal_alpha < 1:
            raise InputError(f"key 'focal_alpha' has the value {self.focal_alpha}; it must lie between 0 and 1")
        if (self.cut_kind is None) != (self.cut_k is None):
            raise InputError("give both 'cut_kind' and 'cut_k', or neither to take the rule of the train folder")
        check_key("hub_model_id", self.hub_model_id)
        self.check_plan()
        self._check_training()
        self._check_language_model()
        if self.kind == "pairwise" and not ("{a}" in self.prompt and "{b}" in self.prompt):
            raise InputError("key 'prompt' must hold {a} and {b}, the places of the two cuts")

    def _check_training(self) -> None:
        if self.epochs < 0:
            raise InputError(f"key 'epochs' has the value {self.epochs}; it must be 0 or more")
        if self.kind == "embedding" and self.epochs:
            raise InputError(f"key 'epochs' has the value {self.epochs}: an embedding judge is not trained; write 0")
        if self.kind.startswith("linear") and not self.epochs:
            raise InputError("key 'epochs' has the value 0: a linear judge has to be trained; write 1 or more")
        if self.epochs and self.train is None:
            raise InputError("key 'train' is missing: name the folder of traces to train on")
        if not self.tests:
            raise InputError("key 'test' is empty; name at least one folder of traces")

    def _check_language_model(self) -> None:
        if self.items_per_forward is not None and self.items_per_forward < 1:
            raise InputError(f"key 'items_per_forward' has the value {self.items_per_forward}; it must be at least 1")
        if self.lora_rank < 0:
            raise InputError(f"key 'lora_rank' has the value {self.lora_rank}; 0 trains all weights, 1 or more LoRA")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"key 'lora_dropout' has the value {self.lora_dropout}; it must be from 0 to below 1")
        if self.kind in ("linear", "pairwise"):
            return
        for key in ("lora_rank", "gradient_checkpointing", "items_per_forward"):
            if getattr(self, key):
                raise InputError(f"key '{key}' has the value {getattr(self, key)}: a judge of kind '{self.kind}' "
                                 "trains no language model; leave it out")  # fmt: skip
        if self.dtype != "float32":
            raise InputError(f"key 'dtype' has the value {self.dtype}: kind '{self.kind}' knows float32 only")

    @property
    def tests(self) -> dict[str, str]:
        """Name → test folder; a single one is called "test"."""
        return {"test": self.test} if isinstance(self.test, str) else self.test

    @property
    def lora(self) -> LoraShape | None:
        if not self.lora_rank:
            return None
        return LoraShape(self.lora_rank, self.lora_alpha, self.lora_dropout, self.lora_targets)
