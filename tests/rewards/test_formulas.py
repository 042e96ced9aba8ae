"""What every reward promises, whatever its formula. Properties first, then the break points of each."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.by_group import sample_optimal_length, solve_rate
from rewards.by_length import cosine, l1_exact, l1_max, laser, soft_overlong
from rewards.completion import Completion
from rewards.hard_limit import hard_limit
from rewards.registry import REWARDS, make_options, reward_group
from tests.rewards.groups import GROUP_FREE, LIMIT, NAMES, completions, cut_off, groups, lengths, right, wrong

RANGES = {
    "hard_limit": (0, 1),
    "reference": (0, 1),
    "dapo_soft_overlong": (-2, 1),
    "l1_exact": (-0.0003 * LIMIT, 1),
    "l1_max": (0, 1),
    "kimi_k15": (-0.5, 1.5),
    "cosine": (-1, 1),
    "efficient": (0, 1),
    "laser": (-1, 1.5),
    "shorter_better": (-0.001 * LIMIT, 2),
    "alp": (-1e-7 * LIMIT, 1),
}
all_rewards = pytest.mark.parametrize("name", NAMES)
few = settings(max_examples=40)  # of each reward


def rewards_of(name: str, group: list[Completion], **options) -> list[float | None]:
    return reward_group(name, group, LIMIT, make_options(name, options))


@all_rewards
@few
@given(group=groups())
def test_every_reward_is_finite_and_in_its_range(name: str, group: list[Completion]) -> None:
    lowest, highest = RANGES[name]
    values = rewards_of(name, group)
    assert len(values) == len(group)
    assert all(lowest - 1e-9 <= value <= highest + 1e-9 for value in values)


@all_rewards
@few
@given(others=groups(min_size=0), length=lengths)
def test_a_wrong_answer_never_beats_a_right_one_of_its_length(name: str, others, length: int) -> None:
    better, worse = rewards_of(name, [right(length), wrong(length), *others])[:2]
    # L1-Max pays nothing for a right answer far above its target, and then not less for a wrong one.
    assert better > worse or (name == "l1_max" and better == worse == 0)


@all_rewards
@few
@given(others=groups(min_size=0), one=lengths, two=lengths)
def test_of_two_right_answers_the_longer_never_earns_more(name: str, others, one: int, two: int) -> None:
    """L1-Exact asks for its target of 1000 and for no fewer; there it holds from the target on."""
    short, long = (max(length, 1000) if name == "l1_exact" else length for length in sorted((one, two)))
    first, second = rewards_of(name, [right(short), right(long), *others])[:2]
    assert first >= second


@all_rewards
@few
@given(others=groups(min_size=0))
def test_truncation_pays_no_more_than_a_wrong_answer_of_its_length(name: str, others) -> None:
    truncated, finished = rewards_of(name, [cut_off(), wrong(LIMIT), *others])[:2]
    assert truncated <= finished


@all_rewards
@few
@given(length=lengths, flags=st.lists(st.booleans(), min_size=2, max_size=8))
def test_equal_lengths_leave_plain_correctness(name: str, length: int, flags: list[bool]) -> None:
    values = rewards_of(name, [Completion(flag, length, False, length) for flag in flags])
    by_flag = {flag: {value for value, other in zip(values, flags, strict=True) if other == flag} for flag in flags}
    assert all(len(found) == 1 for found in by_flag.values())
    if len(by_flag) == 2:
        assert by_flag[True].pop() > by_flag[False].pop()


@all_rewards
@few
@given(group=groups(min_size=2), data=st.data())
def test_the_order_within_the_group_does_not_matter(name: str, group: list[Completion], data) -> None:
    order = data.draw(st.permutations(range(len(group))))
    values = rewards_of(name, group)
    assert rewards_of(name, [group[index] for index in order]) == pytest.approx([values[index] for index in order])


@pytest.mark.parametrize("name", GROUP_FREE)
@few
@given(group=groups(min_size=2))
def test_a_reward_that_needs_no_group_does_not_look_at_it(name: str, group: list[Completion]) -> None:
    assert rewards_of(name, group) == [rewards_of(name, [one])[0] for one in group]


@all_rewards
def test_a_group_of_one_and_a_group_without_a_right_answer_are_rewarded(name: str) -> None:
    assert all(math.isfinite(value) for value in rewards_of(name, [right(10)]) + rewards_of(name, [wrong(10)]))
    lost = rewards_of(name, [wrong(10), wrong(500), cut_off()])
    assert all(math.isfinite(value) for value in lost)
    assert max(lost) < rewards_of(name, [right(10), wrong(500), cut_off()])[0]


@given(completions())
def test_hard_limit_pays_for_right_and_finished_alone(one: Completion) -> None:
    assert rewards_of("hard_limit", [one]) == [1.0 if one.right and not one.truncated else 0.0]
    assert rewards_of("hard_limit", [dataclasses.replace(one, right=True, truncated=True)]) == [0.0]


def test_exactly_at_the_limit_counts_and_wrong_but_short_does_not() -> None:
    assert rewards_of("hard_limit", [right(LIMIT), wrong(5), cut_off()]) == [1.0, 0.0, 0.0]
    assert hard_limit(True, True) == 0.0


def test_reference_pays_for_what_was_graded_right_though_cut_off() -> None:
    assert rewards_of("reference", [Completion(True, LIMIT, True), cut_off()]) == [1.0, 0.0]


def test_a_truncated_right_answer_counts_only_where_the_option_says_so() -> None:
    """Soft overlong takes away all it earned, LASER's bonus is out of reach, the others pay as for its length."""
    graded = Completion(True, LIMIT, True, 1000)  # what the shell makes of it with grade_truncated
    assert rewards_of("dapo_soft_overlong", [graded]) == [0.0]
    assert rewards_of("laser", [graded]) == [1.0]
    assert rewards_of("l1_max", [graded]) == [0.0]
    assert rewards_of("l1_exact", [graded]) == pytest.approx([1 - 0.0003 * 3000])
    assert rewards_of("cosine", [graded]) == [-1.0]


@given(length=st.integers(0, 6000), buffer=st.integers(0, LIMIT))
def test_soft_overlong_is_nothing_then_linear_then_all(length: int, buffer: int) -> None:
    value = soft_overlong(length, LIMIT, buffer)
    if length <= LIMIT - buffer:
        assert value == 0
    elif length > LIMIT:
        assert value == -1
    else:
        assert value == pytest.approx(-(length - (LIMIT - buffer)) / buffer)


def test_soft_overlong_at_its_break_points() -> None:
    values = [soft_overlong(length, 4000, 800) for length in (3200, 3201, 3600, 4000, 4001)]
    assert values == [0.0, -1 / 800, -0.5, -1.0, -1.0]
    assert [soft_overlong(length, 100, 0) for length in (100, 101)] == [0.0, -1.0]
    assert rewards_of("dapo_soft_overlong", [right(3200), right(4000), wrong(3200), cut_off()]) == [1, 0, -1, -2]
    assert rewards_of("dapo_soft_overlong", [right(3999)], buffer=1) == [1.0]


def test_soft_overlong_is_trls() -> None:
    from trl.rewards import get_soft_overlong_punishment

    probes = [1, 80, 81, 99, 100]
    theirs = get_soft_overlong_punishment(100, 20)([[0] * length for length in probes])
    assert [soft_overlong(length, 100, 20) for length in probes] == theirs


@given(length=lengths, target=lengths)
def test_l1_exact_is_highest_at_the_target_and_falls_evenly(length: int, target: int) -> None:
    assert l1_exact(True, length, target, 0.0003) <= l1_exact(True, target, target, 0.0003) == 1.0
    mirrored = l1_exact(True, 2 * target - length, target, 0.0003)
    assert l1_exact(True, length, target, 0.0003) == pytest.approx(mirrored)
    assert l1_exact(True, length, target, 0.0003) - l1_exact(False, length, target, 0.0003) == pytest.approx(1)


def test_l1_max_at_its_break_points() -> None:
    assert [l1_max(True, length, 2000, 0.001, 0.5) for length in (1500, 1499, 2000, 2001, 2500, 2501)] == (
        pytest.approx([1, 1, 0.5, 0.499, 0, 0])
    )
    assert l1_max(False, 1, 2000, 0.001, 0.5) == 0


@given(st.integers(0, LIMIT - 1))
def test_the_cosine_has_no_jumps_and_ends_where_it_should(length: int) -> None:
    steepest = 0.5 * math.pi / 2 / LIMIT  # of half a cosine from 1 to 0.5
    assert abs(cosine(length, LIMIT, 1.0, 0.5) - cosine(length + 1, LIMIT, 1.0, 0.5)) <= steepest
    assert cosine(0, LIMIT, 1.0, 0.5) == 1.0
    assert cosine(LIMIT, LIMIT, 1.0, 0.5) == cosine(LIMIT + length, LIMIT, 1.0, 0.5) == 0.5


def test_the_cosine_is_trls() -> None:
    from trl.rewards import get_cosine_scaled_reward

    probes = [(answer, length) for answer in ("7", "8") for length in (1, 30, 50, 99, 100)]
    texts = [[{"content": f"\\boxed{{{answer}}}"}] for answer, _ in probes]
    ids = [[0] * length for _, length in probes]
    theirs = get_cosine_scaled_reward(max_len=100)(texts, solution=["$7$"] * len(probes), completion_ids=ids)
    group = [Completion(answer == "7", length) for answer, length in probes]
    assert reward_group("cosine", group, 100, make_options("cosine", {})) == pytest.approx(theirs)


def test_the_cosine_pays_wrong_answers_for_thinking_on_but_not_for_being_cut_off() -> None:
    short, long, truncated = rewards_of("cosine", [wrong(100), wrong(3900), cut_off()])
    assert short < long
    assert truncated == -1.0 < short


@given(group=groups(min_size=2))
def test_kimi_ranks_within_the_group(group: list[Completion]) -> None:
    values = rewards_of("kimi_k15", group)
    sizes = [one.length for one in group]
    if min(sizes) == max(sizes):
        assert values == [float(one.right) for one in group]
        return
    for one, value in zip(group, values, strict=True):
        if one.length == min(sizes):
            assert value == (1.5 if one.right else 0.0)
        if one.length == max(sizes):
            assert value == (0.5 if one.right else -0.5)


def test_efficient_compares_right_answers_only() -> None:
    group = [right(1000), right(3000), wrong(10), cut_off()]
    without = rewards_of("efficient", group[:2])
    assert rewards_of("efficient", group) == [*without, 0.0, 0.0]
    spread = 1 / (1 + math.e)  # both lie one standard deviation from their mean
    assert without == pytest.approx([1 - 0.2 * spread, 1 - 0.2 * (1 - spread)])
    assert rewards_of("efficient", [right(77), wrong(5)]) == [pytest.approx(0.9), 0.0]


def test_laser_pays_its_bonus_up_to_the_target() -> None:
    assert [laser(True, length, 1000, 0.5, -0.5) for length in (999, 1000, 1001)] == [1.5, 1.5, 1.0]
    assert rewards_of("laser", [right(1000), right(1001), wrong(5), cut_off()]) == [1.5, 1.0, -0.5, -1.0]
    assert rewards_of("laser", [right(1000), right(2000)], target=2000) == [1.5, 1.5]


def test_shorter_better_measures_from_the_shortest_right_answer_or_the_mean() -> None:
    assert sample_optimal_length([wrong(10), right(500), right(900)]) == 500
    assert sample_optimal_length([wrong(10), wrong(30)]) == 20
    assert rewards_of("shorter_better", [wrong(10), right(500), right(900)]) == pytest.approx([-0.49, 2, 1.6])


def test_alp_charges_by_the_solve_rate() -> None:
    easy, hard = [right(1000)] * 4, [right(1000)] + [wrong(1000)] * 3
    assert [solve_rate(easy), solve_rate(hard), solve_rate([wrong(1)] * 4)] == [1.0, 0.25, 0.25]
    charges = [1 - rewards_of("alp", group, beta=1e-4)[0] for group in (easy, hard)]
    assert charges == pytest.approx([0.1, 0.025])
    assert rewards_of("alp", [wrong(1000)] * 4, beta=1e-4) == pytest.approx([-0.025] * 4)


def test_every_reward_names_its_source() -> None:
    assert all("arXiv" in spec.source or name == "reference" for name, spec in REWARDS.items())
