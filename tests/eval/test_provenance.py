"""What a model's and a judge's folder say of the problems that they know."""

from pathlib import Path

import pytest
import yaml

from eval.table.provenance import (
    UNKNOWN,
    UNTOUCHED,
    ProblemSource,
    Seen,
    any_of,
    seen_by_judge,
    seen_by_model,
    shared_problems,
)
from secateur.runtime.files import append_jsonl, write_json, write_text
from secateur.tasks.records import Problem
from secateur.tasks.sources import load_problems
from tests.judge_records import measure_judge

PROBLEM = "A farmer has 17 sheep and sells 9 of them on Monday. How many sheep has the farmer left?"


def write(path: Path, *texts: str) -> str:
    append_jsonl(path, [{"id": f"{path.stem}/{i}", "problem": text, "answer": "8"} for i, text in enumerate(texts)])
    return str(path)


@pytest.fixture
def benchmark(tmp_path: Path) -> tuple[str, list[Problem]]:
    path = write(tmp_path / "benchmark.jsonl", PROBLEM, "What is the largest prime factor of 2024 in base ten?")
    return path, load_problems(path)


def run_folder(folder: Path, **values: object) -> Path:
    write_text(folder / "config.yaml", yaml.safe_dump({"limits": [100], "seed": 0, **values}))
    for name in ("final", "rounds/1-limit-100/checkpoint-4"):
        (folder / name).mkdir(parents=True)
    return folder


def test_a_model_in_a_run_folder_says_what_it_saw(tmp_path: Path, benchmark: tuple[str, list[Problem]]) -> None:
    copied = write(tmp_path / "copied.jsonl", PROBLEM)
    other = write(tmp_path / "other.jsonl", "A triangle has sides of 3, 4 and 5. What is its area in square units?")
    run = run_folder(tmp_path / "run", problems=copied, validation_problems=other)
    for model in (run / "final", run / "rounds" / "1-limit-100" / "checkpoint-4"):
        assert seen_by_model(str(model), *benchmark) == Seen(("benchmark/0",), ()), "the same text in another file"
    swapped = run_folder(tmp_path / "swapped", problems=other, validation_problems=benchmark[0])
    assert seen_by_model(str(swapped / "final"), *benchmark) == Seen((), ("benchmark/0", "benchmark/1"))
    hub = run_folder(tmp_path / "hub", problems="numina_amc_aime", validation_problems="aime22+aime23")
    assert seen_by_model(str(hub / "final"), *benchmark) == UNKNOWN
    assert seen_by_model(str(hub / "final"), "aime23", benchmark[1]) == Seen(None, ("benchmark/0", "benchmark/1"))
    clean = run_folder(
        tmp_path / "clean", problems="numina_amc_aime", validation_problems="aime22", decontaminate=[benchmark[0]]
    )
    assert seen_by_model(str(clean / "final"), *benchmark) == Seen((), None)


def test_a_model_elsewhere_says_nothing(tmp_path: Path, benchmark: tuple[str, list[Problem]]) -> None:
    write_text(tmp_path / "config.yaml", "models: {}\n")
    (tmp_path / "model").mkdir()
    assert seen_by_model(str(tmp_path / "model"), *benchmark) == UNKNOWN
    assert seen_by_model("some/model", *benchmark) == UNKNOWN


def test_a_judge_says_what_it_was_trained_and_chosen_on(tmp_path: Path, benchmark: tuple[str, list[Problem]]) -> None:
    write_json(tmp_path / "train" / "settings.json", {"problems": "arithmetic:judge_train"})
    write_json(tmp_path / "dev" / "settings.json", {"problems": benchmark[0]})
    config = {"train": str(tmp_path / "train"), "dev": str(tmp_path / "dev")}
    measure_judge(tmp_path / "judge", config=config)
    assert seen_by_judge(str(tmp_path / "judge"), *benchmark) == Seen((), ("benchmark/0", "benchmark/1"))
    drawn = load_problems("arithmetic:judge_train", 2)
    ids = tuple(problem.id for problem in drawn)
    assert seen_by_judge(str(tmp_path / "judge"), "arithmetic:judge_train", drawn) == Seen(ids, ())
    measure_judge(tmp_path / "judge", config=config | {"train": str(tmp_path / "gone")})
    assert seen_by_judge(str(tmp_path / "judge"), *benchmark).trained is None
    assert seen_by_judge("tfidf", *benchmark) == UNTOUCHED
    assert seen_by_judge(str(tmp_path / "nothing"), *benchmark) == UNKNOWN


def test_splits_of_the_embedded_task_are_told_apart() -> None:
    drawn = load_problems("arithmetic:combined", 2)
    ids = tuple(problem.id for problem in drawn)
    assert shared_problems(ProblemSource("arithmetic:combined"), "arithmetic:combined", drawn) == ids
    assert shared_problems(ProblemSource("arithmetic:train"), "arithmetic:combined", drawn) == ()
    assert shared_problems(None, "arithmetic:combined", drawn) is None


def test_a_row_has_seen_what_its_parts_have() -> None:
    assert Seen(("a",), None) | UNTOUCHED == Seen(("a",), None)
    assert UNKNOWN | Seen(("a",), ()) == Seen(("a",), None)
    assert Seen(("a",), ()) | Seen(("b", "a"), ()) == Seen(("a", "b"), ())
    assert any_of(()) is False and any_of(("a",)) is True and any_of(None) is None
