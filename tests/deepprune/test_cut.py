import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.deepprune.cut import (
    CHINESE_WORDS,
    REASONING_WORDS,
    SHARE_TOLERANCE,
    WHOLE_BOUND,
    CutDetector,
    CutRule,
    choose_cut,
    cut_length,
    cut_pieces,
    cut_text,
    ended_before_cut,
    word_places,
)
from secateur.runtime.errors import InputError

FRAGMENTS = st.sampled_from(
    [*sorted(REASONING_WORDS), "Sofa", "WAIT", "let's", "é", "über", "so", " ", "\n", ".", "7", "_", "。", "我们"]
)
CHINESE = st.sampled_from(
    sorted({character for word in CHINESE_WORDS for character in word} | {"so", "。", "a", "か"})
)
TEXTS = st.one_of(
    st.lists(FRAGMENTS, max_size=30).map("".join),
    st.lists(CHINESE, max_size=40).map("".join),
    st.text(max_size=60),
)
WORD_RULES = st.integers(1, 4).map(lambda k: CutRule("words", k))


def split(text: str, points: list[int]) -> list[str]:
    ends = sorted(point % (len(text) + 1) for point in points)
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def is_han(character: str) -> bool:
    return bool(re.match("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]", character))


def is_letter(character: str) -> bool:
    return character.isalnum() and not character.isdecimal() and not is_han(character)


def naive_cut(text: str, k: int) -> str | None:
    """Character by character: a run of letters, or a Chinese word of the list, counts once something follows."""
    words = place = 0
    while place < len(text):
        end = place
        while end < len(text) and is_letter(text[end]):
            end += 1
        word = text[place:end].lower()
        if end == place:
            word = max((w for w in CHINESE_WORDS if text.startswith(w, place)), key=len, default="")
            end += max(len(word), 1)
        words += word in REASONING_WORDS and end < len(text)
        if words == k:
            return text[:end]
        place = end
    return None


@given(TEXTS, st.lists(st.integers(0, 200), max_size=12), WORD_RULES)
def test_any_split_of_a_text_gives_the_same_cut(text: str, points: list[int], rule: CutRule) -> None:
    cut = cut_pieces(split(text, points), rule)
    expected = naive_cut(text, rule.k)
    assert cut.text == cut_text(text, rule) == (text if expected is None else expected)
    assert (cut.n_tokens is None) == (expected is None)


@given(TEXTS, WORD_RULES)
def test_the_cut_never_changes_when_the_trace_goes_on(text: str, rule: CutRule) -> None:
    pieces = list(text)
    n_tokens = cut_length(pieces, rule)
    if n_tokens is not None:
        assert cut_pieces(pieces[:n_tokens], rule) == cut_pieces(pieces, rule)
        assert cut_length(pieces[: n_tokens - 1], rule) is None


@given(st.lists(st.text(max_size=3), max_size=20), st.integers(1, 25))
def test_cut_by_tokens(pieces: list[str], k: int) -> None:
    cut = cut_pieces(pieces, CutRule("tokens", k))
    assert cut.text == "".join(pieces[:k])
    assert cut.n_tokens == (k if k <= len(pieces) else None)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("So. WAIT, hmm ", 3),
        ("let's go ", 1),
        ("sofa sos butter first-rate ", 1),
        ("now2 2now now_ ", 3),
        ("éso soé so\u00df ", 0),
        ("Okay\nOkay\tokay", 2),
        ("a" * 1000 + "so so", 0),
        ("sosososososososo", 0),
        ("等等，所以我们先算。", 2),
        ("等等等等等", 2),
        ("等等等", 1),
        ("让我们因为所以不可能。", 4),
        ("所以so然后wait不过", 4),
        ("首先", 0),
        ("首,先 ", 0),
        ("另一方面，一下等", 0),
        ("等一下，實際上因為這樣", 3),
        ("だから so ", 1),
    ],
)
def test_what_counts_as_a_reasoning_word(text: str, counted: int) -> None:
    detected = sum(cut_length(list(text), CutRule("words", k)) is not None for k in range(1, 10))
    assert detected == counted


def test_no_chinese_word_holds_another_one() -> None:
    """So that the first match at any place is the longest, whatever has been read of the text."""
    assert not [(a, b) for a in CHINESE_WORDS for b in CHINESE_WORDS if a != b and a in b]


def test_the_step_that_completes_the_word_reaches_the_cut() -> None:
    detector = CutDetector(CutRule("words", 1))
    assert [detector.feed(piece) for piece in ["Now", "adays ", "s", "o", " it", " so "]] == [False] * 4 + [
        True,
        False,
    ]
    assert (detector.n_tokens, detector.text) == (5, "Nowadays so")


def test_several_tokens_in_one_piece_count() -> None:
    detector = CutDetector(CutRule("tokens", 5))
    assert [detector.feed("abc", 3), detector.feed("def", 3)] == [False, True]
    assert detector.n_tokens == 6


@pytest.mark.parametrize(("kind", "k", "named"), [("words", 0, "cut k = 0"), ("sentences", 3, "'sentences'")])
def test_impossible_rules_are_refused(kind: str, k: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        CutRule(kind, k)


@given(TEXTS, st.lists(st.integers(0, 200), max_size=12))
def test_the_places_of_words_are_where_they_cut(text: str, points: list[int]) -> None:
    pieces = split(text, points)
    places = word_places(pieces)
    cuts = [cut_length(pieces, CutRule("words", k)) for k in range(1, len(places) + 2)]
    assert cuts == [*places, None]


@given(st.lists(st.text(max_size=3), max_size=300), st.integers(1, 300))
def test_a_long_stored_trace_is_cut_as_token_by_token(pieces: list[str], k: int) -> None:
    for rule in (CutRule("tokens", k), CutRule("words", 1 + k % 5)):
        detector = CutDetector(rule)
        for piece in [*pieces, " so "]:
            detector.feed(piece)
        cut = cut_pieces([*pieces, " so "], rule)
        assert (cut.text, cut.n_tokens) == (detector.text, detector.n_tokens if detector.reached else None)


def trace(length: int, every: int) -> list[str]:
    """A reasoning word at every so-many-th token."""
    return [" so" if number % every == 0 else " x" for number in range(1, length + 1)]


def test_a_cut_at_words_that_keeps_both_bounds_is_chosen() -> None:
    """Of 100 tokens with a word every 5, which counts a token later, 5 words take 26, 4 take 21."""
    chosen = choose_cut([trace(100, 5)] * 20)
    assert chosen.rule == CutRule("words", 5) and chosen.traces == 20
    assert (chosen.figures.median_share, chosen.figures.whole_share) == (0.26, 0.0)
    assert choose_cut([trace(100, 5)] * 20, 0.5).rule == CutRule("words", 10)
    assert "5 reasoning words: over 20 development traces the median cut is 26.0% of its trace" in chosen.words


def test_where_words_fail_tokens_are_counted_and_it_is_said() -> None:
    """Every fourth trace has no reasoning word, so its cut at words is whole."""
    chosen = choose_cut([*([trace(100, 5)] * 15), *([trace(100, 1000)] * 5)])
    assert chosen.rule == CutRule("tokens", 25)
    assert (
        "no number of reasoning words does as well: at 5 the median cut is 26.0%, and 25.0% are whole" in chosen.words
    )
    assert "there are no reasoning words" in choose_cut([trace(40, 1000)] * 3).words


def test_the_bound_on_whole_cuts_gives_way_first() -> None:
    """A third of the traces are so short that every cut near a quarter of the others holds them entirely."""
    chosen = choose_cut([*([trace(1000, 10)] * 20), *([trace(12, 3)] * 10)])
    assert abs(chosen.figures.median_share - 0.25) <= SHARE_TOLERANCE
    assert chosen.figures.whole_share >= WHOLE_BOUND and "this bound gave way" in chosen.words
    characters = choose_cut([list("x" * 40)], tokens_too=False)
    assert characters.rule == CutRule("words", 1) and "both bounds gave way" in characters.words


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 60)), min_size=1, max_size=12), st.floats(0.05, 0.9))
def test_a_chosen_cut_is_what_it_says(shapes: list[tuple[int, int]], share: float) -> None:
    traces = [trace(*shape) for shape in shapes]
    chosen = choose_cut(traces, share)
    cuts = [cut_length(pieces, chosen.rule) for pieces in traces]
    whole = [ended_before_cut(len(pieces), cut) for pieces, cut in zip(traces, cuts, strict=True)]
    assert chosen.figures.whole_share == pytest.approx(sum(whole) / len(whole))
    near = abs(chosen.figures.median_share - share) <= SHARE_TOLERANCE
    assert ("gave way" in chosen.words) != (near and chosen.figures.whole_share < WHOLE_BOUND)


def test_no_trace_is_no_choice() -> None:
    with pytest.raises(InputError, match="no trace to choose"):
        choose_cut([])


def test_text_alone_cannot_be_cut_by_tokens() -> None:
    with pytest.raises(InputError, match="token ids"):
        cut_text("so it is", CutRule("tokens", 2))
