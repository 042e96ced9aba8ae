"""Kills a three-round schedule again and again, starts it again each time, and compares it with one left alone.

    python bench/kill.py [--kills 20] [--seed 0] [--zero 0|2|3] [--rounds 3] [--output_dir outputs/kill]

The schedule is the user's own command, `schedules/run.py` on two CPU processes with the embedded model. The moments
are drawn from a list of events that can be seen in the run folder: a launch begins, a step is logged, a checkpoint
folder appears that has no marker yet (a save in progress), samples of the validation appear. So few problems are
trained on that an epoch lasts a step and a half. What is killed, with SIGKILL, is drawn as well: one rank, the
launcher, the driver, or all of them.

Both runs have to agree in every metric of every step (bit for bit, times apart), in every figure of the validation,
in every choice, and in the weights of every checkpoint and of `final/`. Exit code 1 if they do not.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from bench.kill_moments import Kill, draw_kills, kill_at
from secateur.runtime.config import read_yaml
from secateur.runtime.console import console, progress
from secateur.runtime.errors import InputError
from secateur.runtime.files import read_json, read_jsonl, write_text
from secateur.runtime.process import end_with_parent, entry_point

CLOCKS = {"time", "step_time", "wall_s", "seconds"}
FILES = ("training.json", "validation.json", "selection.json", "engine.json")


def differences(alone: Path, killed: Path) -> list[str]:
    """What the killed run computed otherwise, one line each; empty if nothing. Times are not compared."""
    found = []
    for folder in sorted((alone / "rounds").glob("[0-9]*")):
        other = killed / "rounds" / folder.name
        found += _differing_steps(folder, other)
        found += [
            f"{folder.name}/{name} differs"
            for name in FILES
            if _normalised(alone, folder / name) != _normalised(killed, other / name)
        ]
        if _samples(folder) != _samples(other):
            found.append(f"{folder.name}: the samples of the validation differ")
        names, others = _checkpoints(folder), _checkpoints(other)
        if names != others:
            found.append(f"{folder.name}: checkpoints {sorted(others)} instead of {sorted(names)}")
    for path in sorted(alone.rglob("*.safetensors")):
        twin = killed / path.relative_to(alone)
        if twin.is_file() and twin.read_bytes() != path.read_bytes():
            found.append(f"{path.relative_to(alone)}: other weights")
    if not (killed / "final" / "model.safetensors").is_file():
        found.append("final/: no model")
    return found


def _differing_steps(folder: Path, other: Path) -> list[str]:
    ours, theirs = (
        _without_clocks([record for _, record in read_jsonl(path / "train.jsonl")]) for path in (folder, other)
    )
    if [record["step"] for record in ours] != [record["step"] for record in theirs]:
        return [f"{folder.name}: other steps in train.jsonl"]
    return [
        f"{folder.name}, step {record['step']}: " + ", ".join(key for key in record if record[key] != twin.get(key))
        for record, twin in zip(ours, theirs, strict=True)
        if record != twin
    ]


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clocks(entry) for key, entry in value.items() if key not in CLOCKS}
    return [_without_clocks(entry) for entry in value] if isinstance(value, list) else value


def _normalised(run: Path, path: Path) -> Any:
    """The content of a JSON file without times and without the run's own path; None if there is no such file."""
    if not path.is_file():
        return None
    return json.loads(json.dumps(_without_clocks(read_json(path))).replace(str(run), "RUN"))


def _checkpoints(folder: Path) -> set[str]:
    """Names and files of the checkpoints; nothing else may be left of those that were torn or saved out of turn."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("*checkpoint-*/*") if path.is_file()}


def _samples(folder: Path) -> list[tuple[str, ...]]:
    lines = [
        (path.parent.relative_to(folder).as_posix(), record)
        for path in (folder / "validation").rglob("traces-*.jsonl")
        for _, record in read_jsonl(path)
    ]
    return sorted(
        (name, str(line.get("problem_id")), str(line.get("sample")), str(line.get("text"))) for name, line in lines
    )


def show(kills: Sequence[Kill], found: list[str], epochs_per_step: float, seconds: float) -> None:
    """A line per kill, the verdict, and the counts as Markdown for bench/RESULTS.md."""
    table = Table(padding=(0, 2, 0, 0), box=None)
    for column in ("moment", "epoch", "killed", "delay s", "left a torn save"):
        table.add_column(column, no_wrap=True)
    for kill in kills:
        epoch = str(math.ceil(kill.moment.step * epochs_per_step)) if kill.moment.step else ""
        name = kill.moment.name + (" (had passed)" if kill.late else "")
        table.add_row(name, epoch, kill.hit, f"{kill.delay:.2f}", "yes" if kill.torn else "")
    console.print(table)
    for line in found:
        console.print(f"  {line}", markup=False)
    struck = [kill for kill in kills if not kill.hit.startswith("nothing")]
    later = sum(math.ceil(kill.moment.step * epochs_per_step) > 1 for kill in struck if not kill.late)
    verdict = "differs from" if found else "equals"
    console.print(f"killed {len(struck)} times, the schedule {verdict} the one that was left alone; {seconds:.0f} s")
    kinds = Counter("later than meant" if kill.late else f"during a {kill.moment.kind}" for kill in struck)
    targets = Counter(kill.hit for kill in struck)
    console.print("\n| killed | times |\n|---|---|", markup=False)
    for name, count in [*kinds.items(), *targets.items()]:
        console.print(f"| {name} | {count} |", markup=False)
    console.print(f"| in epoch 2 or later | {later} |\n| saves left torn | {sum(kill.torn for kill in struck)} |")


REPOSITORY = Path(__file__).resolve().parent.parent
LIMITS = (200, 160, 130)
STEPS, SAVE_STEPS, PROBLEMS = 6, 2, 6
PROMPTS_PER_STEP = 4  # 2 processes × 8 completions ÷ 4 of each prompt
SCHEDULE = """
model: {model}
output_dir: {output}
limits: {limits}
steps_per_round: {steps}
problems: arithmetic:train
problem_count: {problems}
prompt_family: plain
seed: {seed}
validation_problems: arithmetic:validation
validation_count: 10
validation_samples: 2
validation_temperature: 1.0
validation_top_p: 1.0
validation_max_tokens: 250
validation_dtype: float32
tolerance: 0.5
learning_rate: 1.0e-3
num_generations: 4
per_device_train_batch_size: 8
save_steps: {save_steps}
use_cpu: true
bf16: false
gradient_checkpointing: false
model_init_kwargs: {{dtype: float32}}
"""


class Schedule:
    """One run of the schedule in a folder of its own."""

    def __init__(self, folder: Path, name: str, rounds: int, seed: int, zero: int) -> None:
        self.run, self.log = folder / name, folder / f"{name}.log"
        keys = {"steps": STEPS, "save_steps": SAVE_STEPS, "problems": PROBLEMS, "seed": seed}
        model = REPOSITORY / "trainers" / "embedded_model"
        text = SCHEDULE.format(model=model, output=self.run, limits=list(LIMITS[:rounds]), **keys)
        write_text(folder / f"{name}.yaml", text)
        launch = read_yaml(REPOSITORY / "configs" / "accelerate" / (f"zero{zero}.yaml" if zero else "cpu.yaml"))
        launch |= {"num_processes": 2, "mixed_precision": "no"}
        write_text(folder / "accelerate.yaml", yaml.safe_dump(launch))
        self.command = [sys.executable, str(REPOSITORY / "schedules" / "run.py")]
        self.command += ["--config", str(folder / f"{name}.yaml")]
        self.command += ["--accelerate_config", str(folder / "accelerate.yaml")]

    def start(self) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(self.command, cwd=REPOSITORY, stdout=log, stderr=log, preexec_fn=end_with_parent)

    def finish(self) -> None:
        if self.start().wait() != 0:
            raise RuntimeError(f"{' '.join(self.command)} failed; see {self.log}")


def run_killed(schedule: Schedule, kills: list[Kill]) -> None:
    """Start the schedule, kill it at each moment, start it again, and let the last start go to the end."""
    with progress("kills", len(kills)) as reporter:
        for kill in kills:
            kill_at(schedule.start(), schedule.run, kill)
            reporter.advance(note=f"{kill.moment.name}: {kill.hit}")
    schedule.finish()


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="draws moments and targets, and seeds the schedule")
    parser.add_argument("--zero", type=int, choices=(0, 2, 3), default=0, help="DeepSpeed stage; 0 is plain DDP")
    parser.add_argument("--rounds", type=int, choices=(1, 2, 3), default=3)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/kill"))
    options = parser.parse_args()
    folder = options.output_dir.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"--output_dir {folder}: is not empty; choose another folder or delete it")
    rounds = [f"{index}-limit-{limit}" for index, limit in enumerate(LIMITS[: options.rounds], start=1)]
    kills = draw_kills(rounds, STEPS, SAVE_STEPS, options.kills, options.seed)
    began = time.monotonic()
    console.print("a schedule that is left alone …")
    alone = Schedule(folder, "alone", options.rounds, options.seed, options.zero)
    alone.finish()
    killed = Schedule(folder, "killed", options.rounds, options.seed, options.zero)
    run_killed(killed, kills)
    found = differences(alone.run, killed.run)
    show(kills, found, PROMPTS_PER_STEP / PROBLEMS, time.monotonic() - began)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
