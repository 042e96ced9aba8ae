"""Judge data: all pairs of traces of one problem, labelled by whether their final answers are equal.

The unit of every split is the problem: two pairs of one problem share traces, so a split by pair would leak.
What a trace without an answer means depends on why it has none. One that ended by itself agrees with no other:
its pairs are labelled different. One that ran into the token cap, or of which nothing is known, might have agreed:
its pairs are left out.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.base import CutTrace
from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import right_keys
from secateur.tasks.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of traces of one problem; four arrays of one length.

    `first` < `second` number the traces; `labels` 1 = same answer, 0 = different; `unfinished` is True where neither
    cut is a whole trace, so that nothing of the answer was on show.
    """

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray
    unfinished: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class LabelledProblem:
    """One problem of judge data: what a judge reads, and what it should say.

    `whole[i]` says that trace i ended before its cut was reached, so its cut is the whole trace; `cut_shares` are
    fractions (0-1) of the trace's tokens that lie in the cut. `group` names the problem's rule or subject. `answers`
    are the traces' final ones, None for none, equal ones have equal `keys`; `lengths` [tokens] are those of the whole
    traces.
    """

    id: str
    group: str | None
    cuts: tuple[CutTrace, ...]
    whole: tuple[bool, ...]
    cut_shares: tuple[float, ...]
    pairs: Pairs
    gold: str = ""
    answers: tuple[str | None, ...] = ()
    keys: tuple[int | None, ...] = ()
    lengths: tuple[int, ...] = ()

    @cached_property
    def right(self) -> frozenset[int]:
        """The keys of right answers."""
        return right_keys(self.answers, self.keys, self.gold)


@dataclass(frozen=True)
class JudgeData:
    """All that a judge is made from and measured on.

    The splits: `tests` by name, `train` empty where nothing is trained. `cut_rule`: where all traces are cut;
    `cut_choice`: how it was chosen, in words, if it was not given.
    `layers`: those of the states in the cuts, indices into `hidden_states`; `hidden`: how many numbers each has; None
    without states. `tokenizer`: the generator's; `prompt`: how the problems were put to it. `sources`: where
    the problems of train, dev and every test come from, where known.
    """

    train: list[LabelledProblem]
    dev: list[LabelledProblem]
    tests: dict[str, list[LabelledProblem]]
    cut_rule: CutRule
    layers: tuple[int, ...] | None
    hidden: int | None
    tokenizer: "PreTrainedTokenizerBase"
    prompt: Prompt
    sources: dict[str, str]
    cut_choice: str | None = None


def make_pairs(keys: Sequence[int | None], ended: Sequence[bool], whole: Sequence[bool]) -> Pairs:
    """All pairs of the traces whose outcome is known (see the module's text).

    `keys`: equal final answers share one, None = no answer; `ended[i]`: trace i ended by itself; `whole[i]`: its cut
    is all of it.
    """
    known = np.array([key is not None or end for key, end in zip(keys, ended, strict=True)], dtype=bool)
    first, second = np.triu_indices(len(known), k=1)
    kept = known[first] & known[second]
    first, second = first[kept], second[kept]
    # A trace without an answer gets a key of its own, so that it equals nothing.
    numbers = np.array([-1 - index if key is None else key for index, key in enumerate(keys)])
    complete = np.array(whole, dtype=bool)
    return Pairs(
        first=first,
        second=second,
        labels=(numbers[first] == numbers[second]).astype(np.int64),
        unfinished=~(complete[first] | complete[second]),
    )


def check_disjoint(splits: Mapping[str, Sequence[LabelledProblem]]) -> None:
    """`check_apart` of the problems that a judge is made and measured with; a prompt tells their texts apart."""
    contents = {
        split: [(problem.id, problem.cuts[0].prompt_ids or problem.id) for problem in found]
        for split, found in splits.items()
    }
    check_apart(contents)


def check_apart(splits: Mapping[str, Iterable[tuple[str, Hashable]]]) -> None:
    """Raises `InputError` naming a problem, given as its id and its content, that occurs in two splits, under
    whatever id."""
    owner: dict[Hashable, tuple[str, str]] = {}
    for split, problems in splits.items():
        for name, content in problems:
            for known in (("id", name), ("content", content)):
                other, there = owner.setdefault(known, (split, name))
                if other != split:
                    alias = "" if there == name else f" (as '{there}')"
                    raise InputError(
                        f"problem '{name}' is in '{other}'{alias} and in '{split}'; what is trained has to be "
                        "measured on problems it was not trained on: give splits without common problems"
                    )


def all_labels(problems: Sequence[LabelledProblem]) -> np.ndarray:
    return np.concatenate([problem.pairs.labels for problem in problems])
