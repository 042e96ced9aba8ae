"""Measuring models: figures from stored samples, resumption, sharding, and the messages of the user's command."""

import csv
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eval.budget_forcing import BudgetForcingConfig
from eval.one_model.figures import Graded, differences, figures_of, grade_folder, macro_figures
from eval.one_model.report import read_summary
from eval.one_model.sampling import SingleConfig, check_inputs, deal, for_each_model, longest_first
from eval.single import main
from eval.table.config import CombinedConfig
from eval.traces.benchmarks import benchmark_name
from eval.traces.sampling import check_models, prompt_ids
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import TraceFolderWriter, read_trace_folder
from secateur.runtime.config import parse_config, read_yaml
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder, read_json, read_jsonl, write_text
from secateur.runtime.process import Ranks
from secateur.tasks.answers.equality import GRADER_VERSION
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.graded import GradedSample, write_results
from secateur.tasks.prompts import Prompt, encode_prompt
from secateur.tasks.records import Problem, Trace
from tests.next_words import next_words
from tests.tiny import copy_with_context

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


def test_what_a_model_cannot_take_is_said_before_it_is_opened(tiny_model, tmp_path, capsys) -> None:
    """A context that the cap does not fit into, one that a prompt fills, and an end that is not the template's."""
    short = copy_with_context(tiny_model, tmp_path / "short", 64)
    (short / "model.safetensors").unlink()  # nothing of this needs weights
    config = SingleConfig(
        models={"m": str(short)}, output_dir="x", problems="arithmetic:test", prompt_family="plain", max_tokens=60
    )
    check_models(config, [Problem("a", "1+1?", "2")], say_caps=True)
    shown = capsys.readouterr().out.replace("\n", " ")
    longest = len(prompt_ids(load_tokenizer(short), Problem("a", "1+1?", "2"), config.prompt))
    assert (
        f"'max_tokens' has the value 60, of which {64 - longest} fit behind the longest prompt into the 64" in shown
    )
    with pytest.raises(InputError, match="fills the model's context of 64"):
        check_models(config, [Problem("a", "1+1?", "2"), Problem("b", "x" * 64, "2")])
    write_text(short / "generation_config.json", '{"eos_token_id": 0}')
    check_models(replace(config, max_tokens=10), [Problem("a", "1+1?", "2")], say_caps=True)
    assert not capsys.readouterr().out  # config.json and tokenizer still name the right one
    with pytest.raises(InputError, match="'device' has the value 'cuda:99', but GPUs that can be used here: "):
        check_models(replace(config, device="cuda:99"), [])
    with pytest.raises(InputError, match="'device' has the value 'gpu'; give auto, cpu, cuda or cuda:N"):
        check_models(replace(config, device="gpu"), [])


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_the_check_before_a_round_sees_that_an_engine_is_not_installed(tmp_path, tiny_model) -> None:
    config = SingleConfig(
        models={"m": str(tiny_model)},
        problems="arithmetic:test",
        problem_count=2,
        output_dir=str(tmp_path),
        engine="vllm",
    )
    with pytest.raises(InputError, match="engine 'vllm': vllm is not installed"):
        check_inputs(replace(config, check="machine"))
    check_inputs(replace(config, check="inputs"))  # of a plan for another machine


PROMPTS = {"p0": 5, "p1": 6, "p2": 7}


def grade(folder: Path, samples: int, votes: bool = False) -> Graded:
    return grade_folder(folder, PROBLEMS, samples, extract_answer, prompt_tokens=PROMPTS, votes=votes)


def test_figures_are_means_over_problems_of_all_samples(tmp_path) -> None:
    store(tmp_path, {"p0": ["0", "0"], "p1": ["1", "9"], "p2": ["9", ""]})
    figures = figures_of(grade(tmp_path, 2))
    assert figures.pass_at_1 == pytest.approx(0.5)
    assert figures.mean_tokens == 15.0  # truncated and wrong ones count as well
    assert figures.truncated_share == pytest.approx(1 / 6)
    assert figures.pass_at_1_ci95[0] <= 0.5 <= figures.pass_at_1_ci95[1]
    assert figures.pass_at_k == {1: pytest.approx(0.5), 2: pytest.approx(2 / 3)}
    assert (figures.prompt_tokens, figures.generated_tokens) == (18, 90)
    assert figures.majority is None
    verdicts = {(r["problem_id"], r["sample"]): r["correct"] for _, r in read_jsonl(tmp_path / "results.jsonl")}
    assert verdicts == {
        ("p0", 0): True, ("p0", 1): True, ("p1", 0): True, ("p1", 1): False, ("p2", 0): False, ("p2", 1): False
    }  # fmt: skip


def test_lengths_of_right_and_wrong_samples_are_told_apart(tmp_path) -> None:
    store(tmp_path, {"p0": ["0", "0"], "p1": ["1", "9"], "p2": ["9", ""]})
    length = figures_of(grade(tmp_path, 2)).length
    assert (length["right"].samples, length["wrong"].samples) == (3, 3)
    assert length["right"].mean == pytest.approx((10 + 20 + 10) / 3)
    assert length["right"].percentiles == {20: 10, 40: 10, 50: 10, 60: 10, 80: 20, 90: 20, 99: 20}
    low, high = length["wrong"].percentiles_ci95[50]
    assert 10 <= low <= length["wrong"].percentiles[50] <= high <= 20
    nobody = Graded([[True]], [[7]], [[False]], [3])
    assert figures_of(nobody).length["wrong"].mean is None


def test_the_majority_is_right_where_most_answers_are(tmp_path) -> None:
    store(tmp_path, {"p0": ["9", "0", "0"], "p1": ["8", "8", "1"], "p2": ["", "", "2"]})
    assert grade(tmp_path, 3, votes=True).right_votes == [True, False, True]


def test_more_samples_than_asked_for_do_not_count(tmp_path) -> None:
    store(tmp_path, {"p0": ["0", "9"], "p1": ["1", "9"], "p2": ["2", "9"]})
    assert figures_of(grade(tmp_path, 1)).pass_at_1 == 1.0


def test_a_missing_sample_is_named(tmp_path) -> None:
    store(tmp_path, {"p0": ["0"], "p1": ["1"], "p2": ["2"]})
    with pytest.raises(InputError, match="sample 1 of problem 'p0' is missing"):
        grade(tmp_path, 2)


def graded(right: list[list[bool]], length: int) -> Graded:
    lengths = [[length + number for _ in group] for number, group in enumerate(right)]
    return Graded(right, lengths, [[False] * len(group) for group in right], [4] * len(right))


def test_the_mean_over_benchmarks_weighs_each_the_same() -> None:
    many, few = graded([[True]] * 9, 10), graded([[False]], 30)
    macro = macro_figures({"many": many, "few": few})
    assert macro.pass_at_1 == pytest.approx(0.5) and macro.benchmarks == 2
    assert macro.mean_tokens == pytest.approx((14 + 30) / 2)


def test_a_model_compared_with_itself_differs_by_exactly_nothing() -> None:
    mine = {"a": graded([[True, False], [False, False], [True, True]], 10), "b": graded([[True, False]], 5)}
    found = differences(mine, mine)
    assert found["a"].pass_at_1 == found["macro"].mean_tokens == (0, 0, 0)
    assert found["a"].tokens_ratio == (1, 1, 1) and found["macro"].tokens_ratio is None
    longer = {"a": graded([[True, True]] * 3, 20), "b": graded([[True, True]], 10)}
    changed = differences(mine, longer)
    assert changed["a"].mean_tokens == (10, 10, 10)  # paired: what problems have in common falls out
    assert changed["a"].pass_at_1[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("source", "name"),
    [("data/aime24.jsonl", "aime24"), ("arithmetic:test", "arithmetic_test"), ("aime22+aime23", "aime22+aime23")],
)
def test_a_lone_source_names_its_benchmark(source: str, name: str) -> None:
    assert benchmark_name(source) == name


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
    file = tmp_path / "out/tiny/arithmetic_validation/traces-rank0.jsonl"
    everything, summary = sorted(file.read_text().splitlines()), read_summary(tmp_path / "out")
    assert len(everything) == 15
    kept = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(kept[:6]) + kept[6][:20])  # as a kill leaves it
    verdicts = file.with_name("results.jsonl")
    graded = verdicts.read_text()
    write_text(verdicts, graded.replace("false", "true"))  # those of another grader, say, are made anew
    run_single()
    assert sorted(file.read_text().splitlines()) == everything
    assert read_summary(tmp_path / "out") == summary
    assert verdicts.read_text() == graded
    entry = summary.models["tiny"]["arithmetic_validation"]
    assert (entry.samples, entry.problems) == (3, 5) and list(entry.pass_at_k) == [1, 2]
    assert 1 <= entry.mean_tokens <= 20
    assert summary.grader == GRADER_VERSION and summary.macro == {}


def test_several_benchmarks_and_models_in_one_run(run_single, tmp_path, tiny_model, capsys) -> None:
    problems = "{first: 'arithmetic:validation', second: 'arithmetic:test'}"
    models = f"{{one: {tiny_model}, other: {tiny_model}}}"
    arguments = ["--problems", problems, "--samples", "{first: 2, second: 3}", "--models", models]
    run_single(*arguments, "--problem_count", "{first: 4, second: 2}", "--pass_k", "[2]")
    summary = read_summary(tmp_path / "out")
    sizes = {name: (entry.problems, entry.samples) for name, entry in summary.models["one"].items()}
    assert sizes == {"first": (4, 2), "second": (2, 3)}
    assert summary.models["one"] == summary.models["other"]  # the same weights and seeds
    assert summary.differences["other"]["first"].mean_tokens == (0, 0, 0)
    assert summary.macro["one"].benchmarks == 2
    with open(tmp_path / "out/summary.csv", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["model"], row["benchmark"]) for row in rows[:3]] == [
        ("one", "first"), ("one", "second"), ("one", "macro")
    ]  # fmt: skip
    assert float(rows[0]["mean_tokens"]) == summary.models["one"]["first"].mean_tokens
    assert (tmp_path / "out/lengths.png").read_bytes().startswith(b"\x89PNG")
    paths = (str(tmp_path), str(tiny_model))
    said = capsys.readouterr().out
    lines = [line for line in said.partition("next: ")[0].splitlines() if not any(path in line for path in paths)]
    assert max(map(len, lines)) <= 118  # the lines of differences are the widest
    assert f"open: {tmp_path / 'out/lengths.png'}\n" in said
    table = parse_config(CombinedConfig, next_words(said, "table"))
    assert table.models == {"one": str(tiny_model), "other": str(tiny_model)} and table.problem_count["first"] == 4


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("eval/single_r1_distill_qwen_1.5b", SingleConfig),
        ("eval/budget_forcing_r1_distill_qwen_1.5b", BudgetForcingConfig),
        ("demo/single", SingleConfig),
        ("demo/budget_forcing", BudgetForcingConfig),
    ],
)
def test_shipped_configs_are_accepted(
    repository: Path, tiny_model: Path, file: str, kind: type[SingleConfig]
) -> None:
    arguments = ["--config", str(repository / f"configs/{file}.yaml"), "--models", f"{{base: {tiny_model}}}"]
    config = parse_config(kind, [*arguments, "--engine", "transformers", "--engine_options", "{}"])
    assert all(config.samples_of(name) >= 4 for name in config.benchmarks)
    if "r1_distill" in file:
        assert (config.samples_of("aime24"), config.samples_of("math500"), config.max_tokens) == (64, 16, 32000)
        assert (config.temperature, config.top_p, config.prompt_family) == (0.6, 0.95, "deepseek")


def test_budget_forcing_continues_the_samples_of_its_sibling(repository: Path) -> None:
    """The same settings in the same folder: what eval/single.py sampled is not sampled again."""
    for folder, names in (("eval", ("single_r1_distill_qwen_1.5b", "budget_forcing_r1_distill_qwen_1.5b")),
                          ("demo", ("single", "budget_forcing"))):  # fmt: skip
        one, other = (read_yaml(repository / "configs" / folder / f"{name}.yaml") for name in names)
        keys = (
            "models",
            "output_dir",
            "prompt_family",
            "temperature",
            "top_p",
            "max_tokens",
            "dtype",
            "seed",
            "engine",
        )
        assert {key: one.get(key) for key in keys} == {key: other.get(key) for key in keys}
        assert other["problems"].items() <= one["problems"].items()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--samples", "{other: 3}"], "key 'samples' names the benchmark 'other'"),
        (["--samples", "0"], "key 'samples' has the value 0"),
        (["--problems", "{a/b: 'arithmetic:test'}"], "calls a benchmark 'a/b'"),
        (["--models", "{../x: m}"], "key 'models' has the name '../x': a folder is called by it"),
        (["--problems", "{a: 'arithmetic:test', b: 'arithmetic:test'}", "--samples", "{a: 1}"], "no number for the"),
        (["--pass_k", "[4]"], "key 'pass_k' holds 4"),
    ],
)
def test_keys_that_do_not_fit_are_named(run_single, capsys, arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run_single(*arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("models", "processes"), [(1, 1), (1, 8), (3, 2), (9, 8), (16, 8), (5, 7)])
def test_models_are_dealt_so_that_every_problem_of_each_is_sampled_once(models: int, processes: int) -> None:
    names, problems = [f"step-{index}" for index in range(models)], list(range(60))
    dealt = [deal(names, Ranks(rank, processes)) for rank in range(processes)]
    for name in names:
        shares = [share.shard(problems) for mine in dealt for other, share in mine if other == name]
        assert sorted(problem for share in shares for problem in share) == problems
    works = [sum(len(share.shard(problems)) for _, share in mine) for mine in dealt]
    assert max(works) - min(works) <= len(problems) / 2
    assert max(len(mine) for mine in dealt) == -(-models // processes)


def test_problems_with_long_traces_come_first_and_unknown_ones_before_them(embedded_model, tmp_path) -> None:
    models, output = {"tiny": str(embedded_model)}, str(tmp_path / "out")
    config = SingleConfig(models=models, problems="arithmetic:test", output_dir=output)
    tokens = (("a", 5), ("b", 90), ("a", 15), ("c", 50))
    write_results(
        tmp_path / "out/start/bench/results.jsonl", [GradedSample(a, 0, True, n, "stop") for a, n in tokens]
    )
    problems = [Problem(name, name, "1") for name in ("a", "b", "new", "c")]
    found = longest_first(config, "bench", problems)
    assert [problem.id for problem in found] == ["new", "b", "c", "a"]
    damaged = tmp_path / "out/start/bench/results.jsonl"
    write_text(damaged, damaged.read_text().replace("problem_id", "problfm_id"))
    assert [problem.id for problem in longest_first(config, "bench", problems)] == [
        problem.id for problem in problems
    ]


def note_process(config: SingleConfig, name: str, problems: dict[str, list[Problem]]) -> None:
    """Work that says where it is done; the model called "bad" is bad input."""
    if name == "bad":
        raise InputError("a bad model")
    write_text(Path(config.output_dir) / f"{name}.pid", str(os.getpid()))


@pytest.mark.slow
def test_with_vllm_every_model_gets_a_process_and_a_failure_ends_the_run(tmp_path, tiny_model) -> None:
    models = dict.fromkeys(("one", "bad", "never"), str(tiny_model))
    config = SingleConfig(models=models, problems="arithmetic:test", output_dir=str(tmp_path), engine="vllm")
    with pytest.raises(SystemExit) as ended:
        for_each_model(note_process, config, {})
    assert ended.value.code == 2
    assert int((tmp_path / "one.pid").read_text()) != os.getpid()
    assert not (tmp_path / "never.pid").exists()


@pytest.mark.slow
def test_two_processes_give_the_samples_of_one(config, run_single, tmp_path, repository) -> None:
    run_single()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["--main_process_port", "0", "eval/single.py", "--config", str(config)]
    two = tmp_path / "two"
    subprocess.run([*command, "--output_dir", str(two)], cwd=repository, check=True)
    assert sorted(path.name for path in two.glob("tiny/*/traces-*")) == ["traces-rank0.jsonl", "traces-rank1.jsonl"]

    def samples(folder: Path) -> dict[tuple[str, int], tuple[int, ...] | None]:
        entries = read_trace_folder(folder / "tiny" / "arithmetic_validation")
        return {(e.problem.id, s.trace.sample): s.trace.token_ids for e in entries for s in e.traces}

    assert samples(two) == samples(tmp_path / "out")
    one, both = (read_summary(folder).models for folder in (tmp_path / "out", two))
    assert one == both


def test_a_second_launch_on_one_folder_is_refused_and_stores_nothing(config, tmp_path, repository) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["--main_process_port", "0", "eval/single.py", "--config", str(config)]
    with hold_folder(tmp_path / "out"):
        other = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert other.returncode != 0 and f"process {os.getpid()} on" in other.stderr
    assert not list((tmp_path / "out").rglob("traces-*"))


def test_another_cap_in_the_same_folder_is_refused_and_nothing_is_touched(run_single, tmp_path, capsys) -> None:
    run_single()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        run_single("--max_tokens", "30")
    assert ended.value.code == 2
    assert "max_tokens" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_own_sentences_stand_around_the_problem_and_in_the_settings(run_single, tmp_path, tiny_model, capsys) -> None:
    """Traces under another prompt do not join; an empty instruction is another than the family's."""
    own = ["--prompt_family", "qwen", "--instruction", "Now.", "--system_prompt", "Be brief."]
    run_single(*own)
    folder = tmp_path / "out/tiny/arithmetic_validation"
    stored = read_json(folder / "settings.json")
    assert [stored[key] for key in ("prompt_family", "system_prompt", "instruction")] == ["qwen", "Be brief.", "Now."]
    tokenizer, figures = load_tokenizer(tiny_model), read_summary(tmp_path / "out").models["tiny"]
    messages = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{entry.problem.problem} Now."}]
        for entry in read_trace_folder(folder)
    ]
    assert figures["arithmetic_validation"].prompt_tokens == sum(
        len(encode_prompt(tokenizer, one)) for one in messages
    )
    for key, value in {"instruction": "''", "system_prompt": "Be long."}.items():
        with pytest.raises(SystemExit):
            run_single(*own, f"--{key}", value)
        assert f"key '{key}' is" in capsys.readouterr().err


def test_a_command_that_failed_before_its_first_trace_can_be_corrected(run_single, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        run_single("--instruction", "word " * 2048)
    assert "fills the model's context" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("settings.json"))
    run_single("--instruction", "Now.")


def test_a_cap_beyond_the_context_is_lowered_and_said(run_single, tmp_path, tiny_model) -> None:
    """Each completion ends where the context does; what was asked for stands in the settings, so a run goes on."""
    folder = copy_with_context(tiny_model, tmp_path / "short", 110)
    short = ["--models", f"{{tiny: {folder}}}", "--max_tokens", "32000"]
    with pytest.warns(
        RuntimeWarning, match="max_tokens 32,000 is more than the model's context of 110 tokens"
    ) as said:
        run_single(*short)
    assert len(said) == 1
    tokenizer, folder = load_tokenizer(tiny_model), tmp_path / "out/tiny/arithmetic_validation"
    ends = [
        (
            len(prompt_ids(tokenizer, entry.problem, Prompt("plain"))) + stored.trace.n_tokens,
            stored.trace.finish_reason,
        )
        for entry in read_trace_folder(folder)
        for stored in entry.traces
    ]
    assert {length for length, reason in ends if reason == "length"} == {110} and max(ends)[0] == 110
    assert read_json(folder / "settings.json")["sampling"]["max_tokens"] == 32000
    run_single(*short)


def test_a_folder_that_is_no_model_is_named(run_single, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run_single("--models", f"{{mine: {tmp_path}}}")
    assert ended.value.code == 2
    assert "key 'models.mine'" in capsys.readouterr().err
