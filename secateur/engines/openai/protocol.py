"""The completions protocol of OpenAI-compatible servers: what is asked for, and what one streamed chunk says.

Fields beyond OpenAI's own are vLLM's (docs.vllm.ai, "Extra parameters"; SGLang and llama.cpp share several); a server
of which only text is known is sent OpenAI's, and `top_k` where it is set.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from secateur.engines.base import EngineError, SamplingSpec
from secateur.runtime.files import JSON

_SEEDS = 2**31  # some servers read a seed as a signed 32-bit number


@dataclass(frozen=True)
class Dialect:
    """What a server was found to understand. `ids`: prompts as token ids, and ids in the answer; `usage`: it takes
    `stream_options`; `context` [tokens] is its longest prompt and completion, None if it does not say."""

    ids: bool
    usage: bool
    context: int | None = None


@dataclass
class Chunk:
    """New tokens of one trace's stream. `computed` [tokens] is what the server says it has generated in this request,
    `cached` how much of the prompt it had, both None where it does not say; `prefill` [tokens] is set on the first
    chunk of a request; `correction` [tokens] on its last: what the server's count has more than ours."""

    trace: int
    token_ids: tuple[int, ...] = ()
    text: str = ""
    done: str | None = None
    confidences: tuple[float, ...] = ()
    computed: int | None = None
    cached: int | None = None
    prefill: int = 0
    correction: int = 0
    error: Exception | None = None

    @property
    def empty(self) -> bool:
        return not self.token_ids and not self.text and self.done is None

    def spread_confidences(self) -> None:
        """One per token id; where text was cut into other tokens than the server's, their mean stands for each."""
        if self.confidences and len(self.confidences) != len(self.token_ids):
            self.confidences = (sum(self.confidences) / len(self.confidences),) * len(self.token_ids)


@dataclass
class Request:
    """One stream of one trace: the prompt with all tokens it had before, and what has come since."""

    trace: int
    prompt_ids: list[int]
    prompt_text: str
    spec: SamplingSpec
    seed: int
    budget: int
    phase: int
    received: int = 0
    retries: int = 0
    opened: bool = False
    new_ids: list[int] = field(default_factory=list)
    new_text: list[str] = field(default_factory=list)

    def restart(self) -> None:
        """Turn what has come into prompt: the stream broke and is opened again from there."""
        self.prompt_ids, self.prompt_text = self.prompt_ids + self.new_ids, self.prompt_text + "".join(self.new_text)
        self.budget -= self.received
        self.received, self.new_ids, self.new_text, self.opened = 0, [], [], False
        self.retries += 1

    def body(self, model: str, dialect: Dialect, extra: Mapping[str, JSON]) -> dict[str, JSON]:
        """The JSON of the request; the seed is another one for each phase and retry, or the numbers would repeat."""
        spec = self.spec
        body: dict[str, JSON] = {
            "model": model,
            "prompt": self.prompt_ids if dialect.ids else self.prompt_text,
            "max_tokens": self.budget,
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "seed": phase_seed(self.seed, self.phase, self.retries),
            "stream": True,
        }
        if spec.top_k:
            body["top_k"] = spec.top_k
        if spec.top_logprobs:
            body["logprobs"] = spec.top_logprobs
        return body | options(dialect) | dict(extra)


def options(dialect: Dialect) -> dict[str, JSON]:
    """The fields that every request to this server carries. Penalties and cut-offs that a model's generation config
    may set as the server's default are switched off by name: a spec says all there is to sampling."""
    fields: dict[str, JSON] = {"stream_options": {"include_usage": True}} if dialect.usage else {}
    if dialect.ids:
        fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        fields |= {"return_token_ids": True, "return_tokens_as_token_ids": True, "add_special_tokens": False}
        fields |= {"repetition_penalty": 1.0, "min_p": 0.0}
    return fields


def phase_seed(seed: int, phase: int, retry: int) -> int:
    digest = hashlib.sha256(f"{seed}|{phase}|{retry}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SEEDS


def read_chunk(trace: int, payload: str, top_logprobs: int) -> Chunk:
    """One `data:` line. Raises `EngineError` for an error that the server put into the stream, and for a line that is
    no completion chunk."""
    try:
        record = json.loads(payload)
        if "error" in record:
            raise EngineError(f"the server reports: {error_text(record)}")
        chunk = Chunk(trace)
        _read_usage(chunk, record.get("usage"))
        for choice in record.get("choices") or ():
            chunk.text += choice.get("text") or ""
            chunk.token_ids += tuple(choice.get("token_ids") or ())
            chunk.done = choice.get("finish_reason") or chunk.done
            if top_logprobs:
                chunk.confidences += confidences(choice.get("logprobs"), top_logprobs)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise EngineError(f"the server sent {payload[:200]!r}, no completion chunk ({error})") from None
    return chunk


def _read_usage(chunk: Chunk, usage: Mapping[str, JSON] | None) -> None:
    if usage:
        chunk.computed = usage.get("completion_tokens")
        chunk.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


def confidences(logprobs: Mapping[str, JSON] | None, count: int) -> tuple[float, ...]:
    """−mean of the `count` top log-probabilities of each token. Servers add the drawn token where it is not among
    them, so the smallest beyond `count` is left out."""
    values = []
    for top in (logprobs or {}).get("top_logprobs") or ():
        best = sorted(top.values(), reverse=True)[:count]
        values.append(-sum(best) / len(best))
    return tuple(values)


def error_text(record: JSON) -> str:
    """The message in an error answer, whatever its shape."""
    error = record.get("error", record) if isinstance(record, dict) else record
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]


def metric(page: str, endings: Iterable[str]) -> float | None:
    """Sum over the labels of the first Prometheus metric whose name ends with one of `endings`; None if there is
    none."""
    for ending in endings:
        values = _values(page.splitlines(), ending)
        if values:
            return sum(values)
    return None


def _values(lines: Sequence[str], ending: str) -> list[float]:
    found = []
    for line in lines:
        name, _, rest = line.partition("{" if "{" in line else " ")
        if name.endswith(ending):
            found.append(float(rest.rpartition(" ")[2]))
    return found
