"""A small completions server for tests: real HTTP, server-sent events and generation, and the habits of bad servers.

It speaks what vLLM 0.31 speaks (ids in and out, running usage, `/metrics`, `/v1/models`), or text only.
"""

import asyncio
import dataclasses
import json
import mmap
import os
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from secateur.engines.base import Event, SamplingSpec
from secateur.engines.local.engine import TransformersEngine

KEY = "sesame"


@dataclass
class Habits:
    """`text_only` refuses ids and the keys that OpenAI does not have, and says which if it `names_keys`; `die_after`
    closes the connection of the next `deaths` streams after that many tokens; `late_s` [seconds] pass before the
    first token, `silent` streams never get one; every text ends with `suffix`; nothing is generated before `gather`
    requests are there; `mute_usage` and `mute_metrics` tell no counts; `owner` is the kind that it says it is;
    prompts beyond `longest_prompt` [tokens] are refused; `impatient` resets every connection whose second request
    comes."""

    text_only: bool = False
    names_keys: bool = True
    ignore_aborts: bool = False
    die_after: int | None = None
    deaths: int = 0
    busy: int = 0
    late_s: float = 0.0
    silent: bool = False
    suffix: str = ""
    gather: int = 0
    mute_usage: bool = False
    mute_metrics: bool = False
    owner: str = "vllm"
    key: str | None = None
    longest_prompt: int = 1 << 30
    impatient: bool = False


@dataclass
class Counters:
    """`generated` and `sent` are tokens: what was generated but not sent when a client left is told nobody."""

    generated: int = 0
    sent: int = 0
    requests: int = 0
    running: int = 0
    most_running: int = 0
    authorizations: set[str | None] = field(default_factory=set)
    bodies: list[dict[str, Any]] = field(default_factory=list)


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CompletionsServer:
    """`url` is its base address; a context manager. Generation and connections share one thread. `port` 0: a free
    one."""

    def __init__(self, engine: TransformersEngine, habits: Habits | None = None, port: int = 0) -> None:
        self._port = port
        self.engine, self.habits, self.counters = engine, habits or Habits(), Counters()
        self.model, self.context = "served", engine.model.config.max_position_embeddings
        self._queues: dict[int, asyncio.Queue[Event]] = {}
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "CompletionsServer":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    def _serve(self) -> None:
        torch.set_num_threads(1)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._stopped = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self._port, backlog=2048)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        generation = asyncio.create_task(self._generate())
        self._ready.set()
        await self._stopped.wait()
        server.close()
        generation.cancel()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _generate(self) -> None:
        """One decode step after another, as long as anything runs."""
        while True:
            while self.counters.running < self.habits.gather:
                await asyncio.sleep(0.01)
            self.habits.gather = 0
            for event in self.engine.step():
                self.counters.generated += len(event.token_ids)
                queue = self._queues.pop(event.trace) if event.done else self._queues[event.trace]
                queue.put_nowait(event)
            await asyncio.sleep(0 if self._queues else 0.002)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        requests = 0
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                requests += 1
                if self.habits.impatient and requests > 1:
                    at_once = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                    break
                await self._request(head.decode(), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _request(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = head.split()[1]
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.counters.authorizations.add(headers.get("authorization"))
        try:
            if self.habits.key and headers.get("authorization") != f"Bearer {self.habits.key}":
                raise Refusal(401, "wrong key")
            if target == "/metrics" and not self.habits.mute_metrics:
                page = f'vllm:generation_tokens_total{{engine="0"}} {float(self.counters.generated)}\n'
                _answer(writer, 200, page.encode())
            elif target == "/v1/models":
                entry = {"id": self.model, "owned_by": self.habits.owner} | (
                    {} if self.habits.text_only else {"max_model_len": self.context}
                )
                _answer(writer, 200, json.dumps({"data": [entry]}).encode())
            elif target == "/v1/completions":
                await self._complete(json.loads(body), reader, writer)
            else:
                raise Refusal(404, "no such page")
        except Refusal as refusal:
            _answer(writer, refusal.status, json.dumps({"error": {"message": str(refusal)}}).encode())
        await writer.drain()

    def _prompt(self, body: dict[str, Any]) -> list[int]:
        if self.habits.busy:
            self.habits.busy -= 1
            raise Refusal(503, "busy")
        if len(body["prompt"]) > self.habits.longest_prompt:
            raise Refusal(400, "the prompt is too long")
        if not isinstance(body["prompt"], str):
            if self.habits.text_only:
                raise Refusal(400, "prompt must be a string")
            return body["prompt"]
        unknown = set(body) & {"return_token_ids", "repetition_penalty", "min_p", "top_k"}
        if self.habits.text_only and unknown:
            raise Refusal(400, f"unknown fields: {unknown}" if self.habits.names_keys else "unknown fields")
        return self.engine.tokenizer(body["prompt"], add_special_tokens=True)["input_ids"]

    async def _complete(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.counters.requests += 1
        self.counters.bodies.append(body)
        prompt = self._prompt(body)
        spec = SamplingSpec(
            body["temperature"], body.get("top_p", 1.0), max(body.get("top_k", 0), 0), body["max_tokens"]
        )
        (trace,) = self.engine.start(prompt, [body.get("seed", 0)], spec)
        queue = self._queues[trace] = asyncio.Queue()
        self.counters.running += 1
        self.counters.most_running = max(self.counters.most_running, self.counters.running)
        stream = asyncio.create_task(self._stream(queue, prompt, body, writer))
        gone = asyncio.create_task(reader.read(1))  # a client that waits for its answer sends nothing
        try:
            await asyncio.wait(
                {stream} if self.habits.ignore_aborts else {stream, gone}, return_when="FIRST_COMPLETED"
            )
            if not stream.done():
                raise ConnectionResetError
            await stream
        finally:
            gone.cancel()
            stream.cancel()
            await asyncio.gather(gone, stream, return_exceptions=True)
            self.counters.running -= 1
            self._drop(queue)

    def _drop(self, queue: asyncio.Queue[Event]) -> None:
        """Stop what feeds this queue, as a good server does when the client has gone."""
        for trace in [trace for trace, fed in self._queues.items() if fed is queue]:
            if not self.habits.ignore_aborts:
                del self._queues[trace]
                self.engine.prune([trace])

    async def _stream(
        self, queue: asyncio.Queue[Event], prompt: list[int], body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep(self.habits.late_s)
        while self.habits.silent:
            await asyncio.sleep(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        ids: list[int] = []
        dies = self.habits.deaths > 0
        self.habits.deaths -= dies
        while True:
            event = await queue.get()
            ids += event.token_ids
            if event.done == "stop" and body.get("ignore_eos") and len(ids) < body["max_tokens"]:
                spec = SamplingSpec(max_tokens=body["max_tokens"] - len(ids))
                self._queues[self.engine.start(prompt + ids, [len(ids)], spec)[0]] = queue
                event = dataclasses.replace(event, done=None)
            _send(writer, self._chunk(event, prompt, ids, body))
            self.counters.sent += len(event.token_ids)
            if dies and len(ids) >= self.habits.die_after:
                await writer.drain()
                writer.close()
                raise ConnectionResetError
            if event.done:
                break
            if not self.habits.ignore_aborts:
                await writer.drain()
        if body.get("stream_options") and not self.habits.mute_usage:
            _send(writer, {"choices": [], "usage": self._usage(prompt, ids)})
        _send(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")

    def _chunk(self, event: Event, prompt: list[int], ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "text": event.text + self.habits.suffix, "finish_reason": event.done}
        chunk = {"choices": [choice]}
        if body.get("return_token_ids"):
            choice["token_ids"] = list(event.token_ids)
            chunk["usage"] = self._usage(prompt, ids)
        if body.get("logprobs"):
            choice["logprobs"] = {"top_logprobs": [self._top(prompt + ids[:-1], ids[-1], body["logprobs"])]}
        return chunk

    def _usage(self, prompt: list[int], ids: list[int]) -> dict[str, Any]:
        return {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(ids),
            "prompt_tokens_details": {"cached_tokens": len(prompt) // 2},
        }

    @torch.inference_mode()
    def _top(self, context: list[int], drawn: int, count: int) -> dict[str, float]:
        """The `count` best and the drawn token, as OpenAI's protocol has them."""
        logits = self.engine.model(torch.tensor([context])).logits[0, -1]
        values = torch.log_softmax(logits.double(), -1)
        best = values.topk(count).indices.tolist()
        return {f"token_id:{token}": values[token].item() for token in dict.fromkeys([drawn, *best])}


def _send(writer: asyncio.StreamWriter, record: dict[str, Any] | str) -> None:
    data = f"data: {record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _answer(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


LEDGER = struct.Struct("3q")
"""Of a server that is killed: tokens sent by all its lives, the process that lives now, and its port."""


class _LastingCounters(Counters):
    """`sent` lies in memory that outlives the process; a token is in it once its chunk was written."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        super().__init__(sent=self.sent)

    @property
    def sent(self) -> int:
        return LEDGER.unpack_from(self._memory)[0]

    @sent.setter
    def sent(self, value: int) -> None:
        LEDGER.pack_into(self._memory, 0, value, *LEDGER.unpack_from(self._memory)[1:])


def main() -> None:
    """MODEL FILE: serve, and begin anew on the same port whenever the process that serves is killed. What a process
    has read once, its next life need not read again."""
    model, ledger = sys.argv[1:]
    torch.set_num_threads(1)
    engine = TransformersEngine(model, dtype="float32")
    with open(ledger, "r+b") as file:
        memory = mmap.mmap(file.fileno(), LEDGER.size)
    while True:
        if (child := os.fork()) == 0:
            sent, _, port = LEDGER.unpack_from(memory)
            server = CompletionsServer(engine, port=port)
            server.counters = _LastingCounters(memory)
            with server:
                port = int(server.url.rpartition(":")[2].partition("/")[0])
                LEDGER.pack_into(memory, 0, sent, os.getpid(), port)
                threading.Event().wait()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
