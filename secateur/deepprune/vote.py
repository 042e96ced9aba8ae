"""The vote of finished traces, whether those that still run could change it, how sure a lead is, and the tally of
answers as they come in, which rules of stopping and starting are told."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import comb

from scipy.special import betainc


def majority(keys: Sequence[Hashable | None], weights: Sequence[float] | None = None) -> Hashable | None:
    """The answer key with the greatest total weight; of equals the one seen first.

    `keys` are such that equal answers have equal keys (`secateur.tasks.answers.equality.group_answers`); None, a
    trace without an answer, abstains, so None is returned only when nobody votes. Totals are rounded once, whatever
    the order.

    >>> majority(["7", None, "3", None, "3"])
    '3'
    """
    votes: dict[Hashable, list[float]] = {}
    for key, weight in zip(keys, [1.0] * len(keys) if weights is None else weights, strict=True):
        if key is not None:
            votes.setdefault(key, []).append(weight)
    return max(votes, key=lambda key: math.fsum(votes[key]), default=None)


def weighted_vote(finished: Mapping[int, Hashable | None], weights: Mapping[int, float]) -> Hashable | None:
    """The majority of the voters that have finished, the earlier traces first.

    `finished`: trace → answer key; `weights`: voter → weight, positive.
    """
    voters = sorted(trace for trace in weights if trace in finished)
    return majority([finished[trace] for trace in voters], [weights[trace] for trace in voters])


def is_decided(finished: Mapping[int, Hashable | None], weights: Mapping[int, float]) -> bool:
    """Whether `weighted_vote` would be the same whatever the voters answer that have not finished.

    Not before somebody has given an answer, unless nobody is left to wait for.

    >>> is_decided({0: "7", 2: "7"}, {0: 1.0, 1: 1.0, 2: 1.0})
    True
    >>> is_decided({1: "7", 2: "3"}, {0: 1.0, 1: 1.0, 2: 1.0})
    False
    """
    pending = [trace for trace in weights if trace not in finished]
    leader = weighted_vote(finished, weights)
    if not pending or leader is None:
        return not pending
    backers: dict[Hashable, list[int]] = {}
    for trace in weights:
        if trace in finished and finished[trace] is not None:
            backers.setdefault(finished[trace], []).append(trace)
    leading = backers.pop(leader)
    lead = math.fsum(weights[trace] for trace in leading)
    for behind in (*backers.values(), []):  # the last: an answer that nobody has given yet
        at_most = math.fsum(weights[trace] for trace in (*behind, *pending))
        wins_tie = min(*behind, *pending, min(leading)) < min(leading)
        if at_most > lead or (at_most == lead and wins_tie):
            return False
    return True


@lru_cache(maxsize=65536)
def majority_stays(first: float, second: float) -> float:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1): the probability that the most frequent answer is more frequent
    than the second, given how often both were seen.

    For whole counts it is a binomial tail, computed exactly. Counts may be fractional, where cuts vote in part.

    >>> majority_stays(1, 0), majority_stays(3, 1)
    (0.75, 0.8125)
    """
    if not (isinstance(first, int) and isinstance(second, int)):
        return float(betainc(second + 1, first + 1, 0.5))
    trials = first + second + 1
    return sum(comb(trials, successes) for successes in range(first + 1)) / 2**trials


@dataclass
class Tally:
    """What is known of the n traces of one problem.

    `votes`: answer key → votes, in the order in which the answers were first given; whole numbers, unless judged cuts
    add to them. `answers`: what the ended traces said, in the order of their ends, None for no answer. `running` and
    `unstarted` count traces.
    """

    n: int
    running: int = 0
    unstarted: int = 0
    votes: dict[Hashable, float] = field(default_factory=dict)
    answers: list[Hashable | None] = field(default_factory=list)

    def add(self, key: Hashable | None) -> None:
        """One more trace has ended with the answer `key`."""
        self.answers.append(key)
        if key is not None:
            self.votes[key] = self.votes.get(key, 0) + 1

    @property
    def given(self) -> float:
        """Votes in all; traces without an answer have none."""
        return sum(self.votes.values())

    @property
    def leader(self) -> Hashable | None:
        """The answer with the most votes, of equals the one given first; None while there is none."""
        return max(self.votes, key=self.votes.__getitem__, default=None)

    @property
    def top_two(self) -> tuple[float, float]:
        """The votes of the two answers that have the most, 0 where there is none."""
        first: float = 0
        second: float = 0
        for votes in self.votes.values():
            if votes > first:
                first, second = votes, first
            elif votes > second:
                second = votes
        return first, second

    def with_more(self, votes: int) -> "Tally":
        """As if so many more traces had ended with the leader's answer, none of them running now."""
        more = Tally(self.n, self.running, self.unstarted, dict(self.votes), list(self.answers))
        for _ in range(votes):
            more.add("?" if self.leader is None else self.leader)
        return more
