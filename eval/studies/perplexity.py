"""Negative log-likelihoods of stored traces under a model, batch by batch, with bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from eval.studies.common import TracedProblem
from eval.traces.sampling import prompt_ids
from secateur.engines.detokenize import Detokenizer
from secateur.runtime.errors import InputError
from secateur.tasks.records import Trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Key = tuple[str, str, str, int | str]  # model that wrote it, benchmark, problem id, sample
_LOGIT_BYTES = 1 << 28  # of float32 logits at once: 256 MiB, 441 positions of a vocabulary of 152,000


@dataclass(frozen=True)
class ScoredTrace:
    """A trace to score: ids of prompt and completion."""

    key: Key
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@torch.inference_mode()
def score_batch(model: "PreTrainedModel", batch: Sequence[ScoredTrace]) -> list[float]:
    """Sum of the negative log-likelihoods of each trace's completion ids [nats].

    Rows are padded on the right, where causal attention never looks. The logits are made in chunks of positions, so
    that memory does not grow with length × vocabulary.
    """
    longest = max(map(len, batch))
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, trace in enumerate(batch):
        ids[row, : len(trace)] = torch.tensor(trace.prompt_ids + trace.completion_ids)
    ids = ids.to(model.device)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return [
        _completion_nll(model, hidden[row], ids[row], len(trace.prompt_ids), len(trace))
        for row, trace in enumerate(batch)
    ]


def _completion_nll(model: "PreTrainedModel", hidden: torch.Tensor, ids: torch.Tensor, first: int, end: int) -> float:
    """`hidden` [positions, width], `ids` [positions]; the ids from `first` to `end` are scored."""
    head, total = model.get_output_embeddings(), 0.0
    chunk = max(1, _LOGIT_BYTES // (4 * model.config.get_text_config(decoder=True).vocab_size))
    for start in range(first, end, chunk):
        stop = min(start + chunk, end)
        logits = head(hidden[start - 1 : stop - 1]).float()
        total += torch.nn.functional.cross_entropy(logits, ids[start:stop], reduction="none").double().sum().item()
    return total


@torch.inference_mode()
def check_head(model: "PreTrainedModel", trace: ScoredTrace) -> None:
    """Raises `InputError` if the model's logits are more than its head on its last states (scaled or capped)."""
    ids = torch.tensor([trace.prompt_ids + trace.completion_ids[:1]], device=model.device)
    ours = model.get_output_embeddings()(model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1])
    theirs = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
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
    name: str, problems: Sequence[TracedProblem], tokenizer: "PreTrainedTokenizerBase", family: str
) -> list[ScoredTrace]:
    """All traces of model `name`. Raises `InputError` for one without ids or with ids of another tokenizer."""
    detokenizer = Detokenizer(tokenizer)
    found = []
    for entry in problems:
        prompt = prompt_ids(tokenizer, entry.problem, family)
        for trace in entry.traces:
            _check_ids(trace, detokenizer, tokenizer, name)
            key = (name, entry.benchmark, trace.problem_id, trace.sample)
            found.append(ScoredTrace(key, prompt, trace.token_ids or ()))
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
