"""Validation of a round: every checkpoint is sampled on the validation problems by eval/single.py, at evaluation
settings (arXiv 2504.01296: AIME 2022 and 2023, 16 samples, temperature 0.6, top-p 0.95, 32k tokens, no length
sentence).

    validation.yaml                 settings and candidates, what eval/single.py was started with
    validation/start/validation/    traces and results.jsonl of the start model; step-20/… of a checkpoint
    validation/figures.json         figures of the candidates measured so far
    validation.json                 figures of all of them

A kill costs the traces that were under way: those on disk are not sampled again, and a candidate that was measured is
not opened again.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import yaml

from schedules.choice import START, Candidate, ProblemFigures
from schedules.config import ScheduleConfig
from schedules.launch import REPOSITORY, Launcher
from schedules.records import ValidationRecord, read_validation, write_validation
from secateur.engines.registry import engine_kind
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json, read_jsonl, write_text
from secateur.runtime.records import as_json, record_of

BENCHMARK = "validation"
SCRIPT = "eval/single.py"


def validation_processes(schedule: ScheduleConfig, launcher: Launcher) -> int | None:
    """How many processes validate: fewer than train if each takes several GPUs; None for as many.

    Raises `InputError` if none would be left for a machine.
    """
    kind = engine_kind(schedule.validation_engine)
    each = kind.gpus(schedule.validation_engine_options)
    if each == 1:
        return None
    if each < 1 or launcher.processes // each < launcher.machines:
        raise InputError(
            f"key 'validation_engine_options' has {kind.gpus_option} {each}: of {launcher.processes} processes "
            f"that leaves none for each of {launcher.machines} machines; lower it"
        )
    return launcher.processes // each


class RoundValidation:
    """Measures the candidates of one round. `models`: step → model folder or Hub name."""

    def __init__(self, schedule: ScheduleConfig, round_folder: Path, models: dict[int, str]) -> None:
        self.schedule, self.models = schedule, models
        self.config = round_folder / "validation.yaml"
        self.folder = round_folder / "validation"

    def run(self, launcher: Launcher) -> list[Candidate]:
        """The figures of every candidate, in the order of `models`."""
        self._write_config()
        settings = validation_settings(self.schedule)
        known = self._known()
        for steps in self._launches([step for step in self.models if step not in known]):
            launcher.run(self._command(launcher, steps), log=self.folder)
            summary = read_json(self.folder / "summary.json")["models"]
            known |= {step: self._measured(step, summary) for step in steps}
            write_validation(self._figures, ValidationRecord(settings, tuple(known[step] for step in sorted(known))))
        return [known[step] for step in self.models]

    def check(self, launcher: Launcher) -> None:
        """Let eval/single.py see that it can read what it will need; ends as it ends if it cannot."""
        self._write_config()
        command = [sys.executable, str(REPOSITORY / SCRIPT), "--config", str(self.config), "--check", "true"]
        try:
            launcher.run(command, quiet=True)
        except SystemExit:
            print("  (a key of the run is called validation_… in its own config)", file=sys.stderr, flush=True)
            raise

    def _write_config(self) -> None:
        names = {candidate_name(step): model for step, model in self.models.items()}
        values = validation_settings(self.schedule) | {"models": names, "output_dir": str(self.folder)}
        write_text(self.config, yaml.safe_dump(values, sort_keys=False))

    @property
    def _figures(self) -> Path:
        return self.folder / "figures.json"

    def _known(self) -> dict[int, Candidate]:
        if not self._figures.is_file():
            return {}
        return {candidate.step: candidate for candidate in read_validation(self._figures).candidates}

    def _launches(self, steps: list[int]) -> list[list[int]]:
        """Which candidates share a launch: all of them, or one each where an engine's memory does not come back
        within a process (of three vLLM engines in turn the second finds the first one's memory taken)."""
        if engine_kind(self.schedule.validation_engine).one_process_per_model:
            return [[step] for step in steps]
        return [steps] if steps else []

    def _command(self, launcher: Launcher, steps: list[int]) -> list[str]:
        models = {candidate_name(step): self.models[step] for step in steps}
        flow = yaml.safe_dump(models, default_flow_style=True, width=float("inf")).strip()
        arguments = ["--config", str(self.config), "--models", flow]
        return launcher.command(SCRIPT, arguments, validation_processes(self.schedule, launcher))

    def _measured(self, step: int, summary: Mapping[str, Mapping[str, Mapping[str, JSON]]]) -> Candidate:
        name = candidate_name(step)
        found = per_problem(self.folder / name / BENCHMARK / "results.jsonl")
        values = {**summary[name][BENCHMARK], "step": step, "per_problem": as_json(found)}
        return record_of(Candidate, values, str(self.folder / "summary.json"))


def validation_settings(schedule: ScheduleConfig) -> dict[str, JSON]:
    """The keys of eval/single.py, but for `models` and `output_dir`."""
    return {
        "problems": {BENCHMARK: schedule.validation_problems},
        "problem_count": schedule.validation_count,
        "samples": schedule.validation_samples,
        "temperature": schedule.validation_temperature,
        "top_p": schedule.validation_top_p,
        "max_tokens": schedule.validation_max_tokens,
        "dtype": schedule.validation_dtype,
        "rows": schedule.validation_rows,
        "engine": schedule.validation_engine,
        "engine_options": schedule.validation_engine_options,
        **asdict(schedule.prompt),
        "answer_from": schedule.answer_from,
        "seed": schedule.seed,
        "table": False,
    }


def candidate_name(step: int) -> str:
    """
    >>> candidate_name(0), candidate_name(20)
    ('start', 'step-20')
    """
    return "start" if step == START else f"step-{step}"


def per_problem(results: Path) -> dict[str, ProblemFigures]:
    """Problem id → its figures, from a results.jsonl."""
    samples = defaultdict(list)
    for _, line in read_jsonl(results):
        samples[line["problem_id"]].append((line["correct"], line["n_tokens"]))
    return {
        name: ProblemFigures(
            pass_at_1=sum(correct for correct, _ in lines) / len(lines),
            mean_tokens=sum(tokens for _, tokens in lines) / len(lines),
            lengths=tuple(tokens for _, tokens in lines),
        )
        for name, lines in sorted(samples.items())
    }
