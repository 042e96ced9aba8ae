"""What the service costs over the engine that it serves: one process, the same engine, HTTP against direct calls.

    OMP_NUM_THREADS=1 python bench/serve.py [--problems 48] [--n 8] [--rows 64] [--repeats 3] [--lone 40] [--steady N]

Throughput: all problems at once by `run_live`, and by as many HTTP callers; in turn, with new traces each time. Lone
requests: by `prune` and by HTTP in turn, the same seeds; shown are median, 95th percentile, and the ratio of these.
Steady: small requests (2 to 4 traces of 8 tokens) one after another, 16 at once; resident memory and open handles of
the process after each tenth, and their growth in either half.
The caller is in the same process as well, so that its work counts against the service. On a machine with other work
to do the processor time says more than the clock.
"""

import argparse
import asyncio
import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import uvicorn

from secateur.deepprune.answers import AHEAD
from secateur.deepprune.controller import run_live
from secateur.deepprune.prune import job_of, prune
from secateur.deepprune.pruner import Pruner
from secateur.engines.base import Engine, SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.runtime.console import say, use_one_torch_thread
from secateur.runtime.process import entry_point
from secateur.serve.answering import Offer, Service
from secateur.serve.app import Limits, application
from secateur.serve.server import bind
from secateur.serve.watch import percentile
from secateur.tasks.answers.kinds import Answers
from secateur.tasks.prompts import Prompt
from secateur.tasks.sources import load_problems

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "trainers" / "embedded_model"
SPEC = SamplingSpec(1.0, 1.0, 0, 300)
PLAIN = Prompt("plain")
_AT_ONCE = 16
_PARTS = 10
_FEW = 8  # tokens


@dataclass(frozen=True)
class Place:
    """Where the service of this process answers, and how many traces a request gets."""

    url: str
    n: int

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(base_url=self.url, timeout=None, limits=limits)

    async def ask(self, client: httpx.AsyncClient, text: str, seed: int, **fields: int) -> str | None:
        """The vote's answer; `fields` of the request are others than usual."""
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "n": self.n, "seed": seed, **fields}
        response = await client.post("/v1/chat/completions", json=body)
        return response.raise_for_status().json()["secateur"]["answer"]


@contextmanager
def served(engine: Engine, n: int, rows: int) -> Iterator[Place]:
    """The service in a thread; while it has no request, the engine may be used by others."""
    bound, stop = bind("127.0.0.1", 0), threading.Event()
    rules = {"automatic": AHEAD}
    offer = Offer("m", SPEC, n, n, rules, "automatic", Answers(), PLAIN, 0, None, 600.0, most_waiting=10_000)

    async def serve() -> None:
        async with Pruner(engine, max_rows=rows, max_waiting=10_000) as pruner:
            app = application(Service(pruner, engine.tokenizer, offer), Limits())
            server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_level="error"))
            running = asyncio.ensure_future(server.serve(sockets=[bound]))
            await asyncio.to_thread(stop.wait)
            server.should_exit = True
            await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    _wait_for(url)
    yield Place(url, n)
    stop.set()
    thread.join()


def _wait_for(url: str) -> None:
    while True:
        try:
            httpx.get(f"{url}/health")
            return
        except httpx.TransportError:
            time.sleep(0.05)


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of processor time of all threads of this process."""

    wall: float
    processor: float


def timed(work: Callable[[], object]) -> Took:
    """What it takes."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - wall, time.process_time() - processor)


def direct(engine: Engine, texts: Sequence[str], n: int, rows: int, seed: int) -> None:
    """All problems by `run_live`."""
    jobs = [job_of(text, engine, PLAIN, n, seed) for text in texts]
    assert len(list(run_live(engine, jobs, SPEC, None, AHEAD, rows))) == len(texts)


def over_http(place: Place, texts: Sequence[str], seed: int) -> None:
    """All problems by as many callers."""

    async def all_at_once() -> None:
        async with place.client() as client:
            await asyncio.gather(*(place.ask(client, text, seed) for text in texts))

    asyncio.run(all_at_once())


def show_throughput(engine: Engine, place: Place, texts: Sequence[str], rows: int, repeats: int) -> None:
    runs = []
    for seed in range(repeats + 1):  # the first warms up
        mine = timed(lambda seed=seed: direct(engine, texts, place.n, rows, seed))
        theirs = timed(lambda seed=seed: over_http(place, texts, seed))
        runs.append((mine, theirs))
    for key, goal in (("wall", " (goal ≥ .9)"), ("processor", "")):
        ratios = [getattr(mine, key) / getattr(theirs, key) for mine, theirs in runs[1:]]
        told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        say(f"throughput by {key} time, service ÷ run_live: {statistics.median(ratios):.2f}{goal}; runs: {told}")


def show_lone(engine: Engine, place: Place, texts: Sequence[str], count: int) -> None:
    """Each request twice, with either side first."""
    seconds: dict[str, list[float]] = {"prune": [], "service": []}

    async def asked() -> None:
        async with place.client() as client:
            for k in range(2 * count):
                text, seed = texts[k // 2 % len(texts)], k // 2 // len(texts)
                answers = set()
                for side in sorted(seconds, reverse=bool(k % 2)):
                    begin = time.perf_counter()
                    if side == "service":
                        answers.add(await place.ask(client, text, seed))
                    else:
                        asked = {"n": place.n, "spec": SPEC, "prompt_family": "plain", "seed": seed}
                        answers.add(prune(text, engine, **asked).answer)
                    seconds[side].append(time.perf_counter() - begin)
                assert len(answers) == 1, (text, answers)

    asyncio.run(asked())
    own, http = seconds["prune"], seconds["service"]
    for name, values in (("prune", own), ("service", http)):
        say(f"lone request by {name}: median {percentile(values, 50):.3f} s, p95 {percentile(values, 95):.3f} s")
    paired = statistics.median(b / a for a, b in zip(own, http, strict=True))
    ratio = percentile(http, 95) / percentile(own, 95)
    say(f"lone request, service ÷ prune: p95 {ratio:.2f} (goal ≤ 1.1), median of pairs {paired:.2f}")


def show_steady(place: Place, texts: Sequence[str], count: int) -> None:
    """Memory and handles after each tenth of small requests, and how both grow in either half."""
    process, seen = psutil.Process(), list[tuple[float, float, int]]()

    async def some(first: int, last: int) -> None:
        async with place.client() as client:
            left = iter(range(first, last))

            async def caller() -> None:
                for k in left:
                    await place.ask(client, texts[k % len(texts)], k, n=2 + k % 3, max_tokens=_FEW)

            await asyncio.gather(*(caller() for _ in range(_AT_ONCE)))

    for part in range(_PARTS):
        asked = count * (part + 1) // _PARTS
        asyncio.run(some(count * part // _PARTS, asked))
        gc.collect()
        seen.append((asked / 1000, process.memory_info().rss / 2**20, process.num_fds()))
        say(f"steady, after {asked:,} requests: {seen[-1][1]:.1f} MiB resident, {seen[-1][2]} open handles")
    for name, half in (("first", seen[: _PARTS // 2]), ("second", seen[_PARTS // 2 :])):
        thousands, memory, handles = zip(*half, strict=True)
        slopes = [statistics.linear_regression(thousands, values).slope for values in (memory, handles)]
        say(f"steady, {name} half: {slopes[0]:+.2f} MiB and {slopes[1]:+.2f} handles for 1,000 requests")


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, told in (
        ("problems", 48, "of a throughput run"),
        ("n", 8, "traces of a request"),
        ("rows", 64, "traces at once"),
        ("repeats", 3, "throughput runs of each"),
        ("lone", 40, "lone requests, each made twice"),
        ("steady", 500, "requests of the steady run"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=told)
    options = parser.parse_args()
    use_one_torch_thread()
    engine = TransformersEngine(str(EMBEDDED), dtype="float32")
    texts = [problem.problem for problem in load_problems("arithmetic:test", options.problems, 0)]
    with served(engine, options.n, options.rows) as place:
        if options.repeats:
            show_throughput(engine, place, texts, options.rows, options.repeats)
        if options.lone:
            show_lone(engine, place, texts, options.lone)
        if options.steady:
            show_steady(place, texts, options.steady)


if __name__ == "__main__":
    main()
