"""What is found out about a server before any trace runs: its model, its dialect, and whether an abort stops it.

Servers that run on after a connection was closed are not rare (reports: vllm-project/vllm 32442, sgl-project/sglang
36475, ggml-org/llama.cpp 4721, and proxies that hold connections open); pruning would then save nothing, unnoticed.
"""

import asyncio
import re
import warnings
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import httpx
from rich.markup import escape

from secateur.engines.base import EngineError, SamplingSpec
from secateur.engines.model_files import count_parameters
from secateur.engines.openai.protocol import REFUSABLE, Chunk, Dialect, Ids, Request, metric
from secateur.engines.openai.streams import Broken, Streams
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.runtime.process import current_ranks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
ABORT_CHECKS = ("require", "warn", "off")
_COUNTERS = ("generation_tokens_total", "tokens_predicted_total")  # vLLM and SGLang; llama.cpp
_SERVERS = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}  # by `owned_by` in the list of models
_COUNTER_SHOWN = {
    "llama.cpp": "start llama.cpp with --metrics",
    "SGLang": "start SGLang with --enable-metrics",
    "vLLM": "start vLLM without --disable-log-stats",
}
_ANY_SHOWN = (
    "llama.cpp shows one with --metrics, SGLang with --enable-metrics, vLLM unless it has --disable-log-stats, and "
    "TGI counts no trace that was closed"
)
_PROBE_TEXT = "Count: 1 2 3 4"
_PROBE_IDS = [1, 2, 3, 4]
_CLOSE_AFTER = 20  # tokens of the stream that is closed
_RUN_ON = 1024  # tokens it would have if the server went on
_POLL_S = 0.25
_LONGEST_PAUSE_S = 15.0
_UNREAD = (Broken, httpx.TransportError)
_STILL_POLLS = 4  # equal readings after which a counter stands still
_GIVE_UP_S = 20.0


def find_dialect(streams: Streams, base_url: str, model: str, tokenizer: "PreTrainedTokenizerBase | None") -> Dialect:
    """The richest of the ways to ask for a completion that this server answers, without the keys of sampling that it
    refuses. Raises `InputError` if it answers none, cannot be reached, wants another key, or serves other models."""
    told, refusal = _ask_models(streams, base_url, model), ""
    ways = [replace(told, form=form) for form in Ids] + [replace(told, form=Ids.NONE, usage=False)]
    while ways:
        dialect = ways.pop(0)
        try:
            chunks = streams.run(_patiently(streams, base_url, partial(_probe, streams, model, dialect, tokenizer)))
        except EngineError as error:
            refusal = str(error)
            if refused := _refused_keys(dialect, refusal):
                ways.insert(0, replace(dialect, unsent=dialect.unsent | refused))
            continue
        except (Broken, httpx.TransportError, TimeoutError) as error:
            reason = streams.key.quote(str(error)) or type(error).__name__
            raise InputError(f"the server does not complete a prompt of four tokens: {reason}") from None
        if not dialect.ids or any(chunk.token_ids for chunk in chunks):
            _say_unsent(base_url, dialect)
            return dialect
        refusal = "it sends no token ids"
    raise InputError(f"the server answers no completion request that we know how to make; last: {refusal}")


def _ask_models(streams: Streams, base_url: str, model: str) -> Dialect:
    """What the server says of itself and of `model`."""
    try:
        response = streams.run(_patiently(streams, base_url, partial(streams.get, f"{base_url}/models")))
    except httpx.TransportError as error:
        raise InputError(
            f"{base_url}: no server answers ({streams.key.quote(str(error)) or type(error).__name__}); start it or "
            "correct 'base_url'"
        ) from None
    if response.status_code in (401, 403):
        raise InputError(
            f"{base_url}: the server refuses the key; put it into the environment as {streams.key.variable}"
        )
    try:
        entries = response.json()["data"] if response.status_code == 200 else []
        served = {entry["id"]: entry for entry in entries}
    except (ValueError, KeyError, TypeError):
        return Dialect()  # the list is optional, completions are what counts
    if served and model not in served:
        names = streams.key.quote(", ".join(sorted(served)))
        raise InputError(f"{base_url}: serves no model '{model}', but: {names}")
    entry = served.get(model, {})
    return Dialect(context=_context_of(entry), server=_SERVERS.get(str(entry.get("owned_by")), ""))


async def _patiently(streams: Streams, url: str, attempt: Callable[[], Coroutine[object, object, T]]) -> T:
    """`attempt`, made again while the server says that it is busy, as one does that still loads its model: when it
    asks to be, or after pauses that grow, for `read_timeout_s` in all. Raises `InputError` after that."""
    most, pause, waited = streams.patience.read_timeout_s, streams.patience.backoff_s, 0.0
    while True:
        try:
            return await _past_closed(attempt)
        except Broken as broken:
            if not broken.busy:
                raise
            wait = max(broken.after_s, pause)
            if waited + wait > most:
                what = f"longer than read_timeout_s ({most:g} seconds): start it again later, or raise that option"
                raise InputError(_busy(url, broken, what)) from None
            if not waited:
                say(escape(_busy(url, broken, f"waiting, {most:g} seconds at most")))
        await asyncio.sleep(wait)
        waited, pause = waited + wait, min(2 * pause, _LONGEST_PAUSE_S)


async def _past_closed(attempt: Callable[[], Coroutine[object, object, T]]) -> T:
    """`attempt`, made again where the server has closed a connection that was kept open for it (llama.cpp does after
    five seconds): its end is seen before the answer, or the request meets a reset."""
    try:
        return await attempt()
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        return await attempt()


def _busy(url: str, broken: Broken, what: str) -> str:
    asks = f" and asks to wait {broken.after_s:g} seconds" if broken.after_s else ""
    return f"{url}: the server is busy{asks} ({broken}); {what}"


def _context_of(entry: Mapping[str, JSON]) -> int | None:
    """Longest prompt and completion [tokens]: as vLLM and SGLang tell it, llama.cpp (of one of its slots), or several
    gateways."""
    meta = entry.get("meta")
    told = (entry.get("max_model_len"), isinstance(meta, dict) and meta.get("n_ctx"), entry.get("context_length"))
    return next((int(value) for value in told if isinstance(value, int) and value > 0), None)


def _refused_keys(dialect: Dialect, refusal: str) -> frozenset[str]:
    """Keys of sampling to leave out after a refusal: those that it names, or all, where it names none and nothing
    else is asked for that a plain server does not know."""
    left = [key for key in REFUSABLE if key not in dialect.unsent]
    named = [key for key in left if re.search(rf"\b{key}\b", refusal)]
    return frozenset(named or ([] if dialect.ids else left))


def _say_unsent(base_url: str, dialect: Dialect) -> None:
    if dialect.unsent:
        warnings.warn(
            f"{base_url}: the server refuses {', '.join(sorted(dialect.unsent))}, so it samples with defaults of its "
            "own for that; trace folders record it as not sent",
            RuntimeWarning,
            stacklevel=5,
        )


async def _probe(
    streams: Streams, model: str, dialect: Dialect, tokenizer: "PreTrainedTokenizerBase | None"
) -> list[Chunk]:
    body = _trial(dialect, tokenizer, SamplingSpec(temperature=0, max_tokens=2)).body(model, dialect, {})
    async with streams.clock(), aclosing(streams.records(body)) as records:
        return [streams.chunk(0, record, 0) async for record in records]


def _trial(dialect: Dialect, tokenizer: "PreTrainedTokenizerBase | None", spec: SamplingSpec) -> Request:
    prompt = _prompt(dialect, tokenizer)
    return Request(0, prompt if dialect.ids else [], _PROBE_TEXT, spec, 0, spec.max_tokens, 0)


def _prompt(dialect: Dialect, tokenizer: "PreTrainedTokenizerBase | None") -> str | list[int]:
    if not dialect.ids:
        return _PROBE_TEXT
    return _PROBE_IDS if tokenizer is None else tokenizer.encode(_PROBE_TEXT, add_special_tokens=False)


def check_abort(
    streams: Streams, base_url: str, model: str, tokenizer: "PreTrainedTokenizerBase | None", demand: str
) -> None:
    """Close a stream after a few tokens and watch the server's own count of generated tokens.

    Raises `InputError` if the server goes on and `demand` is "require"; else warns, also where nothing can be seen.
    """
    if current_ranks().world_size > 1:
        finding = "several processes share it, which hides whose tokens are counted"
    else:
        finding = streams.run(_watch_abort(streams, _metrics_url(base_url), model, tokenizer))
    if finding is None:
        return
    if finding == "":
        message = (
            f"{base_url}: the server goes on generating after its stream was closed, so pruning would save nothing. "
            "llama.cpp, vLLM, SGLang and TGI stop by themselves and have no option for it: ask it directly rather "
            "than through a proxy, update it, or give engine_options abort_check: warn to go on all the same"
        )
        if demand == "require":
            raise InputError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return
    warnings.warn(
        f"{base_url}: it could not be checked that closing a stream stops the server ({finding}); compare the tokens "
        "it counts with ours, or silence this with engine_options abort_check: off",
        RuntimeWarning,
        stacklevel=4,
    )


def _metrics_url(base_url: str) -> str:
    return base_url.removesuffix("/v1") + "/metrics"


async def _count(streams: Streams, url: str) -> float | None:
    """What the counter shows, None without one. Raises what `_UNREAD` holds if the server does not answer."""
    response = await _past_closed(partial(streams.get, url))
    return metric(response.text, _COUNTERS) if response.status_code == 200 else None


async def _watch_abort(
    streams: Streams, url: str, model: str, tokenizer: "PreTrainedTokenizerBase | None"
) -> str | None:
    """None: it stopped; "": it went on; else why that cannot be told."""
    try:
        before = await _count(streams, url)
    except _UNREAD as error:
        return f"{url} does not answer: {streams.key.quote(str(error)) or type(error).__name__}"
    if before is None:
        return f"{url} shows no counter of generated tokens; {_COUNTER_SHOWN.get(streams.dialect.server, _ANY_SHOWN)}"
    grown, _ = await _settle(streams, url, before, polls=1)
    if grown:
        return "others use it at the moment"
    context = streams.dialect.context
    most = _RUN_ON if context is None else min(_RUN_ON, max(context - 64, 2 * _CLOSE_AFTER))
    try:
        came = await _patiently(streams, url, partial(_close_early, streams, model, tokenizer, most))
    except (*_UNREAD, TimeoutError) as error:
        return f"the trial trace broke: {streams.key.quote(str(error)) or type(error).__name__}"
    if came is None:
        return "the trial trace ended by itself"
    grown, stopped = await _settle(streams, url, before)
    if stopped and came <= grown < 0.9 * most:
        return None
    if grown > most:
        return "others use it at the moment"
    return "" if grown >= came else "its counter does not move with the tokens"


async def _close_early(
    streams: Streams, model: str, tokenizer: "PreTrainedTokenizerBase | None", most: int
) -> int | None:
    """Start a long completion and close it; the tokens that came, or None if it ended before."""
    dialect = streams.dialect
    request = _trial(dialect, tokenizer, SamplingSpec(max_tokens=most))
    body = request.body(model, dialect, {"ignore_eos": True} if dialect.ids else {})
    came = 0
    async with streams.clock(), aclosing(streams.records(body)) as records:
        async for record in records:
            chunk = streams.chunk(0, record, 0)
            came += max(len(chunk.token_ids), not chunk.empty)
            if chunk.done is not None:
                return None
            if came >= _CLOSE_AFTER:
                return came
    return None


async def _settle(
    streams: Streams, url: str, before: float, polls: int = round(_GIVE_UP_S / _POLL_S)
) -> tuple[float, bool]:
    """How far the counter has gone since `before`, and whether it came to a stand within `polls` readings. One that
    the server does not answer tells nothing."""
    last, still = before, 0
    for _ in range(polls):
        await asyncio.sleep(_POLL_S)
        try:
            now = await _count(streams, url)
        except _UNREAD:
            continue
        if now is None:
            break
        still, last = (still + 1 if now == last else 0), now
        if still >= _STILL_POLLS and last > before:
            return last - before, True
    return last - before, False


def parameters_of(model: str | None) -> int:
    """Number of parameters of a model folder or hub id, from its config alone. Raises `InputError` without one."""
    from transformers import AutoConfig

    try:
        if model is None:
            raise OSError("no folder was given")
        return count_parameters(AutoConfig.from_pretrained(model))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the number of parameters of the server's model is unknown ({error}); give the option 'parameters'"
        ) from None
