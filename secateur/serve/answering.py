"""From a request to its answer: what it asks for is put to the `Pruner`, and what comes back gets OpenAI's words.

An error is its caller's alone, and says nothing of the machine: paths and addresses of the configuration are replaced
by the served name, and what an engine says when it breaks down goes to the log.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from secateur.deepprune.driver import Busy, PruneProgress
from secateur.deepprune.evidence import Rule
from secateur.deepprune.job import TraceResult
from secateur.deepprune.prune import PruneResult
from secateur.deepprune.pruner import Pruner
from secateur.engines.base import EngineError, SamplingSpec
from secateur.runtime.errors import InputError
from secateur.serve.replies import Consensus, Form, Reply, Spent
from secateur.serve.schema import ChatRequest, CompletionRequest, Message, Refusal, Request
from secateur.serve.watch import LOG, Watch
from secateur.tasks.answers.extraction import PATTERN, answer_part
from secateur.tasks.answers.kinds import NONE, Answers
from secateur.tasks.prompts import Prompt, encode_prompt, ends_inside_thinking, evaluation_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FAILING_S = 10.0  # that long others are asked first


@dataclass(frozen=True)
class Offer:
    """What a request gets that asks for nothing special, and the most that it may ask for.

    `model` is the served name. `spec` is how traces are sampled; a request may lower its cap [tokens]. `n` traces run
    at most where a request does not say, and never more than `most_n`. `rules` are the rules that run here, `rule`
    that of requests that name none. `answers` says how answers are taken and compared. `prompt` holds the sentences
    around the last turn of a chat. `token_budget` [tokens, of all traces of a request] and `deadline_s` [seconds]
    hold for every request, which may ask for less. No more than `most_waiting` requests wait.
    `request_patterns`: a request may bring a regular expression of its own. `hidden` are words (paths, addresses)
    that no caller is told.
    """

    model: str
    spec: SamplingSpec
    n: int
    most_n: int
    rules: Mapping[str, Rule | None]
    rule: str
    answers: Answers
    prompt: Prompt
    seed: int
    token_budget: int | None
    deadline_s: float
    most_waiting: int
    request_patterns: bool = True
    hidden: tuple[str, ...] = ()
    log_prompts: bool = False

    def shown(self, text: str) -> str:
        """A message without the hidden words."""
        for word in sorted(self.hidden, key=len, reverse=True):
            text = text.replace(word, self.model)
        return text


@dataclass(frozen=True)
class _Wanted:
    """A request with all defaults filled in; `inside`: its completions begin inside the thinking."""

    prompt_ids: Sequence[int]
    inside: bool
    n: int
    spec: SamplingSpec
    rule: str
    answers: Answers
    seed: int
    token_budget: int | None
    deadline_s: float


class Service:
    """Answers requests with one `Pruner`, whose engine has this tokenizer. `draining`: it is about to stop; `closing`
    is set when no answer is waited for any longer."""

    def __init__(self, pruner: Pruner, tokenizer: "PreTrainedTokenizerBase", offer: Offer) -> None:
        self.pruner, self.offer = pruner, offer
        self.watch = Watch(pruner.load)
        self.created = int(time.time())
        self.draining = False
        self.closing = asyncio.Event()
        self._tokenizer = tokenizer
        self._broke_at = float("-inf")

    @property
    def status(self) -> str:
        """ "ready" for more requests, or why not: "stopping", "full", or "failing" a while after the engine broke
        down, unless it has answered since."""
        if self.draining:
            return "stopping"
        if time.monotonic() - self._broke_at < _FAILING_S:
            return "failing"
        return "full" if self.pruner.load().waiting >= self.offer.most_waiting else "ready"

    async def reply(self, request: Request, form: Form, caller: str) -> Reply:
        """Raises `Refusal`. Cancelled, it frees the traces of the request."""
        begun = time.monotonic()
        try:
            wanted = await asyncio.to_thread(self._wanted, request)  # a long prompt takes its time to encode
            with self.watch.answering(form.name, wanted.n, wanted.rule) as note:
                result = await self._prune(wanted, caller, note)
            reply = self._written(result, wanted, request.secateur.thinking)
        except Exception as error:
            self._refuse(error)
        self._broke_at = float("-inf")
        self.watch.answered(form.name, reply, time.monotonic() - begun)
        return reply

    async def _prune(self, wanted: _Wanted, caller: str, note: Callable[[PruneProgress], None]) -> PruneResult:
        """One trace has no vote, but an answer it may have."""
        result = await self.pruner.prune(
            wanted.prompt_ids,
            wanted.n,
            spec=wanted.spec,
            rule=self.offer.rules[wanted.rule],
            answers=wanted.answers if wanted.n > 1 else Answers(NONE),
            seed=wanted.seed,
            caller=caller,
            token_budget=wanted.token_budget,
            deadline_s=wanted.deadline_s,
            on_progress=note,
        )
        if wanted.n > 1 or result.text is None:
            return result
        answer = await asyncio.to_thread(wanted.answers.extract(wanted.inside), result.text)
        return replace(result, answer=answer, votes={} if answer is None else {answer: 1})

    def _refuse(self, error: Exception) -> NoReturn:
        """Raise what the caller is told of an error; one that is not for callers as it is."""
        if isinstance(error, Busy):
            raise self.busy(error.retry_after_s) from None
        if isinstance(error, InputError):
            raise Refusal(400, self.offer.shown(str(error)), code="invalid_value") from None
        if isinstance(error, EngineError):
            self._broke_at = time.monotonic()
            LOG.error("the engine broke down", exc_info=error)
            told = "the engine broke down while it worked on this request; send it again"
            raise Refusal(502, told, kind="server_error", code="engine_error") from None
        if not isinstance(error, Refusal):
            self._broke_at = time.monotonic()
        raise error

    def busy(self, retry_after_s: float) -> Refusal:
        """Another time: 429 where the queue is full, 503 where this server is about to stop."""
        headers = {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
        if self.draining:
            told = "this server is stopping; send the request again"
            return Refusal(503, told, kind="server_error", code="stopping", headers=headers)
        told = f"too many requests wait already; try again in {headers['Retry-After']} s"
        return Refusal(429, told, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)

    def _wanted(self, request: Request) -> _Wanted:
        """Raises `Refusal` for more than is offered."""
        offer, wishes = self.offer, request.secateur
        if request.model != offer.model:
            told = f"the model '{request.model}' is not served here; '{offer.model}' is"
            raise Refusal(404, told, param="model", code="model_not_found")
        _within("n", request.n, offer.most_n, "traces")
        _within("max_tokens", request.cap, offer.spec.max_tokens, "tokens")
        rule = wishes.rule or offer.rule
        if rule not in offer.rules:
            told = f"'secateur.rule' has the value '{rule}'; choose one of {', '.join(offer.rules)}"
            raise Refusal(400, told, param="secateur.rule", code="invalid_value")
        answers, spec = self._answers(wishes.answers), self._spec(request)
        alone = not answers.votes or not spec.temperature  # free text has no vote, and greedy traces are all the same
        prompt_ids = self._prompt_ids(request, answers)
        return _Wanted(
            prompt_ids,
            ends_inside_thinking(self._tokenizer, prompt_ids),
            request.n or (1 if alone else offer.n),
            spec,
            rule,
            answers,
            offer.seed if request.seed is None else request.seed,
            _least(wishes.token_budget, offer.token_budget),
            min(wishes.deadline_s or offer.deadline_s, offer.deadline_s),
        )

    def _answers(self, kind: str | None) -> Answers:
        """Raises `Refusal` for what is no kind of answers."""
        if kind is None or kind == self.offer.answers.kind:
            return self.offer.answers
        if kind.startswith(PATTERN) and not self.offer.request_patterns:
            told = "'secateur.answers': this server takes no patterns from requests"
            raise Refusal(400, told, param="secateur.answers", code="invalid_value")
        try:
            return Answers(kind)
        except InputError as error:
            told = f"'secateur.answers': {error}"
            raise Refusal(400, told, param="secateur.answers", code="invalid_value") from None

    def _spec(self, request: Request) -> SamplingSpec:
        given = {"temperature": request.temperature, "top_p": request.top_p, "max_tokens": request.cap}
        given |= {"top_k": None if request.top_k is None else max(request.top_k, 0)}
        return replace(self.offer.spec, **{key: value for key, value in given.items() if value is not None})

    def _prompt_ids(self, request: Request, answers: Answers) -> list[int]:
        if isinstance(request, CompletionRequest):
            return self._tokenizer(request.prompt)["input_ids"]
        assert isinstance(request, ChatRequest), request
        prompt = answers.prompted(self.offer.prompt)
        return encode_prompt(self._tokenizer, with_sentences([turn.message for turn in request.messages], prompt))

    def _written(self, result: PruneResult, wanted: _Wanted, thinking: bool) -> Reply:
        chosen = _chosen(result)
        text = chosen.text if chosen is not None else ""
        shown = text if thinking else (answer_part(text, wanted.inside) or "").lstrip()
        finish_reason = (chosen is not None and chosen.finish_reason) or "length"
        return Reply(shown, finish_reason, _spent(result), _consensus(result, wanted.rule))


def _chosen(result: PruneResult) -> TraceResult | None:
    """The trace that is shown: the one of the answer, or without an answer the shortest that ended."""
    ended = [trace for trace in result.traces if trace.finish_reason is not None]
    mine = [trace for trace in ended if trace.text == result.text] or ended
    return min(mine, key=lambda trace: len(trace.token_ids), default=None)


def _consensus(result: PruneResult, rule: str) -> Consensus:
    return Consensus(
        answer=result.answer,
        votes=result.votes,
        n=len(result.traces),
        started=result.started,
        finished=result.finished,
        stopped=result.stopped,
        full_vote_tokens=result.full_vote_tokens,
        rule=rule,
        judge=result.judge,
        ended=result.ended,
    )


def _spent(result: PruneResult) -> Spent:
    usage = result.usage
    return Spent(
        prompt=result.prompt_tokens,
        cached=result.cached_tokens,
        generated=round(usage.generated),
        overrun=round(usage.overrun),
        judge=round(usage.judge_prefill + usage.judge_generated),
    )


def with_sentences(messages: Sequence[Message], prompt: Prompt) -> list[dict[str, str]]:
    """A chat with the sentences of evaluation: the instruction in its last turn, and the system prompt before it, if
    the chat has none of its own.

    >>> with_sentences([{"role": "user", "content": "1 + 1?"}], Prompt("plain", "Be short.", "Box it."))[1]["content"]
    '1 + 1? Box it.'
    """
    *earlier, last = messages
    *system, turn = evaluation_messages(last["content"], prompt)
    told = any(message["role"] == "system" for message in earlier)
    return [*([] if told else system), *map(dict, earlier), turn]


def _within(param: str, value: int | None, most: int, unit: str) -> None:
    if value is not None and value > most:
        told = f"'{param}' has the value {value}; this server allows up to {most} {unit}"
        raise Refusal(400, told, param=param, code="invalid_value")


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)
