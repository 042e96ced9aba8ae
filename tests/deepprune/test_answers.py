"""Rules of finished answers: when to stop and who runs until then, by hand, against released code, and as laws."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.deepprune.answers import AHEAD, FEWEST_TOKENS, SHORTEST_WAIT, AnswerRule, answer_rule
from secateur.deepprune.controller import run_live
from secateur.deepprune.job import ProblemJob
from secateur.deepprune.replay import Replay, replay_answers
from secateur.deepprune.starting import AllAtOnce, MissingWaves, OnDemand, Pool, StartingPolicy, Waves
from secateur.deepprune.stopping import (
    BetaPosterior,
    CannotChange,
    FirstEnded,
    Lead,
    MajorityCertificate,
    MixtureSprt,
    Never,
    Sprt,
    StoppingRule,
    TopThreePosterior,
    WindowAgrees,
    answer_shares,
    mode_probability,
)
from secateur.deepprune.vote import Tally, majority
from secateur.engines.base import SamplingSpec
from secateur.runtime.errors import InputError
from tests.scripted_engine import ScriptedEngine

STOPS: list[StoppingRule] = [
    Never(),
    Lead(2),
    Lead(3, least=4),
    BetaPosterior(0.9),
    WindowAgrees(2),
    Sprt(),
    MixtureSprt(),
    TopThreePosterior(0.9),
    MajorityCertificate(0.2),
    FirstEnded(3),
    CannotChange(),
]
STARTS: list[StartingPolicy] = [
    AllAtOnce(),
    Waves(1),
    Waves(3),
    Waves(2, only_full=True),
    MissingWaves(),
    MissingWaves(4),
    Pool(3),
    OnDemand(),
    OnDemand(first=2, growth=2.0, contest=1.0),
]
RULES = [AnswerRule(stop, start) for stop, start in itertools.product(STOPS, STARTS)]


def tally(answers: str, n: int = 16, running: int = 0) -> Tally:
    """One ended trace per character; "-" gave no answer."""
    found = Tally(n, running=running, unstarted=n - len(answers) - running)
    for answer in answers:
        found.add(None if answer == "-" else answer)
    return found


def stops_at(rule: StoppingRule, answers: str, n: int = 64) -> int | None:
    """After how many answers the rule has had enough."""
    return next((end for end in range(1, len(answers) + 1) if rule.enough(tally(answers[:end], n))), None)


def replayed(answers: str, lengths: list[int], rule: AnswerRule) -> Replay:
    return replay_answers(lengths, [None if answer == "-" else answer for answer in answers], rule)


def test_a_lead_is_counted_from_the_second_and_wants_enough_answers() -> None:
    assert stops_at(Lead(2, least=1), "aa") == 2 and stops_at(Lead(2, least=1), "abab-aa") == 7
    assert stops_at(Lead(2, least=3), "aaa") == 3 and stops_at(Lead(2, least=3), "aa-a") == 4, "none is no answer"
    assert stops_at(Lead(3), "aabaa") == 5
    assert [Lead(2).missing(tally(answers)) for answers in ("", "a", "ab", "aab", "aa")] == [2, 1, 2, 1, 0]


def test_consol_by_hand_and_as_released() -> None:
    """The steps are log(1.0002) and log(0.9998), the bar log(1.00048): passed by a lead of 3. Below: the pairs (most
    frequent, second) up to eight of each that consol 0.3.0 stops at, with its own defaults."""
    assert stops_at(Sprt(), "aaa") == 3 and stops_at(Sprt(), "abaabaa") == 7
    pairs = [(first, second) for first in range(1, 9) for second in range(first + 1)]
    counted = {pair: Tally(64, votes=dict(zip("ab", pair, strict=True))) for pair in pairs}
    for rule in (Sprt(), MixtureSprt()):
        assert [pair for pair in pairs if rule.enough(counted[pair])] == [(a, b) for a, b in pairs if a - b >= 3]
    assert MixtureSprt(prior=1.0).enough(counted[6, 0]), "a flat prior is surer of a clean sweep"


def test_adaptive_consistency_as_released() -> None:
    released = pytest.importorskip("adaptive_consistency").BetaStoppingCriteria(0.95)
    for first, second in itertools.combinations_with_replacement(range(0, 15), 2):
        if second:
            answers = "a" * second + "b" * first  # `second` is the larger one
            assert released.should_stop(list(answers))["stop"] == BetaPosterior(0.95).enough(tally(answers, 64))


def test_the_certificate_wants_two_bets_won() -> None:
    """Every vote is a bet on the leader of before. After "ab" the bet against answers beside the first three has lost
    one; it takes eleven votes more until it is worth 20. One against the runner-up needs a runner-up. The authors'
    class (plurality_stopping_rule_beta.py) stops at the same votes on 3,000 random runs of 32."""
    assert stops_at(MajorityCertificate(0.05), "a" * 40) is None, "nobody was bet against"
    assert stops_at(MajorityCertificate(0.05), "ab" + "a" * 20) == 13
    assert stops_at(MajorityCertificate(0.5), "ab" + "a" * 20) < 13


def test_three_groups_by_hand() -> None:
    """One prior (3/4, 1/4): after "aa" the odds of a being the frequent one are 9 : 1, after "ab" they are even."""
    priors = ((0.75, 0.25),)
    assert mode_probability(2, 0, 0, priors) == pytest.approx(9 / 10)
    assert mode_probability(1, 1, 0, priors) == pytest.approx(1 / 2)
    assert mode_probability(3, 1, 0, priors) == pytest.approx(9 / 10)
    three = ((0.5, 0.3, 0.2),)
    weights = {"a": 0.5**2 * (0.3 + 0.2), "b": 0.3**2 * (0.5 + 0.2), "c": 0.2**2 * (0.5 + 0.3)}
    assert mode_probability(2, 1, 0, three) == pytest.approx(weights["a"] / sum(weights.values()))
    assert answer_shares([["a", "a", "b", None], [None]]) == ((2 / 3, 1 / 3),)


def test_windows_first_answers_and_certainty() -> None:
    assert stops_at(WindowAgrees(3), "abbbbb") == 6 and stops_at(WindowAgrees(2), "--aa") == 4
    assert not WindowAgrees(2).enough(tally("aa", running=1)), "a window is looked at when all of it has ended"
    assert FirstEnded(3).enough(tally("a-b")) and not FirstEnded(3).enough(tally("ab"))
    assert CannotChange().enough(tally("aaab", n=5)) and not CannotChange().enough(tally("aab", n=5))


@pytest.mark.parametrize(
    ("start", "spent", "path"),
    [
        (AllAtOnce(), 2 * 2 + 8 * 2, 8),  # 0 and 1 differ at 2 and 4, 2 ends at 6, 3 at 8 makes it three to one
        (Waves(1), 2 + 4 + 6 + 8, 20),
        (Waves(2), 2 + 4 + 6 + 8, 4 + 8),
        (Pool(2), 2 + 4 + 6 + 8 + 4, 12),  # 2 starts at 2, 3 at 4 and ends at 12, 4 at 8 and is stopped
        (MissingWaves(), 2 + 4 + 6 + 8, 4 + 8),
        (OnDemand(first=2, growth=1.0, contest=0.0), 2 + 4 + 6 + 8, 12),
        (OnDemand(first=2, growth=2.0, contest=0.0), 2 + 4 + 6 + 8 + 8 + 8, 12),
    ],
)
def test_who_runs_when(start: StartingPolicy, spent: int, path: int) -> None:
    """a ends after 2 steps of its own, b after 4, a after 6, the others after 8; a leads by 2 after the fourth."""
    answers, lengths = "abaaaa", [2, 4, 6, 8, 8, 8]
    found = replayed(answers, lengths, AnswerRule(Lead(2), start))
    if isinstance(start, AllAtOnce):
        spent = 2 + 4 + 6 + 8 + 8 + 8
    assert (found.key, found.usage.generated, found.usage.longest_path) == ("a", spent, path)


def test_disagreement_starts_more_at_once() -> None:
    """Three start; two of them differ at step 2, so a second pair runs beside the third from then on."""
    found = replayed("abaaa", [1, 2, 9, 4, 4], AnswerRule(Lead(2), OnDemand(first=3, growth=1.0, contest=1.0)))
    assert found.kept_tokens == [1, 2, 6, 4, 4] and found.usage.longest_path == 6
    assert replayed("aaaaa", [1, 2, 9, 4, 4], AnswerRule(Lead(2), OnDemand(first=3))).kept_tokens == [1, 2, 2, 0, 0]


@given(st.text("ab-", min_size=2, max_size=24), st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_no_rule_spends_more_than_all_traces(answers: str, rule: AnswerRule, rng) -> None:
    lengths = [rng.randint(1, 30) for _ in answers]
    found = replayed(answers, lengths, rule)
    assert found.usage.generated == sum(found.kept_tokens) <= sum(lengths)
    assert max(found.kept_tokens) <= found.usage.longest_path <= max(1, found.usage.generated)
    ended = [index for index, kept in enumerate(found.kept_tokens) if kept == lengths[index]]
    assert set(found.decision.survivors) <= set(ended)
    keys = [None if answers[index] == "-" else answers[index] for index in found.decision.survivors]
    assert found.key == majority(keys)
    if found.key is None:  # nobody who answers is left out as long as nobody has answered
        rest = [answers[index] for index in range(len(answers)) if index not in found.decision.survivors]
        assert isinstance(rule.stop, FirstEnded) or getattr(rule.start, "only_full", False) or set(rest) <= {"-"}


@given(st.text("abc-", min_size=2, max_size=24), st.sampled_from(STARTS), st.randoms(use_true_random=False))
def test_what_cannot_change_is_the_consensus(answers: str, start: StartingPolicy, rng) -> None:
    if getattr(start, "only_full", False):
        return
    lengths = [rng.randint(1, 30) for _ in answers]
    full = replayed(answers, lengths, AnswerRule(Never(), AllAtOnce()))
    assert full.usage.generated == sum(lengths) and full.usage.longest_path == max(lengths)
    assert replayed(answers, lengths, AnswerRule(CannotChange(), start)).key == full.key


@given(st.integers(2, 40), st.sampled_from([FEWEST_TOKENS, SHORTEST_WAIT]))
def test_agreement_costs_as_few_traces_as_were_asked_for(n: int, rule: AnswerRule) -> None:
    found = replayed("a" * n, list(range(1, n + 1)), rule)
    assert len(found.decision.survivors) == min(n, rule.stop.answers_wanted(n))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.stop!r} {rule.start!r}")
def test_live_runs_are_their_replays(rule: AnswerRule) -> None:
    """On a scripted engine: every trace, every token, the answer, and the path."""
    answers, lengths = "abacbaaab-aaba", [4, 7, 3, 9, 9, 2, 11, 5, 6, 1, 8, 3, 12, 2]
    scripts = {seed: script(answers[seed], length) for seed, length in enumerate(lengths)}
    engine = ScriptedEngine(scripts)
    job = ProblemJob("p", (1, 2), tuple(scripts), decision_seed=0)
    (result,) = run_live(engine, [job], SamplingSpec(max_tokens=100), None, rule, max_rows=8)
    found = replayed(answers, lengths, rule)
    assert [len(trace.token_ids) for trace in result.traces] == found.kept_tokens
    assert (result.answer, result.usage, result.decision) == (found.key, found.usage, found.decision)
    assert {trace.status for trace in result.traces} <= {"finished", "pruned", "unstarted"}
    assert all(trace.cut_tokens is None and trace.cluster is None for trace in result.traces if trace.token_ids)


def script(answer: str, length: int) -> list[str]:
    last = "nothing" if answer == "-" else f"\\boxed{{{answer}}}"
    return ["on "] * (length - 1) + [last]


def test_rules_have_names_and_options() -> None:
    assert answer_rule({"stop": "lead", "lead": 3, "start": "pool", "size": 4}, "x") == AnswerRule(Lead(3), Pool(4))
    assert answer_rule({}, "x") == AnswerRule() == AHEAD
    for values, message in (
        ({"stop": "enough"}, "x: 'stop' is 'enough'; choose one of lead, beta"),
        ({"stop": "lead", "size": 3}, "unknown key 'size'"),
        ({"stop": "lead", "lead": "two"}, "lead"),
        ({"stop": "lead", "lead": 0}, "lead = 0"),
        ({"start": "pool", "size": 0}, "size = 0"),
        ({"start": "on_demand", "growth": 0}, "growth = 0"),
        ({"stop": "beta", "threshold": 1.5}, "threshold = 1.5"),
    ):
        with pytest.raises(InputError, match=message):
            answer_rule(values, "x")
