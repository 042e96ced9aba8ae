"""When a problem has been answered: rules that look at the answers given so far. Pure functions of a `Tally`.

They say when to stop, whatever decides how many traces run at once (starting.py). A rule that is asked while traces
run hears the short ones first. Where short traces err together it stops on them; `Lead` therefore wants `least`
answers, and `CannotChange` counts what still runs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from scipy.special import betainc, betaln

from secateur.deepprune.vote import Tally, majority_stays
from secateur.runtime.errors import InputError


class StoppingRule(ABC):
    """Subclasses are frozen dataclasses; they must not depend on anything but the tally."""

    @abstractmethod
    def enough(self, tally: Tally) -> bool:
        """Whether the leader's answer is the answer of the problem."""

    def missing(self, tally: Tally) -> int:
        """How many more votes for the leader would be enough, at least 1, at most all that are not given yet."""
        most = max(1, tally.n - len(tally.answers))
        return next((more for more in range(1, most) if self.enough(tally.with_more(more))), most)


@dataclass(frozen=True)
class Never(StoppingRule):
    """All n traces: the consensus."""

    def enough(self, tally: Tally) -> bool:
        return False


@dataclass(frozen=True)
class FirstEnded(StoppingRule):
    """The first `count` traces to end vote, whatever they say ("first of n to end")."""

    count: int = 5

    def enough(self, tally: Tally) -> bool:
        return len(tally.answers) >= self.count


@dataclass(frozen=True)
class CannotChange(StoppingRule):
    """The leader stays the leader whatever all others answer, those that run and those that were not started."""

    def enough(self, tally: Tally) -> bool:
        first, second = tally.top_two
        return first - second > tally.running + tally.unstarted


@dataclass(frozen=True)
class Lead(StoppingRule):
    """One answer leads the next by `lead` votes: first to be k ahead (arXiv 2511.09030). Between two answers with
    fixed odds that is Wald's sequential probability ratio test.

    `least` answers must have been given. Without it the shortest traces decide, and where those err together (MATH)
    they decide wrongly. None, for both: 2 up to 16 traces, 3 for more, where the full vote is surer. Not more than
    that: the odds of a lead do not depend on n, and at n = 128 a lead of 4 costs more and is no more accurate
    (bench/peers.md).

    >>> tally = Tally(16, votes={"7": 2}, answers=["7", "7"])
    >>> Lead().enough(tally), Lead(3).missing(tally), Lead(2, least=3).missing(tally)
    (True, 1, 1)
    """

    lead: int | None = None
    least: int | None = None

    def __post_init__(self) -> None:
        for key in ("lead", "least"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"{key} = {value}: write 1 or more, or null for a number by n")

    def lead_wanted(self, n: int) -> int:
        """`lead`, or what it is for n traces."""
        return _by_size(n) if self.lead is None else self.lead

    def answers_wanted(self, n: int) -> int:
        """`least`, or what it is for n traces; never fewer than the lead."""
        return max(_by_size(n) if self.least is None else self.least, self.lead_wanted(n))

    def missing(self, tally: Tally) -> int:
        first, second = tally.top_two
        ahead = self.lead_wanted(tally.n) - (first - second)
        return max(0, math.ceil(ahead), math.ceil(self.answers_wanted(tally.n) - tally.given))

    def enough(self, tally: Tally) -> bool:
        return self.missing(tally) == 0


def _by_size(n: int) -> int:
    return 2 if n <= 16 else 3


@dataclass(frozen=True)
class BetaPosterior(StoppingRule):
    """Adaptive-Consistency (arXiv 2305.11860, §3, its Beta criterion): the majority stays what it is with probability
    `threshold`, given how often the two most frequent answers were seen."""

    threshold: float = 0.95

    def __post_init__(self) -> None:
        _check_share("threshold", self.threshold)

    def enough(self, tally: Tally) -> bool:
        first, second = tally.top_two
        return first > 0 and majority_stays(first, second) >= self.threshold


@dataclass(frozen=True)
class WindowAgrees(StoppingRule):
    """Early-stopping self-consistency (arXiv 2401.10480, algorithm 1): all answers of one window of `size` traces are
    the same. Windows are sampled one after another; a trace without an answer agrees with nobody."""

    size: int = 5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size = {self.size}: a window holds traces; write 1 or more")

    def enough(self, tally: Tally) -> bool:
        if tally.running or not tally.answers or len(tally.answers) % self.size:
            return False
        window = set(tally.answers[-self.size :])
        return len(window) == 1 and None not in window


@dataclass(frozen=True)
class Sprt(StoppingRule):
    """ConSol's sequential probability ratio test of the two most frequent answers (arXiv 2503.17587).

    H0: both are equally frequent, against H1: the first has the share `p1` of the two. `alpha`, `beta`: Wald's error
    probabilities. The defaults are those of the released package (consol 0.3.0); with them the test is passed as soon
    as one answer leads by 3, see `Lead`. Accepting H0 stops as well.
    """

    p1: float = 0.5001
    alpha: float = 0.05
    beta: float = 1 - 0.05 - 0.000024

    def enough(self, tally: Tally) -> bool:
        if not tally.votes:
            return False
        first, second = tally.top_two
        ratio = first * math.log(self.p1 / 0.5) + second * math.log((1 - self.p1) / 0.5)
        return _wald(ratio, self.alpha, self.beta)


@dataclass(frozen=True)
class MixtureSprt(StoppingRule):
    """ConSol's mixture test: as `Sprt`, the share of the first under H1 drawn from Beta(`prior`, `prior`) above 1/2.
    Defaults of consol 0.3.0."""

    prior: float = 1e6
    alpha: float = 0.05
    beta: float = 1 - 0.05 - 0.00006

    def enough(self, tally: Tally) -> bool:
        first, second = tally.top_two
        return first > 0 and _wald(_mixture_ratio(first, second, self.prior), self.alpha, self.beta)


@lru_cache(maxsize=65536)
def _mixture_ratio(first: float, second: float, prior: float) -> float:
    """log P(counts | H1) − log P(counts | H0); both in closed form."""
    above = math.log1p(-betainc(first + prior, second + prior, 0.5)) - math.log1p(-betainc(prior, prior, 0.5))
    return betaln(first + prior, second + prior) - betaln(prior, prior) + above - (first + second) * math.log(0.5)


def _wald(log_ratio: float, alpha: float, beta: float) -> bool:
    return log_ratio >= math.log((1 - beta) / alpha) or log_ratio <= math.log(beta / (1 - alpha))


@dataclass(frozen=True)
class MajorityCertificate(StoppingRule):
    """Martingale Majority Certificate (arXiv 2510.17472, §3): two bets that the leader is ahead, of the runner-up and
    of the answers beside the first `contenders`, each won at 1/`delta`; valid whenever one stops to look.

    Each bet is a mixture over shares above 1/2 with Beta(1/2, 1/2) weights, as in the authors' code
    (plurality_stopping_rule_beta.py), with at least two votes in each.
    """

    delta: float = 0.05
    contenders: int = 3

    def __post_init__(self) -> None:
        _check_share("delta", self.delta)

    def enough(self, tally: Tally) -> bool:
        return certified_at(tuple(tally.answers), self.delta, self.contenders)


@lru_cache(maxsize=65536)
def certified_at(answers: tuple[Hashable | None, ...], delta: float, contenders: int) -> bool:
    """Whether the bets are won after these answers, in their order; those without an answer are passed over."""
    counts: dict[Hashable, int] = {}
    pair, other = [0, 0], [0, 0]  # votes for and against the leader of the time
    leader: Hashable | None = None
    for key in answers:
        if key is None:
            continue
        ranked = sorted(counts, key=lambda name: (-counts[name], str(name)))  # as it stood before this vote
        leader = ranked[0] if ranked else None
        if leader is not None:
            if key == leader:
                other[0] += 1
                pair[0] += len(ranked) > 1
            else:
                pair[1] += len(ranked) > 1 and key == ranked[1]
                other[1] += key not in ranked[:contenders]
        counts[key] = counts.get(key, 0) + 1
    if leader is None or max(counts, key=lambda name: counts[name]) != leader:
        return False
    return all(sum(bet) >= 2 and _bet(*bet) >= math.log(1 / delta) for bet in (pair, other))


_SHARES = [0.5001 + 0.4998 * step / 40 for step in range(41)]


@lru_cache(maxsize=65536)
def _bet(won: int, lost: int) -> float:
    """The logarithm of what a bet of 1 has become."""
    weights = [(share * (1 - share)) ** -0.5 for share in _SHARES]
    terms = [
        math.log(weight / sum(weights)) + won * math.log(share) + lost * math.log1p(-share)
        for share, weight in zip(_SHARES, weights, strict=True)
    ]
    highest = max(terms)
    return (won + lost) * math.log(2) + highest + math.log(sum(math.exp(term - highest) for term in terms))


@dataclass(frozen=True)
class TopThreePosterior(StoppingRule):
    """Optimal Bayesian stopping with three groups of answers (arXiv 2602.05395): the most frequent, the second, and
    all others together. The leader is the mode with probability `threshold`.

    `priors`: candidate answer shares of a problem, each descending; their weights are the uncertain-prior variant's,
    all alike. The default is a ladder from flat to peaked, fitted to nothing; shares of a model's own problems do
    better (`answer_shares`).
    """

    threshold: float = 0.95
    priors: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        _check_share("threshold", self.threshold)

    def enough(self, tally: Tally) -> bool:
        counts = sorted((int(votes) for votes in tally.votes.values()), reverse=True)
        if not counts:
            return False
        first, second, rest = counts[0], counts[1] if len(counts) > 1 else 0, sum(counts[2:])
        return mode_probability(first, second, rest, self.priors or LADDER) >= self.threshold


def _ladder() -> tuple[tuple[float, ...], ...]:
    """Shares that fall by a fixed factor, ten answers each, from nearly flat to nearly certain."""
    steps = []
    for factor in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95):
        shares = [factor**rank for rank in range(10)]
        steps.append(tuple(share / sum(shares) for share in shares))
    return tuple(steps)


LADDER = _ladder()


@lru_cache(maxsize=262144)
def mode_probability(first: int, second: int, rest: int, priors: tuple[tuple[float, ...], ...]) -> float:
    """P(the answer seen `first` times is the most frequent one), the second seen `second` times and `rest` votes for
    others, none of which has more than the second (eqs. 8-10 there, L = 3; ties are counted whole)."""
    mode = total = 0.0
    for shares in priors:
        for i, own in enumerate(shares):
            if own <= 0:
                continue
            value = own**first * _others(shares, i, second, rest)
            total += value
            mode += value if i == 0 else 0.0
    return mode / total if total else 0.0


@lru_cache(maxsize=262144)
def _others(shares: tuple[float, ...], own: int, second: int, rest: int) -> float:
    """Over all answers that may be the second: its share to the power of its count, times the ways of the rest."""
    found = 0.0
    for j, share in enumerate(shares):
        if j != own and share > 0:
            others = tuple(value for place, value in enumerate(shares) if place not in (own, j))
            found += share**second * _ways(others, rest, max(second, 0))
    return found


@lru_cache(maxsize=262144)
def _ways(shares: tuple[float, ...], rest: int, most: int) -> float:
    """∑ over counts of the other answers that sum to `rest`, none above `most`, of ∏ share^count ÷ count!, times
    rest!."""
    table = [1.0] + [0.0] * rest
    for share in shares:
        terms = [share**count / math.factorial(count) for count in range(min(most, rest) + 1)]
        table = [
            sum(table[total - count] * terms[count] for count in range(min(total, len(terms) - 1) + 1))
            for total in range(rest + 1)
        ]
    return table[rest] * math.factorial(rest)


def answer_shares(answers: Sequence[Sequence[Hashable | None]], most: int = 10) -> tuple[tuple[float, ...], ...]:
    """`TopThreePosterior.priors` of development problems: the shares of each problem's answers, descending.

    >>> answer_shares([["7", "7", "3", None]])
    ((0.6666666666666666, 0.3333333333333333),)
    """
    found = []
    for keys in answers:
        counts: dict[Hashable, int] = {}
        for key in keys:
            if key is not None:
                counts[key] = counts.get(key, 0) + 1
        largest = sorted(counts.values(), reverse=True)[:most]
        if largest:
            found.append(tuple(count / sum(largest) for count in largest))
    return tuple(found)


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise InputError(f"{name} = {value}: write a share above 0, at most 1")
