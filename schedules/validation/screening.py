"""Which training problems are worth training on: those that a round's start model solves sometimes (`pass_rate`).

A problem whose completions are all right or all wrong gives no gradient (Yu et al., DAPO, arXiv 2503.14476, section
3.2). Before a round every training problem is sampled by eval/single.py as training will sample it: its prompt, limit
and temperature, on the engine of the validation. A sample counts as right if it is, within the limit.

    rounds/1-limit-4000/pass_rate.yaml      what eval/single.py was started with
    rounds/1-limit-4000/pass_rate/          the problems, their traces and verdicts
    rounds/1-limit-4000/pass_rate.json      the rate of every problem, and what they cost

A kill costs the traces that were under way.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from schedules.config import RunConfig
from schedules.launch import REPOSITORY, Launcher
from schedules.records import PassRates, has_pass_rates, read_pass_rates, write_pass_rates
from schedules.rounds import Round
from schedules.validation.sampling import engine_settings, single_command
from secateur.runtime.console import say
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, write_text
from secateur.tasks.graded import RESULTS_FILE, read_results
from secateur.tasks.prompts import training_prompt

BENCHMARK, MODEL = "training", "start"


class Screening:
    """Samples the training problems of one round with its start model. `argv`: the run's own command line."""

    def __init__(self, config: RunConfig, argv: Sequence[str], round_: Round, round_folder: Path) -> None:
        self.config, self.argv, self.round, self.round_folder = config, argv, round_, round_folder
        self.folder, self.problems = round_folder / "pass_rate", round_folder / "pass_rate" / "problems.jsonl"

    def run(self, launcher: Launcher, start_model: str) -> None:
        """Write pass_rate.json unless it is there; raises `InputError` if no problem is left to train on."""
        schedule, settings = self.config.schedule, self._settings(start_model)
        made_with = self._made_with(settings, start_model)
        if not has_pass_rates(self.round_folder, made_with):
            say(f"  pass rates of the training problems: {schedule.pass_rate_samples} samples of each")
            self._write_problems(launcher)
            file = self.round_folder / "pass_rate.yaml"
            write_text(file, yaml.safe_dump(settings, sort_keys=False))
            launcher.run(single_command(schedule, launcher, file), done="pass rates sampled", log=self.folder)
            found = count_rates(self.folder / MODEL / BENCHMARK / RESULTS_FILE, made_with)
            write_pass_rates(self.round_folder, found)
        rates = read_pass_rates(self.round_folder)
        say(f"  {rates.words(schedule.pass_rate)}")
        if not rates.kept(schedule.pass_rate):
            raise InputError(
                f"key 'pass_rate' has the value {schedule.pass_rate}: no problem is left to train on in "
                f"{self.round.name}: {rates.words(schedule.pass_rate)}; widen it, raise 'pass_rate_samples' or name "
                "other 'problems'"
            )

    def _made_with(self, settings: Mapping[str, JSON], start_model: str) -> dict[str, JSON]:
        """What the rates depend on, what decides which problems are trained on included. No path within the run
        folder, which may be moved."""
        schedule, run, model = self.config.schedule, self.round_folder.parent.parent, Path(start_model)
        chosen_by = (schedule.problem_count, schedule.decontaminate, schedule.max_prompt_tokens)
        return {
            **{key: value for key, value in settings.items() if key not in ("models", "output_dir", "problems")},
            "model": str(model.relative_to(run) if model.is_relative_to(run) else model),
            "training_problems": [schedule.problems, *chosen_by],
        }

    def _write_problems(self, launcher: Launcher) -> None:
        """The trainer knows which of the problems are trained on."""
        command = [sys.executable, str(REPOSITORY / "trainers" / "grpo_len.py"), *self.argv]
        options = ["--check_for_processes", str(launcher.processes), "--write_problems", str(self.problems)]
        launcher.run([*command, *options], quiet=True)

    def _settings(self, start_model: str) -> dict[str, JSON]:
        """The keys of eval/single.py: those of training where they say how a completion is sampled."""
        schedule, trainer = self.config.schedule, self.config.trainer
        stated = self.round.limit if schedule.state_limit else None
        return {
            "models": {MODEL: start_model},
            "output_dir": str(self.folder),
            "problems": {BENCHMARK: str(self.problems)},
            "samples": schedule.pass_rate_samples,
            "temperature": trainer.get("temperature", 1.0),
            "top_p": trainer.get("top_p", 1.0),
            "top_k": trainer.get("top_k", 0),
            "max_tokens": self.round.limit,
            **engine_settings(schedule),
            **asdict(training_prompt(schedule.prompt, stated)),
        }


def count_rates(results: Path, settings: Mapping[str, JSON]) -> PassRates:
    """From a results.jsonl that eval/single.py has made with these keys."""
    right: dict[str, int] = {}
    tokens = 0
    for one in read_results(results):
        counts = one.correct and one.finish_reason != "length"
        right[one.problem_id] = right.get(one.problem_id, 0) + counts
        tokens += one.n_tokens
    samples = settings["samples"]
    return PassRates(samples, tokens, {name: count / samples for name, count in right.items()}, settings)
