"""What every model of a sampling run has to make, from its config, its problems and what is on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from eval.dry_run.memory import PlannedJudge, cut_of, planned_judges, score_bytes, states_of
from eval.dry_run.traces import (
    Lengths,
    Part,
    PartDisk,
    PlannedSet,
    Stored,
    disk_of,
    expected_lengths,
    line_bytes_per_token,
    read_stored,
)
from eval.table.config import CombinedConfig
from eval.table.registry import method_of
from eval.table.store import traces_folder
from eval.traces.collect import CollectConfig, captured_layers, trace_folders
from eval.traces.sampling import SamplingKeys, prompt_ids
from secateur.deepprune.cut import CutRule
from secateur.engines.memory import WIDTHS, ModelShape, SamplingLoad, read_shape
from secateur.engines.model_files import load_tokenizer
from secateur.engines.registry import engine_kind
from secateur.engines.trace_folder import check_trace_settings
from secateur.runtime.dry_run import SamplingPlanKeys
from secateur.runtime.errors import InputError
from secateur.runtime.hub import require_model_folder
from secateur.tasks.records import Problem

_SAMPLED_PROBLEMS = 200  # whose text tells how many bytes a token has


@dataclass(kw_only=True)
class PlannedConfig(SamplingKeys, SamplingPlanKeys):
    """What the configs of both scripts have in common."""


@dataclass(frozen=True)
class ModelPlan:
    """`shape` is None where a server runs the model; `notes` say what could not be read. `longest_cut`: the most that
    can lie before a cut [tokens]; `live_tokens`: what live runs generate at most; `probe_tokens`: what answers take
    at most that are forced out of stored traces."""

    name: str
    shape: ModelShape | None
    parts: list[Part]
    stored: list[Stored]
    lengths: Lengths
    load: SamplingLoad | None
    token_line: float
    longest_cut: int
    judges: list[PlannedJudge]
    live_tokens: float
    notes: list[str]
    probe_tokens: float = 0.0

    def missing(self, index: int) -> int:
        """Traces of a part that are still to be sampled."""
        return max(0, self.parts[index].wanted - self.stored[index].traces)

    @property
    def traces_left(self) -> int:
        return sum(self.missing(index) for index in range(len(self.parts)))

    @property
    def tokens_left(self) -> float:
        return self.traces_left * self.lengths.tokens

    @property
    def score_bytes(self) -> float:
        """Scores of all judges for the problems that have none yet."""
        return sum(
            self.results_left(index, f"scores/{judge.label}", len(part.problems)) * score_bytes(part.n)
            for index, part in enumerate(self.parts)
            for judge in self.judges
        )

    def results_left(self, index: int, folder: str, wanted: int) -> int:
        """How many of the `wanted` files of a part's folder of results are missing: all while traces are, for a
        result is made from all traces of its problem."""
        there = 0 if self.missing(index) else len(list((self.parts[index].folder.parent / folder).glob("*.*")))
        return max(0, wanted - there)

    def added_disk(self, cap: int | None = None) -> list[PartDisk]:
        """What is still to come takes, at the expected lengths or if every trace reaches `cap` [tokens]."""
        tokens, fed = self.lengths.tokens, self.lengths.fed
        if cap is not None:
            tokens, fed = cap, min(self.longest_cut, cap)
        return [
            disk_of(part, self.missing(index), tokens, fed, self.token_line) for index, part in enumerate(self.parts)
        ]


def added_disk(plans: Sequence[ModelPlan], cap: int | None = None) -> PartDisk:
    """The sum over all models and sets."""
    parts = [disk for plan in plans for disk in plan.added_disk(cap)]
    return PartDisk(*(sum(getattr(disk, field.name) for disk in parts) for field in fields(PartDisk)))


def check_collect_folders(config: CollectConfig) -> None:
    """Raises `InputError` for a folder with other settings, as the run would."""
    for name, model in config.models.items() if config.problems else ():
        if _is_there(model):
            for folder, settings in trace_folders(config, name, captured_layers(config, model)).values():
                check_trace_settings(folder, settings)


def collect_models(config: CollectConfig, sets: Mapping[str, PlannedSet]) -> list[ModelPlan]:
    """What eval/collect_traces.py would make."""
    plans: list[ModelPlan] = []
    for name in config.models if sets else ():
        shape, notes = _shape(config, name)
        layers = _captured(config, shape) if config.states and shape else 0
        parts = [
            Part(
                model=name,
                name=set_name,
                set=planned,
                n=config.samples,
                folder=Path(config.output_dir) / name / set_name,
                states=layers * (shape.hidden if shape else 0),
                vector=0,
                confidences=config.top_logprobs > 0,
            )
            for set_name, planned in sets.items()
        ]
        plans.append(_plan(config, name, shape, parts, config.cut_rule, layers, notes))
    return plans


def _captured(config: CollectConfig, shape: ModelShape) -> int:
    return shape.layers + 1 if config.layers is None else len(config.layers)


def combined_models(config: CombinedConfig, benchmarks: Mapping[str, PlannedSet]) -> list[ModelPlan]:
    """What eval/combined.py would make."""
    plans = []
    for name in config.models:
        shape, notes = _shape(config, name)
        judges = planned_judges(config, name)
        states, vector, layers = states_of(config, judges)
        parts = [
            Part(
                model=name,
                name=benchmark,
                set=planned,
                n=config.largest_n,
                folder=traces_folder(config.of_benchmark(benchmark), name),
                states=states,
                vector=vector,
                confidences=config.top_logprobs > 0,
            )
            for benchmark, planned in benchmarks.items()
        ]
        plan = _plan(config, name, shape, parts, cut_of(config, judges), layers, notes)
        plan = replace(plan, judges=judges)
        plans.append(replace(plan, live_tokens=_live_tokens(config, plan), probe_tokens=_probe_tokens(config, plan)))
    return plans


def _live_tokens(config: CombinedConfig, plan: ModelPlan) -> float:
    """What the live runs that are missing generate at most: every trace to its end, with all answers forced."""
    return sum(
        plan.results_left(index, f"live/{method}", config.live_count(len(part.problems)))
        * part.n
        * (plan.lengths.tokens + (_forced_of_trace(config, plan) if method_of(method).reads_probes else 0))
        for index, part in enumerate(plan.parts)
        for method in config.live_rules
    )


def _probe_tokens(config: CombinedConfig, plan: ModelPlan) -> float:
    """What the answers generate at most that are still to be forced out of stored traces."""
    if not config.needs_probes:
        return 0.0
    left = sum(
        plan.results_left(index, "probes", len(part.problems)) * part.n for index, part in enumerate(plan.parts)
    )
    return left * _forced_of_trace(config, plan)


def _forced_of_trace(config: CombinedConfig, plan: ModelPlan) -> float:
    """One answer at every mark of a trace of the expected length [tokens]."""
    return plan.lengths.tokens // config.probe_every * config.probe_tokens


def _shape(config: PlannedConfig, name: str) -> tuple[ModelShape | None, list[str]]:
    """The model's sizes; those of the first model where its folder is still to be trained."""
    if not engine_kind(config.engine).in_process:
        return None, []
    first, path = next(iter(config.models.values())), config.models[name]
    if _is_there(path):
        return read_shape(path, f"models.{name}"), []
    return read_shape(first, "models"), [f"{path} is not there yet: planned with the sizes of {first}"]


def _is_there(path: str) -> bool:
    """Hub ids count as being there."""
    try:
        require_model_folder("models", path)
    except InputError:
        return False
    return True


def _plan(
    config: PlannedConfig,
    name: str,
    shape: ModelShape | None,
    parts: list[Part],
    cut: CutRule | None,
    layers: int,
    notes: list[str],
) -> ModelPlan:
    stored = [read_stored(part) for part in parts]
    lengths = expected_lengths(config, name, config.max_tokens, cut, stored, Path(config.output_dir))
    problems = [problem for part in parts for problem in part.problems]
    tokenizer, missing = _tokenizer(config, name)
    token_line = line_bytes_per_token(stored, shape.vocabulary if shape else 0, _text_sample(tokenizer, problems))
    at_cut = config.max_tokens if cut is None or cut.kind == "words" else min(cut.k, config.max_tokens)
    unread = [part.set.note for part in parts if part.set.note]
    load = None
    if shape is not None:
        longest = max(problems, key=lambda problem: len(problem.problem))
        prompt = len(prompt_ids(tokenizer, longest, config.prompt)) if tokenizer is not None else 0
        load = SamplingLoad(shape, config.rows, prompt, config.max_tokens, layers, at_cut, WIDTHS[config.dtype])
    return ModelPlan(name, shape, parts, stored, lengths, load, token_line, at_cut, [], 0.0, notes + missing + unread)


def _tokenizer(config: PlannedConfig, name: str) -> tuple[Any, list[str]]:
    source = config.tokenizer_of(name)
    if engine_kind(config.engine).in_process and not _is_there(source):
        source = config.tokenizer_of(next(iter(config.models)))
    try:
        return load_tokenizer(source), []
    except InputError:
        return None, [f"no tokenizer of {source} is in reach: prompts count as empty, text as 4 bytes a token"]


def _text_sample(tokenizer: Any, problems: Sequence[Problem]) -> tuple[int, int, int] | None:
    """Tokens of the problems' own text, digits of their ids, bytes of the text."""
    if tokenizer is None:
        return None
    texts = [problem.problem for problem in problems[:_SAMPLED_PROBLEMS]]
    ids = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return len(ids), sum(len(str(token)) for token in ids), sum(len(text.encode()) for text in texts)
