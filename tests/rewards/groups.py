"""Groups of completions for the property tests of rewards."""

from hypothesis import strategies as st

from rewards.completion import Completion
from rewards.registry import REWARDS

LIMIT = 4000
GROUP_FREE = sorted(name for name, spec in REWARDS.items() if not spec.needs_group)
NAMES = sorted(REWARDS)

lengths = st.integers(1, LIMIT)


@st.composite
def completions(draw: st.DrawFn, target: int = 1000) -> Completion:
    """As they come out of training with a limit: truncated ones have its length and do not count as right."""
    if draw(st.booleans()):
        return Completion(False, LIMIT, True, target)
    return Completion(draw(st.booleans()), draw(lengths), False, target)


def groups(min_size: int = 1, max_size: int = 8) -> st.SearchStrategy[list[Completion]]:
    return st.lists(completions(), min_size=min_size, max_size=max_size)


def right(length: int, target: int = 1000) -> Completion:
    return Completion(True, length, False, target)


def wrong(length: int, target: int = 1000) -> Completion:
    return Completion(False, length, False, target)


def cut_off(target: int = 1000) -> Completion:
    return Completion(False, LIMIT, True, target)
