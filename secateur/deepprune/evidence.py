"""Finished answers and judged cuts in one posterior, a cut with the weight that its judge has earned.

Traces run to their cuts and wait there. The judge puts them into clusters, and every cut that nobody has finished
adds `weight` votes to the answers that finished members of its cluster gave. A cluster without any is a rival of
unknown answer, and where it leads, one of its members goes on. More traces start until the posterior of all votes is
sure of the leader; finished answers that disagree make it unsure, which reopens the start. How a judge earns its
weight on development problems: trainers/judges/worth.py. One without weight is not asked, and answers alone decide.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from secateur.deepprune.answers import AHEAD, AnswerPolicy, AnswerRule
from secateur.deepprune.clustering import AskingClusters, Clustering, KnownClusters
from secateur.deepprune.gathering import JudgedPolicy, of_traces
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.policy import Decision, Finished, JudgeFailure, Move, Policy, Progress
from secateur.deepprune.probing import ProbeRule
from secateur.deepprune.rule import ClusterRule, PruneRule
from secateur.deepprune.stopping import BetaPosterior
from secateur.deepprune.vote import Tally, weighted_vote
from secateur.runtime.errors import InputError


@dataclass(frozen=True)
class EvidenceRule:
    """When to stop, how many traces start, and what the judge's cuts add to the votes.

    confidence: probability (0-1) that the leader is more frequent than the second, given all votes (the Beta
      posterior of Adaptive-Consistency, arXiv 2305.11860, with fractional counts), from which on no more are started.
    lead: votes by which it must lead where all n have been started and the posterior is still unsure; with a weight
      w as far as ends can still change anything, so lead · (1 − w).
    finished: answers that must have been given, however many cuts speak for one. One alone names a cluster's answer,
      a second one tests it.
    cluster: how cuts are put into clusters.
    weight: votes of a judged cut (0-1); None: what the judge has earned.
    answers: the rule beside a judge without weight.
    """

    confidence: float = 0.95
    lead: int = 2
    finished: int = 2
    cluster: ClusterRule = field(default_factory=ClusterRule)
    weight: float | None = None
    answers: AnswerRule = AHEAD

    def __post_init__(self) -> None:
        _ = self.sure  # checks the confidence
        for key in ("lead", "finished"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} = {getattr(self, key)}: somebody must answer; write 1 or more")
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise InputError(
                f"weight = {self.weight}: votes of a cut lie between 0 and 1; null is what it has earned"
            )

    @property
    def sure(self) -> BetaPosterior:
        return BetaPosterior(self.confidence)

    def weighed(self, earned: float | None) -> "EvidenceRule | AnswerRule":
        """The rule as it runs beside a judge that has earned so much, None for one that was never measured."""
        weight = (earned or 0.0) if self.weight is None else self.weight
        return replace(self, weight=weight) if weight else self.answers

    def first(self, n: int) -> int:
        """How many of n traces are started at once."""
        return min(n, self.cuts_for(Tally(n, unstarted=n))) if self.weight else self.answers.first(n)

    def cuts_for(self, tally: Tally) -> int:
        """How many more cuts would make the posterior sure if all of them spoke for the leader."""
        return 0 if self.sure.enough(tally) else math.ceil(self.sure.missing(tally) / self.weight)


JudgedRule = PruneRule | EvidenceRule
"""Rules that ask a judge."""
Rule = AnswerRule | ProbeRule | JudgedRule
"""Every rule that runs live and in replay."""
EVIDENCE_RULE = EvidenceRule()
"""`ahead`, where the judge has earned no weight."""


@dataclass(frozen=True)
class Unknown:
    """The answer of a cluster of which no member has given one; `cluster` is its number."""

    cluster: int


@dataclass(frozen=True)
class _Group:
    """The members of a cluster: those that have `answered`, those that still may (`open`), those of them that wait
    (`parked`)."""

    answered: list[int]
    open: list[int]
    parked: list[int]


class EvidencePolicy(Policy):
    """A rule with a weight at work on one problem. The same scores, rule and seed decide the same."""

    parks = True

    def __init__(self, scores: PairScores, rule: EvidenceRule, seed: int) -> None:
        """`scores` numbers traces in the order in which they come to the judge; `seed` is the problem's
        `decision_seed`. Raises `ValueError` for a rule without a weight (see `EvidenceRule.weighed`)."""
        if not rule.weight:
            raise ValueError("a judge without weight is not asked: run rule.weighed(…)")
        self._scores, self._rule, self._seed, self._weight = scores, rule, seed, rule.weight
        self._clusters: KnownClusters | AskingClusters | None = None
        self._order: list[int] = []
        self._without: AnswerPolicy | None = None

    def next(self, progress: Progress, arrived: Sequence[int]) -> Move:
        if self._without is None and arrived:
            self._judge(arrived, progress.n)
            if self._without is not None:
                move = self._without.next(progress, arrived)
                return move if move.prune else replace(move, resume=tuple(sorted(progress.parked)))
        if self._without is not None:
            return self._without.next(progress, arrived)
        return self._move(progress)

    def _judge(self, arrived: Sequence[int], n: int) -> None:
        """Show traces to the judge and cluster them. Where it fails, answers alone decide from then on."""
        self._order.extend(arrived)
        try:
            self._scores.introduce(arrived)
            if self._clusters is None:
                self._clusters = self._scores.clusters(self._rule.cluster, self._seed)
            self._clusters.extend(len(arrived))
        except JudgeFailure as failure:
            self.judge_failure = str(failure)
            self.parks = self.cuts = False
            self._without = AnswerPolicy(self._rule.answers, n)

    def _move(self, progress: Progress) -> Move:
        groups = self._groups(progress)
        tally = self._tally(progress, groups)
        missing = self._rule.cuts_for(tally)
        start = min(tally.unstarted, max(0, missing - tally.running))
        if start or (missing and progress.to_cut):  # cuts are cheaper than ends, so they are heard first
            return Move(start=start)
        unnamed = isinstance(tally.leader, Unknown)
        given = sum(key is not None for key in progress.finished.values())
        wanted = max(self._rule.finished - given, self._doubt(tally) if missing else 0)
        if wanted <= 0 and not unnamed:
            return Move(prune=tuple(progress.held_traces))
        count = max(wanted - len(progress.running), self._must_name(tally.leader, groups, progress))
        return Move(resume=tuple(self._queue(groups, tally.leader, progress.finished)[: max(0, count)]))

    def _doubt(self, tally: Tally) -> int:
        """How many more ends the leader misses where no further cut can be had. To finish a trace that was counted by
        its cut adds the rest of its vote, so a lead of `lead` votes shrinks to that part of it."""
        first, second = tally.top_two
        rest = 1 - self._weight
        short = self._rule.lead * rest - (first - second)
        return math.ceil(short / rest) if short > 0 else 0

    def _groups(self, progress: Progress) -> list[_Group]:
        if self._clusters is None:
            return []
        found = of_traces(self._clusters.clustering, self._order)
        return [_group(members, progress) for members in (*found.clusters, *([one] for one in found.unassigned))]

    def _tally(self, progress: Progress, groups: Sequence[_Group]) -> Tally:
        """The votes of finished answers and of cuts; clusters without an answer have one of their own. What runs is
        on its way to a cut."""
        tally = Tally(progress.n, len(progress.to_cut), progress.n - progress.started)
        for trace in progress.ended:
            tally.add(progress.finished[trace])
        votes = tally.votes
        for number, group in enumerate(groups):
            for trace in group.answered:
                votes[progress.finished[trace]] += self._weight * len(group.open) / len(group.answered)
            if group.open and not group.answered:
                votes[Unknown(number)] = self._weight * len(group.open)
        return tally

    def _queue(self, groups: Sequence[_Group], leader: Hashable | None, finished: Finished) -> list[int]:
        """Waiting traces in the order in which they go on: those of the leading answer, then those of larger
        clusters."""

        def rank(number: int) -> tuple[bool, int]:
            group = groups[number]
            leads = leader == Unknown(number) or leader in [finished[trace] for trace in group.answered]
            return not leads, -len(group.answered) - len(group.open)

        return [trace for number in sorted(range(len(groups)), key=rank) for trace in groups[number].parked]

    def failure_words(self, progress: Progress) -> str | None:
        if self.judge_failure is None:
            return None
        return f"the judge failed ({self.judge_failure}); finished answers alone decide from here"

    @staticmethod
    def _must_name(leader: Hashable | None, groups: Sequence[_Group], progress: Progress) -> int:
        """1 where an unknown answer leads and none of those that could name it runs."""
        if not isinstance(leader, Unknown):
            return 0
        return int(not progress.running.intersection(groups[leader.cluster].open))

    def _weights(self, finished: Finished) -> Mapping[int, float]:
        """Finished trace → its vote, and its part of those of its cluster's cuts."""
        weights = dict.fromkeys(finished, 1.0)
        for members in self._clustering.clusters if self._without is None else ():
            answered = [trace for trace in members if finished.get(trace) is not None]
            cuts = sum(trace not in finished for trace in members)
            for trace in answered:
                weights[trace] += self._weight * cuts / len(answered)
        return weights

    @property
    def _clustering(self) -> Clustering:
        return of_traces(self._clusters.clustering, self._order)

    def vote(self, finished: Finished) -> Hashable | None:
        return weighted_vote(finished, self._weights(finished))

    def decision(self, finished: Finished) -> Decision:
        weights, voters = self._weights(finished), sorted(finished)
        clustering = None if self._without is not None else self._clustering
        return Decision(clustering, voters, [weights[trace] for trace in voters], self._order, self.judge_failure)


def judged_policy(rule: JudgedRule, scores: PairScores, seed: int) -> Policy:
    """The policy of a rule that asks a judge; `scores` numbers traces in the order in which they come to it."""
    return (EvidencePolicy if isinstance(rule, EvidenceRule) else JudgedPolicy)(scores, rule, seed)


def _group(members: Sequence[int], progress: Progress) -> _Group:
    finished = progress.finished
    return _Group(
        [trace for trace in members if finished.get(trace) is not None],
        [trace for trace in members if trace not in finished],
        [trace for trace in members if trace in progress.parked],
    )
