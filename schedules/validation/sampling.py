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

from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from schedules.choice import START, Candidate
from schedules.config import ScheduleConfig
from schedules.launch import Launcher
from secateur.engines.registry import engine_kind
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, read_jsonl, write_json, write_text

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

    def run(self, launcher: Launcher) -> list[dict[str, Any]]:
        """The figures of every candidate, in the order of `models`."""
        names = {candidate_name(step): model for step, model in self.models.items()}
        settings = validation_settings(self.schedule) | {"models": names, "output_dir": str(self.folder)}
        write_text(self.config, yaml.safe_dump(settings, sort_keys=False))
        known = self._known()
        for steps in self._launches([step for step in self.models if step not in known]):
            launcher.run(self._command(launcher, steps), log=self.folder)
            summary = read_json(self.folder / "summary.json")["models"]
            known |= {step: self._entry(step, summary) for step in steps}
            write_json(self.folder / "figures.json", [known[step] for step in sorted(known)])
        return [known[step] for step in self.models]

    def _known(self) -> dict[int, dict[str, Any]]:
        path = self.folder / "figures.json"
        return {entry["step"]: entry for entry in read_json(path)} if path.is_file() else {}

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

    def _entry(self, step: int, summary: dict[str, Any]) -> dict[str, Any]:
        name = candidate_name(step)
        figures = {key: value for key, value in summary[name][BENCHMARK].items() if key in _FIGURES}
        return {"step": step, **figures, "per_problem": per_problem(self.folder / name / BENCHMARK / "results.jsonl")}


_FIGURES = (
    "pass_at_1",
    "pass_at_1_ci95",
    "mean_tokens",
    "mean_tokens_ci95",
    "truncated_share",
    "samples",
    "problems",
)


def validation_settings(schedule: ScheduleConfig) -> dict[str, Any]:
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
        "prompt_family": schedule.prompt_family,
        "seed": schedule.seed,
        "table": False,
    }


def candidate_name(step: int) -> str:
    """
    >>> candidate_name(0), candidate_name(20)
    ('start', 'step-20')
    """
    return "start" if step == START else f"step-{step}"


def per_problem(results: Path) -> dict[str, dict[str, float]]:
    """Problem id → share of right samples (`pass_at_1`, fraction 0-1) and `mean_tokens`, from a results.jsonl."""
    samples = defaultdict(list)
    for _, line in read_jsonl(results):
        samples[line["problem_id"]].append((line["correct"], line["n_tokens"]))
    return {
        name: {
            "pass_at_1": sum(correct for correct, _ in lines) / len(lines),
            "mean_tokens": sum(tokens for _, tokens in lines) / len(lines),
        }
        for name, lines in sorted(samples.items())
    }


def read_candidates(round_folder: Path) -> list[Candidate]:
    """The round's candidates from its validation.json, its start model first."""
    return [_candidate(entry) for entry in read_json(round_folder / "validation.json")["candidates"]]


def _candidate(entry: dict[str, Any]) -> Candidate:
    accuracy, length = entry.get("pass_at_1_ci95"), entry.get("mean_tokens_ci95")
    return Candidate(
        step=entry["step"],
        pass_at_1=entry["pass_at_1"],
        mean_tokens=entry["mean_tokens"],
        truncated_share=entry["truncated_share"],
        pass_at_1_ci95=tuple(accuracy) if accuracy else None,
        mean_tokens_ci95=tuple(length) if length else None,
        pass_rates={name: values["pass_at_1"] for name, values in entry.get("per_problem", {}).items()},
    )
