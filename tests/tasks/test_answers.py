"""Extraction, and the two relations on answers: equal (an equivalence) and right (against a gold answer)."""

import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur.tasks.answers.equality
from secateur.runtime.errors import InputError
from secateur.tasks.answers.equality import (
    GRADER_VERSION,
    AnswerGroups,
    answers_equal,
    compare_answers,
    grade,
    grade_answers,
    grade_batch,
    group_answers,
    unreadable_reason,
    unreadable_reasons,
)
from secateur.tasks.answers.extraction import count_unanswered, extract_answer, extraction
from secateur.tasks.records import read_problems


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("\\boxed{7}", False, "7"),
        ("<think>\\boxed{1}</think> so \\boxed{7}", False, "7"),
        ("\\boxed{1}</think> so \\boxed{7}", True, "7"),
        ("<think> maybe \\boxed{7} hmm wait", False, None),  # thinking never ended
        ("maybe \\boxed{7} hmm wait", True, None),
        ("<think>\\boxed{7}</think> no box here", False, None),  # only the answer part counts
        ("a</think>\\boxed{1}<think>b</think>\\boxed{2}", False, "2"),  # after the last thought
        ("a</think>\\boxed{1}<think>\\boxed{2}", True, None),  # a second thought that never ended
        ("\\boxed{7}..\\boxed{8}", False, "8"),
        ("\\boxed{7} and \\boxed{8", False, None),  # the last box is unclosed
        ("\\boxed{\\frac{1}{2}}", False, "\\frac{1}{2}"),
        ("\\boxed {\\{1, 2\\}}", False, "\\{1, 2\\}"),
        ("\\boxed{\\text{(B)}}", False, "\\text{(B)}"),
        ("\\boxed{7} or \\fbox{8}", False, "8"),
        ("\\boxed{\\fbox{8}}", False, "8"),
        ("\\boxed 5", False, "5"),
        ("\\boxed x", False, None),
        ("\\boxed", False, None),
        ("\\boxed{}", False, None),
        ("\\boxed{5}, within \\boxed{}", False, "5"),
        ("\\boxed{\\boxed{42} or 43}", False, "\\boxed{42} or 43"),
        ("[THINK]\\boxed{3}[/THINK]\\boxed{4}", False, "4"),
        ("[THINK]\\boxed{3}", False, None),
        ("<|channel|>analysis<|message|>\\boxed{3}", False, None),
        ("<|channel|>analysis<|message|>\\boxed{3}<|end|><|channel|>final<|message|>\\boxed{4}", False, "4"),
        ("<|channel|>final <|constrain|>json<|message|>\\boxed{4}<|end|>\\boxed{5}", False, "4"),
        ("analysisWe need \\boxed{3}.assistantfinalIt is \\boxed{4}.", False, "4"),  # special tokens left out
        ("analysisWe need \\boxed{3}.", False, None),
        ("analysis of \\boxed{3}", False, "3"),
        ("<|START_THINKING|>\\boxed{3}<|END_THINKING|>\\boxed{4}", False, "4"),
        ("<thought>\\boxed{3}", False, None),
        ("the answer is 7", False, None),
        ("", False, None),
    ],
)
def test_extraction(text: str, thinking: bool, answer: str | None) -> None:
    assert extract_answer(text, thinking) == answer


@given(st.text(max_size=200), st.booleans())
def test_extraction_survives_any_text(text: str, thinking: bool) -> None:
    answer = extract_answer(text, thinking)
    assert answer is None or answer in text


@given(st.text(alphabet=st.characters(exclude_characters="{}\\[<◁"), min_size=1).filter(lambda s: s.strip()))
def test_what_was_boxed_comes_out(content: str) -> None:
    assert extract_answer(f"<think>x</think>\\boxed{{{content}}}") == content.strip()


ATOMS = [
    "1/2", "0.5", "\\frac{2}{4}", "50\\%", "50", "5", "5\\text{ km}", "5000\\text{ m}", "5\\text{ cm}", "x=5", "y=5",
    "\\$5", "\\pm 2", "2,-2", "\\{-2, 2\\}", "2", "(2,-2)", "[2,-2)", "x<2", "(-\\infty,2)", "y=2x+1", "2x-y+1=0",
    "2x+1", "\\sqrt{12}", "2\\sqrt3", "3.4641", "\\text{East}", "east", "(A)", "a", "52_8", "52", "1,234", "1234",
    "\\frac{1}{", "",
]  # fmt: skip


def test_equality_is_an_equivalence() -> None:
    pairs = list(itertools.product(ATOMS, ATOMS))
    equal = dict(zip(pairs, compare_answers(pairs), strict=True))
    assert all(equal[a, a] for a in ATOMS if a)
    assert not equal["", ""]
    assert all(equal[a, b] == equal[b, a] for a, b in pairs)
    triples = itertools.product(ATOMS, ATOMS, ATOMS)
    assert all(equal[a, c] for a, b, c in triples if equal[a, b] and equal[b, c])


NUMBERS = st.one_of(
    st.integers(-50, 50).map(str),
    st.tuples(st.integers(-9, 9), st.integers(1, 9)).map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}"),
    st.integers(-400, 400).map(lambda n: f"{n / 100}"),
)
FORMULAS = st.recursive(
    st.one_of(NUMBERS, st.sampled_from(["x", "y", "\\pi", "\\sqrt{2}", "\\sqrt{3}", "i"])),
    lambda part: st.one_of(
        st.tuples(part, part).map(lambda p: f"{p[0]} + ({p[1]})"),
        st.tuples(part, part).map(lambda p: f"({p[0]}) \\cdot ({p[1]})"),
        part.map(lambda p: f"({p})^2"),
    ),
    max_leaves=4,
)
ANSWERS = st.one_of(
    NUMBERS,
    FORMULAS,
    st.tuples(NUMBERS, st.sampled_from(["\\%", "^\\circ", "\\text{ km}", "\\text{ m}", " cm", ""])).map("".join),
    st.lists(NUMBERS, min_size=2, max_size=3).map(", ".join),
    st.tuples(st.sampled_from("(["), NUMBERS, NUMBERS, st.sampled_from(")]")).map(
        lambda t: f"{t[0]}{t[1]}, {t[2]}{t[3]}"
    ),
    st.tuples(st.sampled_from(["x = ", "y = ", "x < ", "x \\ge "]), NUMBERS).map("".join),
    st.sampled_from(["\\text{east}", "east", "(A)", "A", "\\text{No solution}", "\\emptyset", "\\infty"]),
)


@settings(max_examples=40)
@given(ANSWERS, ANSWERS, ANSWERS)
def test_equality_is_reflexive_symmetric_and_transitive(a: str, b: str, c: str) -> None:
    ab, ba, bc, ac, aa = compare_answers([(a, b), (b, a), (b, c), (a, c), (a, a)])
    assert aa
    assert ab == ba
    assert ac or not (ab and bc)


def respell(answer: str, how: int) -> str:
    """Another spelling of the same answer."""
    changes = [
        lambda s: f"${s}$",
        lambda s: s.replace("(", "\\left(").replace(")", "\\right)"),
        lambda s: s.replace("\\frac", "\\dfrac"),
        lambda s: f"\\; {s} \\,",
        lambda s: s.replace(" ", "~ "),
        lambda s: f"{{{s}}}.",
        lambda s: f"\\displaystyle {s}",
        lambda s: s.replace("\\text", "\\mbox").replace("\\cdot", "\\times").replace("\\ge", "\\geq"),
    ]
    return changes[how % len(changes)](answer)


@settings(max_examples=40)
@given(ANSWERS, st.integers(0, 7), st.integers(0, 7))
def test_spelling_changes_nothing(answer: str, first: int, second: int) -> None:
    assert answers_equal(answer, respell(respell(answer, first), second))


@given(st.integers(), st.integers())
def test_integers_are_equal_only_to_themselves(a: int, b: int) -> None:
    assert answers_equal(str(a), f"0{b}" if b >= 0 else str(b)) is (a == b)


@settings(max_examples=200)
@given(st.text(alphabet="\\{}()[]$%^_ 12x+-=<>,.!|&:abtextfrac", max_size=60))
def test_reading_survives_any_text(text: str) -> None:
    """Whatever a model boxes is equal to itself, or empty, and no reading raises."""
    if not re.search(r"[a-z^!+]", text):  # these stay in this process; the others are left to the test of the pool
        assert answers_equal(text, text) or unreadable_reason(text) == "it is empty"


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("5", "5\\text{ km}", True),  # a missing unit passes
        ("5\\text{ km}", "5", True),
        ("5000\\text{ m}", "5\\text{ km}", True),
        ("5\\text{ cm}", "5\\text{ km}", False),  # another one does not
        ("50\\%", "50", True),  # asked "what percent"
        ("50\\%", "0.5", True),  # asked for a probability
        ("50\\%", "\\frac12", True),
        ("50", "0.5", False),
        ("0.5", "50", False),
        ("2x+3", "y=2x+3", True),
        ("f(x)=2x+3", "2x+3", True),
        ("52", "52_8", True),
        ("42", "52_8", False),
        ("3/4", "3:4", True),
        ("\\frac{1}{", "7", False),
        ("", "7", False),
        ("42_{10}", "42", True),
        ("52_{10}", "52_8", False),
    ],
)
def test_right_forgives_what_is_left_out(answer: str, gold: str, right: bool) -> None:
    assert grade_answers([answer], [gold]) == [right]
    assert grade(f"\\boxed{{{answer}}}", gold) is (right and answer != "\\frac{1}{")


def test_what_left_sides_decide() -> None:
    """The same expression is dropped before a value that was asked for, and part of a gold answer that has it."""
    dropped = ["xy=6", "m+n=6", "\\frac{x}{y}=6", "ad-bc=6", "AB=6", "max=6"]
    assert grade_answers(dropped, ["6"] * len(dropped)) == [True] * len(dropped)
    assert grade_answers(["2x=6", "x^2=6", "|x|=6", "\\frac{x}{2}=6"], ["6"] * 4) == [False] * 4
    assert grade_answers(["2x+2y=14", "x=7", "7", "x-y=7"], ["x+y=7"] * 4) == [True, False, False, False]
    assert grade_answers(["yx<5", "x<5", "(-\\infty,5)"], ["xy<5"] * 3) == [True, False, False]


MULTIPLE = {  # as OlympiadBench writes golds: its final_answer, other forms of it, and what it is not
    "$m_{\\max }=n^{2}-n-1$": (
        ["n^2-n-1", "m_{\\max}=n(n-1)-1", "m=n^2-n-1", "m_{max}=n^2-n-1"],
        ["n^2-n", "m_{\\max}=n^2-1", "m=n^2-n", "k=n^2-n-1", "m_{\\min}=n^2-n-1"],
    ),
    "$t(0,4]$": (["(0,4]", "t\\in(0,4]", "0<t\\le4"], ["[0,4]", "(0,4)"]),
    "$N=n$": (["n", "N=n"], ["n+1"]),
    "$1,-2,-5$": (["-5,-2,1", "x=1,x=-2,x=-5", "x\\in\\{1,-2,-5\\}"], ["1,-2", "(1,-2,-5)"]),
    "$(1,1),(2,2)$": (["(2,2),(1,1)", "(x,y)=(1,1),(2,2)", "x=1,y=1,x=2,y=2"], ["(1,1)", "(1,2),(2,1)"]),
    "$x=2, y=5$": (["(2,5)", "y=5,x=2", "(x,y)=(2,5)", "(y,x)=(5,2)"], ["(5,2)", "(y,x)=(2,5)", "2,5,7"]),
    "$f(x)=0,f(x)=x^2$": (["f(x)=x^{2}\\text{ and }f(x)=0", "0,x^2"], ["f(x)=0", "f(x)=x^2,f(x)=1"]),
    "$\\frac{\\pi}{3}+2 \\pi k, k \\in \\mathbb{Z}$": (
        [
            "x=\\frac{\\pi}{3}+2\\pi m, m\\in\\mathbb{Z}",
            "\\frac{\\pi}{3}+2n\\pi\\ (n \\in \\mathbf{Z})",
            "\\frac{\\pi}{3}+2\\pi n\\text{ where }n\\text{ is an integer}",
            "\\frac{\\pi}{3}+2\\pi n\\text{ for all }n\\in\\mathbb{Z}",
            "\\frac{\\pi}{3}+2\\pi n,\\text{ for any integer }n",
            "\\frac{\\pi}{3}+2m\\pi",
        ],
        ["\\frac{\\pi}{3}+\\pi n, n\\in\\mathbb{Z}", "\\frac{\\pi}{3}", "\\frac{\\pi}{3}+2\\pi x"],
    ),
    "$\\frac{\\pi}{6}+2\\pi k,\\frac{5\\pi}{6}+2\\pi k, k\\in\\mathbb{Z}$": (
        [
            "x=\\frac{5\\pi}{6}+2\\pi n, \\frac{\\pi}{6}+2\\pi n, n\\in\\mathbb{Z}",
            "\\frac{5\\pi}{6}+2\\pi n, \\frac{\\pi}{6}+2\\pi n",
        ],
        ["x=\\frac{\\pi}{6}+2\\pi n, n\\in\\mathbb{Z}"],
    ),
    "$n\\pi$": (["\\pi n"], ["k\\pi, k\\in\\mathbb{Z}", "k\\pi"]),  # a letter of the problem's own
}


def test_golds_with_several_answers_take_names_orders_and_letters() -> None:
    for gold, (right, wrong) in MULTIPLE.items():
        assert grade_answers([gold, *right], [gold] * (1 + len(right))) == [True] * (1 + len(right)), gold
        assert grade_answers(wrong, [gold] * len(wrong)) == [False] * len(wrong), gold


def test_conditions_that_exclude_each_other_are_no_answer() -> None:
    """Who writes `x<1 and x>3` mostly means `or`; it is neither that nor the empty set."""
    golds = ["\\emptyset", "x<1\\text{ or }x>3", "(-\\infty,1)\\cup(3,\\infty)", "x>3\\text{ and }x<1"]
    assert grade_answers(["x<1\\text{ and }x>3"] * 4, golds) == [False, False, False, True]
    assert grade_answers(["(-\\infty,1)\\cap(3,\\infty)", "x<3, x>5"], ["\\emptyset", "x<3 or x>5"]) == [True, True]


def test_what_was_counted_is_anything_but_a_word_about_the_number() -> None:
    """Number words multiply, also in the plural; judgements and verbs are no things. Pairs and ways are counted."""
    things = "ways|pairs|couples|ordered pairs|solutions|positive integers|squares|roots|llamas|cups of flour|bees"
    others = "wrongs|dozens|thousands|halves|quarters|tens|lakhs|others|wrong answers|fails|guesses|nos|doubles"
    others += "|or more|invalid answers|candidates|is|exceeds|squared|less"
    for counted, right in ((things, True), (others, False)):
        answers = [f"42\\text{{ {word}}}" for word in counted.split("|")] + [
            f"42 {word}" for word in counted.split("|")
        ]
        assert grade_answers(answers, ["42"] * len(answers)) == [right] * len(answers)
    scaled = ["42 dozens", "42 thousands", "42 halves", "42 quarters", "\\$42k", "\\$42\\text{M}"]
    assert grade_answers(scaled, ["504", "42000", "21", "10.5", "42000", "42000000"]) == [True] * 6


def test_marks_may_be_left_out_but_not_exchanged() -> None:
    marked = ["42", "\\$42", "42\\%", "42^\\circ", "42\\text{ km}", "42\\text{ units}"]
    found = [[answer for answer in marked if grade_answers([answer], [gold])[0]] for gold in marked]
    plain = ["42", "42\\text{ units}"]
    assert found == [marked, *([one for one in marked if one in (*plain, gold)] for gold in marked[1:5]), marked]


def test_batch_keeps_order_and_counts_missing_answers_as_wrong() -> None:
    texts = ["\\boxed{1/2}", "none", "<think>\\boxed{3}", "\\boxed{3}", "\\boxed{\\sqrt{8}}"]
    assert grade_batch(texts, ["0.5", "1", "3", "3", "2\\sqrt2"]) == [True, False, False, True, True]
    assert grade_batch([], []) == compare_answers([]) == group_answers([]) == []


def test_groups_share_the_key_of_the_first_equal_answer() -> None:
    assert group_answers(["0.5", None, "3", "\\frac12", "3", "1/2"]) == [0, None, 2, 0, 2, 0]


def test_groups_join_what_leaves_out_the_unit_but_not_two_units() -> None:
    answers = ["5", "5\\text{ km}", "5\\text{ cm}", "5000\\text{ m}", "5", "50\\%", "0.5", "50"]
    assert group_answers(answers) == [0, 0, 2, 0, 0, 5, 6, 5]
    groups = AnswerGroups()
    assert [groups.add(index, answer) for index, answer in enumerate(answers)] == group_answers(answers)
    assert groups.first(0) == "5"


@given(st.lists(st.sampled_from(ATOMS[:-2]), max_size=8))
def test_groups_never_part_equal_answers(answers: list[str]) -> None:
    keys = group_answers(answers)
    pairs = list(itertools.combinations(range(len(answers)), 2))
    equal = compare_answers([(answers[i], answers[j]) for i, j in pairs])
    assert all(keys[i] == keys[j] for (i, j), same in zip(pairs, equal, strict=True) if same)
    assert all(keys[key] == key for key in keys if key is not None)


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        ("\\frac{1}{", "braces"),
        ("", "empty"),
        ("$ $", "empty"),
        ("9^{9^{9^{9}}}", "too large"),
        ("2^{1000000000}", "too large"),
        ("x+" * 600 + "1", "longer"),
        ("(" * 30 + "1" + ")" * 30, "nested"),
        ("\\frac{1}{0}", "no value"),
        ("1+", "parsed"),
    ],
)
def test_unreadable_answers_say_why(gold: str, reason: str) -> None:
    assert reason in (unreadable_reason(gold) or "")


def test_words_and_every_kind_of_answer_are_readable() -> None:
    golds = [
        "east",
        "\\text{No solution}",
        "What is it?",
        "\\text{such } x \\text{ does not exist}",
        "4:30\\text{ p.m.}",
        "$m_{\\max }=n^{2}-n-1$",  # as OlympiadBench writes golds
        "$t(0,4]$",
        "$N=n$",
        "$f(x)=a x+b$, where $b$ is an arbitrary integer, and $a$ is an arbitrary positive integer with $\\mho(a)=0$",
    ]
    golds += [atom for atom in ATOMS if atom and atom != "\\frac{1}{"]
    assert unreadable_reasons(golds) == [None] * len(golds)


@pytest.mark.slow
def test_real_golds_are_readable_equal_to_themselves_and_right_when_respelled(shared_data) -> None:
    files = sorted((shared_data / "problems").glob("*.jsonl"))
    golds = sorted({problem.answer for path in files for problem in read_problems(path)})
    assert len(golds) > 350
    assert set(unreadable_reasons(golds)) == {None}
    spelled = [(respell(gold, how), gold) for gold in golds for how in range(8)]
    assert all(compare_answers([pair for pair in spelled if not pair[1].startswith("\\$")]))
    assert all(grade_batch([f"\\boxed{{{answer}}}" for answer, _ in spelled], [gold for _, gold in spelled]))
    numbers = [(str(int(gold) + 1), gold) for gold in golds if gold.lstrip("-").isdigit()]
    assert not any(compare_answers(numbers))


def test_real_golds_are_readable(shared_data) -> None:
    golds = [problem.answer for problem in read_problems(shared_data / "problems" / "math500.jsonl")]
    assert set(unreadable_reasons(golds)) == {None}
    assert all(compare_answers([(gold, f" ${gold}$.") for gold in golds]))


def test_the_memory_of_readings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secateur.tasks.answers.equality, "MAX_CACHED", 10)
    assert grade_batch([f"\\boxed{{{n}}}" for n in range(100)], ["7"] * 100).count(True) == 1
    answers_equal("z" * 5000, "7")
    assert len(secateur.tasks.answers.equality._known) <= 10
    assert max(map(len, secateur.tasks.answers.equality._known)) < 5000


def test_runaway_text_never_reaches_a_parser_and_costs_linear_time() -> None:
    before = time.process_time()
    assert not answers_equal("(" * 500_000, "1")
    for opening in ("{", "\\{", "\\boxed{", "<think>", "}", "\\boxed{}" * 1000 + "{"):
        text = "\\boxed{" + opening * (1_000_000 // len(opening))
        assert not grade(text, "1")
        assert not grade(text + "}" * 1_000_000, "1")
    assert time.process_time() - before < 60  # a guard against quadratic scanning, not a speed measure


def test_the_version_names_the_rules_and_math_verify() -> None:
    assert re.fullmatch(r"secateur-\d+ math-verify-[\d.]+", GRADER_VERSION)


@pytest.mark.parametrize(
    ("answer_from", "text", "answer"),
    [
        ("answer", "<think>\\boxed{7}</think> Seven.", None),
        ("anywhere", "<think>\\boxed{7}</think> Seven.", "7"),
        ("anywhere", "<think>\\boxed{7} or", "7"),
        ("anywhere", "<think>\\boxed{7}</think> \\boxed{8}", "8"),
        ("pattern:ANSWER: *(.+)", "ANSWER: 3\nNo, wait.\nANSWER:  4 \n", "4"),
        ("pattern:ANSWER: *(.+)", "\\boxed{3}", None),
        ("pattern:[A-D](?=\\.)", "A. or B.", "B"),
        ("tests.tasks.test_answers:last_word", "it is seven", "seven"),
    ],
)
def test_answers_are_looked_for_where_the_key_says(answer_from: str, text: str, answer: str | None) -> None:
    assert extraction(answer_from)(text) == answer


def last_word(text: str) -> str | None:
    return text.split()[-1] if text.split() else None


@pytest.mark.parametrize("answer_from", ["box", "pattern:(", "tests.tasks.test_answers:nothing", "no.module:f", ""])
def test_a_wrong_place_is_named(answer_from: str) -> None:
    with pytest.raises(InputError, match="key 'answer_from' has the value"):
        extraction(answer_from)


def test_a_pattern_that_backtracks_without_end_finds_nothing() -> None:
    assert extraction(r"pattern:(a|a)*b")("a" * 5000) is None


def test_texts_without_an_answer_are_counted_by_why() -> None:
    texts = ["<think>so \\boxed{7}</think> It is seven.", "<think>hm</think> ANSWER: 7", "<think></think> \\boxed{7}"]
    found = count_unanswered(texts, extract_answer)
    assert (found.texts, found.box_elsewhere, found.no_box) == (3, 1, 1)
    assert found.words().startswith("no answer in 2 of 3 that ended: 1 with a box in their thinking, 1 without one")
    assert count_unanswered(texts, extraction("pattern:ANSWER: (\\d+)")).no_box == 0
    assert count_unanswered(texts[2:], extract_answer).words() == ""
