"""Judges that are not trained here: numbers, similarities, sentence encoders, any language model; and adapters."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from secateur.deepprune.judges.base import CutTrace, JudgeError
from secateur.deepprune.judges.calibration import Calibration
from secateur.deepprune.judges.folder import load_judge, save_judge
from secateur.deepprune.judges.lora import LoraShape, add_lora
from secateur.deepprune.judges.record import JUDGE_FORMAT, JudgeOrigin
from secateur.deepprune.judges.registry import UNTRAINED
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_json
from tests.judges import FORMAT, RULE, check_session, linear, make_cuts, pairwise


@pytest.fixture
def cuts(tiny_model: Path) -> list[CutTrace]:
    return make_cuts(tiny_model)


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_judges_share_the_interface(name, cuts, tiny_model):
    judge = load_judge(name, tiny_model, cut_rule=RULE)
    scores = judge.score(cuts)
    assert (scores == scores.T).all() and ((scores >= 0) & (scores <= 1)).all() and judge.cut_rule == RULE
    assert (load_judge(name, tiny_model, cut_rule=RULE).score(cuts) == scores).all()
    if name in ("tfidf", "token_embedding"):
        assert scores[0, 3] == pytest.approx(1.0)  # equal texts


@pytest.mark.parametrize("name", UNTRAINED)
def test_untrained_sessions_agree_with_the_matrix(name, cuts, tiny_model):
    check_session(load_judge(name, tiny_model, cut_rule=RULE), cuts)


def values_of(*texts: str, generator: Path | None = None, prompt: tuple[int, ...] = ()) -> np.ndarray:
    return load_judge("values", generator, cut_rule=RULE).score([CutTrace(prompt, (), text) for text in texts])


def test_values_weigh_rare_numbers_and_forget_common_ones(tiny_model):
    scores = values_of("start with 4, get 12", "4 then 12", "4 then 30", "4 then 1,000.50", "4 then 1000.5", "no")
    assert scores[0, 1] == pytest.approx(1.0) and scores[3, 4] == pytest.approx(1.0)
    assert 0 < scores[0, 2] < 0.45 and (scores[5, :5] == 0).all()  # 4 is in nearly all of them
    shared = values_of("7 and 1", "7 and 2", "8 and 3", "9")
    weights = np.log1p([4 / 2, 4 / 1])
    assert shared[0, 1] == pytest.approx(weights[0] / weights.sum())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    given = tuple(tokenizer("What is 7 + 1?")["input_ids"])
    assert values_of("7 and 1", "7 and 2", "8 and 3", "9", generator=tiny_model, prompt=given)[0, 1] == 0


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    reader = Transformer(str(tiny_model), max_seq_length=40)
    folder = tmp_path_factory.mktemp("encoder")
    SentenceTransformer(modules=[reader, Pooling(32)], device="cpu").save(str(folder))
    return folder


def test_embedding_judge_reads_each_cut_once_and_counts_it(sentence_encoder, cuts, tmp_path):
    about = {"format": JUDGE_FORMAT, "kind": "embedding", "cut": {"kind": "words", "k": 2}}
    write_json(tmp_path / "judge.json", about | {"model": str(sentence_encoder)})
    judge = load_judge(tmp_path)
    scores = judge.score(cuts)
    assert (scores == scores.T).all() and ((scores >= 0) & (scores <= 1)).all()
    assert scores[0, 3] == pytest.approx(1.0) and scores[0, 4] < 0.999
    assert 0 < judge.usage.judge_prefill <= 5 * 40 and judge.usage.judge_head == 10 * 32 and judge.parameters > 0
    check_session(judge, cuts)
    save_judge(judge, tmp_path / "again", JudgeOrigin())
    assert (load_judge(tmp_path / "again").score(cuts) == scores).all()


def test_a_missing_sentence_encoder_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    about = {"format": JUDGE_FORMAT, "kind": "embedding", "model": "x", "cut": {"kind": "words", "k": 2}}
    write_json(tmp_path / "judge.json", about)
    with pytest.raises(JudgeError, match="pip install"):
        load_judge(tmp_path)


def test_any_causal_model_is_a_pairwise_judge_by_its_description(tiny_model, cuts, tmp_path):
    about = {"format": JUDGE_FORMAT, "kind": "pairwise", "model": str(tiny_model), "dtype": "bfloat16"}
    about |= {"cut": {"kind": "words", "k": 2}}
    write_json(tmp_path / "judge.json", about | {"shape": dataclasses.asdict(FORMAT)})
    judge = load_judge(tmp_path)
    assert judge.model.language_model.dtype == torch.bfloat16 and judge.calibration == Calibration()
    assert np.allclose(judge.score(cuts), pairwise(tiny_model).score(cuts), atol=0.05)
    save_judge(judge, tmp_path / "again", JudgeOrigin(dtype="bfloat16"))
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["judge.json"]
    assert (load_judge(tmp_path / "again").score(cuts) == judge.score(cuts)).all()


@pytest.mark.parametrize("kind", ["linear", "pairwise"])
def test_adapters_are_saved_merged_and_leave_the_training_alone(kind, tiny_model, cuts, tmp_path):
    judge = linear(tiny_model) if kind == "linear" else pairwise(tiny_model)
    holder, name = (judge.model, "encoder") if kind == "linear" else (judge.model, "language_model")
    before = judge.score(cuts)
    setattr(holder, name, add_lora(getattr(holder, name), LoraShape(4, 8.0, 0.0, "all-linear")))
    assert np.allclose(judge.score(cuts), before, atol=1e-6), "adapters begin without effect"
    for key, parameter in holder.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted = judge.score(cuts)
    save_judge(judge, tmp_path / "judge", JudgeOrigin())
    assert (judge.score(cuts) == adapted).all(), "saving must not merge the model in training"
    loaded = load_judge(tmp_path / "judge")
    assert np.abs(adapted - before).max() > 1e-3 and np.allclose(loaded.score(cuts), adapted, atol=1e-5)
    assert not any("lora" in key for key, _ in getattr(loaded.model, name).named_parameters())
    with pytest.raises(InputError, match="'lora_targets'"):
        add_lora(AutoModel.from_pretrained(tiny_model), LoraShape(4, 8.0, 0.0, ["nowhere"]))
