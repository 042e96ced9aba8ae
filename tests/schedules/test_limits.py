"""Schedules beyond three numbers: limits that are drawn, that rise again, and schedules that end early."""

from pathlib import Path

import pytest

from schedules.card.content import _auto_limits, _limits
from schedules.choice import choose, explain, pick_reference
from schedules.config import read_run_config
from schedules.records import VALIDATION, ValidationRecord, read_selection, write_validation
from schedules.rounds import Round
from schedules.run import Driver
from schedules.state import TRAINING
from secateur.runtime.errors import InputError
from secateur.runtime.files import write_json, write_text
from tests.schedules.candidates import candidate
from tests.schedules.test_run import CONFIG, make_driver

SHORT, LONG = range(40, 140), range(200, 300)


@pytest.fixture
def auto(tmp_path, repository) -> Driver:
    return driver_with(tmp_path, repository, "limits: [220, auto, auto]\nauto_floor: 50\n")


def driver_with(folder: Path, repository: Path, limits: str) -> Driver:
    text = CONFIG.format(model="owner/model", output=folder / "run").replace("limits: [220, 160]\n", limits)
    write_text(folder / "run.yaml", text)
    return make_driver(folder / "run.yaml", repository)


def train(driver: Driver) -> Round:
    """As if the next round had been trained."""
    action = driver.folder.next_action()
    assert action.kind == "train" and action.round is not None
    folder = driver.folder.round_folder(action.round)
    folder.mkdir(parents=True)
    write_json(folder / TRAINING, {})
    return action.round


def choose_from(driver: Driver, round_: Round, figures: dict[int, tuple[float, float]], lengths=SHORT) -> None:
    found = [candidate(step, *values, rates={"a": values[0]}, lengths=lengths) for step, values in figures.items()]
    write_validation(driver.folder.round_folder(round_) / VALIDATION, ValidationRecord({}, tuple(found)))
    driver._choose(round_, "owner/model")


def test_an_auto_limit_is_drawn_with_the_choice_and_is_the_same_at_every_start(auto, tmp_path, repository, capsys):
    assert [round_.name for round_ in auto.folder.rounds] == ["1-limit-220"]
    first = train(auto)
    choose_from(auto, first, {0: (0.6, 200.0), 4: (0.7, 90.0)})
    assert "the next limit: 89 tokens, from the 0.5 quantile" in capsys.readouterr().out
    assert read_selection(auto.folder.round_folder(first)).next_limit == 89  # half of 40 … 139 are no longer
    again = make_driver(tmp_path / "run.yaml", repository)
    assert [round_.name for round_ in again.folder.rounds] == ["1-limit-220", "2-limit-89"]
    second = train(again)
    choose_from(again, second, {0: (0.7, 90.0), 8: (0.7, 60.0)}, range(10, 60))
    assert read_selection(again.folder.round_folder(second)).next_limit == 50, "the floor"
    third = train(again)
    choose_from(again, third, {0: (0.7, 60.0), 8: (0.7, 50.0)}, range(5))
    assert read_selection(again.folder.round_folder(third)).next_limit is None
    assert again.folder.next_action().kind == "export"


def test_an_auto_limit_never_rises(auto) -> None:
    first = train(auto)
    choose_from(auto, first, {0: (0.6, 400.0), 4: (0.7, 250.0)}, LONG)
    assert auto.folder.rounds[1].limit == 220


def test_figures_without_lengths_are_named_before_anything_is_chosen(auto) -> None:
    first = train(auto)
    with pytest.raises(InputError, match=r"validation\.json: holds no lengths .* delete it"):
        choose_from(auto, first, {0: (0.6, 200.0), 4: (0.7, 90.0)}, ())
    assert auto.folder.next_action().kind == "choose"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("limits: auto\n", r"begins with auto"),
        ("limits: [220, auto]\n", r"'auto_floor' has the value None"),
        ("limits: [220, auto]\nauto_floor: 221\n", r"'auto_floor' has the value 221.* at most the first, 220"),
        ("limits: [220, auto]\nauto_floor: 50\nauto_quantile: 0\n", r"'auto_quantile' has the value 0"),
        ("limits: [220, 160]\nmin_shortening: 1.5\n", r"'min_shortening' has the value 1\.5"),
    ],
)
def test_impossible_limits_are_named(tmp_path, repository, limits, message) -> None:
    with pytest.raises(InputError, match=message):
        driver_with(tmp_path, repository, limits)


def test_the_range_of_limits_is_what_prompts_rewards_and_context_are_checked_with(auto, tmp_path) -> None:
    assert auto.config.schedule.limit_range == (50, 220)
    argv = ["--config", str(tmp_path / "run.yaml"), "--limits", "[80, 160, 120]", "--expanding_rounds", "true"]
    assert read_run_config(argv).schedule.limit_range == (80, 160)


def test_an_expanding_round_passes_on_its_most_accurate_model() -> None:
    found = [candidate(0, 0.6, 100.0), candidate(4, 0.7, 150.0), candidate(8, 0.7, 140.0), candidate(12, 0.65, 90.0)]
    reference = pick_reference(found[0], found[0], "best_so_far")
    assert choose(found, reference, 0.1).chosen_step == 12
    expanded = choose(found, reference, 0.1, expands=True)
    assert expanded.chosen_step == 8
    assert "Step 8 is the most accurate of 4 feasible" in explain(expanded)


def test_an_expansion_that_gains_nothing_is_passed_over(tmp_path, repository) -> None:
    """Down, up and down again: the second expansion keeps its start model, and the next round compresses that."""
    limits = "limits: [220, 110, 220, 110]\nexpanding_rounds: true\nmin_shortening: 0.05\n"
    driver = driver_with(tmp_path, repository, limits)
    first = train(driver)
    choose_from(driver, first, {0: (0.6, 200.0), 4: (0.7, 180.0)})
    second = train(driver)
    choose_from(driver, second, {0: (0.7, 180.0), 8: (0.7, 90.0)})
    third = train(driver)
    choose_from(driver, third, {0: (0.7, 90.0), 4: (0.65, 80.0), 8: (0.69, 120.0)})
    record = read_selection(driver.folder.round_folder(third))
    assert (record.chosen_step, record.expands) == (0, True)
    assert "the expansion has gained nothing" in record.reason
    action = driver.folder.next_action()
    assert (action.kind, action.round and action.round.name) == ("train", "4-limit-110")
    assert action.start_model == "rounds/2-limit-110/checkpoint-8"
    choose_from(driver, train(driver), {0: (0.7, 90.0)})  # a limit that cannot be met ends a schedule as ever
    assert driver.folder.next_action().kind == "export"


@pytest.mark.parametrize(("share", "kind"), [("null", "train"), ("0.05", "train"), ("0.1", "export")])
def test_a_round_that_no_longer_shortens_ends_the_schedule(tmp_path, repository, capsys, share, kind):
    driver = driver_with(tmp_path, repository, f"limits: [220, 160]\nmin_shortening: {share}\n")
    choose_from(driver, train(driver), {0: (0.6, 200.0), 4: (0.6, 188.0)})  # 6 % shorter
    action = driver.folder.next_action()
    assert (action.kind, action.start_model) == (kind, "rounds/1-limit-220/checkpoint-4")
    assert ("the schedule ends here, before its last limit" in capsys.readouterr().out) == (kind == "export")


def test_the_card_names_what_was_drawn_and_how(auto) -> None:
    first = train(auto)
    choose_from(auto, first, {0: (0.6, 200.0), 4: (0.7, 90.0)})
    schedule = auto.config.schedule
    assert _limits(schedule, auto.folder.rounds) == "220, 89"
    assert "0.5 quantile" in _auto_limits(schedule) and "at least 50" in _auto_limits(schedule)
