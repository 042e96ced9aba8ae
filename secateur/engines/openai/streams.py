"""Many streams of completions at once: an event loop in a thread of its own, one task per trace."""

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx

from secateur.engines.base import EngineError, TraceRefused
from secateur.engines.openai.connections import HANG_UP_S, Connections, finish, lines_of, reason_of
from secateur.engines.openai.protocol import (
    BUSY,
    WAITED_FOR,
    ApiKey,
    Chunk,
    Dialect,
    Ids,
    Request,
    error_text,
    is_busy,
    read_chunk,
    read_record,
    retry_after_s,
)
from secateur.runtime.files import JSON

T = TypeVar("T")
_SILENT_FIELDS = (b"event:", b"id:", b"retry:", b":")  # of server-sent events; a line with a colon first is a ping
_DONE: dict[str, JSON] = {}  # stands for the line `[DONE]`; known by identity, for a server may send such a record
_MOST_STRAY = 2000  # bytes kept of what is no stream, to tell what it is
_SLACK = 16  # tokens
_MOST_DEAF = 3
_OWN_FAULT = (400, 413, 422)  # statuses of a request that is wrong, whatever becomes of others


@dataclass(frozen=True)
class Patience:
    """`read_timeout_s` [seconds] without a token end a stream for good, pings or not; one that breaks is opened again
    up to `max_retries` times without a token in between, after `backoff_s` [seconds], then twice as long, and so on,
    or when the server says so (`Retry-After`)."""

    read_timeout_s: float = 600.0
    max_retries: int = 3
    backoff_s: float = 0.5


class Broken(Exception):
    """A stream that ended before its trace did, or could not be opened; the reason is its text. `after_s` [seconds]:
    how long the server asks to wait, 0 where it does not say; `busy`: it says that it can be asked later."""

    def __init__(self, reason: str, after_s: float = 0.0, busy: bool = False) -> None:
        super().__init__(reason)
        self.after_s, self.busy = after_s, busy


class Streams:
    """Opens and closes streams; what they bring is put into `inbox`, an error as the `error` of a chunk. None
    in it is of others, for whoever waits there.

    `tokenize` turns a piece of text, or the end of a trace, into token ids where the server sends none.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key: ApiKey,
        patience: Patience,
        extra_body: Mapping[str, JSON],
        tokenize: Callable[[str, bool], tuple[int, ...]],
    ) -> None:
        self.inbox: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self.dialect = Dialect()
        self.retries = 0
        """Streams that broke and were opened again."""
        self.shared = False
        """See `Shareable`."""
        self._url, self._model, self.key, self.patience = base_url, model, key, patience
        self._extra, self._tokenize = extra_body, tokenize
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-streams", daemon=True)
        self._thread.start()
        self._connections = Connections(base_url, key, patience.read_timeout_s)
        self._left: dict[asyncio.Task[None], asyncio.TimerHandle] = {}
        self._deaf = 0  # streams, one after another, that did not end when they were hung up

    async def get(self, url: str) -> httpx.Response:
        """Raises `Broken` where the server says that it is busy."""
        async with self._connections.open("GET", url) as response:
            if response.status_code in WAITED_FOR:
                raise await self._refusal(response)
            await response.aread()
        return response

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def open(self, requests: Iterable[Request]) -> None:
        self.run(self._open(list(requests)))

    async def _open(self, requests: list[Request]) -> None:
        for request in requests:
            task = self._tasks[request.trace] = asyncio.create_task(self._follow(request))
            task.add_done_callback(partial(self._drop, request.trace))

    def _drop(self, trace: int, task: asyncio.Task[None] | None) -> None:
        """It has ended. One that was cancelled before its first step has not said so itself."""
        if self._tasks.get(trace) is task:
            del self._tasks[trace]

    def close_streams(self, traces: Iterable[int]) -> None:
        """Leave them, which makes the server stop. What it had sent is in the inbox when this returns, and no chunk
        of them comes any more."""
        self.run(self._close(list(traces)))

    async def _close(self, traces: list[int]) -> None:
        tasks = [self._tasks[trace] for trace in traces if trace in self._tasks]
        for task in tasks:
            self._leave(task)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _leave(self, task: asyncio.Task[None]) -> None:
        """From here on a stream is read only for what its server has sent already."""
        if task in self._left:
            return
        self._left[task] = self._loop.call_later(HANG_UP_S, self._cut_off, task)
        task.add_done_callback(self._forget)
        if self._deaf >= _MOST_DEAF or not self._connections.hang_up(task):
            task.cancel()

    def _cut_off(self, task: asyncio.Task[None]) -> None:
        """Its server goes on sending; one that always does is cut off at once in the end."""
        self._deaf += 1
        task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._left.pop(task).cancel()
        if not task.cancelled():
            self._deaf = 0

    def shut_down(self) -> None:
        if self._loop.is_closed():
            return
        self.close_streams(list(self._tasks))
        self.run(self._connections.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _follow(self, request: Request) -> None:
        """Read one trace to its end, over breaks. Where it cannot be, the others are closed at once if their traces
        are lost with it: what they generated until the user's thread looks would be paid for nothing."""
        try:
            while not await self._attempt(request):
                request.restart()
                self.retries += 1
            self.inbox.put(request.end())
        except Exception as error:
            if asyncio.current_task() not in self._left:  # what breaks there is what was left
                self._lose(request, error)
        finally:
            self._drop(request.trace, asyncio.current_task())

    def _lose(self, request: Request, error: Exception) -> None:
        """The error is raised again where the user's thread waits for this stream."""
        if isinstance(error, TraceRefused):
            error.trace = request.trace
        self.inbox.put(Chunk(request.trace, error=error))
        for task in self._tasks.values() if self.loses_all(error) else ():
            if task is not asyncio.current_task():
                self._leave(task)

    def loses_all(self, error: Exception) -> bool:
        """Whether the other traces are lost with one that ended by this error."""
        return not (self.shared and isinstance(error, TraceRefused))

    async def _attempt(self, request: Request) -> bool:
        """False, after a pause, if the stream broke and is to be opened again."""
        try:
            async with self.clock() as clock:
                await self._read(request, clock)
        except (Broken, httpx.TransportError, TimeoutError) as error:
            if request.last is not None or request.received >= request.budget:
                return True  # an end that has been told is an end, whatever becomes of the connection
            if asyncio.current_task() in self._left:
                raise
            await asyncio.sleep(self._pause(request, error))
            return False
        return True

    def clock(self) -> asyncio.Timeout:
        """Ends what waits too long for a token; httpx measures from byte to byte, and a ping is a byte."""
        return asyncio.timeout(self.patience.read_timeout_s)

    def _wind(self, clock: asyncio.Timeout) -> None:
        """Start a `clock` anew, but not for each of the tokens that come within a hundredth of its time."""
        ends = self._loop.time() + self.patience.read_timeout_s
        if ends - clock.when() > 0.01 * self.patience.read_timeout_s:
            clock.reschedule(ends)

    def _pause(self, request: Request, error: Exception) -> float:
        """Seconds until the stream is opened again. Raises `EngineError` if it is not."""
        patience = self.patience
        if isinstance(error, httpx.ReadTimeout | TimeoutError):
            raise EngineError(
                f"{self._url}: no token came for {patience.read_timeout_s:g} seconds; look at the server, or raise "
                "the option read_timeout_s if its queue is that long"
            ) from None
        request.failures = 1 if request.received else request.failures + 1
        after_s = error.after_s if isinstance(error, Broken) else 0.0
        if request.failures > patience.max_retries or after_s > patience.read_timeout_s:
            reason = self.key.quote(str(error)) or type(error).__name__
            wait = f", and asks to wait {after_s:g} seconds" if after_s else ""
            raise EngineError(
                f"{self._url}: a stream broke {request.failures} times, last with: {reason}{wait}; look at the "
                "server, or raise the option max_retries" + (" or read_timeout_s" if wait else "")
            ) from None
        return max(after_s, patience.backoff_s * 2 ** (request.failures - 1))

    async def _read(self, request: Request, clock: asyncio.Timeout) -> None:
        """Put the chunks of one connection into the inbox, but for the last one: the usage that follows it is its."""
        async with aclosing(self.records(request.body(self._model, self.dialect, self._extra))) as records:
            async for record in records:
                chunk = self.chunk(request.trace, record, request.spec.top_logprobs)
                self._count(request, chunk)
                if request.last is None and not chunk.empty:
                    self._take(request, chunk)
                    self._wind(clock)
                if record is _DONE and request.last is None and request.received:  # an end without a reason
                    ended = "stop" if request.received < request.budget else "length"
                    request.last = Chunk(request.trace, done=ended)
        if request.last is None:
            raise Broken("the stream ended before the trace did")

    def chunk(self, trace: int, record: Mapping[str, JSON], top_logprobs: int) -> Chunk:
        """See `read_chunk`."""
        try:
            return read_chunk(trace, record, top_logprobs)
        except EngineError as error:
            raise EngineError(f"{self._url}: {self.key.quote(str(error))}") from None

    @staticmethod
    def _count(request: Request, chunk: Chunk) -> None:
        """Usage may come with every chunk, with the last, or behind it: the highest count is the latest."""
        request.computed = max(request.computed, chunk.computed or 0)
        if request.last is not None and chunk.cached is not None:
            request.last.cached = chunk.cached

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
        if not self.dialect.ids or self._lacks_ids(request, chunk):
            chunk.token_ids = self._tokenize(chunk.text, chunk.done == "stop")
        chunk.spread_confidences()
        request.new_ids += chunk.token_ids
        request.new_text.append(chunk.text)
        request.received += len(chunk.token_ids)
        if request.received > 2 * request.budget + _SLACK:  # text may be cut into more tokens here than there
            raise EngineError(f"{self._url}: the server goes on after max_tokens ({request.budget}), so it is left")
        if chunk.done is None:
            chunk.correction = request.settle()
            self.inbox.put(chunk)
        else:
            request.last = chunk

    def _lacks_ids(self, request: Request, chunk: Chunk) -> bool:
        """Whether a server that gives ids gave none for this text, or not all: llama.cpp keeps a text back until its
        last character is whole, and sends the last token alone. Text may also follow behind its ids, which only its
        count can tell."""
        if not chunk.text:
            return False
        if chunk.computed is None:
            return not chunk.token_ids
        keeps_back = self.dialect.form is Ids.LLAMA_CPP or not chunk.token_ids
        return keeps_back and chunk.computed > request.received + len(chunk.token_ids)

    async def records(self, body: Mapping[str, JSON]) -> AsyncIterator[dict[str, JSON]]:
        """The records of one completion, an empty one for `[DONE]`, with which it ends. Raises `Broken` where trying
        again makes sense, else `EngineError`."""
        url, stray, came = f"{self._url}/completions", b"", False
        async with self._connections.open("POST", url, dict(body)) as response:
            if response.status_code != 200:
                raise await self._refusal(response)
            async with aclosing(lines_of(response)) as lines:
                async for line in lines:
                    if line.replace(b" ", b"") == b"data:[DONE]":
                        yield _DONE
                        await finish(lines)
                        return
                    if line.startswith((b"data:", b"error:")):  # llama.cpp has a field of its own for errors
                        came = True
                        yield self._record(line)
                    elif not line.startswith(_SILENT_FIELDS):
                        stray = (stray + line)[:_MOST_STRAY]
        if stray and not came:
            raise self._no_stream(stray)

    def _record(self, line: bytes) -> dict[str, JSON]:
        field, _, payload = line.decode("utf-8", "replace").partition(":")
        try:
            record = read_record(payload.strip())
        except EngineError as error:
            raise EngineError(f"{self._url}: {self.key.quote(str(error))}") from None
        error = record if field == "error" else record.get("error")
        if error:
            raise self._reported(error)
        return record

    def _reported(self, error: JSON) -> Exception:
        """What to raise for an error that came under status 200."""
        reason = f"the server reports: {self.key.quote(error_text(error))}"
        if is_busy(error):
            return Broken(reason, busy=error.get("code") in WAITED_FOR)
        return EngineError(f"{self._url}: {reason}")

    def _no_stream(self, answer: bytes) -> Exception:
        """What to raise for an answer under status 200 that is no stream: an error, a whole completion, a page."""
        text = answer.decode("utf-8", "replace")
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and record.get("error"):
            return self._reported(record["error"])
        return EngineError(
            f"{self._url}: the server answers no stream of completions, but: {self.key.quote(text)}; correct "
            f"'base_url' if that is a page, or give the key as {self.key.variable} if it asks to log in"
        )

    async def _refusal(self, response: httpx.Response) -> Exception:
        """What to raise for an answer that is not 200."""
        status = response.status_code
        reason = f"the server answers {status}: {self.key.quote(await reason_of(response))}"
        if status in BUSY:
            return Broken(reason, retry_after_s(response.headers.get("retry-after", "")), status in WAITED_FOR)
        if status in (401, 403):
            reason += f"; put its key into the environment as {self.key.variable}"
        elif status in (404, 405):
            root = str(httpx.URL(self._url).copy_with(path="")).rstrip("/")
            reason += f"; is 'base_url' right? It is what stands before /completions, often {root}/v1"
        elif response.is_redirect:
            reason += f"; it points to {self.key.quote(response.headers['location'])}: correct 'base_url'"
        return (TraceRefused if status in _OWN_FAULT else EngineError)(f"{self._url}: {reason}")
