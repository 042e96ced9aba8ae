"""Sample traces of one or several models into trace folders: the data that judges are trained on.

    python eval/collect_traces.py --config configs/demo/collect_judge_traces.yaml
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/collect_traces.py --config …
    python eval/collect_traces.py --imports '{math: traces.jsonl.gz}' --tokenizer path/to/model --output_dir outputs/x

Each set of problems gets a folder `<output_dir>/<model>/<set>` (see engines/trace_folder.py), traces made elsewhere
too. A run that was cut off goes on where it stood; at its end it says how redundant the traces are (redundancy.py).
"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape

from deepprune.cut import CutRule
from engines.load import load_tokenizer
from engines.trace_folder import TraceFolderWriter, read_trace_folder
from eval.foreign_traces import import_file
from eval.redundancy import Redundancy, measure, show, write
from eval.sampling import SamplingKeys, SamplingPlan, sample_missing, wait_for_all_processes
from runtime.config import parse_config
from runtime.console import say, use_one_torch_thread
from runtime.errors import InputError, entry_point
from runtime.ranks import current_ranks
from tasks.load import load_problems
from tasks.prompts import starts_inside_thinking
from tasks.records import Problem


@dataclass(kw_only=True)
class CollectConfig(SamplingKeys):
    """What is sampled, or taken over.

    problems: set → JSONL path or `arithmetic:<split>`; problem_counts: set → how many of them (default all).
    imports: set → file of traces made elsewhere (`problem_id, problem, gold, sample, text`, optionally `model`),
      `.jsonl` or `.jsonl.gz`; models and problems may then be left out.
    tokenizer: folder or Hub id that counts the tokens of imported text; without one their lengths stay unknown.
    samples: traces per problem.
    cut_kind, cut_k: where a judge will cut the traces (see deepprune/cut.py).
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
    states: bool = True
    layers: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("samples")
        CutRule(self.cut_kind, self.cut_k)
        for name in self.problem_counts:
            if name not in self.problems:
                raise InputError(f"key 'problem_counts' names the set '{name}', which key 'problems' does not have")
        if not self.problems and not self.imports:
            raise InputError("neither key 'problems' nor key 'imports' names a set; give at least one")
        for name, path in self.imports.items():
            if not Path(path).is_file():
                raise InputError(f"key 'imports.{name}' has the value '{path}': no such file")
        if self.engine == "openai" and self.problems and self.states:
            raise InputError("key 'states' is true, but a server hands out no hidden states; write 'states: false'")
        if self.tokenizer is not None and not self.imports:
            raise InputError("key 'tokenizer' counts the tokens of imported text; give 'imports', or leave it out")

    @property
    def needs_models(self) -> bool:
        return bool(self.problems)

    @property
    def cut_rule(self) -> CutRule:
        return CutRule(self.cut_kind, self.cut_k)


def open_writer(config: CollectConfig, name: str, set_name: str, layers: list[int]) -> TraceFolderWriter:
    """The folder of one model and set; raises `InputError` if it holds traces of another configuration."""
    cut = {"kind": config.cut_kind, "k": config.cut_k}
    settings = config.trace_settings(name, config.problems[set_name]) | {"cut": cut, "layers": layers}
    return TraceFolderWriter(Path(config.output_dir) / name / set_name, settings, current_ranks().rank)


def collect(config: CollectConfig) -> None:
    """Sample every set of every model, this process its share of the problems."""
    sets = {
        name: load_problems(source, config.problem_counts.get(name), config.seed)
        for name, source in config.problems.items()
    }
    for name, model in config.models.items():
        _collect_model(config, name, model, sets)


def _collect_model(config: CollectConfig, name: str, model: str, sets: dict[str, list[Problem]]) -> None:
    layers = _layers(config, model) if config.states else []
    writers = {set_name: open_writer(config, name, set_name, layers) for set_name in sets}
    shares = {set_name: current_ranks().shard(problems) for set_name, problems in sets.items()}
    if all(_wanted(config, shares[set_name]) <= writers[set_name].done for set_name in sets):
        return
    engine, tokenizer = config.open_engine(name, layers or None), load_tokenizer(config.tokenizer_of(name))
    for set_name, problems in shares.items():
        plan = SamplingPlan(problems, config.samples, config.spec, config.prompt_family, config.seed, config.rows)
        with writers[set_name] as writer:
            sample_missing(
                engine, tokenizer, plan, writer, name, config.cut_rule, config.states, title=f"{name}, {set_name}"
            )
    engine.close()


def _layers(config: CollectConfig, model: str) -> list[int]:
    """Those asked for, or all that the model has."""
    from transformers import AutoConfig

    if config.layers is not None:
        return config.layers
    return list(range(AutoConfig.from_pretrained(model).get_text_config(decoder=True).num_hidden_layers + 1))


def _wanted(config: CollectConfig, problems: list[Problem]) -> set[tuple[str, int | str]]:
    return {(problem.id, sample) for problem in problems for sample in range(config.samples)}


def import_all(config: CollectConfig) -> dict[str, dict[str, Path]]:
    """Take over every file of `imports`. Returns set → model → folder."""
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer)
    if config.imports and tokenizer is None:
        say(
            "No tokenizer is given for the imported traces, so their lengths in tokens and the places of their cuts "
            "stay unknown. Judges can be trained on them, which tokenise for themselves; a replay needs 'tokenizer'."
        )
    return {
        set_name: import_file(path, config.output_dir, set_name, config.cut_rule, tokenizer)
        for set_name, path in config.imports.items()
    }


def redundancy(config: CollectConfig, imported: dict[str, dict[str, Path]]) -> list[Redundancy]:
    """The report on every set that this run sampled or took over."""
    reports = []
    for name in config.models if config.problems else ():
        thinking = starts_inside_thinking(load_tokenizer(config.tokenizer_of(name)))
        for set_name in config.problems:
            problems = read_trace_folder(Path(config.output_dir) / name / set_name)
            reports.append(measure(name, set_name, problems, config.cut_rule, thinking))
    for set_name, folders in imported.items():
        for model, folder in folders.items():
            reports.append(measure(model, set_name, read_trace_folder(folder), config.cut_rule))
    return reports


def say_sizes(config: CollectConfig) -> None:
    """What the stored states, and confidences, of each sampled set take on disk."""
    for name in config.models if config.problems else ():
        for set_name in config.problems:
            folder = Path(config.output_dir) / name / set_name
            size = sum(path.stat().st_size for path in (folder / "states").glob("*.safetensors"))
            traces = sum(len(entry.traces) for entry in read_trace_folder(folder))
            if size and traces:
                each = size / traces / 1024
                say(f"{name}, {set_name}: states take {each:.1f} KiB per trace, {size / 2**20:.1f} MiB")


@entry_point
def main() -> None:
    config = parse_config(CollectConfig)
    config.claim_devices()
    use_one_torch_thread()
    imported = import_all(config) if current_ranks().is_main else {}
    collect(config)
    wait_for_all_processes()
    if current_ranks().is_main:
        reports = redundancy(config, imported)
        show(reports)
        say_sizes(config)
        write(reports, config.output_dir)
        say(f"traces and redundancy.json: {escape(config.output_dir)}")


if __name__ == "__main__":
    main()
