"""Kind `pairwise`: the paper's judge, a causal language model that reads two cuts in one prompt."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind, JudgeReading, PassCounter
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.deepprune.judges.record import JUDGE_FILE, JudgeRecord
from secateur.runtime.errors import InputError
from secateur.runtime.records import record_of

if TYPE_CHECKING:
    import torch

    from secateur.deepprune.judges.pairwise import PairReader, PairwiseFormat, PairwiseJudge

DEFAULT_PROMPT = (
    "Below are the beginnings of two attempts at the same problem. Will both end in the same final answer?\n\n"
    "### Attempt A\n{a}\n\n### Attempt B\n{b}\n\nAnswer yes or no."
)


@dataclass(kw_only=True)
class PairwiseKeys(JudgeKeys):
    """How a pair is put to a pairwise judge.

    prompt: with {a} and {b}.
    chat_template: put the prompt into a user turn.
    labels: their first tokens are compared.
    """

    prompt: str = DEFAULT_PROMPT
    chat_template: bool = True
    labels: tuple[str, str] = ("yes", "no")


class PairwiseKind(JudgeKind[PairwiseKeys]):
    """See pairwise.py for the judge."""

    def check(self, keys: PairwiseKeys) -> None:
        if not ("{a}" in keys.prompt and "{b}" in keys.prompt):
            raise InputError("key 'prompt' must hold {a} and {b}, the places of the two cuts")

    def build(self, keys: PairwiseKeys, data: JudgeData) -> "PairwiseJudge":
        from secateur.deepprune.judges.lora import trainable

        judge = self._untouched(keys, data, "cpu")
        judge.model.language_model = trainable(judge.model.language_model, keys)
        return judge

    def as_it_is(self, keys: PairwiseKeys, data: JudgeData, device: "str | torch.device") -> "PairwiseJudge":
        judge = self._untouched(keys, data, device)
        judge.source = keys.model
        return judge

    def _untouched(self, keys: PairwiseKeys, data: JudgeData, device: "str | torch.device") -> "PairwiseJudge":
        from secateur.deepprune.judges.pairwise import load_pairwise

        return load_pairwise(keys.model, data.cut_rule, _format(keys), device, keys.dtype)

    def load(self, folder: Path, record: JudgeRecord, device: "str | torch.device") -> "PairwiseJudge":
        from secateur.deepprune.judges.pairwise import load_pairwise

        shape, model = _stored_format(folder, record), record.language_model(folder)
        judge = load_pairwise(model, record.cut, shape, device, record.dtype)
        judge.source = record.model
        return judge

    def pass_counter(self, keys: PairwiseKeys, data: JudgeData) -> PassCounter:
        """Every pair whole, one cut after the other; in the generator's tokens where the model's are out of reach."""
        try:
            reader = _reader(keys.model, _format(keys))
        except InputError:
            note = f"no tokenizer of {keys.model} is in reach: cuts count in the generator's tokens, without prompt"
            return PassCounter(lambda problem: _without_prompt(problem, keys.max_tokens), note)
        return PassCounter(lambda problem: _with_prompt(problem, reader))

    def reading(self, folder: Path, record: JudgeRecord) -> JudgeReading:
        """The first part of a pair's prompt once per trace, the second once per pair."""
        shape = _stored_format(folder, record)
        reader = _reader(record.language_model(folder), shape)
        begin, end = len(reader.begin("")), len(reader.end(""))

        def tokens(n: int, prompt: float, cut: float) -> float:
            cut = min(cut, (shape.max_tokens - begin - end) / 2)
            return (n - 1) * (begin + cut) + n * (n - 1) / 2 * (cut + end)

        return JudgeReading(tokens=tokens)


def _format(keys: PairwiseKeys) -> "PairwiseFormat":
    from secateur.deepprune.judges.pairwise import PairwiseFormat

    return PairwiseFormat(keys.prompt, keys.labels, keys.chat_template, keys.max_tokens)


def _stored_format(folder: Path, record: JudgeRecord) -> "PairwiseFormat":
    from secateur.deepprune.judges.pairwise import PairwiseFormat

    return record_of(PairwiseFormat, record.shape, f"{folder / JUDGE_FILE}: shape")


def _reader(model: str | Path, shape: "PairwiseFormat") -> "PairReader":
    from secateur.deepprune.judges.pairwise import PairReader
    from secateur.engines.model_files import load_tokenizer

    return PairReader(load_tokenizer(model), shape)


def _with_prompt(problem: LabelledProblem, reader: "PairReader") -> tuple[int, int]:
    begins = np.array([len(reader.begin(cut.text)) for cut in problem.cuts])
    ends = np.array([len(reader.end(cut.text)) for cut in problem.cuts])
    return _total_and_longest(begins[problem.pairs.first] + ends[problem.pairs.second])


def _without_prompt(problem: LabelledProblem, max_tokens: int) -> tuple[int, int]:
    cuts = np.array([len(cut.token_ids) for cut in problem.cuts])
    return _total_and_longest(np.minimum(cuts[problem.pairs.first] + cuts[problem.pairs.second], max_tokens))


def _total_and_longest(rows: np.ndarray) -> tuple[int, int]:
    return int(rows.sum()), int(rows.max())


KIND = PairwiseKind(
    name="pairwise",
    label="pairwise",
    reads="the text of both cuts, once per pair, with a language model",
    compares="pairs",
    training="possible",
    reads_tokens=True,
    language_model="causal",
    keys=PairwiseKeys,
)
