"""The engine for servers, over real HTTP: the common contract, and every habit of a server that it must bear."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secateur.engines.base import EngineError, SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.openai.engine import OpenAIEngine
from secateur.engines.openai.protocol import ApiKey, Request, confidences, metric, read_chunk, read_record
from secateur.engines.openai.streams import Patience, Streams
from secateur.runtime.errors import InputError
from tests.engines.contract import (
    GREEDY,
    LONG,
    QUESTIONS,
    EngineContract,
    advance,
    drain,
    encode,
    ids_of,
    of,
    unfinished,
)
from tests.engines.openai_server import CompletionsServer, Habits

SPEC = SamplingSpec(temperature=0.9, max_tokens=30)


@pytest.fixture(scope="module")
def reference(embedded_model: Path) -> TransformersEngine:
    return TransformersEngine(embedded_model, dtype="float64")


class ServerContract(EngineContract):
    exact_counts = False
    resubmits = True
    cache_known = False

    def test_a_resumed_trace_comes_from_the_cache(self, engine: OpenAIEngine, prompts: list) -> None:
        """What came in before a park is kept, so a new request reads at least prompt and delivered tokens, or there
        is none because the trace had ended on the server."""
        handles = engine.start(prompts[0], list(range(8)), LONG)
        parked = unfinished(advance(engine, handles, 60), handles)
        engine.park(parked)
        lengths = {trace: len(prompts[0]) + engine.usage(trace).generated_tokens for trace in parked}
        first = {t: engine.usage(t).prefill_computed + engine.usage(t).prefill_cached for t in parked}
        engine.resume(parked)
        drain(engine)
        read = {t: engine.usage(t).prefill_computed + engine.usage(t).prefill_cached - first[t] for t in parked}
        assert all(read[trace] == 0 or read[trace] >= lengths[trace] for trace in parked)


class TestServerWithIds(ServerContract):
    @pytest.fixture(scope="class")
    def engine(self, embedded_model: Path) -> Iterator[OpenAIEngine]:
        with CompletionsServer(TransformersEngine(embedded_model, dtype="float64")) as server:
            engine = OpenAIEngine(server.url, server.model, tokenizer=str(embedded_model), abort_check="off")
            assert engine.dialect.ids
            yield engine
            engine.close()


@pytest.fixture(scope="module")
def text_engine(embedded_model: Path) -> Iterator[OpenAIEngine]:
    with CompletionsServer(TransformersEngine(embedded_model, dtype="float64"), Habits(text_only=True)) as server:
        engine = OpenAIEngine(server.url, server.model, tokenizer=str(embedded_model), abort_check="off")
        assert not engine.dialect.ids
        yield engine
        engine.close()


def text_of(events: list, trace: int) -> str:
    return "".join(event.text for event in of(events, trace))


@pytest.mark.parametrize("parks", [(), (3, 14, 20)])
def test_a_text_server_gives_the_reference_s_text(
    text_engine: OpenAIEngine, reference: TransformersEngine, parks: tuple[int, ...]
) -> None:
    """Parked, too: prompt and text are tokenised together again. Its own count is taken where it was not closed."""
    prompt = encode(reference, QUESTIONS[0])
    (trace,), (twin,) = text_engine.start(prompt, [0], GREEDY), reference.start(prompt, [0], GREEDY)
    events = []
    for tokens in parks:
        events += advance(text_engine, [trace], tokens)
        text_engine.park([trace])
        assert text_engine.step() == []
        text_engine.resume([trace])
    events, wanted = events + drain(text_engine), drain(reference)
    assert text_of(events, trace) == text_of(wanted, twin) and of(events, trace)[-1].done == wanted[-1].done
    usage = text_engine.usage(trace)
    assert not usage.exact and (parks or usage.generated_tokens == len(ids_of(wanted, twin)))
    assert ids_of(events, trace)[-1] in reference.end_ids


def test_a_text_server_stops_and_goes_on(text_engine: OpenAIEngine, reference: TransformersEngine) -> None:
    handles = text_engine.start(encode(reference, QUESTIONS[2]), list(range(5)), SPEC)
    events = advance(text_engine, handles, 3)
    pruned, parked, *others = unfinished(events, handles)
    text_engine.prune([pruned])
    text_engine.park([parked])
    assert {event.trace for event in drain(text_engine)} == set(others)
    text_engine.resume([parked])
    assert {event.trace for event in drain(text_engine)} == {parked}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://me:secret@localhost/v1"}, "user name"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "no server answers"),
        ({"capture_layers": (0,)}, "linear or pairwise"),
        ({"abort_check": "maybe"}, "abort_check"),
        ({"tokenizer": "./nowhere"}, "nowhere"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    values = {"base_url": "http://127.0.0.1:9/v1", "model": "m"} | options
    with pytest.raises(InputError, match=message) as raised:
        OpenAIEngine(values.pop("base_url"), values.pop("model"), **values)
    assert "secret" not in str(raised.value)


def test_confidence_is_the_mean_of_the_best() -> None:
    tops = [{"a": -3.0, "b": -1.0, "c": -2.0}, {"a": -0.5, "b": -0.7}]
    assert confidences({"top_logprobs": tops}, 2) == pytest.approx((1.5, 0.6))
    assert confidences(None, 2) == ()


def test_a_metric_is_summed_over_its_labels() -> None:
    page = (
        '# HELP x\nvllm:generation_tokens_total{engine="0",m="a b"} 3.0\nvllm:generation_tokens_total{engine="1"} 4.0'
    )
    assert metric(page, ("generation_tokens_total",)) == 7
    assert metric("llamacpp:tokens_predicted_total 12", ("generation_tokens_total", "tokens_predicted_total")) == 12
    assert metric(page, ("running",)) is None


@pytest.mark.parametrize(
    "payload",
    [
        "{", '{"choices": 3}', "[]", "[" * 100_000, '{"choices": [{"text": 3}]}', "7",
        '{"choices": [{"token_ids": "ab"}]}',
        '{"usage": {"completion_tokens": "5"}}', '{"usage": {"completion_tokens": NaN}}', '{"usage": [1]}',
        '{"__verbose": {"tokens": [1.5]}}', "9" * 5000,
    ],
)  # fmt: skip
def test_a_line_that_is_no_chunk_is_named(payload: str) -> None:
    with pytest.raises(EngineError):
        read_chunk(0, read_record(payload), 0)


def test_a_stream_that_is_left_before_its_first_step_is_forgotten() -> None:
    """As when another one fails while it is being opened."""
    streams = Streams("http://127.0.0.1:9/v1", "m", ApiKey("KEY", ""), Patience(), {}, lambda text, ends: ())

    async def open_and_leave() -> None:
        await streams._open([Request(7, [1], "x", SamplingSpec(max_tokens=5), 0, 5, 0)])
        task = streams._tasks[7]
        streams._leave(task)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() and not streams._tasks

    streams.run(open_and_leave())
    streams.shut_down()
