"""The options of eval/combined.py and what can be checked about them before a model is loaded."""

from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eval.table.baselines import SIMILARITIES
from eval.table.costs import TokenPrices, read_prices
from eval.table.deepconf import SHARES_KEPT, DeepConfRule
from eval.table.judge_names import READS_NOTHING, check_judge, judge_kind
from eval.table.labels import ALL
from eval.table.methods import COMPANIONS, METHODS
from eval.table.rules import PUBLISHED, changed_rule, method_name, rule_fields, rule_keys
from eval.table.tracking import check_tracking
from eval.traces.benchmarks import Problems, check_counts, check_names, count_of, load_benchmarks, sources_of
from eval.traces.sampling import SamplingKeys
from secateur.deepprune.cut import CutRule
from secateur.deepprune.rule import PruneRule
from secateur.engines.registry import engine_kind
from secateur.runtime.dry_run import SamplingPlanKeys, without_plan_keys
from secateur.runtime.errors import InputError

_RuleKeys = make_dataclass("_RuleKeys", rule_fields(), kw_only=True)


@dataclass(kw_only=True)
class CombinedConfig(SamplingKeys, SamplingPlanKeys, _RuleKeys):
    """Models × methods × benchmarks × n.

    models: name → model folder or Hub id; the first is the base that savings are measured against.
    judges: model → judge folder, or several; `random`, `tfidf`, `values` and `token_embedding` need no folder. The
      first is the one that runs live; all judges of a model cut alike.
    problems: one source (JSONL path, `arithmetic:<split>` or a benchmark's name), or benchmark → source; each of
      several then has a complete run folder of its own, `<output_dir>/<benchmark>`.
    problem_count: how many problems, for all benchmarks or benchmark → number; all by default.
    output_dir: gets combined.json, examples.json, and per model its traces and scores, which a later run takes up.
    n: traces per problem, or several such numbers. The largest is sampled; each smaller one is the mean over as many
      blocks of the stored traces as fit, all methods on the same blocks.
    cut_kind, cut_k: where untrained judges cut traces of a model that has no trained one (words: after the k-th
      reasoning word; tokens: after k tokens); trained ones bring their own cut.
    methods: single, consensus, deepprune, random_traces, consensus_equal_tokens, adaptive_consistency,
      early_stopping, deepconf_low, deepconf_high, embedding, oracle.
    tau and every other value of the rules in secateur/deepprune/clustering.py, finish.py and decide.py: how scores
    become
      survivors (the paper's K is max_clusters, K1 compared, K2 largest, K3 singletons).
    variants: name → values of those rules that differ, for a method `deepprune_<name>` beside deepprune; for example
      {adaptive: {start_batch: 8, lead: 3}}.
    similarity: what the method "embedding" compares cuts by: token_embedding, tfidf, values, or the folder of a judge
      of kind embedding.
    adaptive_threshold: Adaptive-Consistency stops once the majority stays with this probability (0-1).
    early_window: early stopping: so many answers in a row that agree.
    similarity_threshold: "embedding" drops cuts that are more alike than this (0-1).
    deepconf_warmup: traces that run to their ends and set DeepConf's bar; an n that is no larger has no DeepConf row.
    deepconf_window: size of a group [tokens], below the length of the traces; DeepConf needs top_logprobs: 20.
    deepconf_vote: what a vote weighs: the confidence of the trace's `lowest` group, the `mean` of its tokens, or all
      the same (`majority`).
    deepconf_consensus: share (0-1) of the weights that one answer needs for sampling to stop; null: all n run.
    keep_states: store the states of the cuts themselves, not what the judge made of them, so that other judges that
      read the same layers can be asked later, or several at once. Costs 2 bytes × layers × hidden per token.
    orders: orders of the traces that methods are averaged over which take them one after another; draws: random
      draws of the other methods.
    live: problems of each benchmark that the online controller runs as well, by every rule, with the largest n, to be
      held against the replay (true = all).
    examples: problems of which every trace is kept for the report.
    tolerance_points: what the recommended method may lose against the base model's vote of all n, as far as the
      interval of the paired difference reaches [percentage points of accuracy].
    prices: model or reading judge → {prompt, cached, generated}, money per million tokens; adds costs to the rows.
    report_to: none, wandb, tensorboard, or a list: where the table, the pictures and the report go besides the files.
    tracking_group: run folder of the schedule whose W&B group and project this evaluation joins; null finds it from a
      model path `<run folder>/final`, else the group is the name of output_dir.
    """

    problems: str | dict[str, str]
    judges: dict[str, str | list[str]] = field(default_factory=dict)
    problem_count: int | dict[str, int] | None = None
    n: int | list[int] = 64
    cut_kind: str = "words"
    cut_k: int = 25
    methods: list[str] = field(default_factory=lambda: ["single", "consensus", "deepprune", *COMPANIONS])
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    similarity: str = "tfidf"
    adaptive_threshold: float = 0.95
    early_window: int = 5
    similarity_threshold: float = 0.95
    deepconf_warmup: int = 16
    deepconf_window: int = 2048
    deepconf_vote: Literal["lowest", "mean", "majority"] = "lowest"
    deepconf_consensus: float | None = 0.95
    keep_states: bool = False
    orders: int = 20
    draws: int = 100
    live: bool | int = 0
    examples: int = 6
    tolerance_points: float = 3.0
    prices: dict[str, dict[str, float]] = field(default_factory=dict)
    report_to: str | list[str] = "none"
    tracking_group: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.benchmarks, (ALL,))
        check_counts("problem_count", self.problem_count, self.benchmarks)
        self._check_methods()
        self._check_numbers()
        _ = self.spec, self.rules, self.cut_rule
        self._check_baselines()
        self._check_judges()
        self._check_live()
        _ = self.token_prices
        check_tracking(self.report_to, self.tracking_group)
        self.check_plan()

    def _check_methods(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise InputError(f"key 'methods' names '{method}'; choose from {', '.join(METHODS)}")
        for method in COMPANIONS:
            if method in self.methods and "deepprune" not in self.methods:
                raise InputError(f"key 'methods': '{method}' is measured beside 'deepprune'; add deepprune")
        if self.variants and not self.prunes:
            raise InputError(
                "key 'variants' gives variants of 'deepprune', which key 'methods' does not name; add it"
            )

    def _check_baselines(self) -> None:
        self.require_positive("early_window")
        for key in ("adaptive_threshold", "similarity_threshold"):
            if not 0 < getattr(self, key) <= 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; write a number above 0, at most 1")
        if not self.deepconf_rules:
            return
        if not self.top_logprobs:
            raise InputError(
                f"key 'methods': '{next(iter(self.deepconf_rules))}' needs the confidence of every token; add "
                "top_logprobs: 20"
            )
        if self.deepconf_warmup >= self.largest_n:
            raise InputError(
                f"key 'deepconf_warmup' has the value {self.deepconf_warmup}, as many as all traces (n = "
                f"{self.largest_n}); give fewer"
            )

    def _check_numbers(self) -> None:
        self.require_positive("orders", "draws")
        fewest = 2 if self.prunes or "embedding" in self.methods else 1
        if not self.sizes or self.sizes[0] < fewest:
            why = "; pruning compares traces of one problem" if fewest > 1 else ""
            raise InputError(f"key 'n' has the value {self.n}{why}: at least {fewest}")
        if self.live < 0 or self.examples < 0:
            raise InputError(
                f"keys 'live' ({self.live}) and 'examples' ({self.examples}) count problems; give 0 or more"
            )
        if not 0 <= self.tolerance_points < 100:
            raise InputError(f"key 'tolerance_points' has the value {self.tolerance_points}; give 0 to below 100")

    def _check_judges(self) -> None:
        for model in self.judges:
            if model not in self.models:
                raise InputError(f"key 'judges' names the model '{model}', which key 'models' does not have")
        for model in self.models:
            if self.prunes and not self.judges_of(model):
                raise InputError(f"key 'judges' has none for the model '{model}'; name its judge folder, or random")
            for judge in self.scored_by(model):
                key = f"judges.{model}" if judge in self.judges_of(model) else "similarity"
                check_judge(key, judge, states=engine_kind(self.engine).hands_out_states)
        if "embedding" in self.methods and judge_kind(self.similarity) not in SIMILARITIES:
            raise InputError(
                f"key 'similarity' has the value '{self.similarity}', which is no similarity; choose from "
                f"{', '.join(SIMILARITIES)}"
            )

    def _check_live(self) -> None:
        """vLLM refuses more traces than it was opened for, and a live problem may start all of its traces at once."""
        places = engine_kind(self.engine).places(self.engine_options, self.rows)
        if places is None or not self.live or not self.prunes:
            return
        if places < self.largest_n:
            raise InputError(
                f"key 'rows' has the value {self.rows}: a problem that runs live has all its {self.largest_n} traces "
                f"in vLLM at once, which takes {places}; give rows or engine_options.max_num_seqs at least n, or "
                "live: 0"
            )

    @property
    def benchmarks(self) -> dict[str, str]:
        """Benchmark → source of its problems."""
        return sources_of(self.problems)

    @property
    def sizes(self) -> list[int]:
        """Every n, ascending."""
        return [self.n] if isinstance(self.n, int) else sorted(set(self.n))

    @property
    def largest_n(self) -> int:
        """How many traces of a problem are sampled."""
        return self.sizes[-1]

    def load(self) -> Problems:
        """The problems of every benchmark. Raises `InputError` for a source that cannot be read."""
        return load_benchmarks(self.benchmarks, self.problem_count, self.seed)

    @property
    def folders(self) -> dict[str, str]:
        """Benchmark → its run folder, relative to `output_dir`; a lone source has that folder itself."""
        return {name: name if isinstance(self.problems, dict) else "." for name in self.benchmarks}

    def of_benchmark(self, name: str) -> "CombinedConfig":
        """The config of a run on that benchmark alone, in its own folder."""
        if isinstance(self.problems, str):
            return self
        return replace(
            self,
            problems=self.problems[name],
            problem_count=count_of(self.problem_count, name),
            output_dir=str(Path(self.output_dir) / name),
        )

    def of_size(self, n: int) -> "CombinedConfig":
        """The config of one block of n traces. Chance is averaged over the blocks as well, so each takes its share of
        the orders and draws; DeepConf needs more traces than its warm-up takes."""
        blocks = self.largest_n // n
        left_out = self.deepconf_rules if n <= self.deepconf_warmup else {}
        return replace(
            self,
            n=n,
            orders=-(-self.orders // blocks),
            draws=-(-self.draws // blocks),
            methods=[method for method in self.methods if method not in left_out],
        )

    @property
    def prunes(self) -> bool:
        return PUBLISHED in self.methods

    @property
    def base(self) -> str:
        """Name of the model that savings are measured against."""
        return next(iter(self.models))

    @property
    def rule(self) -> PruneRule:
        return changed_rule(PruneRule(), {key: getattr(self, key) for key in rule_keys()}, "the config")

    @property
    def rules(self) -> dict[str, PruneRule]:
        """Method → rule: DeepPrune by the rule keys, then its variants."""
        if not self.prunes:
            return {}
        variants = {
            method_name(name): changed_rule(self.rule, values, f"key 'variants.{name}'")
            for name, values in self.variants.items()
        }
        return {PUBLISHED: self.rule, **variants}

    @property
    def deepconf_rules(self) -> dict[str, DeepConfRule]:
        """The DeepConf methods that are asked for."""
        options = (self.deepconf_warmup, self.deepconf_window, self.deepconf_vote, self.deepconf_consensus)
        return {name: DeepConfRule(share, *options) for name, share in SHARES_KEPT.items() if name in self.methods}

    @property
    def cut_rule(self) -> CutRule:
        return CutRule(self.cut_kind, self.cut_k)

    def judges_of(self, model: str) -> list[str]:
        judges = self.judges.get(model, [])
        return [judges] if isinstance(judges, str) else list(judges)

    def scored_by(self, model: str) -> list[str]:
        """The judges of a model, the one that gives the similarity last, if it is not among them."""
        extra = [self.similarity] if "embedding" in self.methods else []
        return list(dict.fromkeys([*(self.judges_of(model) if self.prunes else []), *extra]))

    @property
    def token_prices(self) -> dict[str, TokenPrices]:
        """Prices of the models and, by kind, of the judges that read tokens; {} if none are given."""
        kinds = {judge_kind(judge): judge for model in self.models for judge in self.scored_by(model)}
        judges = {kind: f"the judge {judge}" for kind, judge in kinds.items() if kind not in READS_NOTHING}
        return read_prices(self.prices, {name: f"the model {path}" for name, path in self.models.items()}, judges)

    def live_count(self, problems: int) -> int:
        """How many of the problems run live as well."""
        if not self.prunes:
            return 0
        return problems if self.live is True else min(int(self.live), problems)

    def resolved(self) -> dict[str, Any]:
        return without_plan_keys(asdict(self))
