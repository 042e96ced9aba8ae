"""The promises of `secateur.engines.base` compared with plain ways of computing the same: one trace alone,
`generate`."""

import random
from pathlib import Path

import pytest
import torch

from secateur.engines.base import Event, SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.runtime.errors import InputError

PROMPTS = ((5, 6, 7, 8), tuple(range(20, 31)), tuple(range(60, 67)))
SPEC = SamplingSpec(temperature=0.9, max_tokens=36)
GREEDY = SamplingSpec(temperature=0, max_tokens=36)
SEEDS = range(8)

Alone = dict[tuple[int, int], tuple[list[int], str, str]]


def drain(engine: TransformersEngine) -> list[Event]:
    events = []
    while step := engine.step():
        events += step
    return events


def collect(events: list[Event], trace: int) -> tuple[list[int], str, str | None]:
    own = [event for event in events if event.trace == trace]
    ids = [token for event in own for token in event.token_ids]
    return ids, "".join(event.text for event in own), own[-1].done


@pytest.fixture(scope="module")
def alone(exact_engine: TransformersEngine) -> Alone:
    """Every (prompt, seed), run with nothing beside it."""
    results = {}
    for number, prompt in enumerate(PROMPTS):
        for seed in SEEDS:
            (trace,) = exact_engine.start(prompt, [seed], SPEC)
            results[number, seed] = collect(drain(exact_engine), trace)
    return results


class Schedule:
    """Random starts, parks, resumes and prunes between the steps of one run; invariants are checked on the way."""

    def __init__(self, engine: TransformersEngine, chance: random.Random) -> None:
        self.engine, self.chance = engine, chance
        self.todo = [(number, seed) for number in range(len(PROMPTS)) for seed in SEEDS]
        chance.shuffle(self.todo)
        self.names: dict[int, tuple[int, int]] = {}
        self.events: dict[int, list[Event]] = {}
        self.running: set[int] = set()
        self.parked: set[int] = set()
        self.pruned: set[int] = set()

    def run(self) -> None:
        while self.todo or self.running or self.parked:
            self._act()
            events = self.engine.step()
            assert bool(events) == bool(self.running)
            assert sorted(event.trace for event in events) == sorted(self.running), "one event per running trace"
            for event in events:
                self.events[event.trace].append(event)
                if event.done:
                    self.running.discard(event.trace)

    def _act(self) -> None:
        if self.todo and self.chance.random() < 0.5:
            number = self.todo[-1][0]
            lot = [self.todo.pop()]
            while self.todo and self.todo[-1][0] == number and self.chance.random() < 0.7:
                lot.append(self.todo.pop())
            handles = self.engine.start(PROMPTS[number], [seed for _, seed in lot], SPEC)
            self.names |= dict(zip(handles, lot, strict=True))
            self.events |= {handle: [] for handle in handles}
            self.running |= set(handles)
        self._move(self.engine.park, self.running, self.parked, 0.15)
        self._move(self.engine.resume, self.parked, self.running, 0.3)
        self._move(self.engine.prune, self.running, self.pruned, 0.01)
        self._move(self.engine.prune, self.parked, self.pruned, 0.01)

    def _move(self, action, source: set[int], target: set[int], share: float) -> None:
        chosen = [trace for trace in sorted(source) if self.chance.random() < share]
        if chosen:
            action(chosen)
            source -= set(chosen)
            target |= set(chosen)


@pytest.mark.parametrize("number", range(8))
def test_any_schedule_gives_the_tokens_of_the_trace_alone(
    exact_engine: TransformersEngine, alone: Alone, number: int
) -> None:
    schedule = Schedule(exact_engine, random.Random(number))
    schedule.run()
    ended = 0
    for trace, name in schedule.names.items():
        tokens = [token for event in schedule.events[trace] for token in event.token_ids]
        usage = exact_engine.usage(trace)
        assert usage.generated_tokens == len(tokens) and usage.overrun_tokens == 0
        if tokens:
            assert usage.prefill_computed + usage.prefill_cached == usage.prompt_tokens == len(PROMPTS[name[0]])
        if trace in schedule.pruned:
            assert tokens == alone[name][0][: len(tokens)] and len(tokens) < len(alone[name][0]) + 1
        else:
            ended += 1
            assert collect(schedule.events[trace], trace) == alone[name]
    assert ended >= 8


def test_the_schedules_exercise_both_ends(alone: Alone) -> None:
    assert {done for _, _, done in alone.values()} == {"stop", "length"}


def test_text_is_that_of_all_ids(exact_engine: TransformersEngine, alone: Alone) -> None:
    for ids, text, _ in alone.values():
        assert text == exact_engine.tokenizer.decode(ids, skip_special_tokens=True)
    assert any(text.endswith("\ufffd") for _, text, _ in alone.values()), "some end within a character"


def test_greedy_equals_generate(lively_model: Path) -> None:
    engine = TransformersEngine(lively_model, dtype="float64")
    handles = [engine.start(prompt, [0], GREEDY)[0] for prompt in PROMPTS]
    events = drain(engine)
    for prompt, trace in zip(PROMPTS, handles, strict=True):
        ids = torch.tensor([prompt])
        output = engine.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=36)
        assert collect(events, trace)[0] == output[0, len(prompt) :].tolist()


def test_greedy_park_and_resume_equals_uninterrupted(exact_engine: TransformersEngine) -> None:
    (plain,) = exact_engine.start(PROMPTS[1], [0], GREEDY)
    wanted = collect(drain(exact_engine), plain)
    parked, other = exact_engine.start(PROMPTS[1], [0, 1], GREEDY)
    events = [event for _ in range(3) for event in exact_engine.step()]
    exact_engine.park([parked])
    events += drain(exact_engine)
    assert sum(event.trace == parked for event in events) == 3
    exact_engine.resume([parked])
    events += drain(exact_engine)
    assert collect(events, parked) == wanted == collect(events, other)


def test_states_equal_a_plain_forward_pass(exact_engine: TransformersEngine) -> None:
    first, second = exact_engine.start(PROMPTS[0], [3, 4], SPEC)
    (third,) = exact_engine.start(PROMPTS[1], [5], SPEC)
    events = [event for _ in range(7) for event in exact_engine.step()]
    exact_engine.park([second])
    exact_engine.prune([first])
    events += [event for _ in range(4) for event in exact_engine.step()]
    exact_engine.resume([second])
    events += [event for _ in range(2) for event in exact_engine.step()]
    for trace, prompt, tokens in ((second, PROMPTS[0], 9), (third, PROMPTS[1], 13)):
        ids = collect(events, trace)[0]
        assert len(ids) == tokens
        with torch.inference_mode():
            output = exact_engine.model(torch.tensor([[*prompt, *ids[:-1]]]), output_hidden_states=True)
        wanted = torch.stack(output.hidden_states, dim=2)[0, len(prompt) :]
        states = exact_engine.states([trace])[0]
        assert states.dtype == torch.float16 and states.shape == wanted.shape
        torch.testing.assert_close(states.double(), wanted, rtol=2e-3, atol=2e-3)
        with pytest.raises(ValueError, match="captures no states"):
            exact_engine.states([trace])[0]
    exact_engine.prune([second, third])


def test_states_survive_the_end_and_are_empty_before_the_first_token(exact_engine: TransformersEngine) -> None:
    spec = SamplingSpec(temperature=0.9, max_tokens=5)
    early, late = exact_engine.start(PROMPTS[0], [0, 1], spec)
    assert exact_engine.states([early])[0].shape == (0, 3, 32)
    events = drain(exact_engine)
    assert exact_engine.states([late])[0].shape[0] == len(collect(events, late)[0]) - 1


def test_a_seed_alone_decides_in_any_company(lively_model: Path) -> None:
    """Float32, as users run it: order and neighbours of a trace change nothing but rounding."""
    engine = TransformersEngine(lively_model)
    forward = engine.start(PROMPTS[0], list(SEEDS), SPEC)
    engine.start(PROMPTS[1], [99], SPEC)
    events = drain(engine)
    backward = engine.start(PROMPTS[0], list(SEEDS)[::-1], SPEC)
    again = drain(engine)
    for trace, twin in zip(forward, reversed(backward), strict=True):
        assert collect(events, trace) == collect(again, twin)
    assert len({tuple(collect(events, trace)[0]) for trace in forward}) == len(forward), "seeds differ"


def test_prompt_is_computed_once_per_start(exact_engine: TransformersEngine) -> None:
    handles = exact_engine.start(PROMPTS[1], list(range(5)), SPEC)
    exact_engine.step()
    usages = [exact_engine.usage(trace) for trace in handles]
    assert [usage.prefill_computed for usage in usages] == [len(PROMPTS[1]), 0, 0, 0, 0]
    exact_engine.prune(handles)
    assert exact_engine.step() == []


def test_specs_may_differ_within_a_batch(exact_engine: TransformersEngine, alone: Alone) -> None:
    (greedy,) = exact_engine.start(PROMPTS[0], [0], GREEDY)
    (drawn,) = exact_engine.start(PROMPTS[0], [0], SPEC)
    events = drain(exact_engine)
    assert collect(events, drawn) == alone[0, 0]
    (greedy_alone,) = exact_engine.start(PROMPTS[0], [0], GREEDY)
    assert collect(events, greedy) == collect(drain(exact_engine), greedy_alone)


def test_stopped_traces_cannot_be_used_again(exact_engine: TransformersEngine) -> None:
    first, second = exact_engine.start(PROMPTS[0], [0, 1], SPEC)
    exact_engine.step()
    exact_engine.prune([first])
    for action in (exact_engine.park, exact_engine.resume, exact_engine.prune):
        with pytest.raises(ValueError, match="is pruned"):
            action([first])
    with pytest.raises(ValueError, match="was pruned"):
        exact_engine.states([first])[0]
    exact_engine.prune([second])


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "message"),
    [((), 8, "prompt is empty"), ((5, 4000), 8, "holds the id 4000"), ((5, 6), 2047, "lower max_tokens to 2046")],
)
def test_unusable_prompts_are_refused(
    exact_engine: TransformersEngine, prompt: tuple[int, ...], max_tokens: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        exact_engine.start(prompt, [0], SamplingSpec(max_tokens=max_tokens))
    assert exact_engine.step() == []


def test_a_batch_has_its_limit(lively_model: Path) -> None:
    engine = TransformersEngine(lively_model, max_batch_rows=4)
    parked = engine.start(PROMPTS[0], [0, 1, 2], SPEC)
    engine.step()
    engine.park(parked)
    engine.start(PROMPTS[0], [3, 4, 5], SPEC)
    with pytest.raises(InputError, match="raise max_batch_rows"):
        engine.resume(parked)
    assert len(engine.step()) == 3


def test_confidences_are_those_of_a_plain_forward_pass(exact_engine: TransformersEngine, alone: Alone) -> None:
    """At temperature 1 and before top-p, whatever the sampling; traces that did not ask have none."""
    spec = SamplingSpec(temperature=0.9, max_tokens=36, top_logprobs=20)
    (asked,) = exact_engine.start(PROMPTS[0], [0], spec)
    (silent,) = exact_engine.start(PROMPTS[1], [1], SPEC)
    events = drain(exact_engine)
    assert collect(events, asked) == alone[0, 0] and collect(events, silent) == alone[1, 1]
    found = [confidence for event in events if event.trace == asked for confidence in event.confidences]
    ids = collect(events, asked)[0]
    with torch.inference_mode():
        logits = exact_engine.model(torch.tensor([[*PROMPTS[0], *ids]])).logits[0, len(PROMPTS[0]) - 1 : -1]
    wanted = -torch.log_softmax(logits, dim=-1).topk(20, dim=-1).values.mean(dim=-1)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), wanted, rtol=1e-5, atol=1e-5)
    assert not any(event.confidences for event in events if event.trace == silent)
