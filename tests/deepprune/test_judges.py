"""What every judge keeps: symmetry, independence of company, honest cost, and learning what there is to learn."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from secateur.deepprune.judges.base import CutTrace, JudgeError
from secateur.deepprune.judges.calibration import Calibration
from secateur.deepprune.judges.folder import describe_generator, load_judge, save_judge
from secateur.deepprune.judges.linear import LinearModel, LinearShape
from secateur.deepprune.judges.own_states import OwnStatesJudge, OwnStatesModel
from secateur.deepprune.judges.pairwise import PairReader
from secateur.deepprune.judges.record import JudgeOrigin, store_measured
from tests.judges import FORMAT, RULE, SHAPE, check_session, linear, make_cuts, own_states, pairwise
from tests.tiny import build_tiny_model


@pytest.fixture(params=["linear_own_states", "linear", "pairwise"])
def judge(request: pytest.FixtureRequest, tiny_model: Path):
    if request.param == "linear_own_states":
        return own_states()
    return linear(tiny_model) if request.param == "linear" else pairwise(tiny_model)


@pytest.fixture
def cuts(tiny_model: Path) -> list[CutTrace]:
    return make_cuts(tiny_model)


def test_scores_are_symmetric_probabilities(judge, cuts):
    scores = judge.score(cuts)
    assert scores.shape == (5, 5) and scores.dtype == np.float64
    assert (scores == scores.T).all() and (np.diag(scores) == 1).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_pair_scores_the_same_in_any_company(judge, cuts):
    scores, kept = judge.score(cuts), [0, 2, 4]
    assert np.allclose(judge.score([cuts[i] for i in kept]), scores[np.ix_(kept, kept)], atol=1e-6)


def test_vector_judges_do_not_care_for_the_order(cuts, tiny_model):
    order = [4, 2, 0]
    for judge in (own_states(), linear(tiny_model)):
        scores = judge.score(cuts)
        assert np.allclose(judge.score([cuts[i] for i in order]), scores[np.ix_(order, order)], atol=1e-6)


def test_sessions_agree_with_the_matrix(judge, cuts):
    check_session(judge, cuts)


def test_asking_for_everything_costs_what_the_matrix_costs(judge, cuts):
    judge.score(cuts)
    other, session = judge.open(cuts[:3]), judge.open(cuts)
    session.scores([(i, j) for i in range(5) for j in range(i)])
    assert session.usage == judge.usage and other.usage != session.usage


def test_a_calibration_keeps_the_order_and_changes_the_values(judge, cuts, tmp_path, tiny_model):
    plain = judge.score(cuts)
    save_judge(judge, tmp_path / "judge", JudgeOrigin(generator=describe_generator(tiny_model)))
    calibration = Calibration(temperature=0.3, shift=-0.7)
    store_measured(tmp_path / "judge", calibration, 0.5, "good")
    found = load_judge(tmp_path / "judge", tiny_model)
    scores, above = found.score(cuts), np.triu_indices(5, k=1)
    assert np.allclose(scores[above], calibration(plain[above]), atol=1e-9) and (np.diag(scores) == 1).all()
    assert (np.argsort(scores[above]) == np.argsort(plain[above])).all()
    assert np.allclose(found.open(cuts).scores([(0, 1), (2, 1)]), [scores[0, 1], scores[1, 2]], atol=1e-6)


def test_saved_and_loaded_judge_gives_identical_scores(judge, cuts, tmp_path, tiny_model):
    about = JudgeOrigin(generator=describe_generator(tiny_model))
    save_judge(judge, tmp_path / "judge", about)
    loaded = load_judge(tmp_path / "judge", tiny_model)
    assert (loaded.name, loaded.cut_rule, loaded.capture_layers) == (judge.name, RULE, judge.capture_layers)
    assert loaded.parameters == judge.parameters
    assert (loaded.score(cuts) == judge.score(cuts)).all()
    assert loaded.usage == judge.usage


def test_vector_judges_encode_cut_by_cut(cuts, tiny_model):
    for judge in (own_states(), linear(tiny_model)):
        vectors = np.stack([judge.encode(cut) for cut in cuts])
        # a linear judge's scores come from the cached prompt, which rounds otherwise
        assert np.allclose(judge.score_vectors(vectors), judge.score(cuts), rtol=0, atol=1e-5)


def test_padding_changes_nothing(cuts, tiny_model):
    """Training encodes many cuts at once, scoring one by one: both must be the same function."""
    for judge in (own_states(), linear(tiny_model)):
        with torch.no_grad():
            together = judge.model(cuts)
        assert np.allclose(together, np.stack([judge.encode(cut) for cut in cuts]), atol=1e-5)


def test_own_states_pay_for_their_head_and_read_no_token(cuts):
    judge = own_states()
    judge.score(cuts)
    tokens, features = sum(len(cut.states) for cut in cuts), 3 * 32
    encoding = tokens * 2 * 2 * features + len(cuts) * 2 * features * 8
    comparing = 10 * (16 + 2 * 16 * 8 + 8)
    assert judge.usage.judge_head == encoding + comparing
    assert judge.usage.judge_prefill == 0 and judge.parameters == 0


def test_usage_is_of_the_last_score_or_since_the_reset(judge, cuts):
    judge.score(cuts)
    once = judge.usage
    judge.score(cuts)
    assert judge.usage == once
    judge.reset_usage()
    assert dataclasses.asdict(judge.usage) == dict.fromkeys(dataclasses.asdict(once), 0)


def test_linear_reads_every_cut_once_and_pairwise_every_pair_with_its_beginning_shared(cuts, tiny_model):
    judge = linear(tiny_model)
    judge.score(cuts)
    assert judge.usage.judge_prefill == 2 + sum(len(cut.token_ids) + 2 for cut in cuts)
    assert judge.usage.judge_cached == 2 * (len(cuts) - 1)
    judge = pairwise(tiny_model)
    judge.score(cuts)
    reader = judge.model.reader
    rows = [reader.read(new.text, old.text) for i, new in enumerate(cuts) for old in cuts[:i]]
    once = [len(reader.begin(new.text)) for new in cuts[1:]]
    ends = [len(reader.end(old.text)) for i in range(len(cuts)) for old in cuts[:i]]
    assert judge.usage.judge_prefill == sum(once) + sum(ends) and judge.usage.judge_generated == 0
    assert judge.usage.judge_prefill + judge.usage.judge_cached == sum(map(len, rows))


def test_pairwise_score_is_the_labels_share_at_the_next_token(tiny_model):
    judge, cuts = pairwise(tiny_model), [CutTrace((), (), text) for text in ("old", "older, and longer", "new")]
    session = judge.open(cuts)
    for pairs in ([(2, 0)], [(2, 0), (2, 1)]):  # alone, and with a shared beginning of which each reads its own end
        for (new, old), found in zip(pairs, session.scores(pairs), strict=True):
            row = judge.model.reader.read(cuts[new].text, cuts[old].text)
            rendered = judge.model.reader.tokenizer.decode(row)
            assert rendered.index("A: new") < rendered.index("B: old") and rendered.endswith("assistant\n")
            with torch.no_grad():
                logits = judge.model.language_model(torch.tensor([row])).logits[0, -1]
            expected = torch.softmax(logits[list(judge.model.reader.label_ids)].double(), -1)[0]
            assert found == pytest.approx(float(expected), abs=1e-5)


def test_long_cuts_lose_their_beginnings(tiny_model):
    reader = PairReader(AutoTokenizer.from_pretrained(tiny_model), dataclasses.replace(FORMAT, max_tokens=60))
    row = reader.read("x" * 500 + "end", "y")
    assert len(row) <= 60 and "end\nB: y" in reader.tokenizer.decode(row)
    with pytest.raises(JudgeError, match="'prompt' ends with"):
        PairReader(reader.tokenizer, dataclasses.replace(FORMAT, prompt="{a} {b}", chat_template=False))
    reader.tokenizer.chat_template = None
    with pytest.raises(JudgeError, match=r"'chat_template' is true, but .* has none; set it false"):
        PairReader(reader.tokenizer, dataclasses.replace(FORMAT, chat_template=True))
    model = LinearModel(AutoModel.from_pretrained(tiny_model), LinearShape((7, 8), 8, max_tokens=10))
    assert model.read_ids(CutTrace((1, 2), tuple(range(20, 60)), "")) == [1, 2, *range(54, 60), 7, 8]


def test_a_judge_of_another_model_is_refused(tmp_path, tiny_model):
    save_judge(own_states(), tmp_path / "judge", JudgeOrigin(generator=describe_generator(tiny_model)))
    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(JudgeError) as refusal:
        load_judge(tmp_path / "judge", other)
    assert str(tiny_model) in str(refusal.value) and str(other) in str(refusal.value)
    assert load_judge(tmp_path / "judge", other, allow_other_model=True).name == "linear_own_states"


def test_states_of_other_sizes_are_refused(cuts):
    without = dataclasses.replace(cuts[0], states=None)
    with pytest.raises(JudgeError, match="the cut has none"):
        own_states().score([without, *cuts])
    narrow = dataclasses.replace(cuts[0], states=torch.zeros(4, 2, 32))
    with pytest.raises(JudgeError, match=r"\[tokens, 2, 32\]"):
        own_states().encode(narrow)


@pytest.mark.parametrize("damage", ["missing", "no json", "kind", "key", "weights"])
def test_a_damaged_judge_folder_is_named(tmp_path, tiny_model, damage):
    folder = tmp_path / "judge"
    save_judge(own_states(), folder, JudgeOrigin(generator=describe_generator(tiny_model)))
    description = folder / "judge.json"
    if damage == "missing":
        description.unlink()
    elif damage == "no json":
        description.write_text("{")
    elif damage == "kind":
        description.write_text(description.read_text().replace("linear_own_states", "astrology"))
    elif damage == "key":
        description.write_text(description.read_text().replace('"heads"', '"hands"'))
    else:
        (folder / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=str(folder)):
        load_judge(folder, tiny_model)


def planted_states(decisions: np.ndarray, rng: np.random.Generator, strength: float) -> list[CutTrace]:
    """Noise of 10 to 20 tokens; one random token of each trace carries its decision in layer 1."""
    directions = np.eye(32)[:4] * strength
    cuts = []
    for decision in decisions:
        states = rng.normal(size=(rng.integers(10, 20), 3, 32))
        place = rng.integers(len(states))
        states[place, 1] = rng.normal(size=32) * 0.1 + directions[decision]
        states[place, 1, 31] = strength  # says "here is a decision"
        cuts.append(CutTrace((), (), "", torch.from_numpy(states).half()))
    return cuts


@pytest.mark.parametrize(("strength", "learns"), [(8.0, True), (0.0, False)])
def test_own_states_judge_learns_a_planted_decision_and_nothing_else(strength, learns):
    from secateur.deepprune.judges import metrics
    from trainers.judges.fit import focal_loss

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = OwnStatesModel(SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first, second = np.triu_indices(32, k=1)
    for _ in range(200):
        decisions = rng.integers(0, 4, 32)
        vectors = model(planted_states(decisions, rng, strength))
        labels = torch.from_numpy((decisions[first] == decisions[second]).astype(int))
        optimizer.zero_grad()
        focal_loss(model.head(vectors[first], vectors[second]), labels).backward()
        optimizer.step()
    judge, labels, scores = OwnStatesJudge(model, SHAPE, RULE), [], []
    for _ in range(8):
        decisions = rng.integers(0, 4, 32)
        scores.append(judge.score(planted_states(decisions, rng, strength))[first, second])
        labels.append(decisions[first] == decisions[second])
    area = metrics.auroc(np.concatenate(labels).astype(int), np.concatenate(scores))
    assert area > 0.95 if learns else 0.4 < area < 0.6
