"""Kind `linear`: a fine-tuned encoder reads every cut once, after the problem's prompt and before a neutral query."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind, JudgeReading, PassCounter, must_be_trained
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.deepprune.judges.record import JUDGE_FILE, JudgeRecord
from secateur.runtime.errors import InputError
from secateur.runtime.records import record_of

if TYPE_CHECKING:
    import torch

    from secateur.deepprune.judges.linear import LinearJudge, LinearShape

NEUTRAL_QUERY = " So the answer is"


@dataclass(kw_only=True)
class LinearKeys(JudgeKeys):
    """What a linear judge reads beside the cut.

    query: read after the cut, the state of its last token is the vector.
    """

    query: str = NEUTRAL_QUERY


class LinearKind(JudgeKind[LinearKeys]):
    """See linear.py for the judge."""

    def check(self, keys: LinearKeys) -> None:
        must_be_trained(keys)

    def build(self, keys: LinearKeys, data: JudgeData) -> "LinearJudge":
        import torch
        from transformers import AutoModel

        from secateur.deepprune.judges.linear import LinearJudge, LinearModel, LinearShape
        from secateur.deepprune.judges.lora import trainable

        encoder = AutoModel.from_pretrained(keys.model, dtype=getattr(torch, keys.dtype))
        _check_vocabulary(keys, encoder.get_input_embeddings().num_embeddings, data)
        shape = LinearShape(tuple(_query_ids(keys, data)), keys.pair_hidden, keys.max_tokens)
        return LinearJudge(LinearModel(trainable(encoder, keys), shape), data.cut_rule)

    def load(self, folder: Path, record: JudgeRecord, device: "str | torch.device") -> "LinearJudge":
        from secateur.deepprune.judges.linear import load_linear

        return load_linear(folder, record.cut, _shape(folder, record), device, record.dtype)

    def pass_counter(self, keys: LinearKeys, data: JudgeData) -> PassCounter:
        query = len(_query_ids(keys, data))

        def count(problem: LabelledProblem) -> tuple[int, int]:
            prompt = len(problem.cuts[0].prompt_ids)
            room = max(0, keys.max_tokens - prompt - query)
            lengths = [prompt + min(len(cut.token_ids), room) + query for cut in problem.cuts]
            return sum(lengths), max(lengths)

        return PassCounter(count)

    def reading(self, folder: Path, record: JudgeRecord) -> JudgeReading:
        """The prompt once per problem, cut and query once per trace."""
        shape = _shape(folder, record)

        def tokens(n: int, prompt: float, cut: float) -> float:
            return prompt + n * (min(cut, shape.max_tokens) + len(shape.query_ids))

        return JudgeReading(tokens=tokens)


def _query_ids(keys: LinearKeys, data: JudgeData) -> list[int]:
    return data.tokenizer(keys.query, add_special_tokens=False)["input_ids"]


def _check_vocabulary(keys: LinearKeys, rows: int, data: JudgeData) -> None:
    if keys.generator is None:
        return
    highest = max(max(cut.token_ids, default=0) for problem in data.train for cut in problem.cuts)
    if highest >= rows:
        raise InputError(
            f"key 'model': {keys.model} knows {rows} tokens, but the traces hold token {highest}; a linear judge "
            "reads the generator's tokens: take an encoder of the generator's family, or kind 'pairwise'"
        )


def _shape(folder: Path, record: JudgeRecord) -> "LinearShape":
    from secateur.deepprune.judges.linear import LinearShape

    return record_of(LinearShape, record.shape, f"{folder / JUDGE_FILE}: shape")


KIND = LinearKind(
    name="linear",
    label="linear",
    reads="the tokens of each cut once, with a fine-tuned encoder",
    compares="vectors",
    training="always",
    reads_tokens=True,
    language_model="encoder",
    keys=LinearKeys,
)
