"""Finished answers and judged cuts in one vote: by hand, as laws, and against rules without a judge or weight."""

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.deepprune.answers import AHEAD
from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutRule
from secateur.deepprune.evidence import EVIDENCE_RULE, EvidenceRule, judged_policy
from secateur.deepprune.job import ProblemJob
from secateur.deepprune.judges import metrics
from secateur.deepprune.judges.untrained import RandomJudge
from secateur.deepprune.pair_scores import PairScores
from secateur.deepprune.policy import JudgeFailure, Move, Progress
from secateur.deepprune.replay import Replay, replay, replay_answers
from secateur.deepprune.rule import ADAPTIVE_RULE, FinishRule, PruneRule, StartRule
from secateur.deepprune.vote import majority
from secateur.engines.base import SamplingSpec
from secateur.runtime.errors import InputError
from tests.scripted_engine import ScriptedEngine

CUT = 2


def truth(answers: str) -> np.ndarray:
    """The scores of a judge that knows the answers."""
    letters = np.array(list(answers))
    return (letters[:, None] == letters[None, :]).astype(float)


def keys_of(answers: str) -> list[str | None]:
    return [None if answer == "-" else answer for answer in answers]


def replayed(answers: str, lengths: Sequence[int], rule: EvidenceRule | PruneRule, scores: np.ndarray | None = None):
    scores = truth(answers) if scores is None else scores
    cuts = [CUT if length > CUT else None for length in lengths]
    return replay(lengths, cuts, keys_of(answers), scores, rule, seed=0)


def test_cuts_of_one_cluster_need_two_of_its_answers() -> None:
    """Sure at 4 votes to none; at half a vote a cut that is 8 cuts. Two of them go on, the second because one answer
    alone is not enough, and end after 10 steps: two votes, and half a vote of each of the six others."""
    found = replayed("a" * 20, [10] * 20, EvidenceRule(weight=0.5))
    assert found.kept_tokens == [10, 10] + [CUT] * 6 + [0] * 12 and found.key == "a"
    assert found.decision.weights == [2.5, 2.5]
    alone = replayed("aaaa", [10] * 4, EvidenceRule(weight=1.0, finished=1))
    assert alone.kept_tokens == [10, CUT, CUT, CUT]


def test_answers_that_disagree_reopen_the_start() -> None:
    """The judge takes all traces for alike, but the first two that finish differ: more traces start."""
    answers, lengths = "ab" + "a" * 18, [10] * 20
    fooled = replayed(answers, lengths, EvidenceRule(weight=0.9), np.ones((20, 20)))
    sure = replayed("a" * 20, lengths, EvidenceRule(weight=0.9), np.ones((20, 20)))
    assert fooled.key == "a" and sum(k > 0 for k in fooled.kept_tokens) > sum(k > 0 for k in sure.kept_tokens)


def test_the_adaptive_rule_starts_more_where_its_voters_disagree() -> None:
    batches = PruneRule(finish=FinishRule(lead=2), start=StartRule(start_batch=3, start_confidence=0.5))
    again = replayed("abbbbb", [10] * 6, batches, np.ones((6, 6)))
    assert again.kept_tokens[:4] == [10] * 4 and again.key == "b", "two to one after the first batch"
    once = replayed("aaabbb", [10] * 6, batches, np.ones((6, 6)))
    assert once.kept_tokens[3:] == [0, 0, 0] and once.key == "a"


def test_a_cluster_without_an_answer_is_a_rival_until_it_is_heard() -> None:
    """b's cuts outnumber the a that has ended, so one of them has to go on."""
    found = replayed("a" + "b" * 15, [1] + [9] * 15, EvidenceRule(weight=0.9))
    assert found.key == "b" and sum(kept == 9 for kept in found.kept_tokens) <= 3


@given(
    st.text("abc-", min_size=2, max_size=24),
    st.floats(0.05, 1),
    st.integers(1, 3),
    st.sampled_from([0.5, 0.8, 0.95]),
    st.integers(0, 2**32 - 1),
)
def test_laws(answers: str, weight: float, finished: int, confidence: float, seed: int) -> None:
    """Whatever the judge says: nothing is spent twice, who votes has ended, and nobody who answers is left out as
    long as nobody has answered."""
    rng, n = np.random.default_rng(seed), len(answers)
    lengths, half = rng.integers(1, 30, n).tolist(), np.tril(rng.random((n, n)), -1)
    scores = half + half.T + np.eye(n)
    rule = EvidenceRule(confidence, finished=finished, weight=weight)
    found = replayed(answers, lengths, rule, scores)
    assert all(kept <= length for kept, length in zip(found.kept_tokens, lengths, strict=True))
    assert found.usage.generated == sum(found.kept_tokens)
    ended = {place for place in range(n) if found.kept_tokens[place] == lengths[place]}
    assert set(found.decision.survivors) <= ended
    voters = [keys_of(answers)[place] for place in found.decision.survivors]
    assert found.key == majority(voters, found.decision.weights)
    if found.key is None:
        assert set(answers) == {"-"}
    assert replayed(answers, lengths, rule, scores) == found


def world(n: int, problems: int, seed: int) -> list[tuple[str, list[int], np.ndarray]]:
    """Answers, lengths and the scores of a judge at chance; "a" is right, and problems differ in difficulty."""
    rng = np.random.default_rng(seed)
    made = []
    for share in rng.beta(2.5, 1.0, problems):
        answers = "".join(rng.choice(list("abcd"), n, p=[share, *(np.ones(3) * (1 - share) / 3)]))
        half = np.tril(rng.random((n, n)), -1)
        made.append((answers, np.round(rng.lognormal(4.5, 0.5, n)).astype(int).clip(5).tolist(), half + half.T))
    return made


def figures(runs: Sequence[Replay]) -> tuple[float, float]:
    """(accuracy, tokens)."""
    return float(np.mean([run.key == "a" for run in runs])), float(np.mean([run.usage.generated for run in runs]))


def test_a_judge_at_chance_earns_nothing_and_changes_nothing() -> None:
    """Its kappa cannot be told from 0, so its weight is 0 and the rule is `ahead`."""
    made = world(16, 120, seed=1)
    later, earlier = np.tril_indices(16, -1)
    labels = np.concatenate([truth(answers)[later, earlier] for answers, _, _ in made])
    scores = np.concatenate([scores[later, earlier] for _, _, scores in made])
    owners = np.repeat(np.arange(len(made)), len(later))
    chance = metrics.kappa(labels, scores, owners)
    assert chance.ci95[0] <= 0 <= chance.ci95[1] and abs(chance.value) < 0.05
    assert metrics.kappa(labels, labels, owners).value == 1
    assert EVIDENCE_RULE.weighed(0.0) == EVIDENCE_RULE.weighed(None) == AHEAD


def test_a_judge_that_knows_saves_at_least_what_the_adaptive_rule_saves() -> None:
    made = world(64, 300, seed=2)
    evidence = figures([replayed(answers, lengths, EVIDENCE_RULE.weighed(1.0)) for answers, lengths, _ in made])
    adaptive = figures([replayed(answers, lengths, ADAPTIVE_RULE) for answers, lengths, _ in made])
    ahead = figures([replay_answers(lengths, keys_of(answers), AHEAD) for answers, lengths, _ in made])
    assert evidence[0] >= adaptive[0] - 0.005 and evidence[1] <= adaptive[1]
    assert evidence[0] >= ahead[0] - 0.005 and evidence[1] < 0.7 * ahead[1]


class BrokenScores(PairScores):
    def clusters(self, rule, seed):
        raise JudgeFailure("no memory left")


def test_a_judge_that_fails_leaves_the_answers_to_decide() -> None:
    scores = BrokenScores(16, lambda pairs: np.zeros(len(pairs)))
    policy = judged_policy(EvidenceRule(weight=1.0), scores, seed=0)
    progress = Progress(16)
    assert policy.next(progress, ()) == Move(start=4)
    progress.start(4)
    progress.park((0, 1))
    assert policy.next(progress, (0, 1)) == Move(resume=(0, 1)), "those that wait go on, and nobody waits any more"
    assert (policy.parks, policy.cuts, policy.judge_failure) == (False, False, "no memory left")
    progress.run((0, 1, 2, 3))
    for trace in (1, 3):
        progress.end(trace, "a")
    assert policy.next(progress, ()) == Move(prune=(0, 2)) and policy.vote(progress.finished) == "a"
    assert policy.decision(progress.finished).clustering is None


class FailingJudge(RandomJudge):
    def open(self, cuts=()):
        raise JudgeFailure("the server is gone")


def test_a_live_judge_that_fails_is_told_of_once() -> None:
    scripts = {seed: ["on "] * 8 + ["\\boxed{7}"] for seed in range(5)}
    job = ProblemJob("p", (1, 2), tuple(scripts), decision_seed=0)
    judge, rule = FailingJudge(CutRule("tokens", CUT)), EvidenceRule(weight=0.9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (result,) = run_live(ScriptedEngine(scripts), [job], SamplingSpec(max_tokens=99), judge, rule, max_rows=9)
    (warning,) = caught
    assert "problem 'p': the judge failed (the server is gone); finished answers alone" in str(warning.message)
    assert result.answer == "7" and [trace.status for trace in result.traces].count("finished") >= 2


def test_impossible_values_are_named() -> None:
    for values, message in (
        ({"finished": 0}, "finished = 0"),
        ({"weight": 1.5}, "weight = 1.5"),
        ({"confidence": 2.0}, "threshold = 2.0"),
    ):
        with pytest.raises(InputError, match=message):
            EvidenceRule(**values)
