"""What a round trains on: the filters and their report, the rows and their targets."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from schedules.config import ScheduleConfig
from schedules.rounds import Round
from secateur.runtime.errors import InputError
from secateur.tasks.records import Problem, read_problems
from tests.tiny import WITHOUT_SYSTEM, build_tokenizer
from trainers.grpo.data import check_validation, load_training_problems, round_rows

EXAM = (
    "Three boys and four girls stand in a row in random order. Find the probability that no two boys are neighbours."
)
TRAINING = {
    "fine": "How many positive divisors does $2^3 \\cdot 5^4$ have, and what is their sum?",
    "exact": EXAM.replace(" ", "  "),
    "near": EXAM.replace("Find", "Determine"),
    "long": "Add up all of these numbers: " + ", ".join(str(n) for n in range(300)),
    "last": "Compute $17 \\times 23$ without a calculator.",
}
ROUND = Round(2, 400, 5)


def write(path: Path, problems: dict[str, str]) -> str:
    records = [{"id": name, "problem": text, "answer": "7"} for name, text in problems.items()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def schedule(problems: str, **values: Any) -> ScheduleConfig:
    given = {"limits": [800, 400], "steps_per_round": 5, "max_prompt_tokens": 1000, "seed": 3, **values}
    return ScheduleConfig(
        model="owner/model", output_dir="x", problems=problems, validation_problems=problems, **given
    )


def test_every_problem_is_kept_or_reported(tmp_path: Path) -> None:
    source, exam = write(tmp_path / "t.jsonl", TRAINING), write(tmp_path / "exam.jsonl", {"e1": EXAM})
    data = load_training_problems(schedule(source, decontaminate=[exam]), build_tokenizer())
    report = json.loads(json.dumps(dataclasses.asdict(data.report)))
    assert [problem.id for problem in data.problems] == ["fine", "last"]
    assert (report["loaded"], report["kept"], report["evaluation"]) == (5, 2, {exam: 1})
    assert report["exact"] == [
        {"id": "exact", "source": exam, "match": "e1", "kind": "exact", "similarity": 1.0}
    ]  # fmt: skip
    assert [entry["id"] for entry in report["near"]] == ["near"] and report["near"][0]["similarity"] < 1
    assert [entry["id"] for entry in report["too_long"]] == ["long"] and report["too_long"][0]["tokens"] > 1000
    assert data.report.summary() == (
        f"2 of 5 problems of {source} (1 in an evaluation set, 1 nearly in one, 1 too long)"
    )


def test_without_filters_all_are_kept(tmp_path: Path) -> None:
    source = write(tmp_path / "t.jsonl", TRAINING)
    data = load_training_problems(schedule(source, max_prompt_tokens=10_000), build_tokenizer())
    assert [problem.id for problem in data.problems] == list(TRAINING)
    assert data.report.summary() == f"5 of 5 problems of {source}"


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    source = write(tmp_path / "t.jsonl", TRAINING)
    with pytest.raises(InputError, match=r"'max_prompt_tokens' has the value 3: all 5 prompts"):
        load_training_problems(schedule(source, max_prompt_tokens=3), build_tokenizer())
    with pytest.raises(InputError, match=r"key 'problems'.*nothing is left.*5 in an evaluation set"):
        load_training_problems(schedule(source, decontaminate=[source]), build_tokenizer())


@pytest.mark.parametrize("source", ["none.jsonl", "arithmetic:test"])
def test_an_evaluation_set_that_cannot_be_read_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match=f"key 'decontaminate', '{source}'"):
        training = write(tmp_path / "t.jsonl", TRAINING)
        load_training_problems(schedule(training, decontaminate=[source]), build_tokenizer())


def test_rows_are_numbered_and_state_the_limit_of_their_round() -> None:
    problems = [Problem(str(n), f"p{n}", str(n)) for n in range(4)]
    rows = round_rows(problems, schedule("x.jsonl"), ROUND, 10, build_tokenizer())
    assert [row["row"] for row in rows] == list(range(10))
    assert {row["problem_id"] for row in rows[:4]} == {row["problem_id"] for row in rows[4:8]} == set("0123")
    assert all("within 400 tokens" in row["prompt"][0]["content"] for row in rows)
    assert all(row["gold"] == row["problem_id"] and "target_tokens" not in row for row in rows)


def test_rows_are_put_as_the_config_says_and_measured_so(tmp_path: Path) -> None:
    """Own sentences, the limit stated or not; the filter for long prompts counts the same tokens."""
    own = {"prompt_family": "plain", "system_prompt": "Be brief.", "instruction": "Solve {problem} now."}
    problems = [Problem("1", "p", "1")]
    (row,) = round_rows(problems, schedule("x.jsonl", **own), ROUND, 1, build_tokenizer())
    assert row["prompt"] == [
        {"role": "system", "content": "Be brief. The output of the assistant should be within 400 tokens."},
        {"role": "user", "content": "Solve p now."},
    ]
    (row,) = round_rows(problems, schedule("x.jsonl", **own, state_limit=False), ROUND, 1, build_tokenizer())
    assert [one["content"] for one in row["prompt"]] == ["Be brief.", "Solve p now."]
    source = write(tmp_path / "t.jsonl", {"one": "How many are two and two?", "two": "And three and three?"})
    own["instruction"] = "word " * 300
    with pytest.raises(InputError, match=r"'max_prompt_tokens' has the value 1000: all 2 prompts"):
        load_training_problems(schedule(source, **own), build_tokenizer())


def test_rows_have_no_turn_that_the_template_refuses() -> None:
    """TRL renders them itself: Gemma 2's template ends a training with "System role not supported"."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = WITHOUT_SYSTEM["refused"]
    rows = round_rows([Problem("a", "1+1?", "2")], schedule("x.jsonl"), ROUND, 3, tokenizer)
    assert [[turn["role"] for turn in row["prompt"]] for row in rows] == [["user"]] * 3
    assert all("within 400 tokens.\n\n1+1? Let's think" in row["prompt"][0]["content"] for row in rows)


def test_a_reward_with_a_target_names_one_per_row() -> None:
    """Uniform from `target_min` to the limit, from the row's own seed: a longer round begins with the same rows."""
    problems = [Problem(str(n), f"p{n}", str(n)) for n in range(4)]
    wanted = schedule("x.jsonl", reward="l1_exact", reward_options={"target_min": 100})
    rows = round_rows(problems, wanted, ROUND, 400, build_tokenizer())
    targets = [row["target_tokens"] for row in rows]
    assert min(targets) >= 100 and max(targets) <= 400 and len(set(targets)) > 150
    assert abs(sum(targets) / len(targets) - 250) < 20
    assert all(row["prompt"][-1]["content"].endswith(f" Think for {row['target_tokens']} tokens.") for row in rows)
    assert rows == round_rows(problems, wanted, ROUND, 500, build_tokenizer())[:400]
    other = round_rows(problems, dataclasses.replace(wanted, seed=4), ROUND, 400, build_tokenizer())
    assert targets != [row["target_tokens"] for row in other]


def test_validation_on_what_is_trained_on_is_refused_by_content_and_a_part_of_it_said(tmp_path: Path, capsys) -> None:
    source = write(tmp_path / "t.jsonl", TRAINING)
    problems = load_training_problems(schedule(source, max_prompt_tokens=10_000), build_tokenizer()).problems
    renamed = {f"v{name}": text.replace(" ", "  ") for name, text in TRAINING.items()}
    copied = write(tmp_path / "v.jsonl", renamed)
    for validation in (source, copied):
        with pytest.raises(InputError, match=r"'validation_problems' has the value '.*\.jsonl': all 5 are training"):
            check_validation(dataclasses.replace(schedule(source), validation_problems=validation), problems)
    mixed = write(tmp_path / "m.jsonl", {**renamed, "new": "What is $2^{10}$?"})
    check_validation(dataclasses.replace(schedule(source), validation_problems=mixed), problems)
    assert "5 of 6 are trained on as well; 'decontaminate' takes" in capsys.readouterr().out.replace("\n", " ")
    assert not check_validation(dataclasses.replace(schedule(source), validation_problems=mixed), problems[:0])
    assert not capsys.readouterr().out


def test_real_problems_are_decontaminated(shared_data: Path) -> None:
    """AIME 2022 among the training problems is found again, and nothing of the next two years is taken for it."""
    files = [shared_data / "problems" / f"aime{year}.jsonl" for year in (2022, 2023, 2024)]
    wanted = schedule("+".join(map(str, files)), decontaminate=[str(files[0])], max_prompt_tokens=10_000)
    data = load_training_problems(wanted, build_tokenizer())
    ids = [[problem.id for problem in read_problems(path)] for path in files]
    assert [entry.id for entry in data.report.exact] == ids[0] and not data.report.near
    assert [problem.id for problem in data.problems] == ids[1] + ids[2]
