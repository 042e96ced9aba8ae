"""The plan of a judge's training against a training: pairs, steps, adapters, and what lies on the disk."""

import subprocess
import sys
from pathlib import Path

import pytest

from secateur.deepprune.judges.lora import LoraShape, add_lora
from secateur.engines.memory import total_bytes
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.launch_file import LaunchFile, read_launch_file
from tests.judge_traces import arguments, train, write_splits
from tests.real_models import write_config_folder
from trainers.dry_run.judge import judge_memory, judge_precision, plan_data, plan_judge, planned_steps
from trainers.judges.config import JudgeConfig

ONE = LaunchFile("x.yaml", 1, 1, 0, False, False)
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return write_splits(tmp_path_factory.mktemp("traces"), tiny_model)


def planned(traces: Path, model: Path, output: Path, **extra: object) -> JudgeConfig:
    return parse_config(JudgeConfig, arguments(traces, model, output, **extra, dry_run="true"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear_own_states", "linear", "pairwise"])
def test_a_training_does_what_was_planned(kind: str, traces: Path, tiny_model: Path, tmp_path: Path, capsys) -> None:
    options = {"kind": kind, "epochs": 1, "evaluations": 1, "prompt": "Same? {a} or {b}?"}
    config = planned(traces, tiny_model, tmp_path / "judge", **options)
    plan_judge(config)
    assert not (tmp_path / "judge").exists()
    metrics = train(traces, tiny_model, tmp_path / "judge", **options)
    data = plan_data(config)
    training = metrics["training"]
    assert (planned_steps(config, data), data.train.pairs) == (training["steps"], training["train_pairs"])
    assert data.others[1].pairs == metrics["pairs"]
    files = sum(path.stat().st_size for path in (tmp_path / "judge").rglob("*.safetensors"))
    if kind != "linear_own_states":
        assert judge_memory(config, ONE, 1, 10).disk()[0] == pytest.approx(files, rel=0.15)  # and a small head
    capsys.readouterr()
    plan_judge(config)
    assert "finished, nothing is left to do" in capsys.readouterr().out


def test_pairs_are_counted_as_the_judge_reads_them(traces: Path, tiny_model: Path, tmp_path: Path) -> None:
    from trainers.judges.data import load_judge_data
    from trainers.judges.trainee import build_trainee

    config = planned(traces, tiny_model, tmp_path, kind="pairwise", prompt="Same? {a} or {b}?")
    rows = [len(item.row) for item in build_trainee(config, load_judge_data(config)).items]
    plan = plan_data(config).train
    assert plan.pairs == len(rows)
    assert plan.tokens == pytest.approx(sum(rows), rel=0.02)  # training draws the order of the two cuts
    assert plan.longest >= max(rows) - 2


def test_adapters_are_counted_and_take_less_memory(traces: Path, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = planned(traces, tiny_model, tmp_path, kind="pairwise", lora_rank=4, dtype="bfloat16")
    model = add_lora(AutoModelForCausalLM.from_pretrained(tiny_model), LoraShape(4, 32.0, 0.0, "all-linear"))
    memory = judge_memory(config, ONE, 2, 100)
    assert memory.adapters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = judge_memory(planned(traces, tiny_model, tmp_path, kind="pairwise"), ONE, 2, 100)
    assert total_bytes(memory.items()) < total_bytes(whole.items())
    assert memory.disk()[1] < whole.disk()[1]


@pytest.mark.parametrize(
    ("launch", "dtype", "precision"),
    [
        ("zero2.yaml", "float32", "bf16"),
        ("single_gpu.yaml", "float32", "mixed"),
        ("cpu.yaml", "float32", "float32"),
        ("single_gpu.yaml", "bfloat16", "pure_bf16"),
    ],
)
def test_precision_is_that_of_the_launch(traces, tiny_model, tmp_path, launch, dtype, precision) -> None:
    config = planned(traces, tiny_model, tmp_path, kind="pairwise", dtype=dtype)
    assert judge_precision(config, read_launch_file(str(ROOT / "configs/accelerate" / launch))) == precision


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"kind": "linear", "accelerate_config": ROOT / "configs/accelerate/zero3.yaml"}, "up to ZeRO-2"),
        ({"kind": "pairwise", "pairs_per_step": 9, "accelerate_config": ROOT / "configs/accelerate/zero2.yaml"},
         "'pairs_per_step' has the value 9, no multiple of the 8 processes"),
        ({"kind": "linear", "gpu_memory_gib": 0}, "'gpu_memory_gib' has the value 0"),
    ],
)  # fmt: skip
def test_what_the_launch_would_refuse_is_refused(traces, tiny_model, tmp_path, extra, message) -> None:
    with pytest.raises(InputError, match=message):
        plan_judge(planned(traces, tiny_model, tmp_path, **{"problems_per_step": 8} | extra))


def test_a_plan_without_traces_tells_memory_and_what_would_help(tmp_path: Path, capsys) -> None:
    model = write_config_folder(tmp_path / "r1", "r1_distill_qwen_1.5b")
    plan_judge(planned(tmp_path / "none", model, tmp_path / "out", kind="pairwise", gpu_memory_gib=40))
    shown = capsys.readouterr().out
    for part in ("not there yet", "1,777,088,000 parameters", "does not fit in 40.0 GiB", "items_per_forward: 1",
                 "gradient_checkpointing: true", "lora_rank"):  # fmt: skip
        assert part in shown, shown


@pytest.mark.slow
def test_the_command_plans_and_leaves_nothing_behind(
    traces: Path, tiny_model: Path, tmp_path: Path, repository
) -> None:
    command = [
        sys.executable,
        "trainers/judge.py",
        *arguments(traces, tiny_model, tmp_path / "judge", kind="pairwise"),
    ]
    command += ["--accelerate_config", "configs/accelerate/cpu.yaml", "--dry_run", "true"]
    shown = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for part in ("DDP, 2 processes", "tokens read", "the judge in the end", "1,000 tokens/s is a unit"):
        assert part in shown.stdout, shown.stdout
    assert "…" not in shown.stdout
    assert not list(tmp_path.iterdir())
