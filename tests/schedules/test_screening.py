"""Which problems a round trains on: rates from verdicts, bounds, messages, and how samples are asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from schedules.config import RunConfig, ScheduleConfig
from schedules.launch import Launcher
from schedules.records import PassRates, has_pass_rates, read_pass_rates
from schedules.validation.screening import Screening, count_rates
from secateur.runtime.errors import InputError
from secateur.runtime.records import write_record
from secateur.tasks.graded import GradedSample, write_results
from secateur.tasks.prompts import Prompt, evaluation_messages, training_messages, training_prompt

RATES = PassRates(4, 1000, {"never": 0.0, "once": 0.25, "often": 0.75, "always": 1.0}, {"samples": 4})


def schedule(folder: Path, **changes: Any) -> ScheduleConfig:
    keys: dict[str, Any] = {"model": "owner/model", "output_dir": str(folder), "limits": [100], "steps_per_round": 1}
    return ScheduleConfig(**{**keys, "problems": "p", "validation_problems": "v", "pass_rate": [0.1, 0.9], **changes})


def test_a_rate_counts_what_is_right_and_ended_in_time(tmp_path) -> None:
    lines = [
        ("a", 0, True, 5, "stop"),
        ("a", 1, True, 9, "length"),
        ("a", 2, False, 3, "stop"),
        ("b", 0, True, 1, "stop"),
    ]
    write_results(tmp_path / "results.jsonl", [GradedSample(*line) for line in lines])
    found = count_rates(tmp_path / "results.jsonl", {"samples": 4})
    assert found == PassRates(4, 18, {"a": 0.25, "b": 0.25}, {"samples": 4})


def test_the_bounds_belong_to_what_is_kept_and_the_words_count_everybody() -> None:
    assert RATES.kept([0.25, 0.75]) == ["once", "often"]
    assert RATES.kept([0.0, 1.0]) == list(RATES.rates)
    words = RATES.words([0.5, 0.9])
    assert "1 of 4 training problems kept (25%)" in words and "2 are below, 1 above; 1,000 tokens" in words


def test_a_round_without_rates_names_the_command_that_samples_them(tmp_path) -> None:
    with pytest.raises(InputError, match=r"pass_rate.*schedules/run.py"):
        read_pass_rates(tmp_path)
    write_record(tmp_path / "pass_rate.json", RATES, 1)
    assert read_pass_rates(tmp_path) == RATES
    assert has_pass_rates(tmp_path, {"samples": 4})
    assert not has_pass_rates(tmp_path, {"samples": 4, "temperature": 0.7})


def test_an_empty_remainder_is_an_error_that_says_why(tmp_path, repository) -> None:
    """Nothing is launched, for the rates are there."""
    config = RunConfig(schedule(tmp_path, pass_rate=[0.4, 0.6], pass_rate_samples=4), {}, "run.yaml")
    screening = Screening(config, [], config.schedule.rounds[0], tmp_path)
    made_with = screening._made_with(screening._settings("owner/model"), "owner/model")
    write_record(tmp_path / "pass_rate.json", replace(RATES, settings=made_with), 1)
    with pytest.raises(InputError, match=r"pass_rate.*no problem is left.*2 are below, 2 above"):
        screening.run(Launcher(str(repository / "configs/accelerate/cpu.yaml")), "owner/model")


def test_problems_are_sampled_as_training_will_sample_them(tmp_path) -> None:
    config = RunConfig(schedule(tmp_path, limits=[400], validation_engine="vllm"), {"temperature": 0.7}, "run.yaml")
    settings = Screening(config, [], config.schedule.rounds[0], tmp_path)._settings("m")
    assert (settings["temperature"], settings["max_tokens"], settings["samples"]) == (0.7, 400, 8)
    assert (settings["engine"], settings["models"]) == ("vllm", {"start": "m"})
    told = Prompt(*(settings[key] for key in ("prompt_family", "system_prompt", "instruction")))
    assert evaluation_messages("1+1?", told) == training_messages("1+1?", config.schedule.prompt, 400)
    yaml.safe_dump(settings)


@pytest.mark.parametrize("family", ["deepseek", "qwen", "plain"])
@pytest.mark.parametrize("own", [(None, None), ("Think.", None), ("", "Q: {problem}"), (None, "")])
@pytest.mark.parametrize("limit", [None, 3000])
def test_a_training_prompt_puts_problems_to_evaluation_as_training_does(family, own, limit) -> None:
    prompt = Prompt(family, *own)
    assert evaluation_messages("x", training_prompt(prompt, limit)) == training_messages("x", prompt, limit)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pass_rate": [0.9, 0.1]}, "two fractions"),
        ({"pass_rate": [0.5]}, "two fractions"),
        ({"pass_rate": [0.1, 9.0]}, "two fractions"),
        ({"pass_rate_samples": 0}, "pass_rate_samples"),
        ({"reward": "l1_exact"}, "another length in every prompt"),
    ],
)
def test_impossible_rates_are_named(tmp_path, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        schedule(tmp_path, **changes)
