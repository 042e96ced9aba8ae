"""vLLM in process against the engine contract, and what only it promises."""

import pytest

from secateur.engines.base import EngineError, SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.vllm.engine import VLLMEngine
from secateur.runtime.errors import InputError
from tests.engines.contract import EngineContract, advance, drain, encode, ids_of, of, unfinished


@pytest.fixture
def engine(vllm_engine: VLLMEngine) -> VLLMEngine:
    return vllm_engine


class TestVLLMEngine(EngineContract):
    has_states = True
    resubmits = True


@pytest.fixture
def prompt(reference: TransformersEngine) -> tuple[int, ...]:
    return encode(reference, "Start with 4. a-6 b#7 c-7. d+3 e#2 f-5 g+1.")


def test_phases_share_the_limit(engine: VLLMEngine, prompt: tuple[int, ...]) -> None:
    """`max_tokens` caps the trace, however often it was parked; the reason of its end stays right."""
    spec = SamplingSpec(temperature=0, max_tokens=20)
    (trace,) = engine.start(prompt, [0], spec)
    events = []
    for _ in range(20):
        events += advance(engine, [trace], 1)
        if not unfinished(events, [trace]):
            break
        engine.park([trace])
        engine.resume([trace])
    assert len(ids_of(events, trace)) == 20 and of(events, trace)[-1].done == "length"


def test_states_of_a_survivor_are_those_before_and_after(
    engine: VLLMEngine, reference: TransformersEngine, prompt: tuple[int, ...]
) -> None:
    """Parked at every third token, so that phases begin inside and at the edge of cache blocks; ends by itself."""
    spec = SamplingSpec(temperature=0, max_tokens=70)
    (plain,), (parked,) = engine.start(prompt, [0], spec), engine.start(prompt, [0], spec)
    events = []
    while unfinished(events, [parked]):
        events += advance(engine, [parked], 3)
        if unfinished(events, [parked]):
            engine.park([parked])
            engine.resume([parked])
    events += drain(engine)
    assert ids_of(events, plain) == ids_of(events, parked)
    first, second = engine.states([plain, parked])
    assert first.shape == second.shape == (len(ids_of(events, plain)) - 1, 3, 96)
    assert (first.float() - second.float()).abs().max() < 2e-3


def test_states_that_nobody_can_ask_for_are_not_kept(engine: VLLMEngine, prompt: tuple[int, ...]) -> None:
    """Taken before the first token, taken while parked, or of a trace that was pruned: the worker holds nothing."""
    logs = engine._llm.model_executor.driver_worker.worker._logs
    before = set(logs)
    early, late, gone = engine.start(prompt, [0, 1, 2], SamplingSpec(temperature=0, max_tokens=12))
    engine.states([early])
    advance(engine, [late], 5)
    assert len(set(logs) - before) == 2
    engine.park([late, gone])
    engine.states([late])
    engine.prune([gone])
    engine.resume([late])
    drain(engine)
    assert set(logs) == before


def test_more_traces_than_places_wait_for_one(engine: VLLMEngine, prompt: tuple[int, ...]) -> None:
    handles = engine.start(prompt, range(70), SamplingSpec(max_tokens=6))
    first = {event.trace for event in engine.step()}
    assert len(first) <= 64 < len(handles), "the engine has 64 places"
    drain(engine)
    assert all(1 <= engine.usage(handle).generated_tokens <= 6 for handle in handles)


def test_what_cannot_be_sampled_is_refused(engine: VLLMEngine, prompt: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="raise max_logprobs"):
        engine.start(prompt, [0], SamplingSpec(top_logprobs=21))
    with pytest.raises(InputError, match="holds the id 553"):
        engine.start((1, 553), [0], SamplingSpec())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "float64"}, "expected one of auto, float32"), ({"capture_layers": (4,)}, "states 0 to 3")],
)
def test_wrong_options_are_named(embedded_model, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VLLMEngine(embedded_model, **options)


def test_a_failure_inside_vllm_ends_the_engine(
    engine: VLLMEngine, prompt: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real forward pass is made to fail; every later call says so instead of waiting."""
    (trace,) = engine.start(prompt, [0], SamplingSpec())
    engine.step()
    with pytest.raises(EngineError, match="vLLM failed"):
        engine._call(engine._llm.collective_rpc, "no_such_method")
    with pytest.raises(EngineError, match="open a new engine"):
        engine.step()
    engine._failure = None
    engine.prune([trace])
