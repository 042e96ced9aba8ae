"""Many callers at once: each is answered or refused by 429, with its own answer, which is that of `prune`."""

import asyncio
from collections import Counter
from pathlib import Path

import openai
import pytest

from secateur import PruneResult, SamplingSpec, TransformersEngine, prune
from secateur.tasks.answers.extraction import answer_part
from tests.serve.running import KEYS, MODEL, TEXTS, Server

pytestmark = pytest.mark.slow

CALLERS, REQUESTS, SEEDS, N = 200, 5, 5, 6
EXACT = (*KEYS, "--dtype", "float64", "--n", str(N), "--rows", "96", "--most_waiting", "120")


def expected(repository: Path) -> dict[tuple[str, int], PruneResult]:
    engine = TransformersEngine(str(repository / "trainers" / "embedded_model"), dtype="float64")
    spec = SamplingSpec(1.0, 1.0, 0, 300)
    asked = [(text, seed) for text in TEXTS for seed in range(SEEDS)]
    return {
        (text, seed): prune(text, engine, n=N, spec=spec, prompt_family="plain", seed=seed) for text, seed in asked
    }


def check(got: openai.types.chat.ChatCompletion, known: PruneResult) -> None:
    told = got.model_extra["secateur"]
    assert (told["answer"], told["votes"]) == (known.answer, dict(known.votes))
    assert told["traces"]["started"] == known.started and told["traces"]["stopped"] == known.stopped
    assert got.usage.completion_tokens == known.usage.generated
    assert known.text is None or got.choices[0].message.content == answer_part(known.text).lstrip()


async def call(client: openai.AsyncOpenAI, caller: int, known: dict[tuple[str, int], PruneResult]) -> Counter[int]:
    """One caller's requests, one after the other; statuses → how many."""
    statuses = Counter[int]()
    for request in range(REQUESTS):
        text, seed = TEXTS[(caller + request) % len(TEXTS)], (caller // 3 + request) % SEEDS
        asked = {"model": MODEL, "messages": [{"role": "user", "content": text}], "seed": seed, "user": str(caller)}
        try:
            check(await client.chat.completions.create(**asked), known[text, seed])
            statuses[200] += 1
        except openai.RateLimitError as error:
            assert int(error.response.headers["retry-after"]) >= 1
            statuses[429] += 1
    return statuses


def test_two_hundred_callers_get_their_own_answers(repository: Path, tmp_path: Path) -> None:
    known = expected(repository)

    async def all_at_once(url: str) -> Counter[int]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=1500) as client:
            return sum(await asyncio.gather(*(call(client, k, known) for k in range(CALLERS))), Counter())

    with Server(tmp_path / "log.jsonl", keys=EXACT) as server:
        statuses = asyncio.run(all_at_once(server.url))
        assert sum(statuses.values()) == CALLERS * REQUESTS and statuses[200] and statuses[429]
        told = server.metrics()
        answered = 'secateur_requests_total{endpoint="/v1/chat/completions",status="200"}'
        assert told[answered] == statuses[200] and told["secateur_rows"] == told["secateur_waiting"] == 0
        assert told["secateur_spent_tokens"] == told['secateur_tokens_total{kind="generated"}']
        assert told["secateur_spent_overrun_tokens"] == told['secateur_tokens_total{kind="overrun"}']
        assert server.stop() == 0
