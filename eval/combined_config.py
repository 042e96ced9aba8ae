"""The options of eval/combined.py and what can be checked about them before a model is loaded."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepprune.cluster import ClusterRule
from deepprune.cut import CutRule
from deepprune.decide import PruneRule
from deepprune.finish import FinishRule
from deepprune.judges.untrained import UNTRAINED
from eval.methods import COMPANIONS, METHODS
from eval.sampling import SamplingKeys
from runtime.errors import InputError


@dataclass(kw_only=True)
class CombinedConfig(SamplingKeys):
    """Base and pruned model × every method.

    models: name → model folder or Hub id; the first is the base that savings are measured against.
    judges: model → judge folder, or several; `random`, `tfidf` and `embedding` need no folder. The first is the one
      that runs live; all judges of a model cut alike.
    problems, problem_count: JSONL path or `arithmetic:<split>`, and how many of them.
    output_dir: gets combined.json, examples.json, and per model its traces and scores, which a later run takes up.
    n: traces per problem.
    cut_kind, cut_k: where untrained judges cut a model's traces that has no trained one; those bring their own cut.
    methods: single, consensus, deepprune, random_traces, consensus_equal_tokens, oracle.
    tau … policy: how scores become survivors (deepprune/cluster.py, deepprune/finish.py; the paper's K is
      max_clusters, K1 compared, K2 largest, K3 singletons).
    orders: orders of the traces that DeepPrune is averaged over; draws: random draws of the other methods.
    live: problems that the online controller runs as well, to be held against the replay (true = all).
    examples: problems of which every trace is kept for the report.
    """

    problems: str
    judges: dict[str, str | list[str]] = field(default_factory=dict)
    problem_count: int | None = None
    n: int = 64
    cut_kind: str = "words"
    cut_k: int = 25
    methods: list[str] = field(default_factory=lambda: ["single", "consensus", "deepprune", *COMPANIONS])
    tau: float = 0.5
    max_clusters: int = 32
    compared: int = 10
    overflow: str = "stop"
    largest: int = 10
    singletons: int = 64
    policy: str = "largest"
    orders: int = 20
    draws: int = 100
    live: bool | int = 0
    examples: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_methods()
        self._check_numbers()
        _ = self.rule, self.cut_rule
        self._check_judges()

    def _check_methods(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise InputError(f"key 'methods' names '{method}'; choose from {', '.join(METHODS)}")
        for method in COMPANIONS:
            if method in self.methods and "deepprune" not in self.methods:
                raise InputError(f"key 'methods': '{method}' is measured beside 'deepprune'; add deepprune")

    def _check_numbers(self) -> None:
        self.require_positive("orders", "draws", "n")
        if self.live < 0 or self.examples < 0:
            raise InputError(
                f"keys 'live' ({self.live}) and 'examples' ({self.examples}) count problems; give 0 or more"
            )
        if self.prunes and self.n < 2:
            raise InputError(f"key 'n' has the value {self.n}; clustering compares traces of one problem: at least 2")

    def _check_judges(self) -> None:
        for model in self.judges:
            if model not in self.models:
                raise InputError(f"key 'judges' names the model '{model}', which key 'models' does not have")
        for model in self.models if self.prunes else ():
            if not self.judges_of(model):
                raise InputError(f"key 'judges' has none for the model '{model}'; name its judge folder, or random")
            for judge in self.judges_of(model):
                if judge not in UNTRAINED and not (Path(judge) / "judge.json").is_file():
                    raise InputError(
                        f"key 'judges.{model}' has the value '{judge}': no judge.json there; train one with "
                        f"trainers/judge.py, or choose from {', '.join(UNTRAINED)}"
                    )

    @property
    def prunes(self) -> bool:
        return "deepprune" in self.methods

    @property
    def base(self) -> str:
        """Name of the model that savings are measured against."""
        return next(iter(self.models))

    @property
    def rule(self) -> PruneRule:
        return PruneRule(
            ClusterRule(self.tau, self.max_clusters, self.compared, self.overflow),
            FinishRule(self.largest, self.singletons, self.policy),
        )

    @property
    def cut_rule(self) -> CutRule:
        return CutRule(self.cut_kind, self.cut_k)

    def judges_of(self, model: str) -> list[str]:
        judges = self.judges.get(model, [])
        return [judges] if isinstance(judges, str) else list(judges)

    def live_count(self, problems: int) -> int:
        """How many of the problems run live as well."""
        return problems if self.live is True else min(int(self.live), problems)

    def resolved(self) -> dict[str, Any]:
        return asdict(self)
