"""`secateur check-reward`: everything here keeps all promises, and each broken one is named with its case."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards.check import ANSWER_PROMISES, PROMISES, Trial
from rewards.completion import RewardOptions, RewardSpec
from rewards.registry import REWARDS, check_reward
from secateur.tasks.answers.extraction import extraction
from tests.rewards.groups import LIMIT, NAMES


def trial(formula: Callable[..., list[Any]], **about: bool) -> Trial:
    spec = RewardSpec(formula=formula, options=RewardOptions, source="a test", **about)
    return Trial(spec, RewardOptions(), LIMIT, 8)


@pytest.mark.parametrize("name", NAMES)
def test_our_rewards_keep_all_promises(name: str) -> None:
    tried = Trial(REWARDS[name], check_reward(name, {}, 8, [LIMIT]), LIMIT, 8)
    assert {promise.__name__: promise(tried) for promise in PROMISES if promise(tried)} == {}


@pytest.mark.parametrize("name", ["answer", "anywhere", r"pattern:ANSWER: (\d+)"])
def test_our_extractions_keep_all_promises(name: str) -> None:
    assert [promise(extraction(name)) for promise in ANSWER_PROMISES] == [None] * len(ANSWER_PROMISES)


count = iter(range(10**9))
BROKEN = {
    "one_number_each": lambda group, *_: [1.0],
    "the_same_each_time": lambda group, *_: [float(next(count)) for _ in group],
    "whatever_the_order": lambda group, *_: [float(place) for place in range(len(group))],
    "alone_as_in_company": lambda group, *_: [one.length / max(other.length for other in group) for one in group],
    "right_before_wrong": lambda group, *_: [float(not one.right) for one in group],
    "finished_before_truncated": lambda group, *_: [float(one.truncated) for one in group],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found(name: str) -> None:
    tried, promise = trial(BROKEN[name]), next(one for one in PROMISES if one.__name__ == name)
    assert promise(tried)
    assert promise(trial(lambda group, *_: [float(one.right) for one in group])) is None


def test_who_compares_has_to_say_so() -> None:
    promise = next(one for one in PROMISES if one.__name__ == "alone_as_in_company")
    assert "needs_group=True" in promise(trial(BROKEN["alone_as_in_company"]))
    assert promise(trial(BROKEN["alone_as_in_company"], needs_group=True)) is None


OWN = """
from rewards.completion import RewardOptions, RewardSpec

def longest(group, limit, options):
    return [one.length / [other.length for other in group if other.right][0] for one in group]

def last_word(text):
    return text.split()[-1]

LONGEST = RewardSpec(formula=longest, options=RewardOptions, source="mine")
"""


def test_the_command_names_what_breaks_and_when(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    command = [sys.executable, str(repository / "rewards/check.py"), "--reward", "own:LONGEST"]
    command += ["--answer_from", "own:last_word"]
    said = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": "."}, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (1, "")
    assert "FAULT  one finite number for each completion: raises IndexError" in said.stdout
    assert "FAULT  a text or None for whatever a model writes: raises IndexError" in said.stdout
    nothing = subprocess.run(command[:2], cwd=tmp_path, capture_output=True, text=True)
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1) and "nothing to try" in nothing.stderr
