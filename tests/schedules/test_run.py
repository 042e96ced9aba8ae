"""The driver's own decisions and messages; its launches are tested together with the trainer."""

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.files import read_json, write_json, write_text
from schedules.config import read_run_config
from schedules.run import Driver, candidate_steps, run_command

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


@pytest.fixture
def config_file(tmp_path, tiny_model) -> Path:
    write_text(tmp_path / "run.yaml", CONFIG.format(model=tiny_model, output=tmp_path / "run"))
    return tmp_path / "run.yaml"


def make_driver(config_file: Path, repository: Path) -> Driver:
    argv = ["--config", str(config_file)]
    return Driver(read_run_config(argv), argv, str(repository / "configs/accelerate/cpu.yaml"))


def write_validation(folder: Path, figures: dict[int, tuple[float, float]]) -> None:
    candidates = [
        {"step": step, "pass_at_1": accuracy, "mean_tokens": length, "truncated_share": 0.0}
        for step, (accuracy, length) in figures.items()
    ]
    write_json(folder / "validation.json", {"candidates": candidates})


def test_the_selection_file_holds_what_others_rely_on(config_file, repository) -> None:
    driver = make_driver(config_file, repository)
    first, second = driver.folder.rounds
    write_validation(driver.folder.round_folder(first), {0: (0.6, 200.0), 4: (0.7, 150.0), 8: (0.5, 100.0)})
    driver._choose(first, "owner/model")
    write_validation(driver.folder.round_folder(second), {0: (0.7, 150.0), 4: (0.65, 120.0), 8: (0.62, 90.0)})
    driver._choose(second, "rounds/1-limit-220/checkpoint-4")
    record = read_json(driver.folder.round_folder(first) / "selection.json")
    assert list(record) == ["limit", "start_model", "reference", "tolerance", "candidates", "chosen_step", "reason"]
    assert record["candidates"][2] == {
        "step": 8, "pass_at_1": 0.5, "mean_tokens": 100.0, "truncated_share": 0.0, "feasible": False
    }  # fmt: skip
    assert (record["chosen_step"], record["start_model"], record["limit"]) == (4, "owner/model", 220)
    later = read_json(driver.folder.round_folder(second) / "selection.json")
    assert later["reference"] == {"pass_at_1": 0.7, "mean_tokens": 150.0}  # the better of original and round start
    assert later["chosen_step"] == 4


def test_the_start_model_of_a_later_round_is_not_sampled_again(config_file, repository) -> None:
    driver = make_driver(config_file, repository)
    first, second = driver.folder.rounds
    write_validation(driver.folder.round_folder(first), {0: (0.6, 200.0), 4: (0.7, 150.0)})
    driver._choose(first, "owner/model")
    known = driver._known_start(second)
    assert (known["step"], known["pass_at_1"], known["mean_tokens"]) == (0, 0.7, 150.0)


def test_only_whole_checkpoints_are_candidates(tmp_path) -> None:
    for step in (4, 8, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (12, 4):
        (tmp_path / f"checkpoint-{step}" / "complete.json").write_text("{}")
    assert candidate_steps(tmp_path) == [4, 12]


def test_a_failing_child_ends_the_driver_with_its_code_and_names_the_command(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command([sys.executable, "-c", "raise SystemExit(7)"])
    assert ended.value.code == 7
    assert "exit code 7 from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limits", "100", "200"], "rises from 100 to 200"),
        (["--limits", "[220, 9]"], "'limits' has the value 9, but an empty thought"),
        (["--learning_rte", "1e-4"], "unknown key 'learning_rte'; did you mean 'learning_rate'?"),
        (["--tolerance", "much"], "'tolerance' has the value 'much': expected float"),
        (["--model", "no/such/model/folder"], "no such folder"),
    ],
)
def test_bad_input_ends_the_users_command_at_once(config_file, repository, arguments, message) -> None:
    command = [sys.executable, "schedules/run.py", "--config", str(config_file)]
    command += ["--accelerate_config", "configs/accelerate/cpu.yaml", *arguments]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (config_file.parent / "run").exists()
