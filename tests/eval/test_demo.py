"""The demo's driver: its stages, its folder, and that its commands are what the scripts accept."""

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eval.demo import DEMO, DemoConfig
from eval.one_model.figures import LengthFigures, ModelFigures
from eval.one_model.report import Summary, write_summary
from eval.one_model.sampling import SingleConfig
from eval.prune import PruneConfig
from eval.report.runs import read_run
from eval.report_runs import report_inputs
from eval.run_summary import beside_the_control, read_run_summary, show_summary, write_run_summary
from eval.stages import Stage, StageRunner
from eval.table.config import CombinedConfig
from eval.traces.collect import CollectConfig
from eval.whole_run import WholeRun
from schedules.config import read_run_config
from secateur.engines.trace_folder import TraceFolderWriter
from secateur.results import read_table
from secateur.runtime.config import parse_config, read_yaml
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json
from secateur.tasks.records import Trace
from tests.judge_records import describe_judge, measure_judge
from tests.report_runs import make_combined, make_rounds
from trainers.judges.config import JudgeConfig


def demo_of(**keys: object) -> WholeRun:
    return WholeRun(DemoConfig(**keys), DEMO)


def shell(*lines: str) -> Stage:
    return Stage("stage", "A stage", {f"part{i}": ["sh", "-c", line] for i, line in enumerate(lines)})


def test_a_stage_that_ended_well_is_done_and_its_output_is_kept(tmp_path: Path) -> None:
    runner, stage = StageRunner(tmp_path), shell("echo one", "echo two")
    assert not runner.is_done(stage)
    runner.run(stage, "[1/1]")
    assert runner.is_done(stage) and StageRunner(tmp_path).is_done(stage)
    assert not runner.is_done(shell("echo other"))
    assert "one" in (tmp_path / "stages" / "stage-part0.log").read_text()
    assert runner.wall_seconds([stage])["stage"] >= 0 and runner.peak_memory([stage]) >= 0


def test_a_stage_that_goes_on_with_more_counts_all_its_time(tmp_path: Path) -> None:
    runner = StageRunner(tmp_path)
    runner.run(shell("sleep 0.2"), "")
    first = runner.wall_seconds([shell()])["stage"]
    runner.run(shell("sleep 0.3"), "")
    assert runner.wall_seconds([shell()])["stage"] > first >= 0.2


def test_a_failure_ends_with_its_exit_code_and_names_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runner, stage = StageRunner(tmp_path), shell("exit 0", "echo why; exit 7")
    with pytest.raises(SystemExit) as ended:
        runner.run(stage, "[1/1]")
    assert ended.value.code == 7
    log = tmp_path / "stages" / "stage-part1.log"
    assert str(log) in capfd.readouterr().err and "why" in log.read_text()
    assert not runner.is_done(stage)


def test_a_child_killed_by_a_signal_counts_as_failure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        StageRunner(tmp_path).run(shell("kill -9 $$"), "[1/1]")
    assert ended.value.code == 128 + 9


def test_a_broken_child_does_not_outlive_the_driver(tmp_path: Path, repository: Path) -> None:
    """SIGTERM to the driver ends the stage's children as well."""
    stage = "Stage('s', 's', {'s': ['sh', '-c', 'echo $$; exec sleep 600']})"
    code = (
        "from pathlib import Path; from eval.stages import *; end_children_on_signals(); "
        f"StageRunner(Path({str(tmp_path)!r})).run({stage}, '')"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, text=True)
    for line in driver.stdout:
        if line.strip().isdigit():
            break
    child = Path("/proc") / line.strip()
    assert child.exists()
    driver.terminate()
    assert driver.wait(timeout=30) == 128 + 15
    assert not child.exists()


def test_an_interrupt_is_one_line_and_the_last_words_of_a_child_are_in_its_log(
    tmp_path: Path, repository: Path
) -> None:
    """As from a terminal: the signal goes to the driver's whole group."""
    child = "trap 'echo farewell; exit 1' TERM INT; echo begun; while :; do sleep .05; done"
    stage = f"Stage('s', 's', {{'s': ['sh', '-c', {child!r}]}})"
    code = (
        "from pathlib import Path; from eval.stages import *; from secateur.runtime.process import entry_point\n"
        f"entry_point(lambda: StageRunner(Path({str(tmp_path)!r})).run({stage}, ''))()"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code], cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while "begun" not in driver.stdout.readline():
        pass
    os.killpg(driver.pid, signal.SIGINT)
    said, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "farewell" not in said
    assert errors == "error: interrupted; the same command goes on from what is on disk\n"
    assert "farewell" in (tmp_path / "stages" / "s.log").read_text()


def test_before_it_works_it_says_what_how_long_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = demo_of(output_dir=str(tmp_path / "out"))
    run.announce(stages=5, todo=3)
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith("make demo: 5 stages, 2 of them done; about ")
    assert str(tmp_path / "out") in said and "the same command goes on" in said


@pytest.mark.parametrize("course", ["demo", "real"])
def test_what_it_says_to_run_next_is_a_command(demo: WholeRun, course: str, monkeypatch, repository: Path) -> None:
    monkeypatch.chdir(repository)
    command = WholeRun(demo.config, replace(DEMO, name=course)).next_command()
    name, subcommand, *words = shlex.split(command.replace("\\\n", " "))
    assert (Path(name).name, subcommand) == ("secateur", "prune") and Path(name).exists()
    asked = parse_config(PruneConfig, words)
    keys = read_yaml(repository / "configs" / course / "combined.yaml")
    assert asked.model == demo.models["pruned"] and asked.problem
    assert (asked.max_tokens, asked.temperature) == (keys["max_tokens"], keys["temperature"])


@pytest.fixture
def demo(tmp_path: Path) -> WholeRun:
    """A demo whose pruned model and judges are there, as far as the options can tell."""
    demo = demo_of(output_dir=str(tmp_path / "demo"), seed=3, control=True)
    for name in ("thinkprune", "control"):
        write_json(demo.out / name / "final" / "config.json", {})
    for folder in demo.first_judges.values():
        describe_judge(folder, kind=demo.config.judge)
    return demo


def arguments_of(command: list[str], script: str) -> list[str]:
    assert Path(command[0]).name.startswith("python"), shlex.join(command)
    return command[command.index(script) + 1 :]


@pytest.mark.parametrize("judge", ["linear_own_states", "linear", "pairwise"])
def test_the_scripts_accept_the_commands(
    demo: WholeRun, judge: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    demo = demo_of(output_dir=str(demo.out), seed=3, judge=judge, control=True)
    for folder in demo.first_judges.values():
        describe_judge(folder, kind=demo.config.judge)
    stages = {stage.name: stage.commands for stage in demo.stages()}
    single = parse_config(SingleConfig, arguments_of(stages["single"]["single"], "eval/single.py"))
    assert set(single.models) == {"base", "pruned", "control"} and single.seed == 3
    assert single.problem_count >= 200 and single.samples == 4
    collect = parse_config(CollectConfig, arguments_of(stages["collect"]["collect"], "eval/collect_traces.py"))
    assert set(collect.problems) == {"train", "dev", "test"} and collect.models == single.models
    command = stages[f"combined-{judge}"]["combined"]
    combined = parse_config(CombinedConfig, arguments_of(command, "eval/combined.py"))
    assert combined.models == single.models and combined.base == "base"
    for name in combined.models:
        assert combined.judges_of(name) == [str(demo.first_judges[name]), "random"]
    assert combined.n == 64 and combined.problem_count >= 96
    for name, command in (stages[f"judge-{judge}"] | stages[f"judge-{judge}-control"]).items():
        chosen = parse_config(JudgeConfig, arguments_of(command, "trainers/judge.py"))
        assert chosen.kind == judge and chosen.output_dir == str(demo.first_judges[name])
        assert chosen.model == combined.models[name] and f"/traces/{name}/" in chosen.train
    for name in ("thinkprune", "control"):
        words = arguments_of(stages[name][name], "schedules/run.py")
        place = words.index("--accelerate_config")
        run = read_run_config(words[:place] + words[place + 2 :])
        assert run.schedule.seed == 3 and run.schedule.output_dir == str(demo.out / name)


def test_the_control_takes_up_what_a_demo_without_it_did(tmp_path: Path) -> None:
    """Training and judges are passed over; stages over all models go on in the folders that they had."""
    without, with_it = (demo_of(output_dir=str(tmp_path), control=control).stages() for control in (False, True))
    runner = StageRunner(tmp_path)
    for stage in without:
        write_json(runner.folder / f"{stage.name}.json", {"commands": stage.commands})
    todo = {stage.name for stage in with_it if not runner.is_done(stage)}
    own = "linear_own_states"
    assert todo == {"control", "single", "collect", f"judge-{own}-control", f"combined-{own}"}
    folders = [{s.name: folders_of(s) for s in stages} for stages in (without, with_it)]
    assert all(folders[1][name] == folder for name, folder in folders[0].items())


def folders_of(stage: Stage) -> list[str]:
    return [command[command.index("--output_dir") + 1] for command in stage.commands.values()]


def test_the_folder_of_another_seed_is_refused_with_a_remedy(tmp_path: Path) -> None:
    demo_of(output_dir=str(tmp_path / "d"), seed=1).claim_folder()
    before = (tmp_path / "d" / "demo.json").read_bytes()
    demo_of(output_dir=str(tmp_path / "d"), seed=1).claim_folder()
    with pytest.raises(InputError, match="SEED=2"):
        demo_of(output_dir=str(tmp_path / "d"), seed=2).claim_folder()
    assert (tmp_path / "d" / "demo.json").read_bytes() == before


def test_a_changed_config_file_is_noticed(tmp_path: Path) -> None:
    demo = demo_of(output_dir=str(tmp_path))
    demo.claim_folder()
    stored = read_json(tmp_path / "demo.json")
    stored["inputs"]["configs/demo/combined.yaml"] = "0" * 16
    write_json(tmp_path / "demo.json", stored)
    with pytest.raises(InputError, match=r"combined\.yaml"):
        demo.claim_folder()


def test_another_judge_joins_the_same_folder(tmp_path: Path) -> None:
    demo_of(output_dir=str(tmp_path)).claim_folder()
    demo_of(output_dir=str(tmp_path), judge="linear", control=True).claim_folder()
    assert {"configs/demo/judge_linear.yaml", "configs/demo/control.yaml"} <= read_json(tmp_path / "demo.json")[
        "inputs"
    ].keys()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="choose another folder"):
        demo_of(output_dir=str(tmp_path)).run()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def figures(mean_tokens: float) -> ModelFigures:
    none = LengthFigures(0, None, None, {}, {})
    return ModelFigures(
        pass_at_1=0.5, pass_at_1_ci95=(0.4, 0.6), mean_tokens=mean_tokens, mean_tokens_ci95=(1.0, 2.0),
        truncated_share=0.0, truncated_share_ci95=(0.0, 0.0), pass_at_k={1: 0.5}, pass_at_k_ci95={1: (0.4, 0.6)},
        majority=None, majority_ci95=None, length={"right": none, "wrong": none}, prompt_tokens=1,
        generated_tokens=2, samples=4, problems=3,
    )  # fmt: skip


def test_the_limits_own_share() -> None:
    models = {"base": figures(200.0), "pruned": figures(100.0), "control": figures(180.0)}
    control = beside_the_control(models)
    assert control.limits_own_share == pytest.approx(0.8) and control.mean_tokens == 180.0
    assert (control.shortening_with_limits, control.shortening_without) == pytest.approx((0.5, 0.1))


@pytest.mark.parametrize("control", [False, True])
def test_the_summary_says_what_its_parts_say_and_is_read_back(
    tmp_path: Path, control: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Summary, report and words, from files as the stages leave them."""
    demo = demo_of(output_dir=str(tmp_path), control=control)
    runner, stages = StageRunner(tmp_path), demo.stages()
    for stage in stages:
        write_json(runner.folder / f"{stage.name}.json", {"wall_s": 1.5, "peak_memory_gib": 0.5})
    models = {
        name: {"arithmetic": figures(tokens)} for name, tokens in zip(demo.models, (200, 100, 180), strict=False)
    }
    write_summary(tmp_path / "single", Summary({}, "g", models, {}, {}))
    for name, folder in demo.first_judges.items():
        measure_judge(folder, problems=len(name))
    make_combined(demo.combined, ["1", "2"])
    make_rounds(tmp_path / "thinkprune")
    table = read_table(demo.combined)
    summary = demo.summary(runner, table)
    write_run_summary(tmp_path, summary)
    assert read_run_summary(tmp_path) == summary
    for name in demo.models:
        with TraceFolderWriter(tmp_path / "single" / name / "arithmetic", {}) as writer:
            writer.add(Trace("p", "q", "1", 0, "text", n_tokens=7))
    inputs = report_inputs(read_run(tmp_path))
    assert (inputs.combined, inputs.thinkprune) == (demo.combined, tmp_path / "thinkprune")
    assert inputs.one_trace == summary.one_trace and inputs.wall_s == summary.wall_s
    assert inputs.lengths == {name: [7] for name in demo.models}
    assert (summary.combined.rows, summary.combined.live_equals_replay) == (table.rows, table.live_equals_replay)
    assert (summary.judge.problems, summary.judge_of_pruned.problems) == (4, 6)
    assert summary.judge.baselines == {"ngram": 0.8, "zero_shot": None}
    assert summary.wall_s["total"] == 1.5 * len(stages) and summary.peak_memory_gib == 0.5
    assert [entry.limit for entry in summary.rounds] == [200, 100, 50], "in the order of their numbers"
    assert list(summary.one_trace) == list(demo.models) and (summary.judge_of_control is not None) == control
    show_summary(summary)
    said = " ".join(capsys.readouterr().out.split())
    assert "length pruning: 200.0 → 100.0 tokens per trace (-50.0%)" in said and "ngram 0.800;" not in said
    assert ("control without a binding limit: 180.0 tokens" in said) == control
