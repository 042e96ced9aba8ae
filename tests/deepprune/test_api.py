"""`prune` on a real engine with random weights, and the example as a user runs it."""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from secateur import PUBLISHED_RULE, SHORTEST_WAIT, EvidenceRule, PruneResult, load_judge, prune
from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges.record import read_judge, store_measured
from secateur.deepprune.judges.untrained import RandomJudge
from secateur.deepprune.rule import PruneRule
from secateur.engines.base import SamplingSpec
from secateur.engines.local.engine import TransformersEngine
from secateur.runtime.errors import InputError
from secateur.tasks.prompts import Prompt, encode_prompt, evaluation_messages
from tests.combined_runs import CUT, make_judge
from tests.tiny import copy_with_context

SPEC = SamplingSpec(max_tokens=24)
PROBLEM = "What is 1 + 1?"


@pytest.fixture(scope="module")
def judge_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tiny_model, tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def engine(tiny_model: Path, judge_folder: Path) -> TransformersEngine:
    judge = load_judge(judge_folder, tiny_model)
    return TransformersEngine(tiny_model, dtype="float64", capture_layers=judge.capture_layers)


def test_a_problem_is_answered_by_the_vote_of_survivors(
    engine: TransformersEngine, tiny_model: Path, judge_folder: Path
) -> None:
    judge = load_judge(judge_folder, tiny_model)
    judge.weight = 0.8
    result = prune(PROBLEM, engine, judge, n=6, spec=SPEC)
    assert isinstance(result, PruneResult)
    assert len(result.traces) == 6
    assert result.usage.generated == sum(len(trace.token_ids) for trace in result.traces)
    assert result.usage.judge_head > 0
    assert set(result.decision.survivors) <= {i for i, t in enumerate(result.traces) if t.status != "pruned"}
    again = prune(PROBLEM, engine, judge, n=6, spec=SPEC)
    assert again == result
    assert prune(PROBLEM, engine, judge, n=6, spec=SPEC, seed=1).traces != result.traces


def test_a_prompt_may_be_given_by_its_token_ids(engine: TransformersEngine) -> None:
    messages = evaluation_messages(PROBLEM, Prompt())
    ids = encode_prompt(engine.tokenizer, messages)
    result = prune(ids, engine, n=3, spec=SPEC)
    assert result == prune(messages, engine, n=3, spec=SPEC) == prune(PROBLEM, engine, n=3, spec=SPEC)
    assert result.prompt_tokens == len(ids) and result.cached_tokens == len(ids) * (result.started - 1)
    with pytest.raises(InputError, match="give a text, or chat messages"):
        prune([1, "2"], engine, n=3, spec=SPEC)


def test_without_a_judge_traces_start_as_answers_ask_for_them(engine: TransformersEngine) -> None:
    """Random weights give no answer, so one trace after another starts until all have; answers of one's own agree."""
    silent = prune(PROBLEM, engine, n=5, spec=SPEC)
    assert silent.answer is None and {trace.status for trace in silent.traces} == {"finished"}
    assert silent.decision.survivors == [0, 1, 2, 3, 4]
    agreed = prune(PROBLEM, engine, n=5, spec=SPEC, answer_from=lambda text: "7")
    assert agreed.answer == "7" and len(agreed.decision.survivors) == 3, "the three that started end together, capped"
    assert agreed.usage.generated < silent.usage.generated
    faster = prune(PROBLEM, engine, n=5, spec=SPEC, rule=SHORTEST_WAIT, answer_from=lambda text: "7")
    assert faster.usage.longest_path < silent.usage.longest_path
    with pytest.raises(InputError, match="asks a judge, but there is none"):
        prune(PROBLEM, engine, n=5, spec=SPEC, rule=PruneRule())


def test_a_judge_is_asked_for_what_it_has_earned(
    engine: TransformersEngine, tiny_model: Path, judge_folder: Path, tmp_path: Path
) -> None:
    """Without a weight the problem is answered as if there were no judge, with a warning that says why; a rule that
    always asks is told otherwise, and so is a weight that is given."""
    judge, alone = RandomJudge(CUT), prune(PROBLEM, engine, n=4, spec=SPEC)
    with pytest.warns(RuntimeWarning, match="'random' is not asked: what a cut is worth was never measured"):
        assert prune(PROBLEM, engine, judge, n=4, spec=SPEC) == alone
    judge.weight, judge.verdict = 0.0, "no better than chance within problems: running without it"
    with pytest.warns(RuntimeWarning, match="is not asked: no better than chance within problems"):
        assert prune(PROBLEM, TransformersEngine(tiny_model, dtype="float64"), judge, n=4, spec=SPEC) == alone
    measured = shutil.copytree(judge_folder, tmp_path / "measured")
    store_measured(measured, read_judge(measured).calibration, 0.0, judge.verdict)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert prune(PROBLEM, engine, load_judge(measured, tiny_model), n=4, spec=SPEC) == alone
    assert len([one for one in caught if "no better than chance" in str(one.message)]) == 1, "said once"
    for rule in (PUBLISHED_RULE, EvidenceRule(weight=0.5)):
        asked = prune(PROBLEM, engine, judge, n=4, spec=SPEC, rule=rule)
        assert asked.decision.clustering is not None and asked.decision.clustering.comparisons > 0


def test_traces_without_a_cut_are_told(engine: TransformersEngine) -> None:
    """As those of a language that has none of the reasoning words: the judge saw nothing."""
    judge = RandomJudge(CutRule("words", 25))
    judge.weight = 0.5
    for rule in (PUBLISHED_RULE, None):
        with pytest.warns(RuntimeWarning, match="no trace has 25 reasoning words, so the judge 'random' was never"):
            result = prune(PROBLEM, engine, judge, n=3, spec=SPEC, rule=rule)
        assert {trace.status for trace in result.traces} <= {"whole", "unstarted"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune(PROBLEM, engine, RandomJudge(CUT), n=3, spec=SPEC, rule=PUBLISHED_RULE)


def test_messages_are_rendered_as_they_are(engine: TransformersEngine) -> None:
    judge = RandomJudge(CUT)
    judge.weight = 0.5
    text = prune(PROBLEM, engine, judge, n=2, spec=SPEC, prompt_family="plain")
    messages = prune([{"role": "user", "content": PROBLEM}], engine, judge, n=2, spec=SPEC)
    instructed = prune(PROBLEM, engine, judge, n=2, spec=SPEC)
    assert text == messages != instructed


def test_a_problem_is_prompted_as_the_judges_traces_were(engine: TransformersEngine) -> None:
    judge = RandomJudge(CUT)
    judge.weight = 0.5
    first = {
        family: prune(PROBLEM, engine, judge, n=2, spec=SPEC, prompt_family=family)
        for family in ("deepseek", "plain")
    }
    assert prune(PROBLEM, engine, judge, n=2, spec=SPEC) == first["deepseek"] != first["plain"]
    judge.prompt = Prompt("plain")
    assert prune(PROBLEM, engine, judge, n=2, spec=SPEC) == first["plain"]
    judge.prompt = Prompt("plain", "Be brief.", "Now.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{PROBLEM} Now."}]
    assert prune(PROBLEM, engine, judge, n=2, spec=SPEC) == prune(messages, engine, judge, n=2, spec=SPEC)
    bare = prune(PROBLEM, engine, judge, n=2, spec=SPEC, system_prompt="", instruction="")
    assert bare == first["plain"]


def test_overlap_is_a_rule_away(engine: TransformersEngine) -> None:
    result = prune(PROBLEM, engine, RandomJudge(CUT), n=4, spec=SPEC, rule=PruneRule(mode="overlap"))
    assert sorted(result.decision.order) == [0, 1, 2, 3]


def test_the_cap_is_what_the_context_holds(tiny_model: Path, tmp_path: Path) -> None:
    """Said once, whatever asked for more; a prompt that fills the context is refused."""
    folder = copy_with_context(tiny_model, tmp_path / "short", 100)
    engine = TransformersEngine(folder, dtype="float64")
    prompt = len(encode_prompt(engine.tokenizer, evaluation_messages(PROBLEM, Prompt("plain"))))
    with pytest.warns(
        RuntimeWarning, match=rf"max_tokens 32,768 .* context of 100 .* {100 - prompt} tokens behind"
    ) as said:
        result = prune(PROBLEM, engine, n=3, prompt_family="plain")
    assert len(said) == 1
    lengths = {len(trace.token_ids) for trace in result.traces if trace.finish_reason == "length"}
    assert lengths == {100 - prompt}
    spec = SamplingSpec(temperature=0.6, top_p=0.95, max_tokens=100 - prompt)
    assert prune(PROBLEM, engine, n=3, prompt_family="plain", spec=spec) == result
    with pytest.raises(InputError, match=r"tokens fills the model's context of 100: shorten it"):
        prune(PROBLEM * 100, engine, n=3, prompt_family="plain")


@pytest.mark.parametrize("problem", ["", "  ", [], [{"role": "user"}]])
def test_no_problem_is_refused(engine: TransformersEngine, problem: object) -> None:
    with pytest.raises(InputError, match="the problem is"):
        prune(problem, engine, n=2, spec=SPEC)


def test_what_is_missing_is_named(tiny_model: Path, judge_folder: Path) -> None:
    judge = load_judge(judge_folder, tiny_model)
    judge.weight = 0.8
    without_states = TransformersEngine(tiny_model)
    with pytest.raises(InputError, match=r"captures none: open it with capture_layers=\(0, 1, 2\)"):
        prune(PROBLEM, without_states, judge, n=2, spec=SPEC)
    with pytest.raises(InputError, match=r"captures those of layers \(1,\)"):
        prune(PROBLEM, TransformersEngine(tiny_model, capture_layers=(1,)), judge, n=2, spec=SPEC)
    with pytest.raises(InputError, match="n = 1"):
        prune(PROBLEM, without_states, n=1, spec=SPEC)
    without_states.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        prune(PROBLEM, without_states, RandomJudge(CUT), n=2, spec=SPEC)


def run_python(repository: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=repository, capture_output=True, text=True, timeout=300)


def test_the_package_loads_without_torch(repository: Path) -> None:
    program = "import sys, secateur.deepprune.replay; assert 'torch' not in sys.modules; from secateur import nothing"
    found = run_python(repository, "-c", program)
    assert "cannot import name 'nothing'" in found.stderr
