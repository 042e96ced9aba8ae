"""One suite for every engine: the promises of `secateur.engines.base`, held with real traces of the embedded model.

A test module makes a subclass named `Test…`, sets the flags, and gives two fixtures: `engine`, open for the embedded
model (float32 or better), with at least `ROWS` places and `capture_layers = LAYERS` where `has_states`; and
`reference`, a `TransformersEngine` of the same model and layers. Every test leaves the engine with nothing running.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from secateur.engines.base import Engine, Event, SamplingSpec, fit_to_context
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.sampling import Prober
from secateur.runtime.errors import InputError
from secateur.tasks.prompts import FORCING

ROWS = 32
LAYERS = (0, 2, 3)
QUESTIONS = ("Start with 4. a-6 b#7 c-7.", "Start with 9.", "Start with 4. a-6 b#7 c-7. d+3 e#2 f-5 g+1.")
SPEC = SamplingSpec(temperature=1.0, max_tokens=120)
GREEDY = SamplingSpec(temperature=0, max_tokens=120)
LONG = SamplingSpec(temperature=1.0, max_tokens=280)
_STEPS = 100_000


def encode(reference: TransformersEngine, question: str) -> tuple[int, ...]:
    messages = [{"role": "user", "content": question}]
    return tuple(reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def drain(engine: Engine) -> list[Event]:
    events = []
    while step := engine.step():
        events += step
    return events


def advance(engine: Engine, traces: Sequence[int], tokens: int) -> list[Event]:
    """Steps until each of `traces` has that many tokens or has ended."""
    events, missing = [], dict.fromkeys(traces, tokens)
    for _ in range(_STEPS):
        if not missing:
            return events
        step = engine.step()
        assert step, "nothing runs although traces are not done"
        events += step
        for event in step:
            if event.trace in missing:
                missing[event.trace] -= len(event.token_ids)
                if event.done or missing[event.trace] <= 0:
                    del missing[event.trace]
    raise AssertionError("the traces do not come on")


def of(events: Sequence[Event], trace: int) -> list[Event]:
    return [event for event in events if event.trace == trace]


def ids_of(events: Sequence[Event], trace: int) -> list[int]:
    return [token for event in of(events, trace) for token in event.token_ids]


def unfinished(events: Sequence[Event], traces: Sequence[int]) -> list[int]:
    ended = {event.trace for event in events if event.done}
    return [trace for trace in traces if trace not in ended]


class EngineContract:
    """`exact_counts`: nothing is computed after a stop, `overrun_tokens` stays 0. `has_states`, `has_confidences`:
    what the engine hands out beside tokens. `resubmits`: a resumed trace is read again, from the cache where it can
    be; `cache_known`: the engine says how much came from there."""

    exact_counts = True
    has_states = False
    has_confidences = True
    resubmits = False
    cache_known = True

    @pytest.fixture
    def prompts(self, reference: TransformersEngine) -> list[tuple[int, ...]]:
        return [encode(reference, question) for question in QUESTIONS]

    def test_says_what_it_is(self, engine: Engine, reference: TransformersEngine) -> None:
        assert engine.parameters == reference.parameters
        assert engine.capture_layers == (LAYERS if self.has_states else ())
        assert isinstance(engine.exact, bool)

    def test_a_cap_is_lowered_to_what_the_context_holds(self, engine: Engine, prompts: list) -> None:
        """To the token: what is left runs, one more is refused. A server that says nothing of it takes any."""
        wish, context = SamplingSpec(max_tokens=100_000), getattr(engine, "context", None)
        fitted = fit_to_context(engine, prompts[0], wish)
        if context is None:
            assert fitted == wish
            return
        assert fitted.max_tokens == context - len(prompts[0])
        assert fit_to_context(engine, prompts[0], fitted) == fitted
        engine.prune(engine.start(prompts[0], [0], fitted))
        with pytest.raises(InputError, match=f"lower max_tokens to {fitted.max_tokens}"):
            engine.start(prompts[0], [0], replace(fitted, max_tokens=fitted.max_tokens + 1))

    def test_an_idle_engine_does_nothing(self, engine: Engine) -> None:
        assert engine.step() == []

    def test_events_add_up(self, engine: Engine, reference: TransformersEngine, prompts: list) -> None:
        handles = [trace for prompt in prompts for trace in engine.start(prompt, list(range(8)), SPEC)]
        assert len(set(handles)) == 24
        events = drain(engine)
        reasons = {"stop": 0, "length": 0}
        for trace in handles:
            own, tokens, usage = of(events, trace), ids_of(events, trace), engine.usage(trace)
            assert [event.done for event in own[:-1]] == [None] * (len(own) - 1)
            reasons[own[-1].done] += 1
            assert len(tokens) == usage.generated_tokens <= SPEC.max_tokens
            assert (own[-1].done == "stop") == (tokens[-1] in reference.end_ids)
            assert own[-1].done == "stop" or len(tokens) == SPEC.max_tokens
            text = reference.tokenizer.decode(tokens, skip_special_tokens=True)
            assert "".join(event.text for event in own) == text
        assert sum(reasons.values()) == 24 and min(reasons.values()) > 0, reasons

    def test_the_prompt_is_accounted_for(self, engine: Engine, prompts: list) -> None:
        handles = engine.start(prompts[2], list(range(6)), SPEC)
        events = advance(engine, handles, 2)
        for trace in handles:
            usage = engine.usage(trace)
            assert usage.prompt_tokens == len(prompts[2])
            assert usage.prefill_computed + usage.prefill_cached == len(prompts[2])
        assert engine.usage(handles[0]).prefill_computed > 0 or self.resubmits, "an earlier run may have filled it"
        engine.prune(unfinished(events, handles))

    def test_nothing_comes_after_a_stop(self, engine: Engine, prompts: list) -> None:
        handles = engine.start(prompts[0], list(range(12)), SPEC)
        events = advance(engine, handles, 5)
        running = unfinished(events, handles)
        pruned, parked, others = running[:4], running[4:7], running[7:]
        engine.prune(pruned)
        engine.park(parked)
        later = drain(engine)
        assert {event.trace for event in later} == set(others)
        for trace in [*pruned, *parked]:
            usage = engine.usage(trace)
            assert usage.generated_tokens == len(ids_of(events, trace))
            assert usage.overrun_tokens == 0 or not self.exact_counts
        engine.resume(parked[:2])
        resumed = drain(engine)
        assert {event.trace for event in resumed} == set(parked[:2])
        for trace in parked[:2]:
            assert engine.usage(trace).generated_tokens == len(ids_of([*events, *resumed], trace)) <= SPEC.max_tokens
            assert of(resumed, trace)[-1].done in ("stop", "length")
        engine.prune(parked[2:])
        assert engine.step() == []

    def test_greedy_equals_the_reference(self, engine: Engine, reference: TransformersEngine, prompts: list) -> None:
        for prompt in prompts:
            (trace,), (twin,) = engine.start(prompt, [0], GREEDY), reference.start(prompt, [0], GREEDY)
            assert ids_of(drain(engine), trace) == ids_of(drain(reference), twin)

    def test_greedy_park_and_resume_equals_uninterrupted(self, engine: Engine, prompts: list) -> None:
        (plain,) = engine.start(prompts[1], [0], GREEDY)
        wanted = drain(engine)
        (trace,) = engine.start(prompts[1], [0], GREEDY)
        events = []
        for tokens in (3, 14, 20):
            events += advance(engine, [trace], tokens)
            engine.park([trace])
            assert engine.step() == []
            engine.resume([trace])
        events += drain(engine)
        assert ids_of(events, trace) == ids_of(wanted, plain)
        assert of(events, trace)[-1].done == of(wanted, plain)[-1].done
        text = "".join(event.text for event in of(events, trace))
        assert text == "".join(event.text for event in of(wanted, plain))

    def test_an_answer_is_forced_out_of_a_running_trace(
        self, engine: Engine, reference: TransformersEngine, prompts: list
    ) -> None:
        """What the reference says behind the same tokens; the trace itself goes on as if nobody had asked."""
        (plain,) = engine.start(prompts[2], [0], GREEDY)
        wanted = drain(engine)
        (trace,) = engine.start(prompts[2], [0], GREEDY)
        events = advance(engine, [trace], 20)
        so_far, text = ids_of(events, trace)[:20], "".join(event.text for event in of(events, trace))
        prober, own = (Prober(one, FORCING["plain"], 12) for one in (engine, reference))
        probe = prober.start(prompts[2], so_far, text, 0)
        while step := engine.step():
            events += of(step, trace)
            prober.take(event for event in step if event.trace != trace)
        assert probe.done and prober.usage.probe_generated >= probe.n_tokens > 0
        assert ids_of(events, trace) == ids_of(wanted, plain)
        twin = own.start(prompts[2], so_far, text, 0)
        while step := reference.step():
            own.take(step)
        assert probe.forced == twin.forced

    def test_a_trace_parked_before_its_first_token_loses_nothing(self, engine: Engine, prompts: list) -> None:
        (plain,) = engine.start(prompts[0], [0], GREEDY)
        wanted = ids_of(drain(engine), plain)
        (trace,) = engine.start(prompts[0], [0], GREEDY)
        engine.park([trace])
        assert engine.step() == []
        engine.resume([trace])
        assert ids_of(drain(engine), trace) == wanted

    def test_a_resumed_trace_comes_from_the_cache(self, engine: Engine, prompts: list) -> None:
        """Each position of a phase's prompt is computed or cached; of 200-token cuts at least 80 % is cached."""
        handles = engine.start(prompts[0], list(range(24)), LONG)
        events = advance(engine, handles, 200)
        parked = unfinished(events, handles)
        assert parked, "some traces are longer than their cut"
        engine.park(parked)
        before = {trace: engine.usage(trace) for trace in parked}
        first = {trace: (usage.prefill_computed, usage.prefill_cached) for trace, usage in before.items()}
        lengths = {trace: len(prompts[0]) + engine.usage(trace).generated_tokens for trace in parked}
        engine.resume(parked)
        drain(engine)
        cached = read = 0
        for trace in parked:
            usage = engine.usage(trace)
            computed, from_cache = usage.prefill_computed - first[trace][0], usage.prefill_cached - first[trace][1]
            assert computed + from_cache == (lengths[trace] if self.resubmits else 0)
            cached, read = cached + from_cache, read + lengths[trace]
        if self.resubmits and self.cache_known:
            assert cached >= 0.8 * read, (cached, read)

    def test_seeds_differ(self, engine: Engine, prompts: list) -> None:
        handles = engine.start(prompts[0], list(range(8)), SPEC)
        events = drain(engine)
        assert len({tuple(ids_of(events, trace)) for trace in handles}) > 4

    def test_confidences(self, engine: Engine, reference: TransformersEngine, prompts: list) -> None:
        if not self.has_confidences:
            pytest.skip("this engine hands out no log-probabilities")
        spec = SamplingSpec(temperature=0, max_tokens=40, top_logprobs=5)
        (trace,) = engine.start(prompts[0], [0], spec)
        events = drain(engine)
        assert all(len(event.confidences) == len(event.token_ids) for event in events)
        ids = [*prompts[0], *ids_of(events, trace)]
        with torch.inference_mode():
            logits = reference.model(torch.tensor([ids[:-1]])).logits[0, len(prompts[0]) - 1 :]
        wanted = -logits.log_softmax(dim=-1).topk(5).values.mean(dim=-1)
        assert [number for event in events for number in event.confidences] == pytest.approx(
            wanted.tolist(), abs=2e-3
        )

    def test_no_confidences_unless_asked_for(self, engine: Engine, prompts: list) -> None:
        (trace,) = engine.start(prompts[0], [0], GREEDY)
        assert all(event.confidences == () for event in of(drain(engine), trace))

    def test_states_equal_the_reference(self, engine: Engine, reference: TransformersEngine, prompts: list) -> None:
        """Running, parked, resumed and ended traces; the reference reads the same tokens in one forward pass."""
        if not self.has_states:
            with pytest.raises(ValueError):
                engine.states(engine.start(prompts[0], [0], GREEDY))
            drain(engine)
            return
        handles = engine.start(prompts[0], list(range(6)), LONG) + engine.start(prompts[2], list(range(6)), LONG)
        events = advance(engine, handles, 37)
        running = unfinished(events, handles)
        engine.park(running[:4])
        events += advance(engine, running[4:], 11)
        engine.resume(running[2:4])
        events += advance(engine, unfinished(events, running[2:4]), 9)
        taken = engine.states(handles)
        for index, (trace, states) in enumerate(zip(handles, taken, strict=True)):
            tokens, prompt = ids_of(events, trace), prompts[0] if index < 6 else prompts[2]
            with torch.inference_mode():
                output = reference.model(torch.tensor([[*prompt, *tokens[:-1]]]), output_hidden_states=True)
            wanted = torch.stack([output.hidden_states[layer] for layer in LAYERS], dim=2)[0, len(prompt) :]
            assert states.dtype == torch.float16 and states.shape == wanted.shape
            torch.testing.assert_close(states.float().cpu(), wanted.float(), rtol=2e-3, atol=2e-3)
        with pytest.raises(ValueError, match="captures no states"):
            engine.states(handles[:1])
        engine.prune(unfinished(events, handles))

    def test_states_before_the_first_token_are_empty(self, engine: Engine, prompts: list) -> None:
        if not self.has_states:
            pytest.skip("this engine hands out no states")
        (trace,) = engine.start(prompts[0], [0], GREEDY)
        assert engine.states([trace])[0].shape[:2] == (0, len(LAYERS))
        engine.prune([trace])

    def test_stopped_traces_cannot_be_used_again(self, engine: Engine, prompts: list) -> None:
        first, second = engine.start(prompts[0], [0, 1], SPEC)
        engine.step()
        engine.prune([first])
        for action in (engine.park, engine.resume, engine.prune):
            with pytest.raises(ValueError, match="is pruned"):
                action([first])
        engine.prune([second])

    def test_released_traces_are_forgotten(self, engine: Engine, prompts: list) -> None:
        """Ended ones only; what runs beside them does not notice."""
        handles = engine.start(prompts[0], list(range(6)), SPEC)
        running = unfinished(advance(engine, handles, 3), handles)
        with pytest.raises(ValueError, match="is running"):
            engine.release(running[:1])
        engine.prune(running[:2])
        engine.release(running[:2])
        drain(engine)
        engine.release([trace for trace in handles if trace not in running[:2]])
        for action in (engine.park, engine.resume, engine.prune, engine.release):
            with pytest.raises(ValueError, match="is not known"):
                action(handles[-1:])
        with pytest.raises(ValueError, match="is not known"):
            engine.usage(handles[0])
        later = engine.start(prompts[0], [0], SPEC)
        assert not set(later) & set(handles), "handles are not used again"
        engine.prune(later)
        engine.release(later)

    def test_unusable_prompts_are_refused(self, engine: Engine, prompts: list) -> None:
        with pytest.raises(InputError, match="prompt is empty"):
            engine.start((), [0], SPEC)
        with pytest.raises(InputError, match="lower max_tokens"):
            engine.start(prompts[0], [0], SamplingSpec(max_tokens=5_000))
        assert engine.step() == []
