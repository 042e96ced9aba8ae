"""What an operator needs: counts that add up, logs without prompts, traces freed at once, a stop that loses none."""

import json
import random
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serve.running import MODEL, TEXTS, Server, chat_body

HELD = ("rows", "running", "waiting")
LONG = {"n": 128, "secateur": {"rule": "shortest_wait"}}
"""Fields of a request that takes a second or more."""


def test_tokens_of_all_responses_are_the_counters(server: Server) -> None:
    before = server.metrics()
    with ThreadPoolExecutor(4) as callers:
        got = list(callers.map(lambda k: server.chat(TEXTS[k % 3], seed=k).json(), range(12)))
    after = server.metrics()
    spent = {"generated": "completion_tokens", "prompt": "prompt_tokens", "overrun": "overrun_tokens"}
    for kind, name in (spent | {"judge": "judge_tokens", "cached": "cached_tokens"}).items():
        counter = f'secateur_tokens_total{{kind="{kind}"}}'
        assert after[counter] - before.get(counter, 0) == sum(one["usage"][name] for one in got)
    assert unanswered(server) >= 0
    full = "secateur_full_vote_tokens_total"
    assert after[full] - before[full] == sum(one["secateur"]["full_vote_tokens"] or 0 for one in got)
    told = server.live()
    assert (
        told["totals"]["saved"]
        == after["secateur_saved_tokens"]
        == told["totals"]["full_vote"] - told["totals"]["spent"]
    )
    assert told["recent"][0]["answer"] in [one["secateur"]["answer"] for one in got]
    for status in ("finished", "stopped"):
        counter = f'secateur_traces_total{{status="{status}"}}'
        assert after[counter] - before.get(counter, 0) == sum(one["secateur"]["traces"][status] for one in got)


def test_health_and_readiness(server: Server) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    assert server.client.get("/ready").json() == {"status": "ready"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_leaves_frees_its_traces_and_nobody_else_s(server: Server, stream: bool) -> None:
    alone = server.chat().json()["choices"]
    before = unanswered(server)
    for _ in range(3):
        leaving = server.send(chat_body(stream=stream, **LONG))
        server.wait(lambda told: any(one["tokens"] for one in told["live"]))
        with ThreadPoolExecutor(1) as other:
            stays = other.submit(server.chat)
            leaving.close()
            assert stays.result().json()["choices"] == alone
        server.wait(lambda told: not told["live"] and not told["load"]["rows"] and not told["load"]["running"])
    assert unanswered(server) > before


def leave_at_random(server: Server, count: int) -> None:
    """Callers that come and go; nothing of them is left, and the next one is answered as if they had not been."""
    draw = random.Random(count)
    alone = server.chat().json()["choices"]
    for _ in range(count):
        leaving = server.send(
            chat_body(stream=draw.random() < 0.5, seed=draw.randrange(100), n=draw.randrange(1, 40))
        )
        time.sleep(draw.random() * 0.2)
        leaving.close()
    server.wait(
        lambda told: not told["live"] and not any(told["load"][key] for key in ("rows", "running", "waiting"))
    )
    assert server.chat().json()["choices"] == alone
    assert unanswered(server) >= 0


def test_callers_may_leave_at_any_moment(server: Server) -> None:
    leave_at_random(server, 30)


@pytest.mark.slow
def test_five_hundred_callers_may_leave_at_any_moment(server: Server) -> None:
    leave_at_random(server, 500)


def unanswered(server: Server) -> float:
    """Tokens that nobody got an answer for."""
    told = server.metrics()
    return told["secateur_spent_tokens"] - told['secateur_tokens_total{kind="generated"}']


def begin(server: Server, **fields: object) -> tuple[ThreadPoolExecutor, "Future[httpx.Response]"]:
    """A long request that runs by now."""
    callers = ThreadPoolExecutor(1)
    asked = callers.submit(server.chat, **LONG, **fields)
    server.wait(lambda told: any(one["tokens"] for one in told["live"]))
    return callers, asked


def test_a_stop_finishes_what_runs(tmp_path: Path) -> None:
    with Server(tmp_path / "log.jsonl") as stopping:
        expected = stopping.chat(**LONG).json()["choices"]
        callers, asked = begin(stopping)
        code = stopping.stop()
        assert asked.result().json()["choices"] == expected and code == 0
        callers.shutdown()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{stopping.url}/health")
        assert [line["message"] for line in stopping.log()][-1] == "stopped"


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_finish_in_time_is_handed_back(tmp_path: Path, stream: bool) -> None:
    """A stream that has begun is told in the stream."""
    with Server(tmp_path / "log.jsonl", "--drain_s", "0.05", "--keep_alive_s", "0.05") as stopping:
        callers, asked = begin(stopping, stream=stream)
        assert stopping.stop(signal.SIGINT) == 0
        response = asked.result()
        if stream:
            error = json.loads(response.text.split("data: ")[-2])["error"]
            assert response.text.endswith("data: [DONE]\n\n")
        else:
            assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
            error = response.json()["error"]
        assert error["code"] == "stopping"
        callers.shutdown()


def test_two_processes_stand_behind_one_door(tmp_path: Path) -> None:
    """Each has its own figures; when one stops the other answers all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    door, asked = f"http://127.0.0.1:{port}/v1/models", 'secateur_requests_total{endpoint="/v1/models",status="200"}'
    words = ("--shared_port", str(port))
    with Server(tmp_path / "first", *words) as first, Server(tmp_path / "second", *words) as second:
        assert all(httpx.get(door).json()["data"][0]["id"] == MODEL for _ in range(60))
        shares = [running.metrics()[asked] for running in (first, second)]
        assert sum(shares) == 60 and all(shares)
        got = httpx.post(door.replace("models", "chat/completions"), json=chat_body(), timeout=120).json()
        assert got["choices"] == first.chat().json()["choices"] == second.chat().json()["choices"]
        assert first.stop() == 0
        assert all(httpx.get(door).status_code == 200 for _ in range(20))
        assert second.metrics()[asked] == shares[1] + 20


def test_the_log_is_json_and_holds_no_prompt_unless_asked(server: Server, tmp_path: Path) -> None:
    with Server(tmp_path / "log.jsonl", "--log_prompts", "true") as telling:
        for running in (server, telling):
            assert running.chat("Rule gorse. Start with 7. a+1 b-1.").status_code == 200
            assert running.client.post("/v1/chat/completions", content="{").status_code == 415
            assert ("gorse" in running.log_file.read_text()) == (running is telling)
            first, second = [line for line in running.log() if line["message"] == "request"][-2:]
            assert (first["status"], second["status"], first["ended"]) == (200, 415, "decided")
            assert first["tokens"] > 0 and first["id"].startswith("chatcmpl-")


def test_a_deadline_returns_the_best_vote_so_far(server: Server) -> None:
    got = server.chat(n=128, secateur={"rule": "shortest_wait", "deadline_s": 0.01}).json()
    assert got["secateur"]["ended"] == "deadline" and got["choices"][0]["finish_reason"] in ("stop", "length")
