"""Control flow of live runs, on scripted traces; the real engine is in test_live_equals_replay.py."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.deepprune.controller import run_live
from secateur.deepprune.cut import CutRule, cut_pieces
from secateur.deepprune.job import LiveResult, ProblemJob
from secateur.deepprune.judges.base import CutTrace, SessionJudge
from secateur.deepprune.policy import JudgeFailure, decision_seed
from secateur.deepprune.replay import replay
from secateur.deepprune.rule import ClusterRule, FinishRule, PruneRule
from secateur.engines.accounting import JudgeUsage, Usage
from secateur.engines.base import EngineError, SamplingSpec
from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import group_answers
from secateur.tasks.answers.extraction import extract_answer
from tests.scripted_engine import ScriptedEngine

SPEC = SamplingSpec(max_tokens=100)


class LastLetterJudge(SessionJudge):
    """Says "same" exactly where two cuts end in the same letter; its cost is one token for each cut.

    With `fails_after` it raises `failing` once so many pairs have been asked.
    """

    name, needs_states, capture_layers, parameters = "last letter", False, None, 1

    def __init__(
        self, cut_rule: CutRule, failing: Exception | None = None, score: float = 1.0, fails_after: int = 0
    ) -> None:
        self.cut_rule, self.failing, self.same_score, self.fails_after = cut_rule, failing, score, fails_after
        self.cuts: list[CutTrace] = []
        self.pairs: list[tuple[int, int]] = []

    def open(self, cuts: Sequence[CutTrace] = ()) -> "LastLetterSession":
        return LastLetterSession(self, cuts)


class LastLetterSession:
    def __init__(self, judge: LastLetterJudge, cuts: Sequence[CutTrace]) -> None:
        self.judge, self.letters, self.usage = judge, [], Usage()
        for cut in cuts:
            self.add(cut)

    def add(self, cut: CutTrace) -> int:
        self.judge.cuts.append(cut)
        self.letters.append(cut.text.strip()[-1:])
        self.usage += Usage(judge_prefill=1)
        return len(self.letters) - 1

    def scores(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        self.judge.pairs.extend(pairs)
        if self.judge.failing is not None and len(self.judge.pairs) > self.judge.fails_after:
            raise self.judge.failing
        return np.array([self.judge.same_score * (self.letters[i] == self.letters[j]) for i, j in pairs])


def script(decision: str, answer: str, rest: int) -> list[str]:
    """Two tokens to the cut, `rest` tokens of chatter, the answer."""
    return ["think ", f"{decision} ", *["on "] * rest, f"\\boxed{{{answer}}}"]


FOUR = {0: script("a", "1", 3), 1: script("b", "2", 5), 2: script("a", "1", 4), 3: ["\\boxed{9}"]}
TWO_TOKENS = CutRule("tokens", 2)


def run(scripts: dict[int, list[str]], judge: LastLetterJudge, rule: PruneRule | None = None) -> tuple:
    engine = ScriptedEngine(scripts)
    job = ProblemJob("p", (1, 2), tuple(scripts), decision_seed=0)
    (result,) = run_live(engine, [job], SPEC, judge, rule or PruneRule(), max_rows=8)
    return engine, result


def test_losers_stop_at_their_cut_before_survivors_go_on() -> None:
    engine, result = run(FOUR, LastLetterJudge(TWO_TOKENS))
    assert [trace.status for trace in result.traces] == ["finished", "pruned", "finished", "whole"]
    assert [len(trace.token_ids) for trace in result.traces] == [6, 2, 7, 1]
    assert [trace.cluster for trace in result.traces] == [0, 1, 0, 2]
    assert [trace.finish_reason for trace in result.traces] == ["stop", None, "stop", "stop"]
    assert [trace.cut_tokens for trace in result.traces] == [2, 2, 2, 1]
    assert [action for action, _ in engine.log] == ["start", "park", "prune", "resume"]
    assert result.answer == "1"
    assert result.usage == Usage(generated=16, judge_prefill=4, longest_path=7)


def test_text_is_all_of_the_trace_and_the_judge_sees_only_the_cut() -> None:
    judge = LastLetterJudge(TWO_TOKENS)
    _, result = run(FOUR, judge)
    seen = judge.cuts
    assert result.traces[0].text == "".join(FOUR[0])
    assert [cut.text for cut in seen] == ["think a ", "think b ", "think a ", "\\boxed{9}"]
    assert [cut.token_ids for cut in seen] == [(0, 1), (0, 1), (0, 1), (0,)]


def test_a_trace_that_ends_at_its_cut_is_whole() -> None:
    scripts = {0: ["x ", "a"], 1: ["x ", "a ", "\\boxed{5}"]}
    engine, result = run(scripts, LastLetterJudge(TWO_TOKENS))
    assert [trace.status for trace in result.traces] == ["whole", "finished"]
    assert ("park", (1,)) in engine.log


def test_when_all_traces_end_early_nothing_is_parked_or_resumed() -> None:
    engine, result = run({seed: ["\\boxed{4}"] for seed in range(3)}, LastLetterJudge(TWO_TOKENS))
    assert [action for action, _ in engine.log] == ["start"]
    assert result.answer == "4"


@pytest.mark.parametrize(
    "judge",
    [
        LastLetterJudge(TWO_TOKENS, failing=JudgeFailure("the server is gone")),
        LastLetterJudge(TWO_TOKENS, score=float("nan")),
        LastLetterJudge(TWO_TOKENS, score=1.5),
    ],
)
def test_a_failing_judge_costs_no_problem(judge: LastLetterJudge) -> None:
    with pytest.warns(RuntimeWarning, match="problem 'p': the judge failed"):
        engine, result = run(FOUR, judge)
    assert [trace.status for trace in result.traces] == ["finished", "finished", "finished", "whole"]
    assert result.decision.judge_failure
    assert result.decision.clustering is None
    assert "prune" not in [action for action, _ in engine.log]
    assert result.usage.judge_prefill == 4  # what was read before the failure was spent
    assert result.answer == "1"


def test_a_judge_without_memory_costs_no_problem() -> None:
    with pytest.warns(RuntimeWarning, match="no memory left"):
        _, result = run(FOUR, LastLetterJudge(TWO_TOKENS, failing=torch.OutOfMemoryError("CUDA out of memory")))
    assert result.answer == "1" and "no memory left" in result.decision.judge_failure


@pytest.mark.parametrize("bug", [KeyError("weights"), ValueError("shapes"), RuntimeError("anything")])
def test_bugs_in_a_judge_are_not_hidden(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        run(FOUR, LastLetterJudge(TWO_TOKENS, failing=bug))


@pytest.mark.parametrize("early", [False, True])
def test_a_run_that_ends_early_leaves_nothing_in_the_engine(early: bool) -> None:
    """Whether a judge has a bug or nobody wants the other results."""
    scripts = {problem * 100 + seed: script("a", "1", 9 * problem) for problem in range(3) for seed in range(2)}
    judge, engine = LastLetterJudge(TWO_TOKENS, failing=None if early else KeyError("bug")), ScriptedEngine(scripts)
    results = run_live(engine, jobs_of(scripts), SPEC, judge, PruneRule(), max_rows=8)
    if early:
        assert next(results).problem_id == "p0"
        results.close()
    else:
        with pytest.raises(KeyError):
            next(results)
    assert not engine._state and engine.step() == []


def test_one_trace_is_refused() -> None:
    with pytest.raises(InputError, match="n = 1"):
        ProblemJob.sampled("p", [1, 2], n=1, base_seed=0)


def test_seeds_depend_on_the_problem_only() -> None:
    few, many = (ProblemJob.sampled("p", [1], n, base_seed=3) for n in (4, 8))
    assert many.seeds[:4] == few.seeds and many.decision_seed == few.decision_seed == decision_seed(3, "p")
    assert ProblemJob.sampled("q", [1], 4, base_seed=3).decision_seed != few.decision_seed


@st.composite
def problems(draw: st.DrawFn) -> dict[int, list[str]]:
    """Scripts of several problems; seeds are problem * 100 + sample."""
    scripts = {}
    for problem in range(draw(st.integers(1, 5))):
        for sample in range(draw(st.integers(2, 6))):
            words = st.lists(st.sampled_from(["so", " ", "wait ", "on", "a. ", "b. "]), min_size=1, max_size=12)
            answer = draw(st.sampled_from(["\\boxed{1}", "\\boxed{2}", "none"]))
            scripts[problem * 100 + sample] = [*draw(words), answer]
    return scripts


def jobs_of(scripts: dict[int, list[str]]) -> list[ProblemJob]:
    names = dict.fromkeys(seed // 100 for seed in scripts)
    return [
        ProblemJob(f"p{name}", (1, 2, 3), tuple(seed for seed in scripts if seed // 100 == name), name)
        for name in names
    ]


def jobs_of_one(scripts: dict[int, list[str]]) -> list[ProblemJob]:
    return [ProblemJob("p", (1, 2), tuple(scripts), 0)]


def by_id(results: list[LiveResult]) -> dict[str, LiveResult]:
    return {result.problem_id: result for result in results}


RULE = PruneRule(ClusterRule(compared=2, max_clusters=4), FinishRule(largest=2, singletons=3))
LINKED = st.builds(
    PruneRule,
    st.builds(ClusterRule, tau=st.sampled_from([0.3, 0.8]), linkage=st.just("average")),
    st.builds(FinishRule, largest=st.integers(1, 6), singletons=st.just(3), until=st.sampled_from(["all", "beta"])),
)
GREEDY = st.builds(
    PruneRule,
    st.just(RULE.cluster),
    st.builds(
        FinishRule,
        largest=st.integers(1, 3),
        singletons=st.just(3),
        policy=st.sampled_from(["largest", "representatives", "soft"]),
        stop_when_decided=st.booleans(),
    ),
    st.sampled_from(["barrier", "overlap"]),
)
RULES = GREEDY | LINKED
CUTS = st.one_of(
    st.builds(CutRule, st.just("words"), st.integers(1, 3)), st.builds(CutRule, st.just("tokens"), st.integers(1, 8))
)


@settings(max_examples=60, deadline=None)
@given(problems(), CUTS, RULES, st.integers(1, 20))
def test_sharing_the_batch_changes_nothing(
    scripts: dict[int, list[str]], cut: CutRule, rule: PruneRule, max_rows: int
) -> None:
    jobs = jobs_of(scripts)
    shared_engine = ScriptedEngine(scripts)
    shared = by_id(list(run_live(shared_engine, jobs, SPEC, LastLetterJudge(cut), rule, max_rows)))
    alone = [
        next(run_live(ScriptedEngine(scripts), [job], SPEC, LastLetterJudge(cut), rule, max_rows)) for job in jobs
    ]
    assert shared == by_id(alone)
    assert shared_engine.most_rows <= max(max_rows, max(len(job.seeds) for job in jobs))


def replay_of(job: ProblemJob, scripts: dict[int, list[str]], cut: CutRule, rule: PruneRule) -> tuple:
    """The replay of a scripted problem, and its answer."""
    pieces = [scripts[seed] for seed in job.seeds]
    stored = [cut_pieces(each, cut) for each in pieces]
    judge = LastLetterJudge(cut)
    scores = judge.score([CutTrace(job.prompt_ids, (), each.text) for each in stored])
    answers = [extract_answer("".join(each)) for each in pieces]
    lengths, cuts = list(map(len, pieces)), [each.n_tokens for each in stored]
    usage = JudgeUsage(judge.usage, (Usage(judge_prefill=1),) * len(pieces))
    replayed = replay(lengths, cuts, group_answers(answers), scores, rule, job.decision_seed, usage)
    return replayed, None if replayed.key is None else answers[replayed.key]


@settings(max_examples=100, deadline=None)
@given(problems(), CUTS, RULES)
def test_live_equals_replay(scripts: dict[int, list[str]], cut: CutRule, rule: PruneRule) -> None:
    for job in jobs_of(scripts):
        (live,) = run_live(ScriptedEngine(scripts), [job], SPEC, LastLetterJudge(cut), rule, 32)
        replayed, answer = replay_of(job, scripts, cut, rule)
        assert replayed.decision == live.decision
        assert replayed.kept_tokens == [len(trace.token_ids) for trace in live.traces]
        assert replayed.usage == live.usage
        assert live.answer == answer


def test_many_traces_are_asked_lazily_and_still_equal_their_replay() -> None:
    rng = np.random.default_rng(0)
    letters, rests = rng.integers(0, 9, 200), rng.integers(1, 9, 200)
    scripts = {
        i: script("abcdefghi"[k], str(k % 3), rest) for i, (k, rest) in enumerate(zip(letters, rests, strict=True))
    }
    rule = PruneRule(ClusterRule(compared=2), FinishRule(largest=6, policy="soft"))
    judge, (job,) = LastLetterJudge(TWO_TOKENS), jobs_of_one(scripts)
    (live,) = run_live(ScriptedEngine(scripts), [job], SPEC, judge, rule, 200)
    replayed, answer = replay_of(job, scripts, TWO_TOKENS, rule)
    assert (live.decision, live.usage, live.answer) == (replayed.decision, replayed.usage, answer)
    assert len(judge.pairs) == len(set(judge.pairs)) < 200 * 199 / 4


def test_a_decided_vote_stops_those_that_run() -> None:
    scripts = {seed: script("a", "1", rest) for seed, rest in enumerate((1, 2, 9, 9))}
    rule = PruneRule(finish=FinishRule(stop_when_decided=True))
    engine, result = run(scripts, LastLetterJudge(TWO_TOKENS), rule)
    # at token 5 two of four agree; the others could only draw level, and the tie goes to trace 0
    assert [len(trace.token_ids) for trace in result.traces] == [4, 5, 5, 5]
    assert [trace.status for trace in result.traces] == ["finished", "finished", "pruned", "pruned"]
    assert engine.log[-1] == ("prune", (2, 3))
    assert (result.answer, result.decision.survivors) == ("1", [0, 1])


def test_states_are_asked_once_for_all_traces_of_a_problem() -> None:
    judge = LastLetterJudge(TWO_TOKENS)
    judge.needs_states, judge.capture_layers = True, (1,)
    engine = ScriptedEngine(FOUR, capture_layers=(1,))
    (_result,) = run_live(engine, jobs_of_one(FOUR), SPEC, judge, PruneRule(), max_rows=8)
    assert [log for log in engine.log if log[0] == "states"] == [("states", (0, 1, 2, 3))]
    assert [len(cut.states) for cut in judge.cuts] == [len(cut.token_ids) - 1 for cut in judge.cuts]


@pytest.mark.parametrize("mode", ["barrier", "overlap"])
def test_an_engine_that_cannot_go_on_ends_the_run(mode: str) -> None:
    class Dying(ScriptedEngine):
        def step(self) -> list:
            if self.most_rows:
                raise EngineError("the server is gone")
            return super().step()

    with pytest.raises(EngineError, match="gone"):
        list(run_live(Dying(FOUR), jobs_of_one(FOUR), SPEC, LastLetterJudge(TWO_TOKENS), PruneRule(mode=mode), 8))
