"""Judge data cut again and again from traces that were collected once, at the largest k.

Text is cut anew from the whole stored trace. Hidden states are kept only up to the cut the traces were collected at;
those of an earlier cut are their beginning, because a causal model's states do not depend on what comes later.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateur.deepprune.cut import CutRule, cut_pieces, ended_before_cut
from secateur.deepprune.judges.base import CutTrace
from secateur.deepprune.judges.pairs import JudgeData, LabelledProblem
from secateur.engines.detokenize import Detokenizer
from secateur.runtime.errors import InputError
from trainers.judges.config import JudgeConfig
from trainers.judges.data import load_judge_data


@dataclass(frozen=True)
class StoredProblem:
    """A problem at the cut its states were stored for, and the text of every token of each cut."""

    problem: LabelledProblem
    pieces: list[list[str]]


class CutAgain:
    """Judge data at any cut. States are read from disk once, at the cut they were stored for."""

    def __init__(self, config: JudgeConfig) -> None:
        """`config` without a cut of its own: own-state data is read at the cut of the folders."""
        self.config = config
        self._stored = load_judge_data(config) if config.judge_kind.reads_states else None
        if self._stored is not None:
            detokenizer = Detokenizer(self._stored.tokenizer)
            self._train, self._dev, *tests = (
                [StoredProblem(problem, [_pieces(cut, detokenizer) for cut in problem.cuts]) for problem in split]
                for split in (self._stored.train, self._stored.dev, *self._stored.tests.values())
            )
            self._tests = dict(zip(self._stored.tests, tests, strict=True))

    def at(self, rule: CutRule) -> JudgeData:
        """All splits at `rule`; raises `InputError` where the stored states end too early."""
        if self._stored is None:
            return load_judge_data(dataclasses.replace(self.config, cut_kind=rule.kind, cut_k=rule.k))
        try:
            train, dev = ([shorter(entry, rule) for entry in split] for split in (self._train, self._dev))
            tests = {name: [shorter(entry, rule) for entry in split] for name, split in self._tests.items()}
        except TooShort as error:
            stored = self._stored.cut_rule
            raise InputError(
                f"key '{rule.kind}' names {rule.k}, but the stored states end at {stored.k} {stored.kind}: {error}; "
                "collect the traces at a larger cut or leave this k out"
            ) from None
        return dataclasses.replace(self._stored, train=train, dev=dev, tests=tests, cut_rule=rule)


class TooShort(Exception):
    """The stored cut ends before the one that is asked for."""


def _pieces(cut: CutTrace, detokenizer: Detokenizer) -> list[str]:
    stream = detokenizer.stream()
    return [stream.push(token) for token in cut.token_ids]


def shorter(stored: StoredProblem, rule: CutRule) -> LabelledProblem:
    """The problem at an earlier cut; its pairs and labels stay, which of them are unfinished may change.

    Raises `TooShort` where an unfinished cut has not reached the earlier one.
    """
    problem = stored.problem
    columns = zip(problem.cuts, stored.pieces, problem.whole, problem.cut_shares, strict=True)
    cuts, whole, shares = (
        tuple(column) for column in zip(*(_earlier(*entry, rule) for entry in columns), strict=True)
    )
    complete = np.array(whole, dtype=bool)
    unfinished = ~(complete[problem.pairs.first] | complete[problem.pairs.second])
    pairs = dataclasses.replace(problem.pairs, unfinished=unfinished)
    return dataclasses.replace(problem, cuts=cuts, whole=whole, cut_shares=shares, pairs=pairs)


def _earlier(
    cut: CutTrace, pieces: Sequence[str], whole: bool, share: float, rule: CutRule
) -> tuple[CutTrace, bool, float]:
    """The earlier cut, whether it is the whole trace, and its share (0-1) of the trace."""
    found = cut_pieces(pieces, rule)
    if found.n_tokens is None:
        if not whole:
            raise TooShort(f"one of the traces has not reached {rule.k} {rule.kind} by then")
        return cut, True, share
    tokens, length = found.n_tokens, round(len(cut.token_ids) / share)
    # The newest token of a cut was sampled but not yet read, so it has no state.
    states = None if cut.states is None else cut.states[: tokens - 1]
    earlier = dataclasses.replace(cut, token_ids=cut.token_ids[:tokens], text=found.text, states=states)
    return earlier, ended_before_cut(length, tokens), tokens / length
