"""What a judge's training reads, counted on the traces that are there; without any, only what the config says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepprune.judges.pairwise import PairReader, PairwiseFormat
from deepprune.pairs import JudgedProblem
from engines.load import load_tokenizer
from runtime.errors import InputError
from trainers.judge_config import JudgeConfig
from trainers.judge_data import JudgeData, load_judge_data
from trainers.judge_kinds import thin_pairs


@dataclass(frozen=True)
class SplitPlan:
    """One split: problems, their cuts and pairs, the tokens that one pass over them reads, and the longest sequence
    read at once [tokens]. For an own-state judge: states, of which nothing is read again."""

    name: str
    problems: int
    cuts: int
    pairs: int
    tokens: int
    longest: int
    most_cuts: int  # of one problem


@dataclass(frozen=True)
class DataPlan:
    """`train` is None where nothing is trained. `notes`: what was assumed."""

    train: SplitPlan | None
    others: list[SplitPlan]
    layers: int
    notes: list[str]

    @property
    def splits(self) -> list[SplitPlan]:
        return [*([self.train] if self.train else []), *self.others]


def missing_folders(config: JudgeConfig) -> list[str]:
    """Trace folders that the config names and that are not there."""
    folders = [config.train, config.dev, *config.tests.values()]
    return [folder for folder in folders if folder is not None and not Path(folder).is_dir()]


def plan_data(config: JudgeConfig) -> DataPlan:
    """Counts of all splits. Raises `InputError` for whatever the training itself would refuse about its traces."""
    data = load_judge_data(config, with_states=False)
    counter, notes = _Counter.of(config, data)
    dev, tests = data.dev, data.tests
    if config.kind == "pairwise":  # scored on a part of their pairs
        dev = thin_pairs(dev, config.dev_pairs, config.seed)
        tests = {name: thin_pairs(problems, config.test_pairs, config.seed) for name, problems in tests.items()}
    others = [counter.split("dev", dev), *(counter.split(name, problems) for name, problems in tests.items())]
    train = counter.split("train", data.train) if config.epochs else None
    return DataPlan(train, others, len(data.layers or ()), notes)


@dataclass(frozen=True)
class _Counter:
    config: JudgeConfig
    reader: PairReader | None
    query: int

    @classmethod
    def of(cls, config: JudgeConfig, data: JudgeData) -> "tuple[_Counter, list[str]]":
        query = len(data.tokenizer(config.query, add_special_tokens=False)["input_ids"])
        if config.kind != "pairwise":
            return cls(config, None, query), []
        try:
            shape = PairwiseFormat(config.prompt, config.labels, config.chat_template, config.max_tokens)
            return cls(config, PairReader(load_tokenizer(config.model), shape), query), []
        except InputError:
            note = f"no tokenizer of {config.model} is in reach: cuts count in the generator's tokens, without prompt"
            return cls(config, None, query), [note]

    def split(self, name: str, problems: Sequence[JudgedProblem]) -> SplitPlan:
        counted = [self._problem(problem) for problem in problems]
        return SplitPlan(
            name,
            len(problems),
            sum(len(problem.cuts) for problem in problems),
            sum(len(problem.pairs) for problem in problems),
            sum(tokens for tokens, _ in counted),
            max(longest for _, longest in counted),
            max(len(problem.cuts) for problem in problems),
        )

    def _problem(self, problem: JudgedProblem) -> tuple[int, int]:
        """Tokens that one pass reads, and the longest sequence."""
        if self.config.kind == "pairwise":
            return self._pairs(problem)
        lengths = np.array([len(cut.token_ids) for cut in problem.cuts])
        if self.config.kind == "linear":
            prompt = len(problem.cuts[0].prompt_ids)
            room = max(0, self.config.max_tokens - prompt - self.query)
            lengths = prompt + np.minimum(lengths, room) + self.query
        return int(lengths.sum()), int(lengths.max())

    def _pairs(self, problem: JudgedProblem) -> tuple[int, int]:
        """Every pair whole, one cut after the other."""
        first, second = problem.pairs.first, problem.pairs.second
        if self.reader is None:
            cuts = np.array([len(cut.token_ids) for cut in problem.cuts])
            rows = np.minimum(cuts[first] + cuts[second], self.config.max_tokens)
        else:
            begins = np.array([len(self.reader.begin(cut.text)) for cut in problem.cuts])
            ends = np.array([len(self.reader.end(cut.text)) for cut in problem.cuts])
            rows = begins[first] + ends[second]
        return int(rows.sum()), int(rows.max())
