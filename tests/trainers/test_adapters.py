"""LoRA and QLoRA in a round: the merge against peft's own, what is refused, and real launches that are killed."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from schedules.choice import choose, pick_reference
from schedules.config import ScheduleConfig
from schedules.export import ADAPTER, drop_training_state, export_model
from schedules.integrity import damage
from schedules.records import VALIDATION, ValidationRecord, selection_record, write_selection, write_validation
from secateur.engines.memory import read_shape, total_bytes
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json, write_text
from secateur.runtime.launch_file import LaunchFile, check_sharding, read_launch_file
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
    write_config,
    zero,
)
from tests.schedules.candidates import candidate
from tests.tiny import build_tiny_model, build_tokenizer
from trainers.dry_run.disk import checkpoint_bytes
from trainers.dry_run.memory import model_states, peak
from trainers.dry_run.report import make_setting
from trainers.grpo.adapters import LastCompletions, Merging, adapter_shape, check_blocks, check_mergeable, merge
from trainers.grpo.handover import INDEX, check_launch, moved_share
from trainers.grpo.keys import PINNED, check_machine

LORA = "use_peft: true\nlora_r: 8\nlora_target_modules: all-linear\n"
EMBEDDED = Path(__file__).resolve().parent.parent.parent / "trainers" / "embedded_model"


def schedule(**keys) -> ScheduleConfig:
    known = {"model": str(EMBEDDED), "output_dir": "x", "limits": [140], "steps_per_round": 4}
    return ScheduleConfig(**known | {"problems": "a", "validation_problems": "b", "use_peft": True} | keys)


@pytest.fixture(params=[False, True], ids=["lora", "rslora"])
def adapted(request, tmp_path) -> tuple[Path, PeftModel]:
    """A model folder in two shards, and its adapter with an effect."""
    folder = build_tiny_model(tmp_path / "start")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink()
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.5, target_modules="all-linear", use_rslora=request.param)
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / ADAPTER)
    return folder, model.eval()


def test_a_merged_folder_is_the_model_with_its_adapter(adapted, tmp_path) -> None:
    """Transformers' own reader sees a plain model, even while the adapter still lies in its folder there."""
    start, model = adapted
    merged = tmp_path / "checkpoint-2"
    merged.mkdir()
    (tmp_path / ADAPTER).rename(merged / ADAPTER)
    merge(start, merged / ADAPTER, merged)
    assert len(list(merged.glob("model-*.safetensors"))) > 1 and not (merged / "model.safetensors").exists()
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    assert not hasattr(plain, "peft_config") and not any("lora" in name for name, _ in plain.named_parameters())
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
        assert (plain(ids).logits - model.get_base_model()(ids).logits).abs().max() < 1e-5
        with model.disable_adapter():
            assert (plain(ids).logits - model(ids).logits).abs().max() > 1e-3, "an adapter without effect"
    expected = model.merge_and_unload().state_dict()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_a_merge_rounds_to_the_precision_of_the_files_or_keeps_32_bits(adapted, tmp_path) -> None:
    start, _ = adapted
    for file in start.glob("*.safetensors"):
        save_file({name: one.bfloat16() for name, one in load_file(file).items()}, file, {"format": "pt"})
    shares = {}
    for dtype in (None, torch.float32):
        target = tmp_path / str(dtype)
        target.mkdir()
        merge(start, tmp_path / ADAPTER, target, dtype)
        kinds = {one.dtype for file in target.glob("*.safetensors") for one in load_file(file).values()}
        assert kinds == {dtype or torch.bfloat16}
        shares[dtype] = moved_share(start, target)
    assert read_json(tmp_path / "torch.float32" / "config.json")["dtype"] == "float32"
    assert 0 < shares[None] == shares[torch.float32] < 1, "compared in the coarser of both"


def test_the_share_that_moved_is_counted_in_the_coarser_precision(tmp_path) -> None:
    """Of eight weights two move by more than half a unit of bfloat16, one by less; the rest has no partner."""
    for name in ("start", "result"):
        (tmp_path / name).mkdir()
    before = torch.tensor([1.0, 1.0, 2.0, 2.0, 0.5, 0.5, -1.0, -1.0])
    after = before + torch.tensor([0, 2**-7, 2**-9, 0, 2**-8, 0, 0, 0])
    save_file({"a": before.bfloat16()}, tmp_path / "start" / "model.safetensors")
    save_file({"a": after, "tied": after.clone()}, tmp_path / "result" / "model.safetensors")
    assert moved_share(tmp_path / "start", tmp_path / "result") == 2 / 8
    assert moved_share(tmp_path / "start", tmp_path / "start") == 0
    (tmp_path / "result" / "model.safetensors").unlink()
    assert moved_share(tmp_path / "start", tmp_path / "result") is None


def test_what_a_merge_changed_is_measured_and_leaves_no_trace(adapted, tmp_path) -> None:
    """Nothing but rounding where the files have 32 bits; a change of the files is seen; no random number is drawn."""
    start, model = adapted
    merged = tmp_path / "merged"
    merged.mkdir()
    merge(start, tmp_path / ADAPTER, merged)
    model.train()
    completions = LastCompletions(reward, build_tokenizer())
    asked = [[{"role": "user", "content": f"{number} + 1"}] for number in range(20)]
    assert completions(prompts=asked, completion_ids=[list(range(3, 40))] * 20) == [0.0] * 20
    trainer = SimpleNamespace(model=model, accelerator=Accelerator(cpu=True))
    random = torch.get_rng_state()
    loss = Merging(trainer, start, None, completions).measure(merged)
    assert loss.tokens == 8 * 37 and loss.largest < 1e-4
    assert torch.equal(random, torch.get_rng_state()) and all(layer.training for layer in model.modules())
    assert Merging(trainer, start, None, completions).measure(start).mean_absolute > 1e-3, "without the adapter"


def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [0.0] * len(completion_ids)


def test_an_adapter_is_no_part_of_the_exported_model(adapted, tmp_path) -> None:
    start, _ = adapted
    merged = tmp_path / "checkpoint-2"
    (merged / ADAPTER).mkdir(parents=True)
    merge(start, tmp_path / ADAPTER, merged)
    export_model(str(merged), tmp_path / "final")
    assert not (tmp_path / "final" / ADAPTER).exists() and (tmp_path / "final" / INDEX).is_file()


@pytest.mark.bitsandbytes
def test_small_sums_outlive_the_next_quantization_only_in_the_weights_on_disk() -> None:
    """Why the merge does not go into the weights in memory: there each lies in the middle of its cell."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def held(weight: torch.Tensor) -> torch.Tensor:
        return dequantize_4bit(*quantize_4bit(weight, quant_type="nf4"))

    torch.manual_seed(0)
    stored = torch.randn(512, 512) * 0.02
    change = 2e-4 * torch.ones_like(stored)  # a hundredth of a weight
    in_memory = held(stored)
    kept = (held(stored + change) - in_memory).mean() / 2e-4
    lost = (held(in_memory + change) - in_memory).mean() / 2e-4
    assert 0.8 < kept < 1.2 and abs(lost) < 0.5 * kept


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora_target_modules": ["no_such"]}, "key 'lora_target_modules' has the value .*no_such.*not found"),
        ({"lora_target_modules": ["lm_head"]}, "'lm_head' is the output, but adapters are trained on linear layers"),
        ({"lora_target_modules": ["embed_tokens"]}, "'model.embed_tokens' is Embedding, but"),
        ({"lora_r": 0}, "key 'lora_r' has the value 0; it must be at least 1"),
        ({"lora_dropout": 1.0}, "key 'lora_dropout' has the value 1.0; give a fraction"),
        ({"use_peft": False, "load_in_4bit": True}, "key 'load_in_4bit' .* cannot be trained; set use_peft: true"),
    ],
)
def test_adapters_that_cannot_train_are_refused(keys, message) -> None:
    with pytest.raises(InputError, match=message):
        adapter_shape(schedule(**keys))


@pytest.mark.parametrize(
    ("keys", "values", "stage", "message"),
    [
        ({"load_in_4bit": True}, {"use_vllm": True}, 0, "TRL 1.16 sends vLLM the packed numbers"),
        ({"load_in_4bit": True}, {}, 2, "DeepSpeed cannot hold weights in 4 bits; launch without it"),
        ({}, {}, 3, "adapters were never tried under ZeRO-3"),
        ({"use_peft": False, "float32_handover": True}, {}, 3, "ZeRO-3 cannot be given 32-bit weights"),
        (
            {"use_peft": False, "float32_handover": True},
            {"model_init_kwargs": {"dtype": "bfloat16"}},
            0,
            "loads weights in 16 bits and nothing keeps others",
        ),
    ],
)
def test_launches_that_cannot_do_what_is_asked_are_refused(keys, values, stage, message) -> None:
    with pytest.raises(InputError, match=message):
        check_launch(schedule(**keys), values, stage)
    check_launch(schedule(), {"use_vllm": True}, 2)


@pytest.mark.parametrize(
    ("values", "four_bit", "extra"),
    [
        ({}, True, "4bit"),
        ({"optim": "adamw_8bit"}, False, "4bit"),
        ({"optim": "paged_adamw_8bit"}, False, "4bit"),
        ({"use_liger_kernel": True}, False, "liger"),
    ],
)
def test_an_extra_that_is_missing_is_named(values, four_bit, extra, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"pip install -e '\.\[{extra}\]'"):
        check_machine(values, 1, 0, True, four_bit)


def test_fsdp_is_refused_by_name(tmp_path, monkeypatch) -> None:
    write_text(tmp_path / "fsdp.yaml", "distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: 2}\n")
    with pytest.raises(InputError, match=r"fsdp\.yaml: distributed_type is FSDP; .*launch DeepSpeed"):
        read_launch_file(str(tmp_path / "fsdp.yaml"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="accelerate config of this launch: FSDP"):
        check_sharding()


def test_weights_that_are_packed_cannot_be_merged_into(tmp_path) -> None:
    write_json(tmp_path / INDEX, {"weight_map": {"model.layers.0.mlp.up_proj.qweight": "a.safetensors"}})
    with pytest.raises(InputError, match=r"holds no 'model\.layers\.0\.mlp\.up_proj\.weight'"):
        check_mergeable(tmp_path, ["model.layers.0.mlp.up_proj"])


def test_the_plan_knows_adapters() -> None:
    """Counted as peft counts them; memory by hand: 16 bytes of each, nothing but weights of all others."""
    keys = schedule(lora_r=8, lora_target_modules="all-linear")
    shape, adapters = read_shape(str(EMBEDDED)), adapter_shape(keys)
    config = LoraConfig(r=8, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(EMBEDDED), config)
    assert adapters.parameters == model.get_nb_trainable_parameters()[0]
    launched = LaunchFile("", 1, 1, 0, False, False)
    values = PINNED | {"bf16": False, "beta": 0.04}
    full, small = (make_setting(shape, values, launched, 908, 79.0, one) for one in (None, adapters))
    parts = {item.name: item.bytes for item in peak(small)}
    assert parts["frozen weights"] == 4 * shape.parameters
    assert parts["adapters, gradients, Adam's moments"] == 16 * adapters.parameters
    assert not any("reference" in name for name in parts), "it is the adapter switched off"
    assert checkpoint_bytes(small) == (2 * shape.parameters, 12 * adapters.parameters)
    assert checkpoint_bytes(dataclasses.replace(small, float32_handover=True))[0] == 4 * shape.parameters
    quantized = adapter_shape(dataclasses.replace(keys, load_in_4bit=True))
    four = make_setting(shape, values, launched, 908, 79.0, quantized)
    states = [total_bytes(model_states(one)) for one in (full, small, four)]
    assert states == sorted(states, reverse=True) and states[0] == 20 * shape.parameters > 3 * states[1]


def lora_config(run: Path, *more: str) -> Path:
    """Four steps and two checkpoints."""
    config = write_config(run)
    text = config.read_text(encoding="utf-8").replace("steps_per_round: 8", "steps_per_round: 4")
    write_text(config, text.replace("save_steps: 4", "save_steps: 2") + LORA + "".join(f"{one}\n" for one in more))
    return config


@pytest.fixture(scope="module")
def lora_round(tmp_path_factory) -> Path:
    """The run folder of a round under plain DDP that nothing interrupts; with a reference model."""
    run = tmp_path_factory.mktemp("lora") / "run"
    finish(launch(lora_config(run, "beta: 0.04")))
    return run


def state(run: Path, step: int) -> dict[str, bytes]:
    folder = run / ROUND / f"checkpoint-{step}"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_every_checkpoint_is_the_start_model_with_its_adapter(lora_round, tmp_path) -> None:
    assert training_record(lora_round)["engine"] == "DistributedDataParallel"
    logged = metrics(lora_round)
    assert logged[0]["kl"] == pytest.approx(0, abs=1e-6) and logged[-1]["kl"] > 0, "the reference is the start model"
    assert max(record["grad_norm"] for record in logged) > 1e-4, "without gradients this proves nothing"
    for step in (2, 4):
        folder = lora_round / ROUND / f"checkpoint-{step}"
        assert damage(folder) is None
        model = AutoModelForCausalLM.from_pretrained(EMBEDDED)
        expected = PeftModel.from_pretrained(model, folder / ADAPTER).merge_and_unload().state_dict()
        found = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), rtol=0, atol=1e-3)
    copy = shutil.copytree(folder, tmp_path / folder.name)
    drop_training_state(copy)
    assert damage(copy) is None and not (copy / ADAPTER).exists()


@pytest.mark.slow
def test_a_round_states_what_merging_changed_and_what_moved(lora_round) -> None:
    record = training_record(lora_round)
    loss = record["merge_loss"]
    assert loss["tokens"] > 200 and abs(loss["mean"]) <= loss["mean_absolute"] <= loss["largest"] < 0.05
    assert 0 < record["moved_share"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_a_killed_round_ends_in_the_same_adapters(stage, lora_round, tmp_path) -> None:
    """One process is killed after the first checkpoint, under plain DDP and under ZeRO-2."""
    if stage:
        pytest.importorskip("deepspeed")
        remove_stale_build_lock()
    run, how = tmp_path / "run", zero(stage) if stage else DDP
    config = lora_config(run, "beta: 0.04")
    process = launch(config, how)
    wait_for_step(process, run, 3)
    kill_rank(process, rank=1)
    assert "going on from" in finish(launch(config, how))
    assert training_record(run)["zero_stage"] == stage
    if stage == 0:
        assert metrics(run) == metrics(lora_round)
        assert state(run, 4) == state(lora_round, 4)
        return
    for one, other in zip(metrics(lora_round), metrics(run), strict=True):
        for key in ("grad_norm", "reward", "entropy", "completions/mean_length", "kl"):
            assert other[key] == pytest.approx(one[key], abs=1e-5), (one["step"], key)
    one, other = (
        load_file(path / ROUND / "checkpoint-4/default/adapter_model.safetensors") for path in (lora_round, run)
    )
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.bitsandbytes
@pytest.mark.slow
def test_weights_in_four_bits_train_beside_adapters(tmp_path) -> None:
    """On one process, with 8-bit Adam and a bonus on entropy, which an untrained model can learn from. What is handed
    on is a plain model in the precision of the start model."""
    pytest.importorskip("bitsandbytes")
    start, run = build_tiny_model(tmp_path / "start", hidden=64), tmp_path / "run"
    config = lora_config(run, "load_in_4bit: true", "optim: adamw_8bit", "entropy_coef: 0.1")
    write_text(config, config.read_text(encoding="utf-8").replace(str(EMBEDDED), str(start)))
    finish(launch(config, (*DDP, "--num_processes", "1")))
    record = training_record(run)
    assert record["moved_share"] > 0.1 and 0 < record["merge_loss"]["mean_absolute"] < 0.5
    folder = run / ROUND / "checkpoint-4"
    assert "quantization_config" not in read_json(folder / "config.json")
    adapter = load_file(folder / ADAPTER / "adapter_model.safetensors")
    assert {one.dtype for one in adapter.values()} == {torch.float32}
    AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.bitsandbytes
def test_rows_of_no_whole_blocks_are_refused_on_cpus() -> None:
    """The embedded model's are 96 wide: bitsandbytes 0.50 gives its weights back with an error of a fourth."""
    layers = pytest.importorskip("bitsandbytes").nn
    whole, broken = (layers.Linear4bit(width, 32, bias=False).to("cpu") for width in (128, 96))
    check_blocks(torch.nn.Sequential(whole))
    with pytest.raises(InputError, match=r"'0' has rows of 96, no multiple of 64, which bitsandbytes reads wrongly"):
        check_blocks(torch.nn.Sequential(broken))


@pytest.mark.slow
def test_the_next_round_starts_fresh_adapters_on_the_merged_model(tmp_path) -> None:
    """The choice between the rounds is made up: what two steps do to the length is chance."""
    run = tmp_path / "run"
    config = lora_config(run)
    text = config.read_text(encoding="utf-8").replace("limits: [140]", "limits: [140, 130]")
    write_text(config, text.replace("steps_per_round: 4", "steps_per_round: 2"))
    finish(launch(config))
    candidates = candidate(0, 0.5, 150.0), candidate(2, 0.5, 100.0)
    write_validation(run / ROUND / VALIDATION, ValidationRecord({}, candidates))
    chosen = choose(candidates, pick_reference(candidates[0], candidates[0], "best_so_far"), 0.1)
    write_selection(run / ROUND, selection_record(140, str(EMBEDDED), chosen, "made up"))
    finish(launch(config))
    start, result = run / ROUND / "checkpoint-2", run / "rounds" / "2-limit-130" / "checkpoint-2"
    assert not any("lora" in name for name in load_file(result / "model-00001-of-00001.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(start)
    expected = PeftModel.from_pretrained(model, result / ADAPTER).merge_and_unload().state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(result).state_dict().items():
        torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_32_bits_go_through_a_round_under_zero(tmp_path) -> None:
    """Steps of size 0 in bf16: what comes out is, bit by bit, what went in, though no weight of it fits 16 bits."""
    pytest.importorskip("deepspeed")
    remove_stale_build_lock()
    start = tmp_path / "start"
    shutil.copytree(EMBEDDED, start)
    weights = {name: one.float() * (1 + 2**-13) for name, one in load_file(start / "model.safetensors").items()}
    save_file(weights, start / "model.safetensors", {"format": "pt"})
    run = tmp_path / "run"
    config = lora_config(run)
    text = (
        config.read_text(encoding="utf-8")
        .replace(LORA, "float32_handover: true\n")
        .replace(str(EMBEDDED), str(start))
    )
    for there, now in (
        ("steps_per_round: 4", "steps_per_round: 2"),
        ("1.0e-3", "0.0"),
        ("bf16: false", "bf16: true"),
    ):
        text = text.replace(there, now)
    write_text(config, text)
    finish(launch(config, (*zero(2)[:-1], "bf16")))
    result = load_file(run / ROUND / "checkpoint-2" / "model.safetensors")
    for name, tensor in weights.items():
        assert result[name].dtype == torch.float32 and torch.equal(result[name], tensor), name
    assert training_record(run)["moved_share"] == 0
    assert read_json(run / ROUND / "checkpoint-2" / "config.json")["dtype"] == "float32"
