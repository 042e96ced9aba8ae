"""Measuring models: figures from stored samples, resumption, sharding, and the messages of the user's command."""

import subprocess
import sys
from pathlib import Path

import pytest

from engines.trace_folder import TraceFolderWriter, read_trace_folder
from eval.single import main
from eval.single_figures import measure
from runtime.errors import InputError
from runtime.files import read_json, read_jsonl, write_text
from tasks.records import Problem, Trace

PROBLEMS = [Problem(f"p{index}", f"question {index}", str(index)) for index in range(3)]
CONFIG = """
problems: arithmetic:validation
problem_count: 5
output_dir: {output}
samples: 3
prompt_family: plain
temperature: 1.0
top_p: 1.0
max_tokens: {cap}
dtype: float32
rows: 8
models: {{tiny: {model}}}
"""


def store(folder: Path, answers: dict[str, list[str]], length: int = 10) -> None:
    with TraceFolderWriter(folder, {"made": "by hand"}) as writer:
        for problem in PROBLEMS:
            for sample, answer in enumerate(answers[problem.id]):
                reason = "stop" if answer else "length"
                text = f"<think>\n</think>\n\n\\boxed{{{answer}}}" if answer else "<think>\nhm"
                tokens = length * (sample + 1)
                trace = Trace(
                    problem.id, problem.problem, problem.answer, sample, text, "m", (1,) * tokens, tokens, reason
                )
                writer.add(trace)


def test_figures_are_means_over_problems_of_all_samples(tmp_path) -> None:
    store(tmp_path, {"p0": ["0", "0"], "p1": ["1", "9"], "p2": ["9", ""]})
    figures = measure(tmp_path, PROBLEMS, samples=2, thinking=False)
    assert figures.pass_at_1 == pytest.approx(0.5)
    assert figures.mean_tokens == 15.0  # truncated and wrong ones count as well
    assert figures.truncated_share == pytest.approx(1 / 6)
    assert figures.pass_at_1_ci95[0] <= 0.5 <= figures.pass_at_1_ci95[1]
    verdicts = {(r["problem_id"], r["sample"]): r["correct"] for _, r in read_jsonl(tmp_path / "results.jsonl")}
    assert verdicts == {
        ("p0", 0): True, ("p0", 1): True, ("p1", 0): True, ("p1", 1): False, ("p2", 0): False, ("p2", 1): False
    }  # fmt: skip


def test_more_samples_than_asked_for_do_not_count(tmp_path) -> None:
    store(tmp_path, {"p0": ["0", "9"], "p1": ["1", "9"], "p2": ["2", "9"]})
    assert measure(tmp_path, PROBLEMS, samples=1, thinking=False).pass_at_1 == 1.0


def test_a_missing_sample_is_named(tmp_path) -> None:
    store(tmp_path, {"p0": ["0"], "p1": ["1"], "p2": ["2"]})
    with pytest.raises(InputError, match="sample 1 of problem 'p0' is missing"):
        measure(tmp_path, PROBLEMS, samples=2, thinking=False)


@pytest.fixture
def run_single(config, monkeypatch):
    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["single.py", "--config", str(config), *arguments])
        main()

    return run


@pytest.fixture
def config(tmp_path, tiny_model) -> Path:
    write_text(tmp_path / "c.yaml", CONFIG.format(output=tmp_path / "out", model=tiny_model, cap=20))
    return tmp_path / "c.yaml"


def test_a_run_that_was_cut_off_gives_the_same_samples(run_single, tmp_path) -> None:
    run_single()
    file = tmp_path / "out/tiny/traces-rank0.jsonl"
    whole, summary = sorted(file.read_text().splitlines()), read_json(tmp_path / "out/summary.json")
    assert len(whole) == 15
    kept = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(kept[:6]) + kept[6][:20])  # as a kill leaves it
    run_single()
    assert sorted(file.read_text().splitlines()) == whole
    assert read_json(tmp_path / "out/summary.json") == summary
    entry = summary["models"]["tiny"]
    assert (entry["samples"], entry["problems"]) == (3, 5)
    assert 1 <= entry["mean_tokens"] <= 20


@pytest.mark.slow
def test_two_processes_give_the_samples_of_one(config, run_single, tmp_path, repository) -> None:
    run_single()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["--main_process_port", "0", "eval/single.py", "--config", str(config)]
    two = tmp_path / "two"
    subprocess.run([*command, "--output_dir", str(two)], cwd=repository, check=True)
    assert sorted(path.name for path in two.glob("tiny/traces-*")) == ["traces-rank0.jsonl", "traces-rank1.jsonl"]

    def samples(folder: Path) -> dict[tuple[str, int], tuple[int, ...] | None]:
        entries = read_trace_folder(folder / "tiny")
        return {(e.problem.id, s.trace.sample): s.trace.token_ids for e in entries for s in e.traces}

    assert samples(two) == samples(tmp_path / "out")
    one, both = (read_json(folder / "summary.json")["models"] for folder in (tmp_path / "out", two))
    assert one == both


def test_another_cap_in_the_same_folder_is_refused_and_nothing_is_touched(run_single, tmp_path, capsys) -> None:
    run_single()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        run_single("--max_tokens", "30")
    assert ended.value.code == 2
    assert "max_tokens" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_folder_that_is_no_model_is_named(run_single, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run_single("--models", f"{{mine: {tmp_path}}}")
    assert ended.value.code == 2
    assert "key 'models.mine'" in capsys.readouterr().err
