"""OpenAI's own client and curl change a base URL and nothing else; what they get is what `prune` answers."""

import asyncio
import json
import subprocess
from pathlib import Path

import openai
import pytest

from secateur import FEWEST_TOKENS, SHORTEST_WAIT, SamplingSpec, TransformersEngine, prune
from secateur.tasks.answers.extraction import answer_part
from tests.serve.running import MODEL, TEXTS, Server, chat_body

SPEC = SamplingSpec(1.0, 1.0, 0, 300)


@pytest.fixture(scope="module")
def engine(repository: Path) -> TransformersEngine:
    return TransformersEngine(str(repository / "trainers" / "embedded_model"), dtype="float32")


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="not asked for", max_retries=0)


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(("rule", "known"), [("fewest_tokens", FEWEST_TOKENS), ("shortest_wait", SHORTEST_WAIT)])
def test_a_chat_gets_what_prune_answers(
    client: openai.OpenAI, engine: TransformersEngine, rule: str, known: object
) -> None:
    for seed, text in enumerate(TEXTS):
        wishes = {"secateur": {"rule": rule, "thinking": True}}
        got = client.chat.completions.create(model=MODEL, messages=messages(text), n=6, seed=seed, extra_body=wishes)
        expected = prune(text, engine, n=6, spec=SPEC, rule=known, prompt_family="plain", seed=seed)
        told = got.model_extra["secateur"]
        assert told["answer"] == expected.answer and told["votes"] == dict(expected.votes)
        assert (told["rule"], told["ended"], told["judge"]) == (rule, "decided", None)
        assert told["traces"] == {
            "n": 6, "started": expected.started, "finished": expected.finished, "stopped": expected.stopped,
        }  # fmt: skip
        assert told["full_vote_tokens"] == expected.full_vote_tokens
        (choice,) = got.choices
        assert choice.message.content == (expected.text or choice.message.content)
        assert choice.message.role == "assistant"
        assert got.usage.completion_tokens == expected.usage.generated
        assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens


def test_content_is_the_answer_without_its_thinking_unless_asked_for(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model=MODEL, messages=messages(TEXTS[0])).choices[0].message.content
    whole = client.chat.completions.create(
        model=MODEL, messages=messages(TEXTS[0]), extra_body={"secateur": {"thinking": True}}
    )
    assert plain == answer_part(whole.choices[0].message.content).lstrip()
    assert "</think>" in whole.choices[0].message.content and "</think>" not in plain


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "messages": messages(TEXTS[1]), "extra_body": {"secateur": {"thinking": True}}}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.object for chunk in chunks} == {
        "chat.completion.chunk"
    }
    *pieces, last, usage = chunks
    assert [piece.choices[0].delta.role for piece in pieces] == ["assistant"] + [None] * (len(pieces) - 1)
    assert "".join(piece.choices[0].delta.content for piece in pieces) == whole.choices[0].message.content
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.model_extra["secateur"] == whole.model_extra["secateur"]
    assert usage.choices == [] and usage.usage == whole.usage
    without = list(client.chat.completions.create(**asked, stream=True))
    assert all(chunk.usage is None for chunk in without) and without[-1].choices[0].finish_reason


def test_completions_take_a_prompt_as_it_is(client: openai.OpenAI, engine: TransformersEngine) -> None:
    rendered = engine.tokenizer.apply_chat_template(messages(TEXTS[0]), tokenize=False, add_generation_prompt=True)
    ours = client.completions.create(model=MODEL, prompt=rendered, max_tokens=200)
    chat = client.chat.completions.create(model=MODEL, messages=messages(TEXTS[0]), max_tokens=200)
    assert ours.object == "text_completion" and ours.choices[0].text == chat.choices[0].message.content
    assert ours.usage == chat.usage
    parts = client.completions.create(model=MODEL, prompt=rendered, max_tokens=200, stream=True)
    assert "".join(chunk.choices[0].text for chunk in parts) == ours.choices[0].text


def test_many_async_callers_get_their_own_answers(server: Server, client: openai.OpenAI) -> None:
    alone = [client.chat.completions.create(model=MODEL, messages=messages(text)) for text in TEXTS]

    async def all_at_once() -> list[openai.types.chat.ChatCompletion]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as ours:
            asked = [ours.chat.completions.create(model=MODEL, messages=messages(text)) for text in TEXTS * 4]
            return await asyncio.gather(*asked)

    for got, expected in zip(asyncio.run(all_at_once()), alone * 4, strict=True):
        assert got.choices == expected.choices
        assert got.model_extra["secateur"]["answer"] == expected.model_extra["secateur"]["answer"]


def test_the_served_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.models.retrieve("other")


def test_free_text_is_one_trace(client: openai.OpenAI) -> None:
    one = client.chat.completions.create(
        model=MODEL, messages=messages(TEXTS[0]), extra_body={"secateur": {"answers": "none"}}
    )
    assert one.model_extra["secateur"]["traces"]["n"] == 1 and one.choices[0].message.content
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=MODEL, messages=messages(TEXTS[0]), n=4, extra_body={"secateur": {"answers": "none"}}
        )


def test_a_budget_returns_the_best_vote_so_far(client: openai.OpenAI) -> None:
    spent = []
    for budget in (1, 200, 100_000):
        wishes = {"secateur": {"token_budget": budget, "rule": "shortest_wait"}}
        got = client.chat.completions.create(model=MODEL, messages=messages(TEXTS[0]), n=8, extra_body=wishes)
        ended, told = got.model_extra["secateur"]["ended"], got.model_extra["secateur"]
        assert ended == ("decided" if budget == 100_000 else "token_budget")
        assert got.choices[0].finish_reason == ("stop" if told["answer"] is not None else "length")
        spent.append(got.usage.completion_tokens)
    assert spent == sorted(spent)


def test_curl_gets_the_same(server: Server) -> None:
    path = f"{server.url}/v1/chat/completions"
    command = ["curl", "-sS", path, "-H", "Content-Type: application/json", "-d", json.dumps(chat_body())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"] == server.chat().json()["choices"]
    stream = [*command[:-1], json.dumps(chat_body(stream=True)), "-N"]
    lines = subprocess.run(stream, capture_output=True, text=True, check=True).stdout.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith((": ", "data: ")) for line in lines[:-1])
