"""The registry of judge kinds: what it says is what the judges are, and nothing else has to know a kind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from secateur.deepprune.cut import CutRule
from secateur.deepprune.judges import registry
from secateur.deepprune.judges.base import CutTrace, JudgeError, VectorJudge
from secateur.deepprune.judges.calibration import Calibration
from secateur.deepprune.judges.folder import describe_generator, judge_kind, kind_of, load_judge, save_judge
from secateur.deepprune.judges.heads import PairHead, pair_probabilities
from secateur.deepprune.judges.kind import JudgeKeys, JudgeKind
from secateur.deepprune.judges.record import (
    JUDGE_FILE,
    METRICS_FILE,
    JudgeFigures,
    JudgeOrigin,
    JudgeParts,
    JudgeRecord,
    read_judge,
    read_metrics,
    store_measured,
)
from secateur.deepprune.judges.registry import JUDGE_KINDS, STORED, UNTRAINED
from secateur.engines.accounting import Usage
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, write_json
from secateur.runtime.records import without_checksum
from tests.judge_records import describe_judge, measure_judge
from tests.judge_traces import arguments, write_splits
from tests.judges import linear, own_states, pairwise
from trainers.judge import run
from trainers.judges.config import JudgeConfig

TRAINED = {"linear_own_states": lambda model: own_states(), "linear": linear, "pairwise": pairwise}


def test_the_registry_loads_no_model_library() -> None:
    code = "import secateur.deepprune.judges.registry, sys; print({'torch', 'transformers'} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def test_every_kind_says_what_it_is() -> None:
    assert [kind.name for kind in JUDGE_KINDS.values()] == list(JUDGE_KINDS) == [*STORED, *UNTRAINED]
    assert all(kind.label and kind.reads for kind in JUDGE_KINDS.values())
    assert JUDGE_KINDS["linear_own_states"].label == "own states"
    assert [kind.name for kind in JUDGE_KINDS.values() if kind.is_chance] == ["random"]
    similar = {kind.name for kind in JUDGE_KINDS.values() if kind.is_similarity}
    assert similar == {"embedding", "token_embedding", "tfidf", "values"}
    assert {kind.name for kind in JUDGE_KINDS.values() if kind.reads_tokens} == {"linear", "pairwise", "embedding"}


@pytest.mark.parametrize("name", TRAINED)
def test_judges_of_a_folder_are_what_their_kind_says(name: str, tiny_model: Path, tmp_path: Path) -> None:
    judge, kind = TRAINED[name](tiny_model), JUDGE_KINDS[name]
    origin = JudgeOrigin(generator=describe_generator(tiny_model) if kind.reads_states else None)
    save_judge(judge, tmp_path, origin)
    assert judge.name == name and kind_of(str(tmp_path)) is kind
    assert judge.needs_states == kind.reads_states and (judge.capture_layers is not None) == kind.reads_states
    assert (judge.parameters > 0) == kind.reads_tokens and judge.cost().parameters == judge.parameters
    assert (tmp_path / "model").is_dir() == (kind.language_model is not None)
    assert (kind.reading(tmp_path, read_judge(tmp_path)).tokens(8, 10, 20) > 0) == kind.reads_tokens
    with pytest.raises(NotImplementedError):
        kind.make(CutRule(), None)


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_judges_are_what_their_kind_says(name: str, tiny_model: Path, tmp_path: Path) -> None:
    kind = JUDGE_KINDS[name]
    judge = kind.make(CutRule("words", 3), tiny_model)
    assert judge.name == name == judge_kind(name) and judge.cut_rule == CutRule("words", 3)
    assert not judge.needs_states and judge.parameters == 0 and not kind.reads_states
    with pytest.raises(TypeError, match="nothing to save"):
        judge.save_parts(tmp_path)
    if kind.needs_generator:
        with pytest.raises(JudgeError, match="generator's model folder"):
            kind.make(CutRule(), None)


def test_a_folder_names_a_kind_that_lies_in_a_folder(tmp_path: Path) -> None:
    for name in ("astrology", "random"):
        describe_judge(tmp_path, name)
        with pytest.raises(JudgeError, match=f"unknown kind '{name}'; known kinds: linear_own_states, linear"):
            kind_of(str(tmp_path))


def test_judge_json_comes_back_and_another_format_is_refused(tmp_path: Path) -> None:
    describe_judge(tmp_path)
    store_measured(tmp_path, Calibration(2.0, -1.0), 0.5, "good")
    expected = JudgeRecord(
        kind="linear", cut=CutRule("words", 2), calibration=Calibration(2.0, -1.0), weight=0.5, verdict="good"
    )
    assert read_judge(tmp_path) == expected
    values = without_checksum(read_json(tmp_path / JUDGE_FILE), "", "")
    write_json(tmp_path / JUDGE_FILE, values | {"cut": {"kind": "lines", "k": 2}})
    with pytest.raises(InputError, match=f"{JUDGE_FILE}: cut"):
        read_judge(tmp_path)
    write_json(tmp_path / JUDGE_FILE, {key: value for key, value in values.items() if key != "format"})
    with pytest.raises(InputError, match="has format None, this version reads 1; train the judge again"):
        read_judge(tmp_path)


def test_metrics_json_comes_back_and_another_format_is_refused(tmp_path: Path) -> None:
    written = measure_judge(tmp_path, "pairwise", {"train": "traces/train", "layers": [1, 2]})
    found = read_metrics(tmp_path)
    assert found == written and list(found.tests) == ["test"]
    values = read_json(tmp_path / METRICS_FILE)
    assert values["auroc"] == 0.9 and values["baselines"]["zero_shot"]["auroc"] is None
    write_json(tmp_path / METRICS_FILE, values | {"format": 0})
    with pytest.raises(InputError, match="has format 0, this version reads 3"):
        read_metrics(tmp_path)


class LetterModel(nn.Module):
    """Cuts → counts of their characters [cuts, 128], and a pair head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = PairHead(128, 8)

    def forward(self, cuts: list[CutTrace]) -> torch.Tensor:
        return torch.stack([torch.bincount(torch.tensor([*cut.text.encode(), 0]), minlength=128) for cut in cuts]) / 8


class LettersJudge(VectorJudge):
    name = "letters"
    needs_states = False
    capture_layers = None
    parameters = 0
    macs_per_pair = 1

    def __init__(self, model: LetterModel, cut_rule: CutRule) -> None:
        self.model, self.cut_rule = model, cut_rule
        self.reset_usage()

    def read(self, cut: CutTrace) -> tuple[np.ndarray, Usage]:
        return self.model([cut])[0].numpy(), Usage()

    def compare(self, vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return pair_probabilities(self.model.head, torch.from_numpy(vectors), first, second)

    def save_parts(self, folder: Path) -> JudgeParts:
        torch.save(self.model.state_dict(), folder / "head.pt")
        return JudgeParts(shape={"hidden": 8})


class LettersKind(JudgeKind[JudgeKeys]):
    def build(self, keys, data) -> LettersJudge:
        return LettersJudge(LetterModel(), data.cut_rule)

    def load(self, folder, record, device) -> LettersJudge:
        model = LetterModel()
        model.load_state_dict(torch.load(folder / "head.pt"))
        return LettersJudge(model, record.cut)


def test_a_new_kind_needs_its_own_classes_and_a_place_in_the_registry(tmp_path, tiny_model, monkeypatch) -> None:
    kind = LettersKind(name="letters", label="letters", reads="the characters", compares="vectors", training="always")
    monkeypatch.setitem(registry.JUDGE_KINDS, kind.name, kind)
    traces, folder = write_splits(tmp_path / "traces", tiny_model), tmp_path / "judge"
    values = dict(zip(*[iter(arguments(traces, tiny_model, folder))] * 2, strict=True))
    values = {key.removeprefix("--"): value for key, value in values.items()}
    numbers = {"epochs": 8.0, "evaluations": 2, "heads": 2, "width": 8, "problems_per_step": 2, "learning_rate": 0.01}
    run(JudgeConfig(**values | numbers | {"kind": kind.name}))
    metrics = read_metrics(folder)
    assert metrics.kind == kind.name and metrics.auroc > 0.9, "the colour's letters tell the answers"
    assert isinstance(metrics, JudgeFigures) and metrics.cost.parameters == 0
    assert load_judge(folder).name == kind.name and kind_of(str(folder)) is kind
    assert "the characters" in (folder / "README.md").read_text()
