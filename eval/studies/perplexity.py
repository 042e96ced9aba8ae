"""Perplexity of stored traces under a model: their negative log-likelihoods, batch by batch with bounded memory, and
what they come to."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from eval.studies.traces import ReadProblem, TraceKey
from eval.traces.sampling import prompt_ids
from secateur.engines.detokenize import Detokenizer
from secateur.engines.model_files import context_tokens
from secateur.runtime.console import interval_text, plain_table, print_table, progress
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, append_jsonl, read_jsonl, repair_torn_tail
from secateur.runtime.records import read_record, write_record
from secateur.runtime.statistics import Bounds, mean_with_interval, ratio_with_interval
from secateur.tasks.answers.equality import grade_batch
from secateur.tasks.answers.extraction import Extract
from secateur.tasks.prompts import Prompt
from secateur.tasks.records import Trace

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FORMAT = 1
_FILE = "perplexity.json"
_LOGIT_BYTES = 1 << 28  # of float32 logits at once: 256 MiB, 441 positions of a vocabulary of 152,000
Score = tuple[int, float]
"""Tokens of a trace, and the sum of their negative log-likelihoods [nats]."""


@dataclass(frozen=True)
class ScoredTrace:
    """A trace to score: ids of prompt and completion."""

    key: TraceKey
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def score_batch(model: "PreTrainedModel", batch: Sequence[ScoredTrace]) -> list[float]:
    """Sum of the negative log-likelihoods of each trace's completion ids [nats].

    Rows are padded on the right, where causal attention never looks. The logits are made in chunks of positions, so
    that memory does not grow with length × vocabulary.
    """
    import torch

    longest = max(map(len, batch))
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, trace in enumerate(batch):
        ids[row, : len(trace)] = torch.tensor(trace.prompt_ids + trace.completion_ids)
    ids = ids.to(model.device)
    with torch.inference_mode():
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return [
            _completion_nll(model, hidden[row], ids[row], len(trace.prompt_ids), len(trace))
            for row, trace in enumerate(batch)
        ]


def _completion_nll(
    model: "PreTrainedModel", hidden: "torch.Tensor", ids: "torch.Tensor", first: int, end: int
) -> float:
    """`hidden` [positions, width], `ids` [positions]; the ids from `first` to `end` are scored."""
    from torch.nn.functional import cross_entropy

    head, total = model.get_output_embeddings(), 0.0
    chunk = max(1, _LOGIT_BYTES // (4 * model.config.get_text_config(decoder=True).vocab_size))
    for start in range(first, end, chunk):
        stop = min(start + chunk, end)
        logits = head(hidden[start - 1 : stop - 1]).float()
        total += cross_entropy(logits, ids[start:stop], reduction="none").double().sum().item()
    return total


def check_head(model: "PreTrainedModel", trace: ScoredTrace) -> None:
    """Raises `InputError` if the model's logits are more than its head on its last states (scaled or capped), or no
    numbers."""
    import torch

    ids = torch.tensor([trace.prompt_ids + trace.completion_ids[:1]], device=model.device)
    with torch.inference_mode():
        ours = model.get_output_embeddings()(
            model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        )
        theirs = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
    if not bool(theirs.isfinite().all()):
        raise InputError(
            f"{model.name_or_path}: its logits are not finite, so its weights have diverged, or overflow"
        )
    if not torch.allclose(ours.float(), theirs.float(), rtol=0.02, atol=0.05):
        raise InputError(
            f"{model.name_or_path}: its logits are scaled or capped after the head, which is not supported"
        )


def batches(traces: Sequence[ScoredTrace], batch_tokens: int) -> Iterator[list[ScoredTrace]]:
    """Traces of like length together, the longest first, at most `batch_tokens` with padding (but at least one)."""
    batch: list[ScoredTrace] = []
    for trace in sorted(traces, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(trace)
    if batch:
        yield batch


def to_score(
    name: str, problems: Sequence[ReadProblem], tokenizer: "PreTrainedTokenizerBase", prompt: Prompt
) -> list[ScoredTrace]:
    """All traces of model `name`. Raises `InputError` for one without ids or with ids of another tokenizer."""
    detokenizer = Detokenizer(tokenizer)
    found = []
    for entry in problems:
        ids = prompt_ids(tokenizer, entry.problem, prompt)
        for trace in entry.traces:
            _check_ids(trace, detokenizer, tokenizer, name)
            key = (name, entry.benchmark, trace.problem_id, trace.sample)
            found.append(ScoredTrace(key, ids, trace.token_ids or ()))
    return found


def _check_ids(trace: Trace, detokenizer: Detokenizer, tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """The ids must say, in this tokenizer, what the trace says."""
    what = f"traces.{name}: sample {trace.sample} of '{trace.problem_id}'"
    if not trace.token_ids:
        raise InputError(f"{what} has no token ids; only traces that were sampled here can be scored")
    stream = detokenizer.stream()
    known = max(trace.token_ids) < len(tokenizer)
    text = "".join([stream.push(token) for token in trace.token_ids]) + stream.finish() if known else ""
    if text != trace.text:
        raise InputError(
            f"{what}: its token ids are not those of the tokenizer of key 'model'; score it with a model that has "
            "the same vocabulary (tokenising the text again would score other tokens than were sampled)"
        )


def read_scores(path: Path) -> dict[TraceKey, Score]:
    """Of every trace that was scored so far."""
    repair_torn_tail(path)
    if not path.is_file():
        return {}
    lines = (line for _, line in read_jsonl(path))
    return {
        (line["model"], line["benchmark"], line["problem_id"], line["sample"]): (line["tokens"], line["nll"])
        for line in lines
    }


def check_stored(scores: Mapping[TraceKey, Score], traces: Sequence[ScoredTrace], folder: Path) -> None:
    """Raises `InputError` for scores of traces that were sampled anew since: they would be those of others."""
    for trace in traces:
        if trace.key in scores and scores[trace.key][0] != len(trace.completion_ids):
            raise InputError(f"{folder}: holds scores of other traces; give another output folder")


def score_missing(model: "PreTrainedModel", traces: Sequence[ScoredTrace], path: Path, batch_tokens: int) -> None:
    """Append a line per trace that `path` lacks. Raises `InputError` for a trace that the model cannot hold."""
    done = read_scores(path)
    missing = [trace for trace in traces if trace.key not in done]
    if not missing:
        return
    context = context_tokens(model.config)
    if context is not None and max(map(len, missing)) > context:
        raise InputError(f"a trace of {max(map(len, missing))} tokens exceeds the context of key 'model', {context}")
    check_head(model, missing[0])
    with progress("perplexity", len(missing)) as shown:
        for batch in batches(missing, batch_tokens):
            scores = zip(batch, score_batch(model, batch), strict=True)
            append_jsonl(path, [_line(trace, nll) for trace, nll in scores])
            shown.advance(len(batch))


def _line(trace: ScoredTrace, nll: float) -> dict[str, JSON]:
    names = ("model", "benchmark", "problem_id", "sample")
    return dict(zip(names, trace.key, strict=True)) | {"tokens": len(trace.completion_ids), "nll": nll}


@dataclass(frozen=True)
class Perplexity:
    """Of some traces, with 95 % intervals over problems. `token_nll` weighs every token the same, `trace_nll` every
    problem and within it every trace [nats per token]; the perplexities are their exponentials."""

    problems: int
    traces: int
    token_nll: float
    token_nll_ci95: Bounds
    token_perplexity: float
    token_perplexity_ci95: Bounds
    trace_nll: float
    trace_nll_ci95: Bounds
    trace_perplexity: float
    trace_perplexity_ci95: Bounds


@dataclass(frozen=True)
class ModelPerplexity:
    """Of all, of the right and of the wrong traces of a model; None where there are none."""

    all: Perplexity | None
    right: Perplexity | None
    wrong: Perplexity | None


@dataclass(frozen=True)
class PerplexityReport:
    """All of perplexity.json; `models` are those that wrote the traces."""

    config: Mapping[str, JSON]
    grader: str
    models: Mapping[str, ModelPerplexity]


def write(report: PerplexityReport, folder: Path) -> None:
    """Replace `<folder>/perplexity.json`."""
    write_record(folder / _FILE, report, _FORMAT)


def read_perplexity(folder: str | Path) -> PerplexityReport:
    """Raises `InputError` for a folder without perplexity.json, or with one of another format."""
    return read_record(Path(folder) / _FILE, PerplexityReport, _FORMAT, "start eval/perplexity.py again")


def model_figures(
    name: str, problems: Sequence[ReadProblem], scores: Mapping[TraceKey, Score], extract: Extract
) -> ModelPerplexity:
    """`extract` takes the answer out of a text."""
    rows = [(number, entry, trace) for number, entry in enumerate(problems) for trace in entry.traces]
    verdicts = grade_batch([trace.text for *_, trace in rows], [trace.gold for *_, trace in rows], extract)
    parts: dict[str, dict[int, list[Score]]] = {"all": {}, "right": {}, "wrong": {}}
    for (number, entry, trace), right in zip(rows, verdicts, strict=True):
        score = scores[name, entry.benchmark, trace.problem_id, trace.sample]
        for part in ("all", "right" if right else "wrong"):
            parts[part].setdefault(number, []).append(score)
    return ModelPerplexity(**{part: summarise(list(groups.values())) for part, groups in parts.items()})


def summarise(groups: Sequence[Sequence[Score]]) -> Perplexity | None:
    """From the scores of a list of traces per problem."""
    if not groups:
        return None
    per_token = ratio_with_interval(
        [sum(nll for _, nll in group) for group in groups], [sum(tokens for tokens, _ in group) for group in groups]
    )
    per_trace = mean_with_interval([sum(nll / tokens for tokens, nll in group) / len(group) for group in groups])
    token, *token_bounds = map(math.exp, per_token)
    trace, *trace_bounds = map(math.exp, per_trace)
    return Perplexity(
        problems=len(groups),
        traces=sum(map(len, groups)),
        token_nll=per_token[0],
        token_nll_ci95=per_token[1:],
        token_perplexity=token,
        token_perplexity_ci95=(token_bounds[0], token_bounds[1]),
        trace_nll=per_trace[0],
        trace_nll_ci95=per_trace[1:],
        trace_perplexity=trace,
        trace_perplexity_ci95=(trace_bounds[0], trace_bounds[1]),
    )


def show(report: PerplexityReport) -> None:
    columns = ("traces of", "n", "perplexity\nof a token", "95 %", "mean of\ntraces", "95 %", "right", "wrong")
    table = plain_table("", columns)
    for name, parts in report.models.items():
        table.add_row(escape(name), *_cells(parts))
    print_table(table)


def _cells(parts: ModelPerplexity) -> list[str]:
    entry = parts.all
    return [
        f"{entry.traces:,}",
        f"{entry.token_perplexity:.3f}",
        interval_text(*entry.token_perplexity_ci95),
        f"{entry.trace_perplexity:.3f}",
        interval_text(*entry.trace_perplexity_ci95),
        *("–" if side is None else f"{side.token_perplexity:.3f}" for side in (parts.right, parts.wrong)),
    ]
