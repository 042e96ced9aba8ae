"""The server's life: its socket, the engine's loop, and a stop that finishes what was begun.

On SIGTERM or Ctrl-C no new connection is taken. What runs is finished; what is not after `drain_s` is handed back
with 503 and Retry-After, so that a load balancer sends it elsewhere.
"""

import asyncio
import logging
import signal
import socket
import sys
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from secateur.deepprune.pruner import Pruner
from secateur.runtime.errors import InputError
from secateur.serve.answering import Offer, Service
from secateur.serve.app import Limits, application
from secateur.serve.watch import LOG, JsonLines, log

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LAST_S = 5  # for answers that are on their way when everything else was handed back


def bind(host: str, port: int, shared: bool = False) -> socket.socket:
    """A socket that does not listen yet; port 0 for any that is free. One that is `shared` may be had by several
    processes, to which the kernel hands its connections out. Raises `InputError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise InputError(
            f"keys 'host' and 'port': {host}:{port} cannot be had ({error}); give another port"
        ) from None
    return bound


@dataclass(frozen=True)
class Place:
    """Where a service listens, at a port of its own first, and how long what runs may go on when it is told to stop
    [seconds]."""

    bound: tuple[socket.socket, ...]
    drain_s: float


def serve(pruner: Pruner, tokenizer: "PreTrainedTokenizerBase", offer: Offer, limits: Limits, place: Place) -> None:
    """Answer requests until a signal stops it; returns when all are answered or handed back."""
    _log_as_json()
    asyncio.run(_serve(pruner, tokenizer, offer, limits, place))


async def _serve(
    pruner: Pruner, tokenizer: "PreTrainedTokenizerBase", offer: Offer, limits: Limits, place: Place
) -> None:
    async with pruner:
        service = Service(pruner, tokenizer, offer)
        for stop in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stop, lambda *_: None)  # uvicorn raises it once more when all is done
        config = uvicorn.Config(
            application(service, limits),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=round(place.drain_s) + _LAST_S,
        )
        for bound in place.bound:
            bound.listen(config.backlog)
        host, port = place.bound[0].getsockname()[:2]
        log("listening", host=host, port=port, model=offer.model)
        await _Server(config, service, place.drain_s).serve(sockets=list(place.bound))
    log("stopped")


class _Server(uvicorn.Server):
    """Tells the service when it is to stop."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_s: float) -> None:
        super().__init__(config)
        self._service, self._drain_s = service, drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal: what it does to the loop it does from there."""
        super().handle_exit(sig, frame)
        if not self._service.draining:
            self._service.draining = True
            asyncio.get_running_loop().call_soon_threadsafe(self._drain, signal.Signals(sig).name)

    def _drain(self, name: str) -> None:
        log("stopping", signal=name, drain_s=self._drain_s)
        asyncio.get_running_loop().call_later(self._drain_s, self._service.closing.set)


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for logger, level in ((LOG, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").handlers = [handler]
