"""Pruned consensus for many callers at once: one engine, one thread that drives it, any number of asyncio tasks.

    async with Pruner("path/of/model") as pruner:
        results = await asyncio.gather(*(pruner.prune(problem, n=16) for problem in problems))

The same stepping core as `run_live`'s (controller.py), so that an answer is that of `prune` with the same seed. The
thread is in driver.py.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from types import TracebackType

from secateur.deepprune.driver import Busy, Driver, Load, Opened, PruneProgress, Ticket
from secateur.deepprune.evidence import Rule
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.folder import load_judge
from secateur.deepprune.prune import DEFAULT_SPEC, Problem, PruneRequest, PruneResult
from secateur.engines.base import Engine, SamplingSpec
from secateur.engines.registry import engine_kind, open_engine
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON
from secateur.tasks.answers.kinds import MATHEMATICS, Answers


class Pruner:
    """Many callers, one engine: `async with Pruner(engine, judge) as pruner: result = await pruner.prune(problem)`.

    `engine` is open already, or it is the model's folder, Hub id or served name, which is opened by the engine `kind`
    (transformers, vllm, openai or package.module:Class) with its `engine_options`, in `dtype` (None: the first that
    the kind knows) on `device`, and closed at the end. `judge` is one, or its folder. One thread drives the engine,
    and nobody else may use it meanwhile.

    `max_rows`: a problem is started while the traces it starts at once and those held for others are at most so many
    (one that is larger than that runs alone); its rule may start more of them later. `max_waiting`: problems that
    wait for that; more are refused with `Busy`. Callers take turns. `cache_gib` [GiB]: memory in which the keys and
    values of all traces must fit, were each to come to its cap; None: half of what is free once the engine is open.
    Only for the engine `transformers`: others look after it themselves.

    A request that fails, or whose caller was cancelled, touches no other. An engine that fails (`EngineError`) fails
    those that run; those that come later find out whether it works again, as that of a server does which is back.
    Several GPUs: one process with a pruner each, or vLLM's own data parallelism behind `kind="openai"`.
    """

    def __init__(
        self,
        engine: Engine | str,
        judge: Judge | str | None = None,
        *,
        max_rows: int = 256,
        max_waiting: int = 1024,
        cache_gib: float | None = None,
        kind: str = "transformers",
        dtype: str | None = None,
        device: str = "auto",
        engine_options: Mapping[str, JSON] | None = None,
    ) -> None:
        for key, value in (("max_rows", max_rows), ("max_waiting", max_waiting)):
            if value < 1:
                raise InputError(f"{key} = {value}: somebody must run; write 1 or more")
        if cache_gib is not None and not 0 < cache_gib < math.inf:
            raise InputError(f"cache_gib = {cache_gib}: write GiB above 0, or None for half of what is free")
        self._engine, self._judge, self._max_waiting = engine, judge, max_waiting
        self._kind, self._dtype, self._device, self._options = kind, dtype, device, dict(engine_options or {})
        self._driver = Driver(self._open, isinstance(engine, str), max_rows, cache_gib)
        self._closing = False
        self._futures: set[asyncio.Future[PruneResult]] = set()

    async def __aenter__(self) -> "Pruner":
        """Opens what is not open yet, beside the event loop. Raises `InputError` as the engine and the judge do."""
        self._driver.thread.start()
        await asyncio.wrap_future(self._driver.opened)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends what runs: callers that still wait get `Busy`. `drain` first to have it finished."""
        self._closing = True
        self._driver.call(self._driver.stop)
        await asyncio.wrap_future(self._driver.closed)

    async def drain(self) -> None:
        """Refuse new problems (`Busy`), and wait until those that run or wait are done."""
        self._closing = True
        while self._futures:
            await asyncio.wait(set(self._futures))

    async def prune(
        self,
        problem: Problem,
        n: int = 64,
        *,
        spec: SamplingSpec = DEFAULT_SPEC,
        rule: Rule | None = None,
        prompt_family: str | None = None,
        system_prompt: str | None = None,
        instruction: str | None = None,
        answers: Answers | str = MATHEMATICS,
        seed: int = 0,
        caller: str = "",
        token_budget: int | None = None,
        deadline_s: float | None = None,
        on_progress: Callable[[PruneProgress], None] | None = None,
    ) -> PruneResult:
        """Answer one problem as `secateur.prune` does, beside all others.

        `caller` names whose turn it is. `deadline_s` [seconds] counts from this call, waiting included.
        `on_progress` is called in the event loop, some ten times a second at most, while traces run; what it raises
        ends the request. A cap that the context does not hold is lowered without a warning. To cancel the task that
        waits here ends the problem's traces at the next engine step.

        Raises `Busy` where too many wait or the pruner is closing, and as `prune` does.
        """
        keys = (spec, rule, prompt_family, system_prompt, instruction)
        asked = Answers(answers) if isinstance(answers, str) else answers
        request = PruneRequest(problem, n, *keys, asked, seed, token_budget, deadline_s)
        self._check_room()
        loop = asyncio.get_running_loop()
        ticket = Ticket(request, caller, loop, loop.create_future(), on_progress)
        return await self._answered(ticket)

    def load(self) -> Load:
        """How much it has to do now, and what it has done."""
        return self._driver.load()

    def _check_room(self) -> None:
        driver = self._driver
        if not driver.thread.is_alive() and not self._closing:
            raise RuntimeError("the pruner is not open: write 'async with Pruner(…) as pruner'")
        if self._closing:
            raise Busy("the pruner is closing; ask another", driver.retry_after_s)
        if driver.waiting >= self._max_waiting:
            raise Busy(f"{driver.waiting} problems wait already (max_waiting); ask later", driver.retry_after_s)

    async def _answered(self, ticket: Ticket) -> PruneResult:
        driver, deadline_s = self._driver, ticket.request.deadline_s
        driver.taken += 1
        driver.call(driver.take, ticket)
        timer = None if deadline_s is None else ticket.loop.call_later(deadline_s, driver.call, driver.expire, ticket)
        self._futures.add(ticket.future)
        try:
            return await ticket.future
        finally:
            self._futures.discard(ticket.future)
            if timer is not None:
                timer.cancel()
            if not ticket.settled:
                driver.call(driver.drop, ticket)

    def _open(self) -> Opened:
        """Engine and judge, opened where they are named."""
        named = isinstance(self._engine, str)
        judge = self._judge
        if isinstance(judge, str):
            judge = load_judge(judge, self._engine if named else None)
        if not named:
            return self._engine, judge
        dtype = self._dtype or (*engine_kind(self._kind).dtypes, "auto")[0]
        layers = None if judge is None else judge.capture_layers
        places = {"dtype": dtype, "device": self._device, "capture_layers": layers or None}
        engine = open_engine(self._kind, self._engine, rows=self._driver.max_rows, options=self._options, **places)
        return engine, judge
