"""Judge sweeps: earlier cuts from stored states, cells that are not trained twice, and the figures' arithmetic."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from secateur.deepprune.cut import CutRule, cut_pieces
from secateur.deepprune.judges import metrics
from secateur.engines.detokenize import Detokenizer
from secateur.engines.model_files import load_tokenizer
from secateur.engines.trace_folder import TraceFolderWriter
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.files import model_fingerprint
from secateur.tasks.records import Trace
from trainers.judge import run as run_judge
from trainers.judge_sweep import claim_folder, run
from trainers.judges.config import JudgeConfig
from trainers.judges.data import load_judge_data
from trainers.sweep.config import CutAgain, JudgeSweepConfig
from trainers.sweep.summary import SweepFigure, auroc_estimate, draw_problems, tnr_estimate

WORDS = ("red", "green", "blue")
LARGEST = CutRule("words", 3)


def write_split(folder: Path, model: Path, first: int) -> None:
    """Four problems of six traces; the answer is stated and is in the states from the third token on. Every other
    trace ends before its third reasoning word."""
    rng, tokenizer = np.random.default_rng(first), AutoTokenizer.from_pretrained(model)
    detokenizer = Detokenizer(load_tokenizer(model))
    cut = {"kind": LARGEST.kind, "k": LARGEST.k}
    settings = {"model": model_fingerprint(model), "prompt_family": "plain", "cut": cut, "layers": [0, 1]}
    with TraceFolderWriter(folder, settings) as writer:
        for number in range(first, first + 4):
            for sample in range(6):
                colour = int(rng.integers(3))
                middle = " But so it is." if sample % 2 else " Well."
                text = f"So {WORDS[colour]}. Then{middle}</think>\\boxed{{{WORDS[colour]}}}"
                ids = tuple(tokenizer(text)["input_ids"])
                stream = detokenizer.stream()
                tokens = cut_pieces([stream.push(token) for token in ids], LARGEST).n_tokens
                states = torch.from_numpy(rng.normal(size=((tokens or len(ids)) - 1, 2, 32))).half()
                states[2:, 1, colour] = 20
                trace = Trace(f"p{number}", f"Which of {number:02}?", "red", sample, text, "m", ids, len(ids), "stop")
                writer.add(trace, cut_tokens=tokens, states=states)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("sweep-traces")
    for split, first in (("train", 0), ("dev", 10), ("test", 20)):
        write_split(folder / split, tiny_model, first)
    return folder


def options(traces: Path, model: Path, output: Path, **extra: object) -> dict[str, object]:
    values = {split: str(traces / split) for split in ("train", "dev", "test")}
    values |= {"model": str(model), "output_dir": str(output), "epochs": 4, "evaluations": 2, "heads": 2, "width": 8}
    return values | {"learning_rate": 0.01, "problems_per_step": 2} | extra


@pytest.mark.parametrize("rule", [CutRule("words", 1), CutRule("words", 2), LARGEST, CutRule("tokens", 5)])
def test_an_earlier_cut_is_the_beginning_of_the_stored_one(rule, traces, tiny_model, tmp_path):
    own = JudgeConfig(**options(traces, tiny_model, tmp_path))
    stored, earlier = load_judge_data(own), CutAgain(own).at(rule)
    asked = dataclasses.replace(own, cut_kind=rule.kind, cut_k=rule.k)
    as_text, at_once = load_judge_data(dataclasses.replace(asked, kind="linear")), load_judge_data(asked)
    assert at_once.cut_rule == rule and load_judge_data(asked, with_states=False).dev[0].cuts[0].states is None
    for found, same in zip(earlier.dev, at_once.dev, strict=True):  # trainers/judge.py --cut_k
        assert (found.whole, found.cut_shares) == (same.whole, pytest.approx(same.cut_shares))
        assert all(torch.equal(cut.states, own.states) for cut, own in zip(found.cuts, same.cuts, strict=True))
    for found, text, before in zip(earlier.dev, as_text.dev, stored.dev, strict=True):
        assert (found.whole, found.cut_shares) == (text.whole, pytest.approx(text.cut_shares))
        assert found.pairs.unfinished.tolist() == text.pairs.unfinished.tolist()
        assert found.pairs.labels.tolist() == before.pairs.labels.tolist()
        for cut, same, longer in zip(found.cuts, text.cuts, before.cuts, strict=True):
            assert (cut.token_ids, cut.text) == (same.token_ids, same.text)
            assert len(cut.states) == len(cut.token_ids) - 1
            assert torch.equal(cut.states, longer.states[: len(cut.states)])


def test_states_that_end_too_early_are_named(traces, tiny_model, tmp_path):
    with pytest.raises(InputError, match="key 'tokens' names 400, but the stored states end at 3 words"):
        run(JudgeSweepConfig(**options(traces, tiny_model, tmp_path / "out", tokens=[400])))
    assert not (tmp_path / "out").exists()
    late = JudgeConfig(**options(traces, tiny_model, tmp_path, cut_kind="tokens", cut_k=400))
    for loads in (True, False):  # a dry run refuses what the run would
        with pytest.raises(
            InputError, match=r"'cut_k' has the value 400, but a trace of the problem 'p0' has states"
        ):
            load_judge_data(late, with_states=loads)


def test_cells_are_trained_once_and_the_sweep_can_grow(traces, tiny_model, tmp_path):
    out = tmp_path / "out"
    small = options(traces, tiny_model, out, words=[3], focal=[True, False], oversampling=[True])
    first = run(JudgeSweepConfig(**small, cells_per_launch=1))
    assert len(first.rows) == 1 and first.missing_cells == 1
    whole = run(JudgeSweepConfig(**small))
    assert whole.missing_cells == 0 and whole.rows[0] == first.rows[0]
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.*")}
    grown = run(JudgeSweepConfig(**small | {"tokens": [5], "seeds": [0, 1]}))
    assert before.items() <= {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.*")}.items()
    assert len(grown.rows) == 4 and {row.seeds for row in grown.rows} == {2}
    assert grown.rows[0].whole_cut_share == pytest.approx(0.5)
    assert {(effect.cut, effect.figure) for effect in grown.effects} == set()  # no plain cross-entropy
    assert not list(out.rglob("*.safetensors")), "judges are kept only if asked for"
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(csv.DictReader((out / "sweep.csv").open()))) == 4
    with pytest.raises(InputError, match="its cells have epochs = 4, this sweep has 5"):
        run(JudgeSweepConfig(**small | {"epochs": 5}))
    shutil.rmtree(out / "cells")
    claim_folder(JudgeSweepConfig(**small | {"epochs": 5}))  # a sweep without a cell may still be corrected


def test_a_cell_at_the_stored_cut_is_what_the_judge_command_gives(traces, tiny_model, tmp_path):
    run_judge(JudgeConfig(**options(traces, tiny_model, tmp_path / "judge", seed=1)))
    values = options(traces, tiny_model, tmp_path / "sweep", words=[3], focal=[True], oversampling=[True], seeds=[1])
    [row] = run(JudgeSweepConfig(**values, keep_judges=True)).rows
    judge = json.loads((tmp_path / "judge" / "metrics.json").read_text())
    assert row.auroc.value == pytest.approx(judge["auroc"])
    assert row.auroc_unfinished.value == pytest.approx(judge["unfinished"]["auroc"])
    [kept] = tmp_path.glob("sweep/cells/*/head.safetensors")
    assert kept.read_bytes() == (tmp_path / "judge" / "head.safetensors").read_bytes()


def test_several_tests_are_averaged_and_kept_apart(traces, tiny_model, tmp_path):
    write_split(tmp_path / "other", tiny_model, 30)
    tests = {"one": str(traces / "test"), "two": str(tmp_path / "other")}
    values = options(traces, tiny_model, tmp_path / "out", test=tests, words=[2], kind="pairwise", epochs=1)
    values |= {"prompt": "{a} {b}?", "pairs_per_step": 16}
    sweep = run(JudgeSweepConfig(**values, focal=[True], oversampling=[False, True]))
    for row in sweep.rows:
        parts = [row.tests[name].auroc.value for name in ("one", "two")]
        assert row.auroc.value == pytest.approx(sum(parts) / 2)


@pytest.mark.slow
def test_two_processes_make_one_sweep(traces, tiny_model, tmp_path, repository):
    values = options(traces, tiny_model, tmp_path / "two", kind="linear", words="[1, 2]", focal="[true]", epochs=1)
    arguments = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--main_process_port", "0"]
    launch += ["--config_file", "configs/accelerate/cpu.yaml", "trainers/judge_sweep.py", *arguments]
    done = subprocess.run(launch, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "two" / "sweep.json").read_text())
    assert two["missing_cells"] == 0 and len(two["rows"]) == 4
    assert all(0 <= row["auroc"]["value"] <= 1 for row in two["rows"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, "'words' and 'tokens' are both empty"),
        ({"words": [0]}, "cut k = 0"),
        ({"words": [1], "cut_kind": "words", "cut_k": 2}, "give one cut"),
        ({"words": [1], "focal": []}, "'focal' is empty"),
        ({"words": [1], "report_to": "wandb"}, "'report_to' has the value 'wandb'"),
        ({"words": [1], "kind": "pairwise", "epochs": 0}, "losses and seeds make no difference"),
    ],
)
def test_bad_settings_are_named(extra, message, traces, tiny_model, tmp_path):
    with pytest.raises(InputError, match=message):
        JudgeSweepConfig(**options(traces, tiny_model, tmp_path / "out", **extra))


def test_demo_config_is_made_of_options(repository):
    config = parse_config(JudgeSweepConfig, ["--config", str(repository / "configs" / "demo" / "judge_sweep.yaml")])
    assert len(config.cells()) == (len(config.words) + len(config.tokens)) * 4


def test_a_resample_is_the_figure_of_the_problems_drawn():
    rng = np.random.default_rng(0)
    labels, problem = rng.integers(0, 2, 300), np.repeat(np.arange(6), 50)
    scores = np.round(rng.random(300) + 0.3 * labels, 1)  # many ties
    draws = draw_problems(6)
    drawn = np.concatenate(
        [np.flatnonzero(problem == p) for p, times in enumerate(draws[7]) for _ in range(int(times))]
    )
    for estimate, figure in ((auroc_estimate, metrics.auroc), (tnr_estimate, metrics.tnr_at_fnr)):
        found = estimate(labels, scores, problem, draws)
        assert found.value == pytest.approx(figure(labels, scores))
        assert found.resampled[7] == pytest.approx(figure(labels[drawn], scores[drawn]))
        assert (found - found).figure() == SweepFigure(0.0, (0.0, 0.0))
        assert estimate(np.ones(300, dtype=int), scores, problem, draws) is None
