"""Judges on the Hub: pushed, fetched by name alone in another process, the same judge again; hostile ones refused.

A server on this machine poses as the Hub, asked by the real client.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from secateur.deepprune.judges.base import JudgeError
from secateur.deepprune.judges.card import write_judge_card
from secateur.deepprune.judges.folder import (
    _refuse_foreign_code,
    describe_generator,
    find_judge,
    load_judge,
    save_judge,
)
from secateur.deepprune.judges.record import JUDGE_FORMAT, JudgeOrigin
from secateur.runtime.files import read_json, write_json
from tests.judge_traces import arguments, train, write_splits
from tests.judges import linear, make_cuts, own_states, pairwise
from tests.model_hub import TOKEN, USER, ModelHub
from tests.tiny import build_tiny_model

# Pushes every folder below the first argument, then loads judges as the following arguments say, and tells what came.
PUSH_AND_LOAD = """
import json, sys
from pathlib import Path
from secateur.deepprune.judges.folder import find_judge, load_judge
from secateur.runtime.errors import InputError
from secateur.runtime.hub import Target, push_folder
from tests.judges import make_cuts
for folder in sorted(Path(sys.argv[1]).iterdir()):
    push_folder(folder, Target(f"gardener/{folder.name}"), patterns=("*",), message="x")
cuts = make_cuts(Path(sys.argv[2]))
for name, generator in map(json.loads, sys.argv[3:]):
    try:
        judge = load_judge(name, generator)
        files = sorted(str(path.relative_to(find_judge(name))) for path in find_judge(name).rglob("*.*"))
        print(json.dumps({"scores": judge.score(cuts).tolist(), "files": files}))
    except InputError as error:
        print(json.dumps({"refused": str(error)}))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    with ModelHub(tmp_path / "hub") as running:
        yield running


def run_python(hub: ModelHub, home: Path, repository: Path, *words: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = inherited | hub.environment(home) | {"PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, *words], cwd=repository, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


def test_judges_come_back_by_name_with_the_same_scores_and_hostile_ones_do_not(hub, tmp_path, tiny_model, repository):
    shared, cuts = tmp_path / "shared", make_cuts(tiny_model)
    judges = {"own": own_states(), "linear": linear(tiny_model), "pairwise": pairwise(tiny_model)}
    for name, judge in judges.items():
        save_judge(judge, shared / name, JudgeOrigin(generator=describe_generator(tiny_model)))
    (shared / "own" / "modeling.py").write_text("raise SystemExit")
    (shared / "own" / "weights.bin").write_bytes(b"pickle")
    write_hostile(shared, shared / "linear")
    shutil.copytree(tiny_model, shared / "generator")
    build_tiny_model(shared / "other", seed=1)
    asked = [("own", "generator"), ("linear", None), ("pairwise", None)]
    asked += [("own", "other"), ("coder", None), ("local", None), ("nowhere", None), ("generator", None)]
    asked += [("adapter", None)]
    jobs = [[f"{USER}/{name}", f"{USER}/{generator}" if generator else None] for name, generator in asked]
    jobs += [[f"{USER}/own@main", str(tiny_model)], [f"{USER}/own@v9", None]]
    words = ("-c", PUSH_AND_LOAD, str(shared), str(tiny_model), *map(json.dumps, jobs))
    told = [json.loads(line) for line in run_python(hub, tmp_path / "home", repository, *words).splitlines()]
    for judge, found in zip(judges.values(), told, strict=False):
        assert np.allclose(judge.score(cuts), found["scores"], atol=1e-7)
    assert told[0]["files"] == ["head.safetensors", "judge.json"], "neither code nor pickles were fetched"
    assert told[9]["scores"] == told[0]["scores"]
    refusals = [entry.get("refused", "") for entry in told]
    assert "but the generator is gardener/other" in refusals[3]
    assert "asks for code of its own (auto_map)" in refusals[4]
    assert "names the model '/etc', which is no model on the Hub" in refusals[5]
    assert refusals[6].startswith("gardener/nowhere could not be fetched from the Hub")
    assert "no judge there" in refusals[7]
    assert "holds an adapter (model/adapter_config.json), not a whole model" in refusals[8]
    assert "gardener/own@v9 could not be fetched" in refusals[10]


def write_hostile(shared: Path, judge: Path) -> None:
    shutil.copytree(judge, shared / "coder")
    config = shared / "coder" / "model" / "config.json"
    write_json(config, read_json(config) | {"auto_map": {"AutoModel": "evil/repo--modeling.Model"}})
    shutil.copytree(judge, shared / "adapter")
    write_json(shared / "adapter" / "model" / "adapter_config.json", {"base_model_name_or_path": "/etc"})
    about = {"format": JUDGE_FORMAT, "kind": "embedding", "model": "/etc", "cut": {"kind": "words", "k": 2}}
    (shared / "local").mkdir()
    write_json(shared / "local" / "judge.json", about)


@pytest.mark.parametrize("kind", ["modules.json", "router_config.json"])
def test_an_encoder_may_name_classes_of_its_library_only(kind, tmp_path) -> None:
    def written(module: str) -> Path:
        listed = [{"idx": 0, "path": "x", "type": module}] if kind == "modules.json" else {"types": {"x": module}}
        write_json(tmp_path / kind, listed)
        return tmp_path

    _refuse_foreign_code("user/x", written("sentence_transformers.models.Pooling"))
    for module in ("joblib.numpy_pickle", "sentence_transformers.base.model.torch", "modeling_x.Model"):
        with pytest.raises(JudgeError, match=f"names '{module}', no sentence-transformers class"):
            _refuse_foreign_code("user/x", written(module))


def test_a_name_that_is_no_judge_is_told_so_without_the_hub(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges").mkdir()
    with pytest.raises(JudgeError, match="no judge there"):
        find_judge("judges/mine")  # a folder `judges` is here, so it is no name on the Hub
    with pytest.raises(JudgeError, match="no judge there"):
        load_judge(tmp_path / "judges")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path]:
    """Traces, and a judge trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    traces = write_splits(folder / "traces", tiny_model)
    train(traces, tiny_model, folder / "judge", epochs=4)
    return traces, folder / "judge"


def test_the_card_of_a_judge(trained, tiny_model) -> None:
    folder = trained[1]
    metrics, card = read_json(folder / "metrics.json"), ModelCard.load(folder / "README.md")
    assert card.data.library_name == "secateur" and "deepprune" in card.data.tags
    assert card.data.eval_results[0].metric_value == round(metrics["unfinished"]["auroc"], 4)
    assert card.data.license is None and "hold no weight of" in card.text
    assert f"| test | {metrics['unfinished']['auroc']:.3f} |" in card.text and "| `random` |" in card.text
    assert "at reasoning word 2" in card.text and "prompt family `plain`" in card.text
    assert read_json(folder / "judge.json")["prompt_family"] == load_judge(folder).prompt.prompt_family == "plain"
    assert "multiply-accumulates per token" in card.text and "ECE" in card.text
    assert not write_judge_card(folder)
    assert "Problems: train `arithmetic:judge_train`, " in card.text and "Trained on an arithmetic game" in card.text
    for code in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        compile(code, "README.md", "exec")


def test_the_card_of_a_judge_that_reads_pairs(trained, tiny_model, tmp_path) -> None:
    prompt = "Same? {a} ``` <b>{b}</b> Answer."
    train(trained[0], tiny_model, tmp_path / "judge", kind="pairwise", epochs=1, evaluations=1, prompt=prompt)
    (tiny_model / "LICENSE").write_text("MIT License")
    try:
        assert write_judge_card(tmp_path / "judge", "user/judge")
    finally:
        (tiny_model / "LICENSE").unlink()
    card = ModelCard.load(tmp_path / "judge" / "README.md")
    assert (tmp_path / "judge" / "LICENSE").read_text() == "MIT License"
    assert card.data.license == "mit" and "````text\nSame? {a} ``` <b>{b}</b> Answer.\n````" in card.text
    assert 'load_judge("user/judge", generator)' in card.text


@pytest.mark.slow
def test_the_trainer_pushes_a_judge_that_is_finished(hub, trained, tiny_model, tmp_path, repository) -> None:
    traces, folder = trained
    shutil.copytree(folder, tmp_path / "judge")
    options = arguments(traces, tiny_model, tmp_path / "judge", epochs=4, push_to_hub=True)
    config = (tmp_path / "judge" / "config.yaml").read_text().replace(str(folder), str(tmp_path / "judge"))
    (tmp_path / "judge" / "config.yaml").write_text(config)
    told = run_python(hub, tmp_path / "home", repository, "trainers/judge.py", *options)
    assert "nothing to train" in told and f"pushed to {hub.url}/{USER}/judge" in told
    there = {str(path.relative_to(hub.folder(f"{USER}/judge"))) for path in hub.folder(f"{USER}/judge").rglob("*")}
    assert there == {"judge.json", "metrics.json", "head.safetensors", "README.md"}
    assert f'load_judge("{USER}/judge", generator)' in (hub.folder(f"{USER}/judge") / "README.md").read_text()
    written = [path for path in (tmp_path / "judge").rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
