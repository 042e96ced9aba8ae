"""Rows of combined.json: saving parts, costs, settings, the CSV. Pure functions."""

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.table.costs import TokenPrices, cost_of, read_prices
from eval.table.method import Outcome, ReplayProblem, ReplayTrace, blocks, mean_outcome, part
from eval.table.rows import saving_parts
from eval.table.settings import FORGET, MAY_GROW, check_joinable, check_same_settings, table_settings
from eval.table.settings import SETTINGS as SETTINGS_KEYS
from secateur.engines.accounting import JudgeUsage, Usage
from secateur.results import Control, Cost, Row, flat_row, rows_as_csv
from secateur.runtime.errors import InputError
from secateur.runtime.records import as_json

COST = st.floats(0, 1e15)
TIMES = st.floats(0, 50)


@given(TIMES, TIMES, st.floats(1, 1e15))
def test_the_parts_of_a_saving_sum_to_it(row: float, own: float, reference: float) -> None:
    """Also where a model or a method costs many times the reference."""
    parts = saving_parts(row * reference, own * reference, reference)
    assert parts.intra + parts.inter == pytest.approx(1 - row, abs=1e-12)
    dearer = saving_parts(row * reference + reference, own * reference, reference)
    assert dearer.intra == parts.intra and dearer.inter < parts.inter


@given(COST, st.floats(1, 1e15))
def test_a_part_that_does_nothing_saves_nothing(cost: float, reference: float) -> None:
    """A model as long as the base saves nothing inside its traces, a vote of all its traces nothing across them."""
    assert saving_parts(cost, reference, reference).intra == 0
    assert saving_parts(cost, cost, reference).inter == 0


def test_money_is_tokens_times_prices() -> None:
    usage = Usage(generated=3_000_000, overrun=1_000_000, judge_prefill=500_000, judge_cached=2_000_000)
    generator, judge = TokenPrices(1.0, 0.5, 4.0), TokenPrices(0.2, 0.1, 0.3)
    cost = cost_of(usage, 10, 50_000.0, generator, judge)
    assert cost.per_problem == pytest.approx((0.5 * 1 + 4 * 4 + 0.5 * 0.2 + 2 * 0.1) / 10)
    assert cost.per_1000_problems == pytest.approx(1000 * cost.per_problem)
    assert cost_of(usage, 10, 50_000.0, generator, None).per_problem == pytest.approx(16.5 / 10)


MODELS, JUDGES = {"base": "the model a/b"}, {"pairwise": "the judge c"}
PRICE = {"prompt": 1.0, "cached": 0.1, "generated": 4.0}


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({"base": PRICE}, "none for 'pairwise' \\(the judge c\\); add"),
        ({"pairwise": PRICE}, "none for 'base'"),
        ({"base": PRICE, "pairwise": PRICE, "tfidf": PRICE}, "names 'tfidf'.*choose from base, pairwise"),
        ({"base": {"prompt": 1.0}, "pairwise": PRICE}, "'prices.base' has prompt; give prompt, cached, generated"),
        ({"base": PRICE | {"cached": -1}, "pairwise": PRICE}, "'prices.base.cached' has the value -1"),
        ({"base": PRICE | {"prompt": float("nan")}, "pairwise": PRICE}, "'prices.base.prompt' has the value nan"),
    ],
)
def test_prices_that_do_not_fit_are_refused(prices: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prices(prices, MODELS, JUDGES)


def test_no_prices_are_no_prices() -> None:
    assert read_prices({}, MODELS, JUDGES) == {}


@given(st.integers(1, 40), st.data())
def test_blocks_are_disjoint_and_as_many_as_fit(stored: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, stored))
    found = blocks(stored, n)
    places = [place for block in found for place in block.tolist()]
    assert len(found) == stored // n and places == list(range(n * len(found)))


def test_a_block_is_the_problem_with_fewer_traces() -> None:
    usage = JudgeUsage(Usage(judge_prefill=100), tuple(Usage(judge_prefill=10) for _ in range(4)))
    traces = tuple(ReplayTrace(str(place), 10 + place, place) for place in range(4))
    record = ReplayProblem("p", frozenset("1"), traces, 7, np.arange(16.0).reshape(4, 4), usage)
    taken = part(record, np.array([2, 3]))
    assert taken.keys == ["2", "3"] and taken.scores.tolist() == [[10, 11], [14, 15]]
    assert taken.judge_usage.everything.judge_prefill == 2 * 10 + (100 - 40) / 6, "its cuts, and one pair of six"
    assert taken.decision_seed == 7 and part(replace(record, scores=None), np.array([0])).scores is None


def test_a_block_reads_the_prompt_that_the_first_trace_had_read_for_all() -> None:
    """A judge that keeps the prompt (30 tokens): only the first cut reads it, each reads 10 of its own."""
    cuts = tuple(Usage(judge_prefill=40 - cached, judge_cached=cached) for cached in (0, 30, 30, 30))
    usage = JudgeUsage(sum(cuts, Usage()), cuts)
    blocks_of_two = [usage.part(places) for places in ([0, 1], [2, 3])]
    assert [block.everything.judge_prefill for block in blocks_of_two] == [50, 50]
    assert [block.everything.judge_cached for block in blocks_of_two] == [30, 30]
    assert [block.of([1], 0).judge_prefill for block in blocks_of_two] == [40, 40]
    assert usage.of([3, 2, 0], 0).judge_prefill == 60 and usage.of([], 0) == Usage()


def test_outcomes_are_averaged_over_blocks() -> None:
    one = Outcome(1.0, Usage(generated=10, longest_path=4), 2, 1.0)
    other = Outcome(0.0, Usage(generated=30, longest_path=8), 3, 0.0)
    expected = Outcome(0.5, Usage(generated=20, longest_path=6), 2.5, 0.5)
    assert mean_outcome([one, other]) == expected
    assert mean_outcome([replace(one, oracle=None)]).oracle is None


SETTINGS = {"temperature": 0.6, "top_p": 0.95, "n": 8, "max_tokens": 100, "prompt_family": "deepseek", "seed": 0}
SETTINGS |= {"grader": "secateur-1 math-verify-0.8.0"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", 1.0), ("top_p", 1.0), ("n", 16), ("max_tokens", 99), ("prompt_family", "qwen"), ("seed", 1),
     ("grader", "secateur-2 math-verify-0.8.0")],
)  # fmt: skip
def test_other_settings_are_refused_by_name(key: str, value: Any) -> None:
    other = SETTINGS | {key: value}
    with pytest.raises(InputError, match=f"run b: key '{key}' is {value!r} there and {SETTINGS[key]!r} here.*run a"):
        check_joinable([("run a", SETTINGS), ("run b", other)])
    if key not in MAY_GROW:
        with pytest.raises(InputError, match="give another output_dir"):
            check_same_settings(SETTINGS, other, "folder/settings.json", FORGET, MAY_GROW)


def test_same_settings_and_more_traces_are_fine() -> None:
    check_joinable([("a", SETTINGS), ("b", dict(SETTINGS)), ("c", dict(SETTINGS))])
    check_same_settings(SETTINGS, SETTINGS | {"n": 64}, "folder", FORGET, MAY_GROW)


def test_of_several_n_the_largest_counts() -> None:
    config = dict.fromkeys(SETTINGS_KEYS, 0) | {"n": [4, 16, 8], "orders": 20}
    assert table_settings(config, "g") == dict.fromkeys(SETTINGS_KEYS, 0) | {"n": 16, "grader": "g"}


def make_row(row_id: str, accuracy: float, **changes: object) -> Row:
    bounds = (accuracy - 0.1, accuracy + 0.1)
    usage = Usage(generated=3)
    return Row(
        row_id, "base", "single", None, "b", 4, 2, accuracy, bounds, None, 1.0, usage, 0.1, 0.2, 3.0, **changes
    )


def test_csv_has_a_column_for_every_number() -> None:
    control = Control(0.4, 9.0, 0.1, (0.0, 0.2))
    rows = [
        make_row("a", 0.5),
        make_row('b, "c"\n', 1.0, controls={"random_traces": control}, cost=Cost(1.5, 1500.0)),
    ]
    read = list(csv.DictReader(io.StringIO(rows_as_csv(rows))))
    assert read[0]["accuracy_low"] == "0.4" and read[0]["controls_random_traces_low"] == ""
    assert read[1]["id"] == 'b, "c"\n' and read[1]["controls_random_traces_high"] == "0.2"
    assert "controls" not in read[0] and "tokens" not in read[0] and len(read) == 2
    assert read[1]["tokens_generated"] == "3.0" and read[1]["cost_per_1000_problems"] == "1500.0"
    assert flat_row(as_json(rows[1]))["tokens_generated"] == 3
