"""Which method to run: the Pareto frontiers, and the cheapest method that loses no more than a tolerance.

Pure functions. The reference is the base model's consensus of all n traces. A method *holds* if the lower bound of
its paired difference to the reference is no worse than minus the tolerance, *loses* if the upper bound is worse, and
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

import numpy as np

from secateur.results import Considered, ModelChoice, Recommendation, Verdict
from secateur.runtime.statistics import paired_difference

_Z = NormalDist().inv_cdf(0.975)
_Z_POWER = _Z + NormalDist().inv_cdf(0.8)
"""For planning: with so many standard errors of room, four of five such evaluations can tell."""
_MOST = 1_000_000  # problems; more than that is "no number"


@dataclass(frozen=True)
class Option:
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
class Compared:
    """An option, and what was found of it against the reference."""

    option: Option
    found: Considered

    @property
    def low(self) -> float:
        return self.found.interval[0]

    @property
    def high(self) -> float:
        return self.found.interval[1]


def pareto(options: Sequence[Option], cost: Callable[[Option], float]) -> list[str]:
    """Ids of those that no other beats: as accurate and cheaper, or as cheap and more accurate. Cheapest first."""
    kept = []
    for one in options:
        beaten = any(
            other.accuracy >= one.accuracy
            and cost(other) <= cost(one)
            and (other.accuracy, -cost(other)) != (one.accuracy, -cost(one))
            for other in options
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


def compare(option: Option, reference: Sequence[float], tolerance: float) -> Considered:
    """One option against the reference's accuracies, problem by problem."""
    mean, *bootstrap = paired_difference(option.accuracies, reference)
    low, high = bootstrap
    differences = np.asarray(option.accuracies, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if option.accuracies is not reference:
        adjusted = adjusted_interval(differences)
        low, high = min(low, adjusted[0]), max(high, adjusted[1])
    verdict: Verdict = "holds" if low >= -tolerance else "loses" if high < -tolerance else "cannot tell"
    needed = problems_needed(differences, tolerance) if verdict == "cannot tell" else None
    return Considered(option.id, verdict, mean, (bootstrap[0], bootstrap[1]), (low, high), needed)


def recommend(options: Sequence[Option], reference: Option, points: float, benchmark: str) -> Recommendation:
    """The recommendation for a benchmark; `points` is the tolerance in percentage points of accuracy.

    `reference` may be among the options; it always holds. What is cheap is decided by net tokens.
    """
    compared = [Compared(one, compare(one, reference.accuracies, points / 100)) for one in options]
    compared.sort(key=lambda one: (one.option.net_tokens, one.option.id))
    models = list(dict.fromkeys(option.model for option in options))
    per_model = {model: [one for one in compared if one.option.model == model] for model in models}
    words = [sentence(model, found, reference, points) for model, found in per_model.items()]
    overall = _cheapest(compared, "holds")
    if len(models) > 1:
        words.append(_overall(overall, points))
    return Recommendation(
        benchmark=benchmark,
        tolerance_points=points,
        reference=reference.id,
        per_model={model: _choice(found) for model, found in per_model.items()},
        overall=overall.option.id if overall else None,
        frontier_tokens=tuple(pareto(options, lambda one: one.net_tokens)),
        frontier_wall=tuple(pareto(options, lambda one: one.longest_path)),
        words=tuple(words),
    )


def _cheapest(compared: Sequence[Compared], verdict: Verdict) -> Compared | None:
    return next((one for one in compared if one.found.verdict == verdict), None)


def _choice(compared: Sequence[Compared]) -> ModelChoice:
    """What is recommended for one model, and every option of it, the cheapest first."""
    best = _cheapest(compared, "holds")
    return ModelChoice(best.option.id if best else None, tuple(one.found for one in compared))


def sentence(model: str, compared: Sequence[Compared], reference: Option, points: float) -> str:
    """The recommendation for one model in words; `compared` is the cheapest first."""
    best = _cheapest(compared, "holds")
    cheaper = list(compared) if best is None else list(compared[: compared.index(best)])
    against = reference.name if model == reference.model else f"{reference.name} on {reference.model}"
    if best is None:
        said = f"nothing is shown to lose no more than {points:g} points against {against}."
    elif best.option.id == reference.id:
        said = f"stay with {against}. Nothing cheaper is shown to lose no more than {points:g} points."
    else:
        said = f"run {best.option.name}, the cheapest that is shown to lose no more than {points:g} points against "
        said += f"{against}: {_measured(best)}. {_saved(best.option, reference)}"
    doubt = _unsure(_most_promising(cheaper), len(reference.accuracies))
    return f"{model}: {said} {doubt}".strip()


def _most_promising(compared: Sequence[Compared]) -> Compared | None:
    """The cheapest in doubt that more problems could settle, else the cheapest in doubt."""
    unsure = [one for one in compared if one.found.verdict == "cannot tell"]
    return next((one for one in unsure if one.found.problems_needed is not None), next(iter(unsure), None))


def _unsure(unsure: Compared | None, problems: int) -> str:
    """What might do as well, and how many problems would tell."""
    if unsure is None:
        return ""
    enough = "if that is the truth, no number of them would"
    if unsure.found.problems_needed is not None:
        enough = f"about {_about(unsure.found.problems_needed)} would tell"
    saved = _percent(unsure.option.saving_net)
    return (
        f"Perhaps also {unsure.option.name}, which saves {saved} of the tokens: {_measured(unsure)}; "
        f"{problems} problems are too few to tell ({enough})."
    )


def _overall(best: Compared | None, points: float) -> str:
    if best is None:
        return f"overall: nothing is shown to lose no more than {points:g} points."
    saved = _percent(best.option.saving_net)
    return f"overall: run {best.option.name} on {best.option.model}; it saves {saved} of the tokens."


def _measured(compared: Compared) -> str:
    difference, low, high = (
        _signed(100 * value) for value in (compared.found.difference, compared.low, compared.high)
    )
    return f"{difference} points, cautious 95 % interval {low} … {high}"


def _saved(option: Option, reference: Option) -> str:
    waits = f"{option.longest_path:,.0f} tokens to wait for instead of {reference.longest_path:,.0f}"
    return f"It saves {_percent(option.saving_net)} of the tokens, with {waits}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def _about(problems: int) -> str:
    """Rounded up to two digits."""
    unit = 10 ** max(len(str(problems)) - 2, 0)
    return f"{-(-problems // unit) * unit:,}"
