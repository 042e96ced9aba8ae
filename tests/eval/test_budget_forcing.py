"""Budget forcing on the embedded model: what is forced, what is counted, and what must not change."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eval.budget_forcing import BudgetForcingConfig, main
from eval.single import main as single_main
from eval.studies.budget import Budget, Forcer, read_budget_forcing
from secateur.engines.base import SamplingSpec
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import read_trace_folder
from secateur.runtime.files import write_text
from secateur.tasks.prompts import FORCING
from secateur.tasks.records import Problem, Trace

SPEC = SamplingSpec()

CONFIG = """
problems: {{set: "arithmetic:test"}}
problem_count: 12
samples: 2
output_dir: {output}
prompt_family: plain
temperature: 1.0
top_p: 1.0
max_tokens: 400
dtype: float32
device: cpu
rows: 24
models: {{base: {model}}}
"""


@pytest.fixture
def config(tmp_path, embedded_model) -> Path:
    write_text(tmp_path / "c.yaml", CONFIG.format(output=tmp_path / "out", model=embedded_model))
    return tmp_path / "c.yaml"


def run(monkeypatch, entry, config: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "--config", str(config), *arguments])
    entry()


def traces(folder: Path) -> dict[tuple[str, int], Trace]:
    entries = read_trace_folder(folder)
    return {(e.problem.id, s.trace.sample): s.trace for e in entries for s in e.traces}


def test_the_strings_are_those_of_the_reference() -> None:
    assert FORCING["deepseek"].injected == "</think>\n\n**Final Answer:**\n\n"
    assert FORCING["qwq"].injected == "</think>\n\nThe final answer is"
    assert FORCING["s1"].injected == "<|im_start|>answer\nFinal Answer:"


def test_only_thinking_that_still_runs_at_the_budget_is_ended(embedded_model) -> None:
    tokenizer = load_tokenizer(embedded_model)
    forcer = Forcer(tokenizer, FORCING["plain"])
    ids = tuple(tokenizer("<think>\nOkay, rule yew. So in yew # sums.\n</think>\n\\boxed{3}")["input_ids"])
    ended = tokenizer("<think>\nOkay, rule yew. So in yew # sums.\n</think>")["input_ids"]
    trace = Trace("p", "q", "3", 0, "", "m", (*ids, tokenizer.eos_token_id), len(ids) + 1, "stop")
    due = [budget for budget in range(1, len(ids) + 5) if forcer.is_due(trace, budget)]
    assert due == list(range(1, len(ended)))  # from the budget that holds "</think>" on, nothing is forced
    unending = Trace("p", "q", "3", 0, "", "m", ids[:9], 9, "length")
    assert [forcer.is_due(unending, budget) for budget in (8, 9, 10)] == [True, True, False]


def test_the_string_stands_on_a_line_of_its_own(tiny_model) -> None:
    """As budget_forcing_gen.py has it: a line break before it, unless thinking ends with one."""
    tokenizer = load_tokenizer(tiny_model)
    forcer, string = Forcer(tokenizer, FORCING["deepseek"]), FORCING["deepseek"].injected
    for thinking, wanted in (("So 2", f"\n{string}"), ("So 2\n", string), ("", f"\n{string}")):
        ids = tuple(tokenizer(thinking)["input_ids"])
        text, injected = forcer.injected(ids)
        assert text == tokenizer.decode(injected) == wanted
        trace = Trace("p", "q", "3", 0, thinking, "m", ids, len(ids), "length")
        budget = Budget(len(ids), FORCING["deepseek"], SPEC, "plain", 0, 1)
        job = forcer.job(Problem("p", "q", "3"), trace, [7, 8], budget)
        assert job.prompt_ids == (7, 8, *ids, *injected)


def test_budgets_from_tiny_to_longer_than_any_trace(monkeypatch, tmp_path, config, capsys) -> None:
    run(monkeypatch, single_main, config, "--table", "false")
    unforced = traces(tmp_path / "out/base/set")
    before = {path: path.read_bytes() for path in (tmp_path / "out/base").rglob("traces-*")}
    longest = max(trace.n_tokens for trace in unforced.values())
    arguments = ["--budgets", f"[20, 120, {longest}]", "--answer_tokens", "12"]
    run(monkeypatch, main, config, *arguments)
    assert {path: path.read_bytes() for path in before} == before  # the samples of single.py, used as they are
    folder = tmp_path / "out/budget_forcing/base/set"
    assert traces(folder / str(longest)) == unforced  # token for token

    report = read_budget_forcing(tmp_path / "out")
    _, injected = Forcer(load_tokenizer(report.config["models"]["base"]), report.forcing).injected(())
    assert report.forcing == FORCING["plain"]
    for key, trace in traces(folder / "20").items():
        assert trace.token_ids[:20] == unforced[key].token_ids[:20]
        assert trace.token_ids[20 : 20 + len(injected)] == injected
        assert 20 + len(injected) < trace.n_tokens == len(trace.token_ids) <= 32 + len(injected)
        assert "</think>" in trace.text and trace.text.count("\\boxed{") == 1

    points = report.models["base"]["set"]
    assert [point.budget for point in points] == [20, 120, longest, None]
    tiny, middle, large, free = points
    assert tiny.forced_share == 1.0 > middle.forced_share > large.forced_share == 0.0
    assert tiny.pass_at_1 < free.pass_at_1
    assert replace(large, budget=None) == free
    assert tiny.mean_tokens < middle.mean_tokens < free.mean_tokens
    total = sum(trace.n_tokens for trace in traces(folder / "20").values())
    assert tiny.injected_tokens == 24 * len(injected)
    assert tiny.generated_tokens + tiny.injected_tokens == total

    file = folder / "120/traces-rank0.jsonl"
    stored = sorted(file.read_text().splitlines())
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:9])[:-20])  # as a kill leaves it
    run(monkeypatch, main, config, *arguments, "--table", "false")
    assert sorted(file.read_text().splitlines()) == stored
    assert read_budget_forcing(tmp_path / "out").models["base"]["set"] == points

    with pytest.raises(SystemExit):
        run(monkeypatch, main, config, "--budgets", "[20]", "--answer_tokens", "13")
    assert "budget_forcing.answer_tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budgets", "[20, 20]"], "key 'budgets'"),
        (["--budgets", "[0]"], "key 'budgets'"),
        (["--forcing", "r1"], "key 'forcing' has the value 'r1'"),
        (["--answer_tokens", "0"], "key 'answer_tokens'"),
    ],
)
def test_keys_that_do_not_fit_are_named(monkeypatch, config, capsys, arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, main, config, *arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_each_prompt_family_has_its_string(tmp_path, embedded_model) -> None:
    keys = {"problems": "arithmetic:test", "models": {"m": str(embedded_model)}, "output_dir": str(tmp_path)}
    chosen = {
        family: BudgetForcingConfig(**keys, prompt_family=family).chosen_forcing
        for family in ("deepseek", "qwen", "plain")
    }
    assert chosen == {"deepseek": FORCING["deepseek"], "qwen": FORCING["qwq"], "plain": FORCING["plain"]}
    assert BudgetForcingConfig(**keys, forcing="s1").chosen_forcing == FORCING["s1"]
