"""In front of another server: its tokens are those of `usage`, and its death costs those that ran, nobody else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from secateur.engines.local.engine import TransformersEngine
from tests.engines.openai_server import CompletionsServer
from tests.serve.running import TEXTS, Server

OPTIONS = "{tokenizer: trainers/embedded_model, abort_check: 'off', max_retries: 0}"


@pytest.fixture(scope="module")
def upstream(embedded_model: Path) -> Iterator[CompletionsServer]:
    with CompletionsServer(TransformersEngine(embedded_model, dtype="float32")) as running:
        yield running


@pytest.fixture(scope="module")
def front(upstream: CompletionsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = ("--upstream", upstream.url, "--engine_options", OPTIONS, "--prompt_family", "plain", "--port", "0")
    keys += ("--temperature", "1.0", "--top_p", "1.0", "--max_tokens", "300", "--n", "6")
    with Server(tmp_path_factory.mktemp("serve") / "log.jsonl", keys=keys) as running:
        yield running


def ask(front: Server, text: str, **fields: object) -> dict:
    body = {"model": "served", "messages": [{"role": "user", "content": text}], **fields}
    return front.client.post("/v1/chat/completions", json=body)


def test_tokens_of_all_requests_are_those_of_the_server(upstream: CompletionsServer, front: Server) -> None:
    assert [model["id"] for model in front.client.get("/v1/models").json()["data"]] == ["served"]
    before = upstream.counters.generated
    with ThreadPoolExecutor(3) as callers:
        got = [response.json() for response in callers.map(lambda text: ask(front, text), TEXTS * 2)]
    spent = sum(one["usage"]["completion_tokens"] + one["usage"]["overrun_tokens"] for one in got)
    assert all(one["secateur"]["ended"] == "decided" for one in got)
    # a server tells no more of a stream that is closed than what it has sent
    assert sum(one["usage"]["completion_tokens"] for one in got) <= spent <= upstream.counters.generated - before


def test_a_server_that_dies_costs_those_that_run(upstream: CompletionsServer, front: Server) -> None:
    for _ in range(5):
        upstream.habits.die_after, upstream.habits.deaths = 3, 1
        response = ask(front, TEXTS[0])
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["code"]) == (502, "server_error", "engine_error")
        assert upstream.url not in response.text and "127.0.0.1" not in response.text
        assert front.client.get("/ready").json() == {"status": "failing"}
        upstream.habits.die_after, upstream.habits.deaths = None, 0
        assert ask(front, TEXTS[1]).status_code == 200
        assert front.client.get("/ready").json() == {"status": "ready"}
    told = front.live()
    assert told["load"]["rows"] == told["load"]["running"] == 0 and told["totals"]["failed"] == 5
