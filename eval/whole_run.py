"""A whole run: length and redundancy pruning end to end on one small model, one table, one report.

Every stage is a command that a user could type, run as a child process. A run can be killed and started again at any
time; what is done is passed over. `eval/demo.py` and `eval/real.py` say of which model and with which files.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.markup import escape

from eval.one_model.report import read_summary
from eval.report.page import ReportInputs, write_report
from eval.run_summary import (
    RunRound,
    RunSummary,
    TablePart,
    beside_the_control,
    held_out_lengths,
    judge_summary,
    show_summary,
    write_run_summary,
)
from eval.stages import REPOSITORY, Stage, StageRunner, end_children_on_signals, launched, python
from eval.table.terminal import print_results
from schedules.records import finished_rounds
from secateur.deepprune.judges.kinds import linear, own_states, pairwise
from secateur.deepprune.judges.record import read_metrics
from secateur.results import Table, read_table
from secateur.runtime.command_lines import written
from secateur.runtime.config import read_yaml
from secateur.runtime.console import console, say, say_end
from secateur.runtime.errors import InputError
from secateur.runtime.files import JSON, hold_folder, model_fingerprint, read_json, write_json
from secateur.tasks.sources import load_problems

LAUNCH = "configs/accelerate/cpu.yaml"
JUDGE_CONFIGS = {
    own_states.KIND.name: "judge_own_states.yaml",
    linear.KIND.name: "judge_linear.yaml",
    pairwise.KIND.name: "judge_pairwise.yaml",
}


@dataclass(frozen=True)
class Course:
    """What a whole run is of.

    name: what `make NAME` calls it, and the folder of its files under configs/.
    base: the folder of the model that it prunes.
    benchmark: what its `single.yaml` calls the problems.
    minutes: how long it took on two CPU cores that did nothing else, without the control.
    judge_seeds: of the judges of each model.
    before: what makes the base model; `files`: what these stages read in the folder of configs.
    keys: script → its keys for this run, over its file.
    """

    name: str
    base: str
    benchmark: str
    minutes: int
    judge_seeds: tuple[int, ...] | None = None  # None: one judge, with the seed of the run
    before: tuple[Stage, ...] = ()
    files: tuple[str, ...] = ()
    keys: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)

    @property
    def configs(self) -> str:
        return f"configs/{self.name}"


@dataclass
class WholeRunConfig:
    """output_dir: gets everything. seed: of training, sampling and problems. judge: which kind of judge is trained.
    control: also train without a binding limit, and take that model into every table: what the limit itself does
    (slow). A run that was made without it is gone on with."""

    output_dir: str
    seed: int = 0
    judge: Literal[tuple(JUDGE_CONFIGS)] = own_states.KIND.name
    control: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"key 'seed' has the value {self.seed}; give 0 or more")


class WholeRun:
    """The stages, where their results lie, and what is made of them."""

    def __init__(self, config: WholeRunConfig, course: Course) -> None:
        self.config, self.course = config, course
        self.out = folder_of(config)
        self.models = {"base": course.base, "pruned": str(self.out / "thinkprune" / "final")}
        if config.control:
            self.models["control"] = str(self.out / "control" / "final")
        self.judges = {model: self._judge_folders(model) for model in self.models}
        self.combined = self.out / "combined" / config.judge

    def _judge_folders(self, model: str) -> dict[int, Path]:
        """Seed → folder of the judges of a model."""
        folder = self.out / "judges" / self.config.judge / model
        seeds = self.course.judge_seeds
        return {self.config.seed: folder} if seeds is None else {seed: folder / f"seed-{seed}" for seed in seeds}

    @property
    def first_judges(self) -> dict[str, Path]:
        """Model → folder of the judge that the report shows."""
        return {model: next(iter(folders.values())) for model, folders in self.judges.items()}

    def claim_folder(self) -> None:
        """Raises `InputError`, and changes nothing, if the folder holds another demo or something else."""
        name, path, mine = self.course.name, self.out / f"{self.course.name}.json", self._inputs()
        if not path.is_file():
            if self.out.is_dir() and any(self.out.glob("[!.]*")):
                raise InputError(
                    f"{self.out}: not empty and no run of make {name}; choose another folder (make {name} OUT=…)"
                )
            write_json(path, {"seed": self.config.seed, "inputs": mine})
            return
        found = read_json(path)
        if found["seed"] != self.config.seed:
            raise InputError(
                f"{self.out}: holds the run with seed {found['seed']}, this one has seed {self.config.seed}; choose "
                f"another folder (make {name} SEED={self.config.seed} OUT=outputs/{name}-seed-{self.config.seed})"
            )
        for changed, fingerprint in mine.items():
            if found["inputs"].get(changed, fingerprint) != fingerprint:
                raise InputError(
                    f"{self.out}: was begun with another {changed}; choose another folder (make {name} OUT=…), "
                    "or restore it"
                )
        if not mine.keys() <= found["inputs"].keys():  # another judge, or the control, joins the same run
            write_json(path, {"seed": self.config.seed, "inputs": found["inputs"] | mine})

    def _inputs(self) -> dict[str, str]:
        """A fingerprint of every config file that the run starts from, and of a model that is there before it."""
        names = ["thinkprune.yaml", "single.yaml", "collect_judge_traces.yaml", "combined.yaml"]
        names += [JUDGE_CONFIGS[self.config.judge], *(["control.yaml"] if self.config.control else [])]
        names += self.course.files
        base = self.course.base
        prints = {} if self.course.before else {base: model_fingerprint(REPOSITORY / base)}
        for name in names:
            values = json.dumps(read_yaml(REPOSITORY / self.course.configs / name), sort_keys=True)  # no comments
            prints[f"{self.course.configs}/{name}"] = hashlib.sha256(values.encode()).hexdigest()[:16]
        return prints

    def stages(self) -> list[Stage]:
        """What the control adds has stages of its own, or goes on in the folder of a stage that names all models."""
        first = [self._thinkprune("thinkprune", "Length pruning: rounds of GRPO with tighter limits")]
        judges = self._judge_stages("", "Redundancy pruning: a judge for each model", "base", "pruned")
        if self.config.control:
            first.append(self._thinkprune("control", "Control: the same training without a binding limit"))
            judges += self._judge_stages("-control", "A judge for the control", "control")
        return [*self.course.before, *first, self._single(), self._collect(), *judges, self._combine()]

    def _thinkprune(self, name: str, title: str) -> Stage:
        launch = ["--accelerate_config", LAUNCH]
        arguments = self._arguments(
            "schedules/run.py", f"{name}.yaml", self.out / name, "--model", self.models["base"]
        )
        return Stage(name, title, {name: python("schedules/run.py", *arguments, *launch)})

    def _single(self) -> Stage:
        command = self._of_all_models("eval/single.py", "single.yaml", "single")
        return Stage("single", "Accuracy and length before and after", {"single": command})

    def _collect(self) -> Stage:
        command = self._of_all_models("eval/collect_traces.py", "collect_judge_traces.yaml", "traces")
        return Stage("collect", "Traces for the judges", {"collect": command})

    def _judge_stages(self, suffix: str, title: str, *models: str) -> list[Stage]:
        """One for each seed."""
        seeds = self.course.judge_seeds or (self.config.seed,)
        stages = []
        for seed in seeds:
            several = f" (seed {seed})" if len(seeds) > 1 else ""
            ending = f"-seed-{seed}{suffix}" if len(seeds) > 1 else suffix
            commands = {name: self._judge(name, seed) for name in models}
            stages.append(Stage(f"judge-{self.config.judge}{ending}", f"{title}{several}", commands))
        return stages

    def _judge(self, model: str, seed: int) -> list[str]:
        splits = [
            part
            for split in ("train", "dev", "test")
            for part in (f"--{split}", str(self.out / "traces" / model / split))
        ]
        arguments = self._arguments(
            "trainers/judge.py", JUDGE_CONFIGS[self.config.judge], self.judges[model][seed], "--model",
            self.models[model], *splits, seed=seed,
        )  # fmt: skip
        return python("trainers/judge.py", *arguments)

    def _combine(self) -> Stage:
        judges = ", ".join(
            f"{name}: [{', '.join(str(folder) for folder in folders.values())}, random]"
            for name, folders in self.judges.items()
        )
        place = f"combined/{self.config.judge}"
        command = self._of_all_models("eval/combined.py", "combined.yaml", place, "--judges", f"{{{judges}}}")
        title = "Both together: every method on every model"
        return Stage(f"combined-{self.config.judge}", title, {"combined": command})

    def _of_all_models(self, script: str, config: str, folder: str, *arguments: str) -> list[str]:
        models = ["--models", flow_mapping(self.models)]
        return launched(LAUNCH, script, *self._arguments(script, config, self.out / folder, *models, *arguments))

    def _arguments(self, script: str, config: str, folder: Path, *more: str, seed: int | None = None) -> list[str]:
        seed = self.config.seed if seed is None else seed
        into = ["--output_dir", str(folder), "--seed", str(seed)]
        return [
            "--config",
            f"{self.course.configs}/{config}",
            *more,
            *into,
            *overrides(self.course.keys.get(script, {})),
        ]

    def run(self) -> None:
        """Run what is missing, write summary.json and report.html, print the table."""
        self.claim_folder()
        runner, stages = StageRunner(self.out), self.stages()
        todo = [stage for stage in stages if not runner.is_done(stage)]
        self.announce(len(stages), len(todo))
        for stage in todo:
            runner.run(stage, f"[{stages.index(stage) + 1}/{len(stages)}]")
        table = read_table(self.combined)
        summary = self.summary(runner, table)
        write_run_summary(self.out, summary)
        self._report(summary)
        if not todo:
            say("all is done")
            print_results(table, console)
        show_summary(summary)
        say_end(self.out / "report.html", self.next_command())

    def announce(self, stages: int, todo: int) -> None:
        """What, how long and where, before it begins."""
        done = f", {stages - todo} of them done" if todo < stages else ""
        longer = "; the control takes about as long again" if self.config.control else ""
        whole = f"about {self.course.minutes} minutes in all on two CPU cores"
        say(f"[bold]make {self.course.name}[/bold]: {stages} stages{done}; {whole}{longer}")
        say(f"everything goes to {escape(str(self.out))}; if it is interrupted, the same command goes on")

    def next_command(self) -> str:
        """A first question to the pruned model, sampled as in the table."""
        keys = read_yaml(REPOSITORY / self.course.configs / "combined.yaml")
        sampling = {key: keys[key] for key in ("prompt_family", "temperature", "top_p", "max_tokens", "dtype")}
        problem = load_problems(keys["problems"], 1, self.config.seed)[0].problem
        asked = {"model": self.models["pruned"], "n": 16, **sampling, "problem": problem}
        return written(asked, program=os.path.relpath(Path(sys.executable).with_name("secateur")))

    def summary(self, runner: StageRunner, table: Table) -> RunSummary:
        measured = read_summary(self.out / "single").models
        models = {name: benchmarks[self.course.benchmark] for name, benchmarks in measured.items()}
        judges = {
            name: [judge_summary(read_metrics(folder)) for folder in folders.values()]
            for name, folders in self.judges.items()
        }
        wall = runner.wall_seconds(self.stages())
        return RunSummary(
            seed=self.config.seed,
            base=models["base"],
            pruned=models["pruned"],
            rounds=self._rounds(),
            judge=judges["base"][0],
            judge_of_pruned=judges["pruned"][0],
            more_judges=tuple(judges["base"][1:]),
            combined=TablePart(table.rows, table.differences, table.live_equals_replay),
            wall_s=wall | {"total": round(sum(wall.values()), 1)},
            peak_memory_gib=runner.peak_memory(self.stages()),
            control=beside_the_control(models) if self.config.control else None,
            judge_of_control=judges["control"][0] if self.config.control else None,
        )

    def _rounds(self) -> tuple[RunRound, ...]:
        finished = finished_rounds(self.out / "thinkprune")
        return tuple(RunRound(round=one.folder.name, **vars(one.selection)) for one in finished)

    def _report(self, summary: RunSummary) -> None:
        inputs = ReportInputs(
            combined=self.combined,
            thinkprune=self.out / "thinkprune",
            judges=self.first_judges,
            lengths=held_out_lengths(self.out, self.models),
            one_trace=summary.one_trace,
            wall_s=summary.wall_s,
        )
        write_report(inputs, self.out / "report.html")


def folder_of(config: WholeRunConfig) -> Path:
    """A path that is relative to the repository stays relative, so that the folder can move with the checkout."""
    return Path(config.output_dir) if Path.cwd() == REPOSITORY else Path(config.output_dir).absolute()


def overrides(keys: Mapping[str, JSON]) -> list[str]:
    """Keys as a command line has them.

    >>> overrides({"limits": [80, 60]})
    ['--limits', '[80, 60]']
    """
    return [part for key, value in keys.items() for part in (f"--{key}", json.dumps(value))]


def flow_mapping(values: dict[str, str]) -> str:
    """A mapping on one line of YAML.

    >>> flow_mapping({"base": "a/b"})
    '{"base": "a/b"}'
    """
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in values.items()) + "}"


def start(run: WholeRun) -> None:
    end_children_on_signals()
    with hold_folder(run.out):
        run.run()
