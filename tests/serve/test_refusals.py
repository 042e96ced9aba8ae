"""What is refused has OpenAI's form, names field, value and remedy, and no path, key or traceback."""

import json
import os
import re
import socket
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.serve import ServeConfig, run
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from tests.serve.running import KEYS, MODEL, Server, chat_body

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def error_of(response: httpx.Response) -> dict:
    """The error of a refusal; it has the form and holds nothing that is not the caller's."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert "Traceback" not in response.text and "trainers/" not in response.text and "/home" not in response.text
    return error


MISTAKES = {
    '{"model"': (None, "the body is no JSON"),
    "[]": (None, "the body: input should be an object"),
    '{"messages": []}': ("model", "'model': field required"),
    '{"model": "m", "messages": []}': ("messages", "at least 1 item"),
    '{"model": "m", "messages": [{"role": "user", "content": 3}]}': ("messages.0.content", "a valid string"),
    '{"model": "m", "messages": [{"role": "tool", "content": "x"}]}': ("messages.0.role", "'user'"),
    '{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}': (
        "messages.0.content.0.type",
        "'text'",
    ),
    '{"model": "m", "messages": [{"role": "assistant", "content": "x"}]}': ("messages", "must be of the role 'user'"),
}
VALUES = {
    "n": [0, "3", 1.5, 10_000],
    "max_tokens": [0, 10_000, None, "x"],
    "temperature": [-1, 3, "hot"],
    "top_p": [0, 1.5],
    "top_k": [-2, 0.5],
    "seed": ["one", 2**70],
    "stop": ["x", ["x"]],
    "presence_penalty": [0.5],
    "tools": [[]],
    "stream_options": [{"include_usage": True}, {"other": 1}],
    "secateur": [{"rule": "none"}, {"rule": "adaptive"}, {"answers": "all"}, {"answers": "pattern:("}, {"n": 3}, 1],
}


@pytest.mark.parametrize("body", MISTAKES)
def test_a_body_that_is_no_request_names_what_is_wrong(server: Server, body: str) -> None:
    response = server.client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    param, words = MISTAKES[body]
    error = error_of(response)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in VALUES.items() for value in values])
def test_a_value_out_of_range_names_its_field(server: Server, field: str, value: object) -> None:
    response = server.chat(**{field: value})
    if value is None:
        assert response.status_code == 200
        return
    error = error_of(response)
    assert response.status_code == 400 and error["param"].split(".")[0] == field, error
    assert field in error["message"]


@pytest.mark.parametrize(
    ("field", "remedy"),
    [
        ("temprature", "did you mean 'temperature'?"),
        ("deadline_s", "did you mean 'secateur.deadline_s'?"),
        ("frobnicate", "leave it out"),
    ],
)
def test_an_unknown_field_is_refused_with_what_was_meant(server: Server, field: str, remedy: str) -> None:
    error = error_of(server.chat(**{field: 1}))
    assert (error["param"], error["code"]) == (field, "unknown_parameter") and remedy in error["message"]


def test_what_changes_nothing_is_taken(server: Server) -> None:
    off = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logprobs": False,
        "stop": [],
        "top_k": -1,
        "stream": False,
    }
    assert server.chat(**off, response_format={"type": "text"}).json()["choices"] == server.chat().json()["choices"]


def test_other_models_paths_and_methods(server: Server) -> None:
    response = server.client.post(CHAT, json={**chat_body(), "model": "gpt-4o"})
    assert response.status_code == 404 and error_of(response)["code"] == "model_not_found"
    assert MODEL in error_of(response)["message"]
    for path in ("/", "/v1", "/v1/embeddings", "/v1/models/../../etc/passwd", "/%00", "/dashboard/x"):
        response = server.client.get(path)
        assert response.status_code == 404 and error_of(response)["type"] == "invalid_request_error"
    for method, path in (("GET", CHAT), ("DELETE", "/v1/models"), ("POST", "/metrics")):
        response = server.client.request(method, path)
        assert response.status_code == 405 and error_of(response) and response.headers["allow"]


def test_a_body_of_another_type_or_too_long(server: Server) -> None:
    response = server.client.post(CHAT, content=json.dumps(chat_body()), headers={"Content-Type": "text/plain"})
    assert response.status_code == 415 and "application/json" in error_of(response)["message"]
    response = server.client.post(CHAT, json=chat_body("x" * 2**21))
    assert response.status_code == 413 and "1,048,576" in error_of(response)["message"]


def test_a_prompt_that_fills_the_context_is_its_callers_alone(server: Server) -> None:
    response = server.chat("Rule oak. " * 1000)
    assert response.status_code == 400 and "context" in error_of(response)["message"]
    assert server.chat().status_code == 200


def test_a_stranger_s_page_reaches_nothing(server: Server) -> None:
    """Its name may be made to lead to this machine; a browser then sends that name."""
    response = server.client.get("/dashboard/data", headers={"Host": "rebound.example:80"})
    assert response.status_code == 403 and error_of(response)
    assert server.client.get("/health", headers={"Host": "[::1]:1"}).status_code == 200


def test_what_is_no_http_gets_no_traceback(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as wire:
        wire.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        wire.settimeout(30)
        assert b"Traceback" not in wire.recv(4096)
    assert server.client.get("/health").json() == {"status": "ok"}


def test_callers_need_the_key_where_there_is_one(tmp_path: Path) -> None:
    with Server(tmp_path / "log.jsonl", "--request_patterns", "false", key="a-secret-of-ours") as locked:
        assert locked.client.get("/v1/models").status_code == 200
        refused = locked.chat(secateur={"answers": "pattern:(a+)+b"})
        assert refused.status_code == 400 and "no patterns" in error_of(refused)["message"]
        for given in ({}, {"Authorization": "Bearer a-secret-of-our"}, {"Authorization": "a-secret-of-ours"}):
            with httpx.Client(base_url=locked.url, headers=given) as other:
                for path in ("/v1/models", "/metrics", "/dashboard/data", "/v1/nothing"):
                    response = other.get(path)
                    assert response.status_code == 401 and error_of(response)["code"] == "invalid_api_key"
                assert [other.get(path).status_code for path in ("/health", "/ready", "/dashboard")] == [200] * 3
        assert locked.stop() == 0
        assert "a-secret" not in locked.log_file.read_text()


def test_a_full_queue_is_429_with_a_time(tmp_path: Path) -> None:
    words = ("--rows", "8", "--most_waiting", "1")
    with Server(tmp_path / "log.jsonl", *words) as small, ThreadPoolExecutor(12) as callers:
        asked = [callers.submit(small.chat, seed=seed, secateur={"rule": "shortest_wait"}) for seed in range(24)]
        got = [one.result() for one in asked]
        assert {response.status_code for response in got} == {200, 429}
        for response in got:
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) >= 1
                assert error_of(response)["type"] == "rate_limit_error"
        counts = small.metrics()
        for status in (200, 429):
            name = f'secateur_requests_total{{endpoint="{CHAT}",status="{status}"}}'
            assert counts[name] == sum(response.status_code == status for response in got)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--host", "0.0.0.0"), "SECATEUR_API_KEY"),
        (("--n", "300"), "key 'n' has the value 300; key 'most_n' allows up to 256"),
        (("--answers", "all"), "key 'answers' has the value 'all'"),
        (("--rule", "adaptive"), "give 'judge' as well"),
        (("--upstream", "http://127.0.0.1:9/v1", "--engine", "vllm"), "goes with engine 'openai'"),
        (("--deadline_s", "0"), "key 'deadline_s'"),
        (("--port", "99999"), "cannot be had"),
    ],
)
def test_what_cannot_be_served_is_refused(
    monkeypatch: pytest.MonkeyPatch, repository: Path, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.delenv("SECATEUR_API_KEY", raising=False)
    with pytest.raises(InputError, match=re.escape(told)):
        run(parse_config(ServeConfig, [*KEYS, *words]))


def test_a_port_that_is_taken_is_one_line(repository: Path, server: Server) -> None:
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "eval/serve.py", *KEYS, "--port", port]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and f"127.0.0.1:{port} cannot be had" in done.stderr


SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.printable, max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
SMALL = {
    "n": st.integers(1, 3),
    "max_tokens": st.integers(1, 4),
    "max_completion_tokens": st.integers(1, 4),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 5),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "user": st.text(max_size=4),
    "secateur": st.fixed_dictionaries(
        {},
        optional={
            "rule": st.sampled_from(["automatic", "fewest_tokens", "shortest_wait", "adaptive"]),
            "answers": st.sampled_from(["boxed", "choice", "exact", "none", "json:a.b", "pattern:(.)", "pattern:("]),
            "token_budget": st.integers(1, 50),
            "deadline_s": st.floats(0.001, 1),
            "thinking": st.booleans(),
        },
    ),
}
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "developer"]), "content": st.text(max_size=20)}
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, dict]:
    """A request that is right, with up to two of its fields replaced by anything, or left out."""
    chat = draw(st.booleans())
    fields = draw(st.fixed_dictionaries({}, optional=SMALL))
    body = {"max_tokens": 2, "n": 2, **fields, "model": MODEL}
    body |= {"messages": draw(MESSAGES)} if chat else {"prompt": draw(st.text(min_size=1, max_size=20))}
    for name in draw(st.lists(st.sampled_from([*body, "tools", "stop", "x"]), max_size=2)):
        body[name] = draw(ANYTHING)
        if draw(st.integers(0, 4)) == 0:
            del body[name]
    return (CHAT if chat else COMPLETION), body


def check_answered(server: Server, path: str, content: bytes) -> None:
    response = server.client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404), response.text
    assert "Traceback" not in response.text
    if response.status_code != 200:
        error_of(response)
    elif response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        assert response.json()["choices"][0]["finish_reason"] in ("stop", "length")


def fuzz(server: Server, count: int) -> None:
    often = settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None)

    @often
    @given(bodies())
    def requests(asked: tuple[str, dict]) -> None:
        check_answered(server, asked[0], json.dumps(asked[1]).encode())

    @settings(often, max_examples=max(50, count // 5))
    @given(
        st.binary(max_size=60) | st.text(max_size=30).map(str.encode) | ANYTHING.map(lambda x: json.dumps(x).encode())
    )
    def bytes_of_any_kind(content: bytes) -> None:
        check_answered(server, CHAT, content)

    requests()
    bytes_of_any_kind()


def test_nothing_that_is_sent_breaks_it(server: Server) -> None:
    fuzz(server, 250)


@pytest.mark.slow
def test_nothing_that_is_sent_breaks_it_however_often(server: Server) -> None:
    """FUZZ=5000 in the environment is the whole measure, seven minutes of it."""
    fuzz(server, int(os.environ.get("FUZZ", "1000")))
