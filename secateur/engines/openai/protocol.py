"""The completions protocol of OpenAI-compatible servers: what is asked for, and what one streamed chunk says.

Fields beyond OpenAI's own are vLLM's (docs.vllm.ai, "Extra parameters"; SGLang shares them) and llama.cpp's
(tools/server/README.md). Every key of sampling is sent, those that are off too: a server has defaults of its own
(llama.cpp: top_k 40, min_p .05; vLLM: those of the model's generation config), and a spec says all there is to it.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum

import httpx

from secateur.engines.base import EngineError, SamplingSpec
from secateur.runtime.cards import clean
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON

_MOST_SHOWN = 500  # characters of a server's words in a message
_SEEDS = 2**31  # some servers read a seed as a signed 32-bit number
_ENDS = {"stop": "stop", "length": "length", "eos_token": "stop", "stop_sequence": "stop"}  # the last two are TGI's
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses after which trying again makes sense
WAITED_FOR = (429, 503)  # of these, those that say: later
_BUSY_WORDS = ("rate_limit", "overloaded", "server_error", "internalserver", "unavailable", "timeout")


@dataclass(frozen=True)
class ApiKey:
    """The key of a server, read from the environment `variable`; no message and no repr shows its `value`."""

    variable: str
    value: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, variable: str) -> "ApiKey":
        """ "" where none is set. Space around it, such as the line break of the file it came from, is no part of it.
        Raises `InputError` for one that no header can hold."""
        value = os.environ.get(variable, "").strip()
        if not all("!" <= character <= "~" for character in value):
            raise InputError(
                f"the environment variable {variable} holds no key: there is a space, a line break or a letter "
                "beyond ASCII in it; set it again"
            )
        return cls(variable, value)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.value}"} if self.value else {}

    def quote(self, text: str) -> str:
        """What a server said, fit for a message: it may have sent back what it was sent."""
        return clean(text.replace(self.value, "(key)") if self.value else text)[:_MOST_SHOWN]


class Ids(Enum):
    """How a server tells the ids of its tokens: in vLLM's field, in llama.cpp's for debugging, or not."""

    VLLM = "vLLM"
    LLAMA_CPP = "llama.cpp"
    NONE = "none"


@dataclass(frozen=True)
class Dialect:
    """What a server was found to understand. `form`: how prompts and answers are token ids; `usage`: it takes
    `stream_options`; `context` [tokens] is its longest prompt and completion, None if it does not say; `server`: its
    kind by its own word, "" if it has none for it; `unsent`: the keys of sampling that it refuses."""

    form: Ids = Ids.VLLM
    usage: bool = True
    context: int | None = None
    server: str = ""
    unsent: frozenset[str] = frozenset()

    @property
    def ids(self) -> bool:
        return self.form is not Ids.NONE

    def sampling(self, spec: SamplingSpec) -> dict[str, JSON]:
        """The keys of sampling that every request to this server carries, beside its seed."""
        keys = {"temperature": spec.temperature, "top_p": spec.top_p, "top_k": spec.top_k or _NO_TOP_K} | _OFF
        if self.form is Ids.LLAMA_CPP or self.server == "llama.cpp":
            keys |= _LLAMA_CPP_OFF
        return {key: value for key, value in keys.items() if key not in self.unsent}


_ID_FIELDS: dict[Ids, dict[str, JSON]] = {
    Ids.VLLM: {"return_token_ids": True, "return_tokens_as_token_ids": True, "add_special_tokens": False},
    Ids.LLAMA_CPP: {"return_tokens": True, "verbose": True},
    Ids.NONE: {},
}
_NO_TOP_K = -1  # SGLang refuses 0
_OFF: dict[str, JSON] = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
# It has a name of its own for one of them, and cuts by top_p before it applies the temperature where all others cut
# after it; further samplers that its command line may switch on are left out of the list.
_LLAMA_CPP_OFF: dict[str, JSON] = {
    "repeat_penalty": 1.0,
    "mirostat": 0,
    "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
}
REFUSABLE = ("top_k", "seed", *_OFF)
"""Keys of sampling without which a server can be used: at its defaults, which are not known then."""


@dataclass
class Chunk:
    """New tokens of one trace's stream. `computed` [tokens] is what the server says it has generated in this request,
    `cached` how much of the prompt it had, both None where it does not say; `prefill` [tokens] is set on the first
    chunk of a request; `correction` [tokens] is what the server's count has more than ours."""

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
    """One stream of one trace: the prompt with all tokens it had before, and what has come since.

    `received` and `computed` [tokens] are what came, and what the server says it has generated, since the stream was
    opened; `correction` what it had more in those that broke, `settled` what of all that chunks carry; `retries`
    counts the breaks, `failures` those since a token came; `last` is the chunk that ended the trace."""

    trace: int
    prompt_ids: list[int]
    prompt_text: str
    spec: SamplingSpec
    seed: int
    budget: int
    phase: int
    received: int = 0
    computed: int = 0
    correction: int = 0
    settled: int = 0
    retries: int = 0
    failures: int = 0
    opened: bool = False
    last: Chunk | None = None
    new_ids: list[int] = field(default_factory=list)
    new_text: list[str] = field(default_factory=list)

    def restart(self) -> None:
        """Turn what has come into prompt: the stream broke and is opened again from there."""
        self.prompt_ids, self.prompt_text = self.prompt_ids + self.new_ids, self.prompt_text + "".join(self.new_text)
        self.budget -= self.received
        self.correction = self._missed()
        self.received, self.computed, self.new_ids, self.new_text, self.opened = 0, 0, [], [], False
        self.retries += 1

    def end(self) -> Chunk:
        """The trace's last chunk, which carries what the server counted more than we did."""
        last = self.last or Chunk(self.trace, done="length")
        last.correction = self.settle()
        return last

    def settle(self) -> int:
        """What the server counted more than we did and no chunk carries yet."""
        more = self._missed() - self.settled
        self.settled += more
        return more

    def _missed(self) -> int:
        return self.correction + (self.computed - self.received if self.computed else 0)

    def body(self, model: str, dialect: Dialect, extra: Mapping[str, JSON]) -> dict[str, JSON]:
        """The JSON of the request; the seed is another one for each phase and retry, or the numbers would repeat."""
        body: dict[str, JSON] = {
            "model": model,
            "prompt": self.prompt_ids if dialect.ids else self.prompt_text,
            "max_tokens": self.budget,
            "stream": True,
        }
        if "seed" not in dialect.unsent:
            body["seed"] = phase_seed(self.seed, self.phase, self.retries)
        if self.spec.top_logprobs:
            body["logprobs"] = self.spec.top_logprobs
        return body | dialect.sampling(self.spec) | _reporting(dialect) | dict(extra)


def _reporting(dialect: Dialect) -> dict[str, JSON]:
    """The fields that say what the stream is to tell beside its text."""
    fields: dict[str, JSON] = {"stream_options": {"include_usage": True}} if dialect.usage else {}
    if dialect.ids:
        fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return fields | _ID_FIELDS[dialect.form]


def phase_seed(seed: int, phase: int, retry: int) -> int:
    digest = hashlib.sha256(f"{seed}|{phase}|{retry}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SEEDS


def read_record(payload: str) -> dict[str, JSON]:
    """The JSON object of one `data:` line. Raises `EngineError` where there is none."""
    try:
        record = json.loads(payload)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise EngineError(f"the server sent no completion chunk, but: {payload}")
    return record


def read_chunk(trace: int, record: Mapping[str, JSON], top_logprobs: int) -> Chunk:
    """What one record of a stream says. Raises `EngineError` for one that is no completion chunk."""
    try:
        chunk = Chunk(trace)
        _read_usage(chunk, record.get("usage"))
        _read_verbose(chunk, record.get("__verbose"))
        for choice in record.get("choices") or ():
            chunk.text += choice.get("text") or ""
            chunk.token_ids += tuple(map(_whole, choice.get("token_ids") or ()))
            reason = choice.get("finish_reason")
            chunk.done = _ENDS.get(reason, reason) or chunk.done
            if top_logprobs:
                chunk.confidences += confidences(choice.get("logprobs"), top_logprobs)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise EngineError(f"the server sent no completion chunk ({error}), but: {json.dumps(record)}") from None
    return chunk


def _read_usage(chunk: Chunk, usage: Mapping[str, JSON] | None) -> None:
    if usage:
        chunk.computed = _whole(usage.get("completion_tokens"))
        chunk.cached = _whole((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))


def _whole(value: JSON) -> int | None:
    if value is None or type(value) is int:
        return value
    raise ValueError(f"{value!r} is no whole number")


def _read_verbose(chunk: Chunk, verbose: Mapping[str, JSON] | None) -> None:
    """The ids and the count that llama.cpp puts into a field for debugging, its end token's among them."""
    if verbose:
        chunk.token_ids = tuple(map(_whole, verbose.get("tokens") or ()))
        chunk.computed = _whole(verbose.get("tokens_predicted", chunk.computed))


def confidences(logprobs: Mapping[str, JSON] | None, count: int) -> tuple[float, ...]:
    """−mean of the `count` top log-probabilities of each token. Servers add the drawn token where it is not among
    them, so the smallest beyond `count` is left out."""
    values = []
    for top in _tops(logprobs or {}):
        best = sorted(top, reverse=True)[:count]
        if not best:
            raise ValueError("a token has no log-probabilities")
        values.append(-sum(best) / len(best))
    return tuple(values)


def _tops(logprobs: Mapping[str, JSON]) -> list[list[float]]:
    """Per token its top log-probabilities: a mapping from token to number in OpenAI's completions; in llama.cpp's,
    as in OpenAI's chat, a list of records under `content`."""
    if "content" in logprobs:
        return [[entry["logprob"] for entry in token["top_logprobs"]] for token in logprobs["content"] or ()]
    return [list(top.values()) for top in logprobs.get("top_logprobs") or ()]


def error_text(record: JSON) -> str:
    """The message in an error answer, whatever its shape."""
    error = record.get("error", record) if isinstance(record, dict) else record
    return str(error.get("message", error) if isinstance(error, dict) else error)


def retry_after_s(value: str) -> float:
    """Seconds that a Retry-After header asks for, a number or a date (RFC 9110, 10.2.3); 0 for anything else."""
    try:
        wait = float(value)
    except ValueError:
        try:
            wait = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return wait if wait > 0 else 0.0  # NaN is not


def is_busy(error: JSON) -> bool:
    """Whether an error that came within a stream is one after which trying again makes sense: there it has no status
    but a code or a type."""
    if not isinstance(error, dict):
        return False
    kind = str(error.get("type", "")).lower().replace(" ", "")
    return error.get("code") in BUSY or any(word in kind for word in _BUSY_WORDS)


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


def check_url(base_url: str) -> str:
    """The address without a slash at its end. Raises `InputError` for what is none, or holds a password."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InputError(f"key 'base_url' has the value {base_url!r}: no address ({error})") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"key 'base_url' has the value {base_url!r}: expected for example http://localhost:8000/v1")
    if url.userinfo:
        raise InputError("key 'base_url' holds a user name; give a key through the environment, see api_key_env")
    return base_url.rstrip("/")
