"""Which method to run: the Pareto frontiers, and the cheapest method that loses no more than a tolerance.

Pure functions. The reference is the base model's vote of all n traces. A method *holds* if the lower bound of its
paired difference to the reference is no worse than minus the tolerance, *loses* if the upper bound is worse, and
between the two the problems *cannot tell*.

The bounds are the wider of two intervals: the paired bootstrap of the table, and the adjusted interval of Agresti and
Min (2005, "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24:729),
which adds half an observation to each of the four outcomes of a pair. The bootstrap alone has no width where two
methods agree on every problem, and would call ten problems proof.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from secateur.runtime.statistics import paired_difference

_Z = NormalDist().inv_cdf(0.975)
_Z_POWER = _Z + NormalDist().inv_cdf(0.8)
"""For planning: with so many standard errors of room, four of five such evaluations can tell."""
_MOST = 1_000_000  # problems; more than that is "no number"
Verdict = Literal["holds", "loses", "cannot tell"]


@dataclass(frozen=True)
class Candidate:
    """A row that a user could run. `accuracies` [problems], in the reference's order (0-1); `net_tokens` and
    `longest_path` are means per problem, the former in tokens of the base model with the judge's work included."""

    id: str
    model: str
    name: str
    accuracies: Sequence[float]
    net_tokens: float
    longest_path: float
    saving_net: float

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))


@dataclass(frozen=True)
class Judged:
    """A candidate's difference to the reference (fractions), its bootstrap interval, the bounds that decide, and
    how many problems would tell: None where the verdict stands, or where no number would if it is what it seems."""

    candidate: Candidate
    difference: float
    ci95: tuple[float, float]
    low: float
    high: float
    verdict: Verdict
    problems_needed: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.candidate.id,
            "verdict": self.verdict,
            "difference": self.difference,
            "ci95": list(self.ci95),
            "interval": [self.low, self.high],
            "problems_needed": self.problems_needed,
        }


def pareto(candidates: Sequence[Candidate], cost: Callable[[Candidate], float]) -> list[str]:
    """Ids of those that no other beats: as accurate and cheaper, or as cheap and more accurate. Cheapest first."""
    kept = []
    for one in candidates:
        beaten = any(
            other.accuracy >= one.accuracy
            and cost(other) <= cost(one)
            and (other.accuracy, -cost(other)) != (one.accuracy, -cost(one))
            for other in candidates
        )
        if not beaten:
            kept.append(one)
    return [one.id for one in sorted(kept, key=lambda one: (cost(one), one.id))]


def adjusted_interval(
    differences: Sequence[float], z: float = _Z, problems: int | None = None
) -> tuple[float, float]:
    """(low, high) of the mean of paired differences (each -1 to 1) with half an observation of -1, half of +1 and one
    of 0 added. `problems`: as if there were so many problems like these."""
    values = np.asarray(differences, dtype=np.float64)
    n = len(values) if problems is None else problems
    mean = n * float(values.mean()) / (n + 2)
    square = (n * float((values**2).mean()) + 1) / (n + 2)
    half = z * math.sqrt(max(square - mean**2, 0.0) / (n + 2))
    return mean - half, mean + half


def problems_needed(differences: Sequence[float], tolerance: float) -> int | None:
    """How many problems like these would show, four times in five, that the loss is within `tolerance` (fraction);
    None if no number up to a million would."""

    def enough(problems: int) -> bool:
        return adjusted_interval(differences, _Z_POWER, problems)[0] >= -tolerance

    if not enough(_MOST):
        return None
    below, above = len(differences), _MOST
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if enough(middle) else (middle, above)
    return above


def judge_candidate(candidate: Candidate, reference: Sequence[float], tolerance: float) -> Judged:
    """Hold one candidate against the reference's accuracies, problem by problem."""
    mean, *bootstrap = paired_difference(candidate.accuracies, reference)
    low, high = bootstrap
    differences = np.asarray(candidate.accuracies, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if candidate.accuracies is not reference:
        adjusted = adjusted_interval(differences)
        low, high = min(low, adjusted[0]), max(high, adjusted[1])
    verdict: Verdict = "holds" if low >= -tolerance else "loses" if high < -tolerance else "cannot tell"
    needed = problems_needed(differences, tolerance) if verdict == "cannot tell" else None
    return Judged(candidate, mean, (bootstrap[0], bootstrap[1]), low, high, verdict, needed)


def recommend(candidates: Sequence[Candidate], reference: Candidate, points: float) -> dict[str, Any]:
    """The field `recommendation` of combined.json; `points` is the tolerance in percentage points of accuracy.

    `reference` may be among the candidates; it always holds. What is cheap is decided by net tokens.
    """
    tolerance = points / 100
    judged = [judge_candidate(one, reference.accuracies, tolerance) for one in candidates]
    judged.sort(key=lambda one: (one.candidate.net_tokens, one.candidate.id))
    models = list(dict.fromkeys(candidate.model for candidate in candidates))
    per_model = {model: [one for one in judged if one.candidate.model == model] for model in models}
    words = [sentence(model, found, reference, points) for model, found in per_model.items()]
    overall = _cheapest(judged, "holds")
    if len(models) > 1:
        words.append(_overall(overall, points))
    return {
        "tolerance_points": points,
        "tolerance": tolerance,
        "reference": reference.id,
        "per_model": {model: _choice(found) for model, found in per_model.items()},
        "overall": overall.candidate.id if overall else None,
        "frontier_tokens": pareto(candidates, lambda one: one.net_tokens),
        "frontier_wall": pareto(candidates, lambda one: one.longest_path),
        "frontier_wall_measure": "longest_path",
        "words": words,
    }


def _cheapest(judged: Sequence[Judged], verdict: Verdict) -> Judged | None:
    return next((one for one in judged if one.verdict == verdict), None)


def _choice(judged: Sequence[Judged]) -> dict[str, Any]:
    """What is recommended for one model, and every candidate of it, the cheapest first."""
    best = _cheapest(judged, "holds")
    return {"recommended": best.candidate.id if best else None, "considered": [one.to_json() for one in judged]}


def sentence(model: str, judged: Sequence[Judged], reference: Candidate, points: float) -> str:
    """The recommendation for one model in words; `judged` is the cheapest first."""
    best = _cheapest(judged, "holds")
    cheaper = list(judged) if best is None else list(judged[: judged.index(best)])
    unsure = _most_promising(cheaper)
    of = "" if model == reference.model else f" of {reference.model}"
    if best is None:
        said = f"{model}: no method is shown to be within {points:g} points of {reference.name}{of}"
    elif best.candidate.id == reference.id:
        said = f"{model}: {reference.name} itself; nothing cheaper is shown to be within {points:g} points of it"
    else:
        said = f"{model}: {best.candidate.name} is the cheapest shown to be within {points:g} points of "
        said += f"{reference.name}{of}: {_measured(best)}, {_saved(best.candidate, reference)}"
    return f"{said}. {_unsure(unsure, len(reference.accuracies), best is not None)}".strip()


def _most_promising(judged: Sequence[Judged]) -> Judged | None:
    """The cheapest in doubt that more problems could settle, else the cheapest in doubt."""
    unsure = [one for one in judged if one.verdict == "cannot tell"]
    return next((one for one in unsure if one.problems_needed is not None), next(iter(unsure), None))


def _unsure(unsure: Judged | None, problems: int, cheaper: bool) -> str:
    """What might do as well, and how many problems would tell."""
    if unsure is None:
        return ""
    enough = "if that is the truth, no number of problems would show it"
    if unsure.problems_needed is not None:
        enough = f"about {_about(unsure.problems_needed)} problems would be needed"
    return (
        f"{'Cheaper, but one' if cheaper else 'One'} cannot tell with {problems} problems: {unsure.candidate.name} "
        f"({100 * unsure.candidate.saving_net:.1f} % saved net), {_measured(unsure)}, that is "
        f"±{50 * (unsure.high - unsure.low):.1f}; {enough}."
    )


def _overall(best: Judged | None, points: float) -> str:
    if best is None:
        return f"overall: nothing is shown to be within {points:g} points."
    saved = f"{100 * best.candidate.saving_net:.1f} % saved net"
    return f"overall: {best.candidate.name} on {best.candidate.model}, {saved}."


def _measured(judged: Judged) -> str:
    difference, low, high = (_signed(100 * value) for value in (judged.difference, judged.low, judged.high))
    return f"{difference} points (cautious 95 % CI {low} … {high})"


def _saved(candidate: Candidate, reference: Candidate) -> str:
    saved = f"{100 * candidate.saving_net:.1f} % saved net"
    return f"{saved}, longest path {candidate.longest_path:,.0f} tokens (vote of all: {reference.longest_path:,.0f})"


def _signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def _about(problems: int) -> str:
    """Rounded up to two digits."""
    unit = 10 ** max(len(str(problems)) - 2, 0)
    return f"{-(-problems // unit) * unit:,}"
