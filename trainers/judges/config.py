"""The options of `trainers/judge.py` and `trainers/scorer.py`: one YAML file, one judge or scorer."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from secateur.deepprune.cut import AUTO, DEFAULT_SHARE, check_share
from secateur.deepprune.judges.calibration import CalibrationKind
from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind
from secateur.deepprune.judges.registry import DEFAULT, JUDGE_KINDS, STORED
from secateur.deepprune.scorer import CUT, END, Reading, check_point, every_of
from secateur.engines.gguf import plain_model
from secateur.engines.trace_folder import no_traces, trace_files
from secateur.runtime.config import check_seed
from secateur.runtime.dry_run import PLAN_KEYS, PlanKeys, without_plan_keys
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.hub import check_key, require_model_folder
from secateur.tasks.answers.extraction import ANSWER, extraction

FOCAL_GAMMA, MINORITY_FACTOR = 2.0, 2.0
"""DeepPrune's focal loss, and how often a pair with the rarer label counts."""
# Keys that change what is shown and sent, not what is trained; they may differ between starts.
FREE_KEYS = frozenset({*PLAN_KEYS, "report_to", "push_to_hub", "hub_model_id", "hub_private_repo"})
_AT_LEAST_ONE = (
    "heads",
    "width",
    "pair_hidden",
    "problems_per_step",
    "pairs_per_step",
    "evaluations",
    "max_tokens",
    "dev_pairs",
    "test_pairs",
)
_OF_KINDS = tuple(kind.keys for kind in JUDGE_KINDS.values() if kind.keys is not None)


def require_traces(folder: str) -> None:
    """Raises `InputError` where there is no such folder, or no trace in it."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder of traces; make it with eval/collect_traces.py")
    if not trace_files(Path(folder)):
        raise no_traces(folder)


@dataclass(kw_only=True)
class JudgeConfig(*_OF_KINDS, JudgeKeys, PlanKeys):  # so that a kind brings its keys along
    """What is trained, on which traces, and how.

    output_dir: gets the judge and metrics.json.
    train, dev, test: folders of traces; `test` shares no problem with the others. Several test folders (name →
      folder, such as one per model) give a row of figures each; those of the first also stand at the top of
      metrics.json. `train` may be missing where `epochs` is 0.
    cut_kind, cut_k: where traces are cut: after the k-th reasoning word (words) or token (tokens); by default the
      rule of the train folder, with own states no later one than theirs. auto picks both from the development
      traces: the median cut is `cut_share` of its trace and under 5 % of the cuts are whole traces
      (secateur/deepprune/cut.py); not for own states, which end at a cut.
    cut_share: what auto aims at, a share of the trace (fraction 0-1).
    answer_from: where the final answer of a trace is: answer, anywhere, pattern:REGEX or package.module:function
      (see secateur/tasks/answers/extraction.py); pairs with equal answers are what the judge learns.
    push_to_hub: upload the judge with its card when it is done; a start after that uploads what was not.
    hub_model_id: repository, `user/name` or `name` of your own; by default the name of `output_dir`.
    hub_private_repo: whether a repository that is made is private; by default as its owner has it.
    """

    output_dir: str
    dev: str
    test: str | dict[str, str]
    train: str | None = None
    kind: Literal[STORED] = DEFAULT.name  # docs/deepprune.md
    allow_other_model: bool = False  # own states: test folders may hold another model's states of the same sizes
    embedding_model: str | None = None  # sentence-transformers model that stands among the baselines

    # Data
    cut_kind: Literal["words", "tokens", "auto"] | None = None
    cut_k: int | None = None
    cut_share: float = DEFAULT_SHARE
    prompt_family: Literal["deepseek", "qwen", "plain"] | None = None  # how they were prompted; None = as they say
    system_prompt: str | None = None  # likewise
    instruction: str | None = None  # likewise

    answer_from: str = ANSWER

    # Training
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
        self.model = plain_model(self.model)
        self.generator = None if self.generator is None else plain_model(self.generator)
        for key in _AT_LEAST_ONE:
            if getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be at least 1")
        for key in ("learning_rate", "minority_factor", "lora_alpha"):
            if getattr(self, key) <= 0:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be above 0")
        if self.focal_gamma < 0:
            raise InputError(f"key 'focal_gamma' has the value {self.focal_gamma}; it must be 0 or more")
        if self.focal_alpha is not None and not 0 < self.focal_alpha < 1:
            raise InputError(f"key 'focal_alpha' has the value {self.focal_alpha}; it must lie between 0 and 1")
        self._check_cut()
        check_seed(self.seed)
        check_key("hub_model_id", self.hub_model_id)
        extraction(self.answer_from)
        self.check_plan()
        self._check_training()
        self._check_adapters()
        self._check_language_model()

    def check_inputs(self) -> None:
        """The models and the folders of traces are there."""
        for key in ("model", "generator", "embedding_model"):
            name = getattr(self, key)
            if name is not None and not Path(name).is_dir():  # sentence encoders keep their config further down
                require_model_folder(key, name)
        for folder in filter(None, (self.train, self.dev, *self.tests.values())):
            require_traces(folder)

    def _check_cut(self) -> None:
        check_share(self.cut_share)
        if self.chooses_cut and self.judge_kind.reads_states:
            raise InputError(
                f"key 'cut_kind' is auto, but the states that a judge of kind '{self.kind}' reads end where the "
                "traces were cut when they were sampled; leave it out"
            )
        if self.chooses_cut and self.cut_k is not None:
            raise InputError(f"key 'cut_k' has the value {self.cut_k}, but cut_kind auto picks it; leave one out")
        if not self.chooses_cut and (self.cut_kind is None) != (self.cut_k is None):
            raise InputError("give both 'cut_kind' and 'cut_k', or neither to take the rule of the train folder")

    def _check_training(self) -> None:
        if self.epochs < 0:
            raise InputError(f"key 'epochs' has the value {self.epochs}; it must be 0 or more")
        self.judge_kind.check(self)
        if self.epochs and self.train is None:
            raise InputError("key 'train' is missing: name the folder of traces to train on")
        if not self.tests:
            raise InputError("key 'test' is empty; name at least one folder of traces")

    def _check_adapters(self) -> None:
        if self.items_per_forward is not None and self.items_per_forward < 1:
            raise InputError(f"key 'items_per_forward' has the value {self.items_per_forward}; it must be at least 1")
        if self.lora_rank < 0:
            raise InputError(f"key 'lora_rank' has the value {self.lora_rank}; 0 trains all weights, 1 or more LoRA")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"key 'lora_dropout' has the value {self.lora_dropout}; it must be from 0 to below 1")

    def _check_language_model(self) -> None:
        if self.judge_kind.language_model is not None:
            return
        for key in ("lora_rank", "gradient_checkpointing", "items_per_forward"):
            if getattr(self, key):
                raise InputError(f"key '{key}' has the value {getattr(self, key)}: a judge of kind '{self.kind}' "
                                 "trains no language model; leave it out")  # fmt: skip
        if self.dtype != "float32":
            raise InputError(f"key 'dtype' has the value {self.dtype}: kind '{self.kind}' knows float32 only")

    def to_json(self) -> dict[str, JSON]:
        """The keys as files keep them, without those of a dry run."""
        values = {key.name: getattr(self, key.name) for key in dataclasses.fields(self)}
        return without_plan_keys({key: list(v) if isinstance(v, tuple) else v for key, v in values.items()})

    @property
    def chooses_cut(self) -> bool:
        return self.cut_kind == AUTO

    @property
    def judge_kind(self) -> JudgeKind:
        return JUDGE_KINDS[self.kind]

    @property
    def items_per_step(self) -> int:
        """What a step of the optimiser is made of: `pairs_per_step` or `problems_per_step`."""
        return getattr(self, self.step_key)

    @property
    def step_key(self) -> str:
        """The key that sets it for the kind."""
        return "pairs_per_step" if self.judge_kind.compares == "pairs" else "problems_per_step"

    @property
    def tests(self) -> dict[str, str]:
        """Name → test folder; a single one is called "test"."""
        return {"test": self.test} if isinstance(self.test, str) else self.test


@dataclass(kw_only=True)
class ScorerConfig:
    """What a scorer reads, where, and how it is trained.

    output_dir: gets scorer.json, the heads and config.yaml.
    train, dev, test: folders of traces without common problems.
    model: the generator, whose states are read and whose tokenizer cuts the traces; not needed for other readings at
      other points than the cut, as of traces that a server made.
    reads: any of states, order (when a trace came to the point, beside its siblings) and confidences (the traces must
      have been sampled with top_logprobs).
    points: where a trace is looked at: cut, end, a share such as 25% (to see where a signal begins; no live run knows
      it), or every 64 (tokens). Each has a head and a fit of its own.
    head: attention pools the states before a point, linear is a probe of the newest one.
    layers: indices into hidden_states that are read; null = the last.
    window: how many states before a point are read [tokens].
    heads, width: of the attention, and values of each.
    cut_kind, cut_k: where the point cut is; by default the rule of the train folder.
    prompt_family, system_prompt, instruction: how the problems were put; by default as the train folder says.
    answer_from: where the final answer of a trace is (secateur/tasks/answers/extraction.py).
    epochs, learning_rate, weight_decay, problems_per_step, evaluations: of each head's training; the best of the
      evaluations is kept.
    """

    output_dir: str
    train: str
    dev: str
    test: str
    model: str | None = None
    reads: list[Reading] = field(default_factory=lambda: ["states"])
    points: list[str] = field(default_factory=lambda: [CUT, END])
    head: Literal["attention", "linear"] = "attention"
    layers: list[int] | None = None
    window: int = 64
    heads: int = 4
    width: int = 16
    cut_kind: Literal["words", "tokens"] | None = None
    cut_k: int | None = None
    prompt_family: Literal["deepseek", "qwen", "plain"] | None = None
    system_prompt: str | None = None
    instruction: str | None = None
    answer_from: str = ANSWER
    epochs: float = 8.0
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    problems_per_step: int = 4
    evaluations: int = 8
    dtype: Literal["float32", "bfloat16"] = "float32"  # the generator's
    seed: int = 0  # of initial weights and order

    def __post_init__(self) -> None:
        self.model = None if self.model is None else plain_model(self.model)
        for key in ("window", "heads", "width", "problems_per_step", "evaluations"):
            if getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be at least 1")
        for key in ("reads", "points"):
            if not getattr(self, key) or len(set(getattr(self, key))) < len(getattr(self, key)):
                raise InputError(
                    f"key '{key}' has the value {getattr(self, key)}; name each thing once, at least one"
                )
        for point in self.points:
            check_point(point)
            if every_of(point) and self.reads != ["states"]:
                raise InputError(f"key 'points' names '{point}': only states are read while traces run; leave it out")
        if (self.cut_kind is None) != (self.cut_k is None):
            raise InputError("give both 'cut_kind' and 'cut_k', or neither to take the rule of the train folder")
        if self.model is None and (self.reads_states or CUT in self.points):
            raise InputError("key 'model' is not given, but states are read or traces are cut; name the generator")
        if self.epochs <= 0 or self.learning_rate <= 0:
            raise InputError(f"keys 'epochs' ({self.epochs}) and 'learning_rate' must be above 0")
        check_seed(self.seed)

    def check_inputs(self) -> None:
        """The generator and the folders of traces are there."""
        if self.model is not None:
            require_model_folder("model", self.model)
        for folder in (self.train, self.dev, self.test):
            require_traces(folder)

    @property
    def reads_states(self) -> bool:
        return "states" in self.reads
