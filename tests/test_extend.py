"""docs/extend.md: every example is run as it stands there, with the folder of the user's files on the path."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "extend.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.M | re.S))
COMMANDS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files of the page, and what a user sees of the repository beside them."""
    folder = tmp_path_factory.mktemp("mine")
    for name, body in FILES.items():
        (folder / name).write_text(body, encoding="utf-8")
    for name in ("trainers", "eval", "schedules", "configs", "rewards"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": f"{folder}:{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_what_it_promises() -> None:
    headings = re.findall(r"^## Your (\w+)$", PAGE, re.M)
    assert headings == ["model", "problems", "answers", "reward", "judge", "engine", "method"]
    assert len(FILES) == len(headings) and re.findall(r"^```python$", PAGE, re.M) == ["```python"] * len(FILES)


@pytest.mark.parametrize("name", FILES)
def test_files_run(name: str, mine: Path) -> None:
    run([sys.executable, name], mine)


@pytest.mark.parametrize("command", COMMANDS, ids=[re.findall(r"(\w+)(?:\.py|$)", text)[0] for text in COMMANDS])
def test_commands_run(command: str, mine: Path) -> None:
    run([sys.executable, "my_problems.py"], mine)
    said = run(["bash", "-ec", command.replace("python ", f"{sys.executable} ", 1)], mine)
    if "Patient" in command:
        assert "50 steps" in said
    if "check.py" in command:
        assert said.count("  ok  ") == 6 and "what a completion earns" in said
    if "last_number" in command:
        assert "pass@1" in said


def test_a_reward_of_ones_own_pays_as_it_says(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(mine))
    from rewards.completion import Completion
    from rewards.registry import make_options, reward_group

    options = make_options("my_reward:ROOM_LEFT", {"weight": 1.0})
    group = [Completion(True, 50, False), Completion(True, 100, True), Completion(False, 10, False)]
    assert reward_group("my_reward:ROOM_LEFT", group, 100, options) == [1.5, 0.0, 0.0]


def test_a_method_of_ones_own_makes_a_row(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(mine))
    from my_method import FIRST_TWO

    from eval.table.method import ReplayKeys, ReplayModel, ReplayProblem, ReplayTrace

    traces = (ReplayTrace(None, 5, None), ReplayTrace(1, 7, None), ReplayTrace(0, 3, None))
    problem = ReplayProblem("p", frozenset({1}), traces, 0)
    (row,) = FIRST_TWO.run(ReplayModel("base", 10, [problem]), ReplayKeys())
    assert [(one.accuracy, one.usage.generated, one.finished) for one in row.outcomes] == [(1.0, 12, 1.0)]
