"""The connections behind the streams: a client for each, the lines of an answer, and hanging up.

To hang up is to close our half of a connection. A server takes that as the caller's leaving, sends what it had given
out by then, and closes its own half. So all tokens that it sent can be counted; of a connection that is closed as a
whole those on their way are lost, and nobody is told how many they were.
"""

import json
import socket
from asyncio import current_task, timeout
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import httpx

from secateur.engines.base import EngineError
from secateur.engines.openai.protocol import ApiKey, error_text

HANG_UP_S = 5.0
"""That long a server may go on sending after it was hung up on."""
_LINGER_S = 1.0  # for the end of an answer that is complete
_LOCAL = ("localhost", "127.0.0.1", "::1")
_MOST_REFUSAL = 1 << 16  # bytes read of an answer that is not 200
_LONGEST_LINE = 1 << 24  # bytes


class Wire:
    """What a client's requests go through; `trace` is httpcore's way of telling when it has connected."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._hung_up = False

    async def trace(self, name: str, told: Mapping[str, object]) -> None:
        """TLS has no half of a connection that could be closed."""
        if name == "connection.connect_tcp.complete":
            self._socket = told["return_value"].get_extra_info("socket")
            if self._hung_up:  # on the connection before, which was found to have ended
                self._shut(socket.SHUT_WR)
        elif name == "connection.start_tls.complete":
            self._socket = None

    def hang_up(self) -> bool:
        """Close our half. False where there is none; all else comes to light where the answer is read."""
        if self._socket is not None and not self._hung_up:
            self._hung_up = True
            self._shut(socket.SHUT_WR)
        return self._socket is not None

    def retire(self) -> None:
        """No second request goes through a connection that was hung up, though its answer may have come to a good
        end: one that has ended for reading is opened anew."""
        if self._hung_up:
            self._shut(socket.SHUT_RD)
            self._socket, self._hung_up = None, False

    def _shut(self, half: int) -> None:
        with suppress(OSError):  # the server was first
            self._socket.shutdown(half)


class Connections:
    """Clients that wait for their next stream, and the wires of those that have one, by the task that reads it."""

    def __init__(self, base_url: str, key: ApiKey, read_timeout_s: float) -> None:
        self._new_client = partial(
            httpx.AsyncClient,
            headers=httpx.Headers(key.headers),  # which hides a key where it is printed
            verify=httpx.create_ssl_context(),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            timeout=httpx.Timeout(60.0, read=read_timeout_s, pool=None),
            trust_env=httpx.URL(base_url).host not in _LOCAL,  # no proxy on the way to this very machine
        )
        self._idle: list[tuple[httpx.AsyncClient, Wire]] = []
        self._wires: dict[object, Wire] = {}

    @asynccontextmanager
    async def open(
        self, method: str, url: str, body: Mapping[str, object] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a request, whose body is still to be read. Each has a client for itself: a common one would
        hold 512 traces to its limit of 100 connections, and without that limit look at every connection whenever one
        is opened or closed."""
        client, wire = self._idle.pop() if self._idle else (self._new_client(), Wire())
        task = current_task()
        self._wires[task] = wire
        try:
            async with client.stream(method, url, json=body, extensions={"trace": wire.trace}) as response:
                yield response
        finally:
            del self._wires[task]
            wire.retire()
            self._idle.append((client, wire))

    def hang_up(self, task: object) -> bool:
        """Hang up what this task reads. False where nothing can be: it has no connection, or one with TLS."""
        return task in self._wires and self._wires[task].hang_up()

    async def close(self) -> None:
        for client, _ in self._idle:
            await client.aclose()


async def lines_of(response: httpx.Response) -> AsyncIterator[bytes]:
    """Its lines without space around them, blank ones left out. Not `aiter_lines`, which ends a line at U+2028 and
    U+0085 too, that may stand inside a text."""
    rest = b""
    async for part in response.aiter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise EngineError("the server sends a line of more than 16 MiB")
        for line in whole:
            if line := line.strip():
                yield line
    if rest := rest.strip():
        yield rest


async def finish(lines: AsyncIterator[bytes]) -> None:
    """Read what is left behind `[DONE]`, the end of the body, so that the connection can be used again."""
    with suppress(TimeoutError):
        async with timeout(_LINGER_S):
            async for _ in lines:
                pass


async def reason_of(response: httpx.Response) -> str:
    content = b""
    async for part in response.aiter_bytes():
        content += part
        if len(content) > _MOST_REFUSAL:
            break
    text = content.decode("utf-8", "replace")
    try:
        return error_text(json.loads(text))
    except (ValueError, RecursionError):
        return text
