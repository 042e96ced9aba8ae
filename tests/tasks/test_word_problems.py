"""The word problems: splits share nothing, answers follow from the text, solutions end in the answer."""

import itertools
import re

import pytest

from secateur.runtime.errors import InputError
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.sources import load_problems
from secateur.tasks.word_problems import (
    DEVELOPMENT,
    LARGEST,
    SPLITS,
    TESTING,
    TRAINING,
    make_problems,
    make_solutions,
)

COUNT = 160
_SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def test_splits_share_no_problem_and_test_templates_are_unseen() -> None:
    problems = {split: {problem.problem for problem in make_problems(split, COUNT)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not problems[one] & problems[other], (one, other)
    names = [{template.name for template in group} for group in (TRAINING, DEVELOPMENT, TESTING)]
    assert all(not one & other for one, other in itertools.combinations(names, 2))
    for split in ("test", "judge_test", "combined"):
        assert {problem.group for problem in make_problems(split, COUNT)} == names[2]


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_the_same_every_time_and_only_grows(split: str) -> None:
    assert make_problems(split, 20) == make_problems(split, 40)[:20]
    assert make_problems(split, 40, seed=1) != make_problems(split, 40)
    assert len({problem.id for problem in make_problems(split, COUNT)}) == COUNT


def test_every_number_of_a_problem_is_used_and_the_answer_is_a_small_whole_number() -> None:
    for problem in (one for split in SPLITS for one in make_problems(split, COUNT)):
        assert 1 <= int(problem.answer) <= LARGEST
        assert "{" not in problem.problem and "[" not in problem.problem


def test_a_solution_calculates_rightly_and_ends_in_the_answer() -> None:
    for problem, solution in make_solutions(COUNT):
        sums = _SUM.findall(solution)
        for left, op, right, result in sums:
            exact = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
            assert int(result) == (int(left) // int(right) if op == "/" else exact[op])
        assert sums[-1][-1] == problem.answer == extract_answer(solution)
        given = re.findall(r"\d+", problem.problem)
        assert set(given) <= set(re.findall(r"\d+", solution)) | {"1"}


def test_solutions_come_in_three_lengths() -> None:
    lengths = [solution.count("=") for _, solution in make_solutions(COUNT)]
    assert min(lengths) == 1 and max(lengths) >= 4
    explained = sum("gives the numbers" in solution for _, solution in make_solutions(COUNT)) / COUNT
    assert 0.5 < explained < 0.8


def test_as_a_source_of_problems() -> None:
    assert load_problems("words:test", 5) == make_problems("test", 5)
    with pytest.raises(InputError, match="endless"):
        load_problems("words:test")
    with pytest.raises(InputError, match="valid splits"):
        load_problems("words:exam", 3)
