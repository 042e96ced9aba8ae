"""What a request may say, and how it is told that it says something else: OpenAI's fields and OpenAI's errors.

A field that is not served is refused by its name, rather than ignored: a caller who sets `stop` relies on it. Fields
of OpenAI's that many clients send with the value that changes nothing are taken with that value alone.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

Message = Mapping[str, str]
"""A turn of a chat: `role` and `content`."""
_LONGEST_NAME = 256
_LONGEST_PATTERN = 500
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)
Count = Annotated[int, Field(ge=1, le=2**31)]
_Off = Annotated[float, Field(ge=0, le=0)]


class Refusal(Exception):
    """A request that is not answered: an HTTP `status`, and OpenAI's form of why. The `message` reaches the caller,
    so it names no path and no key."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """
        >>> Refusal(404, "no model 'x'", param="model").body["error"]["type"]
        'invalid_request_error'
        """
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": told}


class StreamOptions(BaseModel):
    model_config = _STRICT
    include_usage: bool = False


class TextPart(BaseModel):
    model_config = _STRICT
    type: Literal["text"]
    text: str


def _shape(content: object) -> str:
    return "<parts>" if isinstance(content, list) else "<text>"


class Turn(BaseModel):
    """A message of a chat."""

    model_config = _STRICT
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Tag("<parts>")], Discriminator(_shape)
    ]

    @property
    def message(self) -> dict[str, str]:
        """As chat templates know it: a developer's turn is a system's."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ResponseFormat(BaseModel):
    model_config = _STRICT
    type: Literal["text"]


class Wishes(BaseModel):
    """What is not OpenAI's: the field `secateur` of a request. What is None is as the server has it.

    `rule`: a name of `secateur serve --rule`; `answers`: how answers are taken out of texts and compared;
    `token_budget` [tokens] of all traces together; `deadline_s` [seconds] from the request's arrival; `thinking`:
    whether the content has the thinking in front of the answer.
    """

    model_config = _STRICT
    rule: Annotated[str, Field(max_length=_LONGEST_NAME)] | None = None
    answers: Annotated[str, Field(max_length=_LONGEST_PATTERN)] | None = None
    token_budget: Count | None = None
    deadline_s: Annotated[float, Field(gt=0)] | None = None
    thinking: bool = False


class Request(BaseModel):
    """What both endpoints take. `n` is the most traces that run for the one choice that is answered; `max_tokens`
    [tokens] caps each of them. `user` shares the engine fairly between those who name different ones."""

    model_config = _STRICT
    model: Annotated[str, Field(max_length=_LONGEST_NAME)]
    n: Count | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=_LONGEST_NAME)] | None = None
    secateur: Wishes = Wishes()
    frequency_penalty: _Off | None = None
    presence_penalty: _Off | None = None
    stop: Annotated[list[str], Field(max_length=0)] | None = None

    @property
    def cap(self) -> int | None:
        """The most tokens of a trace, None for the server's cap."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Request):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None

    @property
    def cap(self) -> int | None:
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens


class CompletionRequest(Request):
    """The body of `/v1/completions`: text that goes to the model as it is."""

    prompt: Annotated[str, Field(min_length=1)]
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: None = None


def read_request(kind: type[Request], body: bytes) -> Request:
    """Raises `Refusal` (400) that names the field and what it takes."""
    try:
        found = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(kind, error) from None
    if found.stream_options is not None and not found.stream:
        raise Refusal(400, "'stream_options' is only for streams: set 'stream' to true", param="stream_options")
    if isinstance(found, ChatRequest) and found.messages[-1].role != "user":
        wrong = f"the last message is the {found.messages[-1].role}'s: the last one must be of the role 'user'"
        raise Refusal(400, wrong, param="messages")
    return found


def _refusal(kind: type[Request], error: ValidationError) -> Refusal:
    """The first thing that is wrong."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith("<")]
    if first["type"] == "json_invalid":
        return Refusal(400, f"the body is no JSON: {first['msg'].partition(': ')[2]}", code="invalid_json")
    if first["type"] == "extra_forbidden":
        name = ".".join(path)
        return Refusal(400, f"unknown field '{name}'{_nearest(kind, path[-1])}", param=name, code="unknown_parameter")
    name = ".".join(path) or None
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    shown = f"'{name}': " if name else "the body: "
    return Refusal(400, f"{shown}{first['msg'][:1].lower()}{first['msg'][1:]}", param=name, code=code)


def _nearest(kind: type[Request], word: str) -> str:
    near = difflib.get_close_matches(word, [*kind.model_fields, *Wishes.model_fields], n=1)
    if near and near[0] in Wishes.model_fields and near[0] not in kind.model_fields:
        return f"; did you mean 'secateur.{near[0]}'?"
    return f"; did you mean '{near[0]}'?" if near else ": this server does not offer it, so leave it out"
