"""pass@1 and length of one or several models, with 95 % intervals over the problems.

    python eval/single.py --config configs/eval/single.yaml --models '{base: path/to/model}'
    accelerate launch --config_file configs/accelerate/cpu.yaml eval/single.py --config …

Samples go to `<output_dir>/<model>/traces-rank*.jsonl` as they end, so a run that was cut off goes on where it stood;
`results.jsonl` beside them holds the verdicts, `<output_dir>/summary.json` the figures of all models.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from engines.base import SamplingSpec
from engines.load import load_tokenizer, model_fingerprint
from engines.trace_folder import TraceFolderWriter
from eval.sampling import SamplingPlan, local_device, require_model_folder, sample_missing
from eval.single_figures import ModelFigures, measure
from runtime.config import parse_config
from runtime.console import console, say, use_one_torch_thread
from runtime.errors import InputError, entry_point
from runtime.files import write_json
from runtime.ranks import current_ranks
from tasks.load import load_problems
from tasks.prompts import check_family, starts_inside_thinking
from tasks.records import Problem


@dataclass
class SingleConfig:
    """What is measured; the defaults are ThinkPrune's evaluation settings.

    models: name → model folder or Hub id.
    problems, problem_count: JSONL path or `arithmetic:<split>`, and how many of them.
    output_dir: one folder per model, and `summary.json`.
    samples: completions per problem; max_tokens: cap on a completion [tokens], end token included.
    rows: completions decoded at once on each process.
    table: print the figures at the end; schedules/run.py shows them in its own way.
    """

    models: dict[str, str]
    problems: str
    output_dir: str
    problem_count: int | None = None
    samples: int = 16
    prompt_family: str = "deepseek"
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    max_tokens: int = 32000
    dtype: str = "bfloat16"
    device: str = "auto"
    rows: int = 64
    seed: int = 0
    table: bool = True

    def __post_init__(self) -> None:
        check_family(self.prompt_family)
        for key in ("samples", "max_tokens", "rows"):
            if getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be at least 1")
        if not self.models:
            raise InputError("key 'models' is empty; give at least one name and folder, for example {base: path}")
        for name, path in self.models.items():
            require_model_folder(f"models.{name}", path)

    @property
    def spec(self) -> SamplingSpec:
        return SamplingSpec(self.temperature, self.top_p, self.top_k, self.max_tokens)


def open_writers(config: SingleConfig) -> dict[str, TraceFolderWriter]:
    """A trace folder per model; raises `InputError` before anything is sampled if one holds other settings."""
    settings = {
        "problems": config.problems,
        "sampling": asdict(config.spec),
        "seed": config.seed,
        "prompt_family": config.prompt_family,
        "dtype": config.dtype,
    }
    return {
        name: TraceFolderWriter(
            Path(config.output_dir) / name,
            {"model": model_fingerprint(model) if Path(model).is_dir() else model, **settings},
            current_ranks().rank,
        )
        for name, model in config.models.items()
    }


def sample_all(config: SingleConfig, problems: list[Problem]) -> None:
    """Sample what is missing of every model, this process its share of the problems."""
    from transformers.utils import logging

    from engines.transformers_engine import TransformersEngine

    logging.disable_progress_bar()  # theirs over our own
    share = current_ranks().shard(problems)
    plan = SamplingPlan(share, config.samples, config.spec, config.prompt_family, config.seed, config.rows)
    wanted = {(problem.id, sample) for problem in share for sample in range(config.samples)}
    for name, writer in open_writers(config).items():
        if wanted <= writer.done:
            continue
        engine = TransformersEngine(config.models[name], dtype=config.dtype, device=local_device(config.device))
        with writer:
            sample_missing(engine, engine.tokenizer, plan, writer, name, title=f"samples of {name}")
        engine.close()


def wait_for_all_processes() -> None:
    """A barrier. Sampling shares nothing else, so a plain process group on the CPU will do on any machine."""
    if current_ranks().world_size == 1:
        return
    import datetime

    import torch

    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def measure_all(config: SingleConfig, problems: list[Problem]) -> Iterator[tuple[str, ModelFigures]]:
    for name, model in config.models.items():
        thinking = starts_inside_thinking(load_tokenizer(model))
        yield name, measure(Path(config.output_dir) / name, problems, config.samples, thinking)


def show(figures: dict[str, ModelFigures]) -> None:
    table = Table()
    for column in ("model", "pass@1", "95 %", "mean tokens", "95 %", "truncated"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, model in figures.items():
        accuracy, length = model.pass_at_1_ci95, model.mean_tokens_ci95
        table.add_row(
            name,
            f"{model.pass_at_1:.3f}",
            f"{accuracy[0]:.3f}–{accuracy[1]:.3f}",
            f"{model.mean_tokens:.1f}",
            f"{length[0]:.1f}–{length[1]:.1f}",
            f"{model.truncated_share:.1%}",
        )
    console.print(table)


@entry_point
def main() -> None:
    config = parse_config(SingleConfig)
    use_one_torch_thread()
    problems = load_problems(config.problems, config.problem_count, config.seed)
    sample_all(config, problems)
    wait_for_all_processes()
    if current_ranks().is_main:
        figures = dict(measure_all(config, problems))
        summary = Path(config.output_dir) / "summary.json"
        write_json(
            summary,
            {"config": asdict(config), "models": {name: asdict(model) for name, model in figures.items()}},
        )
        if config.table:
            show(figures)
            say(f"figures: {escape(str(summary))}")


if __name__ == "__main__":
    main()
