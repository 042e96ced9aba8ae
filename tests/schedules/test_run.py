"""The driver's own decisions and messages, and whole schedules on the embedded model that are cut off and go on."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from eval.prune import PruneConfig
from schedules.config import first_question, read_run_config
from schedules.integrity import Marker, write_marker
from schedules.launch import Launcher
from schedules.records import (
    VALIDATION,
    ReferenceRecord,
    ValidationRecord,
    read_selection,
    write_selection,
    write_validation,
)
from schedules.run import Driver
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder, read_json, write_json, write_text
from secateur.runtime.records import without_checksum
from tests.next_words import next_words
from tests.offline_wandb import read_events, read_offline_run
from tests.schedules.candidates import candidate

CONFIG = """
model: {model}
output_dir: {output}
limits: [220, 160]
steps_per_round: 8
problems: arithmetic:train
problem_count: 10
validation_problems: arithmetic:validation
validation_count: 10
learning_rate: 3.0e-4
"""
CPU = "configs/accelerate/cpu.yaml"


@pytest.fixture
def config_file(tmp_path, tiny_model) -> Path:
    write_text(tmp_path / "run.yaml", CONFIG.format(model=tiny_model, output=tmp_path / "run"))
    return tmp_path / "run.yaml"


def make_driver(config_file: Path, repository: Path) -> Driver:
    argv = ["--config", str(config_file)]
    return Driver(read_run_config(argv), argv, Launcher(str(repository / CPU)))


def test_the_question_that_a_schedule_ends_with_is_read_as_it_is_meant(tmp_path: Path, tiny_model: Path) -> None:
    asked = {"prompt_family": "plain", "system_prompt": "Mind: be brief", "instruction": "Box it."}
    words = [word for key, value in asked.items() for word in (f"--{key}", json.dumps(value))]
    words += ["--validation_max_tokens", "77", "--validation_dtype", "float32"]
    schedule = read_run_config(["--config", "configs/demo/thinkprune.yaml", *words]).schedule
    config = parse_config(PruneConfig, next_words(first_question(schedule, tiny_model), "prune"))
    assert {key: getattr(config, key) for key in asked} == asked
    assert (config.model, config.max_tokens, config.dtype) == (str(tiny_model), 77, "float32")


def write_figures(folder: Path, figures: dict[int, tuple[float, float]]) -> None:
    candidates = [candidate(step, *values, rates={"a": values[0]}) for step, values in figures.items()]
    write_validation(folder / VALIDATION, ValidationRecord({}, tuple(candidates)))


def choose_two_rounds(driver: Driver) -> list[Path]:
    first, second = driver.folder.rounds
    folders = [driver.folder.round_folder(round_) for round_ in (first, second)]
    write_figures(folders[0], {0: (0.6, 200.0), 4: (0.7, 150.0), 8: (0.5, 100.0)})
    driver._choose(first, "owner/model")
    write_figures(folders[1], {0: (0.7, 150.0), 4: (0.65, 120.0), 8: (0.62, 90.0)})
    driver._choose(second, "rounds/1-limit-220/checkpoint-4")
    return folders


def test_the_selection_file_holds_what_others_rely_on(config_file, repository) -> None:
    record, later = (read_json(f / "selection.json") for f in choose_two_rounds(make_driver(config_file, repository)))
    promised = ["limit", "start_model", "reference", "tolerance", "candidates", "chosen_step", "reason"]
    assert set(promised) <= set(record)
    assert record["candidates"][2] == {
        "step": 8, "pass_at_1": 0.5, "mean_tokens": 100.0, "truncated_share": 0.0,
        "pass_at_1_ci95": [0.4, 0.6], "mean_tokens_ci95": [90.0, 110.0], "samples": 1, "feasible": False,
    }  # fmt: skip
    assert (record["chosen_step"], record["start_model"], record["limit"]) == (4, "owner/model", 220)
    reference = {"pass_at_1": 0.7, "mean_tokens": 150.0, "name": "the start model of this round"}
    assert later["reference"] == reference  # the better of original and round start
    assert later["chosen_step"] == 4


def test_a_selection_is_read_as_it_was_written_and_no_other_file_is_taken_for_one(config_file, repository) -> None:
    folder = choose_two_rounds(make_driver(config_file, repository))[0]
    record = read_selection(folder)
    assert (record.chosen.step, record.start.step, record.chosen.feasible) == (4, 0, True)
    assert record.reference == ReferenceRecord(0.6, 200.0, "the original model")
    stored = read_json(folder / "selection.json")
    write_selection(folder, record)
    assert read_json(folder / "selection.json") == stored
    by_hand = without_checksum(stored, "", "")
    for changes, message in (({"format": 0}, "has format 0"), ({"chosen_step": "x"}, "chosen_step: ")):
        write_json(folder / "selection.json", by_hand | changes)
        with pytest.raises(InputError, match=rf"selection\.json: {message}"):
            read_selection(folder)


def test_a_checkpoint_damaged_after_its_validation_ends_the_choice_before_it_is_written(
    config_file, repository
) -> None:
    driver = make_driver(config_file, repository)
    folder = driver.folder.round_folder(driver.folder.rounds[0])
    write_text(folder / "checkpoint-8" / "complete.json", '{"step": 8, "fil')
    with pytest.raises(InputError, match=r"checkpoint-8: its marker is damaged: .*complete\.json"):
        choose_two_rounds(driver)
    assert not (folder / "selection.json").exists()
    with pytest.raises(InputError, match=r"checkpoint-8: the chosen model was damaged"):
        driver._train(driver.folder.rounds[1], f"rounds/{folder.name}/checkpoint-8")


@pytest.mark.parametrize("name", ["engine.json", "checkpoint-1/complete.json"])
def test_what_a_round_that_goes_on_does_not_make_anew_is_refused_before_its_launch(
    config_file, repository, name, monkeypatch
) -> None:
    driver = make_driver(config_file, repository)
    round_ = driver.folder.rounds[0]
    folder = driver.folder.round_folder(round_)
    for step in (1, round_.max_steps):
        write_json(folder / f"checkpoint-{step}" / "config.json", {"step": step})
        write_marker(
            folder / f"checkpoint-{step}",
            Marker(
                step=step, world_size=1, limit=round_.limit, regular=True, resumable=True, files={}, fingerprints={}
            ),
        )
    write_text(folder / name, '{"step": 8, "fil')
    monkeypatch.setattr(driver.launcher, "run", lambda *_, **__: pytest.fail("it was launched"))
    with pytest.raises(InputError, match=name.replace("/", ".*").replace(".json", r"\.json")):
        driver._train(round_, str(repository / "trainers" / "embedded_model"))


def test_choices_are_drawn_and_told(config_file, repository, capsys) -> None:
    driver = make_driver(config_file, repository)
    choose_two_rounds(driver)
    driver._follow_up()
    assert (driver.folder.path / "rounds.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "0.700  0.600–0.800" in shown and "yes, chosen" in shown
    assert "Step 4 is the shortest of 2 feasible of 3 candidates" in shown


def test_the_start_model_of_a_later_round_is_not_sampled_again(config_file, repository) -> None:
    driver = make_driver(config_file, repository)
    first, second = driver.folder.rounds
    write_figures(driver.folder.round_folder(first), {0: (0.6, 200.0), 4: (0.7, 150.0)})
    driver._choose(first, "owner/model")
    known = driver._known_start(second)
    assert (known.step, known.pass_at_1, known.mean_tokens) == (0, 0.7, 150.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limits", "100", "200"], "rises from 100 to 200"),
        (["--limits", "[220, 9]"], "'limits' has the value 9, but an empty thought"),
        (["--learning_rte", "1e-4"], "unknown key 'learning_rte'; did you mean 'learning_rate'?"),
        (["--tolerance", "much"], "'tolerance' has the value 'much': expected float"),
        (["--model", "no/such/model/folder"], "no such folder"),
        (["--num_processes", "two"], "--num_processes has the value 'two'"),
        (["--loss_type", "DAPO"], "key 'loss_type' has the value 'DAPO'; choose one of grpo, bnpo, dr_grpo, dapo"),
        (["--validation_problems", "gone.jsonl"], "gone.jsonl"),
        (["--validation_count", "0"], "'validation_count' has the value 0"),
        (["--validation_top_p", "1.5"], "key 'top_p' has the value 1.5: expected a share"),
        (["--validation_dtype", "bf16"], "key 'dtype' has the value 'bf16': expected one of float32, bfloat16"),
    ],
)
def test_bad_input_ends_the_users_command_at_once(config_file, repository, arguments, message) -> None:
    ended = drive(config_file, repository, *arguments)
    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (config_file.parent / "run").exists()


def drive(config: Path, repository: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, *arguments), cwd=repository, capture_output=True, text=True, env=os.environ | environment
    )


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "schedules/run.py", "--config", str(config), "--accelerate_config", CPU, *arguments]


def test_a_second_driver_is_kept_out_of_the_folder(config_file, repository) -> None:
    driver = make_driver(config_file, repository)
    driver.folder.open()
    with hold_folder(driver.folder.path / "rounds"):
        ended = drive(config_file, repository)
    assert ended.returncode == 2
    assert f"process {os.getpid()} on {platform.node()} is working in it" in ended.stderr


SMALL = """
model: {model}
output_dir: {output}
limits: [140]
steps_per_round: 12
problems: arithmetic:train
problem_count: 10
prompt_family: plain
validation_problems: arithmetic:validation
validation_count: 6
validation_samples: 4
validation_temperature: 1.0
validation_top_p: 1.0
validation_max_tokens: 200
validation_dtype: float32
validation_rows: 2
learning_rate: 1.0e-3
num_generations: 4
per_device_train_batch_size: 8
save_steps: 6
use_cpu: true
bf16: false
gradient_checkpointing: false
model_init_kwargs: {{dtype: float32}}
"""


@pytest.fixture
def small(tmp_path, embedded_model) -> Path:
    write_text(tmp_path / "small.yaml", SMALL.format(model=embedded_model, output=tmp_path / "run"))
    return tmp_path / "small.yaml"


def wait_for(process: subprocess.Popen[bytes], files: Path, pattern: str, lines: int) -> None:
    """Until the files of `pattern` have `lines` lines together."""
    while sum(path.read_bytes().count(b"\n") for path in files.glob(pattern)) < lines:
        assert process.poll() is None
        time.sleep(0.02)


def start(config: Path, repository: Path) -> subprocess.Popen[bytes]:
    """Its output goes to a file: a pipe that nobody reads would stop it."""
    with open(config.with_suffix(".log"), "ab") as log:
        words = command(config, "--num_processes", "1")
        return subprocess.Popen(words, cwd=repository, stdout=log, stderr=subprocess.STDOUT)


KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.slow
def test_a_schedule_that_is_stopped_in_training_and_killed_in_validation_ends_as_it_should(
    small, tmp_path, repository, monkeypatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_RUN_ID", "mine")  # would merge all rounds into one run
    write_text(
        small,
        small.read_text() + "report_to: [wandb, tensorboard]\nlog_completions: true\nnum_completions_to_print: 1\n"
        "logged_completions: 3\n",
    )
    log = small.with_suffix(".log")
    run, folder, traces = tmp_path / "run", tmp_path / "run/rounds/1-limit-140", "validation/*/*/traces-rank*.jsonl"

    process = start(small, repository)
    wait_for(process, folder, "train.jsonl", 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143, log.read_text()
    assert "stopped; run the same command again to go on" in log.read_text()
    assert not (run / ".stop").exists() and not (folder / "training.json").exists()

    process = start(small, repository)
    wait_for(process, folder, traces, 20)  # of 3 candidates × 6 problems × 4 samples
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() for child in children), "a killed driver leaves nothing behind"
    before = {path: path.read_bytes() for path in folder.glob(traces)}
    assert sum(content.count(b"\n") for content in before.values()) < 72

    process = start(small, repository)
    assert process.wait(timeout=300) == 0, log.read_text()
    for path, content in before.items():
        assert path.read_bytes().startswith(content[: content.rfind(b"\n") + 1]), "what was sampled stays"
    assert sum(path.read_bytes().count(b"\n") for path in folder.glob(traces)) == 72
    assert "rounds, from start to end" in log.read_text()
    assert {path.name for path in run.glob("[!.]*")} >= {"final", "rounds.png", "config.yaml", "wandb.json"}
    check_figures_per_problem(folder)
    check_wandb(tmp_path, read_json(folder / "selection.json"))
    import pandas

    tables = [pandas.read_parquet(path) for path in sorted(folder.glob("completions/*.parquet"))]
    assert [len(table) for table in tables] == [3] * 12, "of 24 a step, also of the steps before and after the stop"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()], "no key in any file or output"


@pytest.mark.slow
def test_a_raced_schedule_that_is_killed_twice_chooses_as_one_left_alone(small, tmp_path, repository) -> None:
    """Killed while the training problems are sampled and while the checkpoints race."""
    text = small.read_text().replace("save_steps: 6", "save_steps: 2")
    text = text.replace("steps_per_round: 12", "steps_per_round: 6")
    write_text(small, text + "pass_rate: [0.2, 0.9]\npass_rate_samples: 4\nracing_confidence: 0.9\n")
    alone = tmp_path / "alone.yaml"
    write_text(alone, small.read_text().replace(str(tmp_path / "run"), str(tmp_path / "alone")))
    assert start(alone, repository).wait(timeout=600) == 0, alone.with_suffix(".log").read_text()
    folders = [tmp_path / name / "rounds/1-limit-140" for name in ("alone", "run")]
    for pattern in ("pass_rate/*/*/traces-*.jsonl", "validation/step-*/*/traces-*.jsonl"):
        process = start(small, repository)
        wait_for(process, folders[1], pattern, 5)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        psutil.wait_procs(children, timeout=60)
    assert start(small, repository).wait(timeout=600) == 0, small.with_suffix(".log").read_text()
    assert read_json(folders[0] / "pass_rate.json") == read_json(folders[1] / "pass_rate.json")
    for name in ("validation.json", "selection.json"):  # they name their own folder, and are sealed by a checksum
        there = (folders[0] / name).read_text().replace(str(tmp_path / "alone"), str(tmp_path / "run"))
        first, second = json.loads(there), read_json(folders[1] / name)
        assert {**first, "checksum": 0} == {**second, "checksum": 0}, name
    check_race(folders[1], small.with_suffix(".log").read_text())


def check_race(folder: Path, log: str) -> None:
    """All have samples, the start model and the choice all four; only what the rates allow was trained on."""
    selection = read_selection(folder)
    assert [candidate.step for candidate in selection.candidates] == [0, 2, 4, 6]
    assert selection.start.samples == selection.chosen.samples == 4
    assert min(candidate.samples for candidate in selection.candidates) >= 1
    record = read_json(folder / "pass_rate.json")
    kept = [name for name, rate in record["rates"].items() if 0.2 <= rate <= 0.9]
    assert len(record["rates"]) == 10 and 0 < len(kept) < 10
    assert f"{len(kept)} of 10 training problems kept" in log and f"{record['tokens']:,} tokens" in log


def check_figures_per_problem(folder: Path) -> None:
    record = read_json(folder / "validation.json")
    assert [entry["step"] for entry in record["candidates"]] == [0, 6, 12]
    for entry in record["candidates"]:
        rates = [values["pass_at_1"] for values in entry["per_problem"].values()]
        assert len(rates) == 6 and sum(rates) / 6 == pytest.approx(entry["pass_at_1"])


def check_wandb(folder: Path, selection: dict[str, Any]) -> None:
    """One id for every launch of the round's training, one for the schedule; table, samples and choice are there."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    name = read_json(folder / "run/wandb.json")["id"]
    assert {path.name for path in files} == {f"run-{name}-1-limit-140.wandb", f"run-{name}-schedule.wandb"}
    (schedule,) = (path for path in files if path.name.endswith("-schedule.wandb"))
    run = read_offline_run(schedule)
    assert (run.group, run.job_type) == ("run", "schedule")
    assert run.summary["choice/1-limit-140"] == selection["reason"]
    assert run.history[0]["chosen/step"] == selection["chosen_step"]
    table = read_json(schedule.parent / "files" / run.history[0]["validation/candidates/path"])
    column = table["columns"].index
    assert [row[column("pass@1")] for row in table["data"]] == [c["pass_at_1"] for c in selection["candidates"]]
    assert [row[column("feasible")] for row in table["data"]] == [c["feasible"] for c in selection["candidates"]]
    events = read_events(folder / "run/tensorboard/schedule")
    assert (
        events.scalars["chosen/step"] == [(1, selection["chosen_step"])] and "validation/candidates" in events.texts
    )
    samples = read_json(schedule.parent / "files" / run.history[0]["validation/samples/path"])
    assert {row[samples["columns"].index("verdict")] for row in samples["data"]} <= {"right", "wrong", "truncated"}
    assert samples["data"] and run.history[0]["validation/rounds/_type"] == "image-file"


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(small, tmp_path, repository) -> None:
    before = sorted(tmp_path.rglob("*"))
    for engine in ("transformers", "vllm"):  # the plan may be for another machine, where vLLM is installed
        ended = drive(small, repository, "--dry_run", "true", "--validation_engine", engine)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith("dry run of ")
        assert sorted(tmp_path.rglob("*")) == before


def test_a_launch_over_machines_puts_the_launcher_first_and_leaves_the_port_to_it(tmp_path) -> None:
    values = {"num_machines": 3, "num_processes": 24}
    write_text(tmp_path / "nodes.yaml", yaml.safe_dump(values))
    words = Launcher(str(tmp_path / "nodes.yaml"), "srun --ntasks=3").command("eval/single.py", ["--config", "x"], 3)
    assert words[:6] == ["srun", "--ntasks=3", sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    assert words[words.index("--num_processes") + 1] == "3"
    assert "--main_process_port" not in words
    assert words[-2:] == ["--config", "x"]
