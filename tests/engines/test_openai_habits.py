"""Every habit of a server that the engine for servers must bear: breaks, silence, lateness, deafness to a close."""

import random
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secateur.engines.base import EngineError, SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.openai.engine import OpenAIEngine
from secateur.engines.openai.protocol import phase_seed
from secateur.runtime.errors import InputError
from tests.engines.contract import advance, drain, ids_of, of, unfinished
from tests.engines.openai_server import CompletionsServer, Habits

SPEC = SamplingSpec(temperature=0.9, max_tokens=30)
PROMPT = (40, 41, 42, 43, 44)


class Served:
    """A server over the random model, with its own engine each; `habits` may be changed while it runs."""

    def __init__(self, model: Path) -> None:
        self.model, self.open = model, []

    def server(self, **habits: Any) -> CompletionsServer:
        server = CompletionsServer(TransformersEngine(self.model, dtype="float64"), Habits(**habits))
        self.open.append(server)
        return server.__enter__()

    def engine(self, server: CompletionsServer, **options: Any) -> OpenAIEngine:
        values = {"tokenizer": str(self.model), "abort_check": "off"} | options
        engine = OpenAIEngine(server.url, "served", **values)
        engine._streams.patience = type(engine._streams.patience)(
            values.get("read_timeout_s", 600.0), values.get("max_retries", 3), backoff_s=0.01
        )
        self.open.append(engine)
        return engine

    def close(self) -> None:
        for opened in reversed(self.open):
            opened.close() if isinstance(opened, OpenAIEngine) else opened.__exit__()


@pytest.fixture
def served(lively_model: Path) -> Iterator[Served]:
    made = Served(lively_model)
    yield made
    made.close()


def test_what_the_client_counts_is_what_the_server_counts(served: Served) -> None:
    server = served.server()
    engine = served.engine(server)
    before = server.counters.generated
    handles = engine.start(PROMPT, list(range(40)), SPEC)
    events = drain(engine)
    total = sum(engine.usage(trace).generated_tokens for trace in handles)
    assert total == server.counters.generated - before == sum(len(event.token_ids) for event in events)
    assert all(engine.usage(trace).prefill_cached == len(PROMPT) // 2 for trace in handles)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_stopped_the_client_counts_all_that_was_sent(served: Served, seed: int) -> None:
    """Parked, resumed and pruned at random, also before a token came: what is on its way is counted, once."""
    server = served.server()
    engine = served.engine(server)
    draw, before = random.Random(seed), server.counters.sent
    handles = engine.start(PROMPT, list(range(30)), SPEC)
    running, parked = set(handles), set[int]()
    while running or parked:
        if draw.random() < 0.8:
            running -= {event.trace for event in engine.step() if event.done}
        for pool, act in ((running, engine.park), (parked, engine.resume), (running, engine.prune)):
            chosen = [trace for trace in sorted(pool) if draw.random() < 0.1]
            act(chosen)
            pool.difference_update(chosen)
            {engine.park: parked, engine.resume: running}.get(act, set()).update(chosen)
    usages = [engine.usage(trace) for trace in handles]
    assert sum(usage.generated_tokens + usage.overrun_tokens for usage in usages) == server.counters.sent - before
    assert any(usage.overrun_tokens for usage in usages)
    wait_until(lambda: server.counters.running == 0)
    assert server.counters.sent <= server.counters.generated
    engine.release(handles)


def test_a_connection_that_was_hung_up_is_not_used_again(served: Served) -> None:
    """Not even where its answer came to a good end, as it may if the server has just sent the last token."""
    server = served.server()
    engine = served.engine(server, max_retries=0)
    for count in range(20):
        handles = engine.start(PROMPT, list(range(4)), SamplingSpec(temperature=0.9, max_tokens=1 + count % 4))
        engine.step()
        engine.prune([trace for trace in handles if trace in engine._running])
    assert engine.retries == 0


def test_connections_are_used_again(served: Served) -> None:
    server = served.server()
    engine = served.engine(server)
    for _ in range(5):
        engine.start(PROMPT, [0, 1], SamplingSpec(temperature=0.9, max_tokens=3))
        drain(engine)
    assert server.connections == 2


def test_512_streams_run_at_once(served: Served) -> None:
    """The server generates nothing before all of them are there."""
    server = served.server()
    engine = served.engine(server, read_timeout_s=120.0)
    server.habits.gather = 512
    handles = engine.start(PROMPT, list(range(512)), SamplingSpec(temperature=0.9, max_tokens=8))
    assert {event.trace for event in drain(engine) if event.done} == set(handles)
    assert server.counters.most_running == 512


LASTING = (40, 41, 42)
"""A prompt after which the random model's greedy completion does not end for a while."""


def test_a_broken_stream_goes_on_where_it_stood(served: Served) -> None:
    server = served.server(die_after=4)
    engine = served.engine(server)
    greedy = SamplingSpec(temperature=0, max_tokens=25)
    (plain,) = engine.start(LASTING, [0], greedy)
    wanted = ids_of(drain(engine), plain)
    assert len(wanted) > 12
    server.habits.deaths = 2
    (trace,) = engine.start(LASTING, [0], greedy)
    events = drain(engine)
    assert ids_of(events, trace) == wanted and engine.retries == 2
    usage = engine.usage(trace)
    assert usage.generated_tokens == len(wanted)
    assert usage.prefill_computed + usage.prefill_cached == 3 * len(LASTING) + 4 + 8


def test_a_stream_that_breaks_after_its_last_token_has_ended(served: Served) -> None:
    server = served.server(die_after=4)
    engine = served.engine(server)
    server.habits.deaths = 1
    (trace,) = engine.start(LASTING, [0], SamplingSpec(temperature=0, max_tokens=4))
    events = drain(engine)
    assert len(ids_of(events, trace)) == 4 and of(events, trace)[-1].done == "length"


def test_line_separators_within_a_text_end_no_line(served: Served) -> None:
    engine = served.engine(served.server(suffix="a\u2028b\u0085\x0b\n"), tokenizer=None)
    (trace,) = engine.start(LASTING, [0], SPEC)
    events = of(drain(engine), trace)
    assert all(event.text.endswith("a\u2028b\u0085\x0b\n") for event in events) and len(events) > 3


def test_a_busy_server_is_asked_again(served: Served) -> None:
    server = served.server()
    engine = served.engine(server)
    server.habits.busy = 3
    engine.start(PROMPT, [0], SPEC)
    assert drain(engine)[-1].done and engine.retries == 3


def test_a_server_that_keeps_breaking_is_given_up(served: Served) -> None:
    server = served.server()
    engine = served.engine(server, max_retries=2)
    server.habits.busy = 100
    engine.start(LASTING, [0], SamplingSpec(temperature=0, max_tokens=25))
    with pytest.raises(EngineError, match="broke 3 times"):
        drain(engine)
    assert engine.step() == [], "the lost trace is out, the engine can be used"


def test_a_server_that_has_gone_is_given_up_and_its_traces_can_be_pruned(served: Served) -> None:
    server = served.server()
    engine = served.engine(server, max_retries=1)
    handles = engine.start(PROMPT, list(range(6)), SamplingSpec(max_tokens=1900))
    advance(engine, handles[:1], 2)
    server.__exit__()
    with pytest.raises(EngineError, match="broke 2 times"):
        drain(engine)
    lost = [trace for trace in handles if engine._traces[trace].status == "lost"]
    left = [trace for trace in handles if engine._traces[trace].status == "running"]
    assert len(lost) > 1 and not left, "the traces that ran are lost with it"
    engine.prune(lost)
    assert engine.step() == []


def test_a_server_that_says_nothing_is_given_up(served: Served) -> None:
    server = served.server()
    engine = served.engine(server, read_timeout_s=0.3)
    server.habits.silent = True
    engine.start(PROMPT, [0], SPEC)
    with pytest.raises(EngineError, match="read_timeout_s"):
        drain(engine)


def test_a_slow_start_is_waited_for(served: Served) -> None:
    server = served.server()
    engine = served.engine(server)
    server.habits.late_s = 0.3
    (trace,) = engine.start(PROMPT, [0], SPEC)
    assert of(engine.step(), trace), "a step waits until there is something"
    engine.prune([trace])


def test_a_refused_request_names_the_reason(served: Served) -> None:
    engine = served.engine(served.server())
    engine.start((4000,), [0], SPEC)
    with pytest.raises(EngineError):
        drain(engine)


def wait_until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the server did not come to rest")


def test_closing_stops_the_server_and_late_tokens_are_overrun(served: Served) -> None:
    server = served.server()
    engine = served.engine(server)
    before = server.counters.generated
    handles = engine.start(PROMPT, list(range(16)), SamplingSpec(temperature=0.9, max_tokens=1500))
    running = unfinished(advance(engine, handles, 5), handles)
    engine.prune(running)
    wait_until(lambda: server.counters.running == 0)
    usages = [engine.usage(trace) for trace in handles]
    known = sum(usage.generated_tokens + usage.overrun_tokens for usage in usages)
    computed = server.counters.generated - before
    assert known <= computed < 16 * 300 and not any(usage.exact for usage in usages)


def test_tokens_that_came_before_a_park_are_kept(served: Served) -> None:
    """The server runs ahead while nobody calls `step`; what it sent is delivered after the resumption."""
    server = served.server()
    engine = served.engine(server)
    greedy = SamplingSpec(temperature=0, max_tokens=40)
    (plain,) = engine.start(PROMPT, [0], greedy)
    wanted = ids_of(drain(engine), plain)
    (trace, other) = engine.start(PROMPT, [0, 0], greedy)
    events = advance(engine, [trace], 2)
    wait_until(lambda: server.counters.running == 0)
    requests = server.counters.requests
    engine.park([trace])
    assert engine.usage(trace).generated_tokens == 2 and engine.usage(trace).overrun_tokens == 0
    engine.resume([trace])
    events += drain(engine)
    assert ids_of(events, trace) == ids_of(events, other) == wanted
    assert server.counters.requests == requests, "it had ended on the server already"


def test_the_self_check_sees_a_server_that_stops(served: Served) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        served.engine(served.server(), abort_check="require")


def test_the_self_check_is_made_though_the_server_resets_kept_connections(served: Served) -> None:
    server = served.server(impatient=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        served.engine(server, abort_check="require")
    assert server.connections > 2


def test_the_self_check_sees_a_server_that_goes_on(served: Served) -> None:
    server = served.server(ignore_aborts=True)
    server.context = 264
    with pytest.raises(InputError, match="goes on generating"):
        served.engine(server, abort_check="require")
    wait_until(lambda: not server._queues)
    with pytest.warns(RuntimeWarning, match="goes on generating"):
        served.engine(server, abort_check="warn")


@pytest.mark.parametrize(
    ("owner", "option"),
    [
        ("llamacpp", "llama.cpp with --metrics"),
        ("sglang", "SGLang with --enable-metrics"),
        ("vllm", "vLLM without --disable-log-stats"),
        ("someone", "--metrics, .*--enable-metrics, .*--disable-log-stats, .*TGI"),
    ],
)
def test_the_self_check_says_where_it_cannot_see_and_what_shows_it(served: Served, owner: str, option: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"could not be checked.*{option}"):
        served.engine(served.server(mute_metrics=True, owner=owner), abort_check="require")


def test_the_key_comes_from_the_environment_and_stays_there(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    server = served.server(key="sesame")
    with pytest.raises(InputError, match="MY_KEY"):
        served.engine(server, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sesame")
    engine = served.engine(server, api_key_env="MY_KEY")
    assert "Bearer sesame" in server.counters.authorizations
    assert "sesame" not in repr(vars(engine)) + repr(vars(engine._streams))


def test_confidences_of_a_text_server_are_one_per_token(served: Served) -> None:
    engine = served.engine(served.server(text_only=True))
    (trace,) = engine.start(PROMPT, [0], SamplingSpec(temperature=0, max_tokens=12, top_logprobs=5))
    for event in of(drain(engine), trace):
        assert len(event.confidences) == len(event.token_ids)


def test_every_phase_draws_other_numbers(served: Served) -> None:
    server = served.server()
    engine = served.engine(server)
    (trace,) = engine.start(PROMPT, [7], SamplingSpec(temperature=0.9, max_tokens=900))
    advance(engine, [trace], 3)
    engine.park([trace])
    engine.resume([trace])
    drain(engine)
    seeds = [body["seed"] for body in server.counters.bodies[1:]]
    assert seeds == [phase_seed(7, 0, 0), phase_seed(7, 1, 0)] and len(set(seeds)) == 2


def test_a_model_that_is_not_served_is_named(served: Served) -> None:
    server = served.server()
    with pytest.raises(InputError, match="serves no model 'other', but: served"):
        OpenAIEngine(server.url, "other", abort_check="off")


def test_a_text_server_needs_a_tokenizer_and_one_with_ids_does_not(served: Served) -> None:
    with pytest.raises(InputError, match="'tokenizer'"):
        served.engine(served.server(text_only=True), tokenizer=None)
    engine = served.engine(served.server(), tokenizer=None)
    (trace,) = engine.start(PROMPT, [0], SPEC)
    assert "".join(event.text for event in of(drain(engine), trace)) and engine.tokenizer is None
    with pytest.raises(InputError, match="'parameters'"):
        _ = engine.parameters
    with pytest.raises(InputError, match="linear or pairwise"):
        engine.states([trace])


def test_close_leaves_no_thread(served: Served) -> None:
    server, before = served.server(), set(threading.enumerate())
    engine = served.engine(server)
    engine.start(PROMPT, list(range(20)), SamplingSpec(max_tokens=1500))
    engine.close()
    assert set(threading.enumerate()) <= before  # one of another test may have ended meanwhile
