"""The options of eval/combined.py, and what can be checked about them before a model is loaded."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from eval.table.costs import TokenPrices, read_prices
from eval.table.labels import ALL
from eval.table.registry import METHOD_KEYS, METHODS
from eval.traces.benchmarks import (
    Problems,
    check_benchmarks,
    check_counts,
    check_names,
    count_of,
    load_benchmarks,
    sources_of,
)
from eval.traces.foreign import ImportKeys
from eval.traces.sampling import SamplingKeys
from secateur.deepprune.cut import CutRule
from secateur.deepprune.evidence import Rule
from secateur.deepprune.judges.folder import check_judge, judge_kind
from secateur.deepprune.judges.registry import JUDGE_KINDS
from secateur.deepprune.scorer import read_scorer
from secateur.engines.registry import engine_kind
from secateur.runtime.console import say
from secateur.runtime.dry_run import SamplingPlanKeys, without_plan_keys
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.tracking import check_services, reporters


@dataclass(kw_only=True)
class CombinedConfig(SamplingKeys, SamplingPlanKeys, ImportKeys, *METHOD_KEYS):
    """Models × methods × benchmarks × n.

    models: name → model folder or Hub id; the first is the base that savings are measured against.
    judges: model → judge folder, or several; `random`, `tfidf`, `values` and `token_embedding` need no folder. The
      first is the one that runs live; all judges of a model cut alike.
    problems: one source (JSONL path, `arithmetic:<split>` or a benchmark's name), or benchmark → source; each of
      several then has a complete run folder of its own, `<output_dir>/<benchmark>`.
    problem_count: how many problems, for all benchmarks or benchmark → number; all by default.
    output_dir: gets combined.json, explorer.json, and per model its traces and scores, which a later run takes up.
    n: traces per problem, or several such numbers. The largest is sampled; each smaller one is the mean over as many
      blocks of the stored traces as fit, all methods on the same blocks. By default 64, or all that is imported.
    cut_kind, cut_k: where untrained judges cut traces of a model that has no trained one (words: after the k-th
      reasoning word; tokens: after k tokens); trained ones bring their own cut.
    tau and every other value of a rule (secateur/deepprune/rule.py): how scores become survivors (the paper's K is
      max_clusters, K1 compared, K2 largest, K3 singletons).
    keep_states: store the states of the cuts themselves, not what the judge made of them, so that other judges that
      read the same layers can be asked later, or several at once. Costs 2 bytes × layers × hidden per token.
    live: problems of each benchmark that the online controller runs as well, by every rule, with the largest n, to be
      compared with the replay (true = all).
    examples: problems of which every trace is kept for the report.
    tolerance_points: what the recommended method may lose against the base model's consensus of all n, as far as the
      interval of the paired difference reaches [percentage points of accuracy].
    prices: model or reading judge → {prompt, cached, generated}, money per million tokens; adds costs to the rows.
    report_to: none, wandb, tensorboard, or a list: where the table, the pictures and the report go besides the files.
    tracking_group: run folder of the schedule whose W&B group and project this evaluation joins; null finds it from a
      model path `<run folder>/final`, else the group is the name of output_dir.
    """

    models: dict[str, str] = field(default_factory=dict)
    problems: str | dict[str, str] = ""
    judges: dict[str, str | list[str]] = field(default_factory=dict)
    problem_count: int | dict[str, int] | None = None
    n: int | list[int] | None = None
    cut_kind: str = "words"
    cut_k: int = 25
    keep_states: bool = False
    live: bool | int = 0
    examples: int = 6
    tolerance_points: float = 3.0
    prices: dict[str, dict[str, float]] = field(default_factory=dict)
    report_to: str | list[str] = "none"
    tracking_group: str | None = None

    def __post_init__(self) -> None:
        self.check_imports()
        super().__post_init__()
        self._take_imports()
        if self.problems == "":
            raise InputError("key 'problems' is missing; name a source, for example aime24 or a JSONL file")
        self.n = 64 if self.n is None else self.n
        check_names(self.benchmarks, (ALL,))
        check_counts("problem_count", self.problem_count, self.benchmarks)
        self._check_methods()
        self._check_numbers()
        _ = self.spec, self.rules, self.cut_rule
        self._check_options()
        self._check_judges()
        self._check_scorers()
        self._check_live()
        _ = self.token_prices
        self._check_tracking()
        self.check_plan()

    def _take_imports(self) -> None:
        """What follows from `imports`: the files stand for models, and tell problems and n where the config does
        not; methods that need what they do not have are left out."""
        if not self.imports:
            return
        if self.models not in ({}, self.imports):
            raise InputError("keys 'models' and 'imports' are both given; sample some, or replay the others")
        if self.live:
            raise InputError(f"key 'live' has the value {self.live}, but imported traces have no model to run")
        self.models, self.problems = dict(self.imports), self.problems or self.imported_problems
        self.n = min(outline.fewest for outline in self.outlines.values()) if self.n is None else self.n
        lacking = {name: why for name in self.methods if name in METHODS and (why := self._lack(name))}
        for name, why in lacking.items():
            say(f"imports: method {name} is left out, since it needs {why}")
        self.methods = [name for name in self.methods if name not in lacking]
        self.variants = self.variants if self.prunes else {}
        if len(self.imports) > 1 or any(map(self.scored_by, self.models)):
            self.require_parameters()

    def _lack(self, name: str) -> str | None:
        """What a method needs and the imports do not have."""
        method = METHODS[name]
        others = [self._lack(other) for other in method.beside if other in self.methods]
        if others and all(others):
            return others[0]
        if method.reads_confidences:
            return "token confidences"
        if not (method.prunes or method.reads_similarity):
            return None
        if not all(outline.with_text for outline in self.outlines.values()):
            return "the text of every trace"
        if self.tokenizer is None:
            return "key 'tokenizer', to cut texts"
        return "key 'judges'" if method.prunes and not self.judges else None

    def _check_methods(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise InputError(f"key 'methods' names '{name}'; choose from {', '.join(METHODS)}")
        for name in self.methods:
            beside = METHODS[name].beside
            if beside and not set(beside) & set(self.methods):
                raise InputError(f"key 'methods': '{name}' is measured beside another; add {' or '.join(beside)}")
        if self.variants and not self.prunes:
            raise InputError(
                "key 'variants' gives variants of 'deepprune', which key 'methods' does not name; add it"
            )

    def _check_options(self) -> None:
        for name in self.methods:
            if METHODS[name].reads_confidences and not self.top_logprobs:
                raise InputError(f"key 'methods': '{name}' needs the confidence of every token; add top_logprobs: 20")
        if self.needs_confidences and self.deepconf_window > self.max_tokens:
            raise InputError(
                f"key 'deepconf_window' has the value {self.deepconf_window}, more than any trace can have "
                f"(max_tokens = {self.max_tokens}), so DeepConf would never stop one; give a quarter of their length"
            )
        for method in METHODS.values():
            method.check(self)
        for name in self.methods:
            METHODS[name].require(self, self.largest_n)

    def _check_tracking(self) -> None:
        check_services(self.report_to)
        group = self.tracking_group
        if group is None:
            return
        if not reporters(self.report_to):
            raise InputError(f"key 'tracking_group' has the value '{group}', but 'report_to' is none")
        if not Path(group).is_dir():
            raise InputError(
                f"key 'tracking_group' has the value '{group}': no such folder; name a schedule's run folder"
            )

    def _check_numbers(self) -> None:
        self.require_positive("orders", "draws")
        fewest = 2 if self.live_rules or self.needs_similarity else 1
        if not self.sizes or self.sizes[0] < fewest:
            why = "; traces of one problem are compared" if fewest > 1 else ""
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
            if self.asks_judges and not self.judges_of(model):
                raise InputError(f"key 'judges' has none for the model '{model}'; name its judge folder, or random")
            for judge in self.scored_by(model):
                key = f"judges.{model}" if judge in self.judges_of(model) else "similarity"
                check_judge(key, judge, states=engine_kind(self.engine).hands_out_states)
        if self.needs_similarity and not JUDGE_KINDS[judge_kind(self.similarity)].is_similarity:
            similarities = [name for name, kind in JUDGE_KINDS.items() if kind.is_similarity]
            raise InputError(
                f"key 'similarity' has the value '{self.similarity}', which is no similarity; choose from "
                f"{', '.join(similarities)}"
            )

    def _check_scorers(self) -> None:
        """Every model needs one if any has, and what it reads must be there."""
        for model in self.scorers:
            if model not in self.models:
                raise InputError(f"key 'scorers' names the model '{model}', which key 'models' does not have")
        for model in self.models if self.needs_scorer else ():
            if model not in self.scorers:
                raise InputError(f"key 'scorers' has none for the model '{model}'; train one: trainers/scorer.py")
            reads = read_scorer(self.scorers[model]).reads
            if "confidences" in reads and not self.top_logprobs:
                raise InputError(f"key 'scorers.{model}': it reads token confidences; add top_logprobs: 20")
            if "states" in reads and not engine_kind(self.engine).hands_out_states:
                raise InputError(
                    f"key 'scorers.{model}': it reads hidden states, which engine '{self.engine}' cannot hand out; "
                    "give one that reads order or confidences"
                )

    def _check_live(self) -> None:
        """vLLM refuses more traces than it was opened for, and a live problem may start all of its traces at once."""
        places = engine_kind(self.engine).places(self.engine_options, self.rows)
        if places is None or not self.live or not self.live_rules:
            return
        wanted = 2 * self.largest_n if self.needs_probes else self.largest_n
        if places < wanted:
            raise InputError(
                f"key 'rows' has the value {self.rows}: a problem that runs live has all its {self.largest_n} traces "
                f"in vLLM at once, with a probe beside each where answers are forced: {wanted}, and it takes "
                f"{places}; give rows or engine_options.max_num_seqs at least {wanted}, or live: 0"
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

    def check_inputs(self) -> None:
        """What `problems` names is there; imports bring their own."""
        super().check_inputs()
        check_benchmarks({} if self.imports else self.benchmarks, self.problem_count)

    def load(self) -> Problems:
        """The problems of every benchmark. Raises `InputError` for a source that cannot be read."""
        return load_benchmarks(self.benchmarks, self.problem_count, self.seed, self.imported_parts)

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
        the orders and draws; methods that need more traces are left out."""
        blocks = self.largest_n // n
        return replace(
            self,
            n=n,
            orders=-(-self.orders // blocks),
            draws=-(-self.draws // blocks),
            methods=[name for name in self.methods if METHODS[name].runs_at(self, n)],
        )

    @property
    def asks_judges(self) -> bool:
        return any(METHODS[name].prunes for name in self.methods)

    @property
    def needs_similarity(self) -> bool:
        return any(METHODS[name].reads_similarity for name in self.methods)

    @property
    def needs_probes(self) -> bool:
        return any(METHODS[name].reads_probes for name in self.methods)

    @property
    def probe_settings(self) -> str:
        """What fixes a forced answer, besides its trace."""
        return f"{self.probe_every} {self.probe_tokens} {self.probe_forcing} {self.answer_from}"

    @property
    def needs_confidences(self) -> bool:
        return any(METHODS[name].reads_confidences for name in self.methods)

    @property
    def needs_scorer(self) -> bool:
        return any(METHODS[name].reads_scorer for name in self.methods)

    @property
    def base(self) -> str:
        """Name of the model that savings are measured against."""
        return next(iter(self.models))

    @property
    def cut_rule(self) -> CutRule:
        return CutRule(self.cut_kind, self.cut_k)

    def judges_of(self, model: str) -> list[str]:
        judges = self.judges.get(model, [])
        return [judges] if isinstance(judges, str) else list(judges)

    @property
    def needs_models(self) -> bool:
        return not self.imports

    @property
    def sampled_models(self) -> dict[str, str]:
        return {} if self.imports else self.models

    def tokenizer_of(self, model: str) -> str:
        """Folder or Hub id of the model's tokenizer. Raises `InputError` where there is none."""
        if not self.imports:
            return super().tokenizer_of(model)
        if self.tokenizer is None:
            raise InputError("key 'tokenizer' is missing: prompts of imported traces are counted in tokens")
        return self.tokenizer

    def scored_by(self, model: str) -> list[str]:
        """The judges of a model, the one that gives the similarity last, if it is not among them."""
        extra = [self.similarity] if self.needs_similarity else []
        return list(dict.fromkeys([*(self.judges_of(model) if self.asks_judges else []), *extra]))

    @property
    def token_prices(self) -> dict[str, TokenPrices]:
        """Prices of the models and, by kind, of the judges that read tokens; {} if none are given."""
        kinds = {judge_kind(judge): judge for model in self.models for judge in self.scored_by(model)}
        judges = {kind: f"the judge {judge}" for kind, judge in kinds.items() if JUDGE_KINDS[kind].reads_tokens}
        return read_prices(self.prices, {name: f"the model {path}" for name, path in self.models.items()}, judges)

    @property
    def live_rules(self) -> dict[str, Rule]:
        """Method → rule, of those that run live and are shown trace by trace, DeepPrune's last."""
        others = {name: rule for method in self.methods for name, rule in METHODS[method].rules(self).items()}
        return {**others, **self.rules}

    def live_count(self, problems: int) -> int:
        """How many of the problems run live as well."""
        if not self.live_rules:
            return 0
        return problems if self.live is True else min(int(self.live), problems)

    def resolved(self) -> dict[str, JSON]:
        return without_plan_keys(asdict(self))
