"""Problem and trace files: what is read back, and what a broken line says."""

import gzip
import json
from pathlib import Path

import pytest

from secateur.runtime.errors import InputError
from secateur.tasks.records import Trace, read_problems, read_traces, trace_of
from secateur.tasks.sources import load_problems

GOOD = {"id": "a", "problem": "1+1?", "answer": "2"}


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object"),
        (json.dumps({"id": "b", "problem": "x"}), "line 2: the key 'answer' is missing"),
        (json.dumps({**GOOD, "id": "b", "answer": " "}), "line 2: problem 'b' has an empty answer"),
        (json.dumps(GOOD), "line 2: the id 'a' was used before"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write_lines(tmp_path / "p.jsonl", json.dumps(GOOD), line)
    with pytest.raises(InputError, match=message) as error:
        read_problems(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ('""', "right answer"),
        ("NaN", "right answer"),
        ('"nan"', "right answer"),
        ("[42]", "not a list"),
        ("\"['42']\"", "not a list"),
        ('"\\frac{1}{2}"', "control character"),
        ('"3\\times 4"', "control character"),
        ('"4-\\\\mathrm{i"', "braces do not balance"),
    ],
)
def test_a_gold_that_can_be_none_is_refused_by_its_line(tmp_path: Path, gold: str, message: str) -> None:
    good = json.dumps({"problem_id": "a", "problem": "x", "gold": "2", "sample": 0, "text": "…"})
    bad = f'{{"problem_id": "b", "problem": "x", "gold": {gold}, "sample": 0, "text": "…"}}'
    path = write_lines(tmp_path / "t.jsonl", good, bad)
    with pytest.raises(InputError, match=f"t.jsonl, line 2.*{message}"):
        list(read_traces(path))
    if message != "braces do not balance" and gold != '""':  # in problems, load_problems asks the grader itself
        problems = write_lines(
            tmp_path / "p.jsonl", json.dumps(GOOD), f'{{"id": "b", "problem": "x", "answer": {gold}}}'
        )
        with pytest.raises(InputError, match=f"p.jsonl, line 2.*{message}"):
            read_problems(problems)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_problems(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="holds no problem"):
        load_problems(str(write_lines(tmp_path / "empty.jsonl", "")))


def test_asking_for_more_problems_than_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", json.dumps(GOOD))
    assert [p.id for p in load_problems(str(path), 1)] == ["a"]
    with pytest.raises(InputError, match="holds 1 problems, but 2"):
        load_problems(str(path), 2)


def test_the_embedded_task_needs_a_count_and_a_known_split() -> None:
    with pytest.raises(InputError, match="how many"):
        load_problems("arithmetic:test")
    with pytest.raises(ValueError, match="tset"):
        load_problems("arithmetic:tset", 3)
    assert len(load_problems("arithmetic:test", 3)) == 3


def test_traces_round_trip_and_foreign_files_are_read(tmp_path: Path) -> None:
    trace = Trace("p", "1+1?", "2", 0, "\\boxed{2}", "m", (1, 2), 2, "stop")
    foreign = {"problem_id": "q", "problem": "x", "gold": 3, "sample": "1", "text": "…", "score": 0.5}
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as handle:
        handle.write(json.dumps(trace.to_json()) + "\n" + json.dumps(foreign) + "\n")
    first, second = read_traces(path)
    assert first == trace
    assert second == Trace("q", "x", "3", 1, "…")


def test_a_trace_with_a_wrong_type_is_named(tmp_path: Path) -> None:
    record = {"problem_id": "q", "problem": "x", "gold": "3", "sample": 0, "text": "…", "n_tokens": "many"}
    path = write_lines(tmp_path / "t.jsonl", json.dumps(record))
    with pytest.raises(InputError, match="line 1: a value has the wrong type"):
        list(read_traces(path))


def test_real_files_are_read(shared_data: Path) -> None:
    assert len(read_problems(shared_data / "problems" / "aime2024.jsonl")) == 30
    traces = list(read_traces(shared_data / "traces" / "thought_anchors_base_solutions.jsonl.gz"))
    assert len(traces) == 40
    assert all(trace.text and trace.gold for trace in traces)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_tokens", 1e400),
        ("n_tokens", 1e300),
        ("n_tokens", -1),
        ("token_ids", [1e400]),
        ("probe_every", 1e400),
        ("token_ids", [1.5]),
        ("token_ids", "123"),
        ("token_ids", [-1]),
        ("token_ids", [True]),
        ("token_ids", [2**40]),
    ],
)
def test_numbers_that_count_nothing_are_named(key, value) -> None:
    record = {"problem_id": "p", "problem": "?", "gold": "1", "sample": 0, "text": "t"} | {key: value}
    with pytest.raises(InputError, match="here: a value has the wrong type or is impossible"):
        trace_of(record, "here")


@pytest.mark.parametrize("name", ["", ["p"], {"id": "p"}, float("inf")])
def test_what_names_no_problem_is_refused(name) -> None:
    record = {"problem_id": name, "problem": "?", "gold": "1", "sample": 0, "text": "t"}
    with pytest.raises(InputError, match=r"here: the key 'problem_id' has the value .*; give the problem a name"):
        trace_of(record, "here")
