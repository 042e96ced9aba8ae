"""The application: routes, who may call them, and how a request ends that is not answered.

Three things end a request early: its caller leaves, which frees its traces at once; the server closes, which hands it
back with 503; and an error. Every one of them has OpenAI's form, and none holds a path, a key or a traceback.
"""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secateur.serve.answering import Service
from secateur.serve.page import PAGE_HEADERS, dashboard
from secateur.serve.replies import KEEP_ALIVE, Form, Reply, broken
from secateur.serve.schema import ChatRequest, CompletionRequest, Refusal, read_request
from secateur.serve.watch import LOG, log

_CHAT, _COMPLETION = "/v1/chat/completions", "/v1/completions"
_OPEN = {"/health", "/ready", "/dashboard"}  # the page holds no figure; it asks for the key
_ENDPOINTS = {*_OPEN, _CHAT, _COMPLETION, "/v1/models", "/metrics", "/dashboard/data"}
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
_READ_S = 30.0  # a body that takes longer is given up
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

_FAULT = Refusal(500, "the server failed on this request", kind="server_error", code="internal_error")


@dataclass(frozen=True)
class Limits:
    """`key` that callers must have, "" for none. `loopback`: only names of this machine may stand in a request's
    Host, so that no web page reaches the service under a name of its own. `body` [bytes] is the longest;
    `keep_alive_s` [seconds] the longest silence of a stream."""

    key: str = ""
    loopback: bool = True
    body: int = 2**20
    keep_alive_s: float = 5.0


def application(service: Service, limits: Limits) -> ASGIApp:
    """What a server runs."""
    inner = Starlette(
        routes=_Endpoints(service, limits).routes,
        exception_handlers={
            Refusal: _refused,
            HTTPException: _unrouted,
            ClientDisconnect: _left,
            Exception: _failed,
        },
    )
    return _Gate(inner, service, limits)


class _Endpoints:
    def __init__(self, service: Service, limits: Limits) -> None:
        self._service, self._limits = service, limits
        self.routes = [
            Route(_CHAT, self.complete, methods=["POST"]),
            Route(_COMPLETION, self.complete, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics),
            Route("/dashboard", self.dashboard),
            Route("/dashboard/data", self.data),
        ]

    async def complete(self, request: Request) -> Response:
        chat = request.url.path == _CHAT
        asked = read_request(ChatRequest if chat else CompletionRequest, await _read_body(request, self._limits.body))
        form = Form(chat, self._service.offer.model)
        told = request.state.told
        told |= {"id": form.name}
        if self._service.offer.log_prompts:
            told |= {"request": asked.model_dump(exclude_unset=True)}
        caller = asked.user or (request.client.host if request.client else "")
        task = asyncio.ensure_future(self._service.reply(asked, form, caller))
        try:
            if await self._settled(task, self._limits.keep_alive_s if asked.stream else None, request):
                task.result()  # what is refused at once has its own status, a stream's too
        except BaseException:
            task.cancel()
            raise
        if asked.stream:
            return _Held(self._events(task, form, asked.wants_usage, told), task)
        return JSONResponse(form.whole(_told(task.result(), told)))

    async def _settled(
        self, task: "asyncio.Future[Reply]", patience_s: float | None, request: Request | None = None
    ) -> bool:
        """Whether the task is done within `patience_s` [seconds], None for however long. Raises `Refusal` when the
        server closes, and `ClientDisconnect` once the caller of `request` has left."""
        closing = asyncio.ensure_future(self._service.closing.wait())
        gone = closing if request is None else asyncio.ensure_future(_end_of(request))
        try:
            await asyncio.wait({task, closing, gone}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and closing.done():
                raise self._service.busy(1)
            if not task.done() and gone.done():
                raise ClientDisconnect
            return task.done()
        finally:
            closing.cancel()
            gone.cancel()

    async def _events(
        self, task: "asyncio.Future[Reply]", form: Form, with_usage: bool, told: dict[str, object]
    ) -> AsyncIterator[bytes]:
        """A stream that has begun ends with an error in it, if it must."""
        try:
            while not task.done():
                yield KEEP_ALIVE
                await self._settled(task, self._limits.keep_alive_s)
            for chunk in form.chunks(_told(task.result(), told), with_usage):
                yield chunk
        except Exception as error:
            if not isinstance(error, Refusal):
                LOG.error("a stream failed", exc_info=error)
            for chunk in broken(error if isinstance(error, Refusal) else _FAULT):
                yield chunk

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model]})

    async def model(self, request: Request) -> Response:
        if request.path_params["name"] != self._service.offer.model:
            raise Refusal(404, "no such model is served here", param="model", code="model_not_found")
        return JSONResponse(self._model)

    @property
    def _model(self) -> dict[str, str | int]:
        begun = self._service.created
        return {"id": self._service.offer.model, "object": "model", "created": begun, "owned_by": "secateur"}

    async def health(self, request: Request) -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether more requests may be sent here."""
        status = self._service.status
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.watch.metrics(), headers={"content-type": _PROMETHEUS})

    async def dashboard(self, request: Request) -> Response:
        return HTMLResponse(dashboard(bool(self._limits.key)), headers=PAGE_HEADERS)

    async def data(self, request: Request) -> Response:
        return JSONResponse({"model": self._service.offer.model, **self._service.watch.shown()})


class _Held(StreamingResponse):
    """A stream whose request is cancelled when it ends, in whatever way, even before its first chunk."""

    def __init__(self, chunks: AsyncIterator[bytes], task: "asyncio.Future[Reply]") -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._task = task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._task.cancel()


def _told(reply: Reply, told: dict[str, object]) -> Reply:
    """Put what a line of the log says of an answer beside its other words."""
    told |= {"tokens": reply.spent.generated, "n": reply.consensus.n, "started": reply.consensus.started}
    told |= {"full_vote_tokens": reply.consensus.full_vote_tokens, "ended": reply.consensus.ended}
    return reply


async def _read_body(request: Request, most: int) -> bytes:
    """Raises `Refusal` for a body that is no JSON by its type, longer than `most` [bytes], or does not come."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "send the body as JSON, with the header 'Content-Type: application/json'")
    parts, length = [], 0
    try:
        async with asyncio.timeout(_READ_S):
            async for part in request.stream():
                length += len(part)
                parts.append(part)
                if length > most:
                    raise Refusal(413, f"the body is longer than {most:,} bytes, the most that is read here")
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {_READ_S:.0f} s") from None
    return b"".join(parts)


async def _end_of(request: Request) -> None:
    """Returns once the caller has left; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal), error
    return _answer(error)


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), error
    words = {404: "nothing is served under this path", 405: f"this path does not take {request.method}"}
    told = words.get(error.status_code, "this request is not served")
    return _answer(Refusal(error.status_code, told, headers=error.headers))


async def _left(request: Request, error: Exception) -> Response:
    """Nobody is there to read it; the count and the log are told by nginx's number."""
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    """Of a fault of ours; the server logs it."""
    return _answer(_FAULT)


class _Gate:
    """Around everything: who may call, a line of the log, and a count for every response."""

    def __init__(self, app: ASGIApp, service: Service, limits: Limits) -> None:
        self._app, self._service, self._limits = app, service, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, told = time.monotonic(), 0, dict[str, object]()
        scope.setdefault("state", {})["told"] = told

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            refusal = self._refusal({name.lower(): value for name, value in scope["headers"]}, scope["path"])
            await (self._app if refusal is None else _answer(refusal))(scope, receive, counted)
        finally:
            self._note(scope, status, time.monotonic() - begun, told)

    def _refusal(self, headers: Mapping[bytes, bytes], path: str) -> Refusal | None:
        if self._limits.loopback and _host(headers.get(b"host", b"")) not in _LOOPBACK:
            return Refusal(403, "this server answers on its own machine only, by the name localhost")
        if not self._limits.key or path in _OPEN:
            return None
        given = headers.get(b"authorization", b"")
        if hmac.compare_digest(given, f"Bearer {self._limits.key}".encode()):
            return None
        told = "no valid key: send the header 'Authorization: Bearer …' with the key of this server"
        return Refusal(401, told, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _note(self, scope: Scope, status: int, seconds: float, told: Mapping[str, object]) -> None:
        path = _endpoint(scope["path"])
        self._service.watch.responded(path, status)
        if path.startswith("/v1"):
            log("request", method=scope["method"], path=path, status=status, seconds=round(seconds, 4), **told)


def _endpoint(path: str) -> str:
    """What a path is counted as: anyone may make up paths, and each would be a series of its own."""
    return path if path in _ENDPOINTS else "/v1/models/*" if path.startswith("/v1/models/") else "other"


def _host(value: bytes) -> str:
    """The name in a Host header, without its port.

    >>> _host(b"[::1]:8000"), _host(b"localhost")
    ('[::1]', 'localhost')
    """
    text = value.decode("latin-1")
    name, _, port = text.rpartition(":")
    return name if name and port.isdigit() else text
