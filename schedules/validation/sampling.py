"""Validation of a round: every checkpoint is sampled on the validation problems by eval/single.py, at evaluation
settings (arXiv 2504.01296: AIME 2022 and 2023, 16 samples, temperature 0.6, top-p 0.95, 32k tokens, no length
sentence).

    validation.yaml                 settings and candidates, what eval/single.py was started with
    validation/start/validation/    traces and results.jsonl of the start model; step-20/… of a checkpoint
    validation/figures.json         figures of the candidates measured so far, each with its number of samples
    validation.json                 figures of all of them

A kill costs the traces that were under way: those on disk are not sampled again, and what was measured is not
measured again. A race goes on with the decisions that it had come to, for they follow from the samples on disk.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from schedules.choice import START, Candidate, ProblemFigures, pick_reference
from schedules.config import ScheduleConfig
from schedules.integrity import MARKER, read_marker
from schedules.launch import REPOSITORY, Launcher
from schedules.racing import Samples, lacking, make_race, read_samples
from schedules.records import ValidationRecord, read_validation, write_validation
from secateur.engines.registry import engine_kind
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, read_json, write_text
from secateur.runtime.records import as_json, record_of
from secateur.tasks.graded import RESULTS_FILE, read_results

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
    """Measures the candidates of one round. `models`: step → model folder or Hub name, the start model's among them.

    With `racing_confidence` those out of reach drop out (racing.py), and checkpoints with the weights of an earlier
    one share its figures; without it all are sampled in full.
    """

    def __init__(self, schedule: ScheduleConfig, round_folder: Path, models: Mapping[int, str]) -> None:
        self.schedule, self.models = schedule, models
        self.config = round_folder / "validation.yaml"
        self.folder = round_folder / "validation"

    def run(
        self, launcher: Launcher, start: Candidate | None = None, original: Candidate | None = None
    ) -> list[Candidate]:
        """The figures of every candidate, the start model first. `start`: its figures, if they are known; `original`:
        those of the model that round 1 began with, by default the start model."""
        self._write_config()
        samples = self.schedule.validation_samples
        if self.schedule.racing_confidence is None:
            first = [] if start is None else [start]
            steps = [step for step in self.models if step != START or start is None]
            return first + self._measured(launcher, dict.fromkeys(steps, samples))
        if start is None:
            (start,) = self._measured(launcher, {START: samples})
        return [start, *self._raced(launcher, start, original or start)]

    def _raced(self, launcher: Launcher, start: Candidate, original: Candidate) -> list[Candidate]:
        """The figures of the checkpoints, each from as many samples as it took to tell that it is out of reach."""
        schedule, twins = self.schedule, same_weights(self.models)
        entrants = sorted(set(twins.values()) - {START})
        race = make_race(
            schedule.validation_samples,
            schedule.racing_confidence,
            schedule.tolerance,
            pick_reference(original, start, schedule.tolerance_reference).candidate,
            start,
        )
        while missing := lacking(race, {step: self._drawn(step) for step in entrants}):
            self._measured(launcher, missing)
        known = self._known() | {START: start}
        return [replace(known[twins[step]], step=step) for step in self.models if step != START]

    def _drawn(self, step: int) -> Samples:
        """What is on disk of a candidate that was measured; it may have been begun to be sampled further."""
        known, count = self._known(), 0
        if step in known:
            count = known[step].samples
        return read_samples(self._results(step), count)

    def _measured(self, launcher: Launcher, samples: Mapping[int, int]) -> list[Candidate]:
        """Figures of the candidates (step → samples of each problem), in one launch what is not known: a process that
        waits for its last long trace holds up no other, for the next model is begun at once."""
        known = self._known()
        steps = [step for step in samples if step not in known or known[step].samples < samples[step]]
        for count in sorted({samples[step] for step in steps}):
            self._launch(launcher, [step for step in steps if samples[step] == count], count)
        return [self._known()[step] for step in samples]

    def _launch(self, launcher: Launcher, steps: Sequence[int], count: int) -> None:
        launcher.run(self._command(launcher, steps, count), done="checkpoints sampled", log=self.folder)
        summary = read_json(self.folder / "summary.json")["models"]
        known = self._known() | {step: self._figures_of(step, summary) for step in steps}
        record = ValidationRecord(validation_settings(self.schedule), tuple(known[step] for step in sorted(known)))
        write_validation(self._figures, record)

    def check(self, launcher: Launcher) -> None:
        """Let eval/single.py see that it can read what it will need, and unless this is a dry run, that it can run
        here; ends as it ends if not."""
        self._write_config()
        what = "inputs" if self.schedule.dry_run else "machine"
        command = [sys.executable, str(REPOSITORY / SCRIPT), "--config", str(self.config), "--check", what]
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
        """Those whose graded samples are there too: one without is graded again, from its traces."""
        if not self._figures.is_file():
            return {}
        found = read_validation(self._figures).candidates
        return {candidate.step: candidate for candidate in found if self._results(candidate.step).is_file()}

    def _results(self, step: int) -> Path:
        return self.folder / candidate_name(step) / BENCHMARK / RESULTS_FILE

    def _command(self, launcher: Launcher, steps: Sequence[int], count: int) -> list[str]:
        models = {candidate_name(step): self.models[step] for step in steps}
        flow = yaml.safe_dump(models, default_flow_style=True, width=float("inf")).strip()
        return single_command(self.schedule, launcher, self.config, "--models", flow, "--samples", str(count))

    def _figures_of(self, step: int, summary: Mapping[str, Mapping[str, Mapping[str, JSON]]]) -> Candidate:
        name = candidate_name(step)
        found = per_problem(self._results(step))
        values = {**summary[name][BENCHMARK], "step": step, "per_problem": as_json(found)}
        return record_of(Candidate, values, str(self.folder / "summary.json"))


def same_weights(models: Mapping[int, str]) -> dict[int, int]:
    """Step → the first step whose model has the same weights: its own, or an earlier one's.

    Compared are the checksums of the weight files, as the markers of checkpoints have them; a model without a marker
    (a name on the Hub, a folder of others) is taken to be like no other.
    """
    first: dict[tuple[tuple[str, str], ...], int] = {}
    return {step: first.setdefault(_weights(models[step]) or (("step", str(step)),), step) for step in sorted(models)}


def _weights(model: str) -> tuple[tuple[str, str], ...]:
    if not (Path(model) / MARKER).is_file():
        return ()
    prints = read_marker(Path(model)).fingerprints
    return tuple(sorted(entry for entry in prints.items() if entry[0].endswith(".safetensors")))


def validation_settings(schedule: ScheduleConfig) -> dict[str, JSON]:
    """The keys of eval/single.py, but for `models` and `output_dir`."""
    return {
        "problems": {BENCHMARK: schedule.validation_problems},
        "problem_count": schedule.validation_count,
        "samples": schedule.validation_samples,
        "temperature": schedule.validation_temperature,
        "top_p": schedule.validation_top_p,
        "max_tokens": schedule.validation_max_tokens,
        **engine_settings(schedule),
        **asdict(schedule.prompt),
    }


def engine_settings(schedule: ScheduleConfig) -> dict[str, JSON]:
    """The keys of eval/single.py that all sampling of a schedule shares."""
    return {
        "dtype": schedule.validation_dtype,
        "rows": schedule.validation_rows,
        "engine": schedule.validation_engine,
        "engine_options": schedule.validation_engine_options,
        "answer_from": schedule.answer_from,
        "seed": schedule.seed,
        "table": False,
    }


def single_command(schedule: ScheduleConfig, launcher: Launcher, config: Path, *arguments: str) -> list[str]:
    """eval/single.py with a config file on the processes that validate."""
    return launcher.command(SCRIPT, ["--config", str(config), *arguments], validation_processes(schedule, launcher))


def candidate_name(step: int) -> str:
    """
    >>> candidate_name(0), candidate_name(20)
    ('start', 'step-20')
    """
    return "start" if step == START else f"step-{step}"


def per_problem(results: Path) -> dict[str, ProblemFigures]:
    """Problem id → its figures, from a results.jsonl."""
    samples = defaultdict(list)
    for one in read_results(results):
        samples[one.problem_id].append((one.correct, one.n_tokens))
    return {
        name: ProblemFigures(
            pass_at_1=sum(correct for correct, _ in lines) / len(lines),
            mean_tokens=sum(tokens for _, tokens in lines) / len(lines),
            lengths=tuple(tokens for _, tokens in lines),
        )
        for name, lines in sorted(samples.items())
    }
