"""Many streams of completions at once: an event loop in a thread of its own, one task per trace."""

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx

from secateur.engines.base import EngineError
from secateur.engines.openai.protocol import Chunk, Dialect, Request, error_text, read_chunk
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON

T = TypeVar("T")
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # answers after which trying again makes sense
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Patience:
    """`read_timeout_s` [seconds] without a byte end a stream for good; one that breaks is opened again up to
    `max_retries` times, after `backoff_s` [seconds], then twice as long, and so on."""

    read_timeout_s: float = 600.0
    max_retries: int = 3
    backoff_s: float = 0.5


class Broken(Exception):
    """A stream that ended before its trace did, or could not be opened; the reason is its text."""


class Streams:
    """Opens and closes streams; what they bring is put into `inbox`, an error as the `error` of a chunk.

    `tokenize` turns a piece of text, or the end of a trace, into token ids where the server sends none.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        headers: Mapping[str, str],
        patience: Patience,
        extra_body: Mapping[str, JSON],
        tokenize: Callable[[str, bool], tuple[int, ...]],
    ) -> None:
        self.inbox: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        self.dialect = Dialect(ids=True, usage=True)
        self.retries = 0
        """Streams that broke and were opened again."""
        self._url, self._model = base_url, model
        self._patience, self._extra, self._tokenize = patience, extra_body, tokenize
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-streams", daemon=True)
        self._thread.start()
        self._new_client = partial(
            httpx.AsyncClient,
            headers=httpx.Headers(headers),  # which hides a key where it is printed
            verify=httpx.create_ssl_context(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            timeout=httpx.Timeout(60.0, read=patience.read_timeout_s, pool=None),
            trust_env=httpx.URL(base_url).host not in _LOCAL,  # no proxy on the way to this very machine
        )
        self._idle: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one stream alone. A common one would hold 512 traces to its limit of 100 connections, and
        without that limit look at every connection whenever one is opened or closed."""
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            yield client
        finally:
            self._idle.append(client)

    async def get(self, url: str) -> httpx.Response:
        async with self._client() as client:
            return await client.get(url)

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def open(self, requests: Iterable[Request]) -> None:
        self.run(self._open(list(requests)))

    async def _open(self, requests: list[Request]) -> None:
        for request in requests:
            self._tasks[request.trace] = asyncio.create_task(self._follow(request))

    def close_streams(self, traces: Iterable[int]) -> None:
        """Close connections, which makes the server stop; once this returns no chunk of them comes any more."""
        self.run(self._cancel(list(traces)))

    async def _cancel(self, traces: list[int]) -> None:
        tasks = [self._tasks.pop(trace) for trace in traces if trace in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def shut_down(self) -> None:
        if self._loop.is_closed():
            return
        self.close_streams(list(self._tasks))
        self.run(self._close_clients())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close_clients(self) -> None:
        for client in self._idle:
            await client.aclose()

    async def _follow(self, request: Request) -> None:
        """Read one trace to its end, over breaks."""
        try:
            while not await self._attempt(request):
                await asyncio.sleep(self._patience.backoff_s * 2**request.retries)
                request.restart()
                self.retries += 1
        except Exception as error:  # it is raised again where the user's thread waits for this stream
            self.inbox.put(Chunk(request.trace, error=error))
        finally:
            if self._tasks.get(request.trace) is asyncio.current_task():
                del self._tasks[request.trace]

    async def _attempt(self, request: Request) -> bool:
        """False if the stream broke and may be opened again."""
        try:
            async with aclosing(self._stream(request)) as chunks:
                async for chunk in chunks:
                    self.inbox.put(chunk)
            return True
        except (Broken, httpx.TransportError) as error:
            if request.received >= request.budget:
                self.inbox.put(Chunk(request.trace, done="length"))
                return True
            if isinstance(error, httpx.ReadTimeout):
                raise EngineError(
                    f"{self._url}: nothing came for {self._patience.read_timeout_s:g} seconds; look at the server, "
                    "or raise the option read_timeout_s if its queue is that long"
                ) from None
            if request.retries >= self._patience.max_retries:
                reason = str(error) or type(error).__name__
                raise EngineError(
                    f"{self._url}: a stream broke {request.retries + 1} times, last with: {reason}; look at the "
                    "server, or raise the option max_retries"
                ) from None
            return False

    async def _stream(self, request: Request) -> AsyncIterator[Chunk]:
        """Chunks of one connection; the last one waits for the usage that follows it."""
        last: Chunk | None = None
        try:
            async with aclosing(self.lines(request.body(self._model, self.dialect, self._extra))) as lines:
                async for payload in lines:
                    chunk = read_chunk(request.trace, payload, request.spec.top_logprobs)
                    if last is not None:
                        last.computed = last.computed if chunk.computed is None else chunk.computed
                        last.cached = last.cached if chunk.cached is None else chunk.cached
                    elif not chunk.empty:
                        self._take(request, chunk)
                        if chunk.done is None:
                            yield chunk
                        else:
                            last = chunk
        except httpx.TransportError:
            if last is None:  # an end that has been told is an end, whatever becomes of the connection
                raise
        if last is None:
            raise Broken("the stream ended before the trace did")
        if last.computed is not None:
            last.correction = last.computed - request.received
        yield last

    def _take(self, request: Request, chunk: Chunk) -> None:
        if chunk.done not in (None, "stop", "length"):
            raise Broken(f"the server ended the trace with '{chunk.done}'")
        if request.spec.top_logprobs and chunk.text and not chunk.confidences:
            raise EngineError(
                f"{self._url}: the server sends no log-probabilities; sample without top_logprobs, or let it give "
                "them (vLLM: --max-logprobs 20)"
            )
        if not request.opened:
            chunk.prefill, request.opened = len(request.prompt_ids), True
        if not self.dialect.ids:
            chunk.token_ids = self._tokenize(chunk.text, chunk.done == "stop")
            chunk.spread_confidences()
        request.new_ids += chunk.token_ids
        request.new_text.append(chunk.text)
        request.received += len(chunk.token_ids)

    async def lines(self, body: Mapping[str, JSON]) -> AsyncIterator[str]:
        """The `data:` lines of one completion. Raises `Broken` where trying again makes sense, else `EngineError`."""
        url = f"{self._url}/completions"
        async with self._client() as client, client.stream("POST", url, json=dict(body)) as response:
            if response.status_code != 200:
                await response.aread()
                reason = f"the server answers {response.status_code}: {_reason(response)}"
                raise Broken(reason) if response.status_code in _BUSY else EngineError(f"{self._url}: {reason}")
            rest = b""
            async for part in response.aiter_bytes():
                # not `aiter_lines`, which ends a line at U+2028 and U+0085 too, that may stand inside a text
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    payload = line.removeprefix(b"data:").strip()
                    if line.startswith(b"data:") and payload != b"[DONE]":
                        yield payload.decode("utf-8", "replace")


def _reason(response: httpx.Response) -> str:
    try:
        return error_text(response.json())
    except json.JSONDecodeError:
        return response.text[:500]


def check_url(base_url: str) -> str:
    """The address without a slash at its end. Raises `InputError` for what is none, or holds a password."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InputError(f"key 'base_url' has the value {base_url!r}: no address ({error})") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"key 'base_url' has the value {base_url!r}: expected for example http://localhost:8000/v1")
    if url.userinfo:
        raise InputError("key 'base_url' holds a user name; give a key through the environment, see api_key_env")
    return base_url.rstrip("/")
