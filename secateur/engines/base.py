"""Generation that can be stopped and resumed trace by trace: the interface that every engine keeps.

Invariants: the token ids of all events of a trace sum up to its `TraceUsage.generated_tokens`; no event follows a
prune; a parked trace goes on exactly after its last token; `prefill_computed + prefill_cached` covers all prompt
positions, and where resuming reads a trace again, those of every reading."""

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, runtime_checkable

from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.process import current_ranks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class EngineError(RuntimeError):
    """The engine cannot go on: its server is gone, its worker died, it stands still. Its traces are lost."""


class TraceRefused(EngineError):
    """A server refuses what a trace asks for; the fault is that trace's own. `trace`: its handle. Of a `Shareable`
    engine that is shared no other is lost with it."""

    trace: int = -1


@dataclass(frozen=True)
class SamplingSpec:
    """How traces are sampled. `max_tokens` [tokens] caps the completion, end token included; temperature 0 is greedy;
    `top_k` 0 and `top_p` 1 are off. `top_logprobs` > 0 asks for every token's confidence, the negative mean of that
    many top log-probabilities (DeepConf, arXiv 2508.15260, uses 20). Values out of range raise `InputError`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(f"key 'temperature' has the value {self.temperature}: expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"key 'top_p' has the value {self.top_p}: expected a share above 0, at most 1 (off)")
        if self.top_k < 0:
            raise InputError(f"key 'top_k' has the value {self.top_k}: expected 0 (off) or more tokens")
        if self.max_tokens < 1:
            raise InputError(f"key 'max_tokens' has the value {self.max_tokens}: expected at least 1 token")
        if self.top_logprobs < 0:
            raise InputError(f"key 'top_logprobs' has the value {self.top_logprobs}: expected 0 (off) or more")


@dataclass
class TraceUsage:
    """What one trace cost [tokens]. `generated_tokens` counts every delivered token, kept or not;
    `overrun_tokens` those computed after a stop and never delivered; `exact` is False where a server hides some."""

    prompt_tokens: int
    generated_tokens: int = 0
    overrun_tokens: int = 0
    prefill_computed: int = 0
    prefill_cached: int = 0
    exact: bool = True


@dataclass(frozen=True)
class Event:
    """New tokens of one trace. `done` is None while it runs, "stop" or "length" when it has ended; `confidences`
    holds one number per token id where `SamplingSpec.top_logprobs` asked for them."""

    trace: int
    token_ids: tuple[int, ...]
    text: str
    done: Literal["stop", "length"] | None = None
    confidences: tuple[float, ...] = ()


class Engine(Protocol):
    """One model, many traces. Trace handles are integers, unique for the life of the engine.

    `tokenizer` is None where only a text server knows it. `parameters` counts the model's, tied ones once: the weight
    of a token in `secateur.engines.accounting`. `capture_layers` index transformers' `hidden_states` (0 = embeddings,
    the last one after the final norm), () where no states are kept. `exact`: a replay gives the tokens of the live
    run, one by one. Every method may raise `EngineError`; the traces that ran are lost with it."""

    tokenizer: "PreTrainedTokenizerBase | None"
    parameters: int
    capture_layers: tuple[int, ...]
    exact: bool

    @property
    def context(self) -> int | None:
        """Prompt and completion together at most [tokens]; None, or no such attribute, where that is not known."""
        return None

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        """Begin one trace per seed on the same prompt; prefilled once. Returns the handles in the order of seeds."""

    def step(self) -> list[Event]:
        """Decode once for every running trace; [] only when nothing runs."""

    def park(self, traces: Sequence[int]) -> None:
        """Take traces out of the batch; they can be resumed."""

    def resume(self, traces: Sequence[int]) -> None:
        """Let parked traces go on exactly after their last token."""

    def prune(self, traces: Sequence[int]) -> None:
        """End running or parked traces for good and free what they hold."""

    def usage(self, trace: int) -> TraceUsage: ...

    def release(self, traces: Sequence[int]) -> None:
        """Forget traces that have ended, states that nobody took included: their handles are unknown from then on.
        What an engine remembers of ended traces grows until then."""

    def states(self, traces: Sequence[int]) -> "list[torch.Tensor]":
        """Hidden states of each trace's generated tokens that were fed back so far: fp16, shape
        [tokens, layers, hidden] (the newest token has been sampled but not fed, so it has none yet). The traces may
        be running, parked or ended. Only engines built with `capture_layers`; capturing for them ends here."""

    def close(self) -> None: ...


@runtime_checkable
class Interruptible(Protocol):
    """An engine whose `step` waits for somebody else, such as a server, for as long as that takes."""

    def interrupt(self) -> None:
        """To be called from any thread: the `step` that waits, or else the next one, returns at once, if need be with
        []."""


@runtime_checkable
class HoldsCache(Protocol):
    """An engine that takes memory for keys and values as its traces grow, and breaks down where there is none."""

    def cache_token_bytes(self) -> int:
        """Keys and values of one token."""

    def free_bytes(self) -> int:
        """Memory that is free where it runs, as it is now."""


@runtime_checkable
class Shareable(Protocol):
    """An engine that many callers may share. `shared`: a trace that is refused (`TraceRefused`) is lost alone. Else
    all are, and closed before anybody looks: of one caller's traces none is wanted without the others."""

    shared: bool


@runtime_checkable
class TellsSampling(Protocol):
    """An engine that does not sample itself, but asks a server to."""

    def sampled_with(self, spec: SamplingSpec) -> dict[str, JSON]:
        """What the server is asked for: the keys that it is `sent` and the names of those `not_sent`, because it
        refuses them. Trace folders keep it beside their settings."""


def trace_seed(base_seed: int, problem_id: str, sample: int) -> int:
    """A seed that depends only on what the trace is, not on batch, order or process: live run and replay agree."""
    digest = hashlib.sha256(f"{base_seed}|{problem_id}|{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fit_to_context(engine: Engine, prompt_ids: Sequence[int], spec: SamplingSpec) -> SamplingSpec:
    """`spec` with a cap that the engine's context leaves room for behind this prompt. The spec as it is where the
    context is not known, and where the prompt fills it, which `start` refuses."""
    room = _room(engine, len(prompt_ids))
    return replace(spec, max_tokens=room) if room is not None and 0 < room < spec.max_tokens else spec


def warn_of_context(engine: Engine, prompts: Iterable[Sequence[int]], spec: SamplingSpec) -> None:
    """Say so where `fit_to_context` lowers the cap behind one of the prompts."""
    longest = max(map(len, prompts), default=0)
    room = _room(engine, longest)
    if room is not None and 0 < room < spec.max_tokens and current_ranks().is_main:
        warnings.warn(
            f"max_tokens {spec.max_tokens:,} is more than the model's context of {longest + room:,} tokens holds: "
            f"completions are capped where it ends, {room:,} tokens behind the longest prompt",
            RuntimeWarning,
            stacklevel=2,
        )


def _room(engine: Engine, prompt_tokens: int) -> int | None:
    """Tokens of the context behind a prompt."""
    context = getattr(engine, "context", None)
    return None if context is None else context - prompt_tokens


def check_prompt(prompt: Sequence[int], spec: SamplingSpec, vocabulary: int | None, context: int | None) -> None:
    """Raises `InputError` for an empty prompt, an id outside the vocabulary, and a prompt whose longest completion
    exceeds the context [tokens]; what is None is not known and not checked."""
    if not prompt:
        raise InputError("the prompt is empty: give at least one token id")
    if vocabulary is not None and (min(prompt) < 0 or max(prompt) >= vocabulary):
        raise InputError(f"the prompt holds the id {max(prompt)}, the model's vocabulary ends at {vocabulary}")
    if context is not None and len(prompt) >= context:
        raise InputError(f"the prompt of {len(prompt)} tokens fills the model's context of {context}: shorten it")
    if context is not None and len(prompt) + spec.max_tokens > context:
        raise InputError(
            f"prompt of {len(prompt)} tokens + max_tokens {spec.max_tokens} exceed the context of {context}: lower "
            f"max_tokens to {context - len(prompt)} or shorten the prompt"
        )


class HasStatus(Protocol):
    handle: int
    status: str


H = TypeVar("H", bound=HasStatus)
ENDED = ("finished", "pruned", "lost")
"""Statuses of traces that can be released."""


def select_traces(traces: Mapping[int, H], handles: Sequence[int], allowed: tuple[str, ...]) -> list[H]:
    """The traces of these handles, each once. Raises `ValueError` for one whose status is not among `allowed`, and
    for one that is not known."""
    chosen = [find_trace(traces, handle) for handle in dict.fromkeys(handles)]
    for trace in chosen:
        if trace.status not in allowed:
            raise ValueError(f"trace {trace.handle} is {trace.status}; expected {' or '.join(allowed)}")
    return chosen


def find_trace(traces: Mapping[int, H], handle: int) -> H:
    """Raises `ValueError` for a trace that is not known."""
    if handle not in traces:
        raise ValueError(f"trace {handle} is not known: it was never started, or was released")
    return traces[handle]
