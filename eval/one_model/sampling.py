"""Sampling what is missing of every model and benchmark, and grading what is there."""

from collections.abc import Callable, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

from eval.one_model.config import SingleConfig
from eval.one_model.figures import Graded, grade_folder
from eval.traces.benchmarks import Problems
from eval.traces.sampling import SamplingKeys, WantedTraces, model_by_model, prompt_ids, sample_missing
from secateur.engines.base import Engine
from secateur.engines.models import load_tokenizer
from secateur.engines.trace_folder import TraceFolderWriter
from secateur.runtime.ranks import current_ranks
from secateur.tasks.prompts import starts_inside_thinking
from secateur.tasks.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Writers = dict[str, TraceFolderWriter]
Work = Callable[[SingleConfig, str, Problems], None]


class OpenedModel:
    """One of the config's models; its engine is opened when it is first needed and closed at the end."""

    def __init__(self, config: SamplingKeys, name: str) -> None:
        self.config, self.name = config, name
        self._opened = False

    @cached_property
    def engine(self) -> Engine:
        engine = self.config.open_engine(self.name)
        self._opened = True
        return engine

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return load_tokenizer(self.config.tokenizer_of(self.name))

    def __enter__(self) -> "OpenedModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened:
            self.engine.close()
            del self.engine  # the next model needs its memory


def open_writers(config: SingleConfig, name: str) -> Writers:
    """A trace folder per benchmark; raises `InputError` if one holds other settings."""
    rank = current_ranks().rank
    return {
        benchmark: TraceFolderWriter(config.folder(name, benchmark), config.trace_settings(name, source), rank)
        for benchmark, source in config.benchmarks.items()
    }


def sample_model(model: OpenedModel, config: SingleConfig, problems: Problems) -> None:
    """Sample what is missing of one model, this process its share of the problems."""
    for benchmark, writer in open_writers(config, model.name).items():
        share, samples = current_ranks().shard(problems[benchmark]), config.samples_of(benchmark)
        if {(problem.id, sample) for problem in share for sample in range(samples)} <= writer.done:
            continue
        plan = WantedTraces(share, samples, config.spec, config.prompt_family, config.seed, config.rows)
        title = f"{model.name}, {benchmark}"
        with writer:
            sample_missing(model.engine, model.tokenizer, plan, writer, model.name, title=title)


def sample_alone(config: SingleConfig, name: str, problems: Problems) -> None:
    with OpenedModel(config, name) as model:
        sample_model(model, config, problems)


def for_each_model(work: Work, config: SingleConfig, problems: Problems) -> None:
    """Do `work` for every model in turn. Folders with other settings are refused before anything is sampled."""
    for name in config.models:
        open_writers(config, name)
    model_by_model(work, config, problems)


def grade_all(config: SingleConfig, problems: Problems) -> dict[str, dict[str, Graded]]:
    """Model → benchmark → graded samples."""
    return {name: grade_model(config, name, problems) for name in config.models}


def prompt_lengths(tokenizer: "PreTrainedTokenizerBase", problems: Sequence[Problem], family: str) -> dict[str, int]:
    """Problem id → length of its prompt [tokens]."""
    return {problem.id: len(prompt_ids(tokenizer, problem, family)) for problem in problems}


def grade_model(config: SingleConfig, name: str, problems: Problems) -> dict[str, Graded]:
    tokenizer = load_tokenizer(config.tokenizer_of(name))
    thinking = starts_inside_thinking(tokenizer)
    graded = {}
    for benchmark, wanted in problems.items():
        prompts = prompt_lengths(tokenizer, wanted, config.prompt_family)
        folder, samples = config.folder(name, benchmark), config.samples_of(benchmark)
        graded[benchmark] = grade_folder(folder, wanted, samples, thinking, prompts, config.majority)
    return graded
