"""Generation on any server with an OpenAI-compatible completions endpoint: one streamed request per trace.

Closing a stream is what stops a trace on the server; a resumed trace is a new request whose prompt ends with the
tokens it had. Where the server takes and gives token ids (vLLM, llama.cpp) nothing is tokenised twice, but for a
character that llama.cpp spreads over tokens; of other servers only text is known, and their counts are the
tokenizer's. Not exact: `overrun_tokens` holds all that a server sent until it noticed the close, but what it computed
and never sent, a step or so for each stop, is told nobody; and a resumed trace draws new random numbers.

A chunk costs this process about 80 µs (256 streams, one core): from some 12,000 chunks a second on the server runs
ahead of us, and more is computed than a cut needs; let it send several tokens in a chunk (vLLM: --stream-interval).
"""

import itertools
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

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
from secateur.engines.model_files import load_tokenizer
from secateur.engines.openai.checks import ABORT_CHECKS, check_abort, find_dialect, parameters_of
from secateur.engines.openai.protocol import ApiKey, Chunk, Dialect, Ids, Request, check_url
from secateur.engines.openai.streams import Patience, Streams
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(eq=False)
class _ServedTrace:
    handle: int
    prompt_ids: list[int]
    spec: SamplingSpec
    seed: int
    usage: TraceUsage
    text: TextStream | None
    status: str = "running"
    phase: int = 0
    backlog: deque[Chunk] = field(default_factory=deque)
    ids: list[int] = field(default_factory=list)  # all that came in, the backlog's too
    texts: list[str] = field(default_factory=list)


class OpenAIEngine:
    """Implements `secateur.engines.base.Engine` for the model that the server at `base_url` (…/v1) calls `model`.

    base_url: the server's address (…/v1).
    api_key_env: the environment variable that holds the key, where one is needed.
    tokenizer: folder or Hub id of the model's tokenizer, needed for all servers but vLLM's, which tells all token
      ids; without one the server's own text is passed on.
    abort_check: `require` tries at the start that closing a stream stops generation, and refuses a server that goes
      on; `warn` only says so; `off` does not try.
    parameters: number of the model's parameters, where the tokenizer's folder has no config.json.
    read_timeout_s: so long without a token ends a stream for good, and so long is waited at the start for a server
      that is busy [seconds].
    max_retries: how often a stream that breaks is opened again without a token in between.
    extra_body: further fields of each request.

    Every key of sampling is sent with every request, whatever the server's defaults (`sampled_with`). The start sends
    a few short requests of its own, which no trace's usage counts, and waits for a server that is busy. Raises
    `InputError` if the server cannot be reached, does not have the model, or does not stop.
    """

    exact = False

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        tokenizer: str | None = None,
        capture_layers: Sequence[int] | None = None,
        abort_check: str = "require",
        parameters: int | None = None,
        read_timeout_s: float = 600.0,
        max_retries: int = 3,
        extra_body: Mapping[str, JSON] | None = None,
    ) -> None:
        if capture_layers:
            _no_states()
        if abort_check not in ABORT_CHECKS:
            raise InputError(f"key 'abort_check' has the value {abort_check!r}: choose of {', '.join(ABORT_CHECKS)}")
        self.capture_layers: tuple[int, ...] = ()
        self._tokenizer_source, self._parameters = tokenizer, parameters
        self.tokenizer: PreTrainedTokenizerBase | None = None if tokenizer is None else load_tokenizer(tokenizer)
        self._detokenizer = None if self.tokenizer is None else Detokenizer(self.tokenizer)
        self._extra = dict(extra_body or {})
        self._streams = Streams(
            check_url(base_url),
            model,
            ApiKey.from_environment(api_key_env),
            Patience(read_timeout_s, max_retries),
            self._extra,
            self._tokenize,
        )
        self._traces: dict[int, _ServedTrace] = {}
        self._handles = itertools.count()
        self._running: dict[int, _ServedTrace] = {}
        self._said_cut_off = self._interrupted = False
        self._failure: Exception | None = None  # of a stream that nobody waits for any more, but it closed the others
        try:
            self._get_to_know(base_url.rstrip("/"), model, abort_check)
        except BaseException:
            self._streams.shut_down()
            raise

    def _get_to_know(self, base_url: str, model: str, abort_check: str) -> None:
        self._streams.dialect = find_dialect(self._streams, base_url, model, self.tokenizer)
        if self.dialect.form is not Ids.VLLM and self.tokenizer is None:
            raise InputError(
                f"{base_url}: this server does not tell the ids of all its tokens; give the option 'tokenizer', the "
                f"folder or hub id of the tokenizer of '{model}'"
            )
        if abort_check != "off":
            check_abort(self._streams, base_url, model, self.tokenizer, abort_check)

    @property
    def dialect(self) -> Dialect:
        """What the server was found to understand."""
        return self._streams.dialect

    @property
    def context(self) -> int | None:
        """See `Engine.context`."""
        return self.dialect.context

    def sampled_with(self, spec: SamplingSpec) -> dict[str, JSON]:
        """What each request says of sampling, for the record: the keys that are sent, with those of `extra_body`, and
        the names of those that this server refuses."""
        unsent = self.dialect.unsent
        seed = {} if "seed" in unsent else {"seed": "one for each trace and resumption"}
        return {"sent": self.dialect.sampling(spec) | seed | self._extra, "not_sent": sorted(unsent)}

    @property
    def shared(self) -> bool:
        """See `secateur.engines.base.Shareable`."""
        return self._streams.shared

    @shared.setter
    def shared(self, value: bool) -> None:
        self._streams.shared = value

    @property
    def retries(self) -> int:
        """Streams that broke and were opened again."""
        return self._streams.retries

    @cached_property
    def parameters(self) -> int:
        """Parameters of the model: the weight of its tokens in `secateur.engines.accounting`. Raises `InputError`
        where nothing says how many they are."""
        return self._parameters if self._parameters is not None else parameters_of(self._tokenizer_source)

    def start(self, prompt_ids: Sequence[int], seeds: Sequence[int], spec: SamplingSpec) -> list[int]:
        """See `Engine.start`. All requests are sent at once; what they share is up to the server's prefix cache.
        Raises `InputError` for a top_k that the server does not take."""
        prompt = [int(token) for token in prompt_ids]
        if spec.top_k and "top_k" in self.dialect.unsent:
            raise InputError(
                f"key 'top_k' has the value {spec.top_k}, but the server refuses it: leave it at 0 (off)"
            )
        check_prompt(prompt, spec, None, self.dialect.context)
        started = [
            _ServedTrace(
                handle=next(self._handles),
                prompt_ids=prompt,
                spec=spec,
                seed=seed,
                usage=TraceUsage(prompt_tokens=len(prompt), exact=False),
                text=self._detokenizer.stream() if self._detokenizer and self.dialect.ids else None,
            )
            for seed in seeds
        ]
        self._traces.update((trace.handle, trace) for trace in started)
        self._running |= {trace.handle: trace for trace in started}
        self._open(started)
        return [trace.handle for trace in started]

    def step(self) -> list[Event]:
        """The oldest waiting chunk of each running trace, in the order of their handles; waits until there is one, or
        until it is interrupted.

        A chunk is a token, or a few where the server sends them together: a trace that is stopped at one of them can
        go on right there, however far ahead the server has run meanwhile. Raises `EngineError` if a stream is lost.
        """
        if not self._running:
            return []
        self._raise_error(self._failure)
        self._sort_in()
        while not (ready := [trace for trace in self._running.values() if trace.backlog]) and not self._interrupted:
            self._receive(self._streams.inbox.get())
            self._sort_in()
        self._interrupted = False
        for trace in ready:
            self._raise_error(trace.backlog[0].error, trace)
        return [self._deliver(trace) for trace in sorted(ready, key=lambda trace: trace.handle)]

    def park(self, traces: Sequence[int]) -> None:
        """See `Engine.park`. What came in beyond the last delivered token is kept for a resumption."""
        self._stop(select_traces(self._traces, traces, ("running",)), "parked")

    def resume(self, traces: Sequence[int]) -> None:
        """See `Engine.resume`. The server reads prompt and tokens again, from its prefix cache if it has one."""
        resumed = select_traces(self._traces, traces, ("parked",))
        for trace in resumed:
            trace.status = "running"
            trace.phase += 1
            self._running[trace.handle] = trace
        self._open([trace for trace in resumed if not _ends(trace)])

    def prune(self, traces: Sequence[int]) -> None:
        """See `Engine.prune`. What came in and was never delivered becomes overrun."""
        self._drop(select_traces(self._traces, traces, ("running", "parked", "lost")), "pruned")

    def usage(self, trace: int) -> TraceUsage:
        """See `Engine.usage`. Prompt positions count as computed where the server does not say that it had them."""
        return find_trace(self._traces, trace).usage

    def release(self, traces: Sequence[int]) -> None:
        """See `Engine.release`."""
        for trace in select_traces(self._traces, traces, ENDED):
            del self._traces[trace.handle]

    def interrupt(self) -> None:
        """See `secateur.engines.base.Interruptible`."""
        self._streams.inbox.put(None)

    def states(self, traces: Sequence[int]) -> NoReturn:
        """A server hands out no hidden states: always an `InputError`."""
        _no_states()

    def close(self) -> None:
        """Close all streams for good."""
        self._running.clear()
        self._streams.shut_down()

    def _open(self, traces: list[_ServedTrace]) -> None:
        self._streams.open(
            Request(
                trace=trace.handle,
                prompt_ids=trace.prompt_ids + trace.ids,
                prompt_text=self._prompt_text(trace),
                spec=trace.spec,
                seed=trace.seed,
                # ids that we made of a server's text may be more than its own
                budget=max(1, trace.spec.max_tokens - len(trace.ids)),
                phase=trace.phase,
            )
            for trace in traces
        )

    def _prompt_text(self, trace: _ServedTrace) -> str:
        """What a server that speaks text reads; it adds a start token of its own where the tokenizer has one."""
        if self.dialect.ids:
            return ""
        text = self.tokenizer.decode(trace.prompt_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        start = self.tokenizer.bos_token
        adds = start is not None and self.tokenizer("x")["input_ids"][:1] == [self.tokenizer.bos_token_id]
        return (text.removeprefix(start) if adds else text) + "".join(trace.texts)

    def _tokenize(self, text: str, ended: bool) -> tuple[int, ...]:
        """Ids for text whose ids the server keeps to itself; the end token has no text, but it was generated."""
        if self.tokenizer is None:
            raise EngineError("the server sent text without its token ids; give the option 'tokenizer'")
        ids = tuple(self.tokenizer.encode(text, add_special_tokens=False)) if text else ()
        end = self.tokenizer.eos_token_id
        return (*ids, end) if ended and end is not None else ids

    def _stop(self, traces: list[_ServedTrace], status: str) -> None:
        self._streams.close_streams(trace.handle for trace in traces)
        self._sort_in()
        for trace in traces:
            trace.status = status
            self._running.pop(trace.handle, None)
            errors = [chunk.error for chunk in trace.backlog if chunk.error is not None]
            self._failure = next(filter(self._streams.loses_all, errors), self._failure)
            trace.backlog = deque(chunk for chunk in trace.backlog if chunk.error is None)
        if not self._running:
            self._failure = None

    def _drop(self, traces: list[_ServedTrace], status: str) -> None:
        self._stop(traces, status)
        for trace in traces:
            late = sum(len(chunk.token_ids) + chunk.correction for chunk in trace.backlog)
            trace.usage.overrun_tokens += max(late, 0)
            trace.usage.generated_tokens += min(late, 0)  # its text was cut into too many tokens here
            trace.backlog.clear()

    def _sort_in(self) -> None:
        while not self._streams.inbox.empty():
            self._receive(self._streams.inbox.get())

    def _receive(self, chunk: Chunk | None) -> None:
        """Put a chunk behind its trace's others and count what it says about the prompt; None is an interruption."""
        if chunk is None:
            self._interrupted = True
            return
        trace, usage = self._traces[chunk.trace], self._traces[chunk.trace].usage
        usage.prefill_computed += chunk.prefill
        if chunk.done is not None and chunk.cached:
            usage.prefill_computed -= chunk.cached
            usage.prefill_cached += chunk.cached
        trace.ids += chunk.token_ids
        trace.texts.append(chunk.text)
        trace.backlog.append(chunk)

    def _raise_error(self, error: Exception | None, trace: _ServedTrace | None = None) -> None:
        """Raise what ended a stream, before any event of this step is taken out; the traces that ran are lost, or
        that `trace` alone."""
        if error is not None:
            self._drop(list(self._running.values()) if self._streams.loses_all(error) else [trace], "lost")
            raise error

    def _deliver(self, trace: _ServedTrace) -> Event:
        chunk = trace.backlog.popleft()
        trace.usage.generated_tokens += len(chunk.token_ids) + chunk.correction
        text = chunk.text
        if trace.text is not None:
            text = "".join(trace.text.push(token) for token in chunk.token_ids)
        if chunk.done is not None:
            text += "" if trace.text is None else trace.text.finish()
            trace.status = "finished"
            del self._running[trace.handle]
            self._say_cut_off(trace, chunk)
        return Event(trace.handle, chunk.token_ids, text, chunk.done, chunk.confidences)

    def _say_cut_off(self, trace: _ServedTrace, last: Chunk) -> None:
        """Once: a server that tells no context may end traces at its own, which looks like our cap. A tenth is left
        for text that is cut into more tokens there."""
        had, most = trace.usage.generated_tokens, trace.spec.max_tokens
        if last.done == "length" and had < 0.9 * most and not self._said_cut_off:
            self._said_cut_off = True
            warnings.warn(
                f"the server ended a trace after {had} of {most} tokens, as traces are that reach max_tokens: its "
                "context is full or it has a cap of its own; lower max_tokens, or give it more room (llama.cpp: -c, "
                "divided by -np)",
                RuntimeWarning,
                stacklevel=2,
            )


def _ends(trace: _ServedTrace) -> bool:
    return bool(trace.backlog) and trace.backlog[-1].done is not None


def _no_states() -> NoReturn:
    raise InputError(
        "capture_layers: a server hands out no hidden states; use a judge that reads text (linear or pairwise), or "
        "run the model in this process (engine: transformers or vllm)"
    )
