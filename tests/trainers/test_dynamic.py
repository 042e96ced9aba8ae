"""Which prompts are drawn while a round trains, as far as no trainer is needed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.rounds import Round
from secateur.runtime.console import MetricLog
from trainers.grpo.dynamic import GROUPS, GroupLog, PromptDrawer

ROUND = Round(2, 100, 50)


def draw(drawer: PromptDrawer, mixed_of: list[bool], batches: int) -> list[list[int]]:
    """Train so many batches; problem p's group is always `mixed_of[p]`. As TRL does, batch b + 1 is read before the
    groups of batch b are known."""
    found = []
    for batch in range(batches):
        for row in range(batch * drawer.prompts, (batch + 2) * drawer.prompts):
            drawer.problem_of(row)
        found.append([drawer.problem_of(row) for row in range(batch * drawer.prompts, (batch + 1) * drawer.prompts)])
        drawer.note(batch, [mixed_of[problem] for problem in found[-1]])
    return found


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_while_all_groups_are_mixed_every_problem_comes_once_before_any_comes_again(problems, prompts, seed) -> None:
    drawn = [
        one for batch in draw(PromptDrawer(problems, prompts, seed, ROUND), [True] * problems, 8) for one in batch
    ]
    for begin in range(0, len(drawn) - problems + 1, problems):
        assert sorted(drawn[begin : begin + problems]) == list(range(problems))


def test_problems_that_were_all_right_or_all_wrong_do_not_come_again_while_there_are_others() -> None:
    mixed = [index % 3 == 0 for index in range(30)]
    drawn = draw(PromptDrawer(30, 5, 0, ROUND), mixed, 20)
    assert sorted(one for batch in drawn[:6] for one in batch) == list(range(30))  # all are seen first
    assert all(mixed[one] for batch in drawn[8:] for one in batch)


def test_where_too_few_are_mixed_others_follow_and_are_found_again_once_they_are() -> None:
    drawer = PromptDrawer(4, 3, 0, ROUND)
    drawn = draw(drawer, [True, False, False, False], 12)
    assert all(0 in batch and len(batch) == 3 for batch in drawn[4:])
    assert {one for batch in drawn[4:] for one in batch} == {0, 1, 2, 3}


@given(st.integers(0, 99), st.integers(1, 8), st.sampled_from([0.5, 1.0, 2.0]), st.data())
def test_a_resume_draws_what_was_drawn_before(tmp_path_factory, seed, cut, steps, data) -> None:
    """Killed after 10 batches, gone on from the checkpoint after `cut` of them."""
    mixed = [data.draw(st.booleans()) for _ in range(9)]
    folder, group = tmp_path_factory.mktemp("round"), {True: [0.0, 1.0], False: [1.0, 1.0]}
    log = GroupLog(folder, PromptDrawer(9, 2, seed, ROUND), steps)
    rows = {batch: (2 * batch, 2 * batch + 1) for batch in range(10)}
    for pair in rows.values():
        log({row: group[mixed[log.drawer.problem_of(row)]] for row in pair})
    MetricLog(folder / GROUPS).forget_after(int(cut * steps))
    kept = len((folder / GROUPS).read_text().splitlines())
    assert kept == (cut if cut * steps == int(cut * steps) else cut - 1)
    again = GroupLog(folder, PromptDrawer(9, 2, seed, ROUND), steps)
    for batch in range(kept, 10):
        assert [again.drawer.problem_of(row) for row in rows[batch]] == [
            log.drawer.problem_of(row) for row in rows[batch]
        ]
        again({row: group[mixed[again.drawer.problem_of(row)]] for row in rows[batch]})


def test_the_log_says_what_was_mixed_and_until_which_step(tmp_path: Path) -> None:
    log = GroupLog(tmp_path, PromptDrawer(9, 3, 0, ROUND), 2.0)
    [log.drawer.problem_of(row) for row in range(6)]
    log({3: [1.0, None, 1.0], 5: [0.0, 0.5], 4: [0.0, 0.0]})
    (line,) = (json.loads(text) for text in (tmp_path / GROUPS).read_text().splitlines())
    assert {key: line[key] for key in ("step", "batch", "mixed")} == {
        "step": 4,
        "batch": 1,
        "mixed": [False, False, True],
    }


def test_a_row_that_is_asked_for_too_early_is_no_guess() -> None:
    with pytest.raises(KeyError):
        PromptDrawer(9, 3, 0, ROUND).problem_of(6)
