"""What traces are made of: the share of ten reasoning phases, before and after pruning. Optional: it asks a model.

    OPENAI_API_KEY=… python eval/phases.py --base_url https://host/v1 --model name --tokenizer path/to/model \\
        --traces '{base: outputs/single/base, pruned: outputs/single/pruned}' --output_dir outputs/phases

A trace whose thinking has ended is cut at blank lines into numbered steps, and any server with an OpenAI-compatible
chat endpoint is asked from which step to which each phase reaches. An answer that is not exactly the JSON asked for
is asked for once more, then counted as unreadable and left out; nothing is guessed. `answers.jsonl` gets a line per
trace as it comes, so a run that was cut off goes on; `phases.json` and `phases.png` hold the shares.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from eval.studies.common import TracedProblem, check_traces_key, claim_folder, read_model_traces
from eval.studies.phases import (
    Span,
    Spans,
    Steps,
    UnreadableAnswer,
    draw,
    messages,
    read_answer,
    show,
    split_steps,
    summarise,
)
from eval.studies.phases_client import ChatEndpoint
from secateur.engines.detokenize import Detokenizer
from secateur.engines.models import load_tokenizer
from secateur.engines.openai.streams import check_url
from secateur.runtime.config import parse_config
from secateur.runtime.console import progress, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, read_jsonl, repair_torn_tail, write_json
from secateur.runtime.process import entry_point

Key = tuple[str, str, str, int | str]  # model that wrote it, benchmark, problem id, sample
_TRIES = 2


@dataclass(kw_only=True)
class PhasesConfig:
    """What is read, and who is asked.

    traces: model → trace folder, folder of trace folders (`outputs/single/<model>`), or file of traces.
    tokenizer: folder or Hub id; says where in the text the tokens are.
    base_url, model: of the OpenAI-compatible server (…/v1) that names the phases.
    output_dir: gets phases.json, phases.png and answers.jsonl.
    api_key_env: the environment variable that holds the key, where one is needed.
    per_problem: traces per problem, the first ones whose thinking ended.
    max_characters: traces with longer thinking are left out and counted.
    concurrency: requests at once; timeout_s: of a whole request [seconds]; extra_body: further fields of a request.
    """

    traces: dict[str, str]
    tokenizer: str
    base_url: str
    model: str
    output_dir: str = "outputs/phases"
    api_key_env: str = "OPENAI_API_KEY"
    per_problem: int = 1
    max_characters: int = 200_000
    concurrency: int = 8
    timeout_s: float = 120.0
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_traces_key(self.traces)
        check_url(self.base_url)
        for key in ("per_problem", "max_characters", "concurrency", "timeout_s"):
            if getattr(self, key) <= 0:
                raise InputError(f"key '{key}' has the value {getattr(self, key)}; it must be above 0")

    @property
    def settings(self) -> dict[str, Any]:
        """What the stored answers depend on."""
        keys = ("traces", "model", "per_problem", "max_characters", "extra_body")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Wanted:
    """The traces to ask about, and how many were left out."""

    steps: dict[Key, Steps]
    unfinished: dict[str, int]
    too_long: dict[str, int]


def choose_traces(
    sources: Mapping[str, Sequence[TracedProblem]], detokenizer: Detokenizer, per_problem: int, max_characters: int
) -> Wanted:
    """The first `per_problem` traces with ended thinking of each problem. Raises `InputError` for one without ids."""
    wanted = Wanted({}, dict.fromkeys(sources, 0), dict.fromkeys(sources, 0))
    for name, problems in sources.items():
        for entry in problems:
            taken = 0
            for trace in entry.traces:
                if taken == per_problem:
                    break
                if trace.token_ids is None:
                    raise InputError(f"traces.{name}: sample {trace.sample} of '{trace.problem_id}' has no token ids")
                steps = split_steps(trace.text, trace.token_ids, detokenizer)
                if steps is None:
                    wanted.unfinished[name] += 1
                elif sum(map(len, steps.texts)) > max_characters:
                    wanted.too_long[name] += 1
                else:
                    wanted.steps[name, entry.benchmark, trace.problem_id, trace.sample] = steps
                    taken += 1
    return wanted


def ask(endpoint: ChatEndpoint, steps: Steps) -> tuple[Spans | None, str | None]:
    """(spans, None), or (None, why the last answer could not be read)."""
    reason = None
    for _ in range(_TRIES):
        try:
            return read_answer(endpoint.ask(messages(steps.texts)), len(steps.texts)), None
        except UnreadableAnswer as error:
            reason = str(error)
    return None, reason


def ask_missing(endpoint: ChatEndpoint, wanted: Mapping[Key, Steps], path: Path, concurrency: int) -> None:
    """Append a line to `path` for every trace that it lacks. A server that refuses ends it; what came is kept."""
    done = read_answers(path)
    missing = {key: steps for key, steps in wanted.items() if key not in done}
    with (
        progress("phases", len(missing)) as shown,
        ThreadPoolExecutor(max_workers=concurrency) as pool,
    ):
        futures = {pool.submit(ask, endpoint, steps): key for key, steps in missing.items()}
        try:
            for future in as_completed(futures):
                append_jsonl(path, [_line(futures[future], *future.result())])
                shown.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _line(key: Key, spans: Spans | None, reason: str | None) -> dict[str, Any]:
    found = None if spans is None else {phase: span.model_dump() for phase, span in spans.items()}
    names = ("model", "benchmark", "problem_id", "sample")
    return dict(zip(names, key, strict=True)) | {"phases": found, "unreadable": reason}


def read_answers(path: Path) -> dict[Key, Spans | None]:
    """Spans of every trace that was asked about so far, None where the answer could not be read."""
    repair_torn_tail(path)
    lines = (line for _, line in read_jsonl(path)) if path.is_file() else ()
    return {
        (line["model"], line["benchmark"], line["problem_id"], line["sample"]): None
        if line["phases"] is None
        else {phase: Span(**span) for phase, span in line["phases"].items()}
        for line in lines
    }


@entry_point
def main() -> None:
    config = parse_config(PhasesConfig)
    folder = Path(config.output_dir)
    claim_folder(folder, config.settings)
    tokenizer = load_tokenizer(config.tokenizer)
    sources = {name: read_model_traces(name, path, tokenizer) for name, path in config.traces.items()}
    wanted = choose_traces(sources, Detokenizer(tokenizer), config.per_problem, config.max_characters)
    with ChatEndpoint(
        config.base_url,
        config.model,
        key_env=config.api_key_env,
        timeout_s=config.timeout_s,
        extra_body=config.extra_body,
    ) as endpoint:
        ask_missing(endpoint, wanted.steps, folder / "answers.jsonl", config.concurrency)
    answers = read_answers(folder / "answers.jsonl")
    left_out = {"unfinished": wanted.unfinished, "too_long": wanted.too_long}
    report = summarise(list(sources), wanted.steps, answers, left_out)
    write_json(folder / "phases.json", {"settings": config.settings} | report)
    show(report)
    draw(report, folder / "phases.png")
    say(f"figures: {escape(str(folder))}/phases.json, phases.png")


if __name__ == "__main__":
    main()
