"""What one process of a sampling run needs on its GPU, and whether it fits; what its judges hold, store and read."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from eval.table.config import CombinedConfig
from eval.table.store import names_of_judges
from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.folder import check_generator, find_judge
from secateur.deepprune.judges.kind import JudgeReading
from secateur.deepprune.judges.record import read_judge
from secateur.deepprune.judges.registry import UNTRAINED, stored_kind
from secateur.engines.memory import (
    GIB,
    RUNTIME_BYTES,
    WIDTHS,
    Item,
    SamplingLoad,
    read_shape,
    transformers_items,
    vllm_sequences,
    vllm_work_bytes,
)
from secateur.engines.registry import engine_kind
from secateur.runtime.console import say
from secateur.runtime.dry_run import device_words, show_sizes, size_words

VLLM_SHARE = 0.92  # vLLM's own default of gpu_memory_utilization (vllm/config/cache.py, 0.31)


@dataclass(frozen=True)
class PlannedEngine:
    """How models are run: kind, its options, processes of a machine, and the memory of one process, on its GPU or
    `on_cpu` of the machine's [bytes]."""

    kind: str
    options: dict[str, Any]
    on_cpu: bool
    processes: int
    device_bytes: float

    @property
    def parallel(self) -> int:
        """GPUs of one process."""
        return int(self.options.get("tensor_parallel_size", 1))

    @property
    def remedies(self) -> str:
        """What helps where memory does not do."""
        more = "or fewer processes" if self.on_cpu else "engine vllm, or a larger card (--gpu_memory_gib)"
        return f"a smaller 'rows' or 'max_tokens', {more}"

    @property
    def share(self) -> float:
        """Of a GPU, that vLLM takes (0-1)."""
        given = self.options.get("gpu_memory_utilization")
        return VLLM_SHARE if given is None else float(given)


def show_memory(
    engine: PlannedEngine, name: str, cap: SamplingLoad, expected_tokens: int, judges: Sequence[Item]
) -> bool:
    """Print the memory of one process with the model `name`; False if it does not fit.

    cap: the load if every trace reached the cap at once; expected_tokens: mean length of a trace.
    """
    if engine_kind(engine.kind).reserves_memory:
        return _show_vllm(engine, name, cap, expected_tokens, judges)
    return _show_transformers(engine, name, cap, expected_tokens, judges)


def _show_transformers(
    engine: PlannedEngine, name: str, cap: SamplingLoad, expected_tokens: int, judges: Sequence[Item]
) -> bool:
    beside = [*judges, Item("CUDA context (assumed)", 0 if engine.on_cpu else RUNTIME_BYTES)]
    items = [item for item in [*transformers_items(cap), *beside] if item.bytes]
    needed = show_sizes(
        f"{device_words(engine.on_cpu)}, {name}, all traces at the cap",
        [(i.name, i.bytes) for i in items],
        "together",
    )
    typical = transformers_items(replace(cap, tokens=expected_tokens, cut=min(cap.cut, expected_tokens)))
    usual = sum(item.bytes for item in [*typical, *beside])
    say(f"  all of the expected length: {size_words(usual)}")
    return _verdict(needed, usual, engine)


def _verdict(needed: float, usual: float, engine: PlannedEngine) -> bool:
    limit = engine.device_bytes
    if needed <= limit:
        spare = size_words(limit - needed)
        say(f"  [green]fits[/green] in {size_words(limit)} with {spare} to spare (an estimate)")
        return True
    if usual <= limit:
        say(f"  [red]may not fit[/red] in {size_words(limit)}: only while most traces stay short; {engine.remedies}")
    else:
        say(f"  [red]does not fit[/red] in {size_words(limit)}; {engine.remedies}")
    return False


def _show_vllm(
    engine: PlannedEngine, name: str, cap: SamplingLoad, expected_tokens: int, judges: Sequence[Item]
) -> bool:
    shape, parallel = cap.shape, engine.parallel
    weights, work = cap.width * shape.parameters / parallel, vllm_work_bytes(shape, cap.rows, parallel)
    given = engine.options.get("kv_cache_gib")
    limit = engine.device_bytes
    cache = float(given) * GIB if given else engine.share * limit - weights - work
    items = [
        ("vLLM: weights", weights),
        ("vLLM: work space, CUDA graphs (partly assumed)", work),
        ("vLLM: keys and values", max(0.0, cache)),
        *((item.name, item.bytes) for item in [*judges, Item("CUDA context (assumed)", RUNTIME_BYTES)]),
    ]
    what = f"kv_cache_gib {given}" if given else f"gpu_memory_utilization {engine.share:g}"
    needed = show_sizes(f"memory of a GPU, {name} ({what})", items, "together")
    if cap.captured:
        say(f"  host memory of a process for hidden states up to the cut, at most: {size_words(cap.captured_bytes)}")
    fits = _vllm_verdict(engine, cap, expected_tokens, cache)
    return _judges_fit(needed, limit, bool(judges)) and fits


def _vllm_verdict(engine: PlannedEngine, cap: SamplingLoad, expected_tokens: int, cache: float) -> bool:
    at_cap, usual = (
        vllm_sequences(cap.shape, cap.prompt + tokens, max(0.0, cache) * 2 / cap.width, engine.parallel)
        for tokens in (cap.tokens, expected_tokens)
    )
    if not at_cap:
        say("  [red]vLLM cannot start[/red]: its share does not hold the weights and one trace at the cap; raise "
            "gpu_memory_utilization or tensor_parallel_size, or lower max_model_len and max_tokens")  # fmt: skip
        return False
    room = f"{min(at_cap, cap.rows)} of {cap.rows} traces at the cap, {min(usual, cap.rows)} of the expected length"
    say(f"  vLLM: room for {room}; what does not fit waits or is computed again")
    return True


def _judges_fit(needed: float, limit: float, judges: bool) -> bool:
    if needed <= limit:
        say(f"  [green]fits[/green] in {size_words(limit)} with {size_words(limit - needed)} to spare (an estimate)")
        return True
    remedy = "lower engine_options: {gpu_memory_utilization: …}, which leaves the rest to " + (
        "the judges" if judges else "the CUDA context"
    )
    say(f"  [red]does not fit[/red] in {size_words(limit)}; {escape(remedy)}")
    return False


@dataclass(frozen=True)
class PlannedJudge:
    """`label`: its name in the run; `cut` None where it takes over that of others; `reading`: what it keeps and
    reads; `parameters` and `width` [bytes]: of the model that reads for it, 0 without one."""

    label: str
    cut: CutRule | None
    reading: JudgeReading = field(default_factory=JudgeReading)
    parameters: int = 0
    width: int = 4

    @property
    def memory(self) -> Item:
        return Item(f"judge {self.label}: weights", self.width * self.parameters)

    def read_tokens(self, n: int, prompt: float, cut: float) -> float:
        """Tokens that scoring all pairs of `n` traces of one problem reads, with so many tokens in its prompt and in
        each cut."""
        return self.reading.tokens(n, prompt, cut)


def planned_judges(config: CombinedConfig, model: str) -> list[PlannedJudge]:
    """The judges of a model. Raises `InputError` where judge.json or the config.json of its model is out of reach."""
    names, labels, generator = config.scored_by(model), names_of_judges(config, model), config.models[model]
    return [_planned(name, label, generator) for name, label in zip(names, labels, strict=True)]


def _planned(name: str, label: str, generator: str) -> PlannedJudge:
    if name in UNTRAINED:
        return PlannedJudge(label, None)
    folder = find_judge(name)
    record = read_judge(folder)
    kind = stored_kind(record.kind, folder)
    if kind.reads_states and Path(generator).is_dir():  # else it is still to come, or its files are on the Hub
        check_generator(name, record, generator)
    reading = kind.reading(folder, record)
    if not kind.reads_tokens:
        return PlannedJudge(label, record.cut, reading)
    model, with_head = str(record.language_model(folder)), kind.language_model == "causal"
    sizes = read_shape(model, f"judges: the model of {name}", with_head)
    return PlannedJudge(label, record.cut, reading, sizes.parameters, WIDTHS[record.dtype])


def states_of(config: CombinedConfig, judges: Sequence[PlannedJudge]) -> tuple[int, int, int]:
    """Numbers stored per token up to the cut, numbers stored per trace in their place, and layers captured."""
    own = next((judge.reading for judge in judges if judge.reading.layers), None)
    if own is None:
        return 0, 0, 0
    return (own.layers * own.hidden, 0, own.layers) if config.keep_states else (0, own.vector, own.layers)


def cut_of(config: CombinedConfig, judges: Sequence[PlannedJudge]) -> CutRule | None:
    """Trained judges bring their cut along; None where nothing is judged."""
    if not judges:
        return None
    return next((judge.cut for judge in judges if judge.cut is not None), config.cut_rule)


def score_bytes(n: int) -> float:
    """One problem's scores by one judge, before compression: n × n numbers of 64 bits and the usage of every cut."""
    return 8.0 * n * n + 200 * n
