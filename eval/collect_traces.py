"""Sample traces of one or several models into trace folders: the data that judges are trained on.

    python eval/collect_traces.py --config configs/demo/collect_judge_traces.yaml
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/collect_traces.py --config …

Each set of problems gets a folder `<output_dir>/<model>/<set>` (see engines/trace_folder.py). A run that was cut off
goes on where it stood.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape

from deepprune.cut import CutRule
from engines.trace_folder import TraceFolderWriter
from eval.sampling import SamplingKeys, SamplingPlan, local_device, sample_missing
from runtime.config import parse_config
from runtime.console import say, use_one_torch_thread
from runtime.errors import InputError, entry_point
from runtime.ranks import current_ranks
from tasks.load import load_problems
from tasks.records import Problem


@dataclass(kw_only=True)
class CollectConfig(SamplingKeys):
    """What is sampled.

    problems: set → JSONL path or `arithmetic:<split>`; problem_counts: set → how many of them (default all).
    samples: traces per problem.
    cut_kind, cut_k: where a judge will cut the traces (see deepprune/cut.py).
    states: store the hidden states up to the cut, which own-state judges are trained on; `layers`: their indices in
      `hidden_states` (0 = embeddings), all by default.
    """

    problems: dict[str, str]
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
    from transformers import AutoConfig

    from engines.transformers_engine import TransformersEngine

    states = AutoConfig.from_pretrained(model).get_text_config(decoder=True).num_hidden_layers + 1
    layers = (config.layers if config.layers is not None else list(range(states))) if config.states else []
    writers = {set_name: open_writer(config, name, set_name, layers) for set_name in sets}
    device = local_device(config.device)
    engine = TransformersEngine(model, dtype=config.dtype, capture_layers=layers or None, device=device)
    for set_name, problems in sets.items():
        plan = SamplingPlan(
            current_ranks().shard(problems),
            config.samples,
            config.spec,
            config.prompt_family,
            config.seed,
            config.rows,
        )
        with writers[set_name] as writer:
            sample_missing(
                engine,
                engine.tokenizer,
                plan,
                writer,
                name,
                CutRule(config.cut_kind, config.cut_k),
                config.states,
                title=f"{name}, {set_name}",
            )
    engine.close()


@entry_point
def main() -> None:
    config = parse_config(CollectConfig)
    use_one_torch_thread()
    collect(config)
    say(f"traces: {escape(config.output_dir)}")


if __name__ == "__main__":
    main()
