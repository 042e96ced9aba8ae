"""Racing: who of a round's candidates is still in reach of being chosen, after a part of the samples.

The choice is the shortest candidate whose accuracy reaches the bar (schedules/choice.py). All get an eighth of their
samples. Then the shortest of those that do not surely miss the bar gets as many again, together with all that are not
surely longer than it, and so on up to all samples; the others wait. Once one has all of them and reaches the bar, who
is surely longer is out of reach. What is chosen has all its samples, and so has what it is measured against.

A full validation samples the same problems more often, so that all that is unknown are the samples not drawn yet:
within every problem those drawn are a random part of all. A mean difference therefore errs by (1/k - 1/samples) /
problems × the variance within problems, after k samples of each (stratified sampling without replacement: Cochran,
Sampling Techniques, 3rd edition 1977, theorem 5.3); after one sample by no more than the variance over problems
(collapsed strata, ibid. 5A.12). The bounds are Student's, one-sided. The right choice is lost only by a wrong
statement about it: that it misses the bar, or that it is longer than a certain rival. Bonferroni's share of the
allowed error for each of these, at every look, keeps the promise over all (races: Maron and Moore, NIPS 1993).
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from schedules.choice import Candidate
from secateur.runtime.errors import InputError
from secateur.tasks.graded import REMEDY, read_results

_LOOKS = (0.125, 0.25, 0.5, 1.0)  # shares of the samples
_PAIR_SQUARES = 0.5  # of a right and a wrong sample of one problem about their mean
_ROUNDING = 1e-9  # as in `schedules.choice.choose`


@dataclass(frozen=True, eq=False)
class Samples:
    """What was drawn of a candidate: `right` (0 or 1) and `tokens`, float [problem, sample], problems by name."""

    right: np.ndarray
    tokens: np.ndarray

    @property
    def count(self) -> int:
        """Samples of each problem."""
        return self.right.shape[1]

    def first(self, count: int) -> "Samples":
        return Samples(self.right[:, :count], self.tokens[:, :count])


@dataclass(frozen=True, eq=False)
class Race:
    """What the candidates of a round race for.

    samples: of each problem in a full validation. confidence: probability (0-1) that the race chooses as that does.
    entrants: how many candidates race; the round's start model, which has all its samples, is none of them.
    reference: share of right samples of each problem (0-1), [problem, 1], of the model that accuracy is measured
    against; start: lengths of the start model, mean tokens [problem, 1], None where it misses the bar itself.
    """

    samples: int
    confidence: float
    entrants: int
    tolerance: float
    reference: np.ndarray
    start: np.ndarray | None

    @property
    def looks(self) -> list[int]:
        return looks(self.samples)

    @property
    def bar(self) -> np.ndarray:
        """pass@1 that is asked for, as its parts on each problem [problem, 1]."""
        return (1 - self.tolerance) * self.reference

    @cached_property
    def error(self) -> float:
        """The probability with which one statement may be wrong."""
        decisions = (self.entrants + 1) * max(1, len(self.looks) - 1)
        return (1 - self.confidence) / decisions


def read_samples(results: Path, count: int) -> Samples:
    """The first `count` samples of every problem of a candidate, from a results.jsonl of eval/single.py, problems by
    name; nothing is read for a count of 0. Raises `InputError` naming the file if it lacks some."""
    if count == 0:
        return Samples(np.empty((0, 0)), np.empty((0, 0)))
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for one in read_results(results):
        found[one.problem_id][one.sample] = (one.correct, one.n_tokens)
    if short := [name for name, samples in found.items() if not samples.keys() >= set(range(count))]:
        raise InputError(f"{results}: lacks some of the {count} samples of '{short[0]}'; {REMEDY}")
    drawn = np.array([[found[name][sample] for sample in range(count)] for name in sorted(found)], dtype=float)
    return Samples(drawn[:, :, 0], drawn[:, :, 1])


def looks(samples: int) -> list[int]:
    """Samples of each problem after which a race is looked at: an eighth of all, and twice as many each time.

    >>> looks(16), looks(4), looks(3), looks(1)
    ([2, 4, 8, 16], [1, 2, 4], [1, 2, 3], [1])
    """
    return sorted({math.ceil(samples * share) for share in _LOOKS})


def make_race(samples: int, confidence: float, entrants: int, tolerance: float, reference: Candidate, start: Candidate
              ) -> Race:  # fmt: skip
    """The race of candidates against `start`, which stays if none reaches the bar; both have all their samples."""
    names = sorted(reference.per_problem)
    rates = np.array([[reference.per_problem[name].pass_at_1] for name in names])
    lengths = np.array([[start.per_problem[name].mean_tokens] for name in names])
    fits = start.pass_at_1 >= (1 - tolerance) * reference.pass_at_1 - _ROUNDING
    return Race(samples, confidence, entrants, tolerance, rates, lengths if fits else None)


def lacking(race: Race, drawn: Mapping[int, Samples]) -> dict[int, int]:
    """Step → how many samples of each problem it needs next, {} when the race is over.

    `drawn`: step → what it has so far, of every candidate. Nothing else is remembered, so that a race which was cut
    off comes to the same decisions.
    """
    first = race.looks[0]
    if new := {step: first for step, arm in drawn.items() if arm.count < first}:
        return new
    running = in_reach(race, drawn)
    if not running:
        return {}
    leader = min(running, key=lambda step: (drawn[step].tokens.mean(), step))
    ahead = [step for step in running if not _longer(drawn[step], drawn[leader], race)]
    if ahead == [leader]:
        return {leader: race.samples}
    return {step: min(look for look in race.looks if look > drawn[step].count) for step in ahead}


def in_reach(race: Race, drawn: Mapping[int, Samples]) -> list[int]:
    """Those of the candidates, each with the samples of some look, that lack samples and may still be chosen."""
    if not race.reference.any():
        return []  # with a reference of 0 nothing is feasible
    able = {step: arm for step, arm in drawn.items() if not _surely_above(race.bar - arm.right, race, shares=True)}
    rivals = [arm.tokens.mean(axis=1, keepdims=True) for arm in able.values() if arm.count == race.samples]
    if race.start is not None:
        rivals.append(race.start)
    unsure = {step: arm.tokens for step, arm in able.items() if arm.count < race.samples}
    return [step for step, mine in unsure.items() if not any(_surely_above(mine - one, race) for one in rivals)]


def _longer(arm: Samples, other: Samples, race: Race) -> bool:
    """Whether `arm` is surely longer than `other`, by the samples that both have."""
    count = min(arm.count, other.count)
    return arm is not other and _surely_above(arm.tokens[:, :count] - other.tokens[:, :count], race)


def _surely_above(gaps: np.ndarray, race: Race, shares: bool = False) -> bool:
    """Whether the mean of `gaps` [problem, sample] stays above 0 once all samples are drawn, with the probability
    that one statement is to have. `shares`: they are differences of verdicts, taken as if one problem more had been
    right once and wrong once: a few samples that all agree prove nothing (Agresti and Coull 1998 add pairs so)."""
    problems, count = gaps.shape
    if count == race.samples:
        return bool(gaps.mean() > _ROUNDING)
    strata = gaps if count > 1 else gaps.T
    squares = float(((strata - strata.mean(axis=1, keepdims=True)) ** 2).sum())
    freedom = strata.size - len(strata)
    if shares:
        squares, freedom = squares + _PAIR_SQUARES, freedom + 1
    if freedom == 0:
        return False
    spread = np.sqrt(squares / freedom * (1 / count - 1 / race.samples) / problems)
    return bool(gaps.mean() > stdtrit(freedom, 1 - race.error) * spread)
