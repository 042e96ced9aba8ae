"""Racing: who of a round's candidates is still in reach of being chosen, after a part of the samples.

The choice is the shortest candidate whose accuracy reaches the bar (schedules/choice.py). All get an eighth of their
samples. Then it is asked how probable it is, of each, that the full validation would choose it. The fewest that reach
`confidence` together get as many samples again, and so on; the others wait. The race is over when one alone reaches
it, with all its samples: what is chosen has all of them, and so has what it is measured against.

A full validation samples the same problems more often, so that all that is unknown are the samples not drawn yet. By
those drawn, the final mean of a candidate lies about its present mean with a variance of (1/k - 1/samples) / problems
× the variance within problems, after k samples of each: the variance of stratified sampling without replacement
(Cochran, Sampling Techniques, 3rd edition 1977, theorem 5.3), and the predictive one under a flat prior; after one
sample by no more than the variance over problems (collapsed strata, ibid. 5A.12). Accuracy and length are drawn
together (Student's t), candidates apart, and the rule of the choice is asked of every draw: the predictive
probability of an outcome, as trials use it to stop early (Saville et al., Clinical Trials 11, 2014), over who is best
(Russo, Simple Bayesian Algorithms for Best Arm Identification, COLT 2016). However often one looks, a race that
ends when a probability has reached `confidence` is right with that probability: it is a martingale.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schedules.choice import START, Candidate
from secateur.runtime.errors import InputError
from secateur.tasks.graded import REMEDY, read_results

_LOOKS = (8, 4, 2, 1)  # the parts of the samples: an eighth, a quarter, half, all
_PAIR_SQUARES = 0.5  # of a right and a wrong sample of one problem about their mean
_ROUNDING = 1e-9  # as in `schedules.choice.choose`
_DRAWS = 10_000  # a probability of .95 is known to .002


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
    bar: pass@1 that is asked for (0-1), 0 where nothing can be feasible. start_right, start_tokens: share of right
    samples (0-1) and mean tokens of the round's start model on each problem, [problem]; it has all its samples.
    """

    samples: int
    confidence: float
    bar: float
    start_right: np.ndarray
    start_tokens: np.ndarray

    @property
    def looks(self) -> list[int]:
        return looks(self.samples)


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
    return sorted({-(-samples // part) for part in _LOOKS})


def make_race(samples: int, confidence: float, tolerance: float, reference: Candidate, start: Candidate) -> Race:
    """The race of candidates against `start`, which stays if none reaches the bar; both have all their samples."""
    own = [start.per_problem[name] for name in sorted(start.per_problem)]
    figures = np.array([(one.pass_at_1, one.mean_tokens) for one in own])
    return Race(samples, confidence, (1 - tolerance) * reference.pass_at_1, figures[:, 0], figures[:, 1])


def lacking(race: Race, drawn: Mapping[int, Samples]) -> dict[int, int]:
    """Step → how many samples of each problem it needs next, {} when the race is over.

    `drawn`: step → what it has so far, of every candidate. Nothing else is remembered, so that a race which was cut
    off comes to the same decisions.
    """
    first = race.looks[0]
    if new := {step: first for step, arm in drawn.items() if arm.count < first}:
        return new
    outcomes = foresee(race, drawn)
    chance = outcomes.chances()
    leader = max(chance, key=lambda step: (chance[step], -step))
    reach = outcomes.likeliest(race.confidence, leader)
    short = [step for step in reach if step != START and drawn[step].count < race.samples]
    if chance[leader] >= race.confidence:
        return dict.fromkeys(short, race.samples)
    return {step: min(look for look in race.looks if look > drawn[step].count) for step in short}


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What full validations may come to, by many draws: `steps` of the candidates, the start model (0) first;
    `feasible` [candidate, draw]; `chosen` [draw], the place of the choice in `steps`."""

    steps: list[int]
    feasible: np.ndarray
    chosen: np.ndarray

    def chances(self, able: int | None = None) -> dict[int, float]:
        """Step → probability (0-1) of being chosen; `able`: given that this one reaches the bar."""
        kept = self.chosen if able is None else self.chosen[self.feasible[self.steps.index(able)]]
        shares = np.bincount(kept, minlength=len(self.steps)) / max(1, len(kept))
        return dict(zip(self.steps, shares.tolist(), strict=True))

    def likeliest(self, confidence: float, leader: int) -> list[int]:
        """The leader, and the fewest others with which it holds `confidence` if it reaches the bar."""
        chance = self.chances(able=leader)
        ranked = sorted(chance, key=lambda step: (step != leader, -chance[step], step))
        before = np.cumsum([0.0, *(chance[step] for step in ranked)])
        return [step for step, held in zip(ranked, before, strict=False) if step == leader or held < confidence]


def foresee(race: Race, drawn: Mapping[int, Samples]) -> Outcomes:
    """The start model's figures are final; those of the others are drawn, each time by the same numbers."""
    rng, steps = np.random.default_rng(0), [START, *sorted(drawn)]
    start = np.broadcast_to([race.start_right.mean(), race.start_tokens.mean()], (_DRAWS, 2))
    finals = np.stack([start, *(_finals(race, drawn[step], rng) for step in steps[1:])])  # [candidate, draw, 2]
    feasible = (finals[..., 0] >= race.bar - _ROUNDING) & (race.bar > 0)
    chosen = np.where(feasible, finals[..., 1], np.inf).argmin(axis=0)  # the first, where none is feasible
    feasible[0] = True  # it stays whatever the others do
    return Outcomes(steps, feasible, chosen)


def _finals(race: Race, arm: Samples, rng: np.random.Generator) -> np.ndarray:
    """Draws of the share of right samples and of the mean tokens that a candidate has once all are drawn, [draw, 2].

    Verdicts are taken as if one problem more had been right once and wrong once: a few samples that all agree prove
    nothing (Agresti and Coull 1998 add pairs so).
    """
    values = np.stack([arm.right, arm.tokens], axis=-1)  # [problem, sample, 2]
    problems, count, _ = values.shape
    centre = values.mean(axis=(0, 1))
    if count == race.samples:
        return np.broadcast_to(centre, (_DRAWS, 2))
    rest, freedom = _within(values) if count > 1 else _beside(values[:, 0], race)
    squares = rest.T @ rest + np.diag([_PAIR_SQUARES, 0.0])
    freedom += 1
    spread = squares / freedom * (1 / count - 1 / race.samples) / problems
    normal = rng.multivariate_normal(np.zeros(2), spread, _DRAWS, method="eigh")
    return centre + normal * np.sqrt(freedom / rng.chisquare(freedom, (_DRAWS, 1)))


def _within(values: np.ndarray) -> tuple[np.ndarray, int]:
    """What samples differ by from the mean of their problem, [all samples, 2], and its degrees of freedom."""
    problems, count, _ = values.shape
    return (values - values.mean(axis=1, keepdims=True)).reshape(-1, 2), problems * (count - 1)


def _beside(values: np.ndarray, race: Race) -> tuple[np.ndarray, int]:
    """The same of one sample of each problem, [problem, 2]: what the start model's figures on the problem do not
    explain (least squares), which holds no less."""
    known = np.stack([np.ones_like(race.start_right), race.start_right, race.start_tokens], axis=-1)
    found, _, rank, _ = np.linalg.lstsq(known, values)
    return values - known @ found, max(0, len(values) - int(rank))
