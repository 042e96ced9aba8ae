"""The plan of a run against what really happens: parameters, saved activations, DeepSpeed's own figures."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from schedules.choice import choose, pick_reference
from schedules.config import ScheduleConfig
from schedules.records import selection_record, write_selection
from schedules.rounds import make_rounds
from secateur.engines.memory import ModelShape, read_shape, shape_of, total_bytes
from secateur.runtime.errors import InputError
from secateur.runtime.files import append_jsonl
from secateur.runtime.launch_file import LaunchFile, read_launch_file
from tests.real_models import DECODERS, write_config_folder, write_problems
from tests.schedules.candidates import candidate
from trainers.dry_run.disk import plan_disk
from trainers.dry_run.hours import Amounts, Work, plan_hours
from trainers.dry_run.memory import (
    TILE_TOKENS,
    TILE_VOCABULARY,
    Setting,
    activations,
    colocated_room,
    host_bytes,
    layer_bytes,
    model_states,
    peak,
)
from trainers.dry_run.report import (
    make_setting,
    plan_rounds,
    precision_of,
    remedies,
    show_memory,
)
from trainers.grpo.keys import PINNED, BatchSizes

SHAPE = ModelShape(1_777_088_000, 28, 1536, 8960, 12, 2, 128, 151936, 233_373_696, False, False)
SETTING = Setting(
    shape=SHAPE,
    processes=8,
    stage=2,
    precision="bf16",
    offload_optimizer=False,
    offload_parameters=False,
    checkpointing=True,
    reference=False,
    rows=4,
    tokens=4768,
    sampled_rows=256,
    sampler="server",
    share=0.3,
    sleep=False,
    tensor_parallel=1,
    device_bytes=79 * 2**30,
)


def change(**changes) -> Setting:
    return dataclasses.replace(SETTING, **changes)


@pytest.mark.parametrize(("name", "parameters"), [(name, entry["parameters"]) for name, entry in DECODERS.items()])
def test_published_models_have_exactly_their_parameters(tmp_path, name, parameters) -> None:
    assert read_shape(str(write_config_folder(tmp_path / name, name))).parameters == parameters


def test_the_shape_of_a_model_on_disk_is_exact(embedded_model) -> None:
    shape = read_shape(str(embedded_model))
    model = AutoModelForCausalLM.from_pretrained(embedded_model)
    assert shape.parameters == model.num_parameters()
    assert shape.qk_norm  # Qwen3
    assert shape.kv_bytes == 2 * 2 * model.config.num_hidden_layers * 32  # one head of 32, keys and values, 2 bytes


def test_a_model_that_cannot_be_reached_is_the_users_error() -> None:
    with pytest.raises(InputError, match="'owner/name': nothing can be planned without its architecture"):
        read_shape("owner/name")


@pytest.mark.parametrize("processes", [1, 2, 8, 64])
@pytest.mark.parametrize("parameters", [1_777_088_000, 7_615_616_512])
def test_zero_2_needs_what_deepspeed_says(processes, parameters) -> None:
    stage_2 = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    shape = dataclasses.replace(SHAPE, parameters=parameters)
    ours = total_bytes(model_states(change(shape=shape, processes=processes)))
    estimate = stage_2.estimate_zero2_model_states_mem_needs
    assert ours == pytest.approx(estimate(parameters, processes, cpu_offload=False)[1], rel=1e-6)
    offloaded = change(shape=shape, processes=processes, offload_optimizer=True)
    host, gpu = estimate(parameters, processes, cpu_offload=True)
    assert (total_bytes(model_states(offloaded)), host_bytes(offloaded, 1)) == (gpu, host)


@pytest.mark.parametrize("processes", [8, 32])
def test_zero_3_needs_what_deepspeed_says_and_its_16_bit_gradients(processes) -> None:
    stage_3 = pytest.importorskip("deepspeed.runtime.zero.stage3")
    parameters = 32_763_876_352
    shape = dataclasses.replace(SHAPE, parameters=parameters)
    ours = total_bytes(model_states(change(shape=shape, processes=processes, stage=3)))
    theirs = stage_3.estimate_zero3_model_states_mem_needs(parameters, 0, processes, cpu_offload=False)[1]
    gradients = min(2 * parameters / processes, ours - theirs)  # theirs counts 18 bytes, without those
    assert abs(ours - theirs - gradients) <= 4 * max(0, parameters / processes - 1e9)
    offloaded = change(shape=shape, processes=processes, stage=3, offload_optimizer=True, offload_parameters=True)
    host = stage_3.estimate_zero3_model_states_mem_needs(parameters, 0, processes // 2, 2, cpu_offload=True)[0]
    assert host_bytes(offloaded, machines=2) == host


KINDS = {"Qwen2": (Qwen2Config, Qwen2ForCausalLM), "Qwen3": (Qwen3Config, Qwen3ForCausalLM)}
PRECISIONS = {
    "bf16": (torch.bfloat16, False),
    "mixed": (torch.float32, True),
    "float32": (torch.float32, False),
}
WITH_ADAPTERS = PRECISIONS | {"pure_bf16": (torch.bfloat16, True)}
ROWS, TOKENS = 2, 96


def saved_bytes(
    kind: str, layers: int, precision: str, checkpointing: bool, dropout: float | None = None
) -> tuple[float, ModelShape]:
    """Bytes that PyTorch keeps for the backward pass of a real model, its parameters not counted; `dropout`: of
    adapters, if it has any."""
    config_class, model_class = KINDS[kind]
    config = config_class(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    dtype, autocast = WITH_ADAPTERS[precision]
    model = model_class(config).to(dtype).train()
    shape = shape_of(model, config)
    if dropout is not None:
        lora = LoraConfig(r=1, target_modules="all-linear", lora_dropout=dropout)
        model = get_peft_model(model, lora).get_base_model().train()
        if precision == "bf16":
            model = model.to(dtype)  # as DeepSpeed has them
    if checkpointing:
        model.gradient_checkpointing_enable()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids, mask = torch.zeros(ROWS, TOKENS, dtype=torch.long), torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask[0, :5] = 0  # a padded row, as in training
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert output.requires_grad
    return sum(kept.values()), shape


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_keeps_what_pytorch_keeps(kind, precision) -> None:
    small, large = (saved_bytes(kind, layers, precision, checkpointing=False) for layers in (2, 4))
    measured = (large[0] - small[0]) / 2
    setting = change(shape=large[1], precision=precision, rows=ROWS, tokens=TOKENS)
    expected = layer_bytes(setting) * ROWS * TOKENS
    if precision == "mixed":  # 16-bit copies of the layer's matrices, an item of their own in the plan
        hidden, heads, width = large[1].hidden, large[1].heads + large[1].kv_heads, large[1].intermediate
        expected += 2 * (2 * hidden * heads * large[1].head_dim + 3 * hidden * width)
    assert measured == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", WITH_ADAPTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_with_adapters_keeps_what_pytorch_keeps(kind, precision, dropout) -> None:
    small, large = (saved_bytes(kind, layers, precision, False, dropout) for layers in (2, 4))
    measured = (large[0] - small[0]) / 2
    setting = change(shape=large[1], precision=precision, rows=ROWS, tokens=TOKENS, adapters=1, dropout=dropout > 0)
    expected = layer_bytes(setting) * ROWS * TOKENS
    shape = large[1]
    if precision == "mixed":  # 16-bit copies of the layer's matrices
        expected += 2 * (2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_dim)
        expected += 2 * 3 * shape.hidden * shape.intermediate
    assert measured == pytest.approx(expected, rel=0.03)  # the adapters' own 16-bit copies, and what they have inside


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_checkpointing_keeps_the_input_of_each_layer(precision) -> None:
    small, large = (saved_bytes("Qwen2", layers, precision, checkpointing=True) for layers in (2, 4))
    setting = change(shape=large[1], precision=precision, rows=ROWS, tokens=TOKENS)
    assert large[0] - small[0] == activations(setting)[0].bytes / 2


def test_the_tile_of_the_output_layer_is_that_of_trl() -> None:
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    assert (TILE_TOKENS, TILE_VOCABULARY) == (chunked_logprob.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE)


@given(st.sampled_from([1, 2, 3]), st.sampled_from([2, 4, 8]), st.booleans(), st.sampled_from([1, 2, 4]))
def test_more_sharding_and_smaller_batches_never_need_more(stage, processes, checkpointing, rows) -> None:
    here = change(stage=stage, processes=processes, checkpointing=checkpointing, rows=rows)
    for less in ({"processes": 2 * processes}, {"rows": max(1, rows // 2)}, {"checkpointing": True}):
        assert total_bytes(peak(dataclasses.replace(here, **less))) <= total_bytes(peak(here))
    with_reference = dataclasses.replace(here, reference=True)
    assert total_bytes(peak(with_reference)) > total_bytes(peak(here))


def test_what_does_not_fit_comes_with_remedies_that_help() -> None:
    setting = change(sampler="colocate", share=0.6, rows=16, reference=True)
    now = total_bytes(peak(setting))
    assert now > setting.device_bytes
    offered = remedies(setting)
    assert [size for _, size in offered] == sorted(size for _, size in offered)
    assert all(size < now for _, size in offered)
    words = " ".join(word for word, _ in offered)
    assert all(key in words for key in ("vllm_enable_sleep_mode", "per_device_train_batch_size: 8", "beta: 0"))


def test_vllm_holds_fewer_sequences_in_less_memory_and_none_in_too_little() -> None:
    rooms = [colocated_room(change(sampler="colocate", share=share))[0] for share in (0.6, 0.3, 0.05, 0.01)]
    assert rooms == sorted(rooms, reverse=True)
    assert rooms[-1] == 0
    assert colocated_room(change(tensor_parallel=2))[1] == 512


LAUNCH = LaunchFile("x.yaml", 8, 1, 2, False, False)
VALUES = PINNED | {"num_generations": 16, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 64}


@pytest.mark.parametrize(
    ("values", "stage", "precision"),
    [
        ({}, 2, "bf16"),
        ({}, 0, "mixed"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, 0, "pure_bf16"),
        ({"bf16": False}, 3, "float32"),
        ({"fp16": True}, 2, "bf16"),
    ],
)
def test_precision_is_what_the_keys_make_it(values, stage, precision) -> None:
    assert precision_of(PINNED | values, dataclasses.replace(LAUNCH, stage=stage)) == precision


def test_rounds_count_steps_prompts_epochs_and_samples() -> None:
    values = VALUES | {"save_steps": 20}
    rounds = plan_rounds(make_rounds([4000, 3000], [180, 50]), BatchSizes(128, 1.0), values, 2470, 960)
    assert [(entry.prompts, entry.completions, entry.checkpoints) for entry in rounds] == [
        (23040, 368640, 9),
        (6400, 102400, 3),  # 20, 40, and the last step
    ]
    assert rounds[0].epochs == pytest.approx(9.33, abs=0.01)
    assert [entry.validated for entry in rounds] == [10 * 960, 3 * 960]
    assert rounds[1].tokens == 102400 * 3000


def test_a_limit_that_is_not_drawn_yet_is_planned_with_the_most_it_can_be() -> None:
    values = VALUES | {"num_generations": 16, "save_steps": 20}
    rounds = plan_rounds(make_rounds([4000, "auto"], 180), BatchSizes(128, 1.0), values, 2470, 960)
    assert [entry.round.name for entry in rounds] == ["1-limit-4000", "2-limit-auto"]
    assert rounds[0].tokens == rounds[1].tokens


def hours_of(run: Path, **changes: Any) -> list[Work]:
    """Of three rounds on 8 processes, 9 checkpoints each, 60 problems × 16 samples: the numbers of the paper."""
    keys = {"model": "owner/model", "output_dir": str(run), "limits": [4000, 3000, 2000], "steps_per_round": 180}
    schedule = ScheduleConfig(**keys, problems="p", validation_problems="v", **changes)
    return plan_hours(schedule, 8, Amounts(3.2e9, 2048, [9, 9, 9], 60))


def test_hours_are_tokens_over_the_speed_that_is_told(tmp_path) -> None:
    training, full, raced = hours_of(tmp_path, tokens_per_second=2000.0)
    assert training.speed.hours(training.tokens) == pytest.approx(1.6e9 / 16000 / 3600)
    assert (full.tokens, full.most) == (28 * 960 * 16000, 28 * 960 * 32000)  # half the cap, and the cap
    assert raced.tokens == 60 * (16 + 3 * (16 + 8 * 2)) * 16000
    assert "gradients" in training.speed.source and "unit" not in training.speed.source
    assert "unit" in hours_of(tmp_path)[1].speed.source
    (on_fewer,) = {one.speed.tokens_per_second for one in hours_of(
        tmp_path, validation_engine="vllm", validation_engine_options={"tensor_parallel_size": 4}
    )[1:]}  # fmt: skip
    assert on_fewer == 2 * 1000.0


def test_hours_are_those_that_the_run_has_measured(tmp_path) -> None:
    folder = tmp_path / "rounds" / "1-limit-4000"
    times = [100.0, 110.0, 120.0, 5000.0, 5010.0]  # stopped for a while, and gone on
    step = {"completions/mean_length": 1000.0, "limit": 4000}
    append_jsonl(folder / "train.jsonl", [{"time": at, **step} for at in times])
    append_jsonl(folder / "validation" / "wall-rank0.jsonl", [{"model": "start", "tokens": 5000, "seconds": 2.0}])
    append_jsonl(folder / "validation" / "wall-rank1.jsonl", [{"model": "start", "tokens": 3000, "seconds": 2.0}])
    training, full, _ = hours_of(tmp_path, tokens_per_second=1.0)
    assert training.speed.tokens_per_second == 2048 * 1000 / 10
    assert training.tokens == training.most / 4, "completions have a quarter of their limit"
    assert full.speed.tokens_per_second == 8 * 8000 / 4.0
    start, other = candidate(0, 0.5, 8000.0), candidate(20, 0.5, 6000.0)
    choice = choose([start, other], pick_reference(start, start, "original"), 0.1)
    write_selection(folder, selection_record(4000, "owner/model", choice, ""))
    full = hours_of(tmp_path)[1]
    assert full.tokens == pytest.approx(960 * (8000 + 27 * 6000)), "what comes next starts from the choice"
    write_selection(tmp_path / "rounds" / "2-limit-3000", selection_record(3000, "rounds/1", choice, ""))
    assert hours_of(tmp_path)[1].tokens == full.tokens, "a later start model is not sampled anew"


def test_disk_follows_the_pruning_rule() -> None:
    setting = make_setting(SHAPE, VALUES, LAUNCH, 4768, 79.0)
    rounds = plan_rounds(make_rounds([4000, 3000], 180), BatchSizes(128, 1.0), VALUES | {"save_steps": 20}, 2470, 960)
    kept, chosen = (plan_disk(setting, [plan.checkpoints for plan in rounds], keep) for keep in ("all", "chosen"))
    assert kept.end == 18 * kept.weights + kept.weights  # every checkpoint, and final/
    assert chosen.end == 2 * chosen.weights + chosen.weights
    assert kept.peak == 18 * kept.weights + 3 * kept.state
    assert chosen.peak == 10 * chosen.weights + 3 * chosen.state


def test_a_launch_on_cpus_is_planned_with_the_memory_of_the_machine(tmp_path, capsys) -> None:
    """No GPU, no CUDA and no DeepSpeed is spoken of, and a process has its share of this machine."""
    launch = read_launch_file("configs/accelerate/cpu.yaml")
    shape = read_shape(write_config_folder(tmp_path / "model", "r1_distill_qwen_1.5b"))
    values = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "beta": 0.04}
    setting = make_setting(shape, values, launch, 400_000, 79.0)
    assert setting.on_cpu and setting.device_bytes == psutil.virtual_memory().total / 2
    assert not any("CUDA" in item.name for item in peak(setting))
    show_memory(setting, launch)
    shown = capsys.readouterr().out
    assert "host memory of a process at the worst moment" in shown and "does not fit" in shown
    assert "per_device_train_batch_size: 1" in shown
    assert not any(word in shown for word in ("GPU", "gpu", "vllm", "zero", "card"))


def test_a_dry_run_prints_the_whole_plan_and_leaves_nothing_behind(tmp_path, repository) -> None:
    """The command of the README on a real architecture without weights, on a machine without a GPU."""
    model = write_config_folder(tmp_path / "model", "r1_distill_qwen_1.5b")
    problems, others = (write_problems(tmp_path / f"{name}.jsonl", count) for name, count in (("a", 40), ("b", 41)))
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "trainers/grpo_len.py", "--config", "configs/thinkprune/r1_distill_qwen_1.5b.yaml"]
    command += ["--accelerate_config", "configs/accelerate/zero2.yaml", "--dry_run", "true", "--report_to", "none"]
    command += ["--model", str(model), "--problems", str(problems), "--validation_problems", str(others)]
    command += ["--decontaminate", "[]", "--max_prompt_tokens", "2000", "--output_dir", str(tmp_path / "run")]
    shown = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for part in (
        "1,777,088,000 parameters",
        "ZeRO-2, 8 processes",
        "128 prompts × 16 = 2048 completions",
        "40 of 40 problems",
        "3-limit-2000",
        "fits in 79.0 GiB",
        "room for",
        "the run folder at the worst moment",
        "validation, all samples",
        "validation, raced: at least",
        "8 × 1,000, no measurement but a unit",
    ):
        assert part in shown.stdout, shown.stdout
    assert "…" not in shown.stdout.partition("round ")[2].partition("\n\n")[0], "a number was cut off"
    assert sorted(tmp_path.rglob("*")) == before
