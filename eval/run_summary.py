"""summary.json of a whole run: its records, how they are made, and what the terminal says of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.one_model.figures import ModelFigures
from eval.one_model.report import read_summary
from eval.report.cards import OneTrace
from schedules.records import SelectionRecord
from secateur.deepprune.judges.record import JudgeMetrics, WithinProblems, worth_words
from secateur.engines.trace_folder import read_trace_folder
from secateur.results import Difference, LiveEquality, Row
from secateur.runtime.console import console
from secateur.runtime.records import read_record, write_record
from secateur.runtime.statistics import Bounds

SUMMARY_FILE = "summary.json"
_FORMAT = 2


@dataclass(frozen=True)
class UnfinishedPairs:
    """The pairs of which no cut is a whole trace; the figures are None where one of the labels is missing."""

    auroc: float | None
    auroc_ci95: Bounds | None
    pairs: int


@dataclass(frozen=True)
class JudgeSummary:
    """What the summary says of a judge: its own figures, as in `JudgeMetrics`, the AUROC of each baseline, and what
    it is worth in words."""

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
    within: WithinProblems
    worth: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ControlFigures(ModelFigures):
    """The model that was trained without a binding limit; what the limits shortened (shares 0-1) beyond what its
    training did: `limits_own_share` of the shortening with limits."""

    shortening_with_limits: float
    shortening_without: float
    limits_own_share: float


@dataclass(frozen=True, kw_only=True)
class RunRound(SelectionRecord):
    """The choice of the round whose folder has the name `round`."""

    round: str


@dataclass(frozen=True)
class TablePart:
    """What the summary has of combined.json."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    live_equals_replay: LiveEquality | None


@dataclass(frozen=True)
class RunSummary:
    """All of summary.json: figures of single traces, `rounds` with their choices, the judge of each model, the
    table; `wall_s`: stage → seconds, and the "total"; the most memory of a stage [GiB]; `more_judges`: those of the
    base model with further seeds. The figures of the control are None for a run without it."""

    seed: int
    base: ModelFigures
    pruned: ModelFigures
    rounds: tuple[RunRound, ...]
    judge: JudgeSummary
    judge_of_pruned: JudgeSummary
    combined: TablePart
    wall_s: Mapping[str, float]
    peak_memory_gib: float
    more_judges: tuple[JudgeSummary, ...] = ()
    control: ControlFigures | None = None
    judge_of_control: JudgeSummary | None = None

    @property
    def one_trace(self) -> dict[str, OneTrace]:
        """Model → what the report says of its single traces."""
        models = {"base": self.base, "pruned": self.pruned, "control": self.control}
        return {name: OneTrace(one.pass_at_1, one.mean_tokens) for name, one in models.items() if one is not None}


def write_run_summary(folder: str | Path, summary: RunSummary) -> None:
    """Replace `<folder>/summary.json`."""
    write_record(Path(folder) / SUMMARY_FILE, summary, _FORMAT)


def read_run_summary(folder: str | Path) -> RunSummary:
    """Raises `InputError` for a folder without summary.json, or with one of another format."""
    return read_record(Path(folder) / SUMMARY_FILE, RunSummary, _FORMAT, "start the same command again")


def held_out_lengths(folder: str | Path, models: Iterable[str]) -> dict[str, list[int]]:
    """Model → lengths [tokens] of its single traces on held-out problems, of a whole run in `folder`."""
    single = Path(folder) / "single"
    benchmarks = {name: next(iter(parts)) for name, parts in read_summary(single).models.items()}
    stored = {name: read_trace_folder(single / name / benchmarks[name]) for name in models}
    return {name: [one.trace.n_tokens for entry in found for one in entry.traces] for name, found in stored.items()}


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
        within=metrics.auroc_within_problems,
        worth=tuple(worth_words(metrics)),
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


def show_summary(summary: RunSummary) -> None:
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
    for judge in (summary.judge, *summary.more_judges):
        show_judge(judge)
    wall, memory = summary.wall_s["total"], summary.peak_memory_gib
    console.print(f"wall time {wall / 60:.1f} min, at most {memory:.1f} GiB of memory", style="dim")


def show_judge(judge: JudgeSummary) -> None:
    rivals = ", ".join(f"{name} {value:.3f}" for name, value in judge.baselines.items() if value is not None)
    console.print(f"judge: AUROC {_with_interval(judge.auroc, judge.auroc_ci95)}; {rivals}")
    if judge.auroc_unseen_groups is not None:
        unseen = _with_interval(judge.auroc_unseen_groups, judge.auroc_unseen_groups_ci95)
        console.print(f"judge on groups of problems its training never saw: AUROC {unseen}")
    for sentence in judge.worth:
        console.print(f"  {sentence}", markup=False)


def _with_interval(value: float, bounds: Bounds) -> str:
    low, high = bounds
    return f"{value:.3f} (95 % CI {low:.3f}–{high:.3f})"
