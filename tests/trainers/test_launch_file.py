"""Accelerate configs that would train wrongly without a word are refused before anything is loaded."""

import json
from pathlib import Path

import pytest

from secateur.runtime.errors import InputError
from secateur.runtime.files import write_text
from secateur.runtime.launch_file import check_saves_weights, read_launch_file


def launch_yaml(folder: Path, **values) -> str:
    write_text(folder / "launch.yaml", json.dumps({"num_processes": 2, **values}))
    return str(folder / "launch.yaml")


@pytest.mark.parametrize("gather", [False, None])
def test_zero_3_that_saves_no_weights_is_refused(tmp_path, gather) -> None:
    plugin = {"zero_stage": 3} | ({} if gather is None else {"zero3_save_16bit_model": gather})
    with pytest.raises(InputError, match=r"launch\.yaml: ZeRO-3 .* set zero3_save_16bit_model: true"):
        read_launch_file(launch_yaml(tmp_path, distributed_type="DEEPSPEED", deepspeed_config=plugin))


def test_the_same_in_a_deepspeed_file(tmp_path) -> None:
    engine = tmp_path / "engine.json"
    write_text(engine, json.dumps({"zero_optimization": {"stage": 3}}))
    path = launch_yaml(
        tmp_path, distributed_type="DEEPSPEED", deepspeed_config={"deepspeed_config_file": str(engine)}
    )
    with pytest.raises(InputError, match=r"engine\.json: ZeRO-3 .* stage3_gather_16bit_weights_on_model_save: true"):
        read_launch_file(path)
    gathered = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "offload_optimizer": {"device": "cpu"}}
    write_text(engine, json.dumps({"zero_optimization": gathered}))
    launch = read_launch_file(path)
    assert (launch.stage, launch.offload_optimizer, launch.offload_parameters) == (3, True, False)


@pytest.mark.parametrize("gather", [False, True])
def test_a_running_launch_is_checked_as_well(gather) -> None:
    pytest.importorskip("deepspeed")
    from accelerate import DeepSpeedPlugin

    zero = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": gather}
    for plugin in (
        DeepSpeedPlugin(zero_stage=3, zero3_save_16bit_model=gather),
        DeepSpeedPlugin(hf_ds_config={"zero_optimization": zero, "train_micro_batch_size_per_gpu": "auto"}),
    ):
        if gather:
            check_saves_weights(plugin)
        else:
            with pytest.raises(InputError, match="ZeRO-3 would save checkpoints without model weights"):
                check_saves_weights(plugin)
    check_saves_weights(None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"distributed_type": "MULTI_CPU"}, "MULTI_CPU; expected one of .* that is DDP on CPUs"),
        ({"distributed_type": "FSDP"}, "distributed_type is FSDP"),
        ({"num_processes": 7, "num_machines": 2}, "num_processes is 7, no multiple of num_machines = 2"),
    ],
)
def test_launches_that_would_go_wrong_in_silence_are_refused(tmp_path, values, message) -> None:
    with pytest.raises(InputError, match=message):
        read_launch_file(launch_yaml(tmp_path, **values))
