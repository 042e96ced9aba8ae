"""The engine for servers against vLLM's own server: the contract, the abort check, and whose tokens are counted."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from secateur.engines.base import EngineError, SamplingSpec
from secateur.engines.openai.engine import OpenAIEngine
from secateur.engines.openai.protocol import metric
from tests.engines.contract import LONG, EngineContract, advance, drain
from tests.serve.running import TEXTS, Server, chat_body

NAME = "embedded"
ENDLESS = SamplingSpec(max_tokens=900)
_START_S = 300


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def url(_needs_vllm: None, embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's server in a process group of its own, which is ended with the tests."""
    address, log = f"http://127.0.0.1:{_free_port()}", tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(embedded_model)]
    command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    command += ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64", "--max-model-len", "1024"]
    command += ["--block-size", "32", "--enable-prompt-tokens-details", "--enable-prefix-caching"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        _wait(server, address, log)
        yield f"{address}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _wait(server: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(_START_S):
        time.sleep(1)
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{address}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            continue
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def engine(url: str, embedded_model: Path) -> Iterator[OpenAIEngine]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the abort check could be made, and the server passed it
        opened = OpenAIEngine(url, NAME, tokenizer=str(embedded_model))
    assert opened.dialect.ids and opened.dialect.context == 1024
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def endless(url: str, embedded_model: Path) -> Iterator[OpenAIEngine]:
    """Its traces end at their cap only, however far the server runs ahead of a busy test machine."""
    options = {"abort_check": "off", "extra_body": {"ignore_eos": True}}
    opened = OpenAIEngine(url, NAME, tokenizer=str(embedded_model), **options)
    yield opened
    opened.close()


def generated(url: str) -> float:
    """The server's own count of all tokens it ever generated, once it stands still."""
    before = -1.0
    while True:
        page = httpx.get(url.removesuffix("/v1") + "/metrics", trust_env=False).text
        now = metric(page, ("generation_tokens_total",))
        if now == before:
            return now
        before = now
        time.sleep(1)


class TestVLLMServer(EngineContract):
    exact_counts = False
    resubmits = True

    def test_a_resumed_trace_comes_from_the_cache(self, endless: OpenAIEngine, prompts: list) -> None:
        """Of the positions that a trace resumed after 200 tokens is read again with at least 80 % are cached."""
        handles = endless.start(prompts[0], list(range(24)), ENDLESS)
        advance(endless, handles, 200)
        endless.park(handles)
        usages = [endless.usage(trace) for trace in handles]
        computed, cached = (-sum(usage.prefill_computed for usage in usages), -sum(u.prefill_cached for u in usages))
        endless.resume(handles)
        drain(endless)
        computed += sum(usage.prefill_computed for usage in usages)
        cached += sum(usage.prefill_cached for usage in usages)
        print(f"cached {cached}, computed {computed}")
        assert cached >= 0.8 * (cached + computed) > 0

    def test_full_traces_are_counted_as_the_server_counts(
        self, engine: OpenAIEngine, prompts: list, url: str
    ) -> None:
        before = generated(url)
        handles = [trace for prompt in prompts for trace in engine.start(prompt, list(range(16)), LONG)]
        delivered = sum(len(event.token_ids) for event in drain(engine))
        assert generated(url) - before == delivered
        assert delivered == sum(engine.usage(trace).generated_tokens for trace in handles)

    def test_a_close_stops_the_server(self, endless: OpenAIEngine, prompts: list, url: str) -> None:
        """Its count is never below ours, and far below what the closed traces would have had."""
        before = generated(url)
        handles = endless.start(prompts[2], list(range(32)), ENDLESS)
        advance(endless, handles, 30)
        endless.prune(handles)
        usages = [endless.usage(trace) for trace in handles]
        received = sum(usage.generated_tokens + usage.overrun_tokens for usage in usages)
        computed = generated(url) - before
        print(f"received {received}, computed {computed:.0f}")
        assert received <= computed < 0.5 * 32 * ENDLESS.max_tokens

    def test_more_log_probabilities_than_the_server_gives_are_refused_with_its_words(
        self, engine: OpenAIEngine, prompts: list
    ) -> None:
        engine.start(prompts[0], [0], SamplingSpec(max_tokens=5, top_logprobs=400))
        with pytest.raises(EngineError, match=r"400.*logprobs"):
            engine.step()


def test_the_service_in_front_of_it_counts_what_it_sends(url: str, embedded_model: Path, tmp_path: Path) -> None:
    """What the server computed beyond that, before it noticed a stop, it has told nobody."""
    keys = ("--upstream", url, "--engine_options", f"{{tokenizer: {embedded_model}}}", "--prompt_family", "plain")
    keys += ("--temperature", "1.0", "--top_p", "1.0", "--max_tokens", "300", "--n", "8", "--port", "0")
    with Server(tmp_path / "log.jsonl", keys=keys) as front:
        before = generated(url)
        bodies = [chat_body(TEXTS[k % 3], seed=k) | {"model": NAME} for k in range(12)]
        with ThreadPoolExecutor(4) as callers:
            got = list(callers.map(lambda body: front.client.post("/v1/chat/completions", json=body).json(), bodies))
        leaving = front.send(chat_body(n=16, secateur={"rule": "shortest_wait"}) | {"model": NAME})
        front.wait(lambda told: any(one["tokens"] for one in told["live"]))
        leaving.close()
        front.wait(lambda told: not told["live"] and not told["load"]["running"])
        told, stopped = front.metrics(), sum(one["secateur"]["traces"]["stopped"] for one in got)
        spent = told["secateur_spent_tokens"] + told["secateur_spent_overrun_tokens"]
        answered = sum(one["usage"]["completion_tokens"] + one["usage"]["overrun_tokens"] for one in got)
        computed = generated(url) - before
        print(f"{stopped} stopped of {len(got)} requests; usage {answered}, all {spent:.0f}, computed {computed:.0f}")
        assert answered < spent <= computed <= spent + 16 * (stopped + 16)
        assert front.stop() == 0
