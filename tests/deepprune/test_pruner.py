"""Many callers, one engine: `Pruner` on real models, and in front of a server that dies, is silent, or comes back."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur import (
    AHEAD,
    PUBLISHED_RULE,
    SHORTEST_WAIT,
    Answers,
    Busy,
    EngineError,
    InputError,
    OpenAIEngine,
    PruneProgress,
    Pruner,
    PruneResult,
    SamplingSpec,
    TransformersEngine,
    Usage,
    prune,
)
from secateur.deepprune.controller import Controller
from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.untrained import RandomJudge
from secateur.deepprune.probing import ParallelProbe
from secateur.deepprune.prune import PruneRequest
from secateur.engines.base import TraceRefused
from secateur.engines.memory import CacheRoom, free_host_bytes
from secateur.tasks.prompts import FORCING
from tests.engines.openai_server import CompletionsServer

T = TypeVar("T")
SPEC = SamplingSpec(max_tokens=70)
DIGIT = r"pattern:(\d)"
ANY = Answers(r"pattern:(.)")
PROBE = ParallelProbe(every=20, tokens=8, stable=1, patience=1, warm_up=0, forcing=FORCING["plain"])
RULES = (None, AHEAD, SHORTEST_WAIT, PUBLISHED_RULE, PROBE)


def run(work: Coroutine[object, object, T]) -> T:
    """What hangs fails, instead of the whole suite."""
    return asyncio.run(asyncio.wait_for(work, 300))


def problem(number: int) -> str:
    return f"Start with {number % 10}. a+{number % 7 + 1}."


@pytest.fixture(scope="module")
def engine(embedded_model: Path) -> TransformersEngine:
    return TransformersEngine(embedded_model, dtype="float64")


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model, dtype="float64")


def test_answers_are_those_of_prune_whoever_asks_beside(engine: TransformersEngine) -> None:
    """20 at once, of several rules, seeds and kinds of answers, through an engine with room for a few."""
    judge = RandomJudge(CutRule("tokens", 10))
    asked = [
        {"n": 3 + i % 3, "seed": i % 2, "rule": RULES[i % 5], "answers": DIGIT if i % 3 else "boxed"}
        for i in range(20)
    ]
    keys = {"spec": SPEC, "prompt_family": "plain"}
    with pytest.warns(RuntimeWarning, match="is not asked"):
        alone = [prune(problem(number), engine, judge, **own, **keys) for number, own in enumerate(asked)]

    async def together() -> list[PruneResult]:
        async with Pruner(engine, judge, max_rows=24) as pruner:
            calls = (
                pruner.prune(problem(number), **own, **keys, caller=str(number % 4))
                for number, own in enumerate(asked)
            )
            return await asyncio.gather(*calls)

    with pytest.warns(RuntimeWarning, match="is not asked"):
        results = run(together())
    assert results == alone
    assert len({result.answer for result in results}) > 3 and any(result.stopped for result in results)
    assert not engine._traces


def test_forced_answers_vote(engine: TransformersEngine) -> None:
    """Of traces that were stopped all together: each with what it said last."""
    result = prune(problem(4), engine, n=6, spec=SPEC, prompt_family="plain", rule=PROBE)
    forced = [trace.probes[-1] for trace in result.traces if trace.status == "pruned" and trace.probes]
    assert forced and 0 < sum(result.votes.values()) <= len(result.decision.survivors)
    assert max(result.votes, key=result.votes.get) == result.answer


def test_results_say_what_became_of_the_traces(engine: TransformersEngine) -> None:
    result = prune(problem(3), engine, n=8, spec=SPEC, prompt_family="plain", answers=DIGIT)
    states = Counter(trace.status for trace in result.traces)
    assert (result.started, result.finished, result.stopped) == (
        8 - states["unstarted"],
        states["finished"],
        states["pruned"],
    )
    assert sum(result.votes.values()) == result.finished and max(result.votes, key=result.votes.get) == result.answer
    lengths = [len(trace.token_ids) for trace in result.traces if trace.status == "finished"]
    assert result.full_vote_tokens == round(8 * sum(lengths) / len(lengths))
    assert result.ended == "decided" and result.judge == ""
    mine = [trace for trace in result.traces if trace.text == result.text]
    assert mine and all(len(trace.token_ids) <= max(lengths) for trace in mine)


def test_free_text_has_one_trace_and_no_vote(tiny: TransformersEngine) -> None:
    result = prune("Hello", tiny, n=1, spec=SPEC, answers="none")
    assert (result.answer, result.votes, result.finished) == (None, {}, 1) and result.text == result.traces[0].text
    with pytest.raises(InputError, match=r"n = 2: free text has no vote"):
        prune("Hello", tiny, n=2, spec=SPEC, answers="none")
    with pytest.raises(InputError, match="n = 1: pruning compares"):
        prune("Hello", tiny, n=1, spec=SPEC)


LIMITS = st.one_of(
    st.tuples(st.integers(1, 400), st.none()),
    st.tuples(st.none(), st.floats(1e-6, 0.5)),
    st.tuples(st.integers(1, 400), st.floats(1e-6, 0.5)),
)


@settings(max_examples=12)
@given(limits=st.lists(LIMITS, min_size=1, max_size=4), rule=st.sampled_from(RULES))
def test_a_limit_of_any_size_ends_with_the_best_vote(
    tiny: TransformersEngine, limits: list[tuple], rule: object
) -> None:
    """The vote of those that had finished; a budget is passed by a token for each other trace at most."""
    spec, judge = SamplingSpec(max_tokens=40), RandomJudge(CutRule("tokens", 10))

    async def all_of_them() -> list[PruneResult]:
        async with Pruner(tiny, judge, max_rows=16) as pruner:
            keys = {"n": 6, "spec": spec, "rule": rule or AHEAD, "answers": r"pattern:(.)"}
            calls = (pruner.prune("x", **keys, token_budget=one[0], deadline_s=one[1]) for one in limits)
            return await asyncio.gather(*calls)

    for (budget, deadline_s), result in zip(limits, run(all_of_them()), strict=True):
        allowed = {"decided"} | ({"token_budget"} if budget else set()) | ({"deadline"} if deadline_s else set())
        assert result.ended in allowed
        assert budget is None or result.usage.generated < budget + 6
        assert result.ended != "token_budget" or result.usage.generated >= budget
        assert {trace.status for trace in result.traces} <= {"unstarted", "whole", "finished", "pruned"}
        if result.ended != "decided":
            assert sum(result.votes.values()) <= result.finished
            assert result.answer is None or result.votes[result.answer] == max(result.votes.values())
            assert bool(result.votes) == (result.answer is not None) == (result.text is not None)
    assert not tiny._traces


@pytest.mark.parametrize(("key", "value"), [("token_budget", 0), ("deadline_s", 0.0), ("deadline_s", float("nan"))])
def test_limits_out_of_range_are_refused(tiny: TransformersEngine, key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{key} = {value}"):
        prune("x", tiny, n=2, **{key: value})


def test_who_is_cancelled_frees_its_rows_and_is_still_counted(tiny: TransformersEngine) -> None:
    spec = SamplingSpec(max_tokens=200)

    async def cancelled() -> tuple[PruneResult, float]:
        async with Pruner(tiny, max_rows=12) as pruner:
            heard: list[PruneProgress] = []
            going = asyncio.create_task(pruner.prune("x", 4, spec=spec, on_progress=heard.append))
            waiting = [asyncio.create_task(pruner.prune("x", 30, spec=spec, rule=PROBE)) for _ in range(3)]
            while not heard:
                await asyncio.sleep(0.01)
            assert pruner.load().rows > 0
            for task in (waiting[0], going, waiting[2]):
                task.cancel()
            ended = await asyncio.gather(going, *waiting, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in ended] == [True, True, False, True]
            while (load := pruner.load()).rows or load.waiting or load.running:
                await asyncio.sleep(0.01)
            return ended[2], load.spent.generated

    result, spent = run(cancelled())
    assert result.started == 30 and spent > result.usage.generated
    assert not tiny._traces and not tiny._batch.rows


def test_a_request_that_fails_touches_no_other(tiny: TransformersEngine) -> None:
    spec = SamplingSpec(max_tokens=30)

    def fail(_: object) -> None:
        raise ZeroDivisionError

    async def mixed() -> list[PruneResult | Exception]:
        async with Pruner(tiny, max_rows=8) as pruner:
            calls = [
                pruner.prune("x", 3, spec=spec),
                pruner.prune("word " * 3000, 3, spec=spec),
                pruner.prune("x", 3, spec=spec, answers=Answers(answer_from=fail)),
                pruner.prune("x", 3, spec=spec, rule=PUBLISHED_RULE),
                pruner.prune("x", 3, spec=spec, on_progress=fail),
                pruner.prune("x", 3, spec=spec, answers="json:"),
                pruner.prune("x", 3, spec=spec),
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

    first, *wrong, last = run(mixed())
    kinds = [InputError, ZeroDivisionError, InputError, ZeroDivisionError, InputError]
    assert [type(one) for one in wrong] == kinds
    assert first == last == prune("x", tiny, n=3, spec=spec)
    assert not tiny._traces and not tiny._batch.rows


def test_callers_take_turns(tiny: TransformersEngine) -> None:
    """Who brings one problem after somebody else's 50 is not the 51st."""
    spec, order = SamplingSpec(max_tokens=3), []

    async def both() -> None:
        async with Pruner(tiny, max_rows=6) as pruner:

            async def ask(caller: str) -> None:
                await pruner.prune("x", 2, spec=spec, caller=caller)
                order.append(caller)

            many = [asyncio.create_task(ask("many")) for _ in range(50)]
            await asyncio.sleep(0)
            await asyncio.gather(ask("one"), *many)

    run(both())
    assert len(order) == 51 and order.index("one") < 10


def test_nothing_is_left_of_a_thousand_problems(tiny: TransformersEngine) -> None:
    spec = SamplingSpec(max_tokens=2)

    async def thousand() -> Usage:
        async with Pruner(tiny, max_rows=64) as pruner:
            results = await asyncio.gather(*(pruner.prune("x", 2, spec=spec, seed=seed) for seed in range(1000)))
            assert len(results) == 1000
            driver = pruner._driver
            assert not driver._running and not driver._lines and not driver._core.active and not pruner._futures
            assert pruner.load().spent.generated == sum(result.usage.generated for result in results)

    run(thousand())
    assert not tiny._traces and not tiny._pending and not tiny._batch.rows


def test_too_many_are_refused_and_the_rest_is_finished_or_handed_back(tiny: TransformersEngine) -> None:
    async def crowded() -> None:
        spec = SamplingSpec(max_tokens=20)
        async with Pruner(tiny, max_rows=3, max_waiting=4) as pruner:
            calls = [asyncio.create_task(pruner.prune("x", 2, spec=spec)) for _ in range(12)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            refused = [one for one in ended if isinstance(one, Busy)]
            assert 7 <= len(refused) <= 8 and all(one.retry_after_s >= 1 for one in refused)
            draining = [asyncio.create_task(pruner.prune("x", 2, spec=spec)) for _ in range(3)]
            await asyncio.sleep(0)
            await pruner.drain()
            assert all(task.done() and task.result() for task in draining)
            with pytest.raises(Busy, match="closing"):
                await pruner.prune("x", 2, spec=spec)
        async with Pruner(tiny, max_rows=3) as pruner:
            left = [asyncio.create_task(pruner.prune("x", 2)) for _ in range(3)]
            await asyncio.sleep(0)
        handed = await asyncio.gather(*left, return_exceptions=True)
        assert [type(one) for one in handed] == [Busy] * 3
        with pytest.raises(RuntimeError, match="not open"):
            await Pruner(tiny).prune("x", 2)

    run(crowded())
    assert not tiny._traces


def test_progress_adds_up_and_comes_in_the_event_loop(tiny: TransformersEngine) -> None:
    heard: list[PruneProgress] = []
    threads = set()

    def hear(progress: PruneProgress) -> None:
        heard.append(progress)
        threads.add(threading.current_thread())

    async def one() -> PruneResult:
        async with Pruner(tiny) as pruner:
            return await pruner.prune("x", 5, spec=SamplingSpec(max_tokens=300), answers=DIGIT, on_progress=hear)

    result = run(one())
    assert threads == {threading.main_thread()}
    assert [one.tokens for one in heard] == sorted(one.tokens for one in heard)
    assert heard[-1].tokens <= result.usage.generated
    for one in heard:
        assert one.started + one.unstarted == 5 and one.running + one.finished + one.stopped == one.started
        assert one.tokens == sum(trace.tokens for trace in one.traces) and len(one.traces) == one.started


def test_a_model_is_opened_and_closed_by_name(tiny_model: Path) -> None:
    async def opened() -> PruneResult:
        options = {"max_batch_rows": 8}
        async with Pruner(str(tiny_model), "values", dtype="float64", device="cpu", engine_options=options) as pruner:
            return await pruner.prune("x", 3, spec=SamplingSpec(max_tokens=9), rule=PUBLISHED_RULE)

    with pytest.warns(RuntimeWarning, match="no trace has 25 reasoning words"):
        result = run(opened())
    assert result.finished == 3 and result.decision.clustering is not None
    with pytest.raises(InputError, match="nowhere"):
        run(Pruner("./nowhere").__aenter__())
    with pytest.raises(InputError, match="max_rows = 0"):
        Pruner(str(tiny_model), max_rows=0)


@pytest.fixture
def server(tiny_model: Path) -> Iterator[CompletionsServer]:
    with CompletionsServer(TransformersEngine(tiny_model, dtype="float64")) as server:
        yield server


def served(server: CompletionsServer, model: Path) -> OpenAIEngine:
    return OpenAIEngine(server.url, server.model, tokenizer=str(model), abort_check="off", max_retries=0)


def test_a_server_that_dies_fails_what_runs_and_serves_the_next_when_it_is_back(
    server: CompletionsServer, tiny_model: Path
) -> None:
    engine, spec = served(server, tiny_model), SamplingSpec(max_tokens=30)

    async def through_deaths() -> Usage:
        async with Pruner(engine, max_rows=9) as pruner:
            for death in range(5):
                server.habits.die_after, server.habits.deaths = death, 1
                calls = (pruner.prune("x", 3, spec=spec, seed=seed) for seed in range(3))
                ended = await asyncio.gather(*calls, return_exceptions=True)
                assert EngineError in {type(one) for one in ended} <= {EngineError, PruneResult}
                server.habits.deaths = 0
                assert (await pruner.prune("x", 3, spec=spec)).finished == 3
                assert not engine._traces
            spent = pruner.load().spent
            await asyncio.to_thread(server.__exit__)
            with pytest.raises(EngineError):
                await pruner.prune("x", 3, spec=spec)
            port = int(server.url.rpartition(":")[2].partition("/")[0])
            with CompletionsServer(server.engine, port=port):
                assert (await pruner.prune("x", 3, spec=spec)).finished == 3
            return spent

    spent = run(through_deaths())
    engine.close()
    assert spent.generated + spent.overrun <= server.counters.generated


def test_who_asks_for_what_a_server_refuses_fails_alone(server: CompletionsServer, tiny_model: Path) -> None:
    """Where one caller has the engine for itself all of its traces are lost, as before."""
    engine, spec = served(server, tiny_model), SamplingSpec(max_tokens=30)
    server.habits.longest_prompt = 200

    async def mixed() -> list[PruneResult | Exception]:
        async with Pruner(engine, max_rows=40) as pruner:
            texts = ["x", "word " * 100, "x", "word " * 100, "x"]
            return await asyncio.gather(*(pruner.prune(text, 3, spec=spec) for text in texts), return_exceptions=True)

    kinds = [type(one) for one in run(mixed())]
    assert kinds == [PruneResult, TraceRefused, PruneResult, TraceRefused, PruneResult]
    assert not engine._traces and not engine.shared
    with pytest.raises(EngineError, match="400"):
        prune("word " * 100, engine, n=3, spec=spec)
    engine.close()
    assert not engine._traces


def test_the_deadline_of_a_single_problem_does_not_wait_for_a_server(
    server: CompletionsServer, tiny_model: Path
) -> None:
    engine = served(server, tiny_model)
    server.habits.silent = True
    result = prune("x", engine, n=3, spec=SamplingSpec(max_tokens=30), deadline_s=0.2)
    engine.close()
    assert (result.ended, result.answer, result.stopped, result.usage.generated) == ("deadline", None, 3, 0)
    assert not engine._traces


def test_a_silent_server_holds_nobody(server: CompletionsServer, tiny_model: Path) -> None:
    """Deadlines and cancelled callers do not wait for its next token, and neither do new requests."""
    engine, spec = served(server, tiny_model), SamplingSpec(max_tokens=30)

    async def impatient() -> None:
        async with Pruner(engine, max_rows=40) as pruner:
            server.habits.silent = True
            late = asyncio.create_task(pruner.prune("x", 3, spec=spec, deadline_s=0.2))
            gone = asyncio.create_task(pruner.prune("x", 3, spec=spec))
            while server.counters.running < 6:
                await asyncio.sleep(0.01)
            server.habits.silent = False
            assert (await pruner.prune("x", 3, spec=spec)).finished == 3
            assert (await late).ended == "deadline"
            gone.cancel()
            while pruner.load().rows or server.counters.running:
                await asyncio.sleep(0.01)

    run(impatient())
    engine.close()
    assert not engine._traces


@pytest.mark.slow
def test_five_hundred_leave_and_fifty_deaths_and_nobody_hangs(server: CompletionsServer, tiny_model: Path) -> None:
    """Every request ends, and nothing is left of it; after the storm every token is counted again."""
    engine, spec, rng = served(server, tiny_model), SamplingSpec(max_tokens=40), random.Random(0)

    async def one(pruner: Pruner, number: int) -> PruneResult | BaseException:
        limits = {"deadline_s": rng.choice([None, 0.05, 5.0]), "token_budget": rng.choice([None, 1, 30])}
        asked = pruner.prune("x", rng.randint(2, 6), spec=spec, seed=number, caller=str(number % 7), **limits)
        task = asyncio.create_task(asked)
        if number % 2:
            await asyncio.sleep(rng.random() / 5)
            task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    async def all_of_them() -> None:
        async with Pruner(engine, max_rows=48) as pruner:
            for death in range(50):
                server.habits.die_after, server.habits.deaths = rng.randint(0, 20), 1
                ended = await asyncio.gather(*(one(pruner, death * 20 + number) for number in range(20)))
                expected = (PruneResult, asyncio.CancelledError, EngineError)
                assert all(isinstance(end, expected) for end in ended), ended
                assert sum(isinstance(end, PruneResult) for end in ended)
            server.habits.deaths = 0
            while (load := pruner.load()).rows or load.running or load.waiting or server.counters.running:
                await asyncio.sleep(0.01)
            stormy, computed = load.spent.generated + load.spent.overrun, server.counters.generated
            assert 0 < stormy <= computed, "what a server computes behind a closed stream is not told"
            await asyncio.gather(*(pruner.prune("x", 3, spec=spec, seed=seed) for seed in range(20)))
            assert pruner.load().spent.generated + pruner.load().spent.overrun - stormy == (
                server.counters.generated - computed
            )

    run(all_of_them())
    assert not engine._traces and not engine._streams._tasks
    engine.close()


def held_bytes(engine: TransformersEngine) -> int:
    """What the buffers for keys and values take."""
    buffers = [slot.buffer for slot in engine._batch._cache._slots]
    return sum(buffer.nbytes for buffer in buffers if buffer is not None)


@pytest.mark.parametrize("seed", range(3))
def test_keys_and_values_never_take_more_than_they_may(tiny: TransformersEngine, seed: int) -> None:
    """Problems of many sizes, with rules that start more traces later: all are done, and alone where need be."""
    draw = random.Random(seed)
    room = CacheRoom.of(memory := 40 * 60 * tiny.cache_token_bytes(), tiny.cache_token_bytes())
    core, done = Controller(tiny, max_rows=1000, room=room), 0
    asked = [
        (draw.randrange(2, 14), draw.choice([5, 20, 40]), draw.choice([AHEAD, SHORTEST_WAIT])) for _ in range(30)
    ]
    waiting = [
        PruneRequest("x" * draw.randrange(1, 9), n, SamplingSpec(max_tokens=cap), rule, answers=ANY, seed=k).task(
            tiny, None
        )
        for k, (n, cap, rule) in enumerate(asked)
    ]
    crowds = set()
    while waiting or core.active:
        while waiting and core.has_room(waiting[0]):
            core.submit(waiting.pop(0))
        crowds.add(len(core.active))
        done += len(core.step())
        assert held_bytes(tiny) <= memory
    assert done == 30 and max(crowds) > 1
    assert held_bytes(tiny) == 0


def test_a_problem_that_is_larger_than_the_memory_runs_alone(tiny: TransformersEngine) -> None:
    core = Controller(tiny, max_rows=1000, room=CacheRoom(10))
    tasks = [
        PruneRequest("x", 6, SamplingSpec(max_tokens=30), answers=ANY, seed=k).task(tiny, None) for k in range(2)
    ]
    run, done = core.submit(tasks[0]), []
    while not done:
        assert not core.has_room(tasks[1]) and run.places <= tasks[0].first
        done = core.step()
    assert done == [run] and core.has_room(tasks[1])


def test_memory_that_another_engine_looks_after_is_not_given(tmp_path: Path) -> None:
    class Elsewhere:
        """No more of an engine than is asked for before it runs."""

    async def opened() -> None:
        async with Pruner(Elsewhere(), cache_gib=1.0):
            pass

    with pytest.raises(InputError, match=r"cache_gib = 1\.0: this engine keeps"):
        run(opened())
    with pytest.raises(InputError, match="cache_gib = 0"):
        Pruner("x", cache_gib=0)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert free_host_bytes(tmp_path) == 600 and free_host_bytes(tmp_path / "nowhere") > 600
