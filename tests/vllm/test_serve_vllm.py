"""The service with vLLM in its own process; in front of vLLM's server it is in test_openai_server.py."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve.running import KEYS, TEXTS, Server, chat_body

ENGINE = "{enforce_eager: true, max_num_seqs: 64, kv_cache_gib: 0.5}"


@pytest.fixture(scope="module")
def inside(_needs_vllm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("serve") / "log.jsonl"
    with Server(log, "--engine", "vllm", "--engine_options", ENGINE, keys=KEYS) as running:
        yield running


def many(front: Server, **fields: object) -> list[dict]:
    """Answers to twelve requests at once."""
    with ThreadPoolExecutor(6) as callers:
        got = list(callers.map(lambda k: front.chat(TEXTS[k % 3], seed=k, **fields), range(12)))
    assert [one.status_code for one in got] == [200] * 12, [one.text for one in got]
    return [one.json() for one in got]


def test_vllm_answers_in_the_service_s_process(inside: Server) -> None:
    got = many(inside)
    assert all(one["secateur"]["ended"] == "decided" and one["choices"][0]["message"]["content"] for one in got)
    assert sum(one["secateur"]["traces"]["stopped"] for one in got) > 0
    told = inside.metrics()
    assert told["secateur_spent_tokens"] == sum(one["usage"]["completion_tokens"] for one in got)
    assert told["secateur_rows"] == told["secateur_running"] == 0


def test_who_leaves_frees_vllm_s_rows(inside: Server) -> None:
    leaving = inside.send(chat_body(n=48, secateur={"rule": "shortest_wait"}))
    inside.wait(lambda told: any(one["tokens"] for one in told["live"]))
    leaving.close()
    inside.wait(lambda told: not told["live"] and not told["load"]["rows"])
    assert inside.chat().status_code == 200 and inside.stop() == 0
