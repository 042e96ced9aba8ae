"""The options of eval/collect_traces.py, and what follows from them before anything is loaded."""

from dataclasses import dataclass, field
from pathlib import Path

from eval.traces.benchmarks import check_benchmarks, check_folder_names
from eval.traces.sampling import SamplingKeys
from secateur.deepprune.cut import AUTO, DEFAULT_SHARE, CutRule, check_share
from secateur.engines.model_files import check_capture_layers, read_model_config
from secateur.engines.registry import engine_kind
from secateur.runtime.dry_run import SamplingPlanKeys
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.tasks.records import Problem
from secateur.tasks.sources import load_problems


@dataclass(kw_only=True)
class CollectConfig(SamplingKeys, SamplingPlanKeys):
    """What is sampled, or taken over.

    problems: set → JSONL path or `arithmetic:<split>`; problem_counts: set → how many of them (default all).
    imports: set → file of traces made elsewhere (`problem_id, problem, gold, sample, text`, optionally `model`),
      `.jsonl` or `.jsonl.gz`; models and problems may then be left out.
    tokenizer: folder or Hub id that counts the tokens of imported text; without one their lengths stay unknown.
    samples: traces per problem.
    cut_kind, cut_k: where a judge will cut the traces: after the k-th reasoning word (words) or token (tokens); see
      secateur/deepprune/cut.py. auto picks both from the imported traces, so that the median cut is `cut_share` of
      its trace and under 5 % of the cuts are whole traces.
    cut_share: what auto aims at, a share of the trace (fraction 0-1).
    states: store the hidden states up to the cut, which own-state judges are trained on; `layers`: their indices in
      `hidden_states` (0 = embeddings), all by default.
    """

    models: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    tokenizer: str | None = None
    problem_counts: dict[str, int] = field(default_factory=dict)
    samples: int = 16
    cut_kind: str = "words"
    cut_k: int = 25
    cut_share: float = DEFAULT_SHARE
    states: bool = True
    layers: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_plan()
        self.require_positive("samples")
        self._check_cut()
        check_folder_names("problems", self.problems)
        check_folder_names("imports", self.imports)
        for name in self.problem_counts:
            if name not in self.problems:
                raise InputError(f"key 'problem_counts' names the set '{name}', which key 'problems' does not have")
        if not self.problems and not self.imports:
            raise InputError("neither key 'problems' nor key 'imports' names a set; give at least one")
        for name, path in self.imports.items():
            if not Path(path).is_file():
                raise InputError(f"key 'imports.{name}' has the value '{path}': no such file")
        if not engine_kind(self.engine).hands_out_states and self.problems and self.states:
            raise InputError("key 'states' is true, but a server hands out no hidden states; write 'states: false'")
        if self.tokenizer is not None and not self.imports:
            raise InputError("key 'tokenizer' counts the tokens of imported text; give 'imports', or leave it out")

    def check_inputs(self) -> None:
        """What `problems` names is there."""
        super().check_inputs()
        check_benchmarks(self.problems, self.problem_counts, "problem_counts")

    def _check_cut(self) -> None:
        check_share(self.cut_share)
        if not self.chooses_cut:
            CutRule(self.cut_kind, self.cut_k)
        elif self.problems:
            raise InputError(
                "key 'cut_kind' is auto, which looks at traces that are there already, but 'problems' samples some; "
                "give words or tokens (with states: false trainers/judge.py cuts anew, and can choose)"
            )

    @property
    def needs_models(self) -> bool:
        return bool(self.problems)

    @property
    def chooses_cut(self) -> bool:
        return self.cut_kind == AUTO

    @property
    def cut_rule(self) -> CutRule:
        return CutRule(self.cut_kind, self.cut_k)


def load_sets(config: CollectConfig) -> dict[str, list[Problem]]:
    return {
        name: load_problems(source, config.problem_counts.get(name), config.seed)
        for name, source in config.problems.items()
    }


def captured_layers(config: CollectConfig, model: str) -> list[int]:
    """Those asked for, or all that the model has; none without `states`."""
    if not config.states:
        return []
    found = read_model_config(model)
    if config.layers is not None:
        return list(check_capture_layers(config.layers, found, "layers"))
    return list(range(found.get_text_config(decoder=True).num_hidden_layers + 1))


def trace_folders(config: CollectConfig, name: str, layers: list[int]) -> dict[str, tuple[Path, dict[str, JSON]]]:
    """Set → folder of one model, and what its traces are sampled with."""
    fixed = {"cut": {"kind": config.cut_kind, "k": config.cut_k}, "layers": layers}
    return {
        set_name: (Path(config.output_dir) / name / set_name, config.trace_settings(name, source) | fixed)
        for set_name, source in config.problems.items()
    }
