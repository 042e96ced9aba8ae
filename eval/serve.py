"""Answers OpenAI's requests with pruned consensus, for many callers at once.

    python eval/serve.py --model MODEL
    python eval/serve.py --upstream http://vllm:8000/v1

Clients change their base URL to http://localhost:8080/v1 and nothing else. What the server saves is shown under
/dashboard. Callers need the key that the environment variable SECATEUR_API_KEY holds, if it holds one.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx

from eval.prune import RULES
from eval.traces.sampling import SamplingKeys, local_device, quiet_library_bars
from secateur.deepprune.evidence import JudgedRule, Rule
from secateur.deepprune.judges.folder import check_judge, load_judge
from secateur.deepprune.pruner import Pruner
from secateur.engines.model_files import load_tokenizer
from secateur.engines.openai.protocol import ApiKey
from secateur.engines.registry import engine_kind
from secateur.runtime.config import parse_config
from secateur.runtime.console import use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.process import current_ranks, entry_point
from secateur.serve.answering import Offer
from secateur.serve.app import Limits
from secateur.serve.server import Place, bind, serve
from secateur.tasks.answers.kinds import Answers
from secateur.tasks.prompts import Prompt, prompt_of

if TYPE_CHECKING:
    from secateur.deepprune.judges.base import Judge

KEY_VARIABLE = "SECATEUR_API_KEY"
_ASK_S = 30.0


@dataclass(kw_only=True)
class ServeConfig(SamplingKeys):
    """What is served, to whom, and what a request gets that asks for nothing special.

    model: model folder, Hub id or GGUF file, or the name that the upstream server has for it.
    upstream: address (…/v1) of an OpenAI-compatible server that generates the traces; the same as engine "openai"
      with this base_url. Without `model` it must serve one alone.
    served_name: the model's name for clients; null: the last part of `model`.
    judge: folder of a judge that was trained on traces of the model; without one nothing but finished answers counts.
    n: traces of a request that does not say how many, at most; most_n: the most that a request may ask for.
    rule: of requests that name none, as in eval/prune.py: `automatic`, `fewest_tokens`, `shortest_wait`, or with a
      judge `adaptive` or `published`.
    answers: how answers are taken out of texts and compared, of requests that do not say: boxed, choice, exact,
      json:KEY.PATH, pattern:REGEX, or none (free text, one trace).
    request_patterns: whether a request may name an expression of its own (pattern:REGEX); it may hold the engine up
      for a second with each text that it is slow on.
    rows: traces that the engine holds at once, of all requests; most_waiting: requests that may wait for room before
      others are refused with 429.
    cache_gib: memory in which the keys and values of all traces must fit, were each to come to its cap [GiB]; null:
      half of what is free once the model is loaded. Only for engine "transformers".
    token_budget: tokens of all traces of a request together, after which they stop and vote; null: no such bound.
    deadline_s: the longest that a request may take [seconds]; its vote is then cut short.
    host, port: where it listens; port 0 takes a free one. Other hosts than this machine's own need a key.
    shared_port: a port beside it that several such processes on this machine share, one for each GPU: one door to all
      of them. Linux hands its connections out; `port` is this process's own, for its figures.
    without_key: let a host that others reach answer everybody, as behind a gateway that asks for keys itself.
    max_body_kib: longest body of a request [KiB].
    keep_alive_s: a stream that has nothing to say yet says so at least so often [seconds].
    drain_s: what runs when the server is told to stop may go on for so long [seconds]; then it is handed back (503).
    log_prompts: write requests into the log, with all that they hold.
    """

    model: str = ""
    models: dict[str, str] = field(init=False)
    output_dir: str = field(init=False, default="")
    top_logprobs: int = field(init=False, default=0)
    upstream: str | None = None
    served_name: str | None = None
    judge: str | None = None
    n: int = 64
    most_n: int = 256
    rule: Literal["automatic", "fewest_tokens", "shortest_wait", "adaptive", "published"] = "automatic"
    answers: str = "boxed"
    request_patterns: bool = True
    rows: int = 256
    most_waiting: int = 1024
    cache_gib: float | None = None
    token_budget: int | None = None
    deadline_s: float = 600.0
    host: str = "127.0.0.1"
    port: int = 8080
    shared_port: int | None = None
    without_key: bool = False
    max_body_kib: int = 1024
    keep_alive_s: float = 5.0
    drain_s: float = 30.0
    log_prompts: bool = False

    def __post_init__(self) -> None:
        self._take_upstream()
        self.models = {"model": self.model}
        super().__post_init__()
        self.model = self.models["model"]
        self.require_positive("n", "most_n", "most_waiting", "max_body_kib")
        if self.n > self.most_n:
            raise InputError(f"key 'n' has the value {self.n}; key 'most_n' allows up to {self.most_n}")
        if self.judge is None and isinstance(RULES[self.rule], JudgedRule):
            raise InputError(f"key 'rule' has the value '{self.rule}', which asks a judge; give 'judge' as well")
        for key in ("deadline_s", "keep_alive_s", "drain_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; give seconds, more than 0")
        Answers(self.answers, self.answer_from)  # its own checks
        if self.cache_gib is not None and not 0 < self.cache_gib < float("inf"):
            raise InputError(f"key 'cache_gib' has the value {self.cache_gib}; give GiB, more than 0, or null")
        if self.cache_gib is not None and self.engine in ("vllm", "openai"):
            raise InputError(f"key 'cache_gib' goes with engine 'transformers', not with '{self.engine}'")
        if self.token_budget is not None:
            self.require_positive("token_budget")
        if not (self.is_loopback or self.without_key or ApiKey.from_environment(KEY_VARIABLE).value):
            raise InputError(
                f"key 'host' has the value '{self.host}', which others reach: put a key into the environment as "
                f"{KEY_VARIABLE}, or say --without_key true"
            )

    def check_inputs(self) -> None:
        """The judge is there, and the ports can be had."""
        super().check_inputs()
        if self.judge is not None:
            check_judge("judge", self.judge, engine_kind(self.engine).hands_out_states)
        for bound in self.bind():
            bound.close()

    def bind(self) -> list[socket.socket]:
        """The sockets that the service listens at."""
        own = [bind(self.host, self.port)]
        return own + ([] if self.shared_port is None else [bind(self.host, self.shared_port, shared=True)])

    def _take_upstream(self) -> None:
        if self.upstream is not None:
            if self.engine not in ("transformers", "openai"):
                raise InputError(f"key 'upstream' goes with engine 'openai', not with '{self.engine}': leave one out")
            self.engine, self.engine_options = "openai", {**self.engine_options, "base_url": self.upstream}
            variable = self.engine_options.get("api_key_env", "OPENAI_API_KEY")
            self.model = self.model or only_model(self.upstream, ApiKey.from_environment(variable))
        if not self.model:
            raise InputError("give either 'model', a folder or Hub id, or 'upstream', the address of a server")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches `host`."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.served_name or Path(self.model.rstrip("/")).name

    def offer(self, judge: "Judge | None") -> Offer:
        """What is served with this judge."""
        rules: Mapping[str, Rule | None] = {
            name: rule for name, rule in RULES.items() if judge is not None or not isinstance(rule, JudgedRule)
        }
        given = {key: getattr(self, key) for key in ("prompt_family", "system_prompt", "instruction")}
        return Offer(
            model=self.name,
            spec=self.spec,
            n=self.n,
            most_n=self.most_n,
            rules=rules,
            rule=self.rule,
            answers=Answers(self.answers, self.answer_from),
            prompt=prompt_of(given, (judge and judge.prompt) or Prompt()),
            seed=self.seed,
            token_budget=self.token_budget,
            deadline_s=self.deadline_s,
            most_waiting=self.most_waiting,
            request_patterns=self.request_patterns,
            hidden=tuple(filter(None, (self.model, self.judge, self.upstream, str(Path(self.model).absolute())))),
            log_prompts=self.log_prompts,
        )

    def limits(self) -> Limits:
        """Who may call, and how."""
        key = ApiKey.from_environment(KEY_VARIABLE).value
        return Limits(key, self.is_loopback and not key, self.max_body_kib * 1024, self.keep_alive_s)


def only_model(upstream: str, key: ApiKey) -> str:
    """The one model of a server. Raises `InputError` where it does not answer, or has several."""
    try:
        answer = httpx.get(f"{upstream.rstrip('/')}/models", headers=key.headers, timeout=_ASK_S).raise_for_status()
        names = [str(entry["id"]) for entry in answer.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"key 'upstream' has the value '{upstream}', which lists no models ({key.quote(str(error))})"
        ) from None
    if len(names) != 1:
        raise InputError(f"key 'upstream': this server has the models {', '.join(names)}; choose one by 'model'")
    return names[0]


def run(config: ServeConfig) -> None:
    """Open everything, and answer until a signal comes."""
    bound = config.bind()
    judge = None if config.judge is None else load_judge(config.judge, config.model)
    tokenizer = load_tokenizer(config.tokenizer_of("model"))
    pruner = Pruner(
        config.model,
        judge,
        max_rows=config.rows,
        max_waiting=config.most_waiting,
        cache_gib=config.cache_gib,
        kind=config.engine,
        dtype=config.dtype,
        device=local_device(config.device),
        engine_options=config.engine_options,
    )
    serve(pruner, tokenizer, config.offer(judge), config.limits(), Place(tuple(bound), config.drain_s))


@entry_point
def main() -> None:
    config = parse_config(ServeConfig)
    config.check_inputs()
    if current_ranks().world_size > 1:
        raise InputError(
            "eval/serve.py runs in one process; start it without a launcher, once for each GPU (shared_port)"
        )
    config.claim_devices()
    use_one_torch_thread()
    quiet_library_bars()
    run(config)


if __name__ == "__main__":
    main()
