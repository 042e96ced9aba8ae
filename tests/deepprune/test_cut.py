import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.deepprune.cut import REASONING_WORDS, CutDetector, CutRule, cut_length, cut_pieces, cut_text
from secateur.runtime.errors import InputError

FRAGMENTS = st.sampled_from(
    [*sorted(REASONING_WORDS), "Sofa", "WAIT", "let's", "é", "über", "so", " ", "\n", ".", "7", "_"]
)
TEXTS = st.one_of(st.lists(FRAGMENTS, max_size=30).map("".join), st.text(max_size=60))
WORD_RULES = st.integers(1, 4).map(lambda k: CutRule("words", k))


def split(text: str, points: list[int]) -> list[str]:
    ends = sorted(point % (len(text) + 1) for point in points)
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def naive_cut(text: str, k: int) -> str | None:
    """Reads character by character: words are runs of letters, a word counts once something follows it."""
    words, word = 0, ""
    for position, character in enumerate(text):
        if (character.isalnum() and not character.isdecimal()) and character != "_":
            word += character
            continue
        words += word.lower() in REASONING_WORDS
        if words == k:
            return text[:position]
        word = ""
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
    ],
)
def test_what_counts_as_a_reasoning_word(text: str, counted: int) -> None:
    detected = sum(cut_length(list(text), CutRule("words", k)) is not None for k in range(1, 10))
    assert detected == counted


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


def test_text_alone_cannot_be_cut_by_tokens() -> None:
    with pytest.raises(InputError, match="token ids"):
        cut_text("so it is", CutRule("tokens", 2))
