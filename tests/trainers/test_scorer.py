"""The scorer's trainer as users start it, on tiny trace folders, and the methods of the table that ask a scorer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from eval.table.run import run as run_table
from secateur.deepprune.scorer import CUT, END, load_scorer, read_scorer
from secateur.engines.trace_folder import TraceFolderWriter
from secateur.results import Table
from secateur.runtime.config import parse_config
from secateur.runtime.errors import InputError
from secateur.runtime.files import model_fingerprint
from secateur.tasks.records import Trace
from tests.combined_runs import config as table_config
from tests.combined_runs import write_problems
from tests.next_words import next_words
from tests.tiny import build_tiny_model
from trainers.scorer import ScorerConfig, run

ORDER = {"reads": "[order]", "points": "[cut, end]"}


def write_split(folder: Path, model: Path, first: int, problems: int = 8) -> None:
    """Traces that are alike but for their last words; those that end right are longer, and surer of their tokens."""
    rng, tokenizer = np.random.default_rng(first), AutoTokenizer.from_pretrained(model)
    settings = {"model": model_fingerprint(model), "prompt_family": "plain", "cut": {"kind": "tokens", "k": 6}}
    with TraceFolderWriter(folder, settings) as writer:
        for number in range(first, first + problems):
            for sample in range(8):
                right = bool(rng.integers(2))
                words = "So we go on and on until it is " + ("red red red" if right else "blue")
                text = f"{words}</think>\\boxed{{{'red' if right else 'blue'}}}"
                ids = tuple(tokenizer(text)["input_ids"])
                trace = Trace(f"p{number}", f"Which of {number:02}?", "red", sample, text, "m", ids, len(ids), "stop")
                writer.add(trace, cut_tokens=6, confidences=[2.0 + right] * len(ids))


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("scorer-traces")
    for first, split in ((0, "train"), (10, "dev"), (20, "test")):
        write_split(folder / split, tiny_model, first)
    return folder


def arguments(traces: Path, model: Path, output: Path, **extra: object) -> list[str]:
    values = {split: traces / split for split in ("train", "dev", "test")}
    values |= {"model": model, "output_dir": output, "evaluations": 2, "learning_rate": 0.01} | extra
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


@pytest.mark.parametrize("head", ["attention", "linear"])
def test_command_trains_a_head_that_knows_more_at_the_end(head, traces, tiny_model, tmp_path, repository) -> None:
    """Up to the cut all traces are alike; the answer is in the last states."""
    extra = {"head": head, "points": "[cut, end, every 5]", "layers": "[1, 2]", "window": 8}
    command = [sys.executable, "trainers/scorer.py", *arguments(traces, tiny_model, tmp_path, **extra)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = read_scorer(tmp_path)
    assert record.points[END].figures.auroc_within > 0.95 and record.points[END].figures.has_signal
    assert record.points[CUT].figures.auroc_within == 0.5 and not record.points[CUT].figures.has_signal
    assert record.head.kind == head and record.running_point == "every 5"
    assert "cut: AUROC within problems 0.500 (0.500 – 0.500) on" in done.stdout
    assert "no better than chance" in done.stdout
    assert f"open: {tmp_path / 'scorer.json'}\nnext: secateur table" in done.stdout
    assert f'"base": "{tmp_path}"' in next_words(done.stdout, "table")[3]
    assert load_scorer(tmp_path, tiny_model).capture_layers == (1, 2)


def test_states_of_another_model_than_the_one_that_wrote_the_traces_are_refused(traces, tiny_model, tmp_path) -> None:
    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"key 'train': the traces in .* are those of model \w{16}, but .*correct"):
        run(parse_config(ScorerConfig, arguments(traces, other, tmp_path / "out")))
    assert not (tmp_path / "out" / "scorer.json").exists()


@pytest.mark.parametrize("reads", ["order", "confidences"])
def test_what_needs_no_states_is_learned(reads, traces, tiny_model, tmp_path) -> None:
    run(parse_config(ScorerConfig, arguments(traces, tiny_model, tmp_path, reads=f"[{reads}]")))
    record = read_scorer(tmp_path)
    assert record.points[END].figures.auroc_within == 1.0 and record.head is None
    assert (record.points[CUT].figures.auroc_within == 1.0) == (reads == "confidences"), "all cuts have six tokens"


def test_traces_of_a_server_need_no_model(traces, tiny_model, tmp_path) -> None:
    given = arguments(traces, tiny_model, tmp_path, reads="[order]", points="[end]")
    place = given.index("--model")
    run(parse_config(ScorerConfig, given[:place] + given[place + 2 :]))
    assert read_scorer(tmp_path).points[END].figures.auroc_within == 1.0
    with pytest.raises(InputError, match="'model' is not given"):
        parse_config(ScorerConfig, [*given[:place], *given[place + 2 :], "--points", "[cut]"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"points": "[middle]"}, "names 'middle'"),
        ({"reads": "[order]", "points": "[every 5]"}, "only states"),
        ({"points": "[every 500]"}, "no trace of 'train' comes to it"),
        ({"reads": "[order, order]"}, "each thing once"),
        ({"window": 0}, "at least 1"),
    ],
)
def test_bad_input_names_the_key(extra, message, traces, tiny_model, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        run(parse_config(ScorerConfig, arguments(traces, tiny_model, tmp_path / "x", **extra)))


def test_splits_share_no_problem(traces, tiny_model, tmp_path) -> None:
    with pytest.raises(InputError, match="'p0' is in 'train' and in 'dev'"):
        run(parse_config(ScorerConfig, arguments(traces, tiny_model, tmp_path / "x", dev=traces / "train", **ORDER)))


METHODS = ["consensus", "score_vote", "stop_best", "score_order", "step_worst"]


def test_the_table_asks_a_scorer_and_refuses_one_at_chance(traces, tiny_model, tmp_path) -> None:
    extra = {"points": "[cut, end, every 5]", "window": 8}
    run(parse_config(ScorerConfig, arguments(traces, tiny_model, tmp_path / "scorer", **extra)))
    problems = write_problems(tmp_path / "problems.jsonl")
    changes = {"judges": {}, "methods": METHODS, "scorers": {"base": str(tmp_path / "scorer")}, "live": 0}
    inputs = (tiny_model, tmp_path, problems, tmp_path / "run")
    with pytest.raises(InputError, match=r"the scorer is refused at 'cut', AUROC within problems .* than chance"):
        table_config(*inputs, **changes)
    table = run_table(table_config(*inputs, **changes, scorer_without_signal=True, stop_keep=3))
    rows = {row.method: row for row in table.rows}
    assert rows.keys() >= set(METHODS)
    full = rows["consensus"]
    assert full.trained_on is None and rows["score_vote"].trained_on is None, "of these folders nothing is known"
    assert rows["score_vote"].tokens.generated == full.tokens.generated and rows["score_vote"].tokens.judge_head > 0
    assert rows["stop_best"].finished <= 3 and rows["stop_best"].tokens.generated < full.tokens.generated
    assert rows["score_order"].tokens.generated <= full.tokens.generated
    assert rows["step_worst"].tokens.generated < full.tokens.generated
    again = run_table(table_config(*inputs, **changes, scorer_without_signal=True, stop_keep=3))
    assert _without_times(again) == _without_times(table), "nothing is read anew"


def _without_times(table: Table) -> list[object]:
    return [(row.id, row.accuracy, row.tokens) for row in table.rows]


def test_a_model_without_a_scorer_is_named(tiny_model, tmp_path) -> None:
    problems = write_problems(tmp_path / "problems.jsonl")
    with pytest.raises(InputError, match="'scorers' has none for the model 'base'"):
        table_config(tiny_model, tmp_path, problems, tmp_path / "run", judges={}, methods=["score_vote"])
