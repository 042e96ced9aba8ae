"""Our own training command with a real vLLM engine in its process (`vllm_mode: colocate`): do the weights arrive?

The mean importance ratio of whole completions shows it: near 1 if vLLM sampled with the weights that are trained, far
from it if they are stale. Ratios of single tokens could not show it, their mean is 1 under any sampling weights.
"""

from pathlib import Path

import pytest

from secateur.runtime.files import read_json
from tests.vllm.grpo_runs import (
    BAND,
    LIMIT,
    Records,
    differences,
    finish,
    kill,
    mean_ratio,
    read_records,
    train,
    wait_for_lines,
    write_config,
)

SYNCED, STALE = range(1, 9), range(9, 13)  # steps whose completions were sampled with fresh and with old weights


@pytest.fixture(scope="module")
def round_folder(_needs_vllm: None, tmp_path_factory, embedded_model: Path, repository: Path) -> Path:
    """A round that is killed at step 5 or 6, goes on from step 4, and gets no new weights after step 8 on purpose."""
    config, folder = write_config(tmp_path_factory.mktemp("colocate"), embedded_model, 12, vllm_mode="colocate")
    log = config.with_name("log")
    first = train(config, repository)
    try:
        wait_for_lines(first, folder / "train.jsonl", 5, log)
    finally:
        kill(first)
    code, output = finish(train(config, repository, SECATEUR_STALE_AFTER="4"), log)
    assert code == 0, output[-3000:]
    assert "going on from" in output and "checkpoint-4" in output
    return folder


@pytest.fixture(scope="module")
def records(round_folder: Path) -> Records:
    return read_records(round_folder)


@pytest.mark.slow
def test_weights_arrive_before_and_after_a_kill(records: Records) -> None:
    assert sorted(records) == list(range(1, 13))
    print([round(mean_ratio(records, [step]), 4) for step in records])
    assert BAND[0] <= mean_ratio(records, SYNCED) <= BAND[1]
    assert max(differences(records, SYNCED)) < 0.005


@pytest.mark.slow
def test_the_check_sees_weights_that_do_not_arrive(records: Records) -> None:
    late = STALE[2:]  # three steps behind and more
    assert not BAND[0] <= mean_ratio(records, late) <= BAND[1]
    assert min(differences(records, STALE)) > 0.01


@pytest.mark.slow
def test_the_limit_holds_and_binds(records: Records) -> None:
    assert max(record["completions/max_length"] for record in records.values()) <= LIMIT
    assert any(record["completions/clipped_ratio"] > 0 for record in records.values())
    assert any(record["reward_std"] > 0 for record in records.values()), "a round without gradients proves nothing"


@pytest.mark.slow
def test_a_resumed_round_is_whole(round_folder: Path) -> None:
    training = read_json(round_folder / "training.json")
    assert training["steps"] == 12 and training["checkpoints"] == [2, 4, 6, 8, 10, 12]
