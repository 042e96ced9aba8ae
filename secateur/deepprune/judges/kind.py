"""What a kind of judge is to the rest of the program: facts to ask for, and the work that differs from kind to kind.

A new kind is a file in kinds/ (and the judge itself beside this file) and a line in registry.py. Nothing here or in
kinds/ loads torch before a judge is made: configurations and tables ask for facts alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import Judge
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.deepprune.judges.record import JudgeRecord
from secateur.runtime.errors import InputError

if TYPE_CHECKING:
    import torch

Comparison = Literal["vectors", "pairs"]
Training = Literal["always", "possible", "never"]
LanguageModel = Literal["encoder", "causal"]


@dataclass(kw_only=True)
class JudgeKeys:
    """What several kinds of judge are made from. Each kind adds keys of its own.

    model: linear_own_states: the generator. linear: the encoder to fine-tune; it reads the generator's tokens, so it
      has the generator's tokenizer. pairwise: the causal LM to fine-tune. embedding: a sentence-transformers model.
    generator: model whose tokenizer and input embeddings baselines use; null = `model`.
    layers: own states: indices into hidden_states; null = all that are stored.
    heads: own states: of the attention that pools the states of a cut.
    width: values per attention head.
    pair_hidden: hidden units of the head that compares two vectors.
    max_tokens: cap on what is read at once; longer cuts lose their beginning.
    dtype: what a language model is loaded, trained and scored in.
    gradient_checkpointing: computes activations twice instead of keeping them.
    lora_rank: 0 = train all weights of the language model.
    lora_alpha: what the adapters compute is multiplied by lora_alpha / lora_rank.
    lora_dropout: fraction (0-1).
    lora_targets: names of modules.
    epochs: of training; 0 = use the model as it is (pairwise, embedding).
    """

    model: str
    generator: str | None = None
    layers: list[int] | None = None
    heads: int = 4
    width: int = 24
    pair_hidden: int = 32
    max_tokens: int = 8192
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: str | list[str] = "all-linear"
    epochs: float = 20.0


Keys = TypeVar("Keys", bound=JudgeKeys)


def must_be_trained(keys: JudgeKeys) -> None:
    """For kinds of linear cost, whose heads begin with random weights. Raises `InputError`."""
    if not keys.epochs:
        raise InputError("key 'epochs' has the value 0: a linear judge has to be trained; write 1 or more")


class TrainableJudge(Judge, Protocol):
    """A judge whose `model` can be trained.

    Kinds that compare vectors: `model(cuts)` gives [cuts, width] and `model.head(a, b)` the logits of pairs of them.
    Kinds that compare pairs: `model(rows)` gives the logits of rows of token ids, and `model.reader.read(a, b)` makes
    such a row.
    """

    model: "torch.nn.Module"


@dataclass(frozen=True)
class PassCounter:
    """How much one pass over a problem reads, without a model: `count(problem)` → [tokens] of everything and of the
    longest sequence that is read at once. `note` says what had to be assumed, None if nothing."""

    count: Callable[[LabelledProblem], tuple[int, int]]
    note: str | None = None


def nothing_read(n: int, prompt: float, cut: float) -> float:
    return 0.0


@dataclass(frozen=True)
class JudgeReading:
    """What a judge keeps of a trace and reads of a problem, as its judge.json tells.

    layers, hidden: of the generator's states that it reads, 0 without; vector: numbers that it makes of those of one
    trace. `tokens(n, prompt, cut)`: what scoring all pairs of n traces of one problem reads, whose prompt and cuts
    have so many tokens.
    """

    layers: int = 0
    hidden: int = 0
    vector: int = 0
    tokens: Callable[[int, float, float], float] = nothing_read


def cut_lengths(problem: LabelledProblem) -> tuple[int, int]:
    """Tokens of all cuts of a problem, and of the longest."""
    lengths = [len(cut.token_ids) for cut in problem.cuts]
    return sum(lengths), max(lengths)


@dataclass(frozen=True, kw_only=True)
class JudgeKind(Generic[Keys]):
    """All there is to say of one kind of judge. The methods are the work that only it can do; those that make no
    sense for a kind are not called, and say so.

    name: in configs, judge.json and results; an untrained judge is asked for by it.
    label: what tables call it.
    reads: what it reads, in words; {layers} stands for the layers of its shape.
    compares: "vectors": makes a vector of every cut and compares two, so that its work grows with the traces;
      "pairs": reads two cuts together, so that it grows with the pairs.
    training: whether it has to be trained ("always"), may be ("possible"), or has nothing to train ("never"); what is
      not trained takes its model as it is.
    needs_folder: a folder or a repository of the Hub holds it; otherwise its name is all.
    reads_states: it reads the generator's hidden states, and so belongs to one model.
    reads_tokens: it spends tokens of its own.
    language_model: the language model that is its main part, with its output layer ("causal") or without ("encoder").
    needs_generator: it compares the generator's input embeddings.
    is_chance: it is the control that knows nothing.
    is_similarity: the table's method "embedding" may drop cuts by it.
    keys: the class with the keys that its training reads.
    """

    name: str
    label: str
    reads: str
    compares: Comparison
    training: Training
    needs_folder: bool = True
    reads_states: bool = False
    reads_tokens: bool = False
    language_model: LanguageModel | None = None
    needs_generator: bool = False
    is_chance: bool = False
    is_similarity: bool = False
    keys: type[Keys] | None = None

    def check(self, keys: Keys) -> None:
        """Raise `InputError` for keys with which no judge of this kind can be made."""

    def build(self, keys: Keys, data: JudgeData) -> TrainableJudge:
        """The judge before its training; its random parts come from torch's generator."""
        raise NotImplementedError(f"a judge of kind {self.name} is not trained")

    def as_it_is(self, keys: Keys, data: JudgeData, device: "str | torch.device") -> Judge:
        """A judge that uses `keys.model` without training."""
        raise NotImplementedError(f"a judge of kind {self.name} has to be trained")

    def load(self, folder: Path, record: JudgeRecord, device: "str | torch.device") -> Judge:
        """The judge that lies in `folder` and whose judge.json is `record`."""
        raise NotImplementedError(f"a judge of kind {self.name} lies in no folder")

    def make(self, rule: CutRule, generator: str | Path | None) -> Judge:
        """The judge, for kinds that need no folder; `generator` is the folder of the model whose traces it compares,
        where that is known."""
        raise NotImplementedError(f"a judge of kind {self.name} needs a folder")

    def pass_counter(self, keys: Keys, data: JudgeData) -> PassCounter:
        """What training and scoring read; by default every cut once."""
        return PassCounter(cut_lengths)

    def reading(self, folder: Path, record: JudgeRecord) -> JudgeReading:
        """What a judge keeps and reads; by default nothing."""
        return JudgeReading()
