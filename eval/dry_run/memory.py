"""What one process of a sampling run needs on its GPU, and whether it fits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
from rich.markup import escape

from secateur.engines.memory import (
    GIB,
    RUNTIME_BYTES,
    Item,
    SamplingLoad,
    transformers_items,
    vllm_sequences,
    vllm_work_bytes,
)
from secateur.engines.registry import engine_kind
from secateur.runtime.console import say
from secateur.runtime.dry_run import show_sizes, size_words

VLLM_SHARE = 0.92  # vLLM's own default of gpu_memory_utilization (vllm/config/cache.py, 0.31)
_REMEDIES = "a smaller 'rows' or 'max_tokens', engine vllm, or a larger card (--gpu_memory_gib)"


@dataclass(frozen=True)
class Engine:
    """How models are run: kind, its options, processes of a machine, and the memory of one GPU, or of the machine for
    `device: cpu` [bytes]."""

    kind: str
    options: dict[str, Any]
    on_cpu: bool
    processes: int
    gpu_bytes: float

    @property
    def parallel(self) -> int:
        """GPUs of one process."""
        return int(self.options.get("tensor_parallel_size", 1))

    @property
    def share(self) -> float:
        """Of a GPU, that vLLM takes (0-1)."""
        given = self.options.get("gpu_memory_utilization")
        return VLLM_SHARE if given is None else float(given)


def show_memory(engine: Engine, name: str, cap: SamplingLoad, expected_tokens: int, judges: Sequence[Item]) -> bool:
    """Print the memory of one process with the model `name`; False if it does not fit.

    cap: the load if every trace reached the cap at once; expected_tokens: mean length of a trace.
    """
    if engine_kind(engine.kind).reserves_memory:
        return _show_vllm(engine, name, cap, expected_tokens, judges)
    return _show_transformers(engine, name, cap, expected_tokens, judges)


def _show_transformers(
    engine: Engine, name: str, cap: SamplingLoad, expected_tokens: int, judges: Sequence[Item]
) -> bool:
    limit = psutil.virtual_memory().total / engine.processes if engine.on_cpu else engine.gpu_bytes
    where = "host memory of a process" if engine.on_cpu else "memory of a GPU"
    beside = [*judges, Item("CUDA context (assumed)", 0 if engine.on_cpu else RUNTIME_BYTES)]
    items = [item for item in [*transformers_items(cap), *beside] if item.bytes]
    needed = show_sizes(f"{where}, {name}, all traces at the cap", [(i.name, i.bytes) for i in items], "together")
    typical = transformers_items(replace(cap, tokens=expected_tokens, cut=min(cap.cut, expected_tokens)))
    usual = sum(item.bytes for item in [*typical, *beside])
    say(f"  all of the expected length: {size_words(usual)}")
    return _verdict(needed, usual, limit)


def _verdict(needed: float, usual: float, limit: float) -> bool:
    if needed <= limit:
        spare = size_words(limit - needed)
        say(f"  [green]fits[/green] in {size_words(limit)} with {spare} to spare (an estimate)")
        return True
    if usual <= limit:
        say(f"  [red]may not fit[/red] in {size_words(limit)}: only while most traces stay short; {_REMEDIES}")
    else:
        say(f"  [red]does not fit[/red] in {size_words(limit)}; {_REMEDIES}")
    return False


def _show_vllm(engine: Engine, name: str, cap: SamplingLoad, expected_tokens: int, judges: Sequence[Item]) -> bool:
    shape, parallel = cap.shape, engine.parallel
    weights, work = cap.width * shape.parameters / parallel, vllm_work_bytes(shape, cap.rows, parallel)
    given = engine.options.get("kv_cache_gib")
    limit = engine.gpu_bytes
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


def _vllm_verdict(engine: Engine, cap: SamplingLoad, expected_tokens: int, cache: float) -> bool:
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
