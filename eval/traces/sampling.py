"""What all scripts that sample have in common: their keys, and sampling what is missing in a trace folder."""

import datetime
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from eval.traces.benchmarks import check_folder_names
from secateur.deepprune.cut import CutDetector, CutRule
from secateur.engines.base import Engine, SamplingSpec, TellsSampling, trace_seed
from secateur.engines.gguf import plain_model
from secateur.engines.model_files import (
    context_tokens,
    load_tokenizer,
    read_model_config,
    stored_end_ids,
    unstopped_turn,
)
from secateur.engines.registry import (
    EngineKeys,
    check_dtype,
    check_library,
    engine_kind,
    open_engine,
    tokenizer_source,
)
from secateur.engines.sampling import TraceJob, sample_traces
from secateur.engines.trace_folder import CutVector, TraceFolderWriter
from secateur.runtime.config import check_seed
from secateur.runtime.console import progress, say, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder, model_identity, require_folder
from secateur.runtime.hub import require_model_folder
from secateur.runtime.process import current_ranks, each_in_its_own_process
from secateur.tasks.answers.extraction import ANSWER, Extract, extraction
from secateur.tasks.prompts import Prompt, PromptKeys, encode_prompt, evaluation_messages, starts_inside_thinking
from secateur.tasks.records import Problem, Trace

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class WantedTraces:
    """Which traces are wanted: `n` of each problem; `max_rows` run at once."""

    problems: Sequence[Problem]
    n: int
    spec: SamplingSpec
    prompt: Prompt
    seed: int
    max_rows: int


@dataclass(kw_only=True)
class SamplingKeys(EngineKeys, PromptKeys):
    """The keys of every config that samples; the defaults are ThinkPrune's evaluation settings.

    models: name → model folder, Hub id or GGUF file, or the name that the server of engine "openai" has for it.
    output_dir: gets everything that is made.
    answer_from: where the final answer of a trace is: answer (the last box after the thinking), anywhere,
      pattern:REGEX, or package.module:function (see secateur/tasks/answers/extraction.py).
    temperature, top_p, top_k: of sampling; temperature 0 is greedy, top_p 1 and top_k 0 leave every token in.
    max_tokens: cap on a completion [tokens], end token included; rows: traces decoded at once on each process.
    dtype, device: of a model in this process; a server has its own.
    seed: what every trace's own seed is made of, with its problem and its number; also draws `arithmetic:` problems.
    top_logprobs: how many log-probabilities a token's confidence is the mean of, stored with the trace; 0 for none.
    """

    models: dict[str, str]
    output_dir: str
    answer_from: str = ANSWER
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    max_tokens: int = 32000
    dtype: str = "bfloat16"
    device: str = "auto"
    rows: int = 64
    seed: int = 0
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        _ = self.prompt  # its own checks
        extraction(self.answer_from)
        self.require_positive("max_tokens", "rows")
        check_seed(self.seed)
        self.check_engine()
        check_dtype(self.engine, self.dtype)
        _ = self.spec  # its own checks
        if not self.models and self.needs_models:
            raise InputError("key 'models' is empty; give at least one name and folder, for example {base: path}")
        check_folder_names("models", self.models)
        in_process = engine_kind(self.engine).in_process
        if in_process:
            self.models = {name: plain_model(path) for name, path in self.models.items()}
        for name, path in self.sampled_models.items():
            if in_process and not getattr(self, "dry_run", False):  # which plans with what is to come
                require_model_folder(self.key_of(name), path)
            self.tokenizer_of(name)

    def check_inputs(self) -> None:
        """The output folder can be made, and the engine's library is here, unless all is only planned or read."""
        check_device_name(self.device)
        if getattr(self, "dry_run", False):
            return
        if self.output_dir:
            require_folder(self.output_dir)
        if getattr(self, "check", "") != "inputs":
            check_library(self.engine)

    @property
    def needs_models(self) -> bool:
        return True

    def key_of(self, model: str) -> str:
        """Where the user gave a model."""
        return f"models.{model}"

    @property
    def sampled_models(self) -> dict[str, str]:
        """Those of `models` that an engine opens."""
        return self.models

    def require_positive(self, *keys: str) -> None:
        for key in keys:
            if getattr(self, key) < 1:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be at least 1")

    def extract(self, tokenizer: "PreTrainedTokenizerBase") -> Extract:
        """What takes the final answer out of a text of a model with this tokenizer."""
        return extraction(self.answer_from, starts_inside_thinking(tokenizer))

    @property
    def spec(self) -> SamplingSpec:
        return SamplingSpec(self.temperature, self.top_p, self.top_k, self.max_tokens, self.top_logprobs)

    def tokenizer_of(self, model: str) -> str:
        """Folder or Hub id of the model's tokenizer. Raises `InputError` where a server's model leads to none."""
        return tokenizer_source(self.engine, self.models[model], self.engine_options)

    def open_engine(self, model: str, capture_layers: Sequence[int] | None = None) -> Engine:
        """The engine of one of `models`; see `secateur.engines.registry.open_engine`."""
        return open_engine(
            self.engine,
            self.models[model],
            dtype=self.dtype,
            device=local_device(self.device),
            capture_layers=capture_layers,
            rows=self.rows,
            options=self.engine_options,
        )

    def trace_settings(self, model: str, problems: str) -> dict[str, Any]:
        """What a folder of traces of `model` must have been sampled with for this run to go on with it."""
        return {
            "engine": self.engine,
            "model": model_identity(self.models[model]),
            "problems": problems,
            "sampling": asdict(self.spec),
            "seed": self.seed,
            "dtype": self.dtype,
            **self.prompt.stored,
        }


def check_device_name(device: str) -> None:
    """Raises `InputError` for what is no name of a device."""
    if not _DEVICE.fullmatch(device):
        raise InputError(f"key 'device' has the value '{device}'; give auto, cpu, cuda or cuda:N")


def local_device(device: str) -> str:
    """ "auto" becomes this process's own GPU, or the CPU where there is none; other names stay. Raises `InputError`
    for a GPU that is not here."""
    check_device_name(device)
    if device != "auto":
        _check_device(device)
        return device
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def _check_device(device: str) -> None:
    import torch

    wanted, gpus = torch.device(device), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.type == "cuda" and (wanted.index or 0) >= gpus:
        raise InputError(
            f"key 'device' has the value '{device}', but GPUs that can be used here: {gpus}; give auto or cpu"
        )


def model_by_model(work: Callable[..., None], config: SamplingKeys, *arguments: Any) -> None:
    """`work(config, name, *arguments)` for every model; see `in_turn`."""
    in_turn(work, config, [(name, *arguments) for name in config.models])


def in_turn(work: Callable[..., None], config: SamplingKeys, shares: Sequence[tuple[Any, ...]]) -> None:
    """`work(config, *share)` for one share after the other; a share names its model first.

    Each of several models gets a process of its own where an engine's memory does not come back within one (of two
    vLLM engines opened in turn the first one's did not). `work` is then a function of a module and leaves its results
    on disk; a child that fails ends this process with its exit code. To be called after `claim_devices`, whose choice
    the children take over, and before this process puts anything on a GPU.
    """
    calls = [(config, *share) for share in shares]
    if engine_kind(config.engine).one_process_per_model and len(calls) > 1:
        each_in_its_own_process(_work_quietly, [(work, call) for call in calls])
        return
    quiet_library_bars()
    for call in calls:
        work(*call)


def _work_quietly(work: Callable[..., None], call: tuple[Any, ...]) -> None:
    """What the parent has set up for itself, and then the work."""
    use_one_torch_thread()
    quiet_library_bars()
    work(*call)


def quiet_library_bars() -> None:
    """Theirs would be drawn over our own."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def wait_for_all_processes(point: str = "end") -> None:
    """A barrier. Sampling shares nothing else, so a plain process group on the CPU will do on any machine. Each
    `point` of a program has a group of its own: what one leaves in the launcher's store would mislead the next."""
    if current_ranks().world_size == 1:
        return
    import torch

    store, rank, size = next(torch.distributed.rendezvous("env://"))
    own, patience = torch.distributed.PrefixStore(point, store), datetime.timedelta(days=7)
    torch.distributed.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=patience)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@contextmanager
def hold_output(folder: str) -> Iterator[None]:
    """Keep other commands out of an output folder while this launch works in it: its main process takes the folder,
    the others begin when it has."""
    with hold_folder(folder) if current_ranks().is_main else nullcontext():
        wait_for_all_processes("start")
        yield


def prompt_ids(tokenizer, problem: Problem, prompt: Prompt) -> tuple[int, ...]:
    return tuple(encode_prompt(tokenizer, evaluation_messages(problem.problem, prompt)))


def check_models(config: SamplingKeys, problems: Iterable[Problem], say_caps: bool = False) -> None:
    """See, before a model is opened, that every one takes the problems (its chat template, its context) and that its
    device is here. Raises `InputError` for what is not so. What may be meant is a warning; `say_caps`: also where the
    context lowers `max_tokens`, which sampling says itself."""
    asked, in_process = list(problems), engine_kind(config.engine).in_process
    if in_process:
        local_device(config.device)
    for name, path in config.sampled_models.items():
        tokenizer = load_tokenizer(config.tokenizer_of(name))
        longest = max((len(prompt_ids(tokenizer, problem, config.prompt)) for problem in asked), default=0)
        if in_process:  # a server knows its own
            _check_fit(config, path, tokenizer, longest, say_caps)


def _check_fit(
    config: SamplingKeys, model: str, tokenizer: "PreTrainedTokenizerBase", longest: int, say_caps: bool
) -> None:
    found = read_model_config(model)
    context = context_tokens(found)
    if context is not None and longest >= context:
        raise InputError(
            f"a prompt of {longest} tokens fills the model's context of {context} ({model}); leave it out"
        )
    if say_caps and context is not None and longest + config.max_tokens > context:
        say(
            f"[bold]warning: key 'max_tokens' has the value {config.max_tokens}, of which {context - longest} fit "
            f"behind the longest prompt into the {context} positions of {escape(model)}; completions end there[/bold]"
        )
    if warning := unstopped_turn(tokenizer, stored_end_ids(model, found, tokenizer)):
        say(f"[bold]warning: {escape(warning)}[/bold]")


def say_plan(config: SamplingKeys, what: str, problems: int, traces: int) -> None:
    """What is made of how many problems, and where it goes, before it begins; how long it takes is said as the first
    traces end. `traces`: the most that are sampled, of all models together."""
    models, several = ", ".join(config.sampled_models.values()), "" if problems == 1 else "s"
    each = f"at most {config.max_tokens:,} tokens each"
    say(f"[bold]{what} {problems:,} problem{several}[/bold]: up to {traces:,} traces of {escape(models)}, {each}")
    if config.output_dir:
        say(f"all of it goes to {escape(config.output_dir)}; if it is interrupted, the same command goes on")


def sample_missing(
    engine: Engine,
    tokenizer,
    plan: WantedTraces,
    writer: TraceFolderWriter,
    model_name: str,
    cut: CutRule | None = None,
    with_states: bool = False,
    encode: "Callable[[torch.Tensor], CutVector] | None" = None,
    title: str = "traces",
) -> int:
    """Sample what `writer`'s folder lacks, each trace stored as it ends. Returns the tokens generated.

    `with_states` stores the hidden states of the cuts, `encode` what it makes of them in their place.
    """
    jobs = [job for job in _jobs(plan, tokenizer) if (job.problem.id, job.sample) not in writer.done]
    factory: Callable[[], CutDetector] | None = None if cut is None else lambda: CutDetector(cut)
    generated = 0
    if not jobs:
        return generated
    if isinstance(engine, TellsSampling):
        writer.note_server(engine.sampled_with(plan.spec))
    with progress(f"{title}{current_ranks().note}", len(jobs)) as shown:
        for trace in sample_traces(engine, None, jobs, plan.spec, plan.max_rows, factory, with_states, encode):
            problem = trace.job.problem
            record = Trace(
                problem_id=problem.id,
                problem=problem.problem,
                gold=problem.answer,
                sample=trace.job.sample,
                text=trace.text,
                model=model_name,
                token_ids=trace.token_ids,
                n_tokens=trace.n_tokens,
                finish_reason=trace.finish_reason,
            )
            writer.add(
                record,
                cut_tokens=trace.cut_tokens,
                states=trace.states,
                vector=trace.vector,
                confidences=trace.confidences,
                group=problem.group,
            )
            generated += trace.n_tokens
            shown.advance(note=f"{generated:,} tokens")
    return generated


def _jobs(plan: WantedTraces, tokenizer) -> Iterator[TraceJob]:
    for problem in plan.problems:
        ids = prompt_ids(tokenizer, problem, plan.prompt)
        for sample in range(plan.n):
            yield TraceJob(problem, sample, ids, trace_seed(plan.seed, problem.id, sample))
