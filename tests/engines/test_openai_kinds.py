"""Each kind of server that speaks OpenAI's completions, by what it really sends: vLLM, llama.cpp, TGI, gateways and
login pages over real HTTP, with the answer that each must get and the tokens that must be in the ledger."""

import json
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from secateur.engines.base import EngineError, Event, SamplingSpec
from secateur.engines.model_files import load_tokenizer
from secateur.engines.openai.engine import OpenAIEngine
from secateur.engines.openai.protocol import retry_after_s
from secateur.runtime.errors import InputError
from tests.engines.contract import drain
from tests.local_server import LocalServer, QuietHandler

SPEC = SamplingSpec(temperature=0, max_tokens=40)
KEY = "sk-open-sesame"
Record = dict[str, Any]


@dataclass
class Answer:
    """Raw lines of a body; `tokens` is what the server computes for it; `breaks` closes the connection instead of
    ending the body; `forever` repeats the last line until the client has gone."""

    lines: list[bytes] = field(default_factory=list)
    tokens: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False
    forever: bool = False


class Foreign(LocalServer):
    """A server by script: `answers` to all completions but the engine's own probes, the last one again and again.

    `kind` is what it speaks (vLLM, llama.cpp or text); `refuses` are keys that it answers 400 for, with `words`;
    `busy` are answers to the first requests of all, also to that for the list of models, None where it answers as
    ever; `entry` is in that list."""

    def __init__(
        self,
        *answers: Answer,
        kind: str = "vLLM",
        prefix: str = "/v1",
        refuses: Sequence[str] = (),
        words: str = "unknown argument: {}",
        busy: Sequence[Answer | None] = (),
        entry: Record | None = None,
    ) -> None:
        super().__init__(_Handler)
        self.answers, self.kind, self.prefix = list(answers), kind, prefix
        self.refuses, self.words, self.busy, self.entry = refuses, words, list(busy), entry or {}
        self.bodies: list[Record] = []
        self.headers: list[dict[str, str]] = []
        self.open = self.computed = 0
        self.lock = threading.Lock()

    def next_answer(self, body: Record) -> Answer:
        with self.lock:
            if self.kind == "text" and not isinstance(body["prompt"], str):
                return Answer([json.dumps({"error": {"message": "prompt must be text"}}).encode()], status=400)
            if refused := [key for key in self.refuses if key in body]:
                return Answer([self.words.format(refused[0]).encode()], status=400)
            if body["max_tokens"] == 2:  # the engine asks which dialect it is
                return self._trial(body)
            self.bodies.append(body)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            self.computed += answer.tokens
            return answer

    def _trial(self, body: Record) -> Answer:
        if self.kind == "llama.cpp" and body.get("verbose"):
            return stream(verbose(1), verbose(2), verbose(done="length", count=2))
        if self.kind == "vLLM":
            return stream(ids(1), ids(2, "length"))
        return stream(text("a"), text("b", "length"))


class _Handler(QuietHandler):
    server: Foreign

    def do_GET(self) -> None:
        if self._was_busy():
            return None
        if self.path == f"{self.server.prefix}/models":
            return self._json({"data": [{"id": "served"} | self.server.entry]})
        self._json({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append(dict(self.headers))
        if not self.path.startswith(self.server.prefix + "/completions"):
            return self._json({"detail": "Not Found"}, 404)
        if self._was_busy():
            return None
        answer = self.server.next_answer(body)
        if answer.status != 200:
            return self._send(answer.status, b"".join(answer.lines), answer.headers)
        with self.server.lock:
            self.server.open += 1
        try:
            self._write(answer)
        except OSError:
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.open -= 1

    def _was_busy(self) -> bool:
        with self.server.lock:
            answer = self.server.busy.pop(0) if self.server.busy else None
        if answer is not None:
            self._send(answer.status, b"".join(answer.lines), answer.headers)
        return answer is not None

    def _write(self, answer: Answer) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": "text/event-stream", "Connection": "close", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in answer.lines:
            self._line(line)
        while answer.forever:
            time.sleep(0.02)
            self._line(answer.lines[-1])
        if not answer.breaks:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _line(self, line: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.flush()


def event(record: Record) -> bytes:
    return b"data: %b\n\n" % json.dumps(record).encode()


def ids(*tokens: int | str | None, usage: int | None = None, **extra: Any) -> Record:
    """A chunk as vLLM sends it; a string among the tokens is the reason of the end."""
    done = next((token for token in tokens if isinstance(token, str)), None)
    numbers = [token for token in tokens if isinstance(token, int)]
    choice = {"text": "".join(f"<{number}>" for number in numbers), "token_ids": numbers, "finish_reason": done}
    return {"choices": [choice | extra]} | ({} if usage is None else {"usage": {"completion_tokens": usage}})


def verbose(*tokens: int, count: int | None = None, done: str | None = None, piece: str | None = None) -> Record:
    """A chunk as llama.cpp sends it when it is asked for its debugging field; `count` is of the whole stream."""
    said = "".join(f"<{number}>" for number in tokens) if piece is None else piece
    told = {"content": said, "tokens": list(tokens)} | ({} if count is None else {"tokens_predicted": count})
    return text(said, done, __verbose=told)


def text(piece: str, done: str | None = None, **extra: Any) -> Record:
    return {"choices": [{"index": 0, "text": piece, "finish_reason": done}]} | extra


def stream(*records: Record | bytes, tokens: int | None = None, end: bool = True, **options: Any) -> Answer:
    lines = [record if isinstance(record, bytes) else event(record) for record in records]
    made = sum(isinstance(record, dict) and bool(record.get("choices")) for record in records)
    return Answer(lines + [b"data: [DONE]\n\n"] * end, made if tokens is None else tokens, **options)


class Client:
    """Opens engines on servers by script, and closes both."""

    def __init__(self, model: Path) -> None:
        self.model, self.opened = model, []

    def __call__(self, *answers: Answer, **options: Any) -> tuple[Foreign, OpenAIEngine]:
        ways = {key: options.pop(key) for key in ("kind", "refuses", "words", "busy", "entry") if key in options}
        server = Foreign(*answers, **ways).__enter__()
        self.opened.append(server)
        values = {"tokenizer": str(self.model), "abort_check": "off"} | options
        engine = OpenAIEngine(f"{server.url}/v1", "served", **values)
        patience = type(engine._streams.patience)
        engine._streams.patience = patience(
            values.get("read_timeout_s", 60.0), values.get("max_retries", 3), backoff_s=0.01
        )
        self.opened.append(engine)
        return server, engine

    def close(self) -> None:
        for opened in reversed(self.opened):
            opened.close() if isinstance(opened, OpenAIEngine) else opened.__exit__()


@pytest.fixture
def client(tiny_model: Path) -> Iterator[Client]:
    made = Client(tiny_model)
    yield made
    made.close()


def run(engine: OpenAIEngine, count: int = 1, spec: SamplingSpec = SPEC) -> tuple[list[int], list[Event]]:
    handles = engine.start([5, 6, 7], list(range(count)), spec)
    return handles, drain(engine)


def ledger(engine: OpenAIEngine, handles: list[int]) -> int:
    usages = [engine.usage(handle) for handle in handles]
    return sum(usage.generated_tokens + usage.overrun_tokens for usage in usages)


def tokens_of(events: list[Event]) -> list[int]:
    return [token for event in events for token in event.token_ids]


@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ([ids(9, usage=1), ids(8, "stop", usage=2)], [9, 8]),  # vLLM, usage with each chunk
        ([ids(9), ids(8, "stop"), {"choices": [], "usage": {"completion_tokens": 2}}], [9, 8]),  # or behind the last
        ([b": ping\n\n", ids(9), b"event: ping\ndata: {}\n\n", ids(8, "length"), b": ping\n\n"], [9, 8]),
        ([ids(9), {"choices": None}, ids(8, "stop")], [9, 8]),
        ([b'data:{"choices":[{"text":"x","token_ids":[9],"finish_reason":"eos_token"}]}\n'], [9]),  # TGI
        ([ids(9), ids(8)], [9, 8]),  # ends with [DONE], gives no reason
        ([ids(9, 8, "stop")], [9, 8]),  # several tokens in a chunk
    ],
)
def test_what_a_server_with_ids_sends_is_what_comes_out(client: Client, records: list, wanted: list[int]) -> None:
    _, engine = client(stream(*records))
    handles, events = run(engine)
    assert tokens_of(events) == wanted and events[-1].done and ledger(engine, handles) == len(wanted)


def test_a_stream_without_a_line_break_at_its_end_is_read_to_its_end(client: Client) -> None:
    _, engine = client(Answer([event(ids(9)), event(ids(8, "stop")).strip()]))
    assert tokens_of(run(engine)[1]) == [9, 8]


def test_text_whose_ids_are_null_is_kept_and_counted(client: Client) -> None:
    """The ids are the tokenizer's, the count the server's; text that only follows behind its ids adds none."""
    word = load_tokenizer(client.model).encode("wait", add_special_tokens=False)
    none = {"token_ids": None, "text": "wait"}
    for usages, wanted in (((None, None), [9, *word]), ((1, 1 + len(word)), [9, *word]), ((1, 1), [9])):
        _, engine = client(stream(ids(9, usage=usages[0]), ids("length", usage=usages[1], **none)))
        handles, events = run(engine)
        assert tokens_of(events) == wanted and ledger(engine, handles) == len(wanted)
    assert "wait" not in "".join(event.text for event in events), "ids tell the text, once"
    _, engine = client(stream(ids(9), ids("length", **none)), tokenizer=None)
    with pytest.raises(EngineError, match="'tokenizer'"):
        run(engine)


@pytest.mark.parametrize("usage", ["each", "behind", "before"])
def test_cumulative_usage_is_the_ledger_s_of_a_text_server(client: Client, usage: str) -> None:
    """The server has made 7 tokens of what our tokenizer splits in another way; a figure is no increment."""
    figures = {"each": (3, 7), "behind": (None, None), "before": (7, None)}[usage]
    pieces = [
        text(piece, done, **({} if figure is None else {"usage": {"completion_tokens": figure}}))
        for piece, done, figure in zip(("So wait", " it is"), (None, "length"), figures, strict=True)
    ]
    behind = [{"choices": [], "usage": {"completion_tokens": 7}}] * (usage == "behind")
    _, engine = client(stream(*pieces, *behind), kind="text")
    handles, events = run(engine)
    assert ledger(engine, handles) == 7 and "".join(event.text for event in events) == "So wait it is"


def test_a_text_server_that_breaks_is_in_the_ledger_with_both_parts(client: Client) -> None:
    broken = stream(text("So wait", usage={"completion_tokens": 3}), end=False, breaks=True)
    rest = stream(text(" it is", "length", usage={"completion_tokens": 4}))
    server, engine = client(broken, rest, kind="text")
    handles, events = run(engine)
    assert ledger(engine, handles) == 7 and "".join(event.text for event in events) == "So wait it is"
    assert server.bodies[1]["prompt"].endswith("So wait")


OFF = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
ORDER = ["penalties", "temperature", "top_k", "top_p", "min_p"]


@pytest.mark.parametrize("kind", ["vLLM", "llama.cpp", "text"])
def test_every_key_of_sampling_is_sent_and_recorded(client: Client, kind: str) -> None:
    """Those that are off as well, for a server has defaults of its own; llama.cpp is told the order of its steps."""
    own = {"repeat_penalty": 1.0, "mirostat": 0, "samplers": ORDER} if kind == "llama.cpp" else {}
    server, engine = client(three(kind), kind=kind, extra_body={"logit_bias": {"5": 1}})
    for spec, wanted in (
        (SamplingSpec(temperature=0.6, max_tokens=9), {"temperature": 0.6}),
        (SamplingSpec(0.6, 0.9, 20, 9), {"temperature": 0.6, "top_p": 0.9, "top_k": 20}),
    ):
        run(engine, spec=spec)
        sent = OFF | own | wanted
        assert sent.items() <= server.bodies[-1].items() and isinstance(server.bodies[-1]["seed"], int)
        recorded = engine.sampled_with(spec)
        assert recorded["not_sent"] == [] and recorded["sent"].pop("seed")
        assert recorded["sent"] == sent | {"logit_bias": {"5": 1}}


@pytest.mark.parametrize(
    ("refuses", "words", "not_sent"),
    [
        (["top_k", "min_p"], "Unrecognized request argument supplied: {}", ["min_p", "top_k"]),
        (["seed"], '{{"error": {{"message": "{} is not permitted"}}}}', ["seed"]),
        (
            ["top_k"],
            "no such argument",
            ["frequency_penalty", "min_p", "presence_penalty", "repetition_penalty", "seed", "top_k"],
        ),
    ],
)
def test_keys_that_a_server_refuses_are_learnt_said_and_recorded(
    client: Client, refuses: list[str], words: str, not_sent: list[str]
) -> None:
    with pytest.warns(RuntimeWarning, match=f"refuses {', '.join(not_sent)}, so") as said:
        server, engine = client(three("text"), kind="text", refuses=refuses, words=words)
    assert len(said) == 1
    assert tokens_of(run(engine)[1]) and not set(not_sent) & server.bodies[0].keys()
    recorded = engine.sampled_with(SPEC)
    assert recorded["not_sent"] == not_sent and not set(not_sent) & recorded["sent"].keys()
    if "top_k" in refuses:
        with pytest.raises(InputError, match="'top_k' has the value 5"):
            engine.start([5, 6, 7], [0], SamplingSpec(top_k=5))


def test_ids_of_llama_cpp_come_from_its_debugging_field(client: Client) -> None:
    """It keeps a text back until its last character is whole, and gives the last token's id alone; the tokenizer
    knows the others, its own count how many they are."""
    words = load_tokenizer(client.model).encode("wait", add_special_tokens=False)
    chunks = [verbose(9, count=1), verbose(words[-1], count=1 + len(words), piece="wait")]
    server, engine = client(stream(*chunks, verbose(done="stop", count=1 + len(words))), kind="llama.cpp")
    handles, events = run(engine)
    assert len(words) > 1 and tokens_of(events) == [9, *words] and ledger(engine, handles) == 1 + len(words)
    assert server.bodies[0]["prompt"] == [5, 6, 7]
    with pytest.raises(InputError, match="'tokenizer'"):
        client(stream(ids(9)), kind="llama.cpp", tokenizer=None)


@pytest.mark.parametrize(
    "entry",
    [{"max_model_len": 64}, {"meta": {"n_ctx": 64, "n_ctx_train": 8192}}, {"context_length": 64}, {"meta": None}],
)
def test_the_context_is_known_in_each_server_s_words(client: Client, entry: Record) -> None:
    _, engine = client(three("vLLM"), entry=entry)
    assert engine.context == engine.dialect.context == (None if entry == {"meta": None} else 64)
    if engine.context:
        with pytest.raises(InputError, match="lower max_tokens to 61"):
            engine.start([5, 6, 7], [0], SamplingSpec(max_tokens=62))


def test_a_server_that_cuts_traces_off_by_itself_is_reported_once(client: Client) -> None:
    _, engine = client(stream(ids(9), ids(8, "length")))
    with pytest.warns(RuntimeWarning, match="after 2 of 40 tokens") as said:
        run(engine, count=3)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, engine = client(stream(ids(9), ids(8, "length")))
        run(engine, spec=SamplingSpec(max_tokens=2))


LOADING = Answer([b'{"error": {"message": "Loading model", "code": 503}}'], status=503)


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "1"}])
def test_a_server_that_is_busy_at_the_start_is_waited_for(
    client: Client, capsys: pytest.CaptureFixture, headers: dict[str, str]
) -> None:
    """The list of models and the first completion alike: what they say would be missed else."""
    first, second = (Answer(LOADING.lines, status=status, headers=headers) for status in (503, 429))
    server, engine = client(three("vLLM"), busy=[first, None, second], entry={"max_model_len": 64})
    assert tokens_of(run(engine)[1]) == [9, 8, 7] and engine.context == 64 and not server.busy
    said = capsys.readouterr().out
    assert said.count("the server is busy") == 2 and "Loading model" in said and "600 seconds at most" in said
    assert ("asks to wait 1 seconds" in said) == bool(headers)


@pytest.mark.parametrize(("headers", "said"), [({"Retry-After": "900"}, "asks to wait 900 seconds"), ({}, "is busy")])
def test_a_server_that_stays_busy_is_given_up(client: Client, headers: dict[str, str], said: str) -> None:
    busy = [Answer(LOADING.lines, status=503, headers=headers)] * 50
    with pytest.raises(InputError, match=f"{said}.*Loading model.*raise that option"):
        client(three("vLLM"), busy=busy, read_timeout_s=1.0)


LLAMA_CPP = {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": [{"logprob": -1.0}, {"logprob": -3.0}]}]}
OPENAI = {"top_logprobs": [{"x": -1.0, "y": -3.0, "drawn": -9.0}]}


@pytest.mark.parametrize("logprobs", [LLAMA_CPP, OPENAI])
def test_log_probabilities_of_both_forms(client: Client, logprobs: Record) -> None:
    _, engine = client(stream(ids(9, "stop", logprobs=logprobs)))
    _, events = run(engine, spec=SamplingSpec(max_tokens=4, top_logprobs=2))
    assert events[-1].confidences == (2.0,)


OVERLOADED = {"error": {"message": "engine overloaded", "type": "server_error", "code": 503}}


@pytest.mark.parametrize(
    "first",
    [
        stream(ids(9), OVERLOADED),  # vLLM, within the stream
        Answer([json.dumps(OVERLOADED).encode()], headers={"Content-Type": "application/json"}),  # a gateway
        Answer([b"error: " + json.dumps(OVERLOADED["error"]).encode() + b"\n\n"]),  # llama.cpp
        Answer([b"loading"], status=503),
        Answer([b"{}"], status=429, headers={"Retry-After": "0"}),
        Answer([b"{}"], status=429, headers={"Retry-After": "soon"}),
        stream(ids(9), ids("abort")),
        stream(ids(9), end=False),
        stream(end=True),
    ],
)
def test_what_may_pass_is_tried_again(client: Client, first: Answer) -> None:
    server, engine = client(first, stream(ids(8), ids(7, "stop")))
    handles, events = run(engine)
    before = [9] * (first.tokens > 0)
    assert tokens_of(events) == [*before, 8, 7] and engine.retries == 1
    assert server.bodies[1]["prompt"] == [5, 6, 7, *before] and ledger(engine, handles) == 2 + len(before)


def test_a_server_that_says_when_is_asked_then(client: Client) -> None:
    soon, late = (Answer([b"{}"], status=429, headers={"Retry-After": value}) for value in ("1", "900"))
    _, engine = client(soon, stream(ids(8, "stop")), read_timeout_s=60.0)
    assert tokens_of(run(engine)[1]) == [8] and engine.retries == 1
    _, engine = client(late, stream(ids(8, "stop")), read_timeout_s=60.0)
    with pytest.raises(EngineError, match="asks to wait 900 seconds"):
        run(engine)


def test_both_forms_of_retry_after() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert [retry_after_s(value) for value in ("7", "0.5", "-3", "", "soon", "nan")] == [7, 0.5, 0, 0, 0, 0]
    assert 3000 < retry_after_s(date) <= 3600


def test_only_breaks_without_a_token_between_them_are_counted(client: Client) -> None:
    breaks = [stream(ids(number), end=False, breaks=True) for number in range(10, 20)]
    _, engine = client(*breaks, stream(ids(8, "stop")), max_retries=1)
    handles, events = run(engine)
    assert tokens_of(events) == [*range(10, 20), 8] and ledger(engine, handles) == 11
    _, engine = client(stream(ids(9), end=False), Answer([b"busy"], status=503), max_retries=2)
    with pytest.raises(EngineError, match="broke 3 times"):
        run(engine)


@pytest.mark.parametrize("came", [[], [event(ids(9))]])
def test_pings_without_tokens_are_no_life(client: Client, came: list[bytes]) -> None:
    _, engine = client(Answer([*came, b": ping\n\n"], forever=True), read_timeout_s=0.4)
    with pytest.raises(EngineError, match="no token came for"):
        run(engine)


def test_pings_after_the_end_do_not_hold_it_up_for_good(client: Client) -> None:
    _, engine = client(Answer([event(ids(9, "stop")), b": ping\n\n"], forever=True), read_timeout_s=0.4)
    assert tokens_of(run(engine)[1]) == [9]


LOGIN = Answer([b"<!DOCTYPE html><title>Sign in</title>"], headers={"Content-Type": "text/html"})
WHOLE = Answer([json.dumps(text("all at once", "stop"), indent=1).encode()])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (LOGIN, ["no stream", "Sign in", "base_url", "MY_KEY"]),
        (WHOLE, ["no stream", "all at once"]),
        (stream({"error": {"message": "prompt too long", "code": 400}}), ["reports: prompt too long"]),
        (stream({"error": "no"}), ["reports: no"]),
        (stream(b"data: {{\n\n"), ["no completion chunk", "{{"]),
        (stream(*[ids(*range(40))] * 4, ids("stop")), ["max_tokens (40)"]),
        (Answer([b"data: " + b"x" * (1 << 24), b"x" * 9]), ["16 MiB"]),
        (Answer([b"n" * (1 << 20)], status=400), ["400: nnn"]),
        (Answer([b"no"], status=401), ["401", "MY_KEY"]),
        (Answer([b"no"], status=404), ["404", "/v1", "base_url"]),
        (Answer([], status=301, headers={"Location": "https://h/v1"}), ["https://h/v1", "base_url"]),
    ],
)
def test_what_cannot_pass_is_said_at_once(client: Client, answer: Answer, said: list[str]) -> None:
    _, engine = client(answer, api_key_env="MY_KEY")
    with pytest.raises(EngineError) as raised:
        run(engine)
    assert all(words in str(raised.value) for words in said), raised.value
    assert engine.retries == 0


HOSTILE = f"no \x1b]0;owned\x07\x1b[31m \u202e {KEY} \ud83d\ude00".encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    "answer",
    [
        Answer([HOSTILE], status=400),
        Answer([HOSTILE], status=503),
        Answer([HOSTILE]),
        Answer([b"data: " + HOSTILE + b"\n\n"]),
        stream({"error": {"message": HOSTILE.decode("utf-8", "replace")}}),
        stream({"choices": HOSTILE.decode("utf-8", "replace")}),
        stream(ids(9, finish_reason=HOSTILE.decode("utf-8", "replace"))),
        Answer([], status=302, headers={"Location": f"https://h/?key={KEY}"}),
    ],
)
def test_no_answer_of_a_server_shows_the_key_or_moves_the_terminal(
    client: Client, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    _, engine = client(answer, api_key_env="MY_KEY", max_retries=0)
    with pytest.raises(EngineError) as raised:
        run(engine)
    assert KEY not in str(raised.value) and "(key)" in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t"])
def test_space_around_a_key_is_no_part_of_it(client: Client, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}{end}")
    server, _ = client(stream(ids(9, "stop")), api_key_env="MY_KEY")
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk one", "sk-\u00e9", "sk-\x1b[0m"])
def test_a_key_that_is_none_is_refused_unseen(client: Client, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(InputError, match="MY_KEY") as raised:
        client(stream(ids(9, "stop")), api_key_env="MY_KEY")
    assert "sk" not in str(raised.value)


def test_one_refused_stream_closes_the_others(client: Client) -> None:
    """Before the caller looks: what they generate meanwhile would be paid for."""
    lasting = [Answer([event(ids(9)), b": ping\n\n"], tokens=1, forever=True) for _ in range(5)]
    server, engine = client(*lasting, Answer([b"no"], status=400))
    handles = engine.start([5, 6, 7], list(range(5)), SPEC)
    wait_until(lambda: server.open == 5)
    (refused,) = engine.start([5, 6, 7], [9], SPEC)
    wait_until(lambda: server.open == 0)
    with pytest.raises(EngineError, match="400"):
        drain(engine)
    assert ledger(engine, [*handles, refused]) == server.computed == 5
    assert engine.step() == [], "nothing runs any more"
    engine.prune([*handles, refused])
    server.answers = [stream(ids(8, "stop"))]
    assert tokens_of(run(engine)[1]) == [8], "the engine can be used"


@pytest.mark.parametrize("stop", ["park", "prune"])
def test_a_stream_that_fails_while_it_is_stopped_does_not_leave_the_others_standing(
    client: Client, stop: str
) -> None:
    """It has closed them by then, so that nothing of theirs would ever come."""
    lasting = [Answer([event(ids(9)), b": ping\n\n"], tokens=1, forever=True) for _ in range(3)]
    server, engine = client(*lasting, Answer([b"no"], status=400))
    handles = engine.start([5, 6, 7], list(range(3)), SPEC)
    wait_until(lambda: server.open == 3)
    (refused,) = engine.start([5, 6, 7], [9], SPEC)
    wait_until(lambda: server.open == 0)
    getattr(engine, stop)([refused])
    with pytest.raises(EngineError, match="400"):
        drain(engine)
    assert engine.step() == [], "nothing runs any more"
    server.answers = [stream(ids(8, "stop"))]
    assert tokens_of(run(engine)[1]) == [8], "the engine can be used"
    engine.prune(handles)


def test_a_stream_that_fails_while_all_are_stopped_is_nobody_s_failure(client: Client) -> None:
    server, engine = client(Answer([b"no"], status=400))
    handles = engine.start([5, 6, 7], [0, 1], SPEC)
    wait_until(lambda: not engine._streams._tasks)
    engine.prune(handles)
    server.answers = [stream(ids(8, "stop"))]
    assert tokens_of(run(engine)[1]) == [8]


def wait_until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the server did not come to rest")


def three(kind: str, *, broken: bool = False, **options: Any) -> Answer:
    """A trace of three tokens as a kind of server sends it; the first token alone, if it is `broken`."""
    word = "wait" if kind == "text" else None
    made = {
        "vLLM": [ids(9, usage=1), ids(8, usage=2), ids(7, "stop", usage=3)],
        "llama.cpp": [verbose(9, count=1), verbose(8, count=2), verbose(7, count=3), verbose(done="stop", count=3)],
        "text": [
            text(piece, done, usage={"completion_tokens": count})
            for count, (piece, done) in enumerate([(word, None), (word, None), (word, "stop")], 1)
        ],
    }[kind]
    return stream(*made[:1], tokens=1, **options) if broken else stream(*made, tokens=3)


KINDS = ("vLLM", "llama.cpp", "text")
FAULTS: dict[str, Record] = {
    "refused": {"status": 400},
    "busy": {"status": 503},
    "later": {"status": 429, "headers": {"Retry-After": "0"}},
    "closed": {"broken": True, "breaks": True, "end": False},
    "ended early": {"broken": True, "end": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [*FAULTS, "reported"])
def test_whatever_fails_the_ledger_holds_what_the_server_was_asked_for(client: Client, kind: str, fault: str) -> None:
    """Twelve traces of three tokens; every third answer fails first, or for good."""
    answers = []
    for index in range(12):
        if index % 3 == 2:
            answers.append(_failing(kind, fault))
        answers.append(three(kind))
    server, engine = client(*answers, kind=kind)
    handles = []
    for index in range(12):
        handles += engine.start([5, 6, 7], [index], SPEC)
        try:
            drain(engine)
        except EngineError:
            assert fault == "refused"
    assert ledger(engine, handles) == server.computed
    assert engine.retries == (0 if fault == "refused" else 4)


def _failing(kind: str, fault: str) -> Answer:
    if fault == "reported":
        first = three(kind, broken=True)
        return Answer([*first.lines[:1], event(OVERLOADED)], tokens=1)
    options = FAULTS[fault]
    return Answer([b"no"], **options) if "status" in options else three(kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_what_came_of_closed_traces_is_in_the_ledger(client: Client, kind: str) -> None:
    """Eight traces of which two tokens come, and pings after them; one token is delivered before all are pruned."""
    lasting = Answer([*three(kind).lines[:2], b": ping\n\n"], tokens=2, forever=True)
    server, engine = client(lasting, kind=kind)
    handles = engine.start([5, 6, 7], list(range(8)), SPEC)
    wait_until(lambda: engine._streams.inbox.qsize() == 16)
    assert len(engine.step()) == 8
    engine.park(handles[4:])
    engine.prune(handles)
    assert ledger(engine, handles) == server.computed == 16
    assert sum(engine.usage(trace).overrun_tokens for trace in handles) == 8


@pytest.mark.parametrize("prefix", ["/v1", "/elsewhere/v1"])
def test_an_address_without_its_v1_is_named(client: Client, prefix: str) -> None:
    with Foreign(stream(ids(9, "stop")), prefix=prefix) as server:
        wrong = server.url if prefix == "/v1" else f"{server.url}/v1"
        with pytest.raises(InputError, match=f"often {server.url}/v1"):
            OpenAIEngine(wrong, "served", abort_check="off", api_key_env="MY_KEY")
