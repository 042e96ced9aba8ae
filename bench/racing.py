"""What racing a round's checkpoints saves, and how often it chooses as the full validation: replays of stored ones.

    python bench/racing.py outputs/demo/thinkprune outputs/seed-1/thinkprune --replays 200

Each run folder holds a schedule that was validated in full. A replay deals its samples anew: `order` gives every
problem's samples another order, so that the full validation stays what it was; `drawn` draws as many with
replacement, which is another full validation of the same models, with a choice of its own. The race then sees samples
as it asks for them (schedules/racing.py). Tokens are those of the samples that were asked for, over those
of all; the start model of round 1, which has all its samples, is among both.

Beside it, how many decoding steps the slowest process takes for all candidates of a round in full: with a launch for
each of them, which ends with its longest trace, and with whole models dealt over the processes of one launch,
problems with long traces first (eval/one_model/sampling.py).
"""

import argparse
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from eval.one_model.sampling import deal
from schedules.choice import START, Candidate, ProblemFigures, choose, pick_reference
from schedules.racing import Race, Samples, lacking, make_race, read_samples
from schedules.records import VALIDATION, read_validation
from schedules.validation.sampling import BENCHMARK, candidate_name
from secateur.runtime.config import read_yaml
from secateur.runtime.console import plain_table, print_table, say
from secateur.runtime.errors import InputError
from secateur.runtime.process import Ranks, entry_point
from secateur.tasks.graded import RESULTS_FILE

Kind = Literal["order", "drawn"]


@dataclass(frozen=True)
class Rule:
    """The keys of the choice."""

    tolerance: float
    tolerance_reference: str


@dataclass(frozen=True, eq=False)
class StoredRound:
    """A round's candidates with all their samples: `models` by step, the start model among them; `sampled`: steps of
    those that its own validation sampled; `original`: the model that round 1 began with."""

    name: str
    models: Mapping[int, Samples]
    sampled: tuple[int, ...]
    original: Samples


@dataclass(frozen=True)
class Replayed:
    """`equal`: the race chose as the full validation did; tokens of both; launches of the race."""

    equal: bool
    raced_tokens: float
    full_tokens: float
    launches: int


def stored_rounds(run: Path, rule: Rule) -> list[StoredRound]:
    """Raises `InputError` for a run without a validated round, or one that was raced itself."""
    found: list[StoredRound] = []
    start: Samples | None = None
    for folder in sorted(path.parent for path in run.glob(f"rounds/*/{VALIDATION}")):
        models = _models_of(folder)
        sampled = tuple(models)
        models = dict(sorted(({} if start is None else {START: start} | models).items())) or models
        found.append(StoredRound(folder.name, models, sampled, found[0].original if found else models[START]))
        start = models[chosen_step({step: figures(step, one) for step, one in models.items()}, found[-1], rule)]
    if not found:
        raise InputError(f"{run}: no validated round there; name the output_dir of a schedule")
    return found


def _models_of(folder: Path) -> dict[int, Samples]:
    """Those that the validation of a round has sampled."""
    candidates = read_validation(folder / VALIDATION).candidates
    full = max(candidate.samples for candidate in candidates)
    if raced := [candidate.step for candidate in candidates if candidate.samples < full]:
        raise InputError(f"{folder}: was raced itself (steps {raced} have fewer samples); replay a full validation")
    steps = sorted(candidate.step for candidate in candidates)
    files = {step: folder / "validation" / candidate_name(step) / BENCHMARK / RESULTS_FILE for step in steps}
    return {step: read_samples(path, full) for step, path in files.items() if path.is_file()}


def figures(step: int, drawn: Samples, per_problem: bool = False) -> Candidate:
    """What a validation would say of these samples, but for the intervals, which play no part in a choice."""
    pairs = zip(drawn.right.mean(axis=1), drawn.tokens.mean(axis=1), strict=True)
    found = {f"{place:06}": ProblemFigures(*pair) for place, pair in enumerate(pairs)} if per_problem else {}
    means = float(drawn.right.mean()), float(drawn.tokens.mean())
    return Candidate(step, *means, 0.0, (0.0, 0.0), (0.0, 0.0), drawn.count, len(drawn.right), found)


def chosen_step(candidates: Mapping[int, Candidate], one: StoredRound, rule: Rule) -> int:
    original = candidates[START] if START in one.sampled else figures(START, one.original)
    reference = pick_reference(original, candidates[START], rule.tolerance_reference)
    return choose(list(candidates.values()), reference, rule.tolerance).chosen_step


def dealt_anew(drawn: Samples, kind: Kind, rng: np.random.Generator) -> Samples:
    problems, count = drawn.right.shape
    if kind == "drawn":
        places = rng.integers(0, count, (problems, count))
    else:
        places = rng.permuted(np.tile(np.arange(count), (problems, 1)), axis=1)
    right, tokens = (np.take_along_axis(values, places, axis=1) for values in (drawn.right, drawn.tokens))
    return Samples(right, tokens)


def replay(one: StoredRound, rule: Rule, kind: Kind, confidence: float, rng: np.random.Generator) -> Replayed:
    """One race against one full validation of the same samples."""
    models = {step: dealt_anew(drawn, kind, rng) for step, drawn in one.models.items()}
    start, full = figures(START, models[START], True), models[START].count
    original = start if START in one.sampled else figures(START, one.original, True)
    reference = pick_reference(original, start, rule.tolerance_reference).candidate
    race = make_race(full, confidence, rule.tolerance, reference, start)
    had, launches = raced(models, race)
    everyone = {step: figures(step, drawn) for step, drawn in models.items()}
    seen = {step: figures(step, models[step].first(count)) for step, count in had.items()}
    return Replayed(
        equal=chosen_step(everyone, one, rule) == chosen_step(seen, one, rule),
        raced_tokens=_tokens(models, {step: had[step] for step in one.sampled}),
        full_tokens=_tokens(models, dict.fromkeys(one.sampled, full)),
        launches=launches + (START in one.sampled),
    )


def raced(models: Mapping[int, Samples], race: Race) -> tuple[dict[int, int], int]:
    """Step → the samples of each problem that it had in the end, and the launches that it took."""
    had, launches = {step: race.samples if step == START else 0 for step in models}, 0
    while missing := lacking(race, {step: models[step].first(had[step]) for step in models if step != START}):
        had, launches = had | missing, launches + 1
    return had, launches


def _tokens(models: Mapping[int, Samples], counts: Mapping[int, int]) -> float:
    return float(sum(models[step].tokens[:, :count].sum() for step, count in counts.items()))


def steps_of(lengths: Sequence[float], rows: int) -> float:
    """Decoding steps of one engine for traces of these lengths [tokens], begun in this order, `rows` at once.

    >>> steps_of([1, 1, 4], 2), steps_of([4, 1, 1], 2)
    (5, 4)
    """
    ends = [0] * rows
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def slowest(one: StoredRound, processes: int, rows: int) -> tuple[float, float]:
    """Decoding steps of the slowest process for all candidates in full: a launch for each, and all dealt over one."""
    tokens = {str(step): one.models[step].tokens for step in one.sampled}
    order = np.argsort(-np.mean([part.mean(axis=1) for part in tokens.values()], axis=0))
    ranks = [Ranks(rank, processes) for rank in range(processes)]
    apart = sum(max(_steps(part, rank, rows) for rank in ranks) for part in tokens.values())
    dealt = max(
        sum(_steps(tokens[name][order], share, rows) for name, share in deal(list(tokens), rank)) for rank in ranks
    )
    return apart, dealt


def _steps(tokens: np.ndarray, share: Ranks, rows: int) -> float:
    mine = share.shard(list(tokens))
    return steps_of(np.concatenate(mine).tolist(), rows) if mine else 0


def show(title: str, replays: Mapping[str, Sequence[Replayed]]) -> None:
    """A line for each part and one for all."""
    table = plain_table(title, ("", "replays", "share of tokens", "equal choices", "launches"))
    for name, found in {**replays, "all": [one for part in replays.values() for one in part]}.items():
        share = sum(one.raced_tokens for one in found) / sum(one.full_tokens for one in found)
        equal, launches = np.mean([one.equal for one in found]), np.mean([one.launches for one in found])
        table.add_row(name, str(len(found)), f"{share:.1%}", f"{equal:.1%}", f"{launches:.1f}")
    print_table(table)


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(prog="python bench/racing.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="output_dir of schedules that were validated in full")
    parser.add_argument("--replays", type=int, default=200, help="of each round, in each of the two kinds")
    parser.add_argument("--confidence", type=float, default=0.95, help="racing_confidence")
    parser.add_argument("--processes", type=int, default=8, help="for the decoding steps")
    parser.add_argument("--rows", type=int, default=128, help="traces that a process decodes at once")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, every = np.random.default_rng(options.seed), {}
    for run in options.runs:
        values = read_yaml(run / "config.yaml")
        rule = Rule(values["tolerance"], values["tolerance_reference"])
        rounds = stored_rounds(run, rule)
        for kind in ("order", "drawn"):
            found = {one.name: [replay(one, rule, kind, options.confidence, rng) for _ in range(options.replays)]
                     for one in rounds}  # fmt: skip
            show(f"{run}, {kind}", found)
            every[f"{run.name}, {kind}"] = [one for part in found.values() for one in part]
        apart, dealt = np.sum([slowest(one, options.processes, options.rows) for one in rounds], axis=0)
        say(f"  steps of the slowest of {options.processes} processes: {apart:,.0f} apart, {dealt:,.0f} dealt")
    if len(options.runs) > 1:
        show("all schedules", every)


if __name__ == "__main__":
    main()
