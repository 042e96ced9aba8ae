"""Which checkpoint a round passes on, and why: the shortest one whose accuracy is good enough (ThinkPrune, arXiv
2504.01296).

The paper states no tolerance; its authors took the shortest among checkpoints of nearly equal accuracy. Here that is
`pass_at_1 >= (1 - tolerance) * reference`. `choose` chooses, `explain` says in a few sentences why. Pure functions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from secateur.runtime.errors import InputError
from secateur.runtime.statistics import Bounds, Interval, paired_difference

TOLERANCE_REFERENCES = ("best_so_far", "original", "round_start")
START = 0  # the step number of the round's start model
_TOKENS = ",.1f"


@dataclass(frozen=True)
class Figures:
    """What validation found of one model: `step` of its checkpoint (0 = the round's start model), `pass_at_1` and
    `truncated_share` (fractions 0-1), `mean_tokens` per completion, with 95 % intervals over problems, from `samples`
    of each: fewer than others have where it dropped out of a race (schedules/racing.py)."""

    step: int
    pass_at_1: float
    mean_tokens: float
    truncated_share: float
    pass_at_1_ci95: Bounds
    mean_tokens_ci95: Bounds
    samples: int

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.pass_at_1) and math.isfinite(self.mean_tokens)


@dataclass(frozen=True)
class ProblemFigures:
    """The share of right samples (fraction 0-1), the mean length and all lengths [tokens] on one problem."""

    pass_at_1: float
    mean_tokens: float
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Candidate(Figures):
    """A validated model that a round may pass on; `per_problem` by id, `problems` of them."""

    problems: int
    per_problem: Mapping[str, ProblemFigures] = field(repr=False)


@dataclass(frozen=True)
class Reference:
    """What accuracy is measured against, and what to call it."""

    candidate: Candidate
    name: str


@dataclass(frozen=True)
class Selection:
    """The choice and how it came about. `feasible` is in the order of the candidates; `bar` is the pass@1 that was
    asked for; `difference` is the chosen one's pass@1 less the reference's with its paired 95 % interval, None where
    the problems of both are not the same; `expands`: by accuracy, not by length."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    feasible: tuple[bool, ...]
    reference: Reference
    tolerance: float
    bar: float
    difference: Interval | None
    expands: bool = False

    @property
    def chosen_step(self) -> int:
        return self.chosen.step


def pick_reference(original: Candidate, round_start: Candidate, kind: str) -> Reference:
    """What accuracy is measured against.

    `best_so_far` takes the better of both: against the original alone a later round may throw a gain away, against
    the round's start alone three rounds may compound to 0.9 ** 3.
    """
    assert kind in TOLERANCE_REFERENCES, kind
    first = Reference(original, "the original model")
    second = Reference(round_start, "the start model of this round")
    if kind == "best_so_far":
        return second if round_start.pass_at_1 > original.pass_at_1 else first
    return first if kind == "original" or round_start == original else second


def choose(
    candidates: Sequence[Candidate], reference: Reference, tolerance: float, expands: bool = False
) -> Selection:
    """The feasible candidate with the smallest mean length, ties by accuracy, then the earlier step. In a round that
    `expands` the most accurate one, ties by length: SIRI (arXiv 2509.25176) keeps the model of the end of an
    expansion for its accuracy, the next round compresses it again.

    `candidates` must hold the start model (step 0), with all samples; it is taken if nothing is feasible. Those that
    dropped out of a race are not chosen. A candidate whose figures are not finite is never feasible, and none is
    against a reference of 0: a model that has lost all it could do would be as good as any. Raises `InputError` for a
    reference without a finite accuracy.
    """
    (start,) = (candidate for candidate in candidates if candidate.step == START)
    if not math.isfinite(reference.candidate.pass_at_1):
        raise InputError(
            f"pass@1 of {reference.name} is {reference.candidate.pass_at_1}, so nothing can be measured against it; "
            "delete the round's validation folder and validation.json and start again"
        )
    bar = (1 - tolerance) * reference.candidate.pass_at_1
    # A share that equals the bar on paper may fall below it by rounding.
    tells = reference.candidate.pass_at_1 > 0
    feasible = tuple(tells and one.is_finite and one.pass_at_1 >= bar - 1e-9 for one in candidates)
    able = [one for one, fits in zip(candidates, feasible, strict=True) if fits and one.samples >= start.samples]
    best = min(able, key=_most_accurate if expands else _shortest, default=start)
    difference = accuracy_difference(best, reference.candidate)
    return Selection(best, tuple(candidates), feasible, reference, tolerance, bar, difference, expands)


def _shortest(one: Candidate) -> tuple[float, float, int]:
    return one.mean_tokens, -one.pass_at_1, one.step


def _most_accurate(one: Candidate) -> tuple[float, float, int]:
    return -one.pass_at_1, one.mean_tokens, one.step


def shortens_enough(start: Figures, chosen: Figures, share: float | None) -> bool:
    """Whether a round's choice is shorter than its start model by at least `share` (0-1); None asks for nothing."""
    return share is None or chosen.mean_tokens <= (1 - share) * start.mean_tokens + 1e-9


def accuracy_difference(one: Candidate, other: Candidate) -> Interval | None:
    """pass@1 of `one` less that of `other`: (mean, low, high) of a bootstrap over their common problems; None if the
    problems of both are not the same."""
    if not one.per_problem or one.per_problem.keys() != other.per_problem.keys():
        return None
    names = sorted(one.per_problem)
    rates = [[candidate.per_problem[name].pass_at_1 for name in names] for candidate in (one, other)]
    return paired_difference(*rates)


def explain(selection: Selection) -> str:
    """Why `selection` fell as it did, in a few sentences."""
    sentences = [_verdict(selection), _bar(selection)]
    if any(selection.feasible) and not _is_reference(selection):
        sentences.append(_against_reference(selection))
    sentences += [_gain(selection), _shorter(selection), _more_accurate(selection)]
    sentences += [_dropped(selection), _broken(selection)]
    return " ".join(sentence for sentence in sentences if sentence)


def name_of(step: int) -> str:
    """
    >>> name_of(0), name_of(40)
    ('the start model', 'step 40')
    """
    return "the start model" if step == START else f"step {step}"


def _verdict(selection: Selection) -> str:
    chosen, count, able = selection.chosen, len(selection.candidates), sum(selection.feasible)
    if able == 0 and selection.reference.candidate.pass_at_1 == 0:
        return f"With nothing to lose there is nothing to choose: the start model stays ({_figures(chosen)})."
    if able == 0:
        return f"None of {count} candidates reaches the bar: the start model stays ({_figures(chosen)})."
    among = f"{able} feasible of {count} candidates" if count > 1 else "1 candidate"
    best = "most accurate" if selection.expands else "shortest"
    if chosen.step == START:
        outcome = "the expansion has gained nothing" if selection.expands else "the limit could not be met"
        return f"The start model is the {best} of {among} ({_figures(chosen)}): {outcome}."
    return f"Step {chosen.step} is the {best} of {among}: {_figures(chosen)}."


def _figures(candidate: Candidate) -> str:
    accuracy = _with_interval(candidate.pass_at_1, candidate.pass_at_1_ci95, ".3f")
    length = _with_interval(candidate.mean_tokens, candidate.mean_tokens_ci95, _TOKENS)
    return f"{length} tokens at pass@1 {accuracy}"


def _with_interval(value: float, interval: Bounds, form: str) -> str:
    return f"{value:{form}} ({interval[0]:{form}}–{interval[1]:{form}})"


def _bar(selection: Selection) -> str:
    reference = selection.reference
    if reference.candidate.pass_at_1 == 0:
        return (
            f"Warning: {reference.name} solves no validation problem, so no candidate can be told from one that "
            "has collapsed. Validate on easier problems, with more samples or with a larger cap."
        )
    share = 1 - selection.tolerance
    return f"The bar is {selection.bar:.3f} = {share:g} × {reference.candidate.pass_at_1:.3f} of {reference.name}."


def _is_reference(selection: Selection) -> bool:
    reference, chosen = selection.reference.candidate, selection.chosen
    return (chosen.pass_at_1, chosen.mean_tokens) == (reference.pass_at_1, reference.mean_tokens)


def _against_reference(selection: Selection) -> str:
    change = selection.chosen.pass_at_1 - selection.reference.candidate.pass_at_1
    text = f"Against {selection.reference.name} pass@1 changes by {change:+.3f}"
    if selection.difference is None:
        return f"{text} (no interval: the problems of both are not the same)."
    _, low, high = selection.difference
    noise = "within noise" if low <= 0 <= high else "more than noise"
    return f"{text} (paired 95 % interval over problems {low:+.3f} to {high:+.3f}: {noise})."


def _gain(selection: Selection) -> str:
    start = next(candidate for candidate in selection.candidates if candidate.step == START)
    if selection.chosen.step == START or not start.is_finite or start.mean_tokens == 0:
        return ""
    change = selection.chosen.mean_tokens / start.mean_tokens - 1
    return f"Tokens change by {change:+.1%} against the round's start."


def _shorter(selection: Selection) -> str:
    pairs = zip(selection.candidates, selection.feasible, strict=True)
    shorter = [c for c, fits in pairs if not fits and c.is_finite and c.mean_tokens < selection.chosen.mean_tokens]
    if not shorter:
        return ""
    best = min(shorter, key=_most_accurate)
    count = "Shorter, but below the bar" if len(shorter) == 1 else f"{len(shorter)} are shorter, but below the bar"
    closest = "" if len(shorter) == 1 else "the most accurate of them "
    return f"{count}: {closest}{name_of(best.step)} ({best.mean_tokens:{_TOKENS}} tokens at {best.pass_at_1:.3f})."


def _more_accurate(selection: Selection) -> str:
    finite = [candidate for candidate in selection.candidates if candidate.is_finite]
    best = min(finite, key=_most_accurate, default=selection.chosen)
    if best.pass_at_1 <= selection.chosen.pass_at_1:
        return ""
    given_up = best.pass_at_1 - selection.chosen.pass_at_1
    return (
        f"Given up: {given_up:.3f} of pass@1 that {name_of(best.step)} has ({best.pass_at_1:.3f} at "
        f"{best.mean_tokens:{_TOKENS}} tokens)."
    )


def _dropped(selection: Selection) -> str:
    """Who was out of reach before it had all samples, and after how many."""
    full = max(candidate.samples for candidate in selection.candidates)
    out = [candidate for candidate in selection.candidates if candidate.samples < full]
    if not out:
        return ""
    names = ", ".join(f"{name_of(candidate.step)} ({candidate.samples})" for candidate in out)
    return f"Out of the race before all {full} samples of a problem: {names}."


def _broken(selection: Selection) -> str:
    broken = [name_of(candidate.step) for candidate in selection.candidates if not candidate.is_finite]
    return f"Left out, figures not finite: {', '.join(broken)}." if broken else ""
