"""A group that TRL spreads over two real processes is rewarded as if it lay on one."""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rewards.trl_reward import LimitReward
from secateur.runtime.files import read_json
from tests.rewards.two_processes import GENERATIONS, LIMIT, fixed_batch, score_batch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(tiny_model: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes wrote."""
    folder = tmp_path_factory.mktemp("two-processes")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["--main_process_port", "0", "tests/rewards/two_processes.py", str(tiny_model), str(folder)]
    path = os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=repository, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All reward functions returned None" not in done.stdout + done.stderr
    return [read_json(folder / f"process-{index}.json") for index in range(2)]


def test_every_reward_is_the_same_as_on_one_process(parts: list[dict[str, Any]], tiny_model: Path) -> None:
    assert [part["processes"] for part in parts] == [2, 2]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    batch = fixed_batch(tokenizer)
    assert len(batch["gold"]) // 2 % GENERATIONS, "the boundary must run through a group"
    for variant, alone in score_batch(tokenizer, batch, 1).items():
        first, second = (part["scored"][variant] for part in parts)
        assert first["rewards"] + second["rewards"] == alone["rewards"], variant
        assert first["metrics"] == second["metrics"] == alone["metrics"], variant


def test_the_real_trainer_spreads_groups_and_gets_the_rewards_of_whole_ones(
    parts: list[dict[str, Any]], tiny_model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ends = parts[0]["trained"]["ends"]
    alone = LimitReward(tokenizer, ends, False, "shorter_better", {"keep": 3}, LIMIT, 1)
    steps = list(zip(*(part["trained"]["calls"] for part in parts), strict=True))
    assert len(steps) == 2
    for calls in steps:
        merged = {key: calls[0][key] + calls[1][key] for key in ("completion_ids", "gold", "row")}
        assert len(calls[0]["row"]) == GENERATIONS // 2
        assert len(set(merged["row"])) == 1, "both processes hold half of the same group"
        assert alone(**merged) == calls[0]["rewards"] + calls[1]["rewards"]


def test_a_rejected_completion_has_no_advantage_and_no_part_in_the_baseline(parts: list[dict[str, Any]]) -> None:
    """TRL keeps the advantages of the newest batch."""
    rewards = [reward for part in parts for reward in part["trained"]["calls"][-1]["rewards"]]
    advantages = parts[0]["trained"]["advantages"]
    kept = [reward for reward in rewards if reward is not None]
    assert len(rewards) == len(advantages) == GENERATIONS
    assert len(kept) == 3
    mean, deviation = statistics.fmean(kept), statistics.stdev(kept)
    assert deviation > 0, "lengths must differ, or nothing is shown"
    expected = [0.0 if reward is None else (reward - mean) / (deviation + 1e-4) for reward in rewards]
    assert advantages == pytest.approx(expected, abs=1e-4)


def test_both_processes_log_the_figures_of_the_whole_batch(parts: list[dict[str, Any]]) -> None:
    for entry, calls in zip(
        parts[0]["trained"]["metrics"], zip(*(part["trained"]["calls"] for part in parts), strict=True), strict=True
    ):
        lengths = [len(ids) for call in calls for ids in call["completion_ids"]]
        assert entry["trained_share"] == 0.75
        assert entry["groups_all_wrong"] == 1.0
        assert entry["wrong_mean_length"] == pytest.approx(sum(lengths) / len(lengths))
