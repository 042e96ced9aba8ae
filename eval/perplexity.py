"""How likely stored traces are under one model, usually the base: does pruning leave its way of speaking?

    python eval/perplexity.py --traces '{base: outputs/single/base, pruned: outputs/single/pruned}' \\
        --model trainers/embedded_model --prompt_family plain --dtype float32 --output_dir outputs/perplexity

The negative log-likelihood of every completion id (end token included) given the prompt and the ids before it, at
temperature 1, whatever the traces were sampled at. `nll.jsonl` gets one line per trace as it is done, so a run that
was cut off goes on; `perplexity.json` holds the figures. Text is never tokenised again: traces without ids, or with
ids of another tokenizer, are refused.
"""

if __name__ == "__main__":  # before what takes seconds to import
    from secateur.runtime.commands import answer_early

    answer_early(__file__)

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape

from eval.studies.perplexity import (
    PerplexityReport,
    ScoredTrace,
    check_stored,
    model_figures,
    read_scores,
    score_missing,
    show,
    to_score,
    write,
)
from eval.studies.traces import check_traces_key, claim_folder, read_model_traces
from eval.traces.sampling import local_device, quiet_library_bars
from secateur.engines.gguf import plain_model
from secateur.engines.model_files import load_tokenizer
from secateur.runtime.config import parse_config
from secateur.runtime.console import say, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, hold_folder, model_identity
from secateur.runtime.hub import require_model_folder
from secateur.runtime.process import entry_point
from secateur.tasks.answers.equality import GRADER_VERSION
from secateur.tasks.answers.extraction import ANSWER, extraction
from secateur.tasks.prompts import PromptKeys, starts_inside_thinking


@dataclass(kw_only=True)
class PerplexityConfig(PromptKeys):
    """What is read, and by which model.

    traces: model → trace folder or folder of trace folders (`outputs/single/<model>`).
    model: folder, Hub id or GGUF file of the model under which the traces are scored.
    output_dir: gets perplexity.json and nll.jsonl.
    prompt_family, system_prompt, instruction: as the traces were sampled with.
    answer_from: where the final answer is: answer, anywhere, pattern:REGEX or package.module:function.
    dtype, device: of that model.
    batch_tokens: of one forward pass, padding included; a longer trace has one to itself.
    """

    traces: dict[str, str]
    model: str
    output_dir: str = "outputs/perplexity"
    answer_from: str = ANSWER
    dtype: str = "bfloat16"
    device: str = "auto"
    batch_tokens: int = 16_384

    def __post_init__(self) -> None:
        check_traces_key(self.traces)
        _ = self.prompt  # its own checks
        extraction(self.answer_from)
        self.model = plain_model(self.model)
        require_model_folder("model", self.model)
        if self.batch_tokens < 1:
            raise InputError(f"key 'batch_tokens' has the value {self.batch_tokens}; give at least 1")

    @property
    def settings(self) -> dict[str, JSON]:
        """What the stored scores depend on."""
        model = model_identity(self.model)
        return {"model": model, "traces": self.traces, "dtype": self.dtype, **self.prompt.stored}


def _score(config: PerplexityConfig, wanted: Sequence[ScoredTrace], nll: Path) -> None:
    import torch

    from secateur.engines.models import load_model

    model = load_model(config.model, config.dtype, torch.device(local_device(config.device)))
    score_missing(model, wanted, nll, config.batch_tokens)


def score_traces(config: PerplexityConfig) -> None:
    """Score what is missing, write and show the figures."""
    folder = Path(config.output_dir)
    tokenizer, nll = load_tokenizer(config.model), folder / "nll.jsonl"
    claim_folder(folder, config.settings, nll.name)
    sources = {name: read_model_traces(name, path) for name, path in config.traces.items()}
    wanted = [
        trace for name, problems in sources.items() for trace in to_score(name, problems, tokenizer, config.prompt)
    ]
    stored = read_scores(nll)
    check_stored(stored, wanted, folder)
    if not {trace.key for trace in wanted} <= stored.keys():
        _score(config, wanted, nll)
    scores, extract = read_scores(nll), extraction(config.answer_from, starts_inside_thinking(tokenizer))
    models = {name: model_figures(name, problems, scores, extract) for name, problems in sources.items()}
    report = PerplexityReport(asdict(config), GRADER_VERSION, models)
    write(report, folder)
    show(report)
    say(f"figures: {escape(str(folder / 'perplexity.json'))}")


@entry_point
def main() -> None:
    config = parse_config(PerplexityConfig)
    use_one_torch_thread()
    quiet_library_bars()
    with hold_folder(config.output_dir):
        score_traces(config)


if __name__ == "__main__":
    main()
