"""vLLM in this process, one request per trace. Parking aborts the request; resuming submits prompt and partial trace
again, as token ids, most of them from the prefix cache.

What holds: no token of a trace follows the call that stops it. With `async_scheduling` (off by default) one further
step is under way when a trace is stopped; its token is never delivered and counts as `overrun_tokens`. A resumed
phase draws with a seed of its own, so a sampled trace goes on in the same distribution, not with the same tokens, and
kernels may round differently in another batch: `exact` is False. Every phase has a prompt, so
`prefill_computed + prefill_cached` sums up to the prompt positions of all phases. vLLM caches whole blocks (16 tokens
on GPUs, 32 on CPUs). Counts are exact unless vLLM had to preempt a trace, which makes it compute tokens again that
nobody counts: its `TraceUsage.exact` is False then.

Several GPUs: one process with one engine per GPU, each with problems of its own (the evaluation scripts under
`accelerate launch`), or `tensor_parallel_size` for models that need more than one.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from secateur.engines.base import (
    ENDED,
    EngineError,
    Event,
    SamplingSpec,
    TraceUsage,
    check_prompt,
    find_trace,
    select_traces,
)
from secateur.engines.detokenize import Detokenizer, TextStream
from secateur.engines.gguf import plain_model
from secateur.engines.model_files import check_capture_layers, count_parameters, load_tokenizer, stored_end_ids
from secateur.engines.vllm.setup import STATES_FROM, check_vllm, open_llm, read_config
from secateur.runtime.errors import InputError

if TYPE_CHECKING:
    import torch
    from vllm import RequestOutput, SamplingParams
    from vllm.logprobs import FlatLogprobs
    from vllm.v1.request import Request

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class VLLMTrace:
    """`phase` numbers the trace's requests from 0, `request` is vLLM's record of the one that runs. `logs` names the
    phases whose states the worker keeps, each with the number of states that earlier phases hold."""

    handle: int
    prompt_ids: tuple[int, ...]
    seed: int
    spec: SamplingSpec
    text: TextStream
    usage: TraceUsage
    capturing: bool
    status: Literal["running", "parked", "finished", "pruned"] = "parked"
    token_ids: list[int] = field(default_factory=list)
    phase: int = -1
    request: "Request | None" = None
    prefill_known: bool = False
    logs: list[tuple[str, int]] = field(default_factory=list)

    @property
    def fed(self) -> int:
        """Generated tokens that the model has read: all but the newest, which the next phase reads first."""
        return max(len(self.token_ids) - 1, 0)

    @property
    def request_name(self) -> str:
        """vLLM's name of the newest phase."""
        return f"{self.handle}-{self.phase}"


def sampling_params(trace: VLLMTrace, end_ids: frozenset[int]) -> "SamplingParams":
    """What vLLM has to know of the newest phase of a trace."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    spec = trace.spec
    return SamplingParams(
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        max_tokens=spec.max_tokens - len(trace.token_ids),
        seed=phase_seed(trace.seed, trace.phase),
        stop_token_ids=sorted(end_ids),
        ignore_eos=True,
        logprobs=spec.top_logprobs or None,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={STATES_FROM: len(trace.prompt_ids) + trace.fed} if trace.capturing else None,
        skip_clone=True,
    )


def phase_seed(seed: int, phase: int) -> int:
    """Every phase of a trace draws numbers of its own: a repeated seed would repeat the first phase's numbers."""
    digest = hashlib.sha256(f"{seed}|{phase}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def confidences_of(logprobs: "FlatLogprobs | None", count: int) -> tuple[float, ...]:
    """Negative mean of the `count` best raw log-probabilities per token; vLLM lists the drawn token before them."""
    if not count:
        return ()
    return tuple(-sum(logprobs.logprobs[end - count : end]) / count for end in logprobs.end_indices)


_STALL_SECONDS = 600


class VLLMEngine:
    """Implements `secateur.engines.base.Engine`. `model` is a folder or a hub id.

    `dtype`: "auto" takes the model's own. `capture_layers` index transformers' `hidden_states` (0 = embeddings);
    their states are copied to the host as they are computed (`secateur.engines.vllm.states`). Raises `InputError`
    where vLLM is missing or cannot open the model. vLLM's own options, by its names unless said otherwise:

    max_num_seqs: traces at once, more wait until places are free; in a config the default is `rows`.
    gpu_memory_utilization: share (0-1) of the device that vLLM takes, weights included.
    kv_cache_gib: memory for keys and values [GiB], in the place of that share (vLLM's `kv_cache_memory_bytes`).
    tensor_parallel_size: GPUs that one engine spreads the model over.
    max_model_len: prompt and completion at most [tokens]; null: the model's context.
    enforce_eager: no CUDA graphs: slower steps, no time and memory spent on capturing them.
    async_scheduling: the next step is prepared while one runs; a stop then costs a token, which is counted.
    max_logprobs: the most that `top_logprobs` may ask for.
    seed: of the engine itself; every trace has its own.
    """

    exact = False
    check_installed = staticmethod(check_vllm)

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str = "auto",
        capture_layers: Sequence[int] | None = None,
        max_num_seqs: int = 256,
        gpu_memory_utilization: float | None = None,
        kv_cache_gib: float | None = None,
        tensor_parallel_size: int = 1,
        max_model_len: int | None = None,
        enforce_eager: bool = False,
        async_scheduling: bool = False,
        max_logprobs: int = 20,
        seed: int = 0,
    ) -> None:
        check_vllm()
        model = plain_model(str(model))
        config = read_config(model, dtype)
        self.capture_layers = check_capture_layers(capture_layers, config)
        self.tokenizer = load_tokenizer(model)
        self.parameters = count_parameters(config)
        self.end_ids = stored_end_ids(model, config, self.tokenizer)
        self._max_logprobs = max_logprobs
        self._vocabulary = config.get_text_config(decoder=True).vocab_size
        self._detokenizer = Detokenizer(self.tokenizer)
        self._llm = open_llm(
            model,
            dtype=dtype,
            capture_layers=self.capture_layers,
            max_num_seqs=max_num_seqs,
            gpu_memory_utilization=gpu_memory_utilization,
            kv_cache_gib=kv_cache_gib,
            tensor_parallel_size=tensor_parallel_size,
            max_model_len=max_model_len,
            enforce_eager=enforce_eager,
            async_scheduling=async_scheduling,
            max_logprobs=max_logprobs,
            seed=seed,
        )
        self.context = self._llm.model_config.max_model_len
        self._requests: dict[str, Request] = self._llm.engine_core.engine_core.scheduler.requests
        self._traces: dict[int, VLLMTrace] = {}
        self._handles = itertools.count()
        self._running: dict[str, VLLMTrace] = {}
        self._failure: str | None = None

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        """See `Engine.start`. Raises `InputError` for an empty prompt, an id outside the vocabulary, a prompt whose
        longest completion exceeds the context, or more `top_logprobs` than allowed."""
        prompt = tuple(prompt_ids)
        self._check_start(prompt, spec)
        started = [
            VLLMTrace(
                handle=next(self._handles),
                prompt_ids=prompt,
                seed=seed,
                spec=spec,
                text=self._detokenizer.stream(),
                usage=TraceUsage(prompt_tokens=len(prompt)),
                capturing=bool(self.capture_layers),
            )
            for seed in seeds
        ]
        self._traces.update((trace.handle, trace) for trace in started)
        for trace in started:
            self._submit(trace)
        return [trace.handle for trace in started]

    def step(self) -> list[Event]:
        """See `Engine.step`. Steps vLLM until a token comes out: prompts that are read in chunks deliver none.

        Raises `EngineError` when vLLM fails, or delivers nothing for ten minutes.
        """
        begin = time.monotonic()
        while self._running:
            outputs = self._call(self._llm.step)
            events = [self._deliver(self._running[output.request_id], output) for output in outputs]
            if events:
                return sorted(events, key=lambda event: event.trace)
            if time.monotonic() - begin > _STALL_SECONDS:
                self._failure = f"no token in {_STALL_SECONDS} s"
        self._check_alive()
        return []

    def park(self, traces: Sequence[int]) -> None:
        """See `Engine.park`: aborts the requests. vLLM keeps their blocks while nobody else needs the room."""
        parked = select_traces(self._traces, traces, ("running",))
        self._abort(parked)
        for trace in parked:
            trace.status = "parked"

    def resume(self, traces: Sequence[int]) -> None:
        """See `Engine.resume`: submits prompt and partial trace as a new request."""
        resumed = select_traces(self._traces, traces, ("parked",))
        for trace in resumed:
            self._submit(trace)

    def prune(self, traces: Sequence[int]) -> None:
        """See `Engine.prune`."""
        pruned = select_traces(self._traces, traces, ("running", "parked"))
        self._abort([trace for trace in pruned if trace.status == "running"])
        self._drop_states(pruned)
        for trace in pruned:
            trace.status = "pruned"

    def usage(self, trace: int) -> TraceUsage:
        return find_trace(self._traces, trace).usage

    def release(self, traces: Sequence[int]) -> None:
        """See `Engine.release`."""
        released = select_traces(self._traces, traces, ENDED)
        self._drop_states(released)
        for trace in released:
            del self._traces[trace.handle]

    def states(self, traces: Sequence[int]) -> "list[torch.Tensor]":
        """See `Engine.states`; on the host. Nothing is computed for them: they were kept when they were computed."""
        import torch

        wanted = [find_trace(self._traces, trace) for trace in traces]
        for trace in wanted:
            if not trace.capturing:
                reason = "capture_layers not given, or taken before"
                raise ValueError(f"trace {trace.handle} captures no states ({reason})")
            if trace.status == "pruned":
                raise ValueError(f"trace {trace.handle} was pruned; take its states before that")
        names = [name for trace in wanted for name, _ in trace.logs]
        taken = iter(self._call(self._llm.collective_rpc, "take_states", _STALL_SECONDS, (names,))[0])
        result = []
        for trace in wanted:
            # with async scheduling each phase read its last token too, which the next one reads again
            ends = [before for _, before in trace.logs[1:]] + [trace.fed]
            parts = [next(taken)[: end - before] for (_, before), end in zip(trace.logs, ends, strict=True)]
            result.append(torch.cat(parts))
            trace.capturing, trace.logs = False, []
        return result

    def close(self) -> None:
        """End all traces; the engine can start new ones afterwards, old handles are gone."""
        self._abort(list(self._running.values()))
        self._drop_states(list(self._traces.values()))
        self._traces = {}

    def _submit(self, trace: VLLMTrace) -> None:
        trace.phase += 1
        params = sampling_params(trace, self.end_ids)
        ids = {"prompt_token_ids": [*trace.prompt_ids, *trace.token_ids]}
        internal = self._call(self._llm.add_request, trace.request_name, ids, params)
        trace.request, trace.prefill_known, trace.status = self._requests[internal], False, "running"
        if trace.capturing:
            trace.logs.append((internal, trace.fed))
        self._running[trace.request_name] = trace

    def _deliver(self, trace: VLLMTrace, output: "RequestOutput") -> Event:
        (completion,) = output.outputs
        tokens = tuple(completion.token_ids)
        if completion.finish_reason not in (None, "stop", "length"):
            self._failure = f"vLLM ended trace {trace.handle} with '{completion.finish_reason}'"
            self._check_alive()
        trace.token_ids.extend(tokens)
        trace.usage.generated_tokens += len(tokens)
        if not trace.prefill_known:
            self._count_prefill(trace, output.num_cached_tokens, len(output.prompt_token_ids))
        text = "".join(trace.text.push(token) for token in tokens if token not in self.end_ids)
        if completion.finish_reason:
            text += trace.text.finish()
            self._leave(trace, "finished")
        confidences = confidences_of(completion.logprobs, trace.spec.top_logprobs)
        return Event(trace.handle, tokens, text, completion.finish_reason, confidences)

    def _abort(self, traces: list[VLLMTrace]) -> None:
        if not traces:
            return
        for trace in traces:
            if not trace.prefill_known:  # stopped before its first token: what was read so far
                read = min(trace.request.num_computed_tokens, trace.request.num_prompt_tokens)
                self._count_prefill(trace, trace.request.prefill_stats.num_cached_tokens if read else 0, read)
        self._call(self._llm.abort_request, [trace.request_name for trace in traces])
        for trace in traces:
            self._leave(trace, "parked")

    @staticmethod
    def _count_prefill(trace: VLLMTrace, cached: int, read: int) -> None:
        trace.usage.prefill_cached += cached
        trace.usage.prefill_computed += read - cached
        trace.prefill_known = True

    def _leave(self, trace: VLLMTrace, status: Literal["parked", "finished"]) -> None:
        del self._running[trace.request_name]
        trace.usage.overrun_tokens += trace.request.num_output_placeholders  # under way with async scheduling
        if trace.request.num_preemptions:
            trace.usage.exact = False
        trace.status, trace.request = status, None

    def _drop_states(self, traces: Sequence[VLLMTrace]) -> None:
        names = [name for trace in traces for name, _ in trace.logs]
        if names:
            self._call(self._llm.collective_rpc, "drop_states", _STALL_SECONDS, (names,))
        for trace in traces:
            trace.logs = []

    def _call(self, function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
        """A call into vLLM; whatever it raises is the end of the engine."""
        self._check_alive()
        try:
            return function(*args, **options)
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            raise EngineError(f"vLLM failed ({self._failure}); open a new engine") from error

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise EngineError(f"vLLM failed ({self._failure}); open a new engine")

    def _check_start(self, prompt: tuple[int, ...], spec: SamplingSpec) -> None:
        check_prompt(prompt, spec, self._vocabulary, self.context)
        if spec.top_logprobs > self._max_logprobs:
            raise InputError(
                f"key 'top_logprobs' has the value {spec.top_logprobs}: this engine was opened for at most "
                f"{self._max_logprobs}; raise max_logprobs"
            )
