"""What is found out about a server before any trace runs: its model, its dialect, and whether an abort stops it.

Servers that run on after a connection was closed are not rare (reports: vllm-project/vllm 32442, sgl-project/sglang
36475, ggml-org/llama.cpp 4721, and proxies that hold connections open); pruning would then save nothing, unnoticed.
"""

import asyncio
import warnings
from contextlib import aclosing
from typing import TYPE_CHECKING

import httpx

from secateur.engines.base import EngineError, SamplingSpec
from secateur.engines.models import count_parameters
from secateur.engines.openai.protocol import Chunk, Dialect, Request, metric, options
from secateur.engines.openai.streams import Broken, Streams
from secateur.runtime.errors import InputError
from secateur.runtime.process import current_ranks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ABORT_CHECKS = ("require", "warn", "off")
_COUNTERS = ("generation_tokens_total", "tokens_predicted_total")  # vLLM and SGLang; llama.cpp
_PROBE_TEXT = "Count: 1 2 3 4"
_PROBE_IDS = [1, 2, 3, 4]
_CLOSE_AFTER = 20  # tokens of the stream that is closed
_RUN_ON = 1024  # tokens it would have if the server went on
_POLL_S = 0.25
_STILL_POLLS = 4  # equal readings after which a counter stands still
_GIVE_UP_S = 20.0


def find_context(streams: Streams, base_url: str, model: str) -> int | None:
    """Longest prompt and completion [tokens] of `model`, None if the server does not say.

    Raises `InputError` if the server cannot be reached, wants another key, or serves other models.
    """
    try:
        response = streams.run(streams.get(f"{base_url}/models"))
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
        return None  # the list is optional, completions are what counts
    if served and model not in served:
        names = streams.key.quote(", ".join(sorted(served)))
        raise InputError(f"{base_url}: serves no model '{model}', but: {names}")
    return served.get(model, {}).get("max_model_len")


def find_dialect(
    streams: Streams, model: str, tokenizer: "PreTrainedTokenizerBase | None", context: int | None
) -> Dialect:
    """The richest of three ways to ask that this server answers. Raises `InputError` if it answers none."""
    refusal = ""
    for dialect in (Dialect(True, True, context), Dialect(False, True, context), Dialect(False, False, context)):
        try:
            chunks = streams.run(_probe(streams, model, dialect, tokenizer))
        except EngineError as error:
            refusal = str(error)
            continue
        except (Broken, httpx.TransportError, TimeoutError) as error:
            reason = streams.key.quote(str(error)) or type(error).__name__
            raise InputError(f"the server does not complete a prompt of four tokens: {reason}") from None
        if not dialect.ids or any(chunk.token_ids for chunk in chunks):
            return dialect
        refusal = "it sends no token ids"
    raise InputError(f"the server answers no completion request that we know how to make; last: {refusal}")


async def _probe(
    streams: Streams, model: str, dialect: Dialect, tokenizer: "PreTrainedTokenizerBase | None"
) -> list[Chunk]:
    body = {"model": model, "prompt": _prompt(dialect, tokenizer), "max_tokens": 2, "temperature": 0, "stream": True}
    async with streams.clock(), aclosing(streams.records(body | options(dialect))) as records:
        return [streams.chunk(0, record, 0) async for record in records]


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
            "Ask it directly rather than through a proxy, update it, or give engine_options abort_check: warn to go "
            "on all the same"
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
    try:
        response = await streams.get(url)
    except httpx.TransportError:
        return None
    return metric(response.text, _COUNTERS) if response.status_code == 200 else None


async def _watch_abort(
    streams: Streams, url: str, model: str, tokenizer: "PreTrainedTokenizerBase | None"
) -> str | None:
    """None: it stopped; "": it went on; else why that cannot be told."""
    before = await _count(streams, url)
    if before is None:
        return f"{url} shows no counter of generated tokens"
    await asyncio.sleep(_POLL_S)
    if await _count(streams, url) != before:
        return "others use it at the moment"
    context = streams.dialect.context
    most = _RUN_ON if context is None else min(_RUN_ON, context - 64)
    came = await _close_early(streams, model, tokenizer, most)
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
    prompt = _prompt(dialect, tokenizer)
    request = Request(0, prompt if dialect.ids else [], _PROBE_TEXT, SamplingSpec(), 0, most, 0)
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


async def _settle(streams: Streams, url: str, before: float) -> tuple[float, bool]:
    """How far the counter has gone since `before`, and whether it came to a stand in time."""
    last, still = before, 0
    for _ in range(round(_GIVE_UP_S / _POLL_S)):
        await asyncio.sleep(_POLL_S)
        now = await _count(streams, url)
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
