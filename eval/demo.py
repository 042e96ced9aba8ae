"""`make demo`: length and redundancy pruning end to end on the embedded model, one table, one report.

    python eval/demo.py --output_dir outputs/demo --seed 0 --judge linear_own_states --control false

Every stage is a command that a user could type, run as a child process. The demo can be killed and started again at
any time; what is done is passed over.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.markup import escape

from eval.one_model.figures import ModelFigures
from eval.one_model.report import read_summary
from eval.report.cards import OneTrace
from eval.report.page import ReportInputs, write_report
from eval.stages import REPOSITORY, Stage, StageRunner, end_children_on_signals, launched, python
from eval.table.terminal import print_results
from schedules.records import SelectionRecord, finished_rounds
from secateur.deepprune.judges.kinds import linear, own_states, pairwise
from secateur.deepprune.judges.record import JudgeMetrics, read_metrics
from secateur.engines.models import model_fingerprint
from secateur.engines.trace_folder import read_trace_folder
from secateur.results import Difference, LiveEquality, Row, Table, read_table
from secateur.runtime.config import parse_config, read_yaml
from secateur.runtime.console import console, say
from secateur.runtime.errors import InputError
from secateur.runtime.files import hold_folder, read_json, write_json
from secateur.runtime.process import entry_point
from secateur.runtime.records import read_record, write_record
from secateur.runtime.statistics import Bounds

CONFIGS = "configs/demo"
LAUNCH = "configs/accelerate/cpu.yaml"
BASE_MODEL = "trainers/embedded_model"
_JUDGE_CONFIGS = {
    own_states.KIND.name: "judge_own_states.yaml",
    linear.KIND.name: "judge_linear.yaml",
    pairwise.KIND.name: "judge_pairwise.yaml",
}
_BENCHMARK = "arithmetic"  # what configs/demo/single.yaml calls its problems
SUMMARY_FILE = "summary.json"
_FORMAT = 1


@dataclass
class DemoConfig:
    """output_dir: gets everything. seed: of training, sampling and problems. judge: which kind of judge is trained.
    control: also train without a binding limit, and take that model into every table: what the limit itself does
    (slow). A demo that was made without it is gone on with."""

    output_dir: str = "outputs/demo"
    seed: int = 0
    judge: Literal[tuple(_JUDGE_CONFIGS)] = own_states.KIND.name
    control: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"key 'seed' has the value {self.seed}; give 0 or more")


@dataclass(frozen=True)
class UnfinishedPairs:
    """The pairs of which no cut is a whole trace; the figures are None where one of the labels is missing."""

    auroc: float | None
    auroc_ci95: Bounds | None
    pairs: int


@dataclass(frozen=True)
class JudgeSummary:
    """What the summary says of a judge: its own figures, as in `JudgeMetrics`, and the AUROC of each baseline."""

    kind: str
    auroc: float | None
    auroc_ci95: Bounds | None
    auroc_unseen_groups: float | None
    auroc_unseen_groups_ci95: Bounds | None
    tnr_at_fnr20: float | None
    pairs: int
    problems: int
    same_answer_share: float | None
    unfinished: UnfinishedPairs
    whole_cut_share: float
    median_cut_share: float
    baselines: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ControlFigures(ModelFigures):
    """The model that was trained without a binding limit; what the limits shortened (shares 0-1) beyond what its
    training did: `limits_own_share` of the shortening with limits."""

    shortening_with_limits: float
    shortening_without: float
    limits_own_share: float


@dataclass(frozen=True, kw_only=True)
class DemoRound(SelectionRecord):
    """The choice of the round whose folder has the name `round`."""

    round: str


@dataclass(frozen=True)
class TablePart:
    """What the summary has of combined.json."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    live_equals_replay: LiveEquality | None


@dataclass(frozen=True)
class DemoSummary:
    """All of summary.json: figures of single traces, `rounds` with their choices, the judge of each model, the
    table; `wall_s`: stage → seconds, and the "total"; the most memory of a stage [GiB]. The last two are None for a
    demo without the control."""

    seed: int
    base: ModelFigures
    pruned: ModelFigures
    rounds: tuple[DemoRound, ...]
    judge: JudgeSummary
    judge_of_pruned: JudgeSummary
    combined: TablePart
    wall_s: Mapping[str, float]
    peak_memory_gib: float
    control: ControlFigures | None = None
    judge_of_control: JudgeSummary | None = None

    @property
    def one_trace(self) -> dict[str, OneTrace]:
        """Model → what the report says of its single traces."""
        models = {"base": self.base, "pruned": self.pruned, "control": self.control}
        return {name: OneTrace(one.pass_at_1, one.mean_tokens) for name, one in models.items() if one is not None}


def write_demo_summary(folder: str | Path, summary: DemoSummary) -> None:
    """Replace `<folder>/summary.json`."""
    write_record(Path(folder) / SUMMARY_FILE, summary, _FORMAT)


def read_demo_summary(folder: str | Path) -> DemoSummary:
    """Raises `InputError` for a folder without summary.json, or with one of another format."""
    return read_record(Path(folder) / SUMMARY_FILE, DemoSummary, _FORMAT, "start make demo again with the same OUT")


class Demo:
    """The stages, where their results lie, and what is made of them."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        # A relative path stays relative, so that the folder can move with the checkout.
        self.out = Path(config.output_dir) if Path.cwd() == REPOSITORY else Path(config.output_dir).absolute()
        self.models = {"base": BASE_MODEL, "pruned": str(self.out / "thinkprune" / "final")}
        if config.control:
            self.models["control"] = str(self.out / "control" / "final")
        self.judges = {model: self.out / "judges" / config.judge / model for model in self.models}
        self.combined = self.out / "combined" / config.judge

    def claim_folder(self) -> None:
        """Raises `InputError`, and changes nothing, if the folder holds another demo or something else."""
        path, mine = self.out / "demo.json", self._inputs()
        if not path.is_file():
            if self.out.is_dir() and any(self.out.glob("[!.]*")):
                raise InputError(
                    f"{self.out}: not empty and no demo of ours; choose another folder (make demo OUT=…)"
                )
            write_json(path, {"seed": self.config.seed, "inputs": mine})
            return
        found = read_json(path)
        if found["seed"] != self.config.seed:
            raise InputError(
                f"{self.out}: holds the demo with seed {found['seed']}, this one has seed {self.config.seed}; choose "
                f"another folder (make demo SEED={self.config.seed} OUT=outputs/demo-seed-{self.config.seed})"
            )
        for name, fingerprint in mine.items():
            if found["inputs"].get(name, fingerprint) != fingerprint:
                raise InputError(
                    f"{self.out}: was begun with another {name}; choose another folder (make demo OUT=…), "
                    "or restore it"
                )
        if not mine.keys() <= found["inputs"].keys():  # another judge, or the control, joins the same demo
            write_json(path, {"seed": self.config.seed, "inputs": found["inputs"] | mine})

    def _inputs(self) -> dict[str, str]:
        """A fingerprint of the model and of every config file that the demo starts from."""
        names = ["thinkprune.yaml", "single.yaml", "collect_judge_traces.yaml", "combined.yaml"]
        names += [_JUDGE_CONFIGS[self.config.judge], *(["control.yaml"] if self.config.control else [])]
        prints = {BASE_MODEL: model_fingerprint(REPOSITORY / BASE_MODEL)}
        for name in names:
            values = json.dumps(read_yaml(REPOSITORY / CONFIGS / name), sort_keys=True)  # comments change nothing
            prints[f"{CONFIGS}/{name}"] = hashlib.sha256(values.encode()).hexdigest()[:16]
        return prints

    def stages(self) -> list[Stage]:
        """What the control adds has stages of its own, or goes on in the folder of a stage that names all models."""
        first = [self._thinkprune("thinkprune", "Length pruning: three rounds of GRPO with tighter limits")]
        judges = [self._judge("", "Redundancy pruning: a judge for each model", "base", "pruned")]
        if self.config.control:
            first.append(self._thinkprune("control", "Control: the same training without a binding limit"))
            judges.append(self._judge("-control", "A judge for the control", "control"))
        return [*first, self._single(), self._collect(), *judges, self._combine()]

    def _thinkprune(self, name: str, title: str) -> Stage:
        arguments = ["--config", f"{CONFIGS}/{name}.yaml", "--accelerate_config", LAUNCH]
        return Stage(name, title, {name: python("schedules/run.py", *arguments, *self._into(self.out / name))})

    def _single(self) -> Stage:
        command = self._of_all_models("eval/single.py", "single.yaml", "single")
        return Stage("single", "Accuracy and length before and after", {"single": command})

    def _collect(self) -> Stage:
        command = self._of_all_models("eval/collect_traces.py", "collect_judge_traces.yaml", "traces")
        return Stage("collect", "Traces for the judges", {"collect": command})

    def _judge(self, suffix: str, title: str, *models: str) -> Stage:
        commands = {}
        for name in models:
            arguments = ["--config", f"{CONFIGS}/{_JUDGE_CONFIGS[self.config.judge]}", "--model", self.models[name]]
            for split in ("train", "dev", "test"):
                arguments += [f"--{split}", str(self.out / "traces" / name / split)]
            commands[name] = python("trainers/judge.py", *arguments, *self._into(self.judges[name]))
        return Stage(f"judge-{self.config.judge}{suffix}", title, commands)

    def _combine(self) -> Stage:
        judges = ", ".join(f"{name}: [{folder}, random]" for name, folder in self.judges.items())
        place = f"combined/{self.config.judge}"
        command = self._of_all_models("eval/combined.py", "combined.yaml", place, "--judges", f"{{{judges}}}")
        title = "Both together: every method on every model"
        return Stage(f"combined-{self.config.judge}", title, {"combined": command})

    def _of_all_models(self, script: str, config: str, folder: str, *arguments: str) -> list[str]:
        models = ["--models", flow_mapping(self.models)]
        return launched(
            LAUNCH, script, "--config", f"{CONFIGS}/{config}", *models, *arguments, *self._into(self.out / folder)
        )

    def _into(self, folder: Path) -> list[str]:
        return ["--output_dir", str(folder), "--seed", str(self.config.seed)]

    def run(self) -> None:
        """Run what is missing, write summary.json and report.html, print the table."""
        self.claim_folder()
        runner, stages = StageRunner(self.out), self.stages()
        todo = [stage for stage in stages if not runner.is_done(stage)]
        for stage in todo:
            runner.run(stage, f"[{stages.index(stage) + 1}/{len(stages)}]")
        table = read_table(self.combined)
        summary = self.summary(runner, table)
        write_demo_summary(self.out, summary)
        self._report(summary)
        if not todo:
            say("all is done")
            print_results(table, console)
        show_summary(summary)
        say(f"report: [bold]{escape(str(self.out / 'report.html'))}[/bold]")

    def summary(self, runner: StageRunner, table: Table) -> DemoSummary:
        measured = read_summary(self.out / "single").models
        models = {name: benchmarks[_BENCHMARK] for name, benchmarks in measured.items()}
        judges = {name: judge_summary(read_metrics(folder)) for name, folder in self.judges.items()}
        wall = runner.wall_seconds(self.stages())
        return DemoSummary(
            seed=self.config.seed,
            base=models["base"],
            pruned=models["pruned"],
            rounds=self._rounds(),
            judge=judges["base"],
            judge_of_pruned=judges["pruned"],
            combined=TablePart(table.rows, table.differences, table.live_equals_replay),
            wall_s=wall | {"total": round(sum(wall.values()), 1)},
            peak_memory_gib=runner.peak_memory(self.stages()),
            control=beside_the_control(models) if self.config.control else None,
            judge_of_control=judges.get("control"),
        )

    def _rounds(self) -> tuple[DemoRound, ...]:
        finished = finished_rounds(self.out / "thinkprune")
        return tuple(DemoRound(round=one.folder.name, **vars(one.selection)) for one in finished)

    def _report(self, summary: DemoSummary) -> None:
        lengths = {}
        for name in self.models:
            entries = read_trace_folder(self.out / "single" / name / _BENCHMARK)
            lengths[name] = [stored.trace.n_tokens for entry in entries for stored in entry.traces]
        inputs = ReportInputs(
            combined=self.combined,
            thinkprune=self.out / "thinkprune",
            judges=self.judges,
            lengths=lengths,
            one_trace=summary.one_trace,
            wall_s=summary.wall_s,
        )
        write_report(inputs, self.out / "report.html")


def flow_mapping(values: dict[str, str]) -> str:
    """A mapping on one line of YAML.

    >>> flow_mapping({"base": "a/b"})
    '{"base": "a/b"}'
    """
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in values.items()) + "}"


def judge_summary(metrics: JudgeMetrics) -> JudgeSummary:
    part = metrics.unfinished
    return JudgeSummary(
        kind=metrics.kind,
        auroc=metrics.auroc,
        auroc_ci95=metrics.auroc_ci95,
        auroc_unseen_groups=metrics.auroc_unseen_groups,
        auroc_unseen_groups_ci95=metrics.auroc_unseen_groups_ci95,
        tnr_at_fnr20=metrics.tnr_at_fnr20,
        pairs=metrics.pairs,
        problems=metrics.problems,
        same_answer_share=metrics.same_answer_share,
        unfinished=UnfinishedPairs(part.auroc, part.auroc_ci95, part.pairs),
        whole_cut_share=metrics.whole_cut_share,
        median_cut_share=metrics.median_cut_share,
        baselines={name: baseline.auroc for name, baseline in metrics.baselines.items()},
    )


def beside_the_control(models: Mapping[str, ModelFigures]) -> ControlFigures:
    """`models`: base, pruned and control."""
    base, pruned, control = (models[name].mean_tokens for name in ("base", "pruned", "control"))
    return ControlFigures(
        **vars(models["control"]),
        shortening_with_limits=1 - pruned / base,
        shortening_without=1 - control / base,
        limits_own_share=(control - pruned) / (base - pruned) if base != pruned else 0.0,
    )


def show_summary(summary: DemoSummary) -> None:
    base, pruned, control = summary.base, summary.pruned, summary.control
    console.print(
        f"\nlength pruning: {base.mean_tokens:.1f} → {pruned.mean_tokens:.1f} tokens per trace "
        f"({pruned.mean_tokens / base.mean_tokens - 1:+.1%}), pass@1 {base.pass_at_1:.3f} → "
        f"{pruned.pass_at_1:.3f}, {base.problems} problems × {base.samples}"
    )
    if control is not None:
        console.print(
            f"control without a binding limit: {control.mean_tokens:.1f} tokens, pass@1 "
            f"{control.pass_at_1:.3f}; the limits' own share of the shortening: {control.limits_own_share:.0%}"
        )
    show_judge(summary.judge)
    wall, memory = summary.wall_s["total"], summary.peak_memory_gib
    console.print(f"wall time {wall / 60:.1f} min, at most {memory:.1f} GiB of memory", style="dim")


def show_judge(judge: JudgeSummary) -> None:
    rivals = ", ".join(f"{name} {value:.3f}" for name, value in judge.baselines.items() if value is not None)
    console.print(f"judge: AUROC {_with_interval(judge.auroc, judge.auroc_ci95)}; {rivals}")
    if judge.auroc_unseen_groups is not None:
        unseen = _with_interval(judge.auroc_unseen_groups, judge.auroc_unseen_groups_ci95)
        console.print(f"judge on rules its training never saw: AUROC {unseen}")


def _with_interval(value: float, bounds: Bounds) -> str:
    low, high = bounds
    return f"{value:.3f} (95 % CI {low:.3f}–{high:.3f})"


@entry_point
def main() -> None:
    end_children_on_signals()
    demo = Demo(parse_config(DemoConfig))
    with hold_folder(demo.out):
        demo.run()


if __name__ == "__main__":
    main()
