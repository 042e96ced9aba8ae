"""The answers of a problem as they come in: what rules of stopping and starting are told."""

from collections.abc import Hashable
from dataclasses import dataclass, field


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
