"""What is sent back: OpenAI's objects, with what pruning did under `secateur`; whole, or as a stream of chunks."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from secateur.runtime.files import JSON
from secateur.serve.schema import Refusal

KEEP_ALIVE = b": the traces run\n\n"
"""A comment, which clients pass over; it keeps proxies from closing a silent connection."""
DONE = b"data: [DONE]\n\n"
_PIECE = 48  # characters of a chunk


@dataclass(frozen=True)
class Spent:
    """Tokens that a request took, whatever became of it. `prompt` counts the prompt once, `cached` what was found in
    a cache of its readings; `generated` all tokens of all traces, `overrun` those computed after a stop, `judge` what
    a judge read or generated."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    overrun: int = 0
    judge: int = 0

    @property
    def body(self) -> dict[str, JSON]:
        """OpenAI's `usage`, and the rest beside it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "generated_tokens": self.generated,
            "overrun_tokens": self.overrun,
            "judge_tokens": self.judge,
            "cached_tokens": self.cached,
        }


@dataclass(frozen=True)
class Consensus:
    """The field `secateur` of an answer. `votes` are those of the finished traces' answers; of `n` traces so many
    `started`, `finished` and were `stopped`; `full_vote_tokens` estimates what n full traces would have generated,
    None where none finished; `ended`: "decided", or by what the vote was cut short."""

    answer: str | None
    votes: Mapping[str, int]
    n: int
    started: int
    finished: int
    stopped: int
    full_vote_tokens: int | None
    rule: str
    judge: str
    ended: str

    @property
    def body(self) -> dict[str, JSON]:
        return {
            "answer": self.answer,
            "votes": dict(self.votes),
            "traces": {"n": self.n, "started": self.started, "finished": self.finished, "stopped": self.stopped},
            "full_vote_tokens": self.full_vote_tokens,
            "rule": self.rule,
            "judge": self.judge or None,
            "ended": self.ended,
        }


@dataclass(frozen=True)
class Reply:
    """The answer to a request, before it has a form. `finish_reason` is "stop" where the text is whole, "length"
    where a cap, the budget or the deadline ended it."""

    text: str
    finish_reason: str
    spent: Spent
    consensus: Consensus


@dataclass(frozen=True)
class Form:
    """How one endpoint writes its answers; `name` is what its objects are called, `model` the served name."""

    chat: bool
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}"

    def whole(self, reply: Reply) -> dict[str, JSON]:
        """The body of an answer that is no stream."""
        said = {"message": {"role": "assistant", "content": reply.text}} if self.chat else {"text": reply.text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reply.finish_reason}
        kind = "chat.completion" if self.chat else "text_completion"
        return self._object(kind, [choice]) | {"usage": reply.spent.body, "secateur": reply.consensus.body}

    def chunks(self, reply: Reply, with_usage: bool) -> Iterator[bytes]:
        """A stream: the text in pieces, the reason of its end with what pruning did, the usage if it is wanted."""
        yield from (event(self._chunk(piece, None, first)) for piece, first in _pieces(reply.text))
        yield event(self._chunk("", reply.finish_reason, False) | {"secateur": reply.consensus.body})
        if with_usage:
            yield event(self._object(self._chunk_kind, []) | {"usage": reply.spent.body})
        yield DONE

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, text: str, finish_reason: str | None, first: bool) -> dict[str, JSON]:
        role = {"role": "assistant"} if first else {}
        delta = {**role, "content": text} if finish_reason is None else {}
        said = {"delta": delta} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        return self._object(self._chunk_kind, [choice])

    def _object(self, kind: str, choices: list[JSON]) -> dict[str, JSON]:
        return {"id": self.name, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """(piece, whether it is the first), at least one; pieces join to the text."""
    return ((text[start : start + _PIECE], start == 0) for start in range(0, max(len(text), 1), _PIECE))


def event(value: Mapping[str, JSON]) -> bytes:
    """
    >>> event({"a": "é"})
    b'data: {"a": "\\\\u00e9"}\\n\\n'
    """
    return f"data: {json.dumps(value)}\n\n".encode()


def broken(refusal: Refusal) -> Iterator[bytes]:
    """How a stream ends that has begun and cannot be answered."""
    yield event(refusal.body)
    yield DONE
