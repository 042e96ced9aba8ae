"""The embedded task: disjoint splits, right answers, an honest corpus."""

import random
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.tasks.arithmetic import (
    DECISION_WORDS,
    READINGS,
    RULE_NAMES,
    RULES,
    SEEN_RULES,
    SPLIT_BUCKETS,
    SYNONYMS,
    UNSEEN_RULES,
    make_problems,
    make_trace,
    parse_problem,
    problem_text,
    split_of,
)

REASONING_WORDS = re.compile(
    r"\b(first|okay|next|then|now|wait|hmm|alternatively|but|so|therefore|thus|since|because|however|maybe|actually|let)\b",
    re.IGNORECASE,
)


def recompute(text: str, reading: str) -> str:
    """The answer by another way than the code under test: one expression per step, evaluated by Python."""
    meaning = {"add": "({v}+{d})", "subtract": "({v}-{d})", "multiply": "({v}*{d})", "reverse": "({d}-{v})"}
    usual = {"+": meaning["add"], "-": meaning["subtract"], "*": meaning["multiply"], "#": meaning[reading]}
    expression = re.search(r"Start with (\d)", text)[1]
    for op, digit in re.findall(r" [a-e]([-+*#])(\d)", text):
        expression = usual[op].format(v=expression, d=digit)
    return str(eval(expression) % 10)


def sums_are_right(trace: str) -> bool:
    return all(eval(left) % 10 == int(right) for left, right in re.findall(r"(\d[-+*]\d)=(\d)", trace))


@pytest.fixture(scope="module")
def problems():
    return make_problems("test", 600)


def test_answers_agree_with_an_independent_calculation(problems):
    reading = {rule.name: rule.reading for rule in RULES}
    assert all(p.answer == recompute(p.problem, reading[p.group]) for p in problems)


def test_four_readings_give_four_answers(problems):
    assert all(len({recompute(p.problem, reading) for reading in READINGS}) == 4 for p in problems)


def test_splits_share_no_problem_for_any_seed():
    owners = {}
    for split in SPLIT_BUCKETS:
        for seed in (0, 1):
            for problem in make_problems(split, 120, seed=seed):
                assert owners.setdefault(problem.problem, split) == split
                assert split_of(problem.problem) == split


def test_problems_of_one_call_are_distinct_and_ids_unique(problems):
    assert len({p.problem for p in problems}) == len({p.id for p in problems}) == 600


def test_a_larger_count_only_adds_problems():
    assert make_problems("validation", 50)[:20] == make_problems("validation", 20)


def test_another_seed_draws_other_problems_with_other_ids():
    first, second = make_problems("test", 200), make_problems("test", 200, seed=1)
    assert not {p.id for p in first} & {p.id for p in second}
    assert len({p.problem for p in first} & {p.problem for p in second}) < 5


def test_problems_do_not_depend_on_the_process():
    """Python's own hash() is salted per process; a split by it would leak."""
    code = "from secateur.tasks.arithmetic import make_problems; print(make_problems('judge_test', 30))"
    command, path = [sys.executable, "-c", code], ":".join(filter(None, sys.path))
    for salt in ("1", "2"):
        environment = {"PYTHONHASHSEED": salt, "PYTHONPATH": path}
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert run.stdout == f"{make_problems('judge_test', 30)}\n"


def test_every_cycle_is_balanced_over_rules():
    assert set(Counter(p.group for p in make_problems("test", 48)).values()) == {2}


def test_judge_training_never_sees_the_held_out_rules():
    seen = {p.group for split in ("judge_train", "judge_dev") for p in make_problems(split, 100)}
    assert seen == set(SEEN_RULES)
    assert {p.group for p in make_problems("judge_test", 48)} == set(RULE_NAMES)


def test_held_out_rules_are_balanced_over_readings():
    assert len(UNSEEN_RULES) == 8
    assert set(Counter(rule.reading for rule in RULES if rule.name in UNSEEN_RULES).values()) == {2}


def test_rules_can_be_restricted():
    assert {p.group for p in make_problems("judge_test", 40, rules=UNSEEN_RULES)} == set(UNSEEN_RULES)


def test_an_unknown_split_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"'tset'.*judge_dev"):
        make_problems("tset", 1)


def test_an_unknown_rule_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"baobab.*oak"):
        make_problems("test", 1, rules=["baobab"])


def test_text_and_parse_are_inverse(problems):
    assert all(problem_text(parse_problem(p.problem)) == p.problem for p in problems)


def test_text_that_is_no_problem_is_refused():
    with pytest.raises(ValueError, match="not an arithmetic problem"):
        parse_problem("What is 2+2?")


def test_reading_shares_add_up():
    assert all(sum(rule.reading_shares().values()) == pytest.approx(1.0) for rule in RULES)


def test_no_word_stands_for_two_readings():
    assert len(set(DECISION_WORDS)) == len(DECISION_WORDS) == 24


def decided_reading(trace: str) -> str:
    word = re.search(r"So .*?# (\w+)(?= under|\.)", trace)[1]
    return next(reading for reading, words in SYNONYMS.items() if word in words)


def test_clean_traces_calculate_rightly_what_they_decided(problems):
    rng = random.Random(0)
    traces = [(problem, make_trace(problem, rng, clean=True)) for problem in problems]
    for problem, trace in traces:
        answer = recompute(problem.problem, decided_reading(trace))
        assert trace.startswith("<think>\n") and trace.endswith(f"\n</think>\n\\boxed{{{answer}}}")
        assert sums_are_right(trace)


def test_the_decision_of_a_clean_trace_is_random(problems):
    """Otherwise a model learns to read `#` off the rule name and ignores its own decision."""
    rng = random.Random(0)
    right = [make_trace(p, rng, clean=True).endswith(f"{{{p.answer}}}") for p in problems for _ in range(3)]
    assert sum(right) / len(right) == pytest.approx(0.25, abs=0.05)


def test_the_corpus_plants_errors_in_the_stated_shares(problems):
    rng = random.Random(0)
    traces = [(p, make_trace(p, rng, clean=False)) for p in problems for _ in range(5)]
    right = sum(trace.endswith(f"{{{p.answer}}}") for p, trace in traces) / len(traces)
    recalled = sum(rule.share for rule in RULES) / len(RULES)
    assert recalled - 0.06 < right < recalled + 0.01
    assert 0.02 < sum(not sums_are_right(trace) for _, trace in traces) / len(traces) < 0.15


@given(st.integers())
def test_the_fourth_reasoning_word_follows_the_decision_in_every_trace(seed):
    problem = make_problems("train", 1, seed=seed)[0]
    for clean in (True, False):
        trace = make_trace(problem, random.Random(seed), clean)
        cut = trace[: list(REASONING_WORDS.finditer(trace))[3].end()]
        assert cut.endswith("Now first") and "=" not in cut
        assert decided_reading(cut) == decided_reading(trace)
