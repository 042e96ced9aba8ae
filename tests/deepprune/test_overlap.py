"""Traces that are judged as they come, while the others run on. That live equals replay: test_controller.py."""

import pytest

from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutRule
from secateur.deepprune.policy import JudgeFailure
from secateur.deepprune.rule import FinishRule, PruneRule
from secateur.engines.accounting import Usage
from tests.deepprune.test_controller import FOUR, SPEC, TWO_TOKENS, LastLetterJudge, jobs_of_one, run
from tests.scripted_engine import ScriptedEngine

OVERLAP = PruneRule(finish=FinishRule(largest=2), mode="overlap")


def test_nobody_waits_and_waste_is_counted() -> None:
    """All come at token 2, so that nobody has run on yet; losers and surplus end there, the others never stop."""
    engine, result = run(FOUR, LastLetterJudge(TWO_TOKENS), OVERLAP)
    assert [trace.status for trace in result.traces] == ["finished", "pruned", "finished", "whole"]
    assert [action for action, _ in engine.log] == ["start", "prune"]
    assert result.decision.order == [3, 0, 1, 2]  # the whole trace ended first
    assert result.usage == Usage(generated=6 + 2 + 7 + 1, judge_prefill=4, longest_path=7)


def scripts_by_words() -> dict[int, list[str]]:
    """Cut at the first reasoning word, "so": at tokens 2, 3, 4 and 8 of 12."""
    places = {0: 1, 1: 2, 2: 3, 3: 7}
    scripts = {}
    for seed, place in places.items():
        words = ["on "] * place + ["so ", *["on "] * (10 - place)]
        scripts[seed] = [*words, "\\boxed{1}"]
    return scripts


def test_a_full_cluster_takes_nobody_more_and_losers_end_when_the_last_has_come() -> None:
    class ByTrace(LastLetterJudge):
        """The first three alike, the last alone."""

        def open(self, cuts=()):
            session = super().open(cuts)
            add = session.add

            def adding(cut):
                number = add(cut)
                session.letters[number] = "a" if number < 3 else "b"
                return number

            session.add = adding
            return session

    engine, result = run(scripts_by_words(), ByTrace(CutRule("words", 1)), OVERLAP)
    assert [trace.cut_tokens for trace in result.traces] == [2, 3, 4, 8]
    assert [len(trace.token_ids) for trace in result.traces] == [12, 12, 4, 8]
    assert [log for log in engine.log if log[0] == "prune"] == [("prune", (2,)), ("prune", (3,))]
    assert result.decision.clustering.clusters == [[0, 1, 2], [3]]
    assert result.usage.generated == 12 + 12 + 4 + 8


@pytest.mark.parametrize("fails_after", [0, 1, 3, 5])
def test_a_judge_that_fails_on_the_way_costs_no_problem(fails_after: int) -> None:
    judge = LastLetterJudge(CutRule("words", 1), JudgeFailure("out of memory"), fails_after=fails_after)
    with pytest.warns(RuntimeWarning, match="problem 'p': the judge failed \\(out of memory\\)") as caught:
        _, result = run(scripts_by_words(), judge, PruneRule(finish=FinishRule(largest=1), mode="overlap"))
    pruned = [index for index, trace in enumerate(result.traces) if trace.status == "pruned"]
    assert pruned == {0: [], 1: [1], 3: [1, 2], 5: [1, 2]}.get(fails_after, [])
    told = str(caught[0].message)
    assert (f"{len(pruned)} traces had been pruned before" in told) == bool(pruned)
    assert result.decision.survivors == [index for index in range(4) if index not in pruned]
    assert result.decision.judge_failure == "out of memory"
    assert result.decision.order == [0, 1, 2, 3]
    assert result.answer == "1"
    assert result.usage.judge_prefill >= 1


def test_states_are_those_of_the_cut_though_the_trace_runs_on() -> None:
    judge = LastLetterJudge(TWO_TOKENS)
    judge.needs_states, judge.capture_layers = True, (1,)
    engine = ScriptedEngine(FOUR, capture_layers=(1,))
    (_result,) = run_live(engine, jobs_of_one(FOUR), SPEC, judge, OVERLAP, max_rows=8)
    assert [log for log in engine.log if log[0] == "states"] == [("states", (3,)), ("states", (0, 1, 2))]
    assert [len(cut.states) for cut in judge.cuts] == [len(cut.token_ids) - 1 for cut in judge.cuts]
