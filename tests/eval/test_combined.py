"""eval/combined.py on a tiny random model: what a run writes, what it refuses, resuming, several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.dry_run.runs import plan_combined
from eval.table.config import CombinedConfig
from eval.table.explorer import read_examples, read_explorer
from eval.table.run import run
from secateur.deepprune.judges.registry import UNTRAINED
from secateur.results import LiveEquality, Row, Table, read_table
from secateur.runtime.errors import InputError
from secateur.runtime.records import as_json
from tests.combined_runs import config, make_judge, make_reading_judge, settings, write_problems

ROW_KEYS = {
    "model", "method", "judge", "n", "problems", "accuracy", "accuracy_ci95", "tokens", "wall_s", "saving_gross",
    "saving_net", "finished", "oracle_accuracy", "controls", "id", "saving_parts", "trained_on", "chosen_on",
    "benchmark", "net_tokens", "judge_kind", "cost", "trained_ids", "chosen_ids",
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("combined-inputs")
    return tiny_model, make_judge(tiny_model, folder / "judge"), write_problems(folder / "problems.jsonl")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, Path, Path]) -> tuple[Path, Table]:
    """One uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("reference")
    return folder, run(config(*inputs, folder))


def comparable(table: Table) -> list[Row]:
    return [replace(row, wall_s=None) for row in table.rows]


def row(table: Table, method: str, judge: str | None = None) -> Row:
    return next(r for r in table.rows if (r.method, r.judge) == (method, judge))


def test_rows_have_the_agreed_fields_and_savings_follow_their_definition(reference) -> None:
    combined = reference[1]
    assert [(r.method, r.judge) for r in combined.rows] == [
        ("single", None),
        ("consensus", None),
        ("deepprune", "linear_own_states"),
        ("random_traces", "linear_own_states"),
        ("consensus_equal_tokens", "linear_own_states"),
        ("deepprune", "random"),
    ]
    full = row(combined, "consensus").tokens.generated
    parameters = combined.parameters["base"]
    for entry in combined.rows:
        assert set(as_json(entry)) == ROW_KEYS
        tokens = entry.tokens
        spent = parameters * (tokens.generated + tokens.overrun) + tokens.judge_head
        assert entry.saving_gross == pytest.approx(1 - tokens.generated / full, abs=1e-6)
        assert entry.saving_net == pytest.approx(1 - spent / (parameters * full), abs=1e-6)
        assert entry.accuracy_ci95[0] <= entry.accuracy <= entry.accuracy_ci95[1]
    assert row(combined, "consensus").saving_net == 0
    assert row(combined, "deepprune", "linear_own_states").wall_s is None, "two of its four problems ran live"
    assert combined.config["n"] == 8 and "torch" in combined.versions


def test_equal_tokens_cost_what_deepprune_costs_with_its_judge(reference) -> None:
    pruned = row(reference[1], "deepprune", "linear_own_states")
    equal = row(reference[1], "consensus_equal_tokens", "linear_own_states")
    assert pruned.tokens.judge_head > 0
    assert equal.saving_net >= pruned.saving_net - 1e-6, "no more than DeepPrune spent"


def test_live_runs_equal_their_replay(reference) -> None:
    assert reference[1].live_equals_replay == LiveEquality(2, 2, {}, True)


def test_examples_hold_the_text_of_every_trace(reference) -> None:
    examples = read_examples(reference[0])
    problems = {problem.problem_id: problem for problem in read_explorer(reference[0])}
    assert len(examples) == 2 and len(problems) == 4
    for (model, problem), texts in examples.items():
        assert len(texts) == 8 and all(texts)
        traced = problems[problem].models[model]
        voted = [run.survivors for run in traced.runs if run.method == "deepprune"]
        assert voted and all(
            run.kept[index] == traced.n_tokens[index] for run in traced.runs for index in run.survivors
        )


def test_a_second_run_does_nothing_again_and_agrees(reference, inputs) -> None:
    folder, first = reference
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".npz", ".jsonl")}
    assert comparable(run(config(*inputs, folder))) == comparable(first)
    assert files == {path: path.stat().st_mtime_ns for path in files}


BASELINES = ["adaptive_consistency", "early_stopping", "deepconf_low", "deepconf_high", "embedding"]


@pytest.fixture(scope="module")
def with_baselines(tmp_path_factory: pytest.TempPathFactory, inputs: tuple[Path, Path, Path]) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    run(baselines_config(*inputs, folder))
    return folder


def baselines_config(*arguments: Any, **changes: Any) -> CombinedConfig:
    methods = ["single", "consensus", "deepprune", "random_traces", "consensus_equal_tokens", *BASELINES]
    options = {"top_logprobs": 20, "deepconf_warmup": 3, "deepconf_window": 4, "similarity_threshold": 0.8, "live": 0}
    return config(*arguments, methods=methods, **options | changes)


def test_baselines_stand_beside_deepprune(with_baselines: Path, reference) -> None:
    combined = read_table(with_baselines)
    full = row(combined, "consensus").tokens
    for name in BASELINES:
        entry = row(combined, name, "tfidf" if name == "embedding" else None)
        assert 0 < entry.tokens.generated <= full.generated
        assert entry.accuracy <= entry.oracle_accuracy <= 1
        equal = entry.controls["consensus_equal_tokens"]
        assert equal.generated <= entry.tokens.generated + 1e-3
        assert equal.difference == pytest.approx(entry.accuracy - equal.accuracy)
        sequential = name in ("adaptive_consistency", "early_stopping")
        assert ("random_traces" in entry.controls) != sequential
    plain = [entry for entry in comparable(combined) if entry.method not in BASELINES]
    assert plain == comparable(reference[1]), "the same traces, with confidences or without"


def test_variants_of_the_rule_stand_beside_it_and_run_live_too(reference, inputs, tmp_path: Path) -> None:
    adaptive = {"start_batch": 3, "start_confidence": 0.6, "lead": 1}
    variants = {"adaptive": adaptive, "overlapping": {"mode": "overlap"}}
    combined = run(config(*inputs, tmp_path, variants=variants))
    plain = row(combined, "deepprune", "linear_own_states")
    assert plain == replace(row(reference[1], "deepprune", "linear_own_states"), wall_s=plain.wall_s)
    adaptive = row(combined, "deepprune_adaptive", "linear_own_states")
    assert adaptive.tokens.generated < plain.tokens.generated
    assert adaptive.tokens.judge_head < plain.tokens.judge_head, "cuts that were not needed"
    assert set(adaptive.controls) == {"random_traces", "consensus_equal_tokens"}
    assert row(combined, "deepprune_overlapping", "random")
    live = combined.live_equals_replay
    assert live.equal == live.problems == 3 * 2, live.unequal
    labels = [difference.a.method for difference in combined.differences]
    assert set(labels) == {"deepprune", "deepprune_adaptive", "deepprune_overlapping"}


def test_deepprune_is_compared_with_every_rival(with_baselines: Path) -> None:
    combined = read_table(with_baselines)
    found = {d.b.method: d.difference for d in combined.differences}
    ours = row(combined, "deepprune", "linear_own_states").accuracy
    for name in set(BASELINES) - {"embedding"}:
        assert found[name] == pytest.approx(ours - row(combined, name).accuracy)


def test_deepconf_refuses_traces_without_confidences(reference, inputs) -> None:
    with pytest.raises(InputError, match=r"'sampling\.top_logprobs' is 0 there and 20 now.*another output folder"):
        run(baselines_config(*inputs, reference[0]))


def test_other_windows_and_thresholds_reuse_the_traces(with_baselines: Path, inputs) -> None:
    files = {path: path.stat().st_mtime_ns for path in with_baselines.rglob("*.safetensors")}
    run(baselines_config(*inputs, with_baselines, deepconf_window=2, deepconf_consensus=None, early_window=2))
    assert files == {path: path.stat().st_mtime_ns for path in files}


def test_a_window_that_few_traces_fill_is_told(
    inputs, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture
) -> None:
    model, judge, _ = inputs
    embedded = repository / "trainers" / "embedded_model"  # its traces end by themselves, after about 200 tokens
    options = {"methods": ["single", "deepconf_low"], "judges": {}, "problem_count": 2, "n": 4, "live": 0}
    options |= {"top_logprobs": 20, "deepconf_warmup": 2, "max_tokens": 450, "dtype": "float32"}
    for window, told in ((4, False), (400, True)):
        run(config(embedded, judge, "arithmetic:combined", tmp_path / "out", deepconf_window=window, **options))
        said = " ".join(capsys.readouterr().out.split())
        assert (f"of the traces are shorter than deepconf_window ({window} tokens)" in said) is told
    too_wide = {"deepconf_window": 451}
    with pytest.raises(InputError, match="'deepconf_window' has the value 451, more than any trace can have"):
        config(embedded, judge, "arithmetic:combined", tmp_path / "out", **options, **too_wide)
    config(
        model, judge, "arithmetic:combined", tmp_path / "out", problem_count=2, **too_wide
    )  # no method has windows


def test_kept_states_serve_another_judge(reference, inputs, tmp_path: Path) -> None:
    model, judge, problems = inputs
    once = run(config(model, judge, problems, tmp_path / "out", keep_states=True))
    assert row(once, "deepprune", "linear_own_states") == row(reference[1], "deepprune", "linear_own_states")
    assert once.live_equals_replay.equal == 2
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    other = make_judge(model, tmp_path / "other", seed=1)
    judges = {"base": [str(other), str(judge)]}
    both = run(config(model, judge, problems, tmp_path / "out", keep_states=True, judges=judges, live=0))
    labels = [r.judge for r in both.rows if r.method == "deepprune"]
    assert labels == ["linear_own_states-other", "linear_own_states-judge"]
    assert files == {path: path.stat().st_mtime_ns for path in files}
    with pytest.raises(InputError, match="keep_states: true"):
        run(config(model, judge, problems, tmp_path / "new", judges=judges))


def test_other_rules_reuse_the_traces(reference, inputs) -> None:
    folder = reference[0]
    traces = (folder / "base" / "traces" / "traces-rank0.jsonl").stat().st_mtime_ns
    stricter = run(config(*inputs, folder, tau=0.9, live=0))
    assert (folder / "base" / "traces" / "traces-rank0.jsonl").stat().st_mtime_ns == traces
    assert stricter.live_equals_replay is None


def test_an_interrupted_run_ends_as_if_it_had_never_stopped(reference, inputs, tmp_path: Path) -> None:
    """Cut off in the middle of a line, with scores of half the problems."""
    run(config(*inputs, tmp_path))
    traces = tmp_path / "base" / "traces" / "traces-rank0.jsonl"
    lines = traces.read_bytes().splitlines(keepends=True)
    traces.write_bytes(b"".join(lines[:11]) + lines[11][:40])
    for path in sorted(tmp_path.rglob("*.npz"))[:5]:
        path.unlink()
    for name in ("combined.json", "examples.json"):
        (tmp_path / name).unlink()
    assert comparable(run(config(*inputs, tmp_path))) == comparable(reference[1])


@pytest.mark.slow
def test_a_killed_process_is_no_loss(reference, inputs, tmp_path: Path, repository: Path) -> None:
    path, out = tmp_path / "config.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(settings(*inputs, out)))
    command = [sys.executable, "eval/combined.py", "--config", str(path)]
    process = subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.rglob("*.safetensors")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert comparable(read_table(out)) == comparable(reference[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["single", "deepprun"]}, "deepprun"),
        ({"methods": ["single", "random_traces"]}, "add deepprune"),
        ({"n": 1}, "key 'n' has the value 1"),
        ({"models": {"base": "outputs/nowhere"}}, "no such folder"),
        ({"judges": {}}, "has none for the model 'base'"),
        ({"judges": {"base": "outputs/nowhere"}}, "no judge.json"),
        ({"judges": {"base": "random", "pruned": "random"}}, "names the model 'pruned'"),
        ({"tau": 1.5}, "tau"),
        ({"methods": ["deepconf_low"]}, "add top_logprobs: 20"),
        (
            {"methods": ["deepconf_low"], "top_logprobs": 20, "deepconf_window": 4},
            "'deepconf_warmup' has the value 16",
        ),
        ({"methods": ["embedding"], "similarity": "random"}, "which is no similarity"),
        ({"methods": ["embedding"], "similarity": "outputs/nowhere"}, "key 'similarity'.* no judge.json"),
        ({"methods": ["early_stopping"], "early_window": 0}, "'early_window' has the value 0"),
        ({"adaptive_threshold": 95}, "'adaptive_threshold' has the value 95"),
        ({"engine": "openai", "engine_options": {"base_url": "http://localhost:1/v1"}}, "own states"),
        ({"live": -1}, "live"),
        ({"tolerance_points": -1.0}, "'tolerance_points' has the value -1.0"),
        ({"prices": {"bose": {"prompt": 1, "cached": 0, "generated": 1}}}, "'prices' names 'bose'"),
        ({"variants": {"fast": {"led": 2}}}, "key 'variants.fast'.*led"),
        ({"variants": {"fast": {"lead": 2}}, "methods": ["single"]}, "key 'variants'"),
    ],
)
def test_bad_input_ends_before_any_work(inputs, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(config(*inputs, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_run_is_refused_and_left_alone(reference, inputs) -> None:
    folder = reference[0]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        InputError, match=r"settings\.json: key 'temperature' is 1\.0 there and 0\.5 here.*output_dir"
    ):
        run(config(*inputs, folder, temperature=0.5))
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_judge_of_another_model_is_refused(inputs, tmp_path: Path) -> None:
    from tests.tiny import build_tiny_model

    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="train a judge for that"):
        run(config(*inputs, tmp_path / "out", models={"base": str(other)}))
    with pytest.raises(InputError, match="train a judge for that"):
        plan_combined(config(*inputs, tmp_path / "out", models={"base": str(other)}, dry_run=True))


@pytest.mark.parametrize("kind", ["linear", "pairwise"])
def test_judges_that_read_pay_for_their_tokens(inputs, tmp_path: Path, kind: str) -> None:
    judge = make_reading_judge(kind, inputs[0], tmp_path / "judge")
    combined = run(config(inputs[0], judge, inputs[2], tmp_path / "out", n=4, live=True))
    assert combined.live_equals_replay == LiveEquality(4, 4, {}, True)
    pruned = row(combined, "deepprune", kind)
    assert pruned.wall_s == combined.live[0].live.wall_s > 0, "all of its problems ran live"
    assert row(combined, "deepprune", "random").wall_s is None
    assert pruned.tokens.judge_prefill > 0
    assert pruned.saving_net < pruned.saving_gross


def test_untrained_judges_need_no_folder(inputs, tmp_path: Path) -> None:
    chosen = list(UNTRAINED)
    combined = run(config(*inputs, tmp_path, judges={"base": chosen}, cut_k=2, live=1))
    assert [r.judge for r in combined.rows if r.method == "deepprune"] == chosen


def test_an_unknown_key_names_itself(inputs, tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(settings(*inputs, tmp_path / "out", problem_cuont=3)))
    command = [sys.executable, "eval/combined.py", "--config", str(path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "did you mean 'problem_count'" in done.stderr
    assert "Traceback" not in done.stderr
