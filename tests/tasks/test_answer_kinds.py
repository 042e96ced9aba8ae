"""Answers that are not mathematics: what is taken out of a text, and which of them are one answer."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.runtime.errors import InputError
from secateur.tasks.answers.kinds import Answers

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def groups(kind: str, texts: list[str], thinking: bool = False) -> list[int | None]:
    """The group of each text's answer; None for no answer."""
    answers = Answers(kind)
    take, found = answers.extract(thinking), answers.groups()
    given = [take(text) for text in texts]
    return [None if one is None else found.add(place, one) for place, one in enumerate(given)]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"So \boxed{B}.", "B"),
        (r"\boxed{(c)}", "C"),
        (r"\boxed{\text{D}}", "D"),
        (r"\boxed{(A) \frac{1}{2}}", "A"),
        (r"\boxed{C. none of these}", "C"),
        ("First option A, but no. **Answer: E**", "E"),
        ("The answer is (D).", "D"),
        ("b", "B"),
        ("<think>answer: A</think> Answer: B", "B"),
        ("the answer is a number", None),
        (r"\boxed{14}", None),
        (r"\boxed{A \text{ or } B}", None),
        ("Answer: Both", None),
        ("<think>answer: A", None),
    ],
)
def test_a_choice_is_one_letter(text: str, letter: str | None) -> None:
    assert Answers("choice").extract()(text) == letter


def test_exact_answers_are_all_of_the_final_text() -> None:
    texts = ["<think>a</think>\n yes\n", "yes", "Yes", "no <think>yes</think>yes", "<think>yes", "  "]
    assert groups("exact", texts) == [0, 0, 2, 0, None, None]
    assert groups("exact", ["yes", "a</think>yes"], thinking=True) == [None, 1]


def test_a_pattern_is_equal_as_text() -> None:
    texts = ["total: 7", "total: 7.0", "total: 8, no, total: 7", "none"]
    assert groups(r"pattern:total: ([\d.]+)", texts) == [0, 1, 0, None]


def test_a_field_is_taken_from_the_last_object() -> None:
    take = Answers("json:result.0.name").extract()
    assert (
        take('{"result": [{"name": "x"}]} and then ```json\n{"result": [{"name": "y"}, 1]}\n``` {"broken": ') == '"y"'
    )
    assert take('<think>{"result": [{"name": "x"}]}</think> I do not know') is None
    for text in ('{"result": []}', '{"result": {"0": 1}}', '{"result": [{"name": null}]}', '["result"]', "{", "NaN"):
        assert take(text) is None, text
    assert Answers("json:a").extract()('{"a": NaN}') is None


@given(value=JSONS, indent=st.sampled_from([None, 2]), sort=st.booleans())
def test_fields_are_equal_as_values_however_they_are_written(value: object, indent: int | None, sort: bool) -> None:
    plain = json.dumps({"a": value})
    other = json.dumps({"b": 0, "a": value}, indent=indent, sort_keys=sort, ensure_ascii=False)
    found = groups("json:a", [f"It is {plain}.", other, json.dumps({"a": [value]})])
    assert found[:2] == ([None, None] if value is None else [0, 0]) and found[2] == 2
    answer = Answers("json:a").extract()(plain)
    assert value is None or json.loads(answer) == value


def test_values_of_other_types_are_other_values() -> None:
    texts = [json.dumps({"a": value}) for value in ("1", 1, True, [1], {"1": 1}, 1.0, 1.5)]
    assert groups("json:a", texts) == [0, 1, 2, 3, 4, 1, 6]


@given(text=st.text(alphabet='{}[]":,a1 \\Answer(is)', max_size=200))
def test_any_text_has_an_answer_or_none(text: str) -> None:
    for kind in ("choice", "exact", "json:a.b", "pattern:(a+)", "none"):
        answer = Answers(kind).extract()(text)
        assert answer is None or isinstance(answer, str)


@pytest.mark.parametrize(
    "hostile", ['{"a":' * 20_000, '{"a":[' * 20_000, "{" * 100_000, "answer " * 20_000, " " * 99_999]
)
def test_hostile_text_takes_no_long_work(hostile: str) -> None:
    began = time.process_time()
    for kind in ("choice", "exact", "json:a"):
        Answers(kind).extract()("Answer: " + hostile + " x")
    assert time.process_time() - began < 10


def test_free_text_has_no_answer() -> None:
    assert not Answers("none").votes and Answers("none").extract()("yes") is None


@pytest.mark.parametrize("kind", ["", "math", "json:", "json:a..b", "pattern:(", "pattern"])
def test_kinds_that_are_none_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="key 'answers'"):
        Answers(kind)


def test_where_a_boxed_answer_is_may_be_said_beside() -> None:
    take = Answers(answer_from=r"pattern:is (\S+)").extract()
    assert take("it is 0.5") == "0.5"
    found = Answers().groups()
    assert [found.add(0, "0.5"), found.add(1, r"\frac{1}{2}"), found.add(2, "2")] == [0, 0, 2]
    with pytest.raises(InputError, match="goes with boxed answers"):
        Answers("exact", answer_from="anywhere")
