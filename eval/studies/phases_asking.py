"""Asking about the phases of traces: a chat endpoint, and the file of its answers.

The endpoint is asked one question at a time, from several threads: bounded in time and size, silent about its key.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx
from pydantic import BaseModel, ValidationError

from eval.studies.phases import Span, Spans, Steps, UnreadableAnswer, messages, read_answer
from eval.studies.traces import TraceKey
from secateur.engines.openai.protocol import BUSY, ApiKey, check_url, retry_after_s
from secateur.runtime.console import progress
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, append_jsonl, read_jsonl, repair_torn_tail

_MOST_BYTES = 1 << 20  # of an answer: ten spans need less than a thousandth
_LONGEST_PAUSE_S = 30.0
_TRIES = 2


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice]


class _Busy(Exception):
    """Worth another try, after `after_s` [seconds] where the server says so."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class ChatEndpoint:
    """`base_url` is an OpenAI-compatible address (…/v1). The key comes from the environment variable `key_env`, if
    that is set. `timeout_s` [seconds] bounds a whole request; `retries` more are made where the server is busy or
    cannot be reached. A context manager."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 120.0,
        retries: int = 3,
        pause_s: float = 1.0,
        extra_body: Mapping[str, JSON] | None = None,
    ) -> None:
        self._url = f"{check_url(base_url).rstrip('/')}/chat/completions"
        self._key = ApiKey.from_environment(key_env)
        self._body = {"model": model, "temperature": 0.0} | dict(extra_body or {})
        self._timeout_s, self._retries, self._pause_s = timeout_s, retries, pause_s
        self._client = httpx.Client(headers=self._key.headers, timeout=timeout_s, follow_redirects=False)

    def __enter__(self) -> "ChatEndpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The content of the answer. Raises `UnreadableAnswer` for a reply that is no complete chat answer, and
        `InputError` for a server that refuses or cannot be reached."""
        for attempt in range(self._retries + 1):
            try:
                return self._content(self._post({**self._body, "messages": list(messages)}))
            except (_Busy, httpx.TransportError) as error:
                reason = str(error) or type(error).__name__
                asked_s = error.after_s if isinstance(error, _Busy) else 0.0
            if asked_s > self._timeout_s:
                break
            if attempt < self._retries:
                time.sleep(max(asked_s, min(self._pause_s * 2**attempt, _LONGEST_PAUSE_S)))
        raise InputError(
            f"{self._url}: no answer after {attempt + 1} tries ({self._key.quote(reason)}); start the same "
            "command again when it runs, what is answered is kept"
        )

    def _post(self, body: Mapping[str, JSON]) -> bytes:
        deadline, content = time.monotonic() + self._timeout_s, bytearray()
        with self._client.stream("POST", self._url, json=body) as response:
            for part in response.iter_bytes():
                content += part
                if len(content) > _MOST_BYTES:
                    raise UnreadableAnswer("too large")
                if time.monotonic() > deadline:
                    raise _Busy(f"took longer than {self._timeout_s:.0f} s")
        status = response.status_code
        if status in BUSY or status >= 500:
            after_s = retry_after_s(response.headers.get("retry-after", ""))
            raise _Busy(f"status {status}" + (f", asks to wait {after_s:g} s" if after_s else ""), after_s)
        if status != 200:
            raise InputError(self._refusal(status, bytes(content)))
        return bytes(content)

    def _refusal(self, status: int, content: bytes) -> str:
        said = self._key.quote(content.decode(errors="replace"))
        remedy = f"; set the environment variable {self._key.variable}" if status in (401, 403) else ""
        return f"{self._url}: refused with status {status}: {said!r}{remedy}"

    @staticmethod
    def _content(content: bytes) -> str:
        try:
            choices = _Completion.model_validate_json(content).choices
        except ValidationError:
            raise UnreadableAnswer("no chat answer") from None
        if not choices or choices[0].finish_reason == "length":
            raise UnreadableAnswer("cut off" if choices else "no chat answer")
        return choices[0].message.content


def ask(endpoint: ChatEndpoint, steps: Steps) -> tuple[Spans | None, str | None]:
    """(spans, None), or (None, why the last answer could not be read)."""
    reason = None
    for _ in range(_TRIES):
        try:
            return read_answer(endpoint.ask(messages(steps.texts)), len(steps.texts)), None
        except UnreadableAnswer as error:
            reason = str(error)
    return None, reason


def ask_missing(endpoint: ChatEndpoint, wanted: Mapping[TraceKey, Steps], path: Path, concurrency: int) -> None:
    """Append a line to `path` for every trace that it lacks. A server that refuses ends it; what came is kept."""
    done = read_answers(path)
    missing = {key: steps for key, steps in wanted.items() if key not in done}
    with (
        progress("phases", len(missing)) as shown,
        ThreadPoolExecutor(max_workers=concurrency) as pool,
    ):
        futures = {pool.submit(ask, endpoint, steps): key for key, steps in missing.items()}
        try:
            for future in as_completed(futures):
                append_jsonl(path, [_line(futures[future], *future.result())])
                shown.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _line(key: TraceKey, spans: Spans | None, reason: str | None) -> dict[str, JSON]:
    found = None if spans is None else {phase: span.model_dump() for phase, span in spans.items()}
    names = ("model", "benchmark", "problem_id", "sample")
    return dict(zip(names, key, strict=True)) | {"phases": found, "unreadable": reason}


def read_answers(path: Path) -> dict[TraceKey, Spans | None]:
    """Spans of every trace that was asked about so far, None where the answer could not be read."""
    repair_torn_tail(path)
    lines = (line for _, line in read_jsonl(path)) if path.is_file() else ()
    return {
        (line["model"], line["benchmark"], line["problem_id"], line["sample"]): None
        if line["phases"] is None
        else {phase: Span(**span) for phase, span in line["phases"].items()}
        for line in lines
    }
