"""How likely stored traces are under one model, usually the base: does pruning leave its way of speaking?

    python eval/perplexity.py --traces '{base: outputs/single/base, pruned: outputs/single/pruned}' \\
        --model trainers/embedded_model --prompt_family plain --dtype float32 --output_dir outputs/perplexity

The negative log-likelihood of every completion id (end token included) given the prompt and the ids before it, at
temperature 1, whatever the traces were sampled at. `nll.jsonl` gets one line per trace as it is done, so a run that
was cut off goes on; `perplexity.json` holds the figures. Text is never tokenised again: traces without ids, or with
ids of another tokenizer, are refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.markup import escape

from eval.studies.common import TracedProblem, check_traces_key, claim_folder, read_model_traces
from eval.studies.perplexity import Key, ScoredTrace, batches, check_head, score_batch, to_score
from eval.traces.sampling import local_device, quiet_library_bars, require_model_folder
from secateur.engines.models import load_model, load_tokenizer, model_fingerprint
from secateur.runtime.config import parse_config
from secateur.runtime.console import progress, say, use_one_torch_thread
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl, read_jsonl, repair_torn_tail, write_json
from secateur.runtime.process import entry_point
from secateur.runtime.statistics import Interval, mean_with_interval, ratio_with_interval
from secateur.runtime.tables import interval_text, plain_table, print_table
from secateur.tasks.answers.equality import GRADER_VERSION, grade_batch
from secateur.tasks.prompts import check_family, starts_inside_thinking

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def score_missing(model: "PreTrainedModel", traces: Sequence[ScoredTrace], path: Path, batch_tokens: int) -> None:
    """Append a line per trace that `path` lacks."""
    done = read_scores(path)
    missing = [trace for trace in traces if trace.key not in done]
    if not missing:
        return
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if context is not None and max(map(len, missing)) > context:
        raise InputError(f"a trace of {max(map(len, missing))} tokens exceeds the context of key 'model', {context}")
    check_head(model, missing[0])
    with progress("perplexity", len(missing)) as shown:
        for batch in batches(missing, batch_tokens):
            lines = []
            for trace, nll in zip(batch, score_batch(model, batch), strict=True):
                name, benchmark, problem_id, sample = trace.key
                line = {"model": name, "benchmark": benchmark, "problem_id": problem_id, "sample": sample}
                lines.append(line | {"tokens": len(trace.completion_ids), "nll": nll})
            append_jsonl(path, lines)
            shown.advance(len(batch))


def _check_stored(scores: Mapping[Key, tuple[int, float]], traces: Sequence[ScoredTrace], folder: Path) -> None:
    """Scores of traces that were sampled anew since would be scores of other traces."""
    for trace in traces:
        if trace.key in scores and scores[trace.key][0] != len(trace.completion_ids):
            raise InputError(f"{folder}: holds scores of other traces; give another output folder")


def read_scores(path: Path) -> dict[Key, tuple[int, float]]:
    """(tokens, nll [nats]) of every trace that was scored so far."""
    repair_torn_tail(path)
    if not path.is_file():
        return {}
    lines = (line for _, line in read_jsonl(path))
    return {
        (line["model"], line["benchmark"], line["problem_id"], line["sample"]): (line["tokens"], line["nll"])
        for line in lines
    }


def figures(
    name: str, problems: Sequence[TracedProblem], scores: Mapping[Key, tuple[int, float]], thinking: bool
) -> dict[str, Any]:
    """Figures of all, of the right and of the wrong traces of a model; None where there are none."""
    rows = [(number, entry, trace) for number, entry in enumerate(problems) for trace in entry.traces]
    verdicts = grade_batch([trace.text for *_, trace in rows], [trace.gold for *_, trace in rows], thinking)
    parts: dict[str, dict[int, list[tuple[int, float]]]] = {"all": {}, "right": {}, "wrong": {}}
    for (number, entry, trace), right in zip(rows, verdicts, strict=True):
        score = scores[name, entry.benchmark, trace.problem_id, trace.sample]
        for part in ("all", "right" if right else "wrong"):
            parts[part].setdefault(number, []).append(score)
    return {part: summarise(list(groups.values())) for part, groups in parts.items()}


def summarise(groups: Sequence[Sequence[tuple[int, float]]]) -> dict[str, Any] | None:
    """From (tokens, nll) per trace, a list per problem: `token_nll` weighs every token the same, `trace_nll` every
    problem and within it every trace [nats per token]; the perplexities are their exponentials."""
    if not groups:
        return None
    per_token = ratio_with_interval(
        [sum(nll for _, nll in group) for group in groups], [sum(tokens for tokens, _ in group) for group in groups]
    )
    per_trace = mean_with_interval([sum(nll / tokens for tokens, nll in group) / len(group) for group in groups])
    found: dict[str, Any] = {"problems": len(groups), "traces": sum(map(len, groups))}
    return found | _exponentials("token", per_token) | _exponentials("trace", per_trace)


def _exponentials(name: str, interval: Interval) -> dict[str, Any]:
    value, low, high = (math.exp(number) for number in interval)
    found = {f"{name}_nll": interval[0], f"{name}_nll_ci95": interval[1:]}
    return found | {f"{name}_perplexity": value, f"{name}_perplexity_ci95": (low, high)}


@dataclass(kw_only=True)
class PerplexityConfig:
    """What is read, and by which model.

    traces: model → trace folder or folder of trace folders (`outputs/single/<model>`).
    model: folder or Hub id of the model under which the traces are scored.
    output_dir: gets perplexity.json and nll.jsonl.
    prompt_family: as the traces were sampled with.
    dtype, device: of that model.
    batch_tokens: of one forward pass, padding included; a longer trace has one to itself.
    """

    traces: dict[str, str]
    model: str
    output_dir: str = "outputs/perplexity"
    prompt_family: str = "deepseek"
    dtype: str = "bfloat16"
    device: str = "auto"
    batch_tokens: int = 16_384

    def __post_init__(self) -> None:
        check_traces_key(self.traces)
        check_family(self.prompt_family)
        require_model_folder("model", self.model)
        if self.batch_tokens < 1:
            raise InputError(f"key 'batch_tokens' has the value {self.batch_tokens}; give at least 1")

    @property
    def settings(self) -> dict[str, Any]:
        """What the stored scores depend on."""
        model = model_fingerprint(self.model) if Path(self.model).is_dir() else self.model
        return {"model": model, "traces": self.traces, "prompt_family": self.prompt_family, "dtype": self.dtype}


def show(report: Mapping[str, Any]) -> None:
    columns = ("traces of", "n", "perplexity\nof a token", "95 %", "mean of\ntraces", "95 %", "right", "wrong")
    table = plain_table("", columns)
    for name, parts in report["models"].items():
        entry = parts["all"]
        sides = (parts[side] for side in ("right", "wrong"))
        table.add_row(
            escape(name),
            f"{entry['traces']:,}",
            f"{entry['token_perplexity']:.3f}",
            interval_text(*entry["token_perplexity_ci95"]),
            f"{entry['trace_perplexity']:.3f}",
            interval_text(*entry["trace_perplexity_ci95"]),
            *("–" if side is None else f"{side['token_perplexity']:.3f}" for side in sides),
        )
    print_table(table)


@entry_point
def main() -> None:
    config = parse_config(PerplexityConfig)
    use_one_torch_thread()
    quiet_library_bars()
    folder = Path(config.output_dir)
    claim_folder(folder, config.settings)
    tokenizer = load_tokenizer(config.model)
    sources = {name: read_model_traces(name, path) for name, path in config.traces.items()}
    wanted = [
        trace
        for name, problems in sources.items()
        for trace in to_score(name, problems, tokenizer, config.prompt_family)
    ]
    stored = read_scores(folder / "nll.jsonl")
    _check_stored(stored, wanted, folder)
    if not {trace.key for trace in wanted} <= stored.keys():
        model = load_model(config.model, config.dtype, torch.device(local_device(config.device)))
        score_missing(model, wanted, folder / "nll.jsonl", config.batch_tokens)
    scores, thinking = read_scores(folder / "nll.jsonl"), starts_inside_thinking(tokenizer)
    report = {"config": asdict(config), "grader": GRADER_VERSION, "models": {}}
    report["models"] = {name: figures(name, problems, scores, thinking) for name, problems in sources.items()}
    write_json(folder / "perplexity.json", report)
    show(report)
    say(f"figures: {escape(str(folder / 'perplexity.json'))}")


if __name__ == "__main__":
    main()
