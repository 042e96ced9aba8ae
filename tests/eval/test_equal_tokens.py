"""bench/equal_tokens.py on a synthetic run: what is left out changes nothing, what is given is found again."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.equal_tokens import (
    RULES,
    SEQUENTIAL,
    MeasuredProblem,
    WeighedMix,
    all_contenders,
    check_sizes,
    measure,
    mix_weights,
    part,
    prune,
    run_bench,
)
from bench.equal_tokens_report import MethodFigures, write_report
from eval.studies.rule_sweep import StoredRun, load_run
from eval.table.method import Parameters, ReplayProblem, ReplayTrace
from eval.table.pruning import deepprune, prune_once
from eval.table.run import run as run_combined
from secateur.deepprune.rule import ADAPTIVE_RULE
from secateur.engines.accounting import JudgeUsage, Usage
from secateur.runtime.errors import InputError
from tests.combined_runs import config, make_judge, write_problems


def problem(index: int, n: int = 160, right: float = 0.5) -> ReplayProblem:
    """Answer "0" is right; a judge that mostly knows which answer a trace will give."""
    rng = np.random.default_rng(index)
    keys = np.where(rng.random(n) < right, 0, rng.integers(1, 5, n))
    lengths = rng.integers(60, 140, n)
    traces = tuple(
        ReplayTrace(str(key), int(length), 12 if rng.random() < 0.95 else None)
        for key, length in zip(keys, lengths, strict=True)
    )
    scores = np.clip((keys[:, None] == keys[None]) * 0.7 + 0.15 + rng.normal(0, 0.1, (n, n)), 0.01, 0.99)
    cuts = tuple(Usage(judge_head=int(head)) for head in rng.integers(100, 200, n))
    usage = JudgeUsage(sum(cuts, Usage(judge_head=7 * n * (n - 1) // 2)), cuts)
    scores = np.tril(scores, -1) + np.tril(scores, -1).T
    return ReplayProblem(f"p{index}", frozenset("0"), traces, index, scores, usage)


@pytest.fixture(scope="module")
def stored() -> StoredRun:
    problems = [problem(index, right=0.35 + 0.1 * (index % 4)) for index in range(6)]
    return StoredRun("base", "judge", problems, Parameters(1000), RULES["published"], 2, 20, 160, "fingerprint")


def test_a_part_of_all_traces_is_the_problem(stored):
    record = stored.problems[0]
    order = np.random.default_rng(1).permutation(160)
    again = prune_once(part(record, order), RULES["published"])
    direct = prune_once(record, RULES["published"], order.tolist())
    assert again.key == direct.key and again.usage == direct.usage
    assert sorted(order[again.survivors]) == direct.survivors
    assert part(record, np.arange(160)).judge_usage == record.judge_usage


@pytest.mark.parametrize("name", ["adaptive .95", "adaptive .99"])
def test_leaving_out_traces_that_are_never_started_changes_nothing(stored, name):
    for record in stored.problems:
        chosen = np.random.default_rng(2).permutation(160)
        taken = part(record, chosen)
        assert prune(record, RULES[name], chosen) == deepprune(taken, [prune_once(taken, RULES[name])])
    assert RULES["adaptive .95"] == ADAPTIVE_RULE


def test_mixes_weigh_what_they_say():
    shares = [0.2, 0.5, 0.55, 0.7, 0.9]
    assert mix_weights(shares, 0.6, None).tolist() == [1] * 5
    half = mix_weights(shares, 0.6, 0.5)
    assert half.mean() == pytest.approx(1) and half[:3].sum() == pytest.approx(half[3:].sum())
    assert mix_weights(shares, 0.6, 1.0)[3:].tolist() == [0, 0]
    assert mix_weights(shares, 0.1, 0.5) is None and mix_weights(shares, 0.95, 0.5) is None


def test_a_difference_is_that_of_the_weighted_means():
    def measured(a: float, b: float) -> MeasuredProblem:
        return MeasuredProblem(1.0, 100.0, {"x": MethodFigures(a, 10.0, 1.0, b, 1.0)})

    found = [measured(*pair) for pair in ((1, 0), (1, 1), (0.5, 0.25))]
    row = WeighedMix("mix", 8, found, np.array([1.5, 0.0, 1.5])).row("x")
    assert row.difference == pytest.approx(row.accuracy - row.equal_accuracy) == pytest.approx(0.625)
    assert row.ci95[0] <= row.difference <= row.ci95[1]
    assert row.net_share == pytest.approx(0.1) and (row.mix, row.n, row.consensus) == ("mix", 8, 1.0)


def test_figures_of_all_methods_are_in_every_output(stored, tmp_path):
    result = measure(stored, [16, 80], draws=2, note="A made-up task.")
    write_report(result, tmp_path)
    rows = json.loads((tmp_path / "equal_tokens.json").read_text())["rows"]
    assert {row["method"] for row in rows} == set(RULES) | {SEQUENTIAL} == set(all_contenders())
    assert len(rows) == 2 * len(all_contenders()) * len(result.mixes)
    assert all(0 <= row["accuracy"] <= 1 and row["net_share"] > 0 for row in rows)
    by_name = {row.method: row for row in result.rows if row.mix == "as stored" and row.n == 80}
    assert by_name["lead 3"].net_tokens < by_name["published"].net_tokens
    assert by_name["stop when decided"].accuracy == by_name["published"].accuracy
    text = (tmp_path / "equal_tokens.md").read_text()
    assert "A made-up task." in text and text.count("| adaptive .95 |") == 2 * len(result.mixes)
    assert (tmp_path / "equal_tokens.png").read_bytes().startswith(b"\x89PNG")


def test_a_real_run_is_replayed_and_bad_numbers_are_named(tmp_path: Path, tiny_model: Path):
    judge, problems = make_judge(tiny_model, tmp_path / "judge"), write_problems(tmp_path / "problems.jsonl")
    changes = {"live": 0, "orders": 1, "judges": {"base": str(judge)}}
    run_combined(config(tiny_model, judge, problems, tmp_path / "run", **changes))
    stored, out = load_run(str(tmp_path / "run")), tmp_path / "out"
    result = run_bench(stored, out, [4, 8], draws=2)
    assert {row.n for row in result.rows} == {4, 8} and (out / "equal_tokens.png").is_file()
    with pytest.raises(InputError, match="--n: 9 is not between 2 and the 8 traces"):
        run_bench(stored, out, [9], draws=2)
    with pytest.raises(InputError, match="--draws: 0"):
        run_bench(stored, out, [4], draws=0)
    assert check_sizes([8, 4, 8], 8) == [4, 8]
