"""Starting traces in batches: the rule, and runs that hold against their replay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutRule
from secateur.deepprune.policy import JudgeFailure
from secateur.deepprune.rule import ClusterRule, FinishRule, PruneRule, StartRule
from secateur.engines.base import SamplingSpec
from secateur.runtime.errors import InputError
from tests.deepprune.test_controller import (
    CUTS,
    TWO_TOKENS,
    LastLetterJudge,
    by_id,
    jobs_of,
    problems,
    replay_of,
    script,
)
from tests.scripted_engine import ScriptedEngine

SPEC = SamplingSpec(max_tokens=100)
STARTS = st.builds(StartRule, start_batch=st.integers(2, 5), start_confidence=st.floats(0.5, 0.97))
FINISHES = st.builds(FinishRule, largest=st.integers(1, 4), lead=st.integers(0, 3), stop_when_decided=st.booleans())


@given(st.integers(2, 200), st.integers(0, 20).filter(lambda batch: batch != 1))
def test_batches_cover_all_traces_and_none_is_alone(n: int, batch: int) -> None:
    batches = StartRule(batch).batches(n)
    assert [trace for part in batches for trace in part] == list(range(n))
    assert all(len(part) >= 2 for part in batches)
    assert len(batches) == 1 or all(len(part) == batch for part in batches[:-1])


def test_certainty_grows_with_the_lead_and_with_the_sample() -> None:
    rule = StartRule(8, 0.95)
    assert not rule.enough([3, 0]) and rule.enough([4])
    assert not rule.enough([6, 2]) and rule.enough([12, 4])
    assert not rule.enough([5, 5, 5])


@pytest.mark.parametrize(
    "values", [{"start_batch": -1}, {"start_batch": 1}, {"start_confidence": 0.4}, {"start_confidence": 1.0}]
)
def test_impossible_rules_are_refused(values: dict) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        StartRule(**values)


@pytest.mark.parametrize("values", [{"mode": "overlap"}, {"finish": FinishRule(policy="soft")}])
def test_batches_need_the_barrier_and_a_policy_that_reads_clusters_only(values: dict) -> None:
    with pytest.raises(InputError, match="batch = 4"):
        PruneRule(start=StartRule(4), **values)


@settings(max_examples=80, deadline=None)
@given(problems(), CUTS, STARTS, FINISHES, st.integers(1, 30))
def test_live_equals_replay(scripts: dict, cut: CutRule, start: StartRule, finish: FinishRule, max_rows: int) -> None:
    rule, jobs = PruneRule(ClusterRule(compared=2), finish, start=start), jobs_of(scripts)
    runs = by_id(list(run_live(ScriptedEngine(scripts), jobs, SPEC, LastLetterJudge(cut), rule, max_rows)))
    for job in jobs:
        live = runs[job.problem_id]
        replayed, answer = replay_of(job, scripts, cut, rule)
        assert (live.decision, live.usage, live.answer) == (replayed.decision, replayed.usage, answer)
        assert replayed.kept_tokens == [len(trace.token_ids) for trace in live.traces]
        assert all((trace.status == "unstarted") == (trace.token_ids == ()) for trace in live.traces)


def test_a_judge_that_fails_midway_starts_everybody() -> None:
    scripts = {seed: script("ab"[seed % 2], str(seed % 2), 3) for seed in range(9)}
    judge = LastLetterJudge(TWO_TOKENS, failing=JudgeFailure("gone"), fails_after=4)
    (job,) = jobs_of(scripts)[:1]
    with pytest.warns(RuntimeWarning, match="no trace is pruned"):
        (live,) = run_live(ScriptedEngine(scripts), [job], SPEC, judge, PruneRule(start=StartRule(3)), 32)
    assert {trace.status for trace in live.traces} == {"finished"}
    assert live.decision.survivors == list(range(len(job.seeds)))
