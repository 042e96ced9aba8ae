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

from engines.load import load_tokenizer
from engines.trace_folder import TraceFolderWriter
from eval.sampling import SamplingKeys, SamplingPlan, sample_missing, wait_for_all_processes
from eval.single_figures import ModelFigures, measure
from runtime.config import parse_config
from runtime.console import console, say, use_one_torch_thread
from runtime.errors import entry_point
from runtime.files import write_json
from runtime.ranks import current_ranks
from tasks.load import load_problems
from tasks.prompts import starts_inside_thinking
from tasks.records import Problem


@dataclass(kw_only=True)
class SingleConfig(SamplingKeys):
    """What is measured; the defaults are ThinkPrune's evaluation settings.

    problems, problem_count: JSONL path or `arithmetic:<split>`, and how many of them.
    samples: completions per problem.
    table: print the figures at the end; schedules/run.py shows them in its own way.
    """

    problems: str
    problem_count: int | None = None
    samples: int = 16
    table: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("samples")


def open_writers(config: SingleConfig) -> dict[str, TraceFolderWriter]:
    """A trace folder per model; raises `InputError` before anything is sampled if one holds other settings."""
    return {
        name: TraceFolderWriter(
            Path(config.output_dir) / name, config.trace_settings(name, config.problems), current_ranks().rank
        )
        for name in config.models
    }


def sample_all(config: SingleConfig, problems: list[Problem]) -> None:
    """Sample what is missing of every model, this process its share of the problems."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # theirs over our own
    share = current_ranks().shard(problems)
    plan = SamplingPlan(share, config.samples, config.spec, config.prompt_family, config.seed, config.rows)
    wanted = {(problem.id, sample) for problem in share for sample in range(config.samples)}
    for name, writer in open_writers(config).items():
        if wanted <= writer.done:
            continue
        engine = config.open_engine(name)
        tokenizer = load_tokenizer(config.tokenizer_of(name))
        with writer:
            sample_missing(engine, tokenizer, plan, writer, name, title=f"samples of {name}")
        engine.close()


def measure_all(config: SingleConfig, problems: list[Problem]) -> Iterator[tuple[str, ModelFigures]]:
    for name in config.models:
        thinking = starts_inside_thinking(load_tokenizer(config.tokenizer_of(name)))
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
    config.claim_devices()
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
