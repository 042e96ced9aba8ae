"""explorer.json: what each rule did with every trace of every problem, for those who look at a run trace by trace.

Texts stay in the trace folders; those of a few examples are kept in examples.json as well, so that a report can be
made of a run whose traces lie elsewhere.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.table.answers import answer_once
from eval.table.method import Pruned, ReplayModel, ReplayProblem
from eval.table.pruning import prune_once, weighed_once
from secateur.deepprune.answers import AnswerRule
from secateur.deepprune.evidence import EvidenceRule, JudgedRule, Rule
from secateur.deepprune.rule import PruneRule
from secateur.deepprune.vote import majority
from secateur.runtime.files import write_text
from secateur.runtime.records import FORMAT_KEY, as_json, read_record, write_record
from secateur.tasks.records import Problem

EXPLORER_FILE, EXAMPLES_FILE = "explorer.json", "examples.json"
CONSENSUS = "consensus"
_FORMAT = 1
_REMEDY = "start eval/combined.py again, which makes it anew from what is stored"


@dataclass(frozen=True)
class RuleRun:
    """One rule on one problem in the stored order, or the consensus of all traces: `labels` [n] are clusters, None
    where unassigned; `kept` [n] how far each trace would have run [tokens]; `survivors` vote; `vote` is a place in
    the answers' `names`, None for no answer."""

    method: str
    judge: str | None
    labels: tuple[int | None, ...]
    kept: tuple[int, ...]
    survivors: tuple[int, ...]
    vote: int | None
    right: bool


@dataclass(frozen=True)
class TracedModel:
    """The traces of one problem by one model, one entry per trace: lengths [tokens], cuts [tokens] (None: ended
    before), answers as places in `names` (None: none), whether they are right. The last of `runs` is the
    consensus."""

    n_tokens: tuple[int, ...]
    cut_tokens: tuple[int | None, ...]
    names: tuple[str, ...]
    answers: tuple[int | None, ...]
    right: tuple[bool, ...]
    runs: tuple[RuleRun, ...]


@dataclass(frozen=True)
class TracedProblem:
    problem_id: str
    problem: str
    gold: str
    models: Mapping[str, TracedModel]


@dataclass(frozen=True)
class _Explorer:
    problems: tuple[TracedProblem, ...]


@dataclass(frozen=True)
class _Examples:
    """Problem id → model → the texts of its traces."""

    texts: Mapping[str, Mapping[str, tuple[str, ...]]]


def write_explorer(
    folder: str | Path,
    problems: Sequence[Problem],
    rules: Mapping[str, Rule],
    models: Mapping[str, ReplayModel],
    answers: Mapping[str, Sequence[Sequence[str | None]]],
) -> None:
    """Replace `explorer.json` in `folder`, a line per problem; rules of forced answers are left out. `answers` are by
    model, [problems][traces]."""
    lines = []
    for index, problem in enumerate(problems):
        traced = {name: _traced(found, index, answers[name][index], rules) for name, found in models.items()}
        lines.append(json.dumps(as_json(TracedProblem(problem.id, problem.problem, problem.answer, traced))))
    body = ",\n".join(lines)
    write_text(Path(folder) / EXPLORER_FILE, f'{{"{FORMAT_KEY}": {_FORMAT}, "problems": [\n{body}\n]}}\n')


def read_explorer(folder: str | Path) -> list[TracedProblem]:
    """The problems of a combined run; [] where it left none. Raises `InputError` for a file of another format."""
    path = Path(folder) / EXPLORER_FILE
    return list(read_record(path, _Explorer, _FORMAT, _REMEDY).problems) if path.is_file() else []


def write_examples(folder: str | Path, texts: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    """Replace `examples.json`; `texts`: problem id → model → texts of its traces."""
    found = {problem: {model: tuple(mine) for model, mine in models.items()} for problem, models in texts.items()}
    write_record(Path(folder) / EXAMPLES_FILE, _Examples(found), _FORMAT)


def read_examples(folder: str | Path) -> dict[tuple[str, str], list[str]]:
    """(model, problem id) → texts; {} where none were kept."""
    path = Path(folder) / EXAMPLES_FILE
    if not path.is_file():
        return {}
    texts = read_record(path, _Examples, _FORMAT, _REMEDY).texts
    return {(model, problem): list(mine) for problem, models in texts.items() for model, mine in models.items()}


def evenly_chosen(problems: Sequence[ReplayProblem], count: int) -> list[int]:
    """Places of `count` problems spread evenly from the hardest to the easiest by their share of right traces."""
    shares = [np.mean([key in problem.right for key in problem.keys]) for problem in problems]
    order = sorted(range(len(problems)), key=lambda index: (shares[index], index))
    if count >= len(order):
        return order
    return [order[round(place)] for place in np.linspace(0, len(order) - 1, count)] if count else []


def _traced(model: ReplayModel, index: int, answers: Sequence[str | None], rules: Mapping[str, Rule]) -> TracedModel:
    plain = model.plain[index]
    first: dict[Hashable, str] = {}
    for key, answer in zip(plain.keys, answers, strict=True):
        if key is not None:
            first.setdefault(key, answer)
    places = {key: place for place, key in enumerate(first)}
    runs = [
        _rule_run(method, None, answer_once(plain, rule), places, plain)
        for method, rule in rules.items()
        if isinstance(rule, AnswerRule)
    ]
    runs += [
        _rule_run(method, judge, _run_once(model, judge, index, rule), places, plain)
        for judge in model.pruned_by
        for method, rule in rules.items()
        if isinstance(rule, JudgedRule)
    ]
    return TracedModel(
        n_tokens=tuple(trace.n_tokens for trace in plain.traces),
        cut_tokens=tuple(trace.cut_tokens for trace in plain.traces),
        names=tuple(first.values()),
        answers=tuple(places.get(key) for key in plain.keys),
        right=tuple(key in plain.right for key in plain.keys),
        runs=(*runs, _consensus(plain, places)),
    )


def _run_once(model: ReplayModel, judge: str, index: int, rule: PruneRule | EvidenceRule) -> Pruned:
    if isinstance(rule, EvidenceRule):
        return weighed_once(model.judged[judge][index], rule.weighed(model.judge_weights.get(judge)))
    return prune_once(model.judged[judge][index], rule)


def _rule_run(
    method: str, judge: str | None, run: Pruned, places: Mapping[Hashable, int], problem: ReplayProblem
) -> RuleRun:
    return RuleRun(
        method,
        judge,
        tuple(run.labels),
        tuple(run.kept_tokens),
        tuple(run.survivors),
        places.get(run.key),
        run.key in problem.right,
    )


def _consensus(problem: ReplayProblem, places: Mapping[Hashable, int]) -> RuleRun:
    n, key = len(problem.traces), majority(problem.keys)
    kept = tuple(trace.n_tokens for trace in problem.traces)
    return RuleRun(CONSENSUS, None, (None,) * n, kept, tuple(range(n)), places.get(key), key in problem.right)
