"""The engine for servers against llama.cpp's own server and a real language model: what it is asked to sample with,
whose tokens are counted, aborts, and live pruning."""

import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from secateur import prune
from secateur.engines.base import EngineError, Event, SamplingSpec
from secateur.engines.openai.engine import OpenAIEngine
from secateur.engines.openai.protocol import Ids, Request, metric
from secateur.runtime.errors import InputError
from tests.engines.contract import advance, drain, ids_of, of, unfinished
from tests.real_models import smollm2_gguf
from tests.serve.running import Server, chat_body

pytestmark = pytest.mark.slow
NAME = "smollm2"
SLOTS, CONTEXT = 16, 512
PARAMETERS = 134_515_008
SPEC = SamplingSpec(temperature=0.9, top_p=0.95, max_tokens=40)
ENDLESS = SamplingSpec(temperature=1.0, max_tokens=400)
SERVE = f"""
import sys, time, xllamacpp
options = xllamacpp.CommonParams()
options.model.path, options.port, options.endpoint_metrics = sys.argv[1], 0, sys.argv[2] == "metrics"
options.model_alias, options.n_parallel, options.n_ctx = {{"{NAME}"}}, {SLOTS}, {SLOTS * CONTEXT}
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(options)
print(server.listening_address, flush=True)
time.sleep(3600)
"""


@contextmanager
def serving(metrics: str) -> Iterator[str]:
    """The address of llama.cpp's server in a process of its own."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install -e '.[test]'")
    command = [sys.executable, "-c", SERVE, str(smollm2_gguf()), metrics]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            assert address.startswith("http"), "the server did not start"
            yield f"{address}/v1"
        finally:
            server.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("metrics") as address:
        yield address


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of the GGUF file, with the end of the model's turns."""
    gguf, folder = smollm2_gguf(), tmp_path_factory.mktemp("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.save_pretrained(folder)
    return folder


def opened(url: str, tokenizer_folder: Path, **options: Any) -> OpenAIEngine:
    return OpenAIEngine(url, NAME, tokenizer=str(tokenizer_folder), parameters=PARAMETERS, **options)


@pytest.fixture(scope="module")
def engine(url: str, tokenizer_folder: Path) -> Iterator[OpenAIEngine]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the abort check could be made, and the server passed it
        made = opened(url, tokenizer_folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def endless(url: str, tokenizer_folder: Path) -> Iterator[OpenAIEngine]:
    """Its traces end at their cap only."""
    made = opened(url, tokenizer_folder, abort_check="off", extra_body={"ignore_eos": True})
    yield made
    made.close()


def encode(engine: OpenAIEngine, text: str) -> list[int]:
    return engine.tokenizer.encode(text, add_special_tokens=False)


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """A whole completion, past the engine."""
    answer = httpx.post(f"{url}/completions", json=body | {"stream": False}, trust_env=False, timeout=120)
    return answer.json()


def generated(url: str) -> float:
    """The server's own count of all tokens it ever generated, once it stands still; it counts when a trace ends."""
    before = -1.0
    while True:
        page = httpx.get(url.removesuffix("/v1") + "/metrics", trust_env=False, timeout=120).text
        now = metric(page, ("tokens_predicted_total",))
        if now == before and metric(page, ("requests_processing",)) == 0:
            return now
        before = now
        time.sleep(0.3)


def ledger(engine: OpenAIEngine, handles: list[int]) -> int:
    usages = [engine.usage(handle) for handle in handles]
    return sum(usage.generated_tokens + usage.overrun_tokens for usage in usages)


def text_of(events: list[Event], trace: int) -> str:
    return "".join(event.text for event in of(events, trace))


def test_the_server_is_known_for_what_it_is(engine: OpenAIEngine) -> None:
    dialect = engine.dialect
    assert (dialect.server, dialect.form, dialect.context) == ("llama.cpp", Ids.LLAMA_CPP, CONTEXT)
    assert engine.sampled_with(SPEC)["not_sent"] == []
    with pytest.raises(InputError, match=f"lower max_tokens to {CONTEXT - 5}"):
        engine.start([1, 2, 3, 4, 5], [0], SamplingSpec(max_tokens=CONTEXT))


@pytest.mark.parametrize("spec", [SPEC, SamplingSpec(0.0, max_tokens=3), SamplingSpec(1.3, 1.0, 20, 3)])
def test_it_samples_with_what_it_is_sent(engine: OpenAIEngine, url: str, spec: SamplingSpec) -> None:
    """Its own settings of a request, as it says them: no top_k 40, no min_p .05, temperature before top_p."""
    request = Request(0, encode(engine, "Once upon a time"), "", spec, 7, 3, 0)
    body = request.body(NAME, engine.dialect, {})
    settings = ask(url, body)["__verbose"]["generation_settings"]
    wanted = {"temperature": spec.temperature, "top_p": spec.top_p, "min_p": 0.0, "repeat_penalty": 1.0}
    wanted |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert {key: settings[key] for key in wanted} == pytest.approx(wanted)
    assert max(settings["top_k"], 0) == spec.top_k and settings["seed"] == body["seed"] and settings["mirostat"] == 0
    assert settings["samplers"] == ["penalties", "temperature", "top_k", "top_p", "min_p"]


def test_tokens_beyond_its_own_cuts_are_drawn(engine: OpenAIEngine) -> None:
    """With its own top_k there would be 40 at most."""
    handles = engine.start(encode(engine, "The name of the"), list(range(160)), SamplingSpec(1.0, max_tokens=1))
    events = drain(engine)
    assert len({tuple(ids_of(events, trace)) for trace in handles}) > 50


def test_full_traces_are_counted_as_the_server_counts(engine: OpenAIEngine, url: str) -> None:
    """Two to a slot; some end by themselves, others at their cap. The ids say the text."""
    before = generated(url)
    prompt = encode(engine, "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n")
    handles = engine.start(prompt, list(range(2 * SLOTS)), SPEC)
    events = drain(engine)
    assert generated(url) - before == ledger(engine, handles)
    assert {event.done for event in events if event.done} == {"stop", "length"}
    for trace in handles:
        ids, usage = ids_of(events, trace), engine.usage(trace)
        assert usage.generated_tokens == len(ids) or "\ufffd" in text_of(events, trace)
        assert text_of(events, trace) == engine.tokenizer.decode(ids, skip_special_tokens=True)
        assert usage.prefill_computed + usage.prefill_cached == len(prompt)
        assert (ids[-1] == engine.tokenizer.eos_token_id) == (of(events, trace)[-1].done == "stop")


def test_characters_of_several_tokens_keep_their_ids(engine: OpenAIEngine, url: str) -> None:
    before, prompt = generated(url), encode(engine, "你好世界你好世界你好世界你好世界")
    (trace,) = engine.start(prompt, [0], SamplingSpec(temperature=0, max_tokens=40))
    events = drain(engine)
    answer = ask(url, {"prompt": prompt, "max_tokens": 40, "temperature": 0})["choices"][0]["text"]
    assert text_of(events, trace).rstrip("\ufffd") == answer.rstrip("\ufffd")
    assert any(len(event.token_ids) > 1 for event in events)
    assert generated(url) - before - 40 == ledger(engine, [trace]) == 40


def test_confidences_are_one_per_token(engine: OpenAIEngine) -> None:
    spec = SamplingSpec(temperature=0, max_tokens=12, top_logprobs=5)
    (trace,) = engine.start(encode(engine, "Once upon a time"), [0], spec)
    events = of(drain(engine), trace)
    assert all(len(event.confidences) == len(event.token_ids) for event in events)
    assert all(number > 0 for event in events for number in event.confidences)


def test_a_resumed_trace_goes_on_from_the_cache(engine: OpenAIEngine, url: str) -> None:
    """How much of a prompt was cached comes with the last token, so the phase that was closed tells nothing."""
    before, prompt = generated(url), encode(engine, "Once upon a time")
    handles = engine.start(prompt, list(range(4)), SamplingSpec(max_tokens=80))
    events = advance(engine, handles, 20)
    running = unfinished(events, handles)
    engine.park(running)
    engine.resume(running)
    events += drain(engine)
    for trace in handles:
        usage, ids = engine.usage(trace), ids_of(events, trace)
        assert text_of(events, trace) == engine.tokenizer.decode(ids, skip_special_tokens=True)
        assert trace not in running or usage.prefill_cached > len(prompt)
    assert running and ledger(engine, handles) <= generated(url) - before


def test_a_close_stops_the_server(endless: OpenAIEngine, url: str) -> None:
    """Its count is never below ours, and far below what the closed traces would have had."""
    before = generated(url)
    handles = endless.start(encode(endless, "Count: 1 2 3 4"), list(range(SLOTS)), ENDLESS)
    advance(endless, handles, 20)
    endless.prune(handles)
    received, computed = ledger(endless, handles), generated(url) - before
    print(f"received {received}, computed {computed:.0f}")
    assert SLOTS * 20 <= received <= computed < 0.3 * SLOTS * ENDLESS.max_tokens


def test_a_request_that_is_refused_is_named(engine: OpenAIEngine) -> None:
    engine.start([10**6], [0], SPEC)
    with pytest.raises(EngineError, match=r"400.*invalid tokens"):
        engine.step()


def test_live_pruning_over_it(engine: OpenAIEngine, url: str) -> None:
    """Numbers for answers: most traces give one, so the vote has something to decide."""
    before = generated(url)
    spec = SamplingSpec(temperature=0.8, top_p=0.95, max_tokens=60)
    result = prune(
        "What is 2 + 3? Answer with a number.",
        engine,
        n=SLOTS,
        spec=spec,
        prompt_family="plain",
        answer_from=r"pattern:(\d+)(?!.*\d)",
    )
    counted = result.usage.generated + result.usage.overrun
    assert result.answer is not None and len(result.traces) == SLOTS
    assert 0 < counted <= generated(url) - before < SLOTS * spec.max_tokens


SUMS = "pattern:(\\d+)(?!.*\\d)"


def test_the_service_in_front_of_it_counts_what_it_sends(url: str, tokenizer_folder: Path, tmp_path: Path) -> None:
    """What the server computed beyond that, before it noticed a stop, it has told nobody."""
    options = f"{{tokenizer: {tokenizer_folder}, parameters: {PARAMETERS}}}"
    keys = ("--upstream", url, "--engine_options", options, "--prompt_family", "plain", "--temperature", "0.8")
    keys += ("--max_tokens", "60", "--n", str(SLOTS), "--answers", SUMS, "--port", "0")
    with Server(tmp_path / "log.jsonl", keys=keys) as front:
        before = generated(url)
        got = []
        for k in range(4):
            body = chat_body(f"What is {k} + 3? Answer with a number.", seed=k) | {"model": NAME}
            got.append(front.client.post("/v1/chat/completions", json=body).json())
        told, stopped = front.metrics(), sum(one["secateur"]["traces"]["stopped"] for one in got)
        assert all(one["secateur"]["answer"].isdigit() and one["choices"][0]["message"]["content"] for one in got)
        spent = told["secateur_spent_tokens"] + told["secateur_spent_overrun_tokens"]
        computed = generated(url) - before
        print(f"{stopped} stopped; in usage {spent:.0f}, computed {computed:.0f}")
        assert spent == sum(one["usage"]["completion_tokens"] + one["usage"]["overrun_tokens"] for one in got)
        assert stopped > 0 and spent <= computed <= spent + 4 * stopped and front.stop() == 0


def test_the_service_answers_with_the_real_model_in_its_process(tmp_path: Path) -> None:
    file = shutil.copy(smollm2_gguf(), tmp_path)  # a model folder is made beside it
    keys = ("--model", file, "--prompt_family", "plain", "--temperature", "0.8", "--max_tokens", "60")
    keys += ("--dtype", "float32", "--device", "cpu", "--n", "8", "--answers", SUMS, "--port", "0")
    with Server(tmp_path / "log.jsonl", keys=keys) as front:
        (model,) = front.client.get("/v1/models").json()["data"]
        body = chat_body("What is 2 + 3? Answer with a number.") | {"model": model["id"]}
        told = front.client.post("/v1/chat/completions", json=body).json()
        assert told["secateur"]["answer"].isdigit() and told["secateur"]["ended"] == "decided"
        assert told["secateur"]["votes"][told["secateur"]["answer"]] >= 2
        assert told["usage"]["completion_tokens"] == front.metrics()["secateur_spent_tokens"]


def test_without_its_option_the_hint_names_it(tokenizer_folder: Path) -> None:
    with serving("none") as address, pytest.warns(RuntimeWarning, match=r"start llama\.cpp with --metrics"):
        opened(address, tokenizer_folder).close()
