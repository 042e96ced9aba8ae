"""What else the judge trainer can be asked for: adapters, small passes, models as they are, several test folders."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from secateur.deepprune.judges.folder import load_judge
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_jsonl
from secateur.runtime.records import read_with_checksums
from tests.judge_traces import METRICS, arguments, train, write_split, write_splits
from tests.tiny import build_tiny_model
from trainers.judge import run
from trainers.judges.config import JudgeConfig
from trainers.judges.data import load_judge_data


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return write_splits(tmp_path_factory.mktemp("traces"), tiny_model)


@pytest.mark.parametrize(("kind", "pairs_per_step"), [("linear", 4), ("pairwise", 8)])
def test_smaller_forward_passes_are_the_same_training(kind, pairs_per_step, traces, tiny_model, tmp_path):
    options = {"kind": kind, "epochs": 1, "evaluations": 3, "prompt": "Same? {a} {b}", "learning_rate": 1e-3}
    options |= {"pairs_per_step": pairs_per_step, "problems_per_step": 3, "test_pairs": 40, "dev_pairs": 40}
    options |= {"epochs": 0.4} if kind == "pairwise" else {}
    losses = []
    for size in (2, 100):
        train(traces, tiny_model, tmp_path / str(size), items_per_forward=size, **options)
        log = [record for _, record in read_jsonl(tmp_path / str(size) / "train.jsonl")]
        losses.append([record["loss"] for record in log if record["training"] == f"judge {kind}"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(set(losses[0])) > 1


@pytest.mark.parametrize("kind", ["linear", "pairwise"])
def test_lora_trains_and_leaves_a_plain_judge_folder(kind, traces, tiny_model, tmp_path):
    options = {"lora_rank": 4, "lora_dropout": 0.1, "gradient_checkpointing": True, "dtype": "bfloat16"}
    metrics = train(
        traces, tiny_model, tmp_path / "judge", kind=kind, epochs=1, evaluations=1, prompt="Same? {a} {b}", **options
    )
    assert metrics.keys() >= METRICS
    before = AutoModel.from_pretrained(tiny_model).state_dict()
    after = AutoModel.from_pretrained(tmp_path / "judge" / "model").state_dict()
    changed = {name for name in after if not torch.equal(after[name].float(), before[name].bfloat16().float())}
    assert changed and all("proj" in name for name in changed), "adapters sit on linear maps only"
    assert next(load_judge(tmp_path / "judge", tiny_model).model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["linear", "pairwise"])
def test_a_start_model_that_has_diverged_is_named(kind, traces, tiny_model, tmp_path):
    copy = tmp_path / "diverged"
    shutil.copytree(tiny_model, copy)
    weights = load_file(copy / "model.safetensors")
    next(iter(weights.values()))[0] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"diverged: its weights are not finite.*\(key 'dtype'\)"):
        train(traces, copy, tmp_path / "judge", kind=kind, generator=tiny_model, prompt="Same? {a} {b}")
    assert not (tmp_path / "judge" / "metrics.json").exists()


def test_a_model_can_be_measured_and_used_as_it_is(traces, tiny_model, tmp_path):
    options = {"kind": "pairwise", "epochs": 0, "dtype": "bfloat16", "prompt": "Same? {a} {b}"}
    values = arguments(traces, tiny_model, tmp_path / "judge", **options)
    place = values.index("--train")
    run(parse_config(JudgeConfig, values[:place] + values[place + 2 :]))
    metrics = json.loads((tmp_path / "judge" / "metrics.json").read_text())
    assert metrics.keys() >= METRICS and metrics["training"]["steps"] == 0 and metrics["unseen_groups"] == []
    assert metrics["baselines"].keys() == {"values", "tfidf", "token_embedding", "random"}
    assert sorted(path.name for path in (tmp_path / "judge").iterdir()) == [
        "README.md",
        "config.yaml",
        "judge.json",
        "metrics.json",
        "start_model.json",
    ]
    judge = load_judge(tmp_path / "judge", tiny_model)
    assert judge.calibration.temperature == metrics["calibration"]["temperature"]


def test_several_test_folders_get_a_row_each(traces, tiny_model, tmp_path, capsys):
    other = build_tiny_model(tmp_path / "other", seed=1)
    write_split(tmp_path / "other-test", other, 20, ["oak"])
    tests = f"{{base: {traces / 'test'}, other: {tmp_path / 'other-test'}}}"
    metrics = train(traces, tiny_model, tmp_path / "judge", epochs=10, test=tests, allow_other_model=True)
    assert metrics["models"].keys() == {"base", "other"}
    assert metrics["auroc"] == metrics["models"]["base"]["auroc"]
    assert metrics["models"]["other"]["auroc"] > 0.8, "the colour lies in the same place"
    printed = capsys.readouterr().out
    assert "base: AUROC" in printed and "other: AUROC" in printed
    with pytest.raises(InputError, match=r"key 'test.other': .*allow_other_model"):
        train(traces, tiny_model, tmp_path / "out", test=tests)


def test_traces_of_another_tokenizer_are_read_by_their_text(traces, tiny_model, tmp_path):
    """Token ids that do not spell the text belong to another family's model."""
    plain = load_judge_data(parse_config(JudgeConfig, arguments(traces, tiny_model, tmp_path, kind="pairwise")))
    shutil.copytree(traces / "test", tmp_path / "foreign")
    for path in (tmp_path / "foreign").glob("traces*.jsonl"):
        lines = [record for _, record in read_with_checksums(path, "")]
        for line in lines:
            line["token_ids"] = [index + 90000 for index in line["token_ids"]]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = arguments(traces, tiny_model, tmp_path, kind="pairwise", test=tmp_path / "foreign")
    foreign = load_judge_data(parse_config(JudgeConfig, options))
    for ours, theirs in zip(plain.tests["test"], foreign.tests["test"], strict=True):
        assert [cut.text for cut in ours.cuts] == [cut.text for cut in theirs.cuts]
        assert ours.whole == theirs.whole and ours.cut_shares == theirs.cut_shares


def test_auto_picks_the_cut_from_development_traces(traces, tiny_model, tmp_path, capsys):
    metrics = train(traces, tiny_model, tmp_path / "judge", kind="linear", cut_kind="auto", cut_share=0.4, epochs=0.2)
    cut = json.loads((tmp_path / "judge" / "judge.json").read_text())["cut"]
    config = parse_config(
        JudgeConfig,
        arguments(traces, tiny_model, tmp_path, kind="linear", cut_kind=cut["kind"], cut_k=cut["k"]),
    )
    shares = [share for problem in load_judge_data(config).dev for share in problem.cut_shares]
    assert abs(statistics.median(shares) - 0.4) <= 0.05 and metrics["whole_cut_share"] < 0.05
    assert metrics["cut_choice"].startswith(f"{cut['k']} ") and "over 48 development traces" in metrics["cut_choice"]
    assert metrics["cut_choice"][:60] in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"cut_kind": "auto"}, "states that a judge of kind"),
        ({"cut_kind": "auto", "cut_k": 3, "kind": "linear"}, "cut_kind auto picks it"),
        ({"cut_kind": "auto", "cut_share": 1.5, "kind": "linear"}, "'cut_share' has the value 1.5"),
    ],
)
def test_auto_refuses_what_does_not_go_with_it(keys, message, traces, tiny_model, tmp_path):
    with pytest.raises(InputError, match=message):
        parse_config(JudgeConfig, arguments(traces, tiny_model, tmp_path, **keys))


def test_most_cuts_whole_is_a_warning(traces, tiny_model, tmp_path, capsys):
    train(traces, tiny_model, tmp_path / "judge", kind="linear", cut_kind="words", cut_k=9, epochs=0.2)
    assert "100% of the cuts are whole traces" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.slow
def test_zero_2_trains_adapters_in_small_passes(traces, tiny_model, tmp_path, repository):
    """The way a 4B judge is trained; the same losses as in one process without DeepSpeed."""
    pytest.importorskip("deepspeed")
    launch = ["launch", "--main_process_port", "0", "--num_processes", "2", "--mixed_precision", "no", "--cpu"]
    launch += ["--config_file", "configs/accelerate/zero2.yaml", "trainers/judge.py"]
    options = {"kind": "pairwise", "epochs": 0.3, "evaluations": 2, "prompt": "Same? {a} {b}", "lora_rank": 4}
    options |= {"pairs_per_step": 8, "items_per_forward": 2, "dev_pairs": 40, "test_pairs": 40}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja, for DeepSpeed
    done = subprocess.run(
        [str(Path(sys.executable).with_name("accelerate")), *launch,
         *arguments(traces, tiny_model, tmp_path / "judge", **options)],
        cwd=repository, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    train(traces, tiny_model, tmp_path / "one", **options)
    logs = [[record for _, record in read_jsonl(tmp_path / name / "train.jsonl")] for name in ("judge", "one")]
    aurocs = [[r["dev_auroc"] for r in log if r["training"] == "judge pairwise"] for log in logs]
    assert aurocs[0] == pytest.approx(aurocs[1], abs=0.02)
