"""Scorers of single traces: what they read, what they learn, when they are refused, and the rules that ask them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.deepprune.answers import AnswerRule
from secateur.deepprune.best_first import BEST_UNTIL_AHEAD, ScoreRule, best_of_cuts, peak_tokens, worst_dropped
from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutDetector, CutRule
from secateur.deepprune.job import ProblemJob
from secateur.deepprune.judges.folder import describe_generator
from secateur.deepprune.judges.metrics import auroc_within_problems
from secateur.deepprune.replay import replay_scored
from secateur.deepprune.scorer import (
    CUT,
    END,
    HeadShape,
    Observed,
    PointRecord,
    ScoreFit,
    Scorer,
    ScorerRecord,
    check_point,
    features_of,
    fit_scores,
    load_scorer,
    new_head,
    observed_at,
    places_of,
    save_scorer,
    score_figures,
)
from secateur.deepprune.starting import AllAtOnce
from secateur.deepprune.stopping import Lead
from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.engines.models import read_states
from secateur.engines.sampling import TraceJob, sample_traces
from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import group_answers
from secateur.tasks.records import Problem

LENGTHS = st.lists(st.integers(1, 500), min_size=2, max_size=12)


def ends(lengths: list[int]) -> list[Observed]:
    return [Observed(length) for length in lengths]


def figures(labels: list[int], scores: list[float]):
    return score_figures(np.array(labels), np.array(scores), np.zeros(len(labels), dtype=int))


def order_record(fit: ScoreFit, **points: object) -> ScorerRecord:
    good = figures([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    return ScorerRecord(reads=("order",), points=points or {CUT: PointRecord(fit, good)}, cut=CutRule("tokens", 6))


def test_points_lie_where_they_say() -> None:
    assert places_of(END, 10, 4) == [10]
    assert places_of(CUT, 10, 4) == [4] and places_of(CUT, 10, None) == [10], "a whole trace is read at its end"
    assert places_of("50%", 11, None) == [5] and places_of("1%", 11, None) == [1]
    assert places_of("every 4", 3, None) == [] and places_of("every 4", 8, None) == [4, 8]
    for wrong in ("0%", "100%", "every 0", "start"):
        with pytest.raises(InputError, match="points"):
            check_point(wrong)


def test_order_by_hand() -> None:
    """Of 2, 8 and 8 tokens the first came before both others, which came together."""
    before, length = features_of(ends([2, 8, 8]), ("order",)).T
    assert before.tolist() == [0.0, 0.75, 0.75]
    assert length == pytest.approx(np.log([2, 8, 8]) - np.log(128) / 3)


def test_confidences_behind_a_point_are_not_looked_at() -> None:
    assert observed_at(2, confidences=[1.0, 3.0, 99.0]) == observed_at(2, confidences=[1.0, 3.0])
    assert observed_at(64, confidences=[0.0] * 32 + [4.0] * 32).tail == 4.0


def test_what_is_not_there_is_not_read() -> None:
    with pytest.raises(InputError, match="hidden states"):
        features_of(ends([1, 2]), ("states",))


@given(LENGTHS, st.integers(2, 5), st.randoms(use_true_random=False))
def test_order_is_relative_and_the_siblings_order_does_not_matter(lengths, factor, random) -> None:
    found = features_of(ends(lengths), ("order",))
    assert features_of(ends([factor * length for length in lengths]), ("order",)) == pytest.approx(found)
    order = random.sample(range(len(lengths)), len(lengths))
    assert features_of(ends([lengths[place] for place in order]), ("order",)) == pytest.approx(found[order])


@pytest.mark.parametrize("short_is_right", [True, False])
def test_whether_short_is_right_is_learned(short_is_right: bool) -> None:
    rng = np.random.default_rng(0)
    features, labels, problems = [], [], []
    for problem in range(60):
        lengths = rng.integers(10, 1000, 16).tolist()
        chance = np.where((np.array(lengths) < np.median(lengths)) == short_is_right, 0.8, 0.3)
        features.append(features_of(ends(lengths), ("order",)))
        labels += (rng.random(16) < chance).astype(int).tolist()
        problems += [problem] * 16
    table, told, numbers = np.concatenate(features), np.array(labels), np.array(problems)
    fit = fit_scores(table[:480], told[:480])
    found = score_figures(told[480:], fit(table[480:]), numbers[480:])
    assert found.has_signal and found.auroc_within > 0.6 and found.ece < 0.1
    assert (fit.weights[0] < 0) == short_is_right


def test_only_traces_of_one_problem_are_compared() -> None:
    """Two problems, one easy and one hard: the scores know which is which and nothing else."""
    labels, problems = np.array([1, 1, 1, 0, 1, 0, 0, 0]), np.repeat([0, 1], 4)
    value, low, high = auroc_within_problems(labels, np.repeat([0.9, 0.1], 4), problems)
    assert (value, low, high) == (0.5, 0.5, 0.5)
    better = np.array([0.9, 0.9, 0.9, 0.8, 0.1, 0.2, 0.0, 0.0])
    assert auroc_within_problems(labels, better, problems)[0] == pytest.approx((3 + 2) / 6)
    assert auroc_within_problems(np.ones(8), better, problems) is None


def test_a_scorer_at_chance_is_refused_by_its_own_measure() -> None:
    rng = np.random.default_rng(1)
    labels, problems = rng.integers(0, 2, 400), np.repeat(np.arange(25), 16)
    chance = score_figures(labels, rng.random(400), problems)
    record = order_record(ScoreFit((0.0, 0.0), 0.0), end=PointRecord(ScoreFit((0.0, 0.0), 0.0), chance))
    with pytest.raises(InputError, match=r"refused at 'end', AUROC within problems .* no better than chance"):
        record.require("x", END)
    record.require("x", END, without_signal=True)
    with pytest.raises(InputError, match="trained for end, not for 'cut'"):
        record.require("x", CUT)


def test_the_worst_are_dropped_by_hand() -> None:
    """Four traces with room for 20 tokens, read every 4. At 5 each they fill it: trace 2, the lowest, goes. At 6 each
    of three, 18 of 20, trace 1 goes. The two left have room for 10 each; trace 0 ends with 8, the last has all."""
    readings = [[0.9, 0.9], [0.4, 0.9], [0.3], [0.5, 0.5, 0.5]]
    kept, scores = worst_dropped([8, 9, 30, 12], readings, every=4, memory=20)
    assert kept == [8, 6, 5, 12]
    assert scores == pytest.approx([0.9, 0.4, 0.3, 0.5])


@given(LENGTHS, st.integers(1, 2000), st.integers(0, 99))
def test_memory_is_never_exceeded_and_enough_of_it_drops_nobody(lengths, memory, seed) -> None:
    rng = np.random.default_rng(seed)
    readings = [rng.random(length // 16).tolist() for length in lengths]
    kept, _ = worst_dropped(lengths, readings, 16, memory)
    assert all(tokens <= length for tokens, length in zip(kept, lengths, strict=True))
    assert peak_tokens(kept) <= max(memory, *kept), "one trace alone may be longer than the memory"
    assert worst_dropped(lengths, readings, 16, peak_tokens(lengths))[0] == lengths


def scored(keys: str, lengths: list[int], scores: list[float], rule: ScoreRule):
    return replay_scored(lengths, [5] * len(keys), list(keys), scores, rule)


def test_the_best_at_the_cut_go_on_by_hand() -> None:
    found = scored("abcd", [10, 20, 30, 40], [0.1, 0.9, 0.2, 0.8], best_of_cuts(2))
    assert found.decision.survivors == [1, 3] and found.kept_tokens == [5, 20, 5, 40]
    assert found.usage.generated == 70 and found.usage.longest_path == 40
    whole = scored("abcd", [4, 20, 30, 40], [0.1, 0.9, 0.2, 0.8], best_of_cuts(2))
    assert whole.decision.survivors == [0, 1], "a trace that ended before its cut has its place"


def test_the_best_go_first_until_one_answer_is_ahead() -> None:
    """Lead 2: the three best start; when 4 and 2 have said a, the problem is answered and the third stops."""
    found = scored("xxaxay", [9, 9, 20, 9, 10, 50], [0.1, 0.2, 0.8, 0.1, 0.9, 0.7], BEST_UNTIL_AHEAD)
    assert found.key == "a" and found.decision.survivors == [2, 4]
    assert found.kept_tokens == [5, 5, 20, 5, 10, 20]


@given(LENGTHS, st.integers(0, 99))
def test_all_that_may_go_on_is_the_consensus(lengths, seed) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.choice(list("ab"), len(lengths)).tolist()
    scores = rng.random(len(lengths)).tolist()
    found = replay_scored(lengths, [7] * len(lengths), keys, scores, ScoreRule())
    assert found.kept_tokens == lengths and found.decision.survivors == list(range(len(lengths)))
    kept = replay_scored(lengths, [7] * len(lengths), keys, scores, best_of_cuts(3))
    assert len(kept.decision.survivors) == max(min(3, len(lengths)), sum(length <= 7 for length in lengths))


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model, dtype="float64", device="cpu", capture_layers=(1, 2))


def states_record(model: Path, shape: HeadShape) -> ScorerRecord:
    point = order_record(ScoreFit((1.0, 0.5, 0.5), 0.1)).points[CUT]
    return ScorerRecord(
        reads=("states", "order"),
        points={CUT: point},
        cut=CutRule("tokens", 6),
        head=shape,
        generator=describe_generator(model),
    )


@pytest.mark.parametrize("kind", ["attention", "linear"])
def test_a_scorer_of_states_is_saved_and_belongs_to_its_model(kind, tiny_model, embedded_model, tmp_path) -> None:
    shape = HeadShape(kind, (1, 2), 32, heads=2, width=4, window=3)
    head = new_head(shape)
    save_scorer(tmp_path, states_record(tiny_model, shape), {CUT: head})
    found = load_scorer(tmp_path, tiny_model)
    states = torch.randn(9, 2, 32)
    assert found.logit(CUT, states) == found.logit(CUT, states[-3:]), "it sees its window"
    assert found.logit(CUT, states) == pytest.approx(head.of_lists([states[-3:]]).item())
    assert np.isfinite(found.logit(CUT, states[:0])) and found.macs(CUT, 2) > 0
    if kind == "linear":
        assert found.logit(CUT, states) == found.logit(CUT, states[-1:])
    with pytest.raises(InputError, match="train"):
        load_scorer(tmp_path, embedded_model)


def test_states_read_again_are_those_that_were_captured(engine, tiny_model) -> None:
    handles = engine.start([3, 4, 5], [1, 2, 3], SamplingSpec(max_tokens=9))
    ids: dict[int, list[int]] = {handle: [] for handle in handles}
    while events := engine.step():
        for event in events:
            ids[event.trace] += event.token_ids
    again = read_states(engine.model, [3, 4, 5], [ids[handle] for handle in handles], (1, 2))
    for captured, read in zip(engine.states(handles), again, strict=True):
        assert len(read) == len(captured) + 1
        assert torch.allclose(captured.float(), read[:-1].float(), atol=1e-2)


@pytest.mark.parametrize(
    "rule", [best_of_cuts(3), BEST_UNTIL_AHEAD, ScoreRule(5, AnswerRule(Lead(3), AllAtOnce()))], ids=str
)
def test_a_live_run_is_its_replay(rule, engine, tiny_model) -> None:
    torch.manual_seed(0)
    shape = HeadShape("attention", (1, 2), 32, heads=2, width=4, window=3)
    scorer = Scorer(states_record(tiny_model, shape), {CUT: new_head(shape)})
    spec, n = SamplingSpec(max_tokens=24), 8
    for number in range(4):
        job = ProblemJob.sampled(f"p{number}", [3, 4, 5 + number], n, 0)
        (live,) = run_live(engine, [job], spec, scorer, rule, max_rows=2 * n, extract=lambda text: text[:1])
        problem = Problem(job.problem_id, "?", "?")
        jobs = [TraceJob(problem, sample, job.prompt_ids, seed) for sample, seed in enumerate(job.seeds)]
        traces = sample_traces(engine, engine.tokenizer, jobs, spec, n, lambda: CutDetector(scorer.cut_rule), True)
        whole = sorted(traces, key=lambda trace: trace.job.sample)
        lengths, cuts = [trace.n_tokens for trace in whole], [trace.cut_tokens for trace in whole]
        places = [places_of(CUT, length, cut)[0] for length, cut in zip(lengths, cuts, strict=True)]
        observed = [observed_at(p, scorer.logit(CUT, t.states)) for p, t in zip(places, whole, strict=True)]
        keys = group_answers([trace.text[:1] or None for trace in whole])
        scores = scorer.probabilities(CUT, observed).tolist()
        replayed = replay_scored(lengths, cuts, keys, scores, rule)
        assert [len(trace.token_ids) for trace in live.traces] == replayed.kept_tokens
        assert live.decision.survivors == replayed.decision.survivors
        assert live.usage.generated == replayed.usage.generated and live.usage.judge_head > 0
