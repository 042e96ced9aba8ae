"""The keys of scripts that measure single traces; sampling what is missing of every model and benchmark; grading."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeVar

from rich.markup import escape

from eval.one_model.figures import MACRO, Graded, grade_folder
from eval.traces.benchmarks import (
    Problems,
    all_of,
    check_benchmarks,
    check_counts,
    check_names,
    load_benchmarks,
    sources_of,
)
from eval.traces.sampling import (
    SamplingKeys,
    WantedTraces,
    check_models,
    hold_output,
    in_turn,
    prompt_ids,
    sample_missing,
    say_plan,
    wait_for_all_processes,
)
from secateur.engines.base import Engine
from secateur.engines.model_files import load_tokenizer
from secateur.engines.registry import check_installed
from secateur.engines.trace_folder import TraceFolderWriter
from secateur.runtime.console import say, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl
from secateur.runtime.process import Ranks, current_ranks
from secateur.tasks.graded import RESULTS_FILE, GradedSample, read_results
from secateur.tasks.prompts import Prompt
from secateur.tasks.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class SingleConfig(SamplingKeys):
    """What is measured; the defaults are ThinkPrune's evaluation settings.

    problems: one source (JSONL path, `arithmetic:<split>` or a benchmark's name), or benchmark → source; a single
      source is a benchmark named after it.
    problem_count: how many problems, for all benchmarks or benchmark → number; all by default.
    samples: completions per problem, for all benchmarks or benchmark → number.
    pass_k: further k of pass@k beside 1, 2, 4, … up to the number of samples.
    majority: also say how often the most frequent answer is right; answers are then compared with one another.
    table: print the figures and draw the picture; schedules/run.py shows them in its own way.
    check: see that problems and tokenizers can be read (inputs), and that the engine is installed here (machine), and
      stop; schedules/run.py does so before it trains.
    """

    problems: str | dict[str, str]
    problem_count: int | dict[str, int] | None = None
    samples: int | dict[str, int] = 16
    pass_k: list[int] | None = None
    majority: bool = False
    table: bool = True
    check: Literal["", "inputs", "machine"] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.benchmarks, (MACRO,))
        check_counts("samples", self.samples, self.benchmarks, all_needed=True)
        check_counts("problem_count", self.problem_count, self.benchmarks)
        for k in self.pass_k or ():
            fewest = min(self.samples_of(name) for name in self.benchmarks)
            if not 1 <= k <= fewest:
                raise InputError(f"key 'pass_k' holds {k}: expected 1 to {fewest}, the smallest number of samples")

    def check_inputs(self) -> None:
        """What `problems` names is there."""
        super().check_inputs()
        check_benchmarks(self.benchmarks, self.problem_count)

    @property
    def benchmarks(self) -> dict[str, str]:
        """Benchmark → source of its problems."""
        return sources_of(self.problems)

    def samples_of(self, benchmark: str) -> int:
        return self.samples if isinstance(self.samples, int) else self.samples[benchmark]

    def load(self) -> Problems:
        """The problems of every benchmark. Raises `InputError` for a source that cannot be read."""
        return load_benchmarks(self.benchmarks, self.problem_count, self.seed)

    def folder(self, model: str, benchmark: str) -> Path:
        return Path(self.output_dir) / model / benchmark


Writers = dict[str, TraceFolderWriter]
C = TypeVar("C", bound=SingleConfig)
Work = Callable[[C, str, Problems], None]


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
    """Sample what is missing of one model on `problems`, this process's share; how fast is noted for plans."""
    began, generated = time.monotonic(), 0
    for benchmark, writer in open_writers(config, model.name).items():
        share, samples = problems[benchmark], config.samples_of(benchmark)
        if {(problem.id, sample) for problem in share for sample in range(samples)} <= writer.done:
            continue
        plan = WantedTraces(share, samples, config.spec, config.prompt, config.seed, config.rows)
        title = f"{model.name}, {benchmark}"
        with writer:
            generated += sample_missing(model.engine, model.tokenizer, plan, writer, model.name, title=title)
    if generated:
        line = {"model": model.name, "tokens": generated, "seconds": round(time.monotonic() - began, 3)}
        append_jsonl(Path(config.output_dir) / f"wall-rank{current_ranks().rank}.jsonl", [line])


def check_inputs(config: SingleConfig) -> None:
    """Read all that a run reads before it opens a model, and where its machine is this one see that its engine is
    installed. Raises `InputError` for the first that is not so."""
    if config.check == "machine":
        check_installed(config.engine)
    check_models(config, all_of(config.load()), say_caps=True)


def sample_alone(config: SingleConfig, name: str, problems: Problems) -> None:
    with OpenedModel(config, name) as model:
        sample_model(model, config, problems)


def for_each_model(work: Work[C], config: C, problems: Problems) -> None:
    """Do `work` for the models of this process in turn, each with its share of the problems, those with the longest
    traces first. Folders with other settings are refused before anything is sampled."""
    for name in config.models:
        open_writers(config, name)
    ordered = {name: longest_first(config, name, part) for name, part in problems.items()}
    dealt = deal(list(config.models), current_ranks())
    shares = [(name, {benchmark: share.shard(part) for benchmark, part in ordered.items()}) for name, share in dealt]
    in_turn(work, config, shares)


def deal(models: Sequence[str], ranks: Ranks) -> list[tuple[str, Ranks]]:
    """The models that a process works on, each with the part of it among those that share the model's problems.

    Whole models first, one for each process, as often as there are enough: the last long trace of a model then holds
    up a single process, which begins its next model after it, and every model is loaded once. What is left over is
    shared by as many processes as there are for each.

    >>> deal(["a", "b", "c"], Ranks(1, 2))
    [('b', Ranks(rank=0, world_size=1)), ('c', Ranks(rank=1, world_size=2))]
    """
    size, whole = ranks.world_size, len(models) // ranks.world_size * ranks.world_size
    mine = [(name, Ranks(0, 1)) for name in models[ranks.rank : whole : size]]
    if rest := models[whole:]:
        member, place = divmod(ranks.rank, len(rest))
        mine.append((rest[place], Ranks(member, len(range(place, size, len(rest))))))
    return mine


def longest_first(config: SingleConfig, benchmark: str, problems: Sequence[Problem]) -> list[Problem]:
    """The problems by the mean length of the traces that earlier launches have graded, of whichever model; those
    without any first. The longest trace of a launch should not begin last (Graham, 1969: longest processing time)."""
    lengths = defaultdict(list)
    for path in sorted(Path(config.output_dir).glob(f"*/{benchmark}/{RESULTS_FILE}")):
        for one in _earlier(path):
            lengths[one.problem_id].append(one.n_tokens)
    return sorted(problems, key=lambda one: -fmean(lengths[one.id]) if lengths[one.id] else -math.inf)


def _earlier(path: Path) -> list[GradedSample]:
    """None from a damaged file: only an order hangs on it, and this launch writes it anew from the traces."""
    try:
        return list(read_results(path))
    except InputError as error:
        say(escape(f"passed over: {error}"))
        return []


def run_models(config: C, work: Work[C], report: Callable[[C, Problems], None]) -> None:
    """A command that does `work` for every model and lets the main process `report`; with `check` it only reads what
    it would."""
    if config.check:
        check_inputs(config)
        return
    config.claim_devices()
    use_one_torch_thread()
    problems = config.load()
    check_models(config, all_of(problems))
    if config.table:
        traces = sum(len(part) * config.samples_of(name) for name, part in problems.items()) * len(config.models)
        say_plan(config, "accuracy and length on", len(all_of(problems)), traces)
    with hold_output(config.output_dir):
        for_each_model(work, config, problems)
        wait_for_all_processes()
        if current_ranks().is_main:
            report(config, problems)


def grade_all(config: SingleConfig, problems: Problems) -> dict[str, dict[str, Graded]]:
    """Model → benchmark → graded samples."""
    return {name: grade_model(config, name, problems) for name in config.models}


def prompt_lengths(
    tokenizer: "PreTrainedTokenizerBase", problems: Sequence[Problem], prompt: Prompt
) -> dict[str, int]:
    """Problem id → length of its prompt [tokens]."""
    return {problem.id: len(prompt_ids(tokenizer, problem, prompt)) for problem in problems}


def grade_model(config: SingleConfig, name: str, problems: Problems) -> dict[str, Graded]:
    tokenizer = load_tokenizer(config.tokenizer_of(name))
    extract = config.extract(tokenizer)
    graded = {}
    for benchmark, wanted in problems.items():
        prompts = prompt_lengths(tokenizer, wanted, config.prompt)
        folder, samples = config.folder(name, benchmark), config.samples_of(benchmark)
        graded[benchmark] = grade_folder(folder, wanted, samples, extract, prompts, config.majority)
    return graded
