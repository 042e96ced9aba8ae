"""What traces are made of: the share of ten reasoning phases, before and after pruning. Optional: it asks a model.

    OPENAI_API_KEY=… python eval/phases.py --base_url https://host/v1 --model name --tokenizer path/to/model \\
        --traces '{base: outputs/single/base, pruned: outputs/single/pruned}' --output_dir outputs/phases

A trace whose thinking has ended is cut at blank lines into numbered steps, and any server with an OpenAI-compatible
chat endpoint is asked from which step to which each phase reaches. An answer that is not exactly the JSON asked for
is asked for once more, then counted as unreadable and left out; nothing is guessed. `answers.jsonl` gets a line per
trace as it comes, so a run that was cut off goes on; `phases.json` and `phases.png` hold the shares.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from eval.studies.phases import PhasesReport, choose_traces, draw, show, summarise, write
from eval.studies.phases_asking import ChatEndpoint, ask_missing, read_answers
from eval.studies.traces import check_traces_key, claim_folder, read_model_traces
from secateur.engines.detokenize import Detokenizer
from secateur.engines.model_files import load_tokenizer
from secateur.engines.openai.protocol import check_url
from secateur.runtime.config import parse_config
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, hold_folder
from secateur.runtime.process import entry_point

ANSWERS = "answers.jsonl"


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
    def settings(self) -> dict[str, JSON]:
        """What the stored answers depend on."""
        keys = ("traces", "model", "per_problem", "max_characters", "extra_body")
        return {key: getattr(self, key) for key in keys}


def name_phases(config: PhasesConfig) -> None:
    """Ask for what is missing, write and show the shares."""
    folder = Path(config.output_dir)
    claim_folder(folder, config.settings, ANSWERS)
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
        ask_missing(endpoint, wanted.steps, folder / ANSWERS, config.concurrency)
    answers = read_answers(folder / ANSWERS)
    report = PhasesReport(config.settings, summarise(wanted, answers))
    write(report, folder)
    show(report)
    draw(report, folder / "phases.png")
    say(f"figures: {escape(str(folder))}/phases.json, phases.png")


@entry_point
def main() -> None:
    config = parse_config(PhasesConfig)
    with hold_folder(config.output_dir):  # a second one would pay for the same answers
        name_phases(config)


if __name__ == "__main__":
    main()
