"""Sources of problems: names, files, joins, and golds that cannot be graded."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from eval.prune import Question, read_questions
from secateur.runtime.errors import InputError
from secateur.tasks import sources as load
from secateur.tasks.records import Problem
from secateur.tasks.sources import TABLES, check_source, load_problems, load_training_set, split_source

UNREADABLE = "\\frac{1"


def write(path: Path, *records: tuple[str, str]) -> Path:
    lines = [json.dumps({"id": name, "problem": f"problem {name}", "answer": answer}) for name, answer in records]
    path.write_text("\n".join(["", *lines]) + "\n", encoding="utf-8")
    return path


def test_joined_files_come_in_order_and_the_count_is_of_all(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", ("1", "2"), ("2", "3"))
    second = write(tmp_path / "b.jsonl", ("3", "4"))
    assert [p.id for p in load_problems(f"{first}+{second}")] == ["1", "2", "3"]
    assert [p.id for p in load_problems(f"{second}+{first}", 2)] == ["3", "1"]
    with pytest.raises(InputError, match="holds 3 problems, but 4"):
        load_problems(f"{first}+{second}", 4)


def test_a_file_with_a_plus_in_its_name_is_one_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a+b.jsonl", ("1", "2"))
    assert split_source(str(path)) == [str(path)]
    assert len(load_problems(str(path))) == 1


def test_an_id_that_two_parts_share_is_named(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{name}.jsonl", ("7", "2")) for name in "ab")
    with pytest.raises(InputError, match="the id '7' comes twice"):
        load_problems(f"{first}+{second}")


@pytest.mark.parametrize("source", ["aime2022", "aime22+aime2033", "data/none.jsonl", ""])
def test_an_unknown_source_lists_the_known_ones(source: str) -> None:
    with pytest.raises(InputError, match=r"no such file and no known set.*numina_amc_aime, aime22"):
        check_source(source)


def test_the_embedded_task_stands_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ("1", "2"))
    for source in ("arithmetic:test+aime22", f"{path}+arithmetic:test"):
        with pytest.raises(InputError, match="cannot be joined"):
            load_problems(source, 3)


def test_an_unreadable_answer_in_an_own_file_is_named_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", ("1", "2"), ("broken", UNREADABLE))
    for read in (lambda: load_problems(str(path)), lambda: load_training_set(str(path), None, 0)):
        with pytest.raises(InputError, match=r"p\.jsonl, line 3: the answer of problem 'broken'.*cannot be graded"):
            read()
    assert [p.id for p in load_problems(str(path), 1)] == ["1"]


def test_an_unreadable_answer_in_a_published_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation refuses it; training goes on without the problem and says so."""
    published = [Problem("a", "x", "1"), Problem("b", "y", UNREADABLE)]
    monkeypatch.setattr(load, "load_hub_set", lambda name: published)
    with pytest.raises(InputError, match=r"math500: HuggingFaceH4/MATH-500.*'b'.*secateur problems"):
        load_problems("math500")
    kept, left_out = load_training_set("math500", None, 0)
    assert [problem.id for problem in kept] == ["a"]
    assert [(entry.id, entry.answer) for entry in left_out] == [("b", UNREADABLE)] and left_out[0].reason


def test_export_writes_what_load_reads(tmp_path: Path) -> None:
    source, path = write(tmp_path / "a.jsonl", ("1", "2"), ("x", UNREADABLE)), tmp_path / "out" / "b.jsonl"
    command = [sys.executable, "-m", "secateur.tasks.export", str(source), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == ["1", "x"]
    assert "2 problems" in done.stdout


def problems_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "secateur.cli", "problems", *words], capture_output=True, text=True)


ROWS = [
    {"Q": "What is 6 · 7?", "A": "6 · 7 = 42\n#### 42", "key": "a"},
    {"Q": "1 + 1, in words", "A": "#### 2", "key": "b"},
]


def write_rows(path: Path) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        with open(path, "w", newline="", encoding="utf-8-sig") as handle:
            writer = csv.DictWriter(handle, ROWS[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("suffix", TABLES)
def test_tables_become_problems_that_all_commands_read(suffix: str, tmp_path: Path) -> None:
    source, path = write_rows(tmp_path / f"exam{suffix}"), tmp_path / "exam.jsonl"
    columns = ("--problem_column", "Q", "--answer_column", "A", "--answer_from", "pattern:#### (.+)")
    done = problems_command(str(source), str(path), *columns, "--id_column", "key")
    assert done.returncode == 0, done.stderr
    assert load_problems(str(path)) == [Problem("a", ROWS[0]["Q"], "42"), Problem("b", ROWS[1]["Q"], "2")]
    assert problems_command(str(source), str(path), *columns, "--count", "1").returncode == 0
    assert load_problems(str(path)) == [Problem("1", ROWS[0]["Q"], "42")]
    with pytest.raises(InputError, match="make a JSONL file of it: secateur problems"):
        load_problems(str(source))


def test_a_table_of_questions_alone_is_for_prune(tmp_path: Path) -> None:
    source, path = write_rows(tmp_path / "exam.csv"), tmp_path / "exam.jsonl"
    assert problems_command(str(source), str(path), "--problem_column", "Q").returncode == 0
    asked = [Question(str(number), row["Q"]) for number, row in enumerate(ROWS, start=1)]
    assert read_questions(path) == asked
    with pytest.raises(InputError, match="'answer'"):
        load_problems(str(path))


MISTAKES = {
    ("--answer_column", "A"): "--answer_column, --answer_from and --id_column want --problem_column",
    ("--problem_column", "Q", "--answer_from", "answer"): "--answer_from takes answers out of --answer_column",
    ("--problem_column", "Q", "--answer_column", "B"): "row 1: there is no column 'B'; there are Q, A, key",
    (
        "--problem_column",
        "Q",
        "--answer_column",
        "A",
        "--answer_from",
        "answer",
    ): "row 1: no answer found in",
    ("--problem_column", "Q", "--answer_column", "A", "--count", "0"): "--count has the value 0",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_table_that_does_not_fit_is_named(words: tuple[str, ...], tmp_path: Path) -> None:
    done = problems_command(str(write_rows(tmp_path / "exam.csv")), str(tmp_path / "exam.jsonl"), *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and MISTAKES[words] in done.stderr
    assert not (tmp_path / "exam.jsonl").exists()


def test_real_problems_can_all_be_graded(shared_data: Path) -> None:
    files = sorted((shared_data / "problems").glob("aime*.jsonl"))
    assert len(load_problems("+".join(map(str, files)))) == 90
    assert len(load_problems(str(shared_data / "problems" / "math500.jsonl"))) == 500
