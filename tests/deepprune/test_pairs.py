"""Judge data: labels, what a missing answer means, splits by problem."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.deepprune.judges.base import CutTrace
from secateur.deepprune.judges.pairs import LabelledProblem, check_disjoint, make_pairs
from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import group_answers
from secateur.tasks.answers.extraction import extract_answer
from secateur.tasks.records import Trace


def trace(text: str, sample: int = 0) -> Trace:
    return Trace("p", "1+1?", "2", sample, text)


def problem(identity: str, prompt_ids: tuple[int, ...] = ()) -> LabelledProblem:
    pairs = make_pairs([0, 1], [True, True], [False, False])
    return LabelledProblem(identity, None, (CutTrace(prompt_ids, (), ""),) * 2, (False,) * 2, (0.5,) * 2, pairs)


def test_labels_are_the_project_wide_equality_of_answers():
    texts = ["so \\boxed{1/2}", "\\boxed{\\frac{1}{2}}", "\\boxed{0.75}", "no answer"]
    keys = group_answers([extract_answer(text) for text in texts])
    pairs = make_pairs(keys, [True] * 4, [False] * 4)
    same = {(int(i), int(j)) for i, j, label in zip(pairs.first, pairs.second, pairs.labels, strict=True) if label}
    assert same == {(0, 1)}
    assert len(pairs) == 6


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, None]), st.booleans(), st.booleans()), max_size=12))
def test_every_pair_of_known_outcome_once(traces):
    keys, ended, whole = ([entry[part] for entry in traces] for part in range(3))
    pairs = make_pairs(keys, ended, whole)
    known = [key is not None or end for key, end in zip(keys, ended, strict=True)]
    expected = {(i, j) for j in range(len(keys)) for i in range(j) if known[i] and known[j]}
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
    assert len(pairs) == len(expected)
    for i, j, label, unfinished in zip(pairs.first, pairs.second, pairs.labels, pairs.unfinished, strict=True):
        assert label == (keys[i] is not None and keys[i] == keys[j])
        assert unfinished == (not whole[i] and not whole[j])


def test_two_traces_without_answer_do_not_agree():
    pairs = make_pairs([None, None], [True, True], [False, False])
    assert pairs.labels.tolist() == [0]


def test_a_trace_that_ran_into_the_cap_makes_no_pair():
    pairs = make_pairs([None, 0, 0], [False, True, True], [False] * 3)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([1], [2])


def test_a_problem_in_two_splits_is_named():
    check_disjoint({"train": [problem("a")], "test": [problem("b")]})
    with pytest.raises(InputError, match="'b' is in 'train' and in 'test'"):
        check_disjoint({"train": [problem("a"), problem("b")], "dev": [problem("c")], "test": [problem("b")]})


def test_a_problem_in_two_splits_is_named_under_whatever_id():
    check_disjoint({"train": [problem("a", (1, 2)), problem("a2", (1, 2))], "test": [problem("b", (1, 3))]})
    with pytest.raises(InputError, match=r"'b' is in 'train' \(as 'a'\) and in 'dev'.*give splits"):
        check_disjoint({"train": [problem("a", (1, 2))], "dev": [problem("b", (1, 2))]})


def test_arrays_have_one_length_even_without_traces():
    pairs = make_pairs([], [], [])
    assert len(pairs) == 0 and pairs.labels.dtype == np.int64
