"""ZeRO-1, 2 and 3 against DDP: the user's own launch, two processes, real DeepSpeed; ranks that die in between, and
a link between two machines that drops."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from schedules.export import is_training_state
from secateur.engines.memory import read_shape
from secateur.runtime.files import read_json
from secateur.runtime.launch_file import LaunchFile
from tests.launches import (
    DDP,
    ROUND,
    finish,
    kill_rank,
    launch,
    metrics,
    remove_stale_build_lock,
    training_record,
    wait_for_step,
    weights,
    write_config,
    zero,
)
from trainers.dry_run.disk import checkpoint_bytes
from trainers.dry_run.report import make_setting
from trainers.grpo.keys import PINNED

pytestmark = pytest.mark.slow
LENGTHS = ("num_tokens", "completions/mean_length", "completions/clipped_ratio")
EQUAL = ("loss", "reward", "reward_std", "entropy", *LENGTHS)


@pytest.fixture(scope="module", params=[1, 2, 3])
def sharded(request, tmp_path_factory) -> tuple[int, Path]:
    """Stage and run folder; under ZeRO-2 and ZeRO-3 one rank is killed in epoch 4 and the launch repeated."""
    pytest.importorskip("deepspeed")
    remove_stale_build_lock()
    stage = request.param
    run = tmp_path_factory.mktemp(f"zero-{stage}") / "run"
    config = write_config(run)
    if stage > 1:
        process = launch(config, zero(stage))
        wait_for_step(process, run, 6)
        kill_rank(process, rank=stage - 2)
        assert not (run / ROUND / "training.json").exists()
    output = finish(launch(config, zero(stage)))
    assert ("going on from" in output) == (stage > 1)
    return stage, run


def test_the_engine_is_what_the_launch_file_says(uninterrupted, sharded) -> None:
    assert training_record(uninterrupted)["engine"] == "DistributedDataParallel"
    assert (training_record(uninterrupted)["world_size"], training_record(uninterrupted)["zero_stage"]) == (2, 0)
    stage, run = sharded
    record = training_record(run)
    assert (record["engine"], record["world_size"], record["zero_stage"]) == ("DeepSpeedEngine", 2, stage)
    shards = list((run / ROUND / "checkpoint-8").glob("global_step8/*optim_states.pt"))
    assert len(shards) == 2, "each process saves its part of the optimiser"


def test_every_stage_trains_what_ddp_trains(uninterrupted, sharded) -> None:
    expected, found = metrics(uninterrupted), metrics(sharded[1])
    assert [record["step"] for record in found] == list(range(1, 9))
    for one, other in zip(expected, found, strict=True):
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], abs=1e-5)
        assert [other[key] for key in EQUAL] == pytest.approx([one[key] for key in EQUAL], abs=1e-6), one["step"]
    assert sum(record["grad_norm"] > 1e-3 for record in expected) >= 6, "steps without gradients prove nothing"


def test_every_stage_ends_in_plain_safetensors_with_the_same_weights(uninterrupted, sharded) -> None:
    for step in (4, 8):
        one, other = (
            AutoModelForCausalLM.from_pretrained(run / ROUND / f"checkpoint-{step}").state_dict()
            for run in (uninterrupted, sharded[1])
        )
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert other[name].dtype == torch.float32
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5, msg=name)
    assert read_json(sharded[1] / ROUND / "checkpoint-8/complete.json")["regular"] is True


def test_zero_3_with_weights_and_optimiser_in_host_memory_trains_the_same(uninterrupted, tmp_path) -> None:
    """The launch file that users have. DeepSpeed compiles its CPU optimiser at first use."""
    pytest.importorskip("deepspeed")
    remove_stale_build_lock()
    run = tmp_path / "run"
    finish(launch(write_config(run), ("configs/accelerate/zero3_offload.yaml", *zero(3)[1:])))
    assert training_record(run)["zero_stage"] == 3
    for one, other in zip(metrics(uninterrupted), metrics(run), strict=True):
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], abs=1e-4)
    AutoModelForCausalLM.from_pretrained(run / ROUND / "checkpoint-8")


def planned_and_real(run: Path, step: int, stage: int, model: Path) -> list[tuple[float, int]]:
    """Bytes of a checkpoint's model and of its training state, as the dry run has them and as they are."""
    checkpoint = run / ROUND / f"checkpoint-{step}"
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    real = {True: 0, False: 0}
    for path in files:
        real[is_training_state(path.relative_to(checkpoint).parts[0])] += path.stat().st_size
    launched = LaunchFile("", 2, 1, stage, False, False)
    setting = make_setting(read_shape(str(model)), PINNED | {"bf16": False}, launched, 908, 79.0)
    # The tokenizer is a fixed size beside a model of any size; here it is a sixtieth of it.
    return list(zip(checkpoint_bytes(setting), (real[False], real[True]), strict=True))


def test_checkpoints_are_of_the_planned_size(uninterrupted, sharded, embedded_model) -> None:
    stage, run = sharded
    both = planned_and_real(uninterrupted, 8, 0, embedded_model) + planned_and_real(run, 8, stage, embedded_model)
    for planned, real in both:
        assert planned == pytest.approx(real, rel=0.04)  # files of fixed size count beside so small a model


ADDRESSES, LINK = ("10.77.0.1", "10.77.0.2"), "secateur0"


def ip(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces with a link between them: all that a launch sees of two machines."""
    names = [f"secateur-{os.getpid()}-{rank}" for rank in (0, 1)]
    made = [ip("netns", "add", name) for name in names]
    linked = ip("link", "add", LINK, "netns", names[0], "type", "veth", "peer", "name", LINK, "netns", names[1])
    for name, address in zip(names, ADDRESSES, strict=True):
        linked = linked and ip("-n", name, "address", "add", f"{address}/24", "dev", LINK)
        linked = linked and ip("-n", name, "link", "set", LINK, "up") and ip("-n", name, "link", "set", "lo", "up")
    if linked:
        yield names
    for name, there in zip(names, made, strict=True):
        assert not there or ip("netns", "delete", name)
    if not linked:
        pytest.skip("this user may not make network namespaces")


def launch_on(machines: list[str], config: Path) -> list[subprocess.Popen]:
    """The command of the guide on each machine, one process there."""
    started = []
    for rank, name in enumerate(machines):
        place = ("--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank))
        address = ("--main_process_ip", ADDRESSES[0], "--main_process_port", "29577")
        inside = ("ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={LINK}")
        started.append(launch(config, (*DDP, *place, *address), inside=inside))
    return started


def lose_every_packet(machines: list[str], lost: bool) -> None:
    """Send what goes to the other machine to a network card that is none; nothing tells the sender so."""
    for name, other in zip(machines, reversed(ADDRESSES), strict=True):
        nowhere = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
        assert ip(
            "-n", name, "neighbour", *(["replace"] if lost else ["delete"]), other, *nowhere[: 4 * lost], "dev", LINK
        )


def test_a_link_that_drops_ends_both_launches_after_ddp_timeout_and_the_round_goes_on(
    machines, uninterrupted, tmp_path
) -> None:
    run = tmp_path / "run"
    config = write_config(run)
    config.write_text(config.read_text() + "ddp_timeout: 20\n")
    started = launch_on(machines, config)
    wait_for_step(started[0], run, 5)
    lose_every_packet(machines, True)
    for process in started:
        output = process.communicate(timeout=240)[0]  # of gloo's own 30 minutes nothing would be seen by then
        assert process.returncode == 1
        assert "has not answered for as long as 'ddp_timeout' allows" in output
    lose_every_packet(machines, False)
    first, second = launch_on(machines, config)
    assert "going on from" in finish(first)
    finish(second)
    assert metrics(run) == metrics(uninterrupted)
    assert weights(run) == weights(uninterrupted)
