"""GFPO's filter and the groups that leave the batch."""

from hypothesis import given
from hypothesis import strategies as st

from rewards.completion import Completion
from rewards.registry import drop_equal_groups, keep_best, make_options, reward_group, reward_groups
from tests.rewards.groups import LIMIT, cut_off, groups, right, wrong


def filtered(group: list[Completion], name: str = "hard_limit", **options) -> list[float | None]:
    return reward_group(name, group, LIMIT, make_options(name, options))


@given(group=groups(min_size=2), keep=st.integers(2, 8), keep_by=st.sampled_from(["length", "efficiency"]))
def test_as_many_are_kept_as_asked_and_their_rewards_stand(group: list[Completion], keep: int, keep_by: str) -> None:
    plain = filtered(group)
    kept = filtered(group, keep=keep, keep_by=keep_by)
    assert sum(reward is not None for reward in kept) == min(keep, len(group))
    assert all(after is None or after == before for before, after in zip(plain, kept, strict=True))


@given(group=groups(min_size=3), keep=st.integers(2, 8))
def test_no_rejected_completion_is_shorter_than_a_kept_one(group: list[Completion], keep: int) -> None:
    rewards = filtered(group, keep=keep)
    kept = [one.length for one, reward in zip(group, rewards, strict=True) if reward is not None]
    rejected = [one.length for one, reward in zip(group, rewards, strict=True) if reward is None]
    assert not rejected or max(kept) <= min(rejected)


@given(
    group=groups(min_size=2),
    keep=st.integers(2, 8),
    keep_by=st.sampled_from(["length", "efficiency"]),
    data=st.data(),
)
def test_the_order_decides_nothing_but_between_equals(group: list[Completion], keep: int, keep_by: str, data) -> None:
    def chosen(members: list[Completion]) -> list[tuple[int, float]]:
        rewards = filtered(members, keep=keep, keep_by=keep_by)
        return sorted(
            (one.length, reward) for one, reward in zip(members, rewards, strict=True) if reward is not None
        )

    assert chosen(data.draw(st.permutations(group))) == chosen(group)


def test_by_length_keeps_short_wrong_ones_and_by_efficiency_right_ones() -> None:
    group = [wrong(10), wrong(20), right(500), right(900), cut_off()]
    assert filtered(group, keep=2) == [0.0, 0.0, None, None, None]
    assert filtered(group, keep=2, keep_by="efficiency") == [None, None, 1.0, 1.0, None]
    assert keep_best([0.0, 1.0, 1.0], [wrong(5), right(5), right(5)], 2, "length") == [None, 1.0, 1.0]


def test_a_filter_goes_with_any_reward() -> None:
    group = [right(100), right(300), wrong(200), cut_off()]
    assert filtered(group, "shorter_better", keep=3)[3] is None
    shaped = filtered(group, "kimi_k15")
    assert filtered(group, "kimi_k15", keep=2) == [shaped[0], None, shaped[2], None]


@given(st.lists(st.lists(st.one_of(st.none(), st.sampled_from([0.0, 1.0])), min_size=1), min_size=1))
def test_groups_of_equal_rewards_leave_unless_all_would(batch: list[list[float | None]]) -> None:
    teaches = [{0.0, 1.0} <= set(rewards) for rewards in batch]
    expected = [rewards if stays else [None] * len(rewards) for rewards, stays in zip(batch, teaches, strict=True)]
    assert drop_equal_groups(batch) == (expected if any(teaches) else batch)


def test_groups_are_judged_after_the_filter() -> None:
    mixed, same_when_kept = [right(10), wrong(20), right(500)], [right(10), right(20), wrong(500)]
    options = make_options("hard_limit", {"keep": 2, "drop_equal_groups": True})
    assert reward_groups("hard_limit", [mixed, same_when_kept], LIMIT, options) == [[1.0, 0.0, None], [None] * 3]
