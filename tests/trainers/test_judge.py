"""The judge trainer as users start it: on tiny trace folders, run again, and with bad input."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eval.prune import PruneConfig
from secateur.deepprune.judges.folder import load_judge
from secateur.deepprune.judges.record import JudgeFigures, JudgeMetrics, read_judge, read_metrics, worth_words
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_jsonl
from tests.judge_traces import METRICS, arguments, train, write_splits
from tests.launches import killed_before
from tests.next_words import next_words
from tests.offline_wandb import read_events, read_offline_run
from tests.tiny import build_tiny_model
from trainers.judge import run
from trainers.judges.config import JudgeConfig
from trainers.judges.training import finish_publishing, publish


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return write_splits(tmp_path_factory.mktemp("traces"), tiny_model)


def test_command_trains_reports_and_says_when_it_is_done(traces, tiny_model, tmp_path, repository):
    command = [sys.executable, "trainers/judge.py", *arguments(traces, tiny_model, tmp_path / "judge")]
    first = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    metrics = json.loads((tmp_path / "judge" / "metrics.json").read_text())
    assert metrics.keys() >= METRICS and metrics["kind"] == "linear_own_states"
    assert metrics["auroc"] > 0.9, "the planted colour was not learned"
    assert metrics["unseen_groups"] == ["elm"] and 0 <= metrics["auroc_unseen_groups"] <= 1
    assert metrics["baselines"].keys() == {"ngram", "values", "tfidf", "token_embedding", "random"}
    assert "test: AUROC " in first.stdout and "on unfinished pairs" in first.stdout
    assert f"open: {tmp_path / 'judge' / 'metrics.json'}\nnext: secateur prune" in first.stdout
    asked = parse_config(PruneConfig, next_words(first.stdout, "prune"))
    pays = read_judge(tmp_path / "judge").weight > 0
    assert (asked.model, asked.judge) == (str(tiny_model), str(tmp_path / "judge") if pays else None)
    calibration = metrics["calibration"]
    assert sum(b["pairs"] for b in calibration["reliability"]) == metrics["pairs"] and 0 <= calibration["ece"] <= 1
    assert load_judge(tmp_path / "judge", tiny_model).calibration.temperature == calibration["temperature"]
    assert metrics["pairs"] == metrics["unfinished"]["pairs"] == 6 * 28
    check_worth(read_metrics(tmp_path / "judge"), first.stdout, (tmp_path / "judge" / "README.md").read_text())
    stored = load_judge(tmp_path / "judge", tiny_model)
    assert (stored.weight, stored.verdict) == (metrics["weight"], metrics["verdict"])
    log = [record for _, record in read_jsonl(tmp_path / "judge" / "train.jsonl")]
    assert sum(record["training"] == "judge linear_own_states" for record in log) == 3
    assert load_judge(tmp_path / "judge", tiny_model).capture_layers == (0, 1, 2)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "judge").rglob("*")}
    run(parse_config(JudgeConfig, command[2:]))  # the same again: finished, nothing touched
    with pytest.raises(InputError, match="seed = 0, this run has 1"):
        run(parse_config(JudgeConfig, [*command[2:], "--seed", "1"]))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "judge").rglob("*")}


def check_worth(metrics: JudgeMetrics, printed: str, card: str) -> None:
    """The planted colour tells the answer, so the judge puts traces together rightly within their problems."""
    within, added = metrics.auroc_within_problems, metrics.adds_over_ahead
    assert within.value > 0.8 and within.ci95[0] <= within.value <= within.ci95[1]
    assert within.minus_ngram is not None and 0 <= within.problem_mean <= 1
    assert metrics.kappa.value > 0.5 and added is not None and added.problems == metrics.training.dev_problems
    assert metrics.oracle.saving.value >= added.saving.value - 0.05
    assert metrics.weight in (0, min(1, metrics.kappa.value))
    assert (metrics.weight > 0) == (added.saving.ci95[0] > 0 and added.accuracy.value >= -0.005)
    for sentence in worth_words(metrics):
        assert sentence in " ".join(printed.split()) and sentence in card.replace("\n", " ")


def test_same_seed_same_judge(traces, tiny_model, tmp_path):
    one, two = (train(traces, tiny_model, tmp_path / name, epochs=4) for name in ("one", "two"))
    assert one["roc"] == two["roc"] and one["baselines"] == two["baselines"]
    weights = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("kind", ["linear", "pairwise"])
def test_language_model_judges_train_from_the_same_folders(kind, traces, tiny_model, tmp_path):
    metrics = train(traces, tiny_model, tmp_path / kind, kind=kind, epochs=1, evaluations=1, prompt="Same? {a} {b}")
    assert metrics.keys() >= METRICS
    assert ("zero_shot" in metrics["baselines"]) == (kind == "pairwise")
    before = read_metrics(tmp_path / kind).baselines.get("zero_shot")
    assert before is None or (isinstance(before, JudgeFigures) and before.cost.parameters > 0)
    assert not (tmp_path / kind / "checkpoint").exists()
    assert load_judge(tmp_path / kind, tiny_model).name == kind


def logged(folder: Path) -> list[dict[str, JSON]]:
    return [{key: line[key] for key in line if key != "time"} for _, line in read_jsonl(folder / "train.jsonl")]


@pytest.mark.parametrize("damaged", [None, "model.safetensors", "optimizer.bin", "result.json"])
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(
    damaged, traces, tiny_model, tmp_path, monkeypatch, capsys
):
    """Also where its checkpoint has another byte."""
    options = {"kind": "linear", "epochs": 4, "evaluations": 3, "learning_rate": 1e-3}
    whole = train(traces, tiny_model, tmp_path / "whole", **options)

    from trainers.judges import fit as judge_fit

    save = judge_fit.Fit._save

    def killed(self: judge_fit.Fit, result: judge_fit.FitResult) -> None:
        save(self, result)
        if result.steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judge_fit.Fit, "_save", killed)  # right after the first evaluation is on disk
        with pytest.raises(KeyboardInterrupt):
            train(traces, tiny_model, tmp_path / "cut", **options)
    assert (tmp_path / "cut" / "checkpoint").is_dir() and not (tmp_path / "cut" / "judge.json").exists()
    if damaged:
        path = tmp_path / "cut" / "checkpoint" / damaged
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    resumed = train(traces, tiny_model, tmp_path / "cut", **options)
    assert ("passed over" in capsys.readouterr().out) == bool(damaged)
    assert resumed["roc"] == whole["roc"]
    assert resumed["training"]["steps"] == whole["training"]["steps"]
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_a_finished_judge_notices_other_weights_and_its_own_damage(traces, tiny_model, tmp_path):
    model, options = shutil.copytree(tiny_model, tmp_path / "model"), {"epochs": 2}
    train(traces, model, tmp_path / "judge", **options)
    train(traces, model, tmp_path / "judge", **options)  # nothing to do
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    with pytest.raises(InputError, match=r"judge: was begun with other weights in key 'model'"):
        train(traces, model, tmp_path / "judge", **options)
    shutil.copy(tiny_model / "config.json", model)
    head = tmp_path / "judge" / "head.safetensors"
    content = bytearray(head.read_bytes())
    content[-3] ^= 1
    head.write_bytes(content)
    for use in (lambda: train(traces, model, tmp_path / "judge", **options), lambda: load_judge(tmp_path / "judge")):
        with pytest.raises(InputError, match=r"head\.safetensors has another content than was saved; restore it"):
            use()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch'; did you mean 'epochs'"),
        ({"kind": "oracle"}, "'kind' has the value 'oracle'"),
        ({"width": 0}, "'width' has the value 0"),
        ({"kind": "pairwise", "prompt": "same?"}, "'prompt' must hold {a} and {b}"),
        ({"cut_k": 3}, "both 'cut_kind' and 'cut_k'"),
        ({"epochs": 0}, "a linear judge has to be trained"),
        ({"kind": "embedding", "epochs": 2}, "an embedding judge is not trained"),
        ({"lora_rank": 8}, "trains no language model"),
        ({"kind": "linear", "lora_dropout": 1}, "'lora_dropout' has the value 1"),
        ({"test": "{}"}, "'test' is empty"),
        ({"calibration": "isotonic"}, "'calibration' has the value 'isotonic'"),
    ],
)
def test_bad_settings_end_before_anything_is_read(extra, message, tmp_path):
    with pytest.raises(InputError) as refusal:
        parse_config(JudgeConfig, arguments(tmp_path / "nowhere", tmp_path, tmp_path / "out", **extra))
    assert message in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"layers": "[7]"}, "hold the layers [0, 1, 2]"),
        ({"cut_kind": "words", "cut_k": 3}, "were stored for a cut at 2 words"),
        ({"train": "nowhere"}, "no such folder of traces"),
        ({"kind": "linear", "dtype": "bfloat16"}, "needs weights in float32"),
    ],
)
def test_folders_that_do_not_fit_the_settings_are_named(extra, message, traces, tiny_model, tmp_path):
    with pytest.raises(InputError) as refusal:
        train(traces, tiny_model, tmp_path / "out", **extra)
    assert message in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_splits_that_share_a_problem_are_refused(traces, tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"problem 'p0' is in 'train' and in 'test'"):
        train(traces, tiny_model, tmp_path / "out", test=traces / "train")


def test_states_of_another_model_are_refused(traces, tmp_path):
    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="belongs to the model whose traces"):
        train(traces, other, tmp_path / "out")


@pytest.mark.slow
def test_two_processes_train_one_judge(traces, tiny_model, tmp_path, repository):
    launch = ["launch", "--main_process_port", "0", "--num_processes", "2"]
    launch += ["--config_file", "configs/accelerate/cpu.yaml", "trainers/judge.py"]
    options = arguments(traces, tiny_model, tmp_path / "judge", kind="linear", epochs=4)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("accelerate")), *launch, *options],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    one = train(traces, tiny_model, tmp_path / "one", kind="linear", epochs=4)
    two = json.loads((tmp_path / "judge" / "metrics.json").read_text())
    assert two["training"]["steps"] == one["training"]["steps"] and two["pairs"] == one["pairs"]
    assert two["auroc"] == pytest.approx(one["auroc"], abs=0.05)


@pytest.mark.slow
def test_wandb_and_tensorboard_get_the_figures(traces, tiny_model, tmp_path, repository):
    command = [sys.executable, "trainers/judge.py", *arguments(traces, tiny_model, tmp_path / "judge", epochs=4)]
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    command += ["--report_to", "wandb", "tensorboard"]
    subprocess.run(command, cwd=repository, env=os.environ | offline, check=True)
    [tracked] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    run_ = read_offline_run(tracked)
    assert (run_.group, run_.job_type) == ("judge", "judge")
    assert b"dev_auroc" in tracked.read_bytes() and b"test/auroc" in tracked.read_bytes()
    events = read_events(tmp_path / "judge" / "tensorboard")
    assert {"dev_auroc", "test/auroc"} <= set(events.scalars)


def test_a_kill_while_a_judge_is_published_costs_nothing(traces, tiny_model, tmp_path, monkeypatch):
    """Killed before every single change of the folder in turn; each start ends with the judge of one left alone."""
    options = {"kind": "linear", "epochs": 1, "evaluations": 1}
    train(traces, tiny_model, tmp_path / "whole", **options)
    whole = {path.name for path in (tmp_path / "whole").iterdir()} - {"README.md"}  # the card follows
    ready = tmp_path / "ready"

    def keep(folder: Path) -> None:
        shutil.copytree(folder, ready)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainers.judge.publish", keep)
        with pytest.raises(KeyboardInterrupt):
            train(traces, tiny_model, tmp_path / "begun", **options)
    for at in itertools.count():
        folder = tmp_path / f"killed-{at}"
        shutil.copytree(ready, folder)
        code = "import pathlib; from trainers.judges.training import publish\nBEGIN\n"
        killed = killed_before(at, f"{code}publish(pathlib.Path({str(folder)!r}))")
        finish_publishing(folder)
        if (folder / "best").exists():  # killed before the first change: measured once more
            publish(folder)
        assert {path.name for path in folder.iterdir()} == whole
        assert load_judge(folder).name == "linear"
        if not killed:
            break
    assert at >= 5
